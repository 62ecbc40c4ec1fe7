"""Rotations and sinusoids against NumPy in float64 and by their own laws."""

import numpy as np
import pytest

from gpt_jax.model.positions import frequencies, rotate, rotation, sinusoids


def test_angles_are_exact_far_out():
    """Place times frequency to 3e-7 at every place up to 50,000, where float32's product is not."""
    places = np.array([[0, 1, 255, 256, 257, 2047, 12345, 49999]])
    given = frequencies(20, 10000.0)
    assert np.allclose(given, [10000 ** (-i / 10) for i in range(10)], rtol=1e-15)
    cos, sin = rotation(places, 50000, given)
    angles = places[..., None] * given
    assert np.abs(cos - np.cos(angles)).max() < 3e-7
    assert np.abs(sin - np.sin(angles)).max() < 3e-7
    product = np.float32(places[..., None]) * np.float32(given)
    assert np.abs(np.sin(product) - np.sin(angles)).max() > 1e-4


def test_a_pair_is_turned_by_the_angle():
    """Written out for one head of 6 dims, 4 of them turned, at place 1 with base 100."""
    x = np.arange(1.0, 7.0, dtype="float32").reshape(1, 1, 1, 6)
    turn = rotation(np.array([[1]]), 4, frequencies(4, 100.0))
    a, b = (np.exp(1j * angle) for angle in (1.0, 0.1))
    near = [(1 + 2j) * a, (3 + 4j) * b]
    expected = [near[0].real, near[0].imag, near[1].real, near[1].imag, 5, 6]
    assert np.allclose(rotate(x, turn, interleaved=True)[0, 0, 0], expected, atol=1e-6)
    far = [(1 + 3j) * a, (2 + 4j) * b]
    expected = [far[0].real, far[1].real, far[0].imag, far[1].imag, 5, 6]
    assert np.allclose(rotate(x, turn, interleaved=False)[0, 0, 0], expected, atol=1e-6)


@pytest.mark.parametrize("interleaved", [True, False])
def test_scores_depend_on_the_distance_alone(interleaved):
    """q at m and k at n give the score of q at m + 300 and k at n + 300 (RoFormer, eq. 16)."""
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 1, 4, 2, 8)).astype("float32")
    places = np.array([[0, 3, 9, 200]])

    def scores(places):
        turn = rotation(places, 1000, frequencies(8, 10000.0))
        return np.einsum("btnh,bsnh->bnts", *(rotate(x, turn, interleaved) for x in (q, k)))

    assert np.abs(scores(places) - scores(places + 300)).max() < 1e-5
    assert np.abs(scores(places) - scores(places * 2)).max() > 0.1


def test_sinusoids_are_sines_then_cosines():
    """By hand for width 4 and base 10,000: frequencies 1 and 1 / 100."""
    table = sinusoids(np.arange(3)[None], 3, 4)[0]
    expected = [[np.sin(t), np.sin(t / 100), np.cos(t), np.cos(t / 100)] for t in range(3)]
    assert np.allclose(table, expected, atol=1e-7)
