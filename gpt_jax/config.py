"""The experiment as frozen data: every field typed, every rule checked when it is built.

Nothing here touches a device or imports jax, so a config can be built, overridden, compared and
refused in milliseconds. `Config` is what an experiment file's `get_config()` returns.

Tokens are the unit: run length, warm-up, decay and batch are counted in tokens, never in steps.
The rules that need to know the devices (mesh, micro-batch) are checked in `parallel/` and `train/`.
What fields are checked and read from JSON with is in `fields.py`, and imported from here.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from gpt_jax.fields import (  # noqa: F401 (all rooms have them from here)
    InputError,
    Share,
    flatten,
    from_dict,
    nearest,
    read_shares,
    require,
    require_positive,
    require_range,
    require_types,
)

AttentionKind = Literal["dense", "banded"]
AttentionKernel = Literal["auto", "xla", "splash", "cudnn"]
Remat = Literal["none", "dots", "qkv_attention", "offload", "attention", "full"]
PositionEncoding = Literal["learned", "sinusoidal", "rotary_interleaved", "rotary_halves"]
VOCAB_MULTIPLE = 128
"""The embedding table is padded to a multiple of this, the tile width of a TPU's matrix unit."""


@dataclass(frozen=True)
class ModelConfig:
    """A decoder of the GPT family, told by what it does and not by a model's name.

    The defaults are GPT-2's; `presets.py` has the other models.
    """

    vocab_size: int = 0
    """Tokens that exist. 0: as many as the tokenizer has (bytes, characters, a given .model)."""
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
        return dataclasses.replace(
            self,
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


@dataclass(frozen=True)
class DataConfig:
    """Which text, which tokens, and how the text is held out."""

    files: tuple[str, ...] = ()
    """Globs of .jsonl, .parquet or text (.gz and .zst are unpacked): a document is a line, a row,
    or a whole text; tfds:NAME/CONFIG?split=SPLIT (`data/tfds.py`); python:PATH.py:FUNCTION;
    stdlib:, which is Python's own sources, and so is nothing at all."""
    jsonl_field: str = "text"
    """The field of a record (JSONL, Parquet, TFDS, a dict) that is the document; a/b is b in a."""
    corpus: str = ""
    """A corpus that `gpt-jax data build` made: its folder, here or in a bucket. Its
    tokenizer and its split are its own; a tokenizer that is given must be the corpus's."""
    mixture: tuple[str, ...] = ()
    """What the sources of the corpus weigh in the training samples, relative to each other, where
    it is not what the corpus says: SOURCE=WEIGHT from the start on, SOURCE=WEIGHT@TOKENS from so
    many tokens on; 0 leaves a source out. A corpus without weights: each by its size."""
    tokenizer: str = "sentencepiece"
    """sentencepiece (BPE trained on the training text), bytes, characters, a .model file, or a
    folder: a run's tokenizer/, or one with tokenizer files in the Hugging Face format."""
    tokenizer_sample_bytes: int = 20_000_000
    """Training text that a new SentencePiece model is trained on, at most."""
    split: Literal["path", "position"] = "path"
    """Hold out whole documents by a hash of their path, or the tail of every document."""
    validation_fraction: float = 0.05
    sequence_length: int = 0
    """Tokens per training window. 0: the model's context_length."""
    isolate_documents: bool = False
    """Stop attention, and restart positions, at the borders of documents packed in one window."""
    cache_dir: str = "~/.cache/gpt_jax"
    """Where token shards are kept, by a digest of what they were made from; safe to delete."""

    def __post_init__(self) -> None:
        require_types(self)
        require_positive(self, "tokenizer_sample_bytes")
        require(self.sequence_length >= 0, "sequence_length must not be negative.")
        require(
            0 < self.validation_fraction < 1,
            f"validation_fraction must be between 0 and 1, and it is {self.validation_fraction}.",
        )
        known = ("sentencepiece", "bytes", "characters")
        require(
            self.tokenizer in known or self.tokenizer.endswith(".model") or "/" in self.tokenizer,
            f"tokenizer must be one of {', '.join(known)}, the path of a SentencePiece .model "
            f"file, or that of a folder, with a slash in it, and it is {self.tokenizer!r}.",
        )
        self._check_corpus()

    def _check_corpus(self) -> None:
        require(
            not (self.corpus and self.files),
            f"the text is a corpus or files, and both are given: {self.corpus} and "
            f"{', '.join(self.files)}. Leave one of them out (--data.files with nothing after it).",
        )
        require(
            not self.corpus or self.tokenizer not in ("bytes", "characters"),
            f"a corpus has its own tokenizer, and {self.tokenizer!r} cannot be it: leave "
            "data.tokenizer out.",
        )
        require(
            bool(self.corpus) or not self.mixture,
            "data.mixture weighs the sources of a corpus, and data.corpus names none.",
        )
        read_shares(self.mixture)

    @property
    def shares(self) -> tuple[Share, ...]:
        """What `mixture` says, in its order."""
        return read_shares(self.mixture)


@dataclass(frozen=True)
class OptimizerConfig:
    """GPT-3's recipe (appendix B) is the default: AdamW, warm-up, cosine to a tenth, clip at 1."""

    name: Literal["adamw", "muon"] = "adamw"
    """muon orthogonalises the updates of the layers' matrices and leaves the rest to Adam."""
    learning_rate: float = 1e-3
    """The peak, reached when warm-up ends."""
    final_learning_rate_fraction: float = 0.1
    """The cosine ends at this fraction of the peak, and stays there."""
    warmup_tokens: int = 0
    decay_tokens: int = 0
    """Tokens at which the cosine ends, counted from the start. 0: the end of the run."""
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    """On matrices only: never on biases, norms or positions; with muon not on the embedding."""
    clip_norm: float = 1.0
    """The gradient's global norm is cut to this."""

    def __post_init__(self) -> None:
        require_types(self)
        require_positive(self, "learning_rate", "eps", "clip_norm")
        require_range(self, 0.0, 1.0, "b1", "b2")
        require(self.weight_decay >= 0, f"weight_decay is negative: {self.weight_decay}.")
        require(
            0 <= self.final_learning_rate_fraction <= 1,
            "final_learning_rate_fraction must be between 0 and 1, and it is "
            f"{self.final_learning_rate_fraction}.",
        )
        require(
            self.warmup_tokens >= 0 and self.decay_tokens >= 0,
            "warmup_tokens and decay_tokens must not be negative.",
        )


@dataclass(frozen=True)
class TrainConfig:
    """How long, in what batches, how often it is looked at."""

    total_tokens: int = 10_000_000
    batch_tokens: int = 4096
    """The global batch, a property of the experiment and not of the devices it runs on."""
    ramp_start_tokens: int = 0
    """The batch at the start, growing linearly to batch_tokens. 0: no ramp (GPT-3: 32 k)."""
    ramp_tokens: int = 0
    """Tokens after which the batch has grown to its full size."""
    device_batch_tokens: int = 0
    """Tokens that one device takes at a time; the rest of the batch is accumulated. 0: no limit."""
    z_loss: float = 0.0
    """Weight of log(Z)^2, which keeps the softmax normaliser near 1 (PaLM, section 5)."""
    label_smoothing: float = 0.0
    """Share of the target that is spread evenly over the vocabulary."""
    max_skipped_in_row: int = 10
    """A step that is not finite changes nothing; so many in a row stop the run."""
    seed: int = 0
    """Of the initial parameters, of dropout, and of the order of the data."""
    log_every: int = 10
    """Steps between lines in metrics.jsonl."""
    eval_every: int = 200
    """Steps between validations; there is always one at the end."""
    eval_tokens: int = 0
    """Tokens of the validation split that are evaluated. 0: all of it."""
    sample_prompt: str = ""
    """The run ends with a sample that continues this."""
    sample_tokens: int = 128
    heartbeat_seconds: int = 100
    """A host of several that is silent for so long is taken for dead, and ends the others."""
    watchdog_seconds: int = 600
    """A step that takes so long, and ten times as long as any before it, is stuck, and ends the
    process with the stacks of its threads and the status 75. 0: it is waited for."""

    def __post_init__(self) -> None:
        require_types(self)
        require_positive(self, "total_tokens", "batch_tokens", "max_skipped_in_row")
        require_positive(self, "log_every", "eval_every", "heartbeat_seconds")
        require_range(self, 0.0, 1.0, "label_smoothing")
        require(self.z_loss >= 0, f"z_loss is negative: {self.z_loss}.")
        names = ("device_batch_tokens", "eval_tokens", "sample_tokens", "seed", "ramp_tokens")
        for name in (*names, "watchdog_seconds"):
            require(getattr(self, name) >= 0, f"{name} is negative: {getattr(self, name)}.")
        require(
            (self.ramp_start_tokens > 0) == (self.ramp_tokens > 0),
            "a batch ramp needs both ramp_start_tokens and ramp_tokens, and they are "
            f"{self.ramp_start_tokens} and {self.ramp_tokens}.",
        )
        require(
            0 <= self.ramp_start_tokens <= self.batch_tokens,
            f"ramp_start_tokens={self.ramp_start_tokens} must not exceed "
            f"batch_tokens={self.batch_tokens}.",
        )


@dataclass(frozen=True)
class CheckpointConfig:
    """When the run is saved, and which of the saves are kept."""

    every: int = 200
    """Steps between checkpoints; there is always one at the end, and one at SIGTERM or Ctrl-C."""
    keep_last: int = 2
    keep_best: int = 1
    """Besides the last ones, those of lowest validation loss, of the steps that were validated."""

    def __post_init__(self) -> None:
        require_types(self)
        require_positive(self, "every", "keep_last")
        require(self.keep_best >= 0, f"keep_best is negative: {self.keep_best}.")


@dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis of the mesh; -1, for one axis at most, takes all that are left."""

    data: int = -1
    """Copies of the model, each with a part of the batch."""
    fsdp: int = 1
    """The batch and the parameters are both split; a layer's are gathered when it runs."""
    tensor: int = 1
    """Heads, the MLP and the vocabulary are split."""
    sequence: int = 1
    """Every sequence is split along its length; attention gathers the keys of all of it."""
    slice: int = 1
    """Copies of the model in slices of a pod, joined by a network: only gradients cross it."""
    pipeline: int = 1
    """The layers are split in stages, through which parts of the batch go one after the other."""

    def __post_init__(self) -> None:
        require_types(self)
        sizes = dataclasses.asdict(self)
        for name, size in sizes.items():
            require(size > 0 or size == -1, f"mesh.{name} must be positive or -1: {size}.")
        require(list(sizes.values()).count(-1) <= 1, f"only one mesh axis may be -1: {sizes}.")


@dataclass(frozen=True)
class Config:
    """A whole experiment: what `get_config()` returns and what config.json in a run holds."""

    name: str = "experiment"
    """Names the run's folder under runs/ where --workdir does not."""
    init_from: str = ""
    """A run, trained or converted, whose newest parameters are the initial ones of this one."""
    compiler_options: tuple[str, ...] = ()
    """XLA's, for the training step, as NAME=VALUE; one of another platform (xla_tpu_ and xla_jf_
    are TPUs', xla_gpu_ GPUs', xla_cpu_ CPUs') is left out."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)

    def __post_init__(self) -> None:
        require_types(self)
        length, positions = self.sequence_length, self.model.context_length
        require(
            length <= positions,
            f"a sequence must fit the model's positions, and data.sequence_length={length} is more "
            f"than model.context_length={positions}: shorten the one or raise the other.",
        )
        for name in ("batch_tokens", "ramp_start_tokens", "device_batch_tokens"):
            tokens = getattr(self.train, name)
            require(
                tokens % length == 0,
                f"train.{name} must be a whole number of sequences, and {tokens} tokens do not "
                f"divide into sequences of {length}: the nearest that do are "
                f"{tokens // length * length} and {(tokens // length + 1) * length}.",
            )
        require(
            self.optimizer.warmup_tokens <= self.decay_tokens,
            f"the learning rate cannot decay before it has warmed up: warmup_tokens="
            f"{self.optimizer.warmup_tokens} is more than decay_tokens={self.decay_tokens}.",
        )
        for option in self.compiler_options:
            name, _, value = option.partition("=")
            require(
                name.startswith("xla_") and bool(value),
                "a compiler option is xla_NAME=VALUE, without dashes before it, and there is "
                f"{option!r}.",
            )

    @property
    def sequence_length(self) -> int:
        """Tokens in a training window."""
        return self.data.sequence_length or self.model.context_length

    @property
    def decay_tokens(self) -> int:
        """Tokens at which the learning rate has reached its floor."""
        return self.optimizer.decay_tokens or self.train.total_tokens
