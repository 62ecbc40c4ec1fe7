"""Several sources as one: which source each sample is of, and which of that source's samples.

The order is arithmetic on (seed, sample index), as that of one source is, so the position in the
data stays one number and any count of hosts draws the same samples. It is also even: every run of
the order holds the share of each source to within a few samples, so that no batch is without one.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from gpt_jax.config import Config, nearest, require
from gpt_jax.data.batches import Batch, Samples, Windows
from gpt_jax.data.corpus import Corpus
from gpt_jax.data.hashes import GOLDEN, mix64
from gpt_jax.data.schedule import BatchSchedule
from gpt_jax.data.shards import TokenShards

BITS = 32
"""Shares are whole numbers over 2^32, so that their products with an index's halves fit 64 bits."""
MANY_EPOCHS = 4
"""Repeating text up to so often teaches about as much as new text does (Muennighoff et al. 2023,
"Scaling Data-Constrained Language Models")."""


@dataclass(frozen=True)
class Stage:
    """The weights of the sources from a sample on."""

    first: int
    """The sample; 0 for the first stage."""
    weights: tuple[float, ...]
    """Of each source, relative to the others'; 0: none of it."""

    @property
    def shares(self) -> tuple[float, ...]:
        """The weights, adding up to 1."""
        return tuple(weight / sum(self.weights) for weight in self.weights)


class Mixture(Samples):
    """Samples of several sources by weights that may change on the way.

    The sources stand in a chain. Of the first n samples that reach one, floor(n p + phase) are its
    own, where p is its share among those not yet passed, and the others go on to the next (Beatty
    sequences). This is exact in integers for 2^62 samples: what is drawn of a source are its
    samples 0, 1, 2, ..., each once. The seed gives the phases. Each stage begins a new chain, whose
    counts go on from those at its start.

    The count of a source in the first n samples of a stage differs from its share by less than its
    place in the chain, counted from 1.
    """

    def __init__(self, sources: Mapping[str, Samples], stages: Sequence[Stage], seed: int):
        """A mixture of `sources`; `stages` ascend, and each has a weight above 0."""
        self.names, self.stages = tuple(sources), tuple(stages)
        self._sources = tuple(sources.values())
        self.sequence_length = self._sources[0].sequence_length
        self.num_samples = sum(source.num_samples for source in self._sources)
        """Of all sources: an epoch, where each weighs what it has samples."""
        shape = (len(stages), len(self._sources))
        self._firsts = np.array([stage.first for stage in stages], np.int64)
        self._parts = np.array([_parts(stage.weights) for stage in stages], np.uint64)
        places = np.arange(1, shape[0] * shape[1] + 1, dtype=np.uint64).reshape(shape)
        salt = mix64(np.array([seed % (1 << 64)], np.uint64)) + places * np.uint64(GOLDEN)
        self._phases = mix64(salt) >> np.uint64(64 - BITS)
        self._before = np.zeros(shape, np.int64)
        for i, length in enumerate(np.diff(self._firsts)):
            self._before[i + 1] = self._before[i] + self._counted(i, int(length))

    def order(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(source, its sample) of each sample, int64, of the shape of `samples`."""
        place = samples.reshape(-1).astype(np.int64)
        stage = np.searchsorted(self._firsts, place, side="right") - 1
        reached = (place - self._firsts[stage]).astype(np.uint64)
        source, index = np.empty_like(place), np.empty_like(place)
        left = np.arange(len(place))
        for i in range(len(self._sources)):
            part, phase = self._parts[stage[left], i], self._phases[stage[left], i]
            drawn = _floor(reached, part, phase)
            mine = _floor(reached + np.uint64(1), part, phase) > drawn
            source[left[mine]] = i
            index[left[mine]] = drawn[mine].astype(np.int64) + self._before[stage[left[mine]], i]
            left, reached = left[~mine], (reached - drawn)[~mine]
        return source.reshape(samples.shape), index.reshape(samples.shape)

    def at(self, samples: np.ndarray) -> Batch:
        """The samples of these indices, as `Samples.at` of each one's source gives it."""
        source, index = (found.reshape(-1) for found in self.order(samples))
        batch: Batch = {}
        for i in np.unique(source):
            mine = np.flatnonzero(source == i)
            for name, array in self._sources[i].at(index[mine]).items():
                if name not in batch:
                    batch[name] = np.empty((len(source), *array.shape[1:]), array.dtype)
                batch[name][mine] = array
        return {name: array.reshape(*samples.shape, -1) for name, array in batch.items()}

    def counts(self, samples: int) -> dict[str, int]:
        """How many of the first `samples` samples are of each source."""
        stage = int(np.searchsorted(self._firsts, samples, side="right")) - 1
        counts = self._before[stage] + self._counted(stage, samples - self.stages[stage].first)
        return dict(zip(self.names, counts.tolist(), strict=True))

    def epochs(self, samples: int) -> dict[str, float]:
        """How often each source is gone through in the first `samples` samples."""
        drawn = self.counts(samples).values()
        return {
            name: count / source.num_samples
            for name, source, count in zip(self.names, self._sources, drawn, strict=True)
        }

    def _counted(self, stage: int, samples: int) -> np.ndarray:
        """Of the first `samples` samples of a stage, those of each source, (sources,) int64."""
        reached, counts = np.array([samples], np.uint64), []
        for part, phase in zip(self._parts[stage], self._phases[stage], strict=True):
            counts.append(_floor(reached, part, phase))
            reached = reached - counts[-1]
        return np.concatenate(counts).astype(np.int64)


def _parts(weights: Sequence[float]) -> list[int]:
    """Of the samples that reach each source, its share, over 2^BITS: the last one takes all."""
    exact = [Fraction(weight) for weight in weights]
    rest = [sum(exact[i:]) for i in range(len(exact))]
    return [
        round(weight * (1 << BITS) / left) if left else 0
        for weight, left in zip(exact, rest, strict=True)
    ]


def _floor(count: np.ndarray, part: np.ndarray, phase: np.ndarray) -> np.ndarray:
    """floor((count * part + phase) / 2^BITS), uint64 of less than 2^62, without overflow."""
    bits = np.uint64(BITS)
    high, low = count >> bits, count & np.uint64((1 << BITS) - 1)
    return high * part + ((low * part + phase) >> bits)


def open_mixture(corpus: Corpus, config: Config) -> Mixture:
    """The training samples of a corpus: all of its sources, by their weights or data.mixture's.

    A source that weighs nothing is left out, and so is one without a whole window where no weights
    are given at all and each source counts by its windows.

    Raises:
      InputError: a source that the corpus does not have; one that weighs something and has no whole
        window; a moment at which nothing weighs anything.
    """
    length = config.sequence_length
    windows = {name: num_windows(shards, length) for name, shards in corpus.train.items()}
    require(
        any(windows.values()),
        f"a corpus must hold at least one window, and none of the sources in {corpus.folder} has "
        f"the {length + 1} tokens of one: give more text, or shorten data.sequence_length.",
    )
    own = corpus.weights if any(corpus.weights.values()) else _by_size(windows)
    weights = _over_time(own, config, corpus)
    for name in own:
        weighs = max(moment[name] for moment in weights.values()) > 0
        require(
            not weighs or windows[name] > 0,
            f"a source that is drawn from must hold a whole window, and {name!r} of {corpus.folder}"
            f" has {corpus.train[name].index.tokens} tokens where one of {length} needs one more "
            f"than that: leave it out (--data.mixture {name}=0), or shorten data.sequence_length.",
        )
    used = [name for name in own if any(moment[name] for moment in weights.values())]
    stages = [
        Stage(-(-tokens // length), tuple(moment[name] for name in used))
        for tokens, moment in weights.items()
    ]
    sources = {name: Windows.of(corpus.train[name], config) for name in used}
    return Mixture(sources, stages, config.train.seed)


def num_windows(shards: TokenShards, length: int) -> int:
    """Windows of `length` tokens and a last target, over all shards."""
    return sum(len(tokens) // length for tokens in shards.tokens if len(tokens) > length)


def _by_size(windows: Mapping[str, int]) -> dict[str, float]:
    return {name: count / sum(windows.values()) for name, count in windows.items()}


def _over_time(
    own: Mapping[str, float], config: Config, corpus: Corpus
) -> dict[int, dict[str, float]]:
    """The weight of every source from each token count on at which one of them changes."""
    weights = {0: dict(own)}
    for tokens, entries in itertools.groupby(config.data.shares, lambda entry: entry.tokens):
        weights[tokens] = dict(weights[max(weights)])
        for entry in entries:
            require(
                entry.source in own,
                f"data.mixture weighs the sources of {corpus.folder}, and {entry.source!r} is none "
                f"of them: {nearest(entry.source, own)}",
            )
            weights[tokens][entry.source] = entry.weight
    for tokens, moment in weights.items():
        require(
            any(moment.values()),
            f"data.mixture must leave a source of which there is some, and from {tokens:,} tokens "
            f"on all of {', '.join(own)} weigh 0.",
        )
    return weights


def describe_mixture(mixture: Mixture, corpus: Corpus, schedule: BatchSchedule) -> list[str]:
    """A line for each of several sources: its share, its size, how often it will be read."""
    if len(corpus.train) == 1:
        return []
    epochs, lines = mixture.epochs(schedule.start(schedule.num_steps)), []
    width = max(map(len, corpus.train))
    for name, shards in corpus.train.items():
        size = f"{shards.index.tokens:,} tokens"
        if name not in mixture.names:
            lines.append(f"source  {name:<{width}}  left out, {size}")
            continue
        place = mixture.names.index(name)
        shares = ", then ".join(f"{stage.shares[place]:.2%}" for stage in mixture.stages)
        often = f" (more than {MANY_EPOCHS})" if epochs[name] > MANY_EPOCHS else ""
        lines.append(f"source  {name:<{width}}  {shares}; {size}, {epochs[name]:.2f} epochs{often}")
    changes = [f"{stage.first * mixture.sequence_length:,}" for stage in mixture.stages[1:]]
    if changes:
        lines.append(f"shares  change at {', '.join(changes)} tokens")
    return lines
