"""Text to what a model reads, and its tokens back to text, up to a stop string."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from gpt_jax.data.tokenizers import Tokenizer


def prompt_ids(tokenizer: Tokenizer, prompt: str, special_tokens: bool = False) -> np.ndarray:
    """What the model reads of a prompt, (T,) int32: an empty one begins a document.

    `special_tokens`: their names in the prompt are those tokens.
    """
    if not prompt:
        return np.array([tokenizer.separator], np.int32)
    ids = tokenizer.encode(prompt, special_tokens)
    return np.concatenate([np.array(tokenizer.prefix, np.int32), ids])


class TextRow:
    """Tokens of one row to text, in pieces, up to the end of its document or a stop string.

    It ends before the `stop` string that is complete first (the longer of two at once); what might
    be the beginning of a stop string is held back until it is known not to be.
    """

    def __init__(
        self, tokenizer: Tokenizer, stop: Sequence[str], prompt: Iterable[int] = ()
    ) -> None:
        self._separator, self._stream = tokenizer.separator, tokenizer.stream(prompt)
        self._stop = [text for text in stop if text]
        self._held, self.ended = "", False

    def push(self, token: int) -> str:
        """What can be shown once `token` has come; "" after the end."""
        if self.ended:
            return ""
        if token == self._separator:
            return self.flush()
        return self._release(self._stream.push(token))

    def flush(self) -> str:
        """The rest of the text, and the end of the row."""
        if self.ended:
            return ""
        text = self._release(self._stream.flush())
        text, self._held, self.ended = text + self._held * (not self.ended), "", True
        return text

    def _release(self, text: str) -> str:
        """What of the held and new text can be shown."""
        self._held += text
        found = [
            (place + len(stop), place)
            for stop in self._stop
            if (place := self._held.find(stop)) >= 0
        ]
        if found:
            # By where they end: the same text ends the same way however it is cut into tokens.
            _, place = min(found)
            text, self._held, self.ended = self._held[:place], "", True
            return text
        may_begin = max((_overlap(self._held, stop) for stop in self._stop), default=0)
        cut = len(self._held) - may_begin
        text, self._held = self._held[:cut], self._held[cut:]
        return text


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` that begin `stop`."""
    sizes = range(min(len(text), len(stop) - 1), 0, -1)
    return next((size for size in sizes if text.endswith(stop[:size])), 0)
