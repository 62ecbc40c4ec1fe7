"""The forms that are fitted: their gradients, and that they are the published laws."""

import numpy as np
import pytest

from gpt_jax.config import InputError
from gpt_jax.scaling.forms import LAWS, form

ALL = [(law, False) for law in LAWS] + [("power_n", True), ("power_d", True), ("power_c", True)]


def some(law, irreducible):
    """A form, three vectors of constants near to what fits have, and 7 runs."""
    kind = form(law, irreducible)
    rng = np.random.default_rng(0)
    inputs = np.exp(rng.uniform(np.log(1e7), np.log(1e10), (len(kind.inputs), 7)))
    logs = np.log(inputs)
    theta = rng.uniform(0.05, 0.6, (3, len(kind.constants)))
    return kind, theta, logs - logs.mean(1, keepdims=True), logs.mean(1), inputs


@pytest.mark.parametrize(("law", "irreducible"), ALL)
def test_the_gradient_is_that_of_finite_differences(law, irreducible):
    kind, theta, x, *_ = some(law, irreducible)
    _, gradient = kind.curves(theta, x)
    for place in range(theta.shape[1]):
        step = np.zeros(theta.shape[1])
        step[place] = 1e-6
        numeric = (kind.curves(theta + step, x)[0] - kind.curves(theta - step, x)[0]) / 2e-6
        np.testing.assert_allclose(gradient[:, :, place], numeric, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("law", "irreducible"), ALL)
def test_the_form_is_the_law_of_its_published_constants(law, irreducible):
    """log L by log-sum-exp in centred logarithms, and L as the paper's formula has it."""
    kind, theta, x, center, inputs = some(law, irreducible)
    constants = kind.published(theta, center)
    for row, log_loss in zip(constants, kind.curves(theta, x)[0], strict=True):
        np.testing.assert_allclose(np.log(kind.kind(*row).loss(*inputs)), log_loss, rtol=1e-9)


def test_the_names_of_the_constants():
    assert form("chinchilla").constants == ("E", "A", "B", "a", "b")
    assert form("power_c").constants == ("C_c", "a_C")
    assert form("power_n", irreducible=True).constants == ("N_c", "a_N", "E")


def test_a_law_that_is_none():
    with pytest.raises(InputError, match="no law 'hoffman': there are chinchilla, kaplan_nd"):
        form("hoffman")
    with pytest.raises(InputError, match="and the law is kaplan_nd"):
        form("kaplan_nd", irreducible=True)


def test_the_grid_of_starts_holds_every_combination():
    """3 floors, 4 shares for each of two terms, 5 exponents for each; losses of the runs' size."""
    kind = form("chinchilla")
    starts = kind.starts(np.log([3.0, 3.0]))
    assert starts.shape == (3 * 4 * 4 * 5 * 5, 5)
    assert len(np.unique(starts, axis=0)) == len(starts)
    for law in ("chinchilla", "kaplan_nd"):
        log_loss, _ = form(law).curves(form(law).starts(np.log([3.0])), np.zeros((2, 1)))
        assert np.exp(log_loss).min() < 3 < np.exp(log_loss).max()
