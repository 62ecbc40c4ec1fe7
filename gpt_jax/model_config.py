"""A decoder of the GPT family as frozen data: the part of an experiment that is its model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from gpt_jax.fields import require, require_positive, require_range, require_types

AttentionKind = Literal["dense", "banded"]
AttentionKernel = Literal["auto", "xla", "splash", "cudnn"]
Remat = Literal["none", "dots", "qkv_attention", "offload", "attention", "full"]
Parametrisation = Literal["standard", "mup"]
PositionEncoding = Literal["learned", "sinusoidal", "rotary_interleaved", "rotary_halves"]
VOCAB_MULTIPLE = 128
"""The embedding table is padded to a multiple of this, the tile width of a TPU's matrix unit."""


@dataclass(frozen=True)
class ModelConfig:
    """A decoder of the GPT family, told by what it does and not by a model's name.

    The defaults are GPT-2's; `presets.py` has the other models.
    """

    vocab_size: int = 0
    """Tokens that exist. 0: as many as the tokenizer has, unless that is yet to be trained."""
    context_length: int = 256
    """Positions the model knows: the longest sequence that it can read, in tokens."""
    num_layers: int = 4
    embed_dim: int = 256
    num_heads: int = 4
    mlp_width: int = 0
    """Units of the MLP between its two matrices. 0: four times embed_dim."""
    embedding_width: int = 0
    """Width of the token embedding, projected to embed_dim and back (OPT-350m). 0: embed_dim."""
    attention_pattern: tuple[AttentionKind, ...] = ("dense",)
    """Kind of attention per layer, repeated over the depth; ("dense", "banded") is GPT-3's."""
    attention_window: int = 256
    """Keys a banded layer's query sees, itself included."""
    scale_attention: bool = True
    """Divide scores by the square root of the head dim; GPT-Neo does not."""
    position_encoding: PositionEncoding = "learned"
    """A learned table, fixed sines and cosines, or queries and keys rotated by their place: in
    pairs of neighbouring dims (GPT-J), or of dims from the two halves (GPT-NeoX)."""
    position_offset: int = 0
    """Rows of the learned table before that of the first place, never read (OPT has 2)."""
    rotary_dim: int = 0
    """Dims of each head that are rotated, where any are. 0: all."""
    rotary_base: float = 10000.0
    """Longest wavelength of the rotation, in turns of 2 pi places."""
    scale_embedding: bool = False
    """Multiply the token embedding by the square root of embed_dim (CTRL)."""
    norm_position: Literal["before", "after"] = "before"
    """Normalise what attention and MLP read, or the sum that each leaves (GPT-1)."""
    norm_epsilon: float = 1e-5
    """Added to the variance within the square root of a norm."""
    final_norm: bool = True
    """Normalise once more before the output layer."""
    residual: Literal["sequential", "parallel", "parallel_one_norm"] = "sequential"
    """The MLP reads what attention has left, or both read the same, by two norms or by one."""
    activation: Literal["gelu_tanh", "gelu", "relu", "silu"] = "gelu_tanh"
    """Of the MLP; gelu_tanh is GPT-2's approximation."""
    qkv_bias: bool = True
    out_bias: bool = True
    """Of the matrix that puts the heads together again."""
    mlp_bias: bool = True
    tied_head: bool = True
    """The output layer is the embedding table, not a matrix of its own."""
    head_bias: bool = False
    parametrisation: Parametrisation = "standard"
    """How initial values, learning rates and multipliers follow from the width: not, or so that
    the best learning rate is that of the base (mup; see model/parametrisation.py)."""
    base_width: int = 0
    """With mup, the embed_dim at which it is the standard parametrisation. 0: without mup."""
    base_head_dim: int = 0
    """With mup, the head dim there. 0: the same, as where wider models have more heads."""
    embedding_dropout: float = 0.0
    attention_dropout: float = 0.0
    """On attention probabilities; like its neighbours a rate, and only while training."""
    residual_dropout: float = 0.0
    """On what attention and MLP add."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What matrices are multiplied in. Training's parameters, softmax, norms and loss: float32."""
    attention: AttentionKernel = "auto"
    """The program that attention is: splash (TPU), cudnn (NVIDIA GPU), xla (anywhere), or the best
    of them that can do what is asked on the devices of the mesh. With a cache it is always xla."""
    remat: Remat = "none"
    """What a layer keeps for the backward pass: all of it; the outputs of its matrix products; its
    queries, keys, values and attention; these in the host's memory; its attention; its input."""
    split_residual: bool = False
    """Split what one layer hands to the next along its length over the tensor axis too (sequence
    parallelism, Korthikanti et al. 2022): less memory, the same result."""
    scan_unroll: int = 1
    """Layers laid out per turn of the layer loop: 1 compiles fastest, num_layers may run faster."""

    def __post_init__(self) -> None:
        require_types(self)
        require(self.vocab_size >= 0, f"vocab_size must not be negative: {self.vocab_size}.")
        require_positive(self, "context_length", "num_layers", "embed_dim", "num_heads")
        require_positive(self, "attention_window", "scan_unroll", "norm_epsilon", "rotary_base")
        dropouts = ("embedding_dropout", "attention_dropout", "residual_dropout")
        require_range(self, 0.0, 1.0, *dropouts)
        for name in ("mlp_width", "embedding_width", "position_offset", "rotary_dim"):
            require(getattr(self, name) >= 0, f"{name} is negative: {getattr(self, name)}.")
        require(
            self.embed_dim % self.num_heads == 0,
            f"num_heads must divide embed_dim, and {self.num_heads} heads do not divide a width of "
            f"{self.embed_dim}: change one of the two (--model.num-heads, --model.embed-dim).",
        )
        period = len(self.attention_pattern)
        require(period > 0, "attention_pattern is empty: name at least one kind, such as dense.")
        require(
            self.num_layers % period == 0,
            "attention_pattern must repeat a whole number of times over the depth, and its "
            f"{period} kinds do not divide num_layers={self.num_layers}.",
        )
        require(
            self.norm_position == "before" or self.residual == "sequential",
            f"residual={self.residual!r} needs norm_position='before': with norms after each sum, "
            "attention and MLP have no common input.",
        )
        self._check_positions()
        self._check_parametrisation()

    def _check_positions(self) -> None:
        rotated = self.rotated_dim
        require(
            rotated <= self.head_dim and rotated % 2 == 0,
            "rotary_dim must be even and at most the head dim, and it is "
            f"{rotated} of {self.head_dim}.",
        )
        encoding = self.position_encoding
        require(
            self.rotary_dim == 0 or rotated > 0,
            f"rotary_dim={self.rotary_dim} is read with a rotary position_encoding only, and it is "
            f"{encoding!r}.",
        )
        require(
            self.position_offset == 0 or encoding == "learned",
            f"position_offset={self.position_offset} is of a learned table only, and "
            f"position_encoding is {encoding!r}.",
        )
        require(
            encoding != "sinusoidal" or self.embed_dim % 2 == 0,
            f"sinusoidal positions need an even embed_dim, and it is {self.embed_dim}.",
        )

    def _check_parametrisation(self) -> None:
        mup, width, head = self.parametrisation == "mup", self.base_width, self.base_head_dim
        require(
            width > 0 if mup else width == 0,
            "base_width is the width at which parametrisation='mup' is the standard one: positive "
            f"with it and 0 without, and it is {width} with {self.parametrisation!r}: set "
            "--model.base-width to the width at which the learning rate was found.",
        )
        require(
            head >= 0 and (mup or head == 0),
            "base_head_dim is a head dim of parametrisation='mup', 0 without it, and it is "
            f"{head} with {self.parametrisation!r}.",
        )

    @property
    def width_multiplier(self) -> float:
        """Widths of the base in this one's; 1 where nothing follows from the width."""
        return self.embed_dim / self.base_width if self.parametrisation == "mup" else 1.0

    @property
    def head_dim(self) -> int:
        return self.embed_dim // self.num_heads

    @property
    def mlp_dim(self) -> int:
        """d_ff; 4 d_model in every model of the GPT-3 paper (section 2.1)."""
        return self.mlp_width or 4 * self.embed_dim

    @property
    def token_dim(self) -> int:
        """Width of the embedding table and of the output layer."""
        return self.embedding_width or self.embed_dim

    @property
    def rotated_dim(self) -> int:
        """Dims of each head that carry its place: 0 where nothing is rotated."""
        if self.position_encoding not in ("rotary_interleaved", "rotary_halves"):
            return 0
        return self.rotary_dim or self.head_dim

    @property
    def architecture(self) -> ModelConfig:
        """The model without how it is run, and with what can be said in two ways said in one."""
        mlp_width, embedding_width = self.mlp_width, self.embedding_width
        base_width, base_head_dim = self.base_width, self.base_head_dim
        base_head_dim = 0 if base_head_dim == self.head_dim else base_head_dim
        if base_width == self.embed_dim and not base_head_dim:
            base_width = 0
        return dataclasses.replace(
            self,
            parametrisation="mup" if base_width else "standard",
            base_width=base_width,
            base_head_dim=base_head_dim,
            attention_window=self.attention_window if "banded" in self.attention_pattern else 256,
            mlp_width=0 if mlp_width == 4 * self.embed_dim else mlp_width,
            embedding_width=0 if embedding_width == self.embed_dim else embedding_width,
            rotary_dim=self.rotated_dim,
            dtype="float32",
            attention="auto",
            remat="none",
            split_residual=False,
            scan_unroll=1,
        )

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding table: `vocab_size` rounded up to a multiple of VOCAB_MULTIPLE."""
        require(self.vocab_size > 0, "vocab_size is not known before the tokenizer is: set it.")
        return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE
