"""One text as it is written: tokens to pieces of text, with what is told of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from gpt_jax.data.chat import ReplyPieces
from gpt_jax.data.prompts import TextRow
from gpt_jax.data.tokenizers import Tokenizer
from gpt_jax.generate.serve.api import Wish
from gpt_jax.generate.serve.engine import Ask, Place


@dataclass(frozen=True)
class Logged:
    """A token of a text, and what is told of it."""

    place: Place | None
    """None for the first token of a prompt, which nothing predicts."""
    token: int
    offset: int
    """Characters of the text before it."""


@dataclass(frozen=True)
class Piece:
    """What there is to be sent of one text."""

    index: int
    text: str = ""
    logged: tuple[Logged, ...] = ()
    finish: str = ""
    """With the last piece: "stop", "length", or the engine's reason for having ended it."""


class Row:
    """What an engine tells of one text, as pieces; `send` is called on the engine's thread."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        wish: Wish,
        index: int,
        prompt: np.ndarray,
        send: Callable[[Piece], None],
        deadline: float,
    ) -> None:
        self._tokenizer, self._index, self._send = tokenizer, index, send
        self._row = TextRow(tokenizer, wish.stop, prompt)
        self._reply = ReplyPieces() if wish.chat else None
        # The same text once more, without stop strings, to know where its tokens begin.
        self._stream = tokenizer.stream(prompt) if wish.logprobs is not None else None
        self._offset = self._released = 0
        self._held: list[Logged] = []
        self.ask = Ask(
            prompt,
            wish.most,
            self._take,
            lambda why: self._finish(self._row.flush(), why),
            temperature=wish.temperature,
            top_p=wish.top_p,
            seed=wish.seed,
            choice=index % wish.n,
            told=wish.logprobs is not None,
            deadline=deadline,
        )
        if wish.echo and self._stream:
            self.ask.score = self._echo
        elif wish.echo:
            self._send(Piece(index, tokenizer.decode(prompt.tolist())))

    def _take(self, place: Place) -> bool:
        separator = place.token == self._tokenizer.separator
        if self._stream and not separator:
            self._held.append(Logged(place, place.token, self._offset))
            self._offset += len(self._stream.push(place.token))
        text = self._row.push(place.token)
        if self._row.ended:
            # Of a stop string's own tokens nothing is told, as nothing is shown of them.
            end = self._released + len(text)
            self._held = [item for item in self._held if separator or item.offset < end]
            self._finish(text, "stop")
        elif text:
            self._release(text)
        return self._row.ended

    def _release(self, text: str) -> None:
        """Send what can be shown, with the tokens that it began with."""
        self._released += len(text)
        logged = tuple(item for item in self._held if item.offset < self._released)
        self._held = self._held[len(logged) :]
        shown = self._reply.push(text) if self._reply else text
        if shown or logged:
            self._send(Piece(self._index, shown, logged))

    def _finish(self, text: str, why: str) -> None:
        if self._reply:
            text = self._reply.push(text) + self._reply.flush()
        self._send(Piece(self._index, text, tuple(self._held), why))

    def _echo(self, places: list[Place]) -> None:
        """Send the prompt, with what is told of its tokens."""
        ids = self.ask.prompt.tolist()
        stream = self._tokenizer.stream()
        texts = [stream.push(token) for token in ids]
        offsets = [*accumulate(map(len, texts), initial=0)][:-1]
        known = zip([None, *places], ids, offsets, strict=True)
        text = "".join(texts) + stream.flush()
        self._offset = self._released = len(text)
        self._send(Piece(self._index, text, tuple(Logged(*each) for each in known)))
