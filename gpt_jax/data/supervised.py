"""Examples to training samples: several to a sequence, with the loss on their targets alone.

An example is tokenised in two, so that no token is of both its prompt and its target. It is read as
`generate` reads a prompt: the tokenizer's prefix where that has one, the prompt, the target; one
with nothing before its target begins with a separator. What is learned is to write the target, and
then the separator. On disk prompts and targets are documents by turns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from gpt_jax.config import Config
from gpt_jax.data.batches import READ_TOKENS, Batch, Samples, in_epochs
from gpt_jax.data.corpus import PLAIN, Corpus, distinct_tokens
from gpt_jax.data.packing import Form, classes_of, form_of, lay_out, ranges
from gpt_jax.data.shards import TokenShards


class Packed(Samples):
    """Sequences of whole examples, in an order that is a pure function of the seed.

    Each epoch visits every sequence once, in a new permutation; which examples share one is the
    same in all of them (`pack`). Attention, positions and segments begin anew with each example.
    What is left of a sequence is a segment of its own, of separators that weigh nothing;
    `padding` is their share.

    Of pairs each sequence has one side of one: sample 2i ends in the answer that was chosen, and
    sample 2i + 1 in the one that was rejected after the same prompt, so that rows 2i and 2i + 1 of
    a batch, and of each micro-batch, are a pair where their numbers of rows are even.

    Where there are `classes`, given by the tokens of their targets, what weighs is all of an
    example, as in plain text, and "labels" say which class it is of.
    """

    def __init__(
        self,
        shards: TokenShards,
        sequence_length: int,
        seed: int,
        too_long: str,
        prefix: tuple[int, ...] = (),
        form: Form = "examples",
        classes: tuple[tuple[int, ...], ...] = (),
    ):
        """Pack the examples of a split; raises InputError as `lay_out` and `classes_of` do."""
        self.sequence_length, self.seed = sequence_length, seed
        self._shards, self._prefix = shards, np.array(prefix, np.int32)
        self._documents, self.fit, self._layout = lay_out(
            shards, form, sequence_length, seed, too_long, len(prefix)
        )
        self.form: Form = form
        self.num_examples = len(self.fit.sizes)
        self.num_samples = len(self._layout.first) - 1
        self._class: np.ndarray | None = None
        if classes:
            first = self._layout.document
            self._class = classes_of(shards, self._documents, first, classes)
        sizes, first = self._layout.sizes, self._layout.first
        begins = np.cumsum(sizes) - sizes
        self._offset = begins - np.repeat(begins[first[:-1]], np.diff(first))

    @property
    def rows_together(self) -> int:
        """Samples that follow each other in every epoch: the two of a pair."""
        return 2 if self.form == "pairs" else 1

    @property
    def padding(self) -> float:
        """Share of the tokens of an epoch that are of no example."""
        return 1 - self._layout.sizes.sum() / (self.num_samples * self.sequence_length)

    @property
    def num_learned(self) -> int:
        """Tokens of an epoch that are written after a prompt."""
        read = self._read(np.arange(len(self._layout.sizes)))
        return int(read.lengths[read.is_target].sum())

    def at(self, samples: np.ndarray) -> Batch:
        """The sequences of these samples.

        Args:
          samples: sample indices, integers >= 0 of any shape (...).

        Returns:
          "inputs", "targets", "segment_ids" and "positions", (..., T) int32, and "weights",
          (..., T) float32: 1 where the target is of an example's target or the separator after it,
          or, of classes, where it is of an example; and "labels" of these, (..., T) int32: the
          class where the first token of an example's target is predicted, and -1 elsewhere.
        """
        sequence = self._sequences(samples.reshape(-1))
        first = self._layout.first[sequence]
        counts = self._layout.first[sequence + 1] - first
        place = ranges(first, counts)
        row = np.repeat(np.arange(samples.size), counts)
        sizes = self._layout.sizes[place]
        into = ranges(row * self.sequence_length + self._offset[place], sizes)
        tokens, is_target = self._tokens(place)
        read = ranges(np.cumsum(sizes + 1) - sizes - 1, sizes)

        length = self.sequence_length
        last = first + counts - 1
        used = self._offset[last] + self._layout.sizes[last]
        separator = self._shards.index.separator
        batch = {
            "inputs": np.full((samples.size, length), separator, np.int32),
            "targets": np.full((samples.size, length), separator, np.int32),
            "segment_ids": np.repeat(counts.astype(np.int32)[:, None], length, axis=1),
            "positions": np.arange(length, dtype=np.int32) - used.astype(np.int32)[:, None],
            "weights": np.zeros((samples.size, length), np.float32),
        }
        segment = np.repeat(place - np.repeat(first, counts), sizes)
        learned = is_target[1:][read]
        values = {
            "inputs": tokens[read],
            "targets": tokens[1:][read],
            "segment_ids": segment,
            "positions": ranges(np.zeros_like(sizes), sizes),
            "weights": learned,
        }
        if self._class is not None:
            batch["labels"] = np.full((samples.size, length), -1, np.int32)
            asked = learned & ~is_target[read]
            values["labels"] = np.where(asked, np.repeat(self._class[place], sizes), -1)
            values["weights"] = np.ones_like(learned)
        for name, x in values.items():
            batch[name].reshape(-1)[into] = x
        return {name: x.reshape(*samples.shape, length) for name, x in batch.items()}

    def _sequences(self, samples: np.ndarray) -> np.ndarray:
        """Which sequence each sample is, (N,) int64."""
        together = self.rows_together
        group, side = np.divmod(samples.astype(np.int64), together)
        _, group = in_epochs(group, self.num_samples // together, self.seed)
        return group * together + side

    def _tokens(self, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(tokens, whether each is of a target) of the examples at some places.

        Of each one more than its size: the prefix or a separator, its documents, the separator at
        its end.
        """
        read, heads = self._read(place), len(self._prefix)
        found = self._shards.take(ranges(read.starts, read.lengths))
        learned = np.repeat(read.is_target, read.lengths)
        if not heads:
            return found, learned
        sizes = self._layout.sizes[place] + 1
        begins = np.cumsum(sizes) - sizes
        tokens, is_target = np.empty(sizes.sum(), np.int32), np.zeros(sizes.sum(), bool)
        into = ranges(begins + heads, sizes - heads)
        tokens[into], is_target[into] = found, learned
        tokens[begins[:, None] + np.arange(heads)] = self._prefix
        return tokens, is_target

    def _read(self, place: np.ndarray) -> _Reading:
        """What is read of the shards for the examples at some places."""
        layout, heads = self._layout, len(self._prefix)
        counts = layout.counts[place]
        turn = ranges(np.zeros_like(counts), counts)
        document = np.repeat(layout.document[place], counts)
        document += turn * np.repeat(layout.step[place], counts)
        starts = self._documents.starts[document]
        lengths = self._documents.starts[document + 1] - 1 - starts
        last = np.cumsum(counts) - 1
        opening = last - counts + 1
        starts[opening] += layout.cut[place]
        lengths[opening] -= layout.cut[place]
        # A separator follows each document on disk. It is read at the end of the example, and at
        # its beginning where there is nothing else before the target.
        lengths[last] += 1
        if not heads:
            lengths[opening] += lengths[opening] == 0
        # What does not fit the sequence is left where it is.
        before = np.cumsum(lengths) - lengths
        before += heads - np.repeat(before[opening], counts)
        room = np.repeat(layout.sizes[place] + 1, counts) - before
        return _Reading(starts, np.clip(lengths, 0, np.maximum(room, 0)), turn % 2 == 1)


class _Reading(NamedTuple):
    """The documents of some examples, one after the other, as they are read of the shards."""

    starts: np.ndarray
    """First token of each, (D,) int64 ..."""
    lengths: np.ndarray
    """... how many are read, (D,) int64 ..."""
    is_target: np.ndarray
    """... and whether they are learned, (D,) bool."""


def validation_batches(
    packed: Packed, config: Config, batch_rows: int, rows: np.ndarray | None = None
) -> Iterator[Batch]:
    """Held-out examples, each once, or about config.train.eval_tokens tokens of sequences.

    Args:
      packed: the examples.
      config: the experiment.
      batch_rows: sequences in a batch.
      rows: those of them that are loaded, (R,) ascending; None: all.

    Returns:
      An iterator over dicts as `Packed.at` gives them, arrays (R, T); rows past the last sequence
      have weight 0.
    """
    number, loaded = _num_validated(packed, config), np.arange(batch_rows) if rows is None else rows

    def batch(start: int) -> Batch:
        samples = start + loaded
        found = packed.at(np.minimum(samples, number - 1))
        real = (samples < number).astype(np.float32)
        return found | {"weights": found["weights"] * real[:, None]}

    return map(batch, range(0, number, batch_rows))


def validation_bytes(packed: Packed, config: Config, byte_lengths: np.ndarray) -> int:
    """UTF-8 bytes of the targets in a validation, on whatever hosts they are."""
    batches = validation_batches(packed, config, max(1, READ_TOKENS // packed.sequence_length))
    return sum(int(byte_lengths[batch["targets"][batch["weights"] > 0]].sum()) for batch in batches)


def _num_validated(packed: Packed, config: Config) -> int:
    """Sequences in a validation."""
    if not config.train.eval_tokens:
        return packed.num_samples
    together = packed.rows_together
    asked = config.train.eval_tokens // packed.sequence_length // together * together
    return min(max(asked, together), packed.num_samples)


def training_examples(corpus: Corpus, config: Config) -> Packed:
    """What is learned of a corpus of examples; raises InputError as `Packed` does."""
    return _packed(corpus.train[PLAIN], config.train.seed, corpus, config)


def held_out_examples(corpus: Corpus, config: Config) -> Packed:
    """What is held out of it, in the same order for every seed of a run."""
    return _packed(corpus.validation[PLAIN], 0, corpus, config)


def _packed(shards: TokenShards, seed: int, corpus: Corpus, config: Config) -> Packed:
    data, prefix = config.data, corpus.tokenizer.prefix
    form, words = form_of(data), config.tune.classes
    classes = distinct_tokens(words, corpus.tokenizer, "tune.classes")
    return Packed(shards, config.sequence_length, seed, data.too_long, prefix, form, classes)


def describe_examples(samples: Packed, corpus: Corpus, config: Config) -> list[str]:
    """What is learned of the examples, and what becomes of those that are too long, in lines."""
    lines = []
    what = {"examples": "examples", "chat": "conversations", "pairs": "pairs"}[samples.form]
    for name, packed in {"learn": samples, "test": held_out_examples(corpus, config)}.items():
        found, total, length = packed.fit, packed.num_examples, packed.sequence_length
        lines.append(
            f"{name:<7} {np.count_nonzero(found.sizes):,} of {total:,} {what} in "
            f"{packed.num_samples:,} sequences; of their tokens {packed.padding:.1%} are padding, "
            f"{packed.num_learned / (packed.num_samples * length):.1%} targets"
        )
        cut = found.too_long - found.too_long_left_out
        became = f"{cut:,} cut, {found.too_long_left_out:,} left out" if cut else "left out"
        became = f": {became} (data.too_long={config.data.too_long})" if found.too_long else ""
        lines.append(
            f"        {found.too_long:,} of {total:,} ({found.too_long / total:.2%}) are longer "
            f"than {length:,} tokens, the longest has {found.longest:,}{became}"
        )
        lacking = "no reply" if samples.form == "chat" else "no target"
        if found.empty:
            lines.append(f"        {found.empty:,} of {total:,} have {lacking}: left out")
        if found.equal:
            lines.append(f"        {found.equal:,} of {total:,} have equal answers: left out")
    return lines
