"""A scaling study as data: the runs of a ladder, what is held out of it, and the laws it is for.

A study is a file with `get_config()` that returns a Study. Its runs are whole experiments, which
`ladder`, `iso_flop` and `to_convergence` derive from one base by rules that are functions of N, the
parameters without embeddings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from gpt_jax.config import Config, ModelConfig, nearest, require
from gpt_jax.data.schedule import BatchSchedule
from gpt_jax.data.tokenizers import ByteTokenizer
from gpt_jax.flops import num_non_embedding_params, num_params, train_flops_per_token
from gpt_jax.scaling.forms import form
from gpt_jax.scaling.laws import FLOPS_PER_PARAM_TOKEN

LARGEST = 0.1
"""Runs whose compute is within this share of the largest are the largest."""


@dataclass(frozen=True)
class Rule:
    """A power of the parameters without embeddings: value (N / params)^exponent."""

    value: float
    params: float = 1.0
    """N at which it is `value`."""
    exponent: float = 0.0

    def __post_init__(self) -> None:
        require(
            self.value > 0 and self.params > 0,
            f"a rule is of positive numbers, and it is {self.value} at {self.params} parameters.",
        )

    def at(self, params: float) -> float:
        """The value of a model of so many parameters."""
        return self.value * (params / self.params) ** self.exponent

    def __str__(self) -> str:
        if not self.exponent:
            return f"{self.value:g}"
        return f"{self.value:g} (N / {self.params:g})^{self.exponent:g}"


def tokens_per_parameter(ratio: float) -> Rule:
    """D = ratio N; Hoffmann et al. 2022 find 20 to be near the best."""
    return Rule(ratio, 1.0, 1.0)


@dataclass(frozen=True)
class Size:
    """What of a model differs from rung to rung."""

    num_layers: int
    embed_dim: int
    num_heads: int

    def of(self, base: ModelConfig) -> ModelConfig:
        """`base` in this size: an MLP of the same proportion, laid out or looped over as it is."""
        return replace(
            base,
            num_layers=self.num_layers,
            embed_dim=self.embed_dim,
            num_heads=self.num_heads,
            mlp_width=base.mlp_width * self.embed_dim // base.embed_dim,
            scan_unroll=self.num_layers if base.scan_unroll == base.num_layers else 1,
        )


@dataclass(frozen=True)
class Law:
    """One of `forms.LAWS`, with a loss E that no scale removes or without."""

    name: str = "chinchilla"
    irreducible: bool = False

    def __post_init__(self) -> None:
        form(self.name, self.irreducible)

    def __str__(self) -> str:
        return f"{self.name} + E" if self.irreducible else self.name


@dataclass(frozen=True)
class Study:
    """Runs that differ in size and length, and what is made of them."""

    name: str
    runs: tuple[Config, ...]
    laws: tuple[Law, ...] = (Law(),)
    """That are fitted; the first one is what the held-out runs are judged by."""
    held_out: tuple[str, ...] | None = None
    """Names of the runs that are predicted before they are trained. None: the largest by 6 N D,
    with those of nearly the same compute."""

    def __post_init__(self) -> None:
        names = [run.name for run in self.runs]
        require(
            len({*names}) == len(names) > 0,
            f"a study has runs, each with a name of its own, and they are {', '.join(names)}.",
        )
        require(bool(self.laws), "a study is for at least one law, such as Law('chinchilla').")
        for run in self.runs:
            _require_plain(run)
            _require_alike(self.runs[0], run)
        for name in self.held_out or ():
            require(name in names, f"there is no run {name!r} to hold out: {nearest(name, names)}")
        require(
            len({*self.held_out_names}) < len(names),
            f"a law is fitted to runs, and all {len(names)} are held out.",
        )

    @property
    def held_out_names(self) -> tuple[str, ...]:
        """The runs that are predicted, in the order of `runs`."""
        if self.held_out is not None:
            return tuple(run.name for run in self.runs if run.name in self.held_out)
        most = max(compute(run) for run in self.runs)
        return tuple(run.name for run in self.runs if compute(run) > (1 - LARGEST) * most)

    @property
    def fitted(self) -> tuple[Config, ...]:
        """The runs that the laws are fitted to."""
        return tuple(run for run in self.runs if run.name not in self.held_out_names)

    def chosen(self, names: Iterable[str]) -> tuple[Config, ...]:
        """The runs of these names; raises InputError, with the nearest, for one that is none."""
        by_name = {run.name: run for run in self.runs}
        for name in names:
            require(name in by_name, f"{self.name} has no run {name!r}: {nearest(name, by_name)}")
        return tuple(by_name[name] for name in names)


def params_of(run: Config) -> int:
    """N, without embeddings."""
    return num_non_embedding_params(run.model)


def params_total_of(run: Config) -> int:
    """With embeddings."""
    return num_params(with_known_vocabulary(run).model)


def tokens_of(run: Config) -> int:
    """D: of all batches, which are whole."""
    schedule = BatchSchedule.of(run)
    return schedule.start(schedule.num_steps) * run.sequence_length


def compute(run: Config) -> float:
    """C = 6 N D, in FLOPs: what the laws are functions of."""
    return float(FLOPS_PER_PARAM_TOKEN) * params_of(run) * tokens_of(run)


def model_flops(run: Config) -> float:
    """FLOPs of training with attention and the output layer, as MFU counts them."""
    model = with_known_vocabulary(run).model
    return train_flops_per_token(model, run.sequence_length) * tokens_of(run)


def with_known_vocabulary(run: Config) -> Config:
    """The run with the vocabulary of bytes where it leaves it to the tokenizer."""
    if run.model.vocab_size:
        return run
    return replace(run, model=replace(run.model, vocab_size=ByteTokenizer().vocab_size))


# From one base to many runs.


def ladder(
    base: Config,
    sizes: Sequence[Size],
    tokens: Rule,
    *,
    learning_rate: Rule | None = None,
    batch: Rule | None = None,
    seeds: Sequence[int] = (0,),
) -> tuple[Config, ...]:
    """Every size, trained on as many tokens as the rule says.

    `tokens_per_parameter(20)` is Chinchilla's line; `Rule(1e9)` is one budget for all.

    Args:
      base: the experiment that the runs are derived from.
      sizes: of the models.
      tokens: D as a function of N; taken to whole batches.
      learning_rate: the peak; None: the base's for all.
      batch: tokens in a step; taken to the nearest power of two of sequences, which divide over
        devices. None: the base's for all.
      seeds: each size is trained with each of them.

    Warm-up, decay, ramp, and the steps between validations and checkpoints keep their proportions
    to the run's length.
    """
    one = len(seeds) == 1
    return tuple(
        _derived(base, size, tokens, learning_rate, batch, seed, "" if one else f"-s{seed}")
        for size in sizes
        for seed in seeds
    )


def iso_flop(
    base: Config,
    sizes: Sequence[Size],
    budgets: Sequence[float],
    *,
    learning_rate: Rule | None = None,
    batch: Rule | None = None,
    seeds: Sequence[int] = (0,),
) -> tuple[Config, ...]:
    """Every size at every compute 6 N D = C of `budgets`, in FLOPs: Hoffmann et al.'s approach 2.

    The other arguments are those of `ladder`.
    """
    return tuple(
        run
        for budget in budgets
        for run in ladder(
            base,
            sizes,
            Rule(budget / FLOPS_PER_PARAM_TOKEN, 1.0, -1.0),
            learning_rate=learning_rate,
            batch=batch,
            seeds=seeds,
        )
    )


def to_convergence(
    base: Config,
    sizes: Sequence[Size],
    tokens: int,
    patience: int,
    *,
    learning_rate: Rule | None = None,
    batch: Rule | None = None,
    seeds: Sequence[int] = (0,),
) -> tuple[Config, ...]:
    """Every size until `patience` validations in a row are not better, or `tokens` are spent.

    Kaplan et al.'s L(N), section 3.2.1; a run's loss is that of its best validation. The other
    arguments are those of `ladder`.
    """
    base = replace(base, train=replace(base.train, patience=patience))
    return ladder(base, sizes, Rule(tokens), learning_rate=learning_rate, batch=batch, seeds=seeds)


def _derived(
    base: Config,
    size: Size,
    tokens: Rule,
    learning_rate: Rule | None,
    batch: Rule | None,
    seed: int,
    suffix: str,
) -> Config:
    """One run of a ladder; its name has what tells it from the others."""
    model = size.of(base.model)
    params, length = num_non_embedding_params(model), base.sequence_length
    batch_tokens = base.train.batch_tokens
    if batch is not None:
        batch_tokens = length * _power_of_two(batch.at(params) / length)
    total = max(1, round(tokens.at(params) / batch_tokens)) * batch_tokens
    longer = total / base.train.total_tokens

    def steps(every: int) -> int:
        return max(1, round(every * longer * base.train.batch_tokens / batch_tokens))

    train = replace(
        base.train,
        total_tokens=total,
        batch_tokens=batch_tokens,
        ramp_start_tokens=min(base.train.ramp_start_tokens, batch_tokens),
        ramp_tokens=round(base.train.ramp_tokens * longer),
        eval_every=steps(base.train.eval_every),
        seed=seed,
    )
    optimizer = replace(
        base.optimizer,
        learning_rate=learning_rate.at(params) if learning_rate else base.optimizer.learning_rate,
        warmup_tokens=round(base.optimizer.warmup_tokens * longer),
        decay_tokens=round(base.optimizer.decay_tokens * longer),
    )
    return replace(
        base,
        name=f"{base.name}-n{_short(params)}-d{_short(total)}{suffix}",
        model=model,
        optimizer=optimizer,
        train=train,
        checkpoint=replace(base.checkpoint, every=steps(base.checkpoint.every)),
    )


def _power_of_two(number: float) -> int:
    """The nearest by its logarithm, 1 at least."""
    power = 0
    while number >= 2 ** (power + 0.5):
        power += 1
    return 2**power


def _short(number: float) -> str:
    """1234567 as 1.23M."""
    for letter, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= 0.9995 * size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


# What can be a run of a study.


def _require_plain(run: Config) -> None:
    """Raise InputError where a run's validation loss is not that of text in nats per token."""
    data, train = run.data, run.train
    odd = {
        "init_from": run.init_from,
        "data.prompt or data.chat": data.supervised,
        "feedback.method": run.feedback.method,
        "tune.lora_rank": run.tune.lora_rank,
        "train.tasks": train.tasks,
        "train.epochs": train.epochs,
        "train.best other than val_loss": train.best != "val_loss",
    }
    given = [name for name, value in odd.items() if value]
    require(
        not given,
        "a study trains models on text from fresh parameters, for tokens, and reads their "
        f"validation loss, and {run.name} has {', '.join(given)}: leave it out.",
    )
    require(
        run.model.vocab_size > 0 or data.tokenizer == ByteTokenizer.kind,
        "the parameters of a study's runs are counted before any text is read, and "
        f"model.vocab_size of {run.name} is open: set it to the tokenizer's, or take bytes.",
    )


def _require_alike(first: Config, run: Config) -> None:
    """Raise InputError where losses of two runs are not of the same tokens."""
    for name, one, other in (
        *((f"data.{field.name}", getattr(first.data, field.name), getattr(run.data, field.name))
          for field in dataclasses.fields(first.data)),
        ("model.vocab_size", first.model.vocab_size, run.model.vocab_size),
        ("train.eval_tokens", first.train.eval_tokens, run.train.eval_tokens),
        ("the length of a sequence", first.sequence_length, run.sequence_length),
    ):  # fmt: skip
        require(
            one == other,
            f"losses compare on the same tokens, and {name} is {one!r} in {first.name} and "
            f"{other!r} in {run.name}.",
        )
