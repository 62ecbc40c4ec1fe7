"""What a run is about to do, for the terminal."""

from __future__ import annotations

import jax

from gpt_jax.config import Config
from gpt_jax.data.corpus import Corpus
from gpt_jax.data.mixture import Mixture, describe_mixture
from gpt_jax.data.questions import Questions
from gpt_jax.data.schedule import BatchSchedule
from gpt_jax.data.supervised import (
    Packed,
    describe_examples,
)
from gpt_jax.flops import num_params
from gpt_jax.model.pipeline import bubble, num_waiting
from gpt_jax.parallel.mesh import batch_shards
from gpt_jax.train.step import Program, compiler_options
from gpt_jax.train.tune import split
from gpt_jax.train.ways import Source


def describe(program: Program, corpus: Corpus, samples: Source, step: int) -> str:
    """What is about to run, in a few lines for the terminal."""
    config, train = program.config, program.config.train
    axes = [f"{name} {size}" for name, size in program.mesh.shape.items() if size > 1]
    mesh = f", mesh {' x '.join(axes)}" if axes else ""
    many = f" on {jax.process_count()} hosts" if jax.process_count() > 1 else ""
    ramp = f", growing from {train.ramp_start_tokens:,}" if train.ramp_start_tokens else ""
    lines = [
        f"model   {num_params(config.model):,} parameters, vocabulary {config.model.vocab_size:,}, "
        f"{config.model.dtype}",
        *_describe_tuning(program),
        *_describe_samples(corpus, samples, config),
        f"devices {program.mesh.size} x {program.mesh.devices.flat[0].device_kind}{many}{mesh}",
        f"kernels {program.attention.describe(config.model)}",
        f"batch   {train.batch_tokens:,} tokens{ramp}: {program.num_micro} micro-batches of "
        f"{program.rows} x {config.sequence_length}",
        f"run     {train.total_tokens:,} tokens{_epochs(corpus, samples, config)}",
    ]
    stages = program.mesh.shape["pipeline"]
    if stages > 1:
        parts = stages * num_waiting(program.rows // batch_shards(program.mesh))
        lines.append(
            f"stages  {stages} x {config.model.num_layers // stages} layers, a micro-batch in "
            f"{parts} parts: {bubble(stages, parts):.0%} of the time is bubble"
        )
    options = compiler_options(config, program.mesh.devices.flat[0].platform)
    if options:
        lines.append(f"XLA     {' '.join(f'{name}={value}' for name, value in options.items())}")
    if step:
        lines.append(f"continuing from step {step}")
    elif config.init_from:
        lines.append(f"start   the parameters of {config.init_from}")
    return "\n".join(lines)


def _describe_tuning(program: Program) -> list[str]:
    """What of the parameters is trained, where it is not all of them, what more, and until when."""
    tune, train, lines = program.config.tune, program.config.train, []
    trained, frozen = (
        sum(leaf.size for leaf in jax.tree.leaves(tree))
        for tree in split(program.abstract.params, tune)
    )
    if frozen:
        adapters = f", adapters of rank {tune.lora_rank} on {' '.join(tune.lora_matrices)}"
        lines.append(
            f"trained {trained:,} of {trained + frozen:,} ({trained / (trained + frozen):.2%})"
            f"{adapters if tune.lora_rank else ''}"
            f"{', not ' + ' '.join(tune.freeze) if tune.freeze else ''}"
        )
    if tune.classes:
        lines.append(
            f"classes {', '.join(map(repr, tune.classes))}; the language model weighs "
            f"{tune.lm_weight:g}"
        )
    if train.tasks:
        lines.append(
            f"tasks   {', '.join(train.tasks)}, {train.task_shots} shots, "
            f"{train.task_examples:,} examples each at most"
        )
    if train.patience:
        lines.append(f"ends    after {train.patience} validations without a better {train.best}")
    return lines


def _describe_samples(corpus: Corpus, samples: Source, config: Config) -> list[str]:
    """What there is to learn from, in lines."""
    indexes = [shards.index for shards in corpus.train.values()]
    number = sum(index.documents for index in indexes)
    held_out = sum(split.index.tokens for split in corpus.validation.values())
    said = f"{number:,} documents"
    if config.data.supervised:  # a prompt, its target and its rejected answer by turns
        said = f"{number // (3 if config.data.rejected else 2):,} prompts with targets"
    text = (
        f"text    {said}, {sum(index.bytes for index in indexes) / 1e6:.1f} MB, "
        f"{sum(index.tokens for index in indexes):,} tokens; {held_out:,} tokens held out"
    )
    if isinstance(samples, Questions):
        return [text, samples.describe()]
    if isinstance(samples, Packed):
        return [text, *describe_examples(samples, corpus, config)]
    return [text, *describe_mixture(samples, corpus, BatchSchedule.of(config))]


def _epochs(corpus: Corpus, samples: Source, config: Config) -> str:
    """How often all of it will be read, where that is one number."""
    if len(corpus.train) > 1:
        return ""
    tokens = sum(shards.index.tokens for shards in corpus.train.values())
    if not isinstance(samples, Mixture):
        tokens = samples.num_samples * samples.sequence_length
    return f", {config.train.total_tokens / tokens:.2f} epochs"
