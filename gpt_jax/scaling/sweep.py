"""Learning rates against widths, by both parametrisations: where the best one stands still.

A sweep is a file with `get_config()` that returns a Sweep. Each of its members is trained from the
same initial seed on the same batches, by the step that trains every run; the learning rate alone is
not compiled in, so that the members of a width share one program.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gpt_jax.config import Config, InputError, Parametrisation, flatten, require
from gpt_jax.data.batches import train_batches
from gpt_jax.data.corpus import Corpus, prepare
from gpt_jax.data.schedule import BatchSchedule
from gpt_jax.flops import num_non_embedding_params
from gpt_jax.scaling.widths import widened
from gpt_jax.train.loop import evaluate, with_vocabulary
from gpt_jax.train.step import Program, train_step
from gpt_jax.train.ways import source_of

LAST = 0.1
"""Share of the steps at the end whose mean loss is a member's train_loss."""


@dataclass(frozen=True)
class Sweep:
    """Every learning rate at every width, by each parametrisation."""

    name: str
    base: Config
    """The experiment at the base width; its own learning rate is not used."""
    widths: tuple[int, ...]
    learning_rates: tuple[float, ...]
    parametrisations: tuple[Parametrisation, ...] = ("standard", "mup")
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        for name in ("widths", "learning_rates", "parametrisations", "seeds"):
            values = getattr(self, name)
            require(
                len(values) > 0 and len({*values}) == len(values),
                f"a sweep has {name}, each once, and they are {values}.",
            )
        require(
            all(0 < rate < math.inf for rate in self.learning_rates),
            f"learning rates must be positive, and they are {self.learning_rates}.",
        )
        for width in self.widths:
            widened(self.base.model, width, "standard")

    @property
    def digest(self) -> str:
        """Of all that a member's result depends on besides what tells it from the others."""
        said = flatten(self.base) | {"name": "", "optimizer.learning_rate": 0, "train.seed": 0}
        return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()


class Member(NamedTuple):
    """One run of a sweep."""

    parametrisation: Parametrisation
    width: int
    learning_rate: float
    seed: int


@dataclass(frozen=True)
class Result:
    """What a member came to."""

    parametrisation: Parametrisation
    width: int
    learning_rate: float
    seed: int
    params: int
    """Without embeddings."""
    tokens: int
    train_loss: float | None
    """Mean over the last steps, nats per token; None where it diverged: a step was not finite."""
    val_loss: float | None
    seconds: float
    digest: str = field(repr=False, default="")
    """Of the sweep that it is of."""

    @property
    def member(self) -> Member:
        return Member(self.parametrisation, self.width, self.learning_rate, self.seed)


def members(sweep: Sweep) -> Iterator[Member]:
    """All runs, narrow ones first; at the base's width, where all are one model, of one alone."""
    for width in sorted(sweep.widths):
        at_base = width == sweep.base.model.embed_dim
        for parametrisation in sweep.parametrisations[: 1 if at_base else None]:
            for seed in sweep.seeds:
                for rate in sweep.learning_rates:
                    yield Member(parametrisation, width, rate, seed)


def run_sweep(sweep: Sweep, path: Path, say: Callable[[str], None] = print) -> list[Result]:
    """The results of all members, from `path` (JSON lines) or trained now and added to it.

    A sweep that was stopped goes on with the member that it was at. Raises InputError where the
    file has results of another sweep, or the base is not one that can be trained.
    """
    found = {result.member: result for result in read_results(path)}
    others = [result for result in found.values() if result.digest != sweep.digest]
    require(
        not others,
        f"a sweep goes on with its own results, and {path} has {len(others)} of another one (or of "
        "this one before its file was changed): name another --out, or remove it.",
    )
    all_of_them = [*members(sweep)]
    left = [member for member in all_of_them if member not in found]
    say(f"{len(all_of_them) - len(left)} of {len(all_of_them)} runs are in {path}")
    corpus = prepare(sweep.base, say) if left else None
    trained: _Trained | None = None
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():  # of a process that was killed within a line
        text = path.read_text(encoding="utf-8")
        path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")
    for member in left:
        assert corpus is not None
        if trained is None or not trained.is_of(member):
            trained = _Trained(sweep, member, corpus)
        result = trained.result(member)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dataclasses.asdict(result)) + "\n")
        found[member] = result
        loss = "diverged" if result.val_loss is None else f"{result.val_loss:.4f}"
        say(
            f"{member.parametrisation:<8} width {member.width:<5} rate "
            f"{member.learning_rate:<8.3g} seed {member.seed}  validation loss {loss}  "
            f"{result.seconds:.0f} s"
        )
    return [found[member] for member in all_of_them]


def read_results(path: Path) -> list[Result]:
    """The whole lines of a file of results; none where there is no file.

    Raises InputError with the line that is no result.
    """
    if not path.exists():
        return []
    results = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), 1):
        if not line.endswith("\n"):  # unfinished: it is no result yet
            continue
        try:
            results.append(Result(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise InputError(
                f"each line of {path} is a result of a sweep, and line {number} is none ({error}): "
                "remove it, and its run is made again."
            ) from error
    return results


class _Trained:
    """The program of the members of one width, parametrisation and seed."""

    def __init__(self, sweep: Sweep, member: Member, corpus: Corpus) -> None:
        self._of, self._digest, self._corpus = member, sweep.digest, corpus
        base = with_vocabulary(sweep.base, corpus.tokenizer.vocab_size)
        model = widened(base.model, member.width, member.parametrisation)
        self._config = dataclasses.replace(
            base,
            model=model,
            # Of the schedule alone: the member's own is part of the state.
            optimizer=dataclasses.replace(base.optimizer, learning_rate=1.0),
            train=dataclasses.replace(base.train, seed=member.seed),
        )
        self._program = Program(self._config, jax.devices()[:1])
        self._tx = optax.chain(self._program.tx, _rate_in_state())
        step = partial(
            train_step,
            model=self._program.model.clone(train=True),
            tx=self._tx,
            config=self._config,
        )
        self._step = jax.jit(step, donate_argnums=0)
        self._samples = source_of(self._config, corpus)

    def is_of(self, member: Member) -> bool:
        return member._replace(learning_rate=self._of.learning_rate) == self._of

    def result(self, member: Member) -> Result:
        """Train one of them from the start, and evaluate it."""
        began, schedule = time.perf_counter(), BatchSchedule.of(self._config)
        program = self._program
        rows = (program.rows, program.num_micro, program.train_rows)
        batches = train_batches(self._samples, schedule, *rows)
        state = program.create_state()
        opt_state = (state.opt_state, jnp.float32(member.learning_rate))
        state = dataclasses.replace(state, opt_state=opt_state)
        losses, steps = [], schedule.num_steps
        for _ in range(steps):
            state, metrics = self._step(state, next(batches))
            losses.append(metrics["loss"])
        diverged = int(state.skipped) > 0
        validation = evaluate(program, state.params, self._corpus)["val_loss"]
        last = [float(loss) for loss in losses[-max(1, round(LAST * steps)) :]]
        diverged = diverged or not math.isfinite(validation)
        return Result(
            **member._asdict(),
            params=num_non_embedding_params(self._config.model),
            tokens=schedule.start(steps) * self._config.sequence_length,
            train_loss=None if diverged else math.fsum(last) / len(last),
            val_loss=None if diverged else validation,
            seconds=round(time.perf_counter() - began, 2),
            digest=self._digest,
        )


def _rate_in_state() -> optax.GradientTransformation:
    """Updates times a number, which is its state: 1 until it is replaced."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        return jax.tree.map(lambda u: state * u, updates), state

    return optax.GradientTransformation(lambda params: jnp.float32(1), update)


Curves = dict[int, tuple[list[float], list[float]]]
"""By width: learning rates, and losses, the means over the seeds that did not diverge."""


def curves(results: Sequence[Result], parametrisation: Parametrisation, base_width: int) -> Curves:
    """The validation loss against the learning rate at each width, by one parametrisation.

    The base's width is of both. Rates at which a seed diverged are left out.
    """
    found: dict[tuple[int, float], list[float | None]] = {}
    for result in results:
        if result.parametrisation == parametrisation or result.width == base_width:
            key = (result.width, result.learning_rate)
            found.setdefault(key, []).append(result.val_loss)
    drawn: Curves = {}
    for (width, rate), losses in sorted(found.items()):
        known = [loss for loss in losses if loss is not None]
        if len(known) == len(losses):
            across, up = drawn.setdefault(width, ([], []))
            across.append(rate)
            up.append(math.fsum(known) / len(known))
    return drawn


def best_rate(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Where a curve is lowest: the vertex of the parabola, in the rate's logarithm, through the
    lowest point and its neighbours; that point itself where it is the first or the last.
    """
    place = min(range(len(losses)), key=losses.__getitem__)
    if place in (0, len(losses) - 1):
        return rates[place]
    x = [math.log(rate) for rate in rates[place - 1 : place + 2]]
    y = losses[place - 1 : place + 2]
    left, right = (y[1] - y[0]) / (x[1] - x[0]), (y[2] - y[1]) / (x[2] - x[1])
    # The slopes between the points are those of the parabola half way, and it is flat in between.
    middle = (x[0] + x[1]) / 2
    return math.exp(middle - left * ((x[2] - x[0]) / 2) / (right - left))
