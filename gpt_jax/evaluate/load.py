"""A model from its folder onto the mesh, ready to be asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpt_jax.config import Config, MeshConfig
from gpt_jax.evaluate.language_model import BATCH_TOKENS, LanguageModel
from gpt_jax.parallel.mesh import make_mesh
from gpt_jax.train.run import load
from gpt_jax.train.storage import steps_of


@dataclass(frozen=True)
class Loaded:
    """A model, and where it comes from."""

    model: LanguageModel
    config: Config | None
    """Of the run; None of a model from elsewhere."""
    step: int | None


def load_model(
    folder: Path,
    step: str | int | None = None,
    reader: Any = None,
    fsdp: int = 1,
    batch_tokens: int = BATCH_TOKENS,
) -> Loaded:
    """The model of a run over all devices."""
    mesh = make_mesh(MeshConfig(fsdp=fsdp))
    config, params, tokenizer = load(folder)
    model = LanguageModel(config.model, tokenizer, mesh, batch_tokens)
    model.params = params
    return Loaded(model, config, steps_of(folder / "checkpoints").found()[-1])
