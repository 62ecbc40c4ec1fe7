"""The training loop: from a config to a run folder."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from gpt_jax.config import Config, InputError, flatten, nearest, require
from gpt_jax.data import supervised
from gpt_jax.data.batches import (
    Batch,
    Samples,
    TrainBatches,
    num_targets,
    train_batches,
    validation_batches,
    validation_bytes,
)
from gpt_jax.data.built import open_built
from gpt_jax.data.corpus import PLAIN, Corpus, prepare
from gpt_jax.data.schedule import BatchSchedule
from gpt_jax.data.supervised import (
    held_out_examples,
)
from gpt_jax.data.tokenizers import Tokenizer
from gpt_jax.parallel import hosts
from gpt_jax.paths import told_of_buckets
from gpt_jax.train.best import Best, rank
from gpt_jax.train.checkpoint import Checkpointer
from gpt_jax.train.describe import describe
from gpt_jax.train.dpo import PreferenceProgram
from gpt_jax.train.metrics import Display, MetricsLog, Record
from gpt_jax.train.origin import Reader, check_origin, open_origin, with_origin
from gpt_jax.train.run import RunFolder, StopSignals
from gpt_jax.train.state import TrainState
from gpt_jax.train.step import Program
from gpt_jax.train.tune import CLASSIFIER
from gpt_jax.train.watchdog import Watchdog
from gpt_jax.train.ways import program_of, source_of


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended."""

    folder: Path
    config: Config
    step: int
    metrics: Record
    """The last value of each metric, on the first of several hosts."""
    stopped_by: str | None
    """The signal that asked it to end early, or None at the end of the run."""
    gzip_bits_per_byte: float
    """What `gzip -9` makes of the validation text, to be compared with val_bits_per_byte; 0 of
    examples, whose targets follow from their prompts."""
    best: Best
    """The best validation."""


class Diverged(InputError):
    """`max_skipped_in_row` updates in a row were not finite, and the run was given up."""


Scorer = Callable[[Config, Mesh, Tokenizer], Callable[[Any], Record]]
"""Makes, once, what is called with the plain parameters at each validation of a run, on every host,
and returns the scores of its tasks as "TASK/METRIC": value."""


@told_of_buckets()
def train(
    config: Config, workdir: Path, scorer: Scorer | None = None, reader: Reader | None = None
) -> Outcome:
    """Train `config` in the folder `workdir`, from its newest good checkpoint if it has one.

    The same call continues a run that was ended anywhere, bit for bit on the same devices. On
    other devices it sees the same samples in the same order, and differs by rounding. Every host of
    a run makes this call; the first of them writes and speaks.

    Args:
      config: the experiment.
      workdir: a new folder, or that of a run of `config`.
      scorer: of `train.tasks`.
      reader: of an `init_from` in the Hugging Face format.

    Raises:
      InputError: the config, the text, the folder or the devices break a rule; the hosts disagree;
        or a checkpoint could not be written. The last good checkpoint is still there.
      Diverged: an InputError too; the same holds.
    """
    config = hosts.together(lambda: with_origin(config, reader))
    _check_tuning(config, scorer)
    hosts.require_agreement(lambda: flatten(config) | hosts.code_version())
    with RunFolder(workdir, config) as run:
        corpus = _corpus(config)
        config = with_vocabulary(config, corpus.tokenizer.vocab_size)
        if config.init_from and run.is_new:
            check_origin(config, corpus.tokenizer, open_origin(config.init_from, reader))
        samples = source_of(config, corpus)
        config = with_length(config, samples)
        _check_best(config, corpus)
        program, keep = program_of(config, samples, corpus), config.checkpoint
        best = Best(config.train.best, config.train.patience)
        score = None
        if config.train.tasks and scorer:
            score = scorer(config, program.mesh, corpus.tokenizer)
        with (
            contextlib.closing(program),
            Checkpointer(run.checkpoints, keep.keep_last, keep.keep_best) as checkpointer,
        ):
            state, step, batches = _start(program, corpus, samples, checkpointer, best, reader)
            # Only now is it known that this config and this text continue the run.
            run.write(config, corpus.tokenizer)
            with (
                MetricsLog(run.path, step) as log,
                Display(config, step, program.mesh.devices.flat[0].device_kind) as display,
                StopSignals() as stop,
                Watchdog(config.train.watchdog_seconds) as watchdog,
            ):
                display.say(describe(program, corpus, samples, step))
                program.looks_away = watchdog.looks_away
                parts = _Parts(
                    program=program,
                    corpus=corpus,
                    batches=batches,
                    checkpointer=checkpointer,
                    log=log,
                    display=display,
                    stop=stop,
                    watchdog=watchdog,
                    best=best,
                    score=score,
                )
                step = _loop(parts, state, step)
                # The run has ended well only when its last checkpoint is on disk.
                checkpointer.close()
                # A signal during the last step stopped nothing.
                early = step < BatchSchedule.of(config).num_steps and not best.over
                stopped_by = stop.requested if early else None
                log.write_summary(stopped_by=stopped_by, best_step=best.step)
    gzip = corpus.gzip_bits_per_byte
    return Outcome(run.path, config, step, log.last, stopped_by, gzip, best)


@dataclasses.dataclass(frozen=True)
class _Parts:
    """What the loop works with."""

    program: Program
    corpus: Corpus
    batches: TrainBatches
    checkpointer: Checkpointer
    log: MetricsLog
    display: Display
    stop: StopSignals
    watchdog: Watchdog
    best: Best
    score: Callable[[Any], Record] | None
    """Of plain parameters: the scores of the tasks, where there are any."""


def _loop(parts: _Parts, state: TrainState, step: int) -> int:
    """Take steps until the tokens are spent, patience is, or a signal comes; returns the steps."""
    program, display, watchdog, best = parts.program, parts.display, parts.watchdog, parts.best
    config, schedule = program.config, BatchSchedule.of(program.config)
    first = step + 1
    pending: _Pending | None = None
    stopping = False
    while step < schedule.num_steps and not (stopping or best.over):
        state, metrics = program.train_step(state, next(parts.batches))
        step += 1
        display.advance(step)
        # The step is on its way; only now is the one before it waited for and looked at, so that
        # the device never idles for the host.
        if pending:
            _report(pending, program, parts.log, display)
            watchdog.step_ended()
        elif step == first:  # the program is compiled by now, and the clock starts
            display.rate(schedule.start(step - 1) * config.sequence_length)
        pending = _Pending(step, schedule.start(step) * config.sequence_length, metrics)
        # Asked once per step: a signal between two looks would be half obeyed, and hosts that
        # asked at other steps than each other would save at other steps.
        stopping = parts.stop.asked(step)
        at_end = step == schedule.num_steps
        # Validation comes before the save, which is ranked by it; both before the next step is
        # dispatched, which takes the state's memory for its own. Both wait for this step, and the
        # clock runs until it is done.
        if step % config.train.eval_every == 0 or at_end:
            jax.block_until_ready(metrics)
            with display.pause(), watchdog.looks_away():
                pending.losses = _validate(parts, state)
            is_best = best.see(step, pending.losses)
            # What ends the run was its last step, and what it was waited for must not be lost.
            at_end = at_end or best.over or (is_best and best.patience > 0)
        if step % config.checkpoint.every == 0 or at_end or stopping:
            # Reported first: a run that is killed and goes on from here must not lack the line.
            value = pending.losses.get(best.metric)
            _report(pending, program, parts.log, display)
            watchdog.step_ended()
            parts.log.flush()
            pending = None
            with display.pause(), watchdog.looks_away():
                _save(parts, state, step, None if value is None else rank(best.metric, value))
        parts.checkpointer.poll()
    return step


def _validate(parts: _Parts, state: TrainState) -> Record:
    """Losses of the held-out text, and the scores of the tasks, the same on every host."""
    program = parts.program
    plain = program.effective(state.params)
    if isinstance(program, PreferenceProgram):
        ((_, pairs, _),) = _held_out(program, parts.corpus)
        losses = program.validate(state, pairs)
    else:
        beside = {name: x for name, x in state.params.items() if name == CLASSIFIER}
        losses = evaluate(program, plain | beside, parts.corpus)
    return losses | hosts.from_first(parts.score(plain)) if parts.score else losses


@dataclasses.dataclass
class _Pending:
    """A step whose metrics are still on the device."""

    step: int
    tokens: int
    metrics: dict[str, Any]
    losses: Record = dataclasses.field(default_factory=dict)
    """What validation found after this step, where there was one."""


def _report(pending: _Pending, program: Program, log: MetricsLog, display: Display) -> None:
    """Read a step's metrics; log them where it is time to; stop a run that has diverged."""
    config = program.config
    metrics = {name: value.item() for name, value in jax.device_get(pending.metrics).items()}
    in_row = metrics.pop("skipped_in_row")
    if pending.losses or in_row or pending.step % config.train.log_every == 0:
        record = {"step": pending.step, "tokens": pending.tokens, **metrics}
        record["tokens_per_second"] = display.rate(pending.tokens)
        log.write(record | pending.losses)
        display.show(record | pending.losses)
    if in_row >= config.train.max_skipped_in_row:
        raise Diverged(
            f"{program.must_be_finite} must be finite, and the last {in_row} updates were not and "
            f"were skipped, the last at step {pending.step}: {program.remedy}. No checkpoint holds "
            "any of them."
        )


def _held_out(program: Program, corpus: Corpus) -> Iterator[tuple[str, Iterator[Batch], int]]:
    """(name, batches, UTF-8 bytes of their targets) of what is held out of each source."""
    config, byte_lengths = program.config, corpus.tokenizer.byte_lengths
    if config.data.supervised:
        packed = held_out_examples(corpus, config)
        batches = supervised.validation_batches(packed, config, program.rows, program.local_rows)
        yield PLAIN, batches, supervised.validation_bytes(packed, config, byte_lengths)
        return
    for name, targets in num_targets(corpus.validation, config.train.eval_tokens).items():
        split = corpus.validation[name]
        batches = validation_batches(split, targets, config, program.rows, program.local_rows)
        yield name, batches, validation_bytes(split, targets, byte_lengths)


def evaluate(program: Program, params: Any, corpus: Corpus) -> Record:
    """Loss over the validation split, or over about `eval_tokens` tokens of it.

    val_loss in nats per token, val_perplexity = exp(val_loss), and val_bits_per_byte, nats over
    the UTF-8 bytes that the predicted tokens stand for, times log2(e): it can be compared across
    tokenizers, and with gzip. Separators cost nats and stand for no bytes. Of examples it is their
    targets that count, with the separators after them. Of several sources each has its own too, as
    val_loss/SOURCE. With a classifier also val_class_loss, in nats per example, and val_accuracy,
    the share of examples whose class is the likeliest.
    """
    losses, classes, scores = {}, [], {}
    nats = tokens = num_bytes = 0.0
    for name, batches, size in _held_out(program, corpus):
        sums = [program.eval_step(params, batch) for batch in batches]
        classes += [batch.classes for batch in sums if batch.classes is not None]
        # Each batch's sum is float32; theirs is Python's, as there may be very many.
        of_source = math.fsum(float(batch.nats) for batch in sums)
        weight = math.fsum(float(batch.weight) for batch in sums)
        losses[f"val_loss/{name}"] = of_source / weight
        nats, tokens = nats + of_source, tokens + weight
        num_bytes += size
    if classes:
        totals = [
            math.fsum(float(getattr(part, name)) for part in classes)
            for name in ("nats", "right", "examples")
        ]
        scores["val_class_loss"] = totals[0] / totals[2]
        scores["val_accuracy"] = totals[1] / totals[2]
    return (
        {
            "val_loss": nats / tokens,
            "val_perplexity": math.exp(min(nats / tokens, 700.0)),
            "val_bits_per_byte": nats / math.log(2) / num_bytes,
        }
        | scores
        | (losses if len(losses) > 1 else {})
    )


def _corpus(config: Config) -> Corpus:
    """The corpus, the same on every host; the first makes it, for all whose cache is its own."""

    def opened(progress: Callable[[str], None]) -> Corpus:
        return open_built(config) if config.data.corpus else prepare(config, progress)

    corpus = hosts.on_first(lambda: opened(print))
    corpus = hosts.together(lambda: corpus or opened(lambda _: None))
    hosts.require_agreement(
        lambda: {
            "the tokenizer (digest)": corpus.tokenizer.digest[:12],
            "the text and its split (digest)": corpus.digest[:12],
        }
    )
    return corpus


def with_vocabulary(config: Config, vocab_size: int) -> Config:
    """The config with the tokenizer's vocabulary where it left the model's open."""
    if config.model.vocab_size:
        return config
    model = dataclasses.replace(config.model, vocab_size=vocab_size)
    return dataclasses.replace(config, model=model)


def with_length(config: Config, samples: Samples) -> Config:
    """The config with the tokens of its epochs, where it counts in these.

    An epoch is as many samples as there are, of all sources; the last batch is whole.
    """
    if config.train.epochs == 0:
        return config
    count = max(1, round(config.train.epochs * samples.num_samples))
    train = dataclasses.replace(config.train, total_tokens=count * config.sequence_length)
    config = dataclasses.replace(config, train=train)
    config.check_warmup()
    return config


def _check_tuning(config: Config, scorer: Scorer | None) -> None:
    """Raise InputError where adapters have nothing to stand beside, or nothing scores the tasks."""
    require(
        config.tune.lora_rank == 0 or bool(config.init_from),
        f"adapters are trained beside the parameters of another run, and tune.lora_rank="
        f"{config.tune.lora_rank} is given without one: say which (--init-from RUN).",
    )
    require(
        not config.train.tasks or scorer is not None,
        "train.tasks are scored by what is passed as train(scorer=...), and there is none.",
    )


def _check_best(config: Config, corpus: Corpus) -> None:
    """Raise InputError where no validation will have the metric; of a task, its first one says."""
    names = ["val_loss", "val_perplexity", "val_bits_per_byte"]
    if config.feedback.method == "dpo":
        names = ["val_loss", "val_reward_margin", "val_preference_accuracy"]
    if config.tune.classes:
        names += ["val_class_loss", "val_accuracy"]
    if len(corpus.validation) > 1:
        names += [f"val_loss/{name}" for name in corpus.validation]
    best = config.train.best
    require(
        best in names or not best.startswith("val_"),
        f"train.best must be a metric of the validation, and {best!r} is none: "
        f"{nearest(best, names)}",
    )


def _start(
    program: Program,
    corpus: Corpus,
    samples: Samples,
    checkpointer: Checkpointer,
    best: Best,
    reader: Reader | None,
) -> tuple[TrainState, int, TrainBatches]:
    """State, step and batches to go on from: the newest good checkpoint's, or fresh ones."""
    abstract, schedule = program.abstract, BatchSchedule.of(program.config)
    batches = train_batches(samples, schedule, program.rows, program.num_micro, program.train_rows)
    found = checkpointer.restore(abstract.params, abstract.rest())
    if found is None:
        params = None
        if program.config.init_from:
            params = open_origin(program.config.init_from, reader).read(program.plain)
        return program.create_state(params), 0, batches
    step, params, rest, meta = found
    require(
        meta["corpus"] == corpus.digest,
        "a run continues on the text it began with, and the text, its tokenizer, its split or what "
        f"its sources weigh has changed since (digest {meta['corpus'][:12]} then, "
        f"{corpus.digest[:12]} now): bring it back, or train anew in another --workdir.",
    )
    batches.set_state(meta["data"])
    best.set_state(meta.get("best", {}))
    return TrainState(**(rest | {"params": params})), step, batches


def _save(parts: _Parts, state: TrainState, step: int, rank: float | None) -> None:
    """Save all that the run is: state, position in the data, config, and which text it was."""
    meta = {
        "data": parts.batches.get_state(),
        "best": parts.best.get_state(),
        "config": dataclasses.asdict(parts.program.config),
        "corpus": parts.corpus.digest,
    }
    parts.checkpointer.save(step, state.params, state.rest(), meta, rank)
