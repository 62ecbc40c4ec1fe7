"""The GPT-3 paper as a program: pretraining, fine-tuning and scaling studies in JAX.

    config, params, tokenizer = gpt_jax.load("runs/quickstart")
    logits = gpt_jax.GPT(config.model).apply({"params": params}, tokens)

What is public is imported when it is first asked for, so that `import gpt_jax` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt_jax.config import Config, InputError
    from gpt_jax.interop.load import load_hf
    from gpt_jax.model.decoder import GPT
    from gpt_jax.train.run import load

__all__ = ["GPT", "Config", "InputError", "load", "load_hf"]

_HOMES = {
    "Config": "gpt_jax.config",
    "InputError": "gpt_jax.config",
    "GPT": "gpt_jax.model.decoder",
    "load": "gpt_jax.train.run",
    "load_hf": "gpt_jax.interop.load",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gpt_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
