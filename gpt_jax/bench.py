"""How fast an experiment runs on the devices present: `gpt-jax bench EXPERIMENT`.

The tokens are random, so that no corpus need be built; everything else is the training program
itself, fed by the input pipeline itself.
"""

from __future__ import annotations

import dataclasses
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from gpt_jax.chips import peak_flops
from gpt_jax.config import Config, require
from gpt_jax.data.batches import Windows, train_batches
from gpt_jax.data.mixture import Mixture, Stage
from gpt_jax.data.schedule import BatchSchedule
from gpt_jax.data.shards import FORMAT, ShardIndex, TokenShards
from gpt_jax.flops import train_flops_per_token
from gpt_jax.model.decode import generate_tokens
from gpt_jax.model.sampling import Sampling
from gpt_jax.train.loop import with_vocabulary
from gpt_jax.train.step import Program

Figures = dict[str, Any]

SECONDS = 20.0
"""Steps are timed for about so long."""
MIN_STEPS, MAX_STEPS = 5, 100
DECODE_PROMPT, DECODE_TOKENS = 32, 64


def measure(config: Config) -> Figures:
    """Figures of `config` at its full batch: seconds, bytes, tokens and FLOPs per second.

    Input is what reaches the host side of the step, from one source and from a mixture of three.
    The model's FLOPs are those of `flops.train_flops_per_token`; `mfu` is None where the chip's
    peak is not known. Peak memory is the first device's, or the process's on a CPU.
    """
    config = with_vocabulary(config, 256)
    require(
        config.model.context_length >= 4,
        f"decoding is timed over some tokens, and context_length={config.model.context_length} "
        "has no room for them.",
    )
    endless = dataclasses.replace(
        config.train, ramp_start_tokens=0, ramp_tokens=0, total_tokens=10**15
    )
    # Examples are stood for by windows, of which attention keeps the documents apart as well.
    windows = dataclasses.replace(
        config.data,
        prompt="",
        target="",
        too_long="drop",
        isolate_documents=config.data.segmented,
    )
    config = dataclasses.replace(config, train=endless, data=windows)
    program, schedule = Program(config), BatchSchedule.of(config)
    samples = Windows.of(_random_shards(config), config)
    batches = train_batches(samples, schedule, program.rows, program.num_micro)
    compile_seconds, step_seconds = _time_steps(program, batches)
    input_rate = _time_input(batches, config.train.batch_tokens)
    mixed = train_batches(_mixture(config), schedule, program.rows, program.num_micro)
    mixture_rate = _time_input(mixed, config.train.batch_tokens)
    device = jax.devices()[0]
    tokens_per_second = config.train.batch_tokens / step_seconds
    flops = tokens_per_second * train_flops_per_token(config.model, config.sequence_length)
    peak = peak_flops(device.device_kind, config.model.dtype)
    return {
        "experiment": config.name,
        "device": f"{jax.device_count()} x {device.device_kind}",
        "compile_seconds": compile_seconds,
        "step_seconds": step_seconds,
        "tokens_per_second": tokens_per_second,
        "model_gflops_per_second": flops / 1e9,
        "mfu": flops / jax.device_count() / peak if peak else None,
        "peak_memory_bytes": _peak_memory(device),
        "input_tokens_per_second": input_rate,
        "mixture_tokens_per_second": mixture_rate,
        "decode_tokens_per_second": _time_decode(program),
    }


def as_table(figures: Figures) -> str:
    """The figures as lines for the terminal."""
    units = {"mfu": ("MFU", 100, "%"), "peak_memory_bytes": ("peak memory", 2**-30, "GiB")}
    lines = []
    for name, value in figures.items():
        label, scale, unit = units.get(name, (name.replace("_", " "), 1, ""))
        if isinstance(value, int | float):
            value = f"{value * scale:,.4g} {unit}" if value < 1000 or unit else f"{value:,.0f}"
        lines.append(f"{label:<26}{'unknown' if value is None else value}")
    return "\n".join(lines)


def _random_shards(config: Config) -> TokenShards:
    """Tokens in memory, where a mapped file that is read often is too."""
    vocab, count = config.model.vocab_size, max(4_000_000, 2 * config.train.batch_tokens)
    dtype = "uint16" if vocab <= 2**16 else "uint32"
    tokens = np.random.default_rng(0).integers(vocab, size=count).astype(dtype)
    index = ShardIndex(
        FORMAT, 1, count, 0, dtype, vocab - 1, vocab, "random", "random", 0.0, shards=()
    )
    return TokenShards(Path("random"), index, (tokens,))


def _mixture(config: Config) -> Mixture:
    """Three sources of unlike weights."""
    sources = {name: Windows.of(_random_shards(config), config) for name in ("a", "b", "c")}
    return Mixture(sources, [Stage(0, (6, 3, 1))], config.train.seed)


def _time_steps(program: Program, batches: Any) -> tuple[float, float]:
    """Seconds to compile, which is what the first step takes more, and the median step's."""
    state, seconds = program.create_state(), []
    while len(seconds) <= MIN_STEPS or (sum(seconds[1:]) < SECONDS and len(seconds) <= MAX_STEPS):
        start = time.perf_counter()
        state, metrics = program.train_step(state, next(batches))
        jax.block_until_ready((state, metrics))
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[1:])
    return seconds[0] - median, median


def _time_input(batches: Any, batch_tokens: int) -> float:
    """Tokens per second that reach the host side of the step."""
    next(batches)  # the reader has begun
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < 2:
        next(batches)
        count += 1
    return count * batch_tokens / (time.perf_counter() - start)


def _time_decode(program: Program) -> float:
    """Greedy tokens per second of one sequence, after its prompt."""
    config = program.config.model
    params = program.effective(program.create_state().params)
    params = jax.device_put(params, jax.devices()[0])
    prompt = np.zeros(min(DECODE_PROMPT, config.context_length // 2), np.int32)
    count = min(DECODE_TOKENS, config.context_length - len(prompt))
    seconds = 0.0
    for _ in range(2):  # the first time compiles
        tokens = generate_tokens(
            config, params, [prompt], count, Sampling(temperature=0), vocab_size=config.vocab_size
        )
        next(tokens)
        start = time.perf_counter()
        for _ in tokens:
            pass
        seconds = time.perf_counter() - start
    return (count - 1) / seconds


def _peak_memory(device: Any) -> int:
    stats = device.memory_stats()
    if stats:
        return stats["peak_bytes_in_use"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
