"""Continuous batching: requests join and leave a batch of slots between two steps of the model.

One thread owns the device. Each turn it lets go of rows that nobody wants any more, gives free
slots to those that wait, reads one chunk of one prompt, and draws one token for every other row; so
a long prompt holds the others up by a chunk at most. Nor do short prompts hold a long one up: every
second chunk is of the text that was asked for first. A turn's tokens are handed out while the
device works on the next, which costs a row that has ended a step that nobody sees.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax.config import ModelConfig
from gpt_jax.generate.serve import slots as programs
from gpt_jax.generate.serve.slots import Settings, Told
from gpt_jax.model.cache import KVCache

CHUNKS = (32, 256)
"""Tokens of a prompt that are read at once, the last of them perhaps padding."""
REACH = 256
"""A step looks at the first 256 places of every row, or at four times as many, and so on."""

End = Literal["length", "time", "closed", "failed"]
"""Why no more tokens come, where it is not the reader who has had enough."""


@dataclass(frozen=True)
class Place:
    """What became of one place of a text."""

    token: int
    logprob: float
    """By the model's own softmax; 0 where log-probabilities were not asked for."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens there, from the likeliest down, where they were asked for."""


@dataclass(eq=False)
class Ask:
    """One text to be written, and who reads it."""

    prompt: np.ndarray
    most: int
    """Tokens to draw; 0: the prompt is read, and that is all."""
    take: Callable[[Place], bool]
    """Called with every token; whether it was the last that is wanted. On the engine's thread."""
    end: Callable[[End], None]
    """Called once where no more tokens come, unless `take` or `cancel` has ended it."""
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    choice: int = 0
    told: bool = False
    """Whether log-probabilities are wanted."""
    score: Callable[[list[Place]], None] | None = None
    """Called with the places of the prompt from its second token on."""
    deadline: float = float("inf")
    """By time.monotonic()."""

    number: int = field(default=0, init=False)
    """How many were submitted before it."""
    read: int = field(default=0, init=False)
    """Tokens of the prompt that are in the cache, or on their way."""
    drawn: int = field(default=0, init=False)
    """Tokens that were drawn, or are on their way."""
    taken: int = field(default=0, init=False)
    """Tokens that were handed out."""
    over: bool = field(default=False, init=False)
    scored: list[Place] = field(default_factory=list, init=False)

    @property
    def length(self) -> int:
        """Where the row's next token goes in its slot."""
        return self.read + max(self.drawn - 1, 0)


class Refused(Exception):
    """More is asked for than may wait, or the engine takes nothing any more."""

    def __init__(self, reason: Literal["full", "closed", "failed"]):
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class _Scored:
    """A chunk of a prompt whose tokens are to be told of."""

    ask: Ask
    tokens: np.ndarray
    told: Told


@dataclass(frozen=True)
class _Sent:
    """What the device was asked, and for whom."""

    token_B: jax.Array
    told: Told
    rows: Mapping[int, Ask]
    """Whose tokens are wanted."""
    scored: _Scored | None = None
    read: Ask | None = None
    """Whose prompt is read to its end with this."""


class Engine:
    """A model that answers many at once; `start` it, and `close` it at the end."""

    def __init__(
        self, config: ModelConfig, params: Any, vocab_size: int, *, slots: int = 8, queue: int = 64
    ) -> None:
        """An engine with `slots` rows, and room for `queue` more that wait; nothing is compiled.

        Only the first `vocab_size` tokens are drawn: those that the tokenizer knows.
        """
        self._config, self._params, self._queue = config, params, queue
        self._static = {"config": config, "vocab_size": min(vocab_size, config.vocab_size)}
        context = config.context_length
        self._chunks = tuple(size for size in CHUNKS if size <= context) or (context,)
        capacity = -(-context // self._chunks[0]) * self._chunks[0]
        self._reaches = _geometric(REACH, capacity)
        self._widths = _geometric(1, slots)
        # Buffers of its own for each array, as they are donated; on a device that is named, as what
        # the programs give is. To jit, what may be anywhere is another, and is compiled again.
        zeros = partial(jnp.zeros, device=jax.local_devices()[0])
        shapes = jax.eval_shape(partial(KVCache.empty, config, slots, capacity))
        self._cache = jax.tree.map(lambda leaf: zeros(leaf.shape, leaf.dtype), shapes)
        self._token_S = zeros(slots, jnp.int32)
        self._slots: list[Ask | None] = [None] * slots
        self._waiting: deque[Ask] = deque()
        self._sent: deque[_Sent] = deque()
        self._submitted = 0
        self._oldest_next = False
        self._wake = threading.Condition()
        self._closing: Literal["", "closed", "failed"] = ""
        self._draining = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    # What other threads call.

    def start(self) -> None:
        """Compile every program, and begin to answer."""
        nobody = Ask(np.zeros(0, np.int32), 0, lambda _: True, lambda _: None)
        for size in self._chunks:
            self._read(0, np.zeros(size, np.int32), np.zeros(size, np.int32), size, nobody)
        for width in self._widths:
            for reach in self._reaches:
                self._step(np.zeros(width, np.int32), reach, [None] * width)
        jax.block_until_ready(self._token_S)
        self._thread.start()

    def submit(self, asks: Sequence[Ask]) -> None:
        """Queue all of `asks` or none; raises Refused."""
        with self._wake:
            if self._closing or self._draining:
                raise Refused(self._closing or "closed")
            free = sum(slot is None for slot in self._slots) + self._queue
            if len(self._waiting) + len(asks) > free:
                raise Refused("full")
            for ask in asks:
                ask.number, self._submitted = self._submitted, self._submitted + 1
            self._waiting.extend(asks)
            self._wake.notify()

    def cancel(self, asks: Sequence[Ask]) -> None:
        """Nobody reads `asks` any more: their slots are free at the next step."""
        with self._wake:
            for ask in asks:
                ask.over = True
            self._wake.notify()

    def drain(self) -> None:
        """Take nothing more, and go on with what there is."""
        with self._wake:
            self._draining = True

    def close(self) -> None:
        """End what is being written, and the thread. Returns at once."""
        with self._wake:
            self._closing = self._closing or "closed"
            self._wake.notify()

    def join(self, timeout: float) -> None:
        """Wait for the thread's end, for `timeout` seconds at most."""
        self._thread.join(timeout)

    @property
    def capacity(self) -> int:
        """Texts that can be written or wait at once."""
        return len(self._slots) + self._queue

    @property
    def failed(self) -> bool:
        return self._closing == "failed"

    def counts(self) -> dict[str, int]:
        """Slots, how many of them are taken, and how many texts wait."""
        with self._wake:
            return {
                "slots": len(self._slots),
                "active": sum(ask is not None for ask in self._slots),
                "waiting": sum(not ask.over for ask in self._waiting),
            }

    # The engine's own thread.

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except Exception as error:
            logging.error("the engine has failed and answers nothing any more: %r", error)
            self._closing = "failed"
        with self._wake:
            left = [*(ask for ask in self._slots if ask), *self._waiting]
            self._slots = [None] * len(self._slots)
            self._waiting.clear()
        self._sent.clear()
        for ask in left:
            self._end(ask, self._closing or "closed")

    def _turn(self) -> bool:
        """One turn; False once the engine is closing."""
        with self._wake:
            while not (self._closing or self._sent or self._waiting or any(self._slots)):
                self._wake.wait()
            if self._closing:
                return False
            late = self._let_go()
            self._admit()
        for ask in late:
            self._end(ask, "time")
        sent = len(self._sent)
        self._read_a_chunk()
        self._step_all()
        for _ in range(sent):  # what is new stays with the device
            self._hand_out(self._sent.popleft())
        return True

    def _let_go(self) -> list[Ask]:
        """Free the slots and places of those that are over; returns those whose time is."""
        now = time.monotonic()
        everyone = [*(ask for ask in self._slots if ask), *self._waiting]
        late = [ask for ask in everyone if not ask.over and ask.deadline < now]
        gone = {*late, *(ask for ask in everyone if ask.over)}
        if gone:
            self._slots = [None if ask in gone else ask for ask in self._slots]
            self._waiting = deque(ask for ask in self._waiting if ask not in gone)
        return late

    def _admit(self) -> None:
        for slot, taken in enumerate(self._slots):
            if taken is None and self._waiting:
                self._slots[slot] = self._waiting.popleft()

    def _read_a_chunk(self) -> None:
        """Read on in the prompt of the row that has least of it left, so that one is done soon, and
        of the oldest by turns, so that all come to an end while short ones keep coming.
        """
        begun = [
            (len(ask.prompt) - ask.read, slot, ask)
            for slot, ask in enumerate(self._slots)
            if ask and ask.read < len(ask.prompt)
        ]
        if not begun:
            return
        oldest, self._oldest_next = self._oldest_next, not self._oldest_next
        left, slot, ask = min(begun, key=lambda row: row[2].number if oldest else row[:2])
        small, large = self._chunks[0], self._chunks[-1]
        # A padded chunk must end within the slot.
        size = large if left > 2 * small and ask.read + large <= self._reaches[-1] else small
        tokens_T, next_T = np.zeros(size, np.int32), np.zeros(size, np.int32)
        now = ask.prompt[ask.read : ask.read + size]
        after = ask.prompt[ask.read + 1 : ask.read + size + 1]
        tokens_T[: len(now)], next_T[: len(after)] = now, after
        token_1, told, of_prompt = self._read(slot, tokens_T, next_T, len(now), ask)
        ask.read += len(now)
        whole = ask.read == len(ask.prompt)
        ask.drawn = int(whole and ask.most > 0)
        scored = _Scored(ask, after, of_prompt) if ask.score else None
        if whole or scored:
            rows = {0: ask} if ask.drawn else {}
            self._sent.append(_Sent(token_1, told, rows, scored, ask if whole else None))

    def _step_all(self) -> None:
        """Draw a token for each row whose prompt is read and that wants one."""
        ready = {
            slot: ask for slot, ask in enumerate(self._slots) if ask and 0 < ask.drawn < ask.most
        }
        if not ready:
            return
        width = next(width for width in self._widths if width > max(ready))
        # Rows that sit out write too, to where their own next token will go.
        lengths = [ask.length if ask else 0 for ask in self._slots[:width]]
        reach = next((reach for reach in self._reaches if reach > max(lengths)), self._reaches[-1])
        asks = [ready.get(slot) for slot in range(width)]
        token_B, told = self._step(np.array(lengths, np.int32), reach, asks)
        for ask in ready.values():
            ask.drawn += 1
        self._sent.append(_Sent(token_B, told, ready))

    def _read(
        self, slot: int, tokens_T: np.ndarray, next_T: np.ndarray, count: int, ask: Ask
    ) -> tuple[jax.Array, Told, Told]:
        self._cache, self._token_S, token_1, told, of_prompt = programs.read(
            self._params,
            self._cache,
            self._token_S,
            tokens_T,
            next_T,
            np.int32(slot),
            np.int32(ask.read),
            np.int32(count - 1),
            np.bool_(ask.score is not None),
            _settings([ask]),
            **self._static,
        )
        return token_1, told, of_prompt

    def _step(
        self, length_B: np.ndarray, reach: int, asks: Sequence[Ask | None]
    ) -> tuple[jax.Array, Told]:
        self._cache, self._token_S, token_B, told = programs.step(
            self._params,
            self._cache,
            self._token_S,
            np.minimum(length_B, reach - 1),
            _settings(asks),
            **self._static,
            reach=reach,
        )
        return token_B, told

    def _hand_out(self, sent: _Sent) -> None:
        """Give what has come to those who still want it."""
        if sent.scored and not sent.scored.ask.over:
            scored = sent.scored
            scored.ask.scored += _places(scored.tokens, scored.told)
        read = sent.read
        if read and read.score and not read.over:
            self._calling(read, read.score, read.scored)
        if read and not read.most:
            self._end(read, "length")
        rows = {row: ask for row, ask in sent.rows.items() if not ask.over}
        if not rows:
            return
        told = sent.told if any(ask.told for ask in rows.values()) else None
        places = _places(np.asarray(sent.token_B), told)
        for row, ask in rows.items():
            ask.taken += 1
            if self._calling(ask, ask.take, places[row]):
                ask.over = True
            elif ask.taken == ask.most:
                self._end(ask, "length")

    def _end(self, ask: Ask, why: End) -> None:
        if not ask.over:
            ask.over = True
            self._calling(ask, ask.end, why)

    def _calling(self, ask: Ask, reader: Callable[[Any], Any], what: Any) -> Any:
        """What a reader answers; one that fails ends its own text, and no other."""
        try:
            return reader(what)
        except Exception as error:
            logging.error("a text has ended early: %r", error)
            self._end(ask, "failed")
            return True


def _geometric(first: int, last: int) -> tuple[int, ...]:
    """`first`, four times that, and so on, up to `last`."""
    sizes = []
    while first < last:
        sizes.append(first)
        first *= 4
    return (*sizes, last)


def _settings(asks: Sequence[Ask | None]) -> Settings:
    """How the rows are drawn; those of nobody take the likeliest token."""
    return Settings(
        np.array([ask.temperature if ask else 0 for ask in asks], np.float32),
        np.array([ask.top_p if ask else 1 for ask in asks], np.float32),
        np.array([ask.seed if ask else 0 for ask in asks], np.uint32),
        np.array([ask.choice if ask else 0 for ask in asks], np.int32),
        np.bool_(any(ask and ask.top_p < 1 for ask in asks)),
        np.bool_(any(ask and ask.told for ask in asks)),
    )


def _places(tokens: np.ndarray, told: Told | None) -> list[Place]:
    """One Place for each of `tokens`, which the rows of `told` begin with."""
    if told is None:
        return [Place(token, 0.0) for token in tokens.tolist()]
    ids = np.asarray(told.top_ids_BK).tolist()
    logprobs = np.asarray(told.top_logprobs_BK).tolist()
    tops = [tuple(zip(*pair, strict=True)) for pair in zip(ids, logprobs, strict=True)]
    each = zip(tokens.tolist(), np.asarray(told.logprob_B).tolist(), tops, strict=False)
    return [Place(*place) for place in each]
