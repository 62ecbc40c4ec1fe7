r"""Conversations to text: one template for training, `gpt-jax chat` and the server.

    <|system|>
    Answer in one line.
    <|end|>
    <|user|>
    What is 2 + 2?
    <|end|>
    <|assistant|>
    4.
    <|end|>

The tokenizers of the GPT family have no tokens for this, so it is plain text, in lower case (GPT-1
knows no other) and of marks that prose and code hardly ever hold. A reply ends where one begins,
with "<|". Text cannot forge that: "<|" in a message becomes "<\|" (and "<\|" becomes "<\\|"), which
`reply_of` takes back out of what a model wrote. Each mark stands between line ends and white space
around a message is dropped, so that the tokens of a turn are the same whatever stands beside it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gpt_jax.config import InputError, nearest, require

STOP = ("\n<|", "<|")
"""Strings before which a reply ends: the longer where both do at once, as in `TextRow`."""
ROLES = ("system", "user", "assistant")
NAMES = {role: role for role in ROLES} | {
    "developer": "system",
    "human": "user",
    "gpt": "assistant",
    "model": "assistant",
}
"""What others call them: OpenAI's newer models, ShareGPT, Gemma."""
KEYS = (("role", "content"), ("from", "value"))
"""Names of who speaks and of what is said."""
END = "\n<|end|>\n"


class Message(NamedTuple):
    """One turn of a conversation."""

    role: str
    """One of ROLES."""
    content: str
    """Not empty, without white space around it."""


def render(messages: Any, for_reply: bool = True) -> str:
    """The text of a conversation; `for_reply`: up to where the assistant begins to speak.

    Takes what `read_messages` takes, and raises what it raises.
    """
    turns = [_opened(role) + escape(content) + END for role, content in read_messages(messages)]
    return "".join(turns) + (_opened("assistant") if for_reply else "")


def escape(content: str) -> str:
    """Content as it stands in the template, without "<|" in it; `reply_of` undoes it."""
    return re.sub(r"<(\\*)\|", r"<\1\\|", content)


def reply_of(text: str) -> str:
    """The content of the message that a model wrote as `text`, which ends before a stop string."""
    return re.sub(r"<(\\*)\\\|", r"<\1|", text)


class ReplyPieces:
    """`reply_of` of text that comes in pieces: of all that was pushed, what can be shown of it."""

    def __init__(self) -> None:
        self._held = ""

    def push(self, text: str) -> str:
        """What can be shown now; what may be the beginning of an escaped mark is held back."""
        text = self._held + text
        cut = re.search(r"(<\\*)?\Z", text)
        assert cut is not None
        text, self._held = text[: cut.start()], text[cut.start() :]
        return reply_of(text)

    def flush(self) -> str:
        """The rest of it."""
        text, self._held = self._held, ""
        return text


def spans(messages: Any, where: str) -> list[tuple[str, str]]:
    """(what is read, what is learned) by turns: each reply is learned, after all before it.

    What follows the last reply is left out; where there is no reply there is nothing.
    Raises InputError as `read_messages` does.
    """
    found, read = [], ""
    for role, content in read_messages(messages, where):
        read += _opened(role)
        if role == "assistant":
            found.append((read, escape(content) + END))
            read = ""
        else:
            read += escape(content) + END
    return found


def read_messages(value: Any, where: str = "messages") -> list[Message]:
    """The turns of a conversation, as any of these has them.

    A list of {"role", "content"}, or of {"from", "value"}; the same as one dict of two lists, which
    TFDS makes of a sequence; or a list of texts, which the user and the assistant say by turns. A
    content may be in parts of text, [{"type": "text", "text": ...}], as OpenAI's clients send it.
    What this gives is one of these too.

    Raises:
      InputError: with `where`, the record's name: it is none of these, there is no message, a
        role that is not known, or a message without text.
    """
    if isinstance(value, Mapping):
        value = _rows(value, where)
    require(
        isinstance(value, Sequence) and not isinstance(value, str | bytes) and len(value) > 0,
        f"a conversation is a list of messages with a role and a content, and {where} is "
        f"{value!r:.60}.",
    )
    found = []
    for number, said in enumerate(value):
        if isinstance(said, str):
            said = Message(ROLES[1 + number % 2], said)
        if isinstance(said, Message):
            said = said._asdict()
        found.append(_message(said, f"message {number} of {where}"))
    return found


def _message(said: Any, where: str) -> Message:
    keys = next((keys for keys in KEYS if isinstance(said, Mapping) and keys[0] in said), None)
    if keys is None:
        raise InputError(
            "a message has a role and a content (or from and value, or is a text), and "
            f"{where} is {said!r:.60}."
        )
    role, content = (said.get(key) for key in keys)
    if not isinstance(role, str) or role not in NAMES:
        raise InputError(
            f"the role of {where} is not known: {role!r:.40}: {nearest(str(role), NAMES)}"
        )
    if isinstance(content, Sequence) and not isinstance(content, str):
        content = "".join(_part(part, where) for part in content)
    if not isinstance(content, str) or not content.strip():
        raise InputError(
            f"a message says something, and the {keys[1]} of {where} ({role}) is {content!r:.40}: "
            "leave the message out."
        )
    return Message(NAMES[role], content.strip())


def _part(part: Any, where: str) -> str:
    text = part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None
    if not isinstance(text, str):
        raise InputError(f"a part of a message is text, and in {where} there is {part!r:.60}.")
    return text


def _rows(columns: Mapping[str, Any], where: str) -> list[dict[str, Any]]:
    keys = next((keys for keys in KEYS if all(key in columns for key in keys)), None)
    lists = [columns[key] for key in keys] if keys else []
    if keys is None or not all(isinstance(x, list) for x in lists) or len(set(map(len, lists))) > 1:
        raise InputError(
            "a conversation in columns is a list of roles and one of contents, of one length, and "
            f"{where} is {columns!r:.60}."
        )
    return [dict(zip(keys, row, strict=True)) for row in zip(*lists, strict=True)]


def _opened(role: str) -> str:
    return f"<|{role}|>\n"
