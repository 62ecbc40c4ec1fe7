"""Samples to batches: which samples, in what order, in what shape.

A sample is `sequence_length` inputs and as many targets: of plain text a window, whose targets are
its inputs one place on. Which text a sample is, is arithmetic on (seed, sample index), so the
position in the data is one number and neither hosts nor threads can change the order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Protocol

import grain
import numpy as np

from gpt_jax.config import Config, require
from gpt_jax.data.hashes import GOLDEN, mix64
from gpt_jax.data.schedule import BatchSchedule
from gpt_jax.data.shards import TokenShards

Batch = dict[str, np.ndarray]

FEISTEL_ROUNDS = 4
READ_TOKENS = 1 << 17
"""Tokens gathered by one grain element. Grain costs 0.1 ms per element whatever its size, so that
small batches are gathered several at a time and handed out one by one."""


class Samples(Protocol):
    """Training samples by their index, of which there is no end: epoch follows on epoch."""

    sequence_length: int
    """T, the tokens of a sample."""
    num_samples: int
    """Samples of an epoch, in which nothing comes twice."""

    def at(self, samples: np.ndarray) -> Batch:
        """The samples of these indices, integers >= 0 of any shape (...).

        Returns "inputs" and "targets", (..., T) int32; "segment_ids" and "positions", (..., T)
        int32, or neither; and "weights", (..., T) float32, where not every target is learned alike.
        """
        ...


class Windows(Samples):
    """The windows of a split, in an order that is a pure function of the seed.

    Each epoch visits every window once, in a new permutation. The grid of windows moves from one
    epoch to the next, so that a small corpus is not cut at the same places every time; a shard is
    read as a ring, which keeps their number: its last window may run on into its first document,
    as any document runs into the next. No window crosses from one shard into another, and a shard
    shorter than a window is left out.
    """

    def __init__(
        self, shards: TokenShards, sequence_length: int, seed: int, isolate_documents: bool
    ):
        self.sequence_length, self.seed = sequence_length, seed
        self._separator = shards.index.separator if isolate_documents else None
        self._tokens = [tokens for tokens in shards.tokens if len(tokens) > sequence_length]
        counts = [len(tokens) // sequence_length for tokens in self._tokens]
        self._first = np.cumsum([0, *counts])
        self.num_samples = int(self._first[-1])
        require(
            self.num_samples > 0,
            f"a split must hold at least one window, and {shards.folder} has {shards.index.tokens} "
            f"tokens where a window of {sequence_length} needs one more than that: give more text, "
            "or shorten data.sequence_length.",
        )

    @classmethod
    def of(cls, shards: TokenShards, config: Config) -> Windows:
        """The windows that `config` trains on, of these shards."""
        isolate = config.data.isolate_documents
        return cls(shards, config.sequence_length, config.train.seed, isolate)

    def order(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(epoch, window) of each sample, int64, of the shape of `samples`."""
        return in_epochs(samples, self.num_samples, self.seed)

    def at(self, samples: np.ndarray) -> Batch:
        """The windows of these samples.

        Args:
          samples: sample indices, integers >= 0 of any shape (...).

        Returns:
          "inputs" and "targets", (..., T) int32; if documents are isolated also "segment_ids" and
          "positions", (..., T) int32: a separator opens the next segment, as its position 0.
        """
        epoch, window = self.order(samples.reshape(-1))
        shard = np.searchsorted(self._first, window, side="right") - 1
        start = (window - self._first[shard]) * self.sequence_length + self._shift(epoch)
        rows = np.empty((samples.size, self.sequence_length + 1), np.int32)
        for i in np.unique(shard):
            mine = shard == i
            rows[mine] = _read_ring(self._tokens[i], start[mine], self.sequence_length + 1)
        return _batch(rows.reshape(*samples.shape, -1), self._separator)

    def _shift(self, epoch: np.ndarray) -> np.ndarray:
        """Tokens by which the grid is moved, in [0, sequence_length): 0 at first, then spread."""
        fraction = epoch.astype(np.uint64) * np.uint64(GOLDEN) >> np.uint64(32)
        return (fraction * np.uint64(self.sequence_length) >> np.uint64(32)).astype(np.int64)


class TrainBatches(Iterator[Batch]):
    """Batch n of the run at the n-th `next`; its state is the number of the next step."""

    def __init__(self, source: _Steps, start_step: int):
        self._source = source
        self.set_state({"next_index": start_step})

    def get_state(self) -> dict[str, int]:
        """The position, ready for JSON."""
        return {"next_index": self._step}

    def set_state(self, state: dict[str, int]) -> None:
        """Continue at a position that `get_state` gave."""
        self._step = state["next_index"]
        self._held = -1
        dataset = grain.MapDataset.source(self._source)
        # One thread: gathering is short of memory bandwidth and of Python's lock, not of threads.
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
        self._elements = iter(dataset.to_iter_dataset(options))
        self._elements.set_state({"next_index": self._step // self._source.steps_per_element})

    def __next__(self) -> Batch:
        if self._step >= self._source.num_steps:
            raise StopIteration
        element, place = divmod(self._step, self._source.steps_per_element)
        if element != self._held:
            self._element, self._held = next(self._elements), element
        self._step += 1
        return {name: array[place] for name, array in self._element.items()}


def train_batches(
    samples: Samples,
    schedule: BatchSchedule,
    micro_batch: int,
    num_micro: int,
    rows: np.ndarray | None = None,
    start_step: int = 0,
) -> TrainBatches:
    """The training batches of one host, from step `start_step` to the end of the schedule.

    Row b of the global batch of step n is sample schedule.start(n) + b. It stands at
    [b // micro_batch, b % micro_batch]. Every step has the same shape: during a batch ramp the rows
    past schedule.size(n) have weight 0, in place of their own where they have any.

    Args:
      rows: the rows of each micro-batch that are loaded, (R,) ascending; None: all of them.

    Returns:
      An iterator over dicts of `Samples.at` arrays, (num_micro, R, T), with "weights" float32,
      (num_micro, R, T) where the samples have their own and (num_micro, R) where they have not.

    Raises:
      InputError: micro-batches too small for the batch.
    """
    require(
        num_micro * micro_batch >= schedule.full,
        f"the micro-batches must hold the batch, and {num_micro} of {micro_batch} samples do not "
        f"hold {schedule.full}.",
    )
    loaded = np.arange(micro_batch) if rows is None else rows
    places = np.arange(num_micro)[:, None] * micro_batch + loaded
    return TrainBatches(_Steps(samples, schedule, places), start_step)


class _Steps:
    """A grain source whose element k holds the batches of several steps, stacked."""

    def __init__(self, samples: Samples, schedule: BatchSchedule, rows: np.ndarray):
        self._samples, self._schedule, self._rows = samples, schedule, rows
        self.num_steps = schedule.num_steps
        self.steps_per_element = max(1, READ_TOKENS // (rows.size * samples.sequence_length))

    def __len__(self) -> int:
        return -(-self.num_steps // self.steps_per_element)

    def __getitem__(self, index: int) -> Batch:
        first = index * self.steps_per_element
        steps = range(first, first + self.steps_per_element)
        starts = np.array([self._schedule.start(step) for step in steps])[:, None, None]
        sizes = np.array([self._schedule.size(step) for step in steps])[:, None, None]
        weights = (self._rows < sizes).astype(np.float32)
        batch = self._samples.at(starts + self._rows)
        if "weights" in batch:
            weights = weights[..., None] * batch["weights"]
        return batch | {"weights": weights}


def validation_batches(
    shards: TokenShards,
    targets: int,
    config: Config,
    batch_rows: int,
    rows: np.ndarray | None = None,
) -> Iterator[Batch]:
    """A held-out split in the order of its files, every token but the first a target once.

    Args:
      shards: the split.
      targets: of its tokens are predicted, as `num_targets` says.
      config: the experiment.
      batch_rows: windows in a batch.
      rows: those of them that are loaded, (R,) ascending; None: all.

    Returns:
      An iterator over dicts of "inputs" and "targets" (R, T) int32, "weights" (R, T) float32, 0
      where the text has ended, and, if documents are isolated, "segment_ids" and "positions".
    """
    length = config.sequence_length
    separator = shards.index.separator if config.data.isolate_documents else None
    loaded = np.arange(batch_rows) if rows is None else rows

    def batch(start: int) -> Batch:
        windows = np.zeros((len(loaded), length + 1), np.int32)
        starts = start + loaded * length
        for window, first in zip(windows, starts.tolist(), strict=True):
            found = shards.read(first, min(first + length, targets) + 1)
            window[: len(found)] = found
        weights = (starts[:, None] + np.arange(length) < targets).astype(np.float32)
        return _batch(windows, separator) | {"weights": weights}

    return map(batch, range(0, targets, batch_rows * length))


def num_targets(splits: Mapping[str, TokenShards], limit: int) -> dict[str, int]:
    """Tokens of each held-out split that are predicted in a validation.

    All but the first of each; or, where there is a limit (0: none), about so many in all, of each
    split its part of them. Raises InputError where none has two tokens.
    """
    found = {name: split.index.tokens - 1 for name, split in splits.items()}
    found = {name: targets for name, targets in found.items() if targets > 0}
    folders = ", ".join(str(split.folder) for split in splits.values())
    require(bool(found), f"validation needs two tokens at least: {folders} has fewer.")
    total = sum(found.values())
    limit = min(limit or total, total)
    return {name: max(1, targets * limit // total) for name, targets in found.items()}


def validation_bytes(shards: TokenShards, targets: int, byte_lengths: np.ndarray) -> int:
    """UTF-8 bytes that the targets of a validation stand for, on whatever hosts they are."""
    stop = targets + 1
    parts = (
        shards.read(start, min(start + READ_TOKENS, stop)) for start in range(1, stop, READ_TOKENS)
    )
    return sum(int(byte_lengths[part].sum()) for part in parts)


def _batch(rows: np.ndarray, separator: int | None) -> Batch:
    """Inputs and targets (..., T) of windows (..., T + 1), with segments where asked for."""
    batch = {"inputs": rows[..., :-1].copy(), "targets": rows[..., 1:].copy()}
    if separator is not None:
        opens = batch["inputs"] == separator
        place = np.arange(opens.shape[-1], dtype=np.int32)
        opened = np.maximum.accumulate(np.where(opens, place, np.int32(0)), axis=-1)
        batch["segment_ids"] = np.cumsum(opens, axis=-1, dtype=np.int32)
        batch["positions"] = place - opened
    return batch


def _read_ring(tokens: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """(N, length) tokens from each of `starts` (N,) on; the last token is followed by the first."""
    view = np.lib.stride_tricks.sliding_window_view(tokens, length)
    rows = view[np.minimum(starts, len(view) - 1)]
    over = np.flatnonzero(starts >= len(view))
    rows[over] = tokens[(starts[over, None] + np.arange(length)) % len(tokens)]
    return rows


def in_epochs(samples: np.ndarray, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(epoch, place in [0, size)) of each sample, int64: each epoch is a permutation by itself."""
    epoch, place = np.divmod(samples.astype(np.uint64), np.uint64(size))
    mixed = mix64(np.array([seed % (1 << 64)], np.uint64))
    place = _permute(place, size, key=mix64(mixed + epoch))
    return epoch.astype(np.int64), place.astype(np.int64)


def _permute(index: np.ndarray, size: int, key: np.ndarray) -> np.ndarray:
    """Where a permutation of [0, size), another for each key, takes each index; all (N,) uint64.

    A Feistel network over the cells of a near-square table of at least `size` cells; what lands
    outside [0, size) is sent round again, which stays inside the cycle it is on. Vectorised it
    costs 0.3 us per index, where grain's index_shuffle takes 9 us a call.
    """
    columns = math.isqrt(size - 1) + 1
    rows = -(-size // columns)
    value, out = index.copy(), np.arange(len(index))
    halve = np.uint64(1)  # a sum that passed 2^64 would not be one to one
    while len(out):
        row, column = np.divmod(value[out], np.uint64(columns))
        for turn in range(FEISTEL_ROUNDS):
            salt = key[out] + np.uint64(turn * GOLDEN % (1 << 64))
            row = (row + (mix64(column ^ salt) >> halve)) % np.uint64(rows)
            column = (column + (mix64(row + salt) >> halve)) % np.uint64(columns)
        value[out] = row * np.uint64(columns) + column
        out = out[value[out] >= size]
    return value
