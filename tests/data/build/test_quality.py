"""The quality filter: its features, its minimum, its draws, and what it drops."""

import zlib

import numpy as np
import pytest
from scipy.optimize import brentq

from gpt_jax.config import InputError
from gpt_jax.data.build.quality import (
    Classifier,
    features,
    fit,
    keep,
    pareto,
    share_kept,
    train,
)
from gpt_jax.data.build.sample import uniform
from gpt_jax.data.recipe import Quality
from gpt_jax.data.sources import Document

PROSE = "the model of language is trained on text and learns to tell what a reader would read"
QUALITY = Quality(num_features=1 << 12)


def prose(random: np.random.Generator, count: int) -> list[str]:
    """Documents of words as people write them."""
    return [" ".join(random.choice(PROSE.split(), random.integers(20, 200))) for _ in range(count)]


def junk(random: np.random.Generator, count: int) -> list[str]:
    """Documents of random letters."""
    words = ["".join(random.choice([*"abcdefghijklmnop"], 4)) for _ in range(3000)]
    return [" ".join(random.choice(words, random.integers(20, 200))) for _ in range(count)]


def test_features_are_the_counts_of_hashed_words():
    texts = ["The cat the\tCAT the\n", "", "caf\u00e9"]
    found = features(texts, 1000).toarray()
    expected = np.zeros((3, 1000))
    expected[0, zlib.crc32(b"the") % 1000] = 3 / np.sqrt(13)
    expected[0, zlib.crc32(b"cat") % 1000] = 2 / np.sqrt(13)
    expected[2, zlib.crc32("caf\u00e9".encode()) % 1000] = 1
    np.testing.assert_allclose(found, expected, rtol=1e-15)
    assert zlib.crc32(b"123456789") == 0xCBF43926  # the check value of the standard


def test_words_of_one_bucket_are_added():
    np.testing.assert_allclose(features(["a b c"], 1).toarray(), [[1.0]])


def test_the_minimum_of_two_words_is_the_closed_form():
    """Reference is always "yes", raw "no": w is (a, -a), b is 0, and a = D / 2 sigmoid(-a)."""
    for documents in (2, 40):
        texts = ["yes"] * (documents // 2) + ["no"] * (documents // 2)
        found = fit(features(texts, 64), np.arange(documents) < documents // 2)
        a = brentq(lambda a, d=documents: a - d / 2 / (1 + np.exp(a)), 0, 100)
        yes, no = zlib.crc32(b"yes") % 64, zlib.crc32(b"no") % 64
        # A gradient of 1e-6 is a distance of up to 1e-6 times D from the minimum.
        assert found.weights[yes] == pytest.approx(a, abs=1e-4)
        assert found.weights[no] == pytest.approx(-a, abs=1e-4)
        assert found.bias == pytest.approx(0, abs=1e-4)
        assert np.count_nonzero(found.weights) == 2


def test_at_the_minimum_the_gradient_is_zero():
    """By loops over documents and words, with kinds of different sizes."""
    random = np.random.default_rng(0)
    texts = [*prose(random, 30), *junk(random, 10), *prose(random, 5)]
    is_reference = np.array([True] * 30 + [False] * 15)
    matrix = features(texts, 256).toarray()
    found = fit(features(texts, 256), is_reference)
    gradient = np.append(found.weights / 45, 0.0)
    for row, good in zip(matrix, is_reference, strict=True):
        margin = sum(w * x for w, x in zip(found.weights, row, strict=True)) + found.bias
        score = 1 / (1 + np.exp(-margin))
        share = 0.5 / (30 if good else 15)
        gradient += share * (score - good) * np.append(row, 1.0)
    assert np.abs(gradient).max() < 2e-6
    np.testing.assert_allclose(found.scores(texts)[-1], score, rtol=1e-12)


def test_junk_is_dropped_and_prose_is_kept():
    random = np.random.default_rng(1)
    trained = train(prose(random, 200), [*junk(random, 150), *prose(random, 50)], QUALITY)
    assert trained.accuracy > 0.8
    assert (trained.reference_documents, trained.raw_documents) == (200, 200)
    texts = [*prose(random, 300), *junk(random, 300)]
    documents = [Document(f"{i}", text) for i, text in enumerate(texts)]
    scores = trained.classifier.scores(texts)
    mask = keep(documents, scores, 9.0, 0, "web")
    assert mask[:300].mean() > 10 * mask[300:].mean()
    assert mask[300:].mean() < 0.02
    probability = share_kept(scores, 9.0)
    of_prose, of_junk = probability[:300].mean(), probability[300:].mean()
    assert trained.share_kept == pytest.approx(of_prose / 4 + of_junk * 3 / 4, rel=0.2)
    for side in (slice(300), slice(300, None)):
        expected, spread = probability[side].sum(), (probability * (1 - probability))[side].sum()
        assert abs(mask[side].sum() - expected) < 4 * np.sqrt(spread)


def test_a_mask_does_not_depend_on_the_parts():
    random = np.random.default_rng(2)
    trained = train(prose(random, 20), junk(random, 20), QUALITY)
    texts = [*prose(random, 40), *junk(random, 40)]
    documents = [Document(f"{i}", text) for i, text in enumerate(texts)]

    def mask(part, **changed):
        scores = trained.classifier.scores([document.text for document in part])
        return keep(part, scores, **{"alpha": 0.5, "seed": 0, "source": "web", **changed}).tolist()

    whole = mask(documents)
    assert [kept for i in range(0, 80, 7) for kept in mask(documents[i : i + 7])] == whole
    assert mask(documents[::-1]) == whole[::-1]
    assert mask(documents, seed=1) != whole
    assert mask(documents, source="books") != whole


@pytest.mark.parametrize("alpha", [0.5, 9.0])
def test_draws_have_the_distribution_of_numpys_pareto(alpha):
    """Kolmogorov-Smirnov against 1 - (1 + x)^-alpha; chance exceeds 1.95 / sqrt(n) in 0.1 %."""
    count = 20_000
    documents = [Document(f"{i}", "") for i in range(count)]
    draws = pareto([uniform(0, "quality", "web", document.name) for document in documents], alpha)
    for draws_D in (draws, np.random.default_rng(0).pareto(alpha, count)):
        below = 1 - (1 + np.sort(draws_D)) ** -alpha
        assert np.abs(below - (np.arange(count) + 0.5) / count).max() < 1.95 / np.sqrt(count)
    for score in (0.0, 0.5, 0.99):
        mask = keep(documents, np.full(count, score), alpha, 0, "web")
        assert mask.tolist() == (draws > 1 - score).tolist()


def test_a_classifier_is_saved_to_the_bit(tmp_path, monkeypatch):
    random = np.random.default_rng(3)
    trained = train(prose(random, 20), junk(random, 20), QUALITY)
    trained.classifier.save(tmp_path / "a.npz")
    monkeypatch.setattr("time.time", lambda: 2e9)
    again = train(*[prose(random := np.random.default_rng(3), 20), junk(random, 20)], QUALITY)
    again.classifier.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    loaded = Classifier.load(tmp_path / "a.npz")
    assert loaded.bias == trained.classifier.bias
    assert (loaded.weights == trained.classifier.weights).all()
    (tmp_path / "a.npz").write_bytes(b"not arrays")
    with pytest.raises(InputError, match=r"cannot be read from .*a\.npz"):
        Classifier.load(tmp_path / "a.npz")


def test_too_few_documents_are_named():
    with pytest.raises(InputError, match="quality='filter' it has 9"):
        train(["text"] * 10, ["text"] * 9, QUALITY)
