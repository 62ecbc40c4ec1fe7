"""What of a model is trained, as frozen data: all of it, adapters beside its matrices, a part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gpt_jax.fields import require, require_positive, require_types

Matrix = Literal["qkv", "out", "up", "down"]


@dataclass(frozen=True)
class TuneConfig:
    """What of the parameters is trained; the defaults train all of them."""

    lora_rank: int = 0
    """Rank of the adapters (LoRA, Hu et al. 2021), which alone are trained: a matrix W becomes
    W + lora_alpha / lora_rank A B. 0: no adapters."""
    lora_alpha: float = 16.0
    lora_matrices: tuple[Matrix, ...] = ("qkv", "out", "up", "down")
    """Of every layer: queries, keys and values; what puts the heads together; the MLP's two."""
    freeze: tuple[str, ...] = ()
    """Patterns over the names of parameters, as `gpt-jax shard` prints them, such as embedding or
    layers/*/mlp/*: what matches is not trained. * stands for slashes too; layers are stacked, so
    that a name is of all layers of its kind."""
    classes: tuple[str, ...] = ()
    """All targets that examples have, such as " negative" and " positive": a linear layer on the
    last token of the prompt learns which of them follows, as in GPT-1 (`train/classify.py`)."""
    lm_weight: float = 0.5
    """What the language model's loss on all of an example weighs beside that of the classes."""

    def __post_init__(self) -> None:
        require_types(self)
        require_positive(self, "lora_alpha")
        require(self.lm_weight >= 0, f"lm_weight is negative: {self.lm_weight}.")
        require(
            len({*self.classes}) == len(self.classes) != 1 and "" not in self.classes,
            f"classes are two texts or more, each of them once, and they are {self.classes}.",
        )
        require(self.lora_rank >= 0, f"lora_rank is negative: {self.lora_rank}.")
        require(
            bool(self.lora_matrices) or self.lora_rank == 0,
            "adapters need a matrix to stand beside, and lora_matrices is empty.",
        )
