"""The experiment as frozen data: every field typed, every rule checked when it is built.

Nothing here touches a device or imports jax, so a config can be built, overridden, compared and
refused in milliseconds. `Config` is what an experiment file's `get_config()` returns.

Tokens are the unit: run length, warm-up, decay and batch are counted in tokens, never in steps.
The rules that need to know the devices (mesh, micro-batch) are checked in `parallel/` and `train/`.
The model's part is in `model_config.py`, what of it is trained in `tune_config.py`, what fields are
checked and read from JSON with in `fields.py`; all are imported from here.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from gpt_jax.feedback_config import FeedbackConfig
from gpt_jax.fields import (  # noqa: F401 (all rooms have them from here)
    InputError,
    Share,
    flatten,
    from_dict,
    nearest,
    read_labels,
    read_shares,
    read_template,
    require,
    require_positive,
    require_range,
    require_types,
)
from gpt_jax.model_config import (  # noqa: F401
    VOCAB_MULTIPLE,
    AttentionKernel,
    AttentionKind,
    ModelConfig,
    Parametrisation,
    PositionEncoding,
    Remat,
)
from gpt_jax.tune_config import TuneConfig

STEP_HELP = "whose parameters (default: the best of a run with train.patience, else the last)"
"""Of the option --step of every command that reads a run."""


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
    prompt: str = ""
    """With `target`: each record is an example, and not text. This is what is read of it: a
    template with fields in braces, such as "Review: {text}\\nSentiment:"; {a[b]} is b within a."""
    target: str = ""
    """What is learned to be written after the prompt, such as " {label}": the loss is of it alone.
    Several examples share a sequence; none sees another."""
    rejected: str = ""
    """With `prompt` and `target`: what was found worse than the target, a template too; then each
    record is a pair to learn preferences from (`feedback.method`)."""
    chat: str = ""
    """The field of a record that is a conversation, a/b is b in a: an example of which every reply
    of the assistant is learned, in the template of `data/chat.py`, in place of prompt and target.
    Its forms are told there."""
    labels: tuple[str, ...] = ()
    """Words for the values of the field that the target names, as VALUE=WORD: with 0=negative
    1=positive a target of " {label}" is " negative" or " positive"."""
    too_long: Literal["drop", "error", "cut_prompt_start", "cut_target_end"] = "drop"
    """An example longer than a sequence is left out, is an error, or loses the beginning of its
    prompt or the end of its target. How many there are is told before training starts."""
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
        self._check_examples()

    def _check_corpus(self) -> None:
        require(
            not (self.corpus and self.files),
            f"the text is a corpus or files, and both are given: {self.corpus} and "
            f"{', '.join(self.files)}. Leave one of them out (--data.files with nothing after it).",
        )
        require(
            not self.corpus or self.tokenizer not in ("bytes", "characters"),
            f"a corpus has its own tokenizer, and data.tokenizer={self.tokenizer!r} asks for "
            "another: leave it at its default (--data.tokenizer sentencepiece).",
        )
        require(
            bool(self.corpus) or not self.mixture,
            "data.mixture weighs the sources of a corpus, and data.corpus names none.",
        )
        read_shares(self.mixture)

    def _check_examples(self) -> None:
        fields = [field for _, field in read_template(self.target) if field]
        require(
            bool(read_template(self.prompt)) == bool(self.target) == bool(fields),
            "an example is a prompt and a target, two templates of which the target names a field "
            f"in braces, and they are {self.prompt!r} and {self.target!r}.",
        )
        require(
            not self.chat or not (self.target or self.rejected),
            f"an example is a conversation (data.chat={self.chat!r}) or a prompt and a target, and "
            'both are given: leave one of them out (--data.chat "").',
        )
        named = any(field for _, field in read_template(self.rejected))
        require(
            not self.rejected or (named and bool(self.target)),
            "a pair is a prompt, a target and what was rejected, templates of which the last two "
            f"name a field in braces, and they are {self.prompt!r}, {self.target!r} and "
            f"{self.rejected!r}.",
        )
        require(
            not self.labels or len(fields) == 1,
            "data.labels has the words for the one field of a target, and data.target="
            f"{self.target!r} names {len(fields)}.",
        )
        read_labels(self.labels)
        require(
            self.supervised or self.too_long == "drop",
            f"data.too_long={self.too_long!r} is of prompts and targets, and there are none.",
        )
        require(
            not self.supervised or not (self.corpus or self.split == "position"),
            "examples come from data.files and are held out whole: not from a built corpus "
            "(--data.corpus ''), nor by position (--data.split path).",
        )

    @property
    def supervised(self) -> bool:
        """Whether what is learned are examples, prompts with targets, and not text."""
        return bool(self.prompt or self.chat)

    @property
    def segmented(self) -> bool:
        """Whether attention stops at borders within a sequence."""
        return self.isolate_documents or self.supervised

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
    epochs: float = 0.0
    """How often all training samples are gone through; total_tokens then follows from it, once the
    data is known. 0: total_tokens says how long the run is."""
    batch_tokens: int = 4096
    """The global batch, a property of the experiment and not of the devices it runs on."""
    ramp_start_tokens: int = 0
    """The batch at the start, growing linearly to batch_tokens. 0: no ramp (GPT-3: 32 k)."""
    ramp_tokens: int = 0
    """Tokens after which the batch has grown to its full size."""
    device_batch_tokens: int = 0
    """Tokens that one device takes at a time; the rest of the batch is accumulated. 0: no limit."""
    noise_scale: bool = False
    """Measure the gradient noise scale, the batch at which noise and signal are equal, from the
    norms of micro-batches and of the whole: of which there must be two at least."""
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
    tasks: tuple[str, ...] = ()
    """Tasks, by the names that `gpt-jax evaluate` takes, that are scored at each validation."""
    task_shots: int = 0
    """Solved examples that stand before each question of a task."""
    task_examples: int = 200
    """Questions of each task, at most."""
    best: str = "val_loss"
    """The metric that tells the best checkpoint: val_loss or another of a validation, or
    TASK/METRIC. Lower is better of losses, perplexities and bits, higher of all else."""
    patience: int = 0
    """Validations in a row without a better `best` after which the run ends; each better one is
    saved. 0: the run goes to its end."""
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
        require_positive(self, "task_examples")
        require_range(self, 0.0, 1.0, "label_smoothing")
        require(self.z_loss >= 0, f"z_loss is negative: {self.z_loss}.")
        require(0 <= self.epochs < 1e9, f"epochs must be 0 or more, and they are {self.epochs}.")
        names = ("device_batch_tokens", "eval_tokens", "sample_tokens", "seed", "ramp_tokens")
        for name in (*names, "watchdog_seconds", "task_shots", "patience"):
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
        # What a task in a file is called, the file says: that it is one is seen before training.
        require(
            self.best.startswith("val_") or bool(self.tasks and "/" in self.best),
            "train.best is a metric of the validation, such as val_loss, or TASK/METRIC of one of "
            f"train.tasks, and it is {self.best!r} with the tasks "
            f"{', '.join(self.tasks) or '(none)'}.",
        )


@dataclass(frozen=True)
class CheckpointConfig:
    """When the run is saved, and which of the saves are kept."""

    every: int = 200
    """Steps between checkpoints; there is always one at the end, and one at SIGTERM or Ctrl-C."""
    keep_last: int = 2
    keep_best: int = 1
    """Besides the last ones, those best by train.best, of the steps that were validated."""

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
    """Whose parameters are the initial ones of this run: a run, here or in a bucket, or a folder
    here in the Hugging Face format. Where the experiment says nothing of the model (it is
    ModelConfig()), model and tokenizer are those of that run or folder too."""
    compiler_options: tuple[str, ...] = ()
    """XLA's, for the training step, as NAME=VALUE; one of another platform (xla_tpu_ and xla_jf_
    are TPUs', xla_gpu_ GPUs', xla_cpu_ CPUs') is left out."""
    model: ModelConfig = field(default_factory=ModelConfig)
    tune: TuneConfig = field(default_factory=TuneConfig)
    data: DataConfig = field(default_factory=DataConfig)
    feedback: FeedbackConfig = field(default_factory=FeedbackConfig)
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
        if self.train.epochs == 0:
            self.check_warmup()
        require(
            self.train.patience == 0 or self.checkpoint.keep_best > 0,
            "a run with train.patience ends after its best step, and checkpoint.keep_best=0 would "
            "not keep that: set --checkpoint.keep-best 1.",
        )
        require(
            not self.tune.classes or bool(self.data.target and not self.data.rejected),
            "classes are the targets of examples, and there are none: set --data.prompt and "
            "--data.target, or --tune.classes with nothing after it.",
        )
        self._check_feedback()
        for option in self.compiler_options:
            name, _, value = option.partition("=")
            require(
                name.startswith("xla_") and bool(value),
                "a compiler option is xla_NAME=VALUE, without dashes before it, and there is "
                f"{option!r}.",
            )

    def _check_feedback(self) -> None:
        method, data = self.feedback.method, self.data
        require(
            not (self.train.noise_scale and (method or self.tune.classes)),
            "the gradient noise scale is measured of the tokens' loss alone, not of feedback or "
            "classes: leave out --train.noise-scale.",
        )
        require(
            (method == "dpo") == bool(data.rejected),
            f"pairs of answers are learned from by feedback.method='dpo', and by nothing else: "
            f"data.rejected={data.rejected!r} and the method is {method!r}.",
        )
        require(
            not (method and self.tune.classes),
            "a classifier is not learned from feedback: set --tune.classes with nothing after it.",
        )
        require(
            method != "reinforce" or bool(data.prompt),
            "answers are drawn to data.prompt, and there is none.",
        )
        require(
            method != "reinforce" or self.feedback.max_new_tokens < self.sequence_length,
            f"an answer must fit a sequence after its prompt, and feedback.max_new_tokens="
            f"{self.feedback.max_new_tokens} leaves nothing of {self.sequence_length} tokens.",
        )

    def check_vocabulary(self) -> None:
        """Raise InputError where nothing tells the vocabulary's size; call it once a model that is
        `init_from`'s is in its place.
        """
        data = self.data
        by_tokenizer = data.corpus or data.tokenizer != DataConfig().tokenizer
        require(
            bool(self.model.vocab_size or by_tokenizer or self.init_from) or not data.supervised,
            f"{self.name} learns examples with a model that has been trained before, and none is "
            "named: give a run, or a folder in the Hugging Face format (--init-from RUN).",
        )
        require(
            bool(self.model.vocab_size or by_tokenizer),
            "a tokenizer that is trained needs its size, and model.vocab_size is 0: set it "
            "(--model.vocab-size 4096), take bytes as tokens (--data.tokenizer bytes), or start "
            "from a model that has one (--init-from RUN).",
        )

    def check_warmup(self) -> None:
        """Raise InputError where warm-up outlasts decay; of epochs, once their tokens are known."""
        require(
            self.optimizer.warmup_tokens <= self.decay_tokens,
            "the learning rate cannot decay before it has warmed up: optimizer.warmup_tokens="
            f"{self.optimizer.warmup_tokens} is more than the {self.decay_tokens} tokens of "
            f"{'optimizer.decay_tokens' if self.optimizer.decay_tokens else 'train.total_tokens'}"
            ": shorten --optimizer.warmup-tokens.",
        )

    @property
    def sequence_length(self) -> int:
        """Tokens in a training window."""
        return self.data.sequence_length or self.model.context_length

    @property
    def decay_tokens(self) -> int:
        """Tokens at which the learning rate has reached its floor."""
        return self.optimizer.decay_tokens or self.train.total_tokens
