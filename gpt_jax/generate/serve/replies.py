"""OpenAI's answers: pieces of texts to the objects that its clients read."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable
from typing import Any

from gpt_jax.data.tokenizers import Tokenizer
from gpt_jax.generate.serve.api import Wish
from gpt_jax.generate.serve.rows import Logged, Piece

Object = dict[str, Any]


class Form:
    """How one request is answered: its id and time, and texts or pieces of them as objects."""

    def __init__(self, wish: Wish, name: str, tokenizer: Tokenizer) -> None:
        self._wish, self._tokenizer = wish, tokenizer
        prefix = "chatcmpl-" if wish.chat else "cmpl-"
        self._head: Object = {
            "id": prefix + secrets.token_hex(12),
            "object": "chat.completion" if wish.chat else "text_completion",
            "created": int(time.time()),
            "model": name,
        }

    def whole(self, pieces: Iterable[Piece], usage: Object) -> Object:
        """The answer to a request that is not streamed."""
        found: dict[int, list[Piece]] = {}
        for piece in pieces:
            found.setdefault(piece.index, []).append(piece)
        choices = []
        for index in sorted(found):
            text = "".join(piece.text for piece in found[index])
            logged = [item for piece in found[index] for item in piece.logged]
            said = {"message": self._message(text)} if self._wish.chat else {"text": text}
            finish = found[index][-1].finish
            choices.append(self._choice(index, said, logged, finish))
        return self._head | {"choices": choices, "usage": usage}

    def first(self) -> list[Object]:
        """What a stream begins with: in a chat, who speaks."""
        if not self._wish.chat:
            return []
        said = {"delta": {"role": "assistant", "content": "", "refusal": None}}
        return [self._chunk([self._choice(n, said, None, "")]) for n in range(self._wish.n)]

    def part(self, piece: Piece) -> list[Object]:
        """What a stream sends for a piece: in a chat, the end comes by itself."""
        chat, logged, choices = self._wish.chat, piece.logged, []
        if not chat:
            choices = [self._choice(piece.index, {"text": piece.text}, logged, piece.finish)]
        else:
            if piece.text or logged:
                said = {"delta": {"content": piece.text}}
                choices.append(self._choice(piece.index, said, logged, ""))
            if piece.finish:
                choices.append(self._choice(piece.index, {"delta": {}}, None, piece.finish))
        return [self._chunk([choice]) for choice in choices]

    def last(self, usage: Object) -> list[Object]:
        """What a stream ends with, where the usage is asked for."""
        return [self._chunk([]) | {"usage": usage}] if self._wish.stream_usage else []

    def _chunk(self, choices: list[Object]) -> Object:
        kind = {"object": "chat.completion.chunk"} if self._wish.chat else {}
        usage = {"usage": None} if self._wish.stream_usage else {}
        return self._head | kind | {"choices": choices} | usage

    def _message(self, text: str) -> Object:
        return {"role": "assistant", "content": text, "refusal": None}

    def _choice(
        self, index: int, said: Object, logged: Iterable[Logged] | None, finish: str
    ) -> Object:
        logprobs = None
        if logged is not None and self._wish.logprobs is not None:
            logprobs = self._chat_logs(logged) if self._wish.chat else self._logs(logged)
        return {"index": index, **said, "logprobs": logprobs, "finish_reason": finish or None}

    def _logs(self, logged: Iterable[Logged]) -> Object:
        """Log-probabilities as completions have them: lists over the tokens."""
        logged = list(logged)
        tops = [
            {self._name(token): logprob for token, logprob in item.place.top[: self._wish.logprobs]}
            if item.place
            else None
            for item in logged
        ]
        return {
            "tokens": [self._name(item.token) for item in logged],
            "token_logprobs": [item.place.logprob if item.place else None for item in logged],
            "top_logprobs": tops if self._wish.logprobs else None,
            "text_offset": [item.offset for item in logged],
        }

    def _chat_logs(self, logged: Iterable[Logged]) -> Object:
        """Log-probabilities as chats have them: an object for each token."""
        content = []
        for item in logged:
            assert item.place, "a chat has no echo"
            tops = item.place.top[: self._wish.logprobs]
            of_token = self._chat_log(item.token, item.place.logprob)
            content.append(of_token | {"top_logprobs": [self._chat_log(*top) for top in tops]})
        return {"content": content, "refusal": None}

    def _chat_log(self, token: int, logprob: float) -> Object:
        table = self._tokenizer.table[token]
        return {"token": self._name(token), "logprob": logprob, "bytes": list(table) or None}

    def _name(self, token: int) -> str:
        """A token's text; OpenAI's form for part of a character; the name of what is no text."""
        data = self._tokenizer.table[token]
        if not data:
            special = self._tokenizer.special_tokens.items()
            return next((name for name, known in special if known == token), f"<{token}>")
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def usage(read: int, written: int) -> Object:
    """Tokens of the prompts, each counted once, and of the texts."""
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
