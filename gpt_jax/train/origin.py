"""What a run starts from, `init_from`: another run, or a model that somebody else's files hold."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax

from gpt_jax.config import Config, DataConfig, ModelConfig, flatten, require
from gpt_jax.data.tokenizers import Tokenizer, read_tokenizer
from gpt_jax.paths import resolved, user_path
from gpt_jax.train.checkpoint import load_params
from gpt_jax.train.run import read_config, step_to_load
from gpt_jax.train.state import boxed_params, laid_out
from gpt_jax.train.tune import effective


@dataclasses.dataclass(frozen=True)
class Origin:
    """A model with its tokenizer, and how its parameters are read."""

    model: ModelConfig
    tokenizer: Path
    """A folder that data.tokenizer can name."""
    read: Callable[[Any], Any]
    """From the abstract tree of plain parameters, with shardings, to these parameters, laid out
    so and of whatever dtype they were kept in."""


Reader = Callable[[Path], Origin]
"""Of a folder in the Hugging Face format; training itself knows runs alone."""


def open_origin(name: str, reader: Reader | None) -> Origin:
    """What `init_from` names; InputError where it is neither a run nor of `reader`'s kind."""
    path = resolved(user_path(name))
    if reader is not None and is_foreign(path):
        return reader(path)
    config = read_config(path)
    return Origin(config.model, path / "tokenizer", lambda plain: read_run(path, config, plain)[1])


def is_foreign(path: Path) -> bool:
    """Whether a folder has a model in the Hugging Face format."""
    try:
        return "model_type" in json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, RecursionError):
        return False  # `read_config` says what is wrong with it


def read_run(
    run: Path, config: Config, plain: Any, step: int | str | None = None
) -> tuple[int, Any]:
    """(step, its parameters, adapters merged, laid out as `plain`); `step` as in `gpt_jax.load`."""
    mesh = jax.tree.leaves(plain)[0].sharding.mesh
    wanted = laid_out(boxed_params(config.model, config.tune), mesh)
    number = step_to_load(run, config, step)
    number, params, _ = load_params(run / "checkpoints", wanted, number, any_dtype=True)
    if params.keys() == plain.keys():
        return number, params
    shardings = jax.tree.map(lambda leaf: leaf.sharding, plain)
    return number, jax.jit(partial(effective, config=config), out_shardings=shardings)(params)


def with_origin(config: Config, reader: Reader | None) -> Config:
    """`config` with model and tokenizer of its origin, where it says nothing of the model.

    The tokenizer is taken where `config` has the default one. Raises InputError where `open_origin`
    does.
    """
    if not config.init_from or config.model != ModelConfig():
        return config
    origin, data = open_origin(config.init_from, reader), config.data
    if data.tokenizer == DataConfig().tokenizer:
        data = dataclasses.replace(data, tokenizer=str(origin.tokenizer))
    # The kernel that it was trained with may not be had here.
    model = dataclasses.replace(origin.model, attention="auto")
    return dataclasses.replace(config, model=model, data=data)


def check_origin(config: Config, tokenizer: Tokenizer, origin: Origin) -> None:
    """Raise InputError unless what `config` starts from is of its model and tokenizer."""
    old, new = (flatten(model.architecture) for model in (origin.model, config.model))
    differences = [
        f"model.{name}: {old[name]!r} there, {new[name]!r} here"
        for name in old
        if old[name] != new[name] and not name.endswith("_dropout")
    ]
    require(
        not differences,
        f"a run starts from parameters of the same model, and {config.init_from} differs in "
        f"{'; '.join(differences)}: give that model, or say nothing of it in the experiment.",
    )
    theirs = read_tokenizer(str(origin.tokenizer))
    require(
        theirs.digest == tokenizer.digest,
        f"a run goes on with the tokenizer of the one it starts from, and that of "
        f"{config.init_from} is another (digests {theirs.digest[:12]} there, "
        f"{tokenizer.digest[:12]} here): set --data.tokenizer {origin.tokenizer}.",
    )
