"""The quality filter of GPT-3's appendix A: logistic regression, reference text against raw.

A document is the counts of its words, hashed to buckets (Spark's Tokenizer and HashingTF in the
paper: lower case, cut at white space). Where we differ: counts are scaled to unit length, so that a
long document is not judged by its length, and both kinds of text weigh the same, so that a score
does not depend on how much of each there was.

The minimum is unique, and L-BFGS on a sparse matrix finds it: scipy comes with jax, and
scikit-learn's LogisticRegression would call the same routine. The same sample gives the same bits
on the same kind of processor, however many cores it has.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from scipy import optimize, sparse
from threadpoolctl import threadpool_limits

from gpt_jax.config import InputError, require
from gpt_jax.data.build.sample import uniform
from gpt_jax.data.recipe import Quality
from gpt_jax.data.sources import Document

HELD_OUT = 10
"""One in so many documents of the sample is not learned from, and measures the accuracy."""
PENALTY = 1.0
"""Weight of half the squared weights, against the sum of the documents' losses: what scikit-learn
takes where it is not told."""
TOLERANCE = 1e-6
"""The gradient of the mean loss is no larger than this at the end, in any weight."""


@dataclass(frozen=True)
class Classifier:
    """Tells reference text from raw text."""

    weights: np.ndarray
    """(num_features,) float64."""
    bias: float

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """(D,) float64 in (0, 1): 1 for what is like the reference text."""
        return _sigmoid(features(texts, len(self.weights)) @ self.weights + self.bias)

    def save(self, path: Path) -> None:
        """Write an .npz file; the same classifier gives the same bytes."""
        with path.open("wb") as file:
            np.savez(file, weights=self.weights, bias=np.float64(self.bias))

    @classmethod
    def load(cls, path: Path) -> Classifier:
        """What `save` wrote; raises InputError where it is not that."""
        try:
            with np.load(path) as arrays:
                return cls(arrays["weights"], float(arrays["bias"]))
        except (OSError, ValueError, KeyError, zlib.error) as error:
            raise InputError(
                f"a quality classifier cannot be read from {path} ({error}): delete it."
            ) from error


@dataclass(frozen=True)
class Trained:
    """A classifier and what it was learned from."""

    classifier: Classifier
    reference_documents: int
    raw_documents: int
    """Learned from or measured on."""
    accuracy: float
    """On those held out: the mean of the two kinds' shares that are on their side of 0.5."""
    share_kept: float
    """Of the raw documents that were held out, what is expected to be kept."""


def features(texts: Sequence[str], num_features: int) -> sparse.csr_array:
    """(D, num_features) float64: how often words of each bucket occur, each row of length 1.

    A word's bucket is the CRC-32 of its UTF-8, modulo `num_features`. A row without words is 0.
    """
    hashes = [_word_hashes(text) for text in texts]
    buckets = np.concatenate([np.zeros(0, np.uint32), *hashes]) % np.uint32(num_features)
    ends = np.cumsum([0, *map(len, hashes)])
    found = sparse.csr_array(
        (np.ones(len(buckets)), buckets.astype(np.int32), ends), shape=(len(texts), num_features)
    )
    found.sum_duplicates()
    rows = np.repeat(np.arange(len(texts)), np.diff(found.indptr))
    squares = np.bincount(rows, found.data**2, len(texts))
    found.data /= np.sqrt(squares)[rows]
    return found


def _word_hashes(text: str) -> np.ndarray:
    """(N,) uint32, one for each word."""
    words = text.lower().encode().split()
    return np.fromiter(map(zlib.crc32, words), np.uint32, len(words))


def train(reference: Sequence[str], raw: Sequence[str], quality: Quality) -> Trained:
    """Learn to tell `reference` from `raw`: texts of a sample, in an order that does not change.

    Raises InputError where either has too few documents to hold one out.
    """
    for kind, texts in (("reference", reference), ("filter", raw)):
        require(
            len(texts) >= HELD_OUT,
            f"the quality step learns from {HELD_OUT} documents of each kind at least, and of "
            f"those with quality={kind!r} it has {len(texts)}: give more, or leave the step out.",
        )
    texts = [*reference, *raw]
    is_reference = np.arange(len(texts)) < len(reference)
    held_out = np.arange(len(texts)) % HELD_OUT == 0
    found = features(texts, quality.num_features)
    classifier = fit(found[~held_out], is_reference[~held_out])
    scores = _sigmoid(found[held_out] @ classifier.weights + classifier.bias)
    right = (scores > 0.5) == is_reference[held_out]
    sides = (right[is_reference[held_out]], right[~is_reference[held_out]])
    accuracy = float(np.mean([side.mean() for side in sides]))
    kept = float(share_kept(scores[~is_reference[held_out]], quality.alpha).mean())
    return Trained(classifier, len(reference), len(raw), accuracy, kept)


def fit(features_DF: sparse.csr_array, is_reference_D: np.ndarray) -> Classifier:
    """The weights w and the bias b that minimise

        sum_i c_i log(1 + exp(-y_i (w x_i + b))) / D + PENALTY w w / (2 D),

    where y is 1 for reference text and -1 for raw, and c gives each kind half of the weight.
    """
    documents, size = cast(tuple[int, int], features_DF.shape)
    share = np.where(is_reference_D, is_reference_D.mean(), 1 - is_reference_D.mean())
    weight_D = 0.5 / share / documents
    sign_D = np.where(is_reference_D, 1.0, -1.0)
    transposed_FD = features_DF.T.tocsr()

    def loss_and_gradient(point: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = point[:-1], point[-1]
        margin_D = sign_D * (features_DF @ weights + bias)
        slope_D = -sign_D * weight_D * _sigmoid(-margin_D)
        loss = np.sum(weight_D * np.logaddexp(0, -margin_D))
        loss += PENALTY / 2 / documents * np.sum(weights**2)
        gradient = transposed_FD @ slope_D + PENALTY / documents * weights
        return float(loss), np.append(gradient, np.sum(slope_D))

    options = {"maxiter": 1000, "ftol": 0.0, "gtol": TOLERANCE}
    with threadpool_limits(1, "blas"):  # sums of more threads are rounded otherwise, and slower
        found = optimize.minimize(
            loss_and_gradient, np.zeros(size + 1), method="L-BFGS-B", jac=True, options=options
        )
    return Classifier(found.x[:-1], float(found.x[-1]))


def keep(
    documents: Sequence[Document], scores: np.ndarray, alpha: float, seed: int, source: str
) -> np.ndarray:
    """Which documents are kept, (D,) bool: where a draw from Pareto(alpha) is above 1 - score.

    The draw is a function of (seed, source, name) alone, with the distribution of
    `np.random.pareto(alpha)`, which is Lomax's: P(X > x) = (1 + x)^-alpha.
    """
    draws = [uniform(seed, "quality", source, document.name) for document in documents]
    return pareto(draws, alpha) > 1 - scores


def pareto(uniforms: Sequence[float], alpha: float) -> np.ndarray:
    """The draws of `np.random.pareto(alpha)` that numbers uniform in [0, 1) stand for."""
    return np.expm1(-np.log1p(-np.array(uniforms)) / alpha)


def share_kept(scores: np.ndarray, alpha: float) -> np.ndarray:
    """The probability that a document of each score is kept."""
    return (2 - scores) ** -alpha


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -values))
