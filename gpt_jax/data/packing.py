"""Which examples share a sequence, and which documents of the shards an example is.

On disk an example is documents in a row. Of `form` "examples": its prompt and its target. "chat":
prompts and targets by turns, each read after all before it, and an empty prompt with an empty
target at the end. "pairs": a prompt, the answer that was chosen, and the one that was rejected.
"""

from __future__ import annotations

import bisect
from typing import Literal, NamedTuple

import numpy as np

from gpt_jax.config import DataConfig, require
from gpt_jax.data.hashes import mix64
from gpt_jax.data.shards import TokenShards

Form = Literal["examples", "chat", "pairs"]
SCAN_TOKENS = 1 << 24
"""Tokens that are searched for separators at a time."""


def form_of(data: DataConfig) -> Form:
    """What examples are made of."""
    return "chat" if data.chat else "pairs" if data.rejected else "examples"


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
    """Examples without a target, which are left out ..."""
    equal: int = 0
    """... and pairs of which one answer is the other."""


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


class Layout(NamedTuple):
    """The examples at all places of all sequences, one place after the other."""

    first: np.ndarray
    """Where the places of each of S sequences begin, and the end, (S + 1,) int64."""
    document: np.ndarray
    """The first document of the example at each of P places, (P,) int64."""
    counts: np.ndarray
    """How many it has, (P,) int64: of an example or one side of a pair two."""
    step: np.ndarray
    """From one of them to the next, (P,) int64: 1, or 2 where the chosen answer is passed over."""
    sizes: np.ndarray
    """Tokens that it takes, (P,) int64."""
    cut: np.ndarray
    """Tokens of its first prompt that are left out, (P,) int64."""


class Documents(NamedTuple):
    """The documents of a split."""

    starts: np.ndarray
    """First token of each, counted through all shards, and the end of the last, (D + 1,) int64."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each without the separator after it, (D,) int64."""
        return np.diff(self.starts) - 1


def lay_out(
    shards: TokenShards, form: Form, length: int, seed: int, rule: str, num_prefix: int
) -> tuple[Documents, Fit, Layout]:
    """Where the examples of a split stand in sequences of `length`; raises InputError as `fit`
    does, and where no example is left.

    Of pairs, sequence 2i has a chosen answer and 2i + 1 the rejected one after the same prompt,
    which is cut as the longer of the two needs it. A pair is too long where either is.
    """
    found = documents(shards, {"examples": 2, "chat": 2, "pairs": 3}[form])
    if form == "pairs":
        return found, *_pairs(shards, found, length, rule, num_prefix)
    lengths = found.lengths
    first, counts = np.arange(0, len(lengths), 2), np.broadcast_to(2, len(lengths) // 2)
    if form == "chat":
        ends = 2 * np.flatnonzero((lengths[::2] == 0) & (lengths[1::2] == 0))
        first = np.concatenate([[0], ends + 2])[: len(ends)]
        counts = ends - first
    total = np.concatenate([[0], np.cumsum(lengths)])
    prompts = np.where(counts > 0, lengths[first], 0)
    targets = total[first + counts] - total[first] - prompts
    fitted = fit(prompts, targets, length, rule, num_prefix)
    kept = _kept(fitted, shards, length)
    begin, members = pack(fitted.sizes[kept], length, seed)
    members = kept[members]
    counts = counts[members] if form == "chat" else counts[: len(members)]
    step = np.broadcast_to(1, len(members))
    sizes, cut = fitted.sizes[members], fitted.cut[members]
    return found, fitted, Layout(begin, first[members], counts, step, sizes, cut)


def _pairs(
    shards: TokenShards, found: Documents, length: int, rule: str, num_prefix: int
) -> tuple[Fit, Layout]:
    prompts, chosen, rejected = found.lengths.reshape(-1, 3).T
    empty = (chosen == 0) | (rejected == 0)
    equal = ~empty & _equal(shards, found.starts[:-1].reshape(-1, 3).T, chosen, rejected)
    longer = np.where(equal | empty, 0, np.maximum(chosen, rejected))
    fitted = fit(prompts, longer, length, rule, num_prefix)
    fitted = fitted._replace(empty=int(empty.sum()), equal=int(equal.sum()))
    kept = _kept(fitted, shards, length)
    cut = np.repeat(fitted.cut[kept], 2)
    before = np.maximum(num_prefix + np.repeat(prompts[kept], 2) - cut, 1)
    answers = np.stack([chosen[kept], rejected[kept]], axis=1).reshape(-1)
    places = np.arange(2 * len(kept))
    return fitted, Layout(
        first=np.arange(2 * len(kept) + 1),
        document=np.repeat(3 * kept, 2),
        counts=np.broadcast_to(2, len(places)),
        step=1 + places % 2,
        sizes=np.minimum(before + answers, length),
        cut=cut,
    )


def _equal(
    shards: TokenShards, starts: np.ndarray, chosen: np.ndarray, rejected: np.ndarray
) -> np.ndarray:
    """Whether the answers of each pair are the same tokens, (N,) bool."""
    equal = chosen == rejected
    alike = np.flatnonzero(equal & (chosen > 0))
    if len(alike):
        sizes = chosen[alike]
        one, other = (shards.take(ranges(starts[i][alike], sizes)) for i in (1, 2))
        equal[alike] = np.logical_and.reduceat(one == other, np.cumsum(sizes) - sizes)
    return equal


def classes_of(
    shards: TokenShards, found: Documents, first: np.ndarray, classes: tuple[tuple[int, ...], ...]
) -> np.ndarray:
    """Which of the classes, given by its tokens, is the target of each example, (N,) int32.

    Args:
      first: first documents of the examples, (N,) int64.

    Raises:
      InputError: a target is none of them.
    """
    starts, sizes = found.starts[first + 1], found.lengths[first + 1]
    which = np.full(len(first), -1, np.int32)
    for number, tokens in enumerate(classes):
        alike = np.flatnonzero(sizes == len(tokens))
        read = shards.take((starts[alike, None] + np.arange(len(tokens))).reshape(-1))
        which[alike[(read.reshape(-1, len(tokens)) == tokens).all(axis=1)]] = number
    others = np.flatnonzero(which < 0)
    require(
        len(others) == 0,
        f"every target must be one of tune.classes, and {len(others):,} of {len(first):,} in "
        f"{shards.folder} are none of them: see data.target, and data.labels for their words.",
    )
    return which


def _kept(fitted: Fit, shards: TokenShards, length: int) -> np.ndarray:
    """Which examples fit, (K,) int64; raises InputError where none does."""
    kept = np.flatnonzero(fitted.sizes)
    equal = f", {fitted.equal:,} have equal answers" if fitted.equal else ""
    require(
        len(kept) > 0,
        f"a split needs an example that fits, and of the {len(fitted.sizes):,} in {shards.folder} "
        f"{fitted.empty:,} have no target{equal} and {fitted.too_long_left_out:,} are too long "
        f"for {length} tokens: see data.target, data.chat, data.sequence_length and "
        "data.too_long.",
    )
    return kept


def documents(shards: TokenShards, each: int) -> Documents:
    """Where the documents of a split are, of which each example has a multiple of `each`."""
    ends, passed = [], 0
    for tokens in shards.tokens:
        for start in range(0, len(tokens), SCAN_TOKENS):
            part = tokens[start : start + SCAN_TOKENS]
            ends.append(np.flatnonzero(part == shards.index.separator) + (passed + start))
        passed += len(tokens)
    end = np.concatenate(ends) if ends else np.zeros(0, np.int64)
    require(
        len(end) == shards.index.documents and len(end) % each == 0,
        f"a separator ends each part of an example, and {shards.folder} has {len(end)} where "
        f"there are {shards.index.documents} of these: delete {shards.folder.parent}.",
    )
    return Documents(np.concatenate([[0], end + 1]))


def ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """For each start as many integers as its count, from it on; one after the other."""
    total = np.cumsum(counts)
    return np.arange(total[-1]) + np.repeat(starts - (total - counts), counts)
