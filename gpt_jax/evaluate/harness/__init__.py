"""A run as a model of the lm-evaluation-harness, which then puts any of its tasks to it.

    python -m gpt_jax.evaluate.harness --model gpt_jax --model_args run=RUN --tasks TASK

is the harness's own `lm_eval` command with this model known to it: the harness finds models by what
has been imported, and has no way for a package to tell of its own. Where a script of yours imports
this module, `lm_eval.simple_evaluate(model="gpt_jax", model_args="run=RUN", ...)` finds it too.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from gpt_jax.config import nearest, require
from gpt_jax.data import chat
from gpt_jax.evaluate.language_model import BATCH_TOKENS, LanguageModel
from gpt_jax.evaluate.load import load_model
from gpt_jax.model.sampling import Sampling
from gpt_jax.paths import user_path

try:
    from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]
    from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports]
    from lm_eval.models.utils import (  # pyright: ignore[reportMissingImports]
        normalize_gen_kwargs,
    )
except ImportError as error:
    raise ImportError(
        "this model of the lm-evaluation-harness needs lm-eval 0.4.13 or later, which is not "
        "installed: pip install 'gpt_jax[harness]', or -e '.[harness]' in a clone."
    ) from error

ARGUMENTS = ("run", "step", "fsdp", "device_batch_tokens")
"""What --model_args may name."""
OF_THE_HARNESS = ("batch_size", "max_batch_size", "device", "trust_remote_code")
"""What it passes to every model, for its own options; none is read: rows go by length."""


@register_model("gpt_jax")
class GPTJax(LM):
    """A run, over all devices here: `--model gpt_jax --model_args run=RUN[,step=best][,fsdp=2]`.

    Args:
      run: the folder of a run.
      step: as of `gpt-jax evaluate`.
      fsdp: devices to split the weights over.
      device_batch_tokens: tokens that a device takes at a time.
      model: instead of a run, a `LanguageModel` with its parameters.

    Raises InputError for an argument that is none of these, nor of `OF_THE_HARNESS`.
    """

    def __init__(
        self,
        run: str = "",
        step: str | int | None = None,
        fsdp: int = 1,
        device_batch_tokens: int = BATCH_TOKENS,
        model: LanguageModel | None = None,
        **others: Any,
    ) -> None:
        super().__init__()
        for name in others:
            require(
                name in OF_THE_HARNESS,
                f"--model_args of gpt_jax are {', '.join(ARGUMENTS)}, and {name!r} is none of "
                f"them: {nearest(name, ARGUMENTS)}",
            )
        require(bool(run) != (model is not None), "give run=RUN, the folder of a run.")
        if model is None:
            path = user_path(run)
            model = load_model(path, step, None, int(fsdp), int(device_batch_tokens)).model
        self.language_model = model

    def loglikelihood(
        self, requests: list[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """(log-probability of the continuation, whether it is greedy) of each request."""
        pairs = [request.args for request in requests]
        found = self.language_model.loglikelihoods(pairs)
        answers = [(one.logprob, one.greedy) for one in found]
        for pair, answer in zip(pairs, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", pair, answer)
        return answers

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of each text as a whole document."""
        texts = [text for (text,) in (request.args for request in requests)]
        answers = [one.logprob for one in self.language_model.rolling(texts)]
        for text, answer in zip(texts, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), answer)
        return answers

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """What follows each context, up to one of its stop strings."""
        asked = [request.args for request in requests]
        groups: dict[tuple, list[int]] = defaultdict(list)
        for n, (_, wishes) in enumerate(asked):
            groups[self._settings(wishes)].append(n)
        answers = [""] * len(asked)
        for (stop, most, how), members in groups.items():
            contexts = [asked[n][0] for n in members]
            texts = self.language_model.generate(contexts, stop, most, how)
            for n, text in zip(members, texts, strict=True):
                answers[n] = text
                self.cache_hook.add_partial("generate_until", asked[n], text)
        return answers

    def _settings(self, wishes: dict[str, Any]) -> tuple[tuple[str, ...], int, Sampling]:
        """Stop strings, tokens at most, and how they are drawn."""
        known: dict[str, Any] = dict(normalize_gen_kwargs(wishes))
        # Half of the context stays the prompt's, however much is asked for.
        most = min(known["max_gen_toks"], self.language_model.config.context_length // 2)
        how = Sampling(
            temperature=known["temperature"] if known["do_sample"] else 0.0,
            top_k=known.get("top_k", 0),
            top_p=known.get("top_p", 1.0),
        )
        return tuple(known["until"]), most, how

    @property
    def tokenizer_name(self) -> str:
        """For the harness' caches: what the tokens and the chat template follow from."""
        return f"gpt_jax-{self.language_model.tokenizer.digest[:12]}"

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The one template there is, told by its beginning."""
        return chat.__doc__ if chat_template else None

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as our own server reads it."""
        return chat.render(chat_history, for_reply=add_generation_prompt)
