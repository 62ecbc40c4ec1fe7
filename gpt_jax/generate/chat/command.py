"""`gpt-jax chat`: a conversation in the terminal.

A reply comes as it is written, and Ctrl-C stops it; Ctrl-D ends the conversation. What no longer
fits the model's context is forgotten from the oldest turn on, and that is said.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from queue import SimpleQueue

import numpy as np

from gpt_jax.config import InputError, ModelConfig, require
from gpt_jax.data import chat
from gpt_jax.data.chat import Message
from gpt_jax.data.prompts import prompt_ids
from gpt_jax.data.tokenizers import Tokenizer
from gpt_jax.generate.serve.api import Wish
from gpt_jax.generate.serve.engine import Engine
from gpt_jax.generate.serve.rows import Piece, Row
from gpt_jax.model.sampling import Sampling
from gpt_jax.train.run import load

REPLY_SHARE = 4
"""A reply has at least this part of the context, unless it may only be shorter."""


def run(options: argparse.Namespace) -> None:
    """Talk until the input ends."""
    how = Sampling(temperature=options.temperature, top_p=options.top_p)
    most, seed = options.max_new_tokens, options.seed
    require(0 <= seed < 2**32, f"--seed must be in [0, 2^32), and it is {seed}.")
    require(most is None or most > 0, f"--max-new-tokens must be positive, and it is {most}.")
    config, params, tokenizer = load(options.run_folder, options.step)
    engine = Engine(config.model, params, tokenizer.vocab_size, slots=1, queue=1)
    engine.start()
    talk = _Talk(engine, config.model, tokenizer, how, most, seed)
    if options.system.strip():
        talk.say("system", options.system)
    if sys.stdin.isatty():
        import readline  # noqa: F401 (lines can be edited)

        print("Ctrl-C stops a reply, Ctrl-D ends the conversation.")
    try:
        for line in _lines():
            talk.answer(line)
    finally:
        engine.close()
        engine.join(5)


def _lines() -> Iterator[str]:
    """What the user says, to the end of the input."""
    prompt = "> " if sys.stdin.isatty() else ""
    while True:
        try:
            line = input(prompt)
        except EOFError:
            if prompt:
                print()
            return
        except KeyboardInterrupt:
            if not prompt:
                raise
            print("\n(Ctrl-D ends the conversation)")
            continue
        if line.strip():
            yield line


class _Talk:
    """A conversation, and who answers in it."""

    def __init__(
        self,
        engine: Engine,
        model: ModelConfig,
        tokenizer: Tokenizer,
        how: Sampling,
        most: int | None,
        seed: int,
    ) -> None:
        self._engine, self._tokenizer, self._context = engine, tokenizer, model.context_length
        self._how, self._most, self._seed = how, most, seed
        self._messages: list[Message] = []

    def say(self, role: str, content: str) -> None:
        self._messages.append(Message(role, content.strip()))

    def answer(self, line: str) -> None:
        """Write the reply to what the user says, as it comes, and remember both."""
        self.say("user", line)
        try:
            ids = self._fitting()
        except InputError as error:  # such as a character that the tokenizer does not know
            self._messages.pop()
            print(f"({error})")
            return
        reply = ""
        try:
            for piece in self._pieces(ids):
                print(piece, end="", flush=True)
                reply += piece
        except KeyboardInterrupt:
            print(" (stopped)", end="")
        print(flush=True)
        if reply.strip():
            self.say("assistant", reply)
        else:
            self._messages.pop()  # a conversation has no empty turns
            print("(no reply)")

    def _fitting(self) -> np.ndarray:
        """The conversation's tokens, less the oldest turns where it must be; raises InputError."""
        room = min(self._most or self._context, max(self._context // REPLY_SHARE, 1))
        kept = list(self._messages)
        told = [message for message in kept if message.role == "system"]
        turns = [message for message in kept if message.role != "system"]
        for first in range(0, len(turns), 2):
            ids = prompt_ids(self._tokenizer, chat.render(told + turns[first:]))
            if len(ids) + room <= self._context:
                if first:
                    self._messages = told + turns[first:]
                    print(
                        f"(the conversation is longer than the {self._context} tokens that the "
                        f"model reads: its oldest {first} messages are forgotten)"
                    )
                return ids
        raise InputError(
            f"the model reads {self._context} tokens, and that is too long to leave {room} of them "
            "for the reply: say it in fewer words."
        )

    def _pieces(self, ids: np.ndarray) -> Iterator[str]:
        pieces: SimpleQueue[Piece] = SimpleQueue()
        room = self._context - len(ids)
        wish = Wish(
            prompts=(ids,),
            most=min(self._most or room, room),
            n=1,
            temperature=self._how.temperature,
            top_p=self._how.top_p,
            seed=self._seed,
            stop=chat.STOP,
            stream=True,
            stream_usage=False,
            logprobs=None,
            chat=True,
        )
        row = Row(self._tokenizer, wish, 0, ids, pieces.put, float("inf"))
        self._engine.submit([row.ask])
        try:
            while True:
                piece = pieces.get()
                yield piece.text
                if piece.finish:
                    require(
                        piece.finish in ("stop", "length"),
                        "the model has failed: see the message above.",
                    )
                    return
        finally:
            self._engine.cancel([row.ask])
