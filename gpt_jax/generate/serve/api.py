"""OpenAI's requests, read and checked: what a client wants, or the error that tells it why not.

The fields are those of https://platform.openai.com/docs/api-reference, for completions and for
chat/completions. One that this server does not do may be there with the value that asks for
nothing; any other value, and any name that is not known, is an error that names the field.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpt_jax.config import InputError, ModelConfig
from gpt_jax.data import chat
from gpt_jax.data.prompts import prompt_ids
from gpt_jax.data.tokenizers import Tokenizer
from gpt_jax.generate.serve.slots import TOP

MOST_CHOICES = 128
MOST_STOPS = 4
IGNORED = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")
"""Fields that say nothing of the text."""
ASK_NOTHING: Mapping[str, tuple[Any, ...]] = {
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "suffix": ("",),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
"""Fields of what this server does not do, and the values with which they ask for nothing."""
_KINDS = {404: "not_found_error", 413: "invalid_request_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """What is answered instead of a text, by the API's own form."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None
    ):
        super().__init__(message)
        kind = "server_error" if status >= 500 else "invalid_request_error"
        kind = _KINDS.get(status, kind)
        # A client's own name for it may hold half of a surrogate pair, which is not UTF-8.
        param = param and param.encode("utf-8", "replace").decode()
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


@dataclass(frozen=True)
class Limits:
    """What one request may ask for, and for how long it may take."""

    body: int
    """Bytes."""
    prompt: int
    """Tokens of a prompt."""
    tokens: int
    """Tokens of a text."""
    seconds: float
    """From when it is read until its last token, and for its body to come."""
    texts: int
    """Texts that can be written or wait, of all requests together."""


@dataclass(frozen=True)
class Served:
    """The model that is served, and within which limits."""

    name: str
    model: ModelConfig
    tokenizer: Tokenizer
    limits: Limits

    @property
    def vocab_size(self) -> int:
        """Tokens that both the model and the tokenizer know."""
        return min(self.tokenizer.vocab_size, self.model.vocab_size)


@dataclass(frozen=True)
class Wish:
    """What a request asks for, with nothing left to be checked."""

    prompts: tuple[np.ndarray, ...]
    most: int
    """Tokens of each text."""
    n: int
    """Texts for each prompt."""
    temperature: float
    top_p: float
    seed: int
    stop: tuple[str, ...]
    stream: bool
    stream_usage: bool
    logprobs: int | None
    """Likeliest tokens to tell of at each place; None: no log-probabilities at all."""
    echo: bool = False
    chat: bool = False


class Fields:
    """The fields of a request; each is asked for by name, and `done` refuses the others."""

    def __init__(self, body: Any) -> None:
        if not isinstance(body, dict):
            raise ApiError(400, f"a request is a JSON object, and this is {body!r:.40}.")
        self._left = dict(body)

    def take(self, name: str, what: str, fits: Callable[[Any], bool], default: Any = None) -> Any:
        """The value of a field, `default` where it is not there or null; must be `what`."""
        value = self._left.pop(name, None)
        if value is None:
            return default
        if not fits(value):
            raise ApiError(400, f"{name} must be {what}, and it is {value!r:.60}.", name)
        return value

    def whole(self, name: str, default: Any, low: int, high: int) -> Any:
        """An integer from `low` to `high`."""
        what = f"an integer from {low} to {high}"
        return self.take(name, what, lambda x: _is_whole(x) and low <= x <= high, default)

    def number(self, name: str, default: float, high: float) -> float:
        """A number from 0 to `high`."""

        def fits(value: Any) -> bool:
            return (_is_whole(value) or isinstance(value, float)) and 0 <= value <= high

        return float(self.take(name, f"a number from 0 to {high:g}", fits, default))

    def flag(self, name: str) -> bool:
        return self.take(name, "true or false", lambda x: isinstance(x, bool), False)

    def done(self) -> None:
        """Raise ApiError for what is left, unless it asks for nothing."""
        for name, value in self._left.items():
            if name in IGNORED or (name in ASK_NOTHING and value is None):
                continue
            neutral = ASK_NOTHING.get(name)
            if neutral is None:
                raise ApiError(400, f"there is no field {name!r:.60} here: leave it out.", name)
            if value not in neutral:
                raise ApiError(
                    400,
                    f"{name} is not supported by this server: leave it out.",
                    name,
                    "unsupported",
                )


def completion(served: Served, body: Any) -> Wish:
    """A request to /v1/completions; raises ApiError."""
    fields = Fields(body)
    _check_model(served, fields)
    prompts = _prompts(served, fields)
    echo = fields.flag("echo")
    # With nothing to write, what is left to do is to score the prompt.
    most = _most(served, fields, ["max_tokens"], max(map(len, prompts)), 16, low=0 if echo else 1)
    wish = _wish(served, fields, prompts, most, fields.whole("logprobs", None, 0, TOP), echo=echo)
    best_of = fields.whole("best_of", wish.n, 1, MOST_CHOICES)
    if best_of != wish.n:
        raise ApiError(
            400,
            f"best_of is not supported by this server, and it is {best_of}: ask for n texts with "
            "logprobs, and choose.",
            "best_of",
            "unsupported",
        )
    fields.done()
    return wish


def chat_completion(served: Served, body: Any) -> Wish:
    """A request to /v1/chat/completions; raises ApiError."""
    fields = Fields(body)
    _check_model(served, fields)
    messages = fields.take("messages", "a list of messages", lambda x: isinstance(x, list))
    if messages is None:
        raise ApiError(
            400, "messages is needed: a list of objects with role and content.", "messages"
        )
    try:
        ids = _checked(served, prompt_ids(served.tokenizer, chat.render(messages)), "messages")
    except InputError as error:
        raise ApiError(400, str(error), "messages") from None
    names = ["max_completion_tokens", "max_tokens"]
    most = _most(served, fields, names, len(ids), served.limits.tokens)
    wants = fields.flag("logprobs")
    top = fields.whole("top_logprobs", None, 0, TOP)
    if top is not None and not wants:
        raise ApiError(400, "top_logprobs needs logprobs to be true.", "top_logprobs")
    logprobs = (top or 0) if wants else None
    wish = _wish(served, fields, (ids,), most, logprobs, stop=chat.STOP, chat=True)
    fields.done()
    return wish


def _wish(
    served: Served,
    fields: Fields,
    prompts: tuple[np.ndarray, ...],
    most: int,
    logprobs: int | None,
    stop: Sequence[str] = (),
    **kind: bool,
) -> Wish:
    """What both kinds of request have in common."""
    n = fields.whole("n", 1, 1, MOST_CHOICES)
    if n * len(prompts) > served.limits.texts:
        raise ApiError(
            400,
            f"a request may ask for {served.limits.texts} texts, and {len(prompts)} prompts with "
            f"n={n} are more.",
            "n" if n > 1 else "prompt",
        )
    stream = fields.flag("stream")
    asked = fields.take(
        "stream_options",
        "an object with include_usage alone, for a stream",
        lambda x: stream and isinstance(x, dict) and all(map(_is_stream_option, x.items())),
        {},
    )
    seed = fields.whole("seed", None, -(2**63), 2**63 - 1)
    return Wish(
        prompts=prompts,
        most=most,
        n=n,
        temperature=fields.number("temperature", 1.0, 2.0),
        top_p=max(fields.number("top_p", 1.0, 1.0), 1e-6),
        seed=secrets.randbits(32) if seed is None else seed % 2**32,
        stop=(*stop, *_stops(fields)),
        stream=stream,
        stream_usage=bool(asked.get("include_usage")),
        logprobs=logprobs,
        **kind,
    )


def _check_model(served: Served, fields: Fields) -> None:
    name = fields.take("model", "the name of a model", lambda x: isinstance(x, str))
    if name is None:
        raise ApiError(400, f"model is needed, and here it is {served.name!r}.", "model")
    if name != served.name:
        raise ApiError(
            404,
            f"the model served here is {served.name!r}, and {name!r:.80} is asked for.",
            "model",
            "model_not_found",
        )


def _prompts(served: Served, fields: Fields) -> tuple[np.ndarray, ...]:
    what = "a text, a list of texts, token ids, or a list of lists of token ids"
    value = fields.take("prompt", what, lambda x: _is_prompt(x) or _are_prompts(x), "")
    prompts = value if _are_prompts(value) else [value]
    if len(prompts) > served.limits.texts:
        raise ApiError(
            400,
            f"a request may ask for {served.limits.texts} texts, and there are {len(prompts)} "
            "prompts.",
            "prompt",
        )
    try:
        return tuple(_checked(served, _ids(served, prompt), "prompt") for prompt in prompts)
    except InputError as error:
        raise ApiError(400, str(error), "prompt") from None


def _ids(served: Served, prompt: str | list[int]) -> np.ndarray:
    """The tokens of a prompt; names of special tokens in a text are text."""
    if isinstance(prompt, str):
        return prompt_ids(served.tokenizer, prompt)
    wrong = [token for token in prompt if not 0 <= token < served.vocab_size]
    if wrong:
        raise ApiError(
            400,
            f"token ids are below the vocabulary's size of {served.vocab_size}, and there is "
            f"{wrong[0]!r:.40}.",
            "prompt",
        )
    return np.array(prompt, np.int32)


def _checked(served: Served, ids: np.ndarray, param: str) -> np.ndarray:
    """`ids`, once they are known to be some, and few enough to be continued."""
    if len(ids) == 0:
        raise ApiError(400, "the tokenizer makes no tokens of this: say something.", param)
    most, context = served.limits.prompt, served.model.context_length
    if len(ids) > min(most, context - 1):
        why = (
            f"the model reads {context} tokens, prompt and text together"
            if len(ids) >= context
            else f"a prompt may have {most} tokens here"
        )
        raise ApiError(
            400, f"{why}, and these are {len(ids)}: shorten it.", param, "context_length_exceeded"
        )
    return ids


def _most(
    served: Served, fields: Fields, names: list[str], read: int, default: int, low: int = 1
) -> int:
    """Tokens to write, by the first of `names` that is there: no more than there is room for."""
    values = [(name, fields.whole(name, None, low, 2**63)) for name in names]
    room, limit = served.model.context_length - read, served.limits.tokens
    name, value = next((pair for pair in values if pair[1] is not None), ("", None))
    if value is None:
        return min(default, room, limit)
    if value > limit:
        raise ApiError(400, f"{name} may be {limit} here, and it is {value}.", name)
    if value > room:
        raise ApiError(
            400,
            f"the model reads {served.model.context_length} tokens, prompt and text together, and "
            f"{read} of the prompt and {name}={value} are more: ask for {room}, or shorten the "
            "prompt.",
            name,
            "context_length_exceeded",
        )
    return value


def _stops(fields: Fields) -> list[str]:
    def fits(value: Any) -> bool:
        texts = value if isinstance(value, list) else [value]
        return len(texts) <= MOST_STOPS and all(isinstance(x, str) and x for x in texts)

    value = fields.take("stop", f"a text, or up to {MOST_STOPS} of them, none empty", fits, [])
    return [value] if isinstance(value, str) else value


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_prompt(value: Any) -> bool:
    """Text, or token ids."""
    if isinstance(value, list):
        return len(value) > 0 and all(map(_is_whole, value))
    return isinstance(value, str)


def _are_prompts(value: Any) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return all(map(_is_prompt, value)) and len({type(prompt) for prompt in value}) == 1


def _is_stream_option(item: tuple[str, Any]) -> bool:
    return item[0] in ("include_usage", "include_obfuscation") and isinstance(item[1], bool)
