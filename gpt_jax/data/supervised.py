"""Examples to training samples: several to a sequence, with the loss on their targets alone.

An example is tokenised in two, so that no token is of both its prompt and its target. It is read as
`generate` reads a prompt: the tokenizer's prefix where that has one, the prompt, the target; one
with nothing before its target begins with a separator. What is learned is to write the target, and
then the separator. On disk prompts and targets are documents by turns.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from gpt_jax.config import Config, require
from gpt_jax.data.batches import READ_TOKENS, Batch, Samples, in_epochs
from gpt_jax.data.corpus import PLAIN, Corpus
from gpt_jax.data.hashes import mix64
from gpt_jax.data.shards import TokenShards

SCAN_TOKENS = 1 << 24
"""Tokens that are searched for separators at a time."""


class Fit(NamedTuple):
    """How examples go into sequences."""

    sizes: np.ndarray
    """Tokens that each takes, (N,) int64; 0 where it is left out."""
    cut: np.ndarray
    """Tokens of its prompt that are left out, from the first on, (N,) int64."""
    too_long: int
    """Examples that are longer than a sequence ..."""
    longest: int
    """... and tokens of the longest."""
    too_long_left_out: int
    empty: int
    """Examples without a target, which are left out."""


def fit(
    prompts: np.ndarray, targets: np.ndarray, length: int, rule: str, num_prefix: int = 0
) -> Fit:
    """What `DataConfig.too_long` makes of examples, by their tokens.

    An example takes what stands before its target (the prefix and the prompt, or a separator), and
    the target; what it predicts last is the separator, which is not read. "cut_prompt_start" leaves
    out an example of whose prompt no token would be left, and "cut_target_end" one of whose target
    no token would be learned; what is cut there does not end, so that no separator is learned.

    Args:
      prompts: tokens of each prompt, (N,) int64.
      targets: tokens of each target, (N,) int64.
      length: of a sequence.
      rule: data.too_long.
      num_prefix: tokens that are put before a prompt.

    Raises:
      InputError: an example is too long, and the rule is "error".
    """
    before = np.maximum(num_prefix + prompts, 1)
    whole = before + targets
    long = (whole > length) & (targets > 0)
    sizes, cut, fits = np.minimum(whole, length), np.zeros_like(whole), ~long
    if rule == "cut_prompt_start":
        room = length - num_prefix - targets
        fits |= room > 0
        cut = np.where(long & fits, prompts - room, 0)
    elif rule == "cut_target_end":
        fits |= before <= length
    number = int(long.sum())
    longest = int(whole.max(initial=0))
    require(
        rule != "error" or number == 0,
        f"an example must fit a sequence of {length} tokens, and {number:,} of {len(whole):,} "
        f"do not; the longest has {longest:,}: raise data.sequence_length and "
        "model.context_length, or say what becomes of them (--data.too-long drop, "
        "cut_prompt_start or cut_target_end).",
    )
    sizes = np.where(fits & (targets > 0), sizes, 0)
    return Fit(sizes, cut, number, longest, int((long & ~fits).sum()), int((targets == 0).sum()))


def pack(sizes: np.ndarray, length: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which examples share a sequence: the longest first, each in the fullest that has room for it.

    Best fit decreasing (Johnson 1973), which needs at most 11/9 of the fewest sequences, and with
    many short examples next to none more. Examples of one size are alike to it, so that all of them
    are placed at once; which is which of them is drawn by the seed, and no two runs of neighbours
    stay together. A million examples take about a second.

    Args:
      sizes: tokens of each example, (N,), in [1, length].
      length: of a sequence.
      seed: any integer.

    Returns:
      first: (S + 1,) int64, where in `members` each of S sequences begins, and the end.
      members: (N,) int64, the example at each place.
    """
    index = np.arange(len(sizes), dtype=np.uint64)
    salt = mix64(np.array([seed % (1 << 64)], np.uint64))
    by_size = np.lexsort((mix64(index + salt), -sizes))
    counts = np.bincount(sizes, minlength=length + 1).tolist()
    sequence = np.empty(len(sizes), np.int64)
    with_room: dict[int, list[np.ndarray]] = {}
    rooms: list[int] = []  # the keys of with_room, ascending

    def put(room: int, numbers: np.ndarray) -> None:
        if len(numbers) and room:
            if room not in with_room:
                bisect.insort(rooms, room)
            with_room.setdefault(room, []).append(numbers)

    done = opened = 0
    for size in range(length, 0, -1):
        stop = done + counts[size]
        while done < stop:
            place = bisect.bisect_left(rooms, size)
            if place == len(rooms):
                needed = -(-(stop - done) // (length // size))
                put(length, np.arange(opened, opened + needed))
                opened += needed
                continue
            room = rooms[place]
            numbers = with_room[room].pop()
            if not with_room[room]:
                del with_room[room], rooms[place]
            # What has taken one is the fullest that has room for the next, while it has any.
            each = room // size
            numbers, rest = np.split(numbers, [-(-(stop - done) // each)])
            placed = min(stop - done, each * len(numbers))
            sequence[done : done + placed] = np.repeat(numbers, each)[:placed]
            full, more = divmod(placed, each)
            put(room - each * size, numbers[:full])
            put(room - more * size, numbers[full:])
            put(room, rest)
            done += placed
    first = np.concatenate([[0], np.cumsum(np.bincount(sequence, minlength=opened))])
    return first, by_size[np.argsort(sequence, kind="stable")]


class Packed(Samples):
    """Sequences of whole examples, in an order that is a pure function of the seed.

    Each epoch visits every sequence once, in a new permutation; which examples share one is the
    same in all of them (`pack`). Attention, positions and segments begin anew with each example.
    What is left of a sequence is a segment of its own, of separators that weigh nothing;
    `padding` is their share.
    """

    def __init__(
        self,
        shards: TokenShards,
        sequence_length: int,
        seed: int,
        too_long: str,
        prefix: tuple[int, ...] = (),
    ):
        """Pack the examples of a split; raises InputError as `fit` does, and where none is left."""
        self.sequence_length, self.seed = sequence_length, seed
        self._shards, self._prefix = shards, np.array(prefix, np.int32)
        starts, lengths = _documents(shards)
        prompts, targets = lengths[::2], lengths[1::2]
        self.fit = fit(prompts, targets, sequence_length, too_long, len(prefix))
        kept = np.flatnonzero(self.fit.sizes)
        require(
            len(kept) > 0,
            f"a split needs an example that fits, and of the {len(prompts):,} in {shards.folder} "
            f"{self.fit.empty:,} have no target and {self.fit.too_long_left_out:,} are too long "
            f"for {sequence_length} tokens: see data.target, data.sequence_length and "
            "data.too_long.",
        )
        self.num_examples = len(prompts)
        self._first, members = pack(self.fit.sizes[kept], sequence_length, seed)
        self.num_samples = len(self._first) - 1
        self._members = members = kept[members]
        sizes, cut = self.fit.sizes[members], self.fit.cut[members]
        # Of each place in the packing: where what is left of its prompt begins in the shards, the
        # tokens before its target, and from which token on the shards are one ahead.
        self._start = starts[::2][members] + cut
        before = len(prefix) + prompts[members] - cut
        self._before = np.maximum(before, 1)
        # A separator parts prompt and target on disk. With nothing before the target it is read.
        self._passed = np.where(before > 0, before, sequence_length + 1)
        self._sizes = sizes
        ends = np.cumsum(sizes)
        per_sequence = np.diff(self._first)
        self._offset = ends - sizes - np.repeat((ends - sizes)[self._first[:-1]], per_sequence)

    @property
    def padding(self) -> float:
        """Share of the tokens of an epoch that are of no example."""
        return 1 - self._sizes.sum() / (self.num_samples * self.sequence_length)

    @property
    def num_learned(self) -> int:
        """Tokens of an epoch that the loss is of."""
        return int((self._sizes - self._before + 1).sum())

    def at(self, samples: np.ndarray) -> Batch:
        """The sequences of these samples.

        Args:
          samples: sample indices, integers >= 0 of any shape (...).

        Returns:
          "inputs", "targets", "segment_ids" and "positions", (..., T) int32, and "weights",
          (..., T) float32: 1 where the target is of an example's target or the separator after it.
        """
        _, sequence = in_epochs(samples.reshape(-1), self.num_samples, self.seed)
        first = self._first[sequence]
        counts = self._first[sequence + 1] - first
        place = _ranges(first, counts)
        row = np.repeat(np.arange(samples.size), counts)
        sizes, before = self._sizes[place], self._before[place]
        into = _ranges(row * self.sequence_length + self._offset[place], sizes)
        position = _ranges(np.zeros_like(sizes), sizes)
        learned = position >= np.repeat(before - 1, sizes)
        targets = self._tokens(place, position + 1, sizes)
        begins = np.cumsum(sizes) - sizes
        inputs = np.concatenate([targets[:1], targets[:-1]])
        inputs[begins] = self._tokens(place, np.zeros_like(sizes), np.ones_like(sizes))

        length = self.sequence_length
        last = first + counts - 1
        used = self._offset[last] + self._sizes[last]
        separator = self._shards.index.separator
        batch = {
            "inputs": np.full((samples.size, length), separator, np.int32),
            "targets": np.full((samples.size, length), separator, np.int32),
            "segment_ids": np.repeat(counts.astype(np.int32)[:, None], length, axis=1),
            "positions": np.arange(length, dtype=np.int32) - used.astype(np.int32)[:, None],
            "weights": np.zeros((samples.size, length), np.float32),
        }
        segment = np.repeat(place - np.repeat(first, counts), sizes)
        for name, values in {
            "inputs": inputs,
            "targets": targets,
            "segment_ids": segment,
            "positions": position,
            "weights": learned,
        }.items():
            batch[name].reshape(-1)[into] = values
        return {name: x.reshape(*samples.shape, length) for name, x in batch.items()}

    def _tokens(self, place: np.ndarray, at: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Tokens of the examples at some places of the packing, `counts` of each one.

        `at` is which token of its example each is: the prefix or a separator, the prompt, the
        target, the separator.
        """
        passed, start = (np.repeat(x[place], counts) for x in (self._passed, self._start))
        prompt = at - len(self._prefix)
        tokens = self._shards.take(start + np.maximum(prompt, 0) + (at >= passed))
        ahead = prompt < 0
        tokens[ahead] = self._prefix[at[ahead]]
        return tokens


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
    asked = config.train.eval_tokens // packed.sequence_length
    return (
        min(max(asked, 1), packed.num_samples) if config.train.eval_tokens else packed.num_samples
    )


def training_examples(corpus: Corpus, config: Config) -> Packed:
    """What is learned of a corpus of prompts and targets; raises InputError as `Packed` does."""
    return _packed(corpus.train[PLAIN], config.train.seed, corpus, config)


def held_out_examples(corpus: Corpus, config: Config) -> Packed:
    """What is held out of it, in the same order for every seed of a run."""
    return _packed(corpus.validation[PLAIN], 0, corpus, config)


def _packed(shards: TokenShards, seed: int, corpus: Corpus, config: Config) -> Packed:
    prefix = corpus.tokenizer.prefix
    return Packed(shards, config.sequence_length, seed, config.data.too_long, prefix)


def describe_examples(samples: Packed, corpus: Corpus, config: Config) -> list[str]:
    """What is learned of the examples, and what becomes of those that are too long, in lines."""
    lines = []
    for name, packed in {"learn": samples, "test": held_out_examples(corpus, config)}.items():
        found, total, length = packed.fit, packed.num_examples, packed.sequence_length
        lines.append(
            f"{name:<7} {np.count_nonzero(found.sizes):,} of {total:,} examples in "
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
        if found.empty:
            lines.append(f"        {found.empty:,} of {total:,} have no target: left out")
    return lines


def _documents(shards: TokenShards) -> tuple[np.ndarray, np.ndarray]:
    """(first token, tokens without the separator) of each document, counted through all shards."""
    ends, passed = [], 0
    for tokens in shards.tokens:
        for start in range(0, len(tokens), SCAN_TOKENS):
            part = tokens[start : start + SCAN_TOKENS]
            ends.append(np.flatnonzero(part == shards.index.separator) + (passed + start))
        passed += len(tokens)
    end = np.concatenate(ends) if ends else np.zeros(0, np.int64)
    require(
        len(end) == shards.index.documents and len(end) % 2 == 0,
        f"a separator ends each prompt and each target, and {shards.folder} has {len(end)} where "
        f"there are {shards.index.documents} of these: delete {shards.folder.parent}.",
    )
    start = np.concatenate([[0], end[:-1] + 1])[: len(end)]
    return start, end - start


def _ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """For each start as many integers as its count, from it on; one after the other."""
    total = np.cumsum(counts)
    return np.arange(total[-1]) + np.repeat(starts - (total - counts), counts)
