"""The search: candidates ranked by arithmetic, the best compiled, the very best to the end."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from gpt_jax.config import Config, InputError, MeshConfig, Remat, require
from gpt_jax.parallel.mesh import batch_parts
from gpt_jax.plan.arithmetic import (
    BESIDE,
    ELEMENTWISE_CYCLES,
    Candidate,
    Estimate,
    collective_seconds,
    estimate,
    step_seconds,
)
from gpt_jax.plan.compile import Compiled, compile_candidate, compiler_version, end_all
from gpt_jax.plan.target import Target, smaller_and_larger

PER_MESH = 3
"""Candidates of one mesh that are compiled, so that others have their turn."""
MOST_ROWS = 16
"""Sequences that a device takes at a time, at most: more fill no matrix unit better."""
FRUGAL = 2
"""Candidates of least memory by arithmetic that are compiled before it is said that none fits."""
DOUBTFUL = 1.25
"""Candidates over the limit by less are compiled where there is time: arithmetic may be wrong."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Effort:
    """How much is compiled."""

    candidates: int
    """In the first pass."""
    full: int
    """To the end, of those that fit."""
    jobs: int
    """Compilers at a time."""


@dataclass(frozen=True)
class Found:
    """A candidate with all that is known of it."""

    candidate: Candidate
    estimate: Estimate
    compiled: Compiled | None
    target: Target

    @property
    def hbm_bytes(self) -> int:
        return self.compiled.hbm_bytes if self.compiled else int(self.estimate.hbm_bytes)

    @property
    def fits(self) -> bool:
        if self.compiled and self.compiled.too_large:
            return False
        return self.hbm_bytes <= self.target.chip.hbm_bytes

    @property
    def seconds(self) -> dict[str, float]:
        """By part of the step; with the collectives that were counted, where they were."""
        if self.compiled is None or self.compiled.too_large:
            return self.estimate.seconds
        seconds = {n: self.estimate.seconds[n] for n in ("matrices", "attention", "elementwise")}
        clock = self.target.chip.clock
        if self.compiled.product_cycles and clock:
            seconds["matrices"] = self.compiled.product_cycles / clock
            seconds["elementwise"] = self.compiled.other_cycles / clock * ELEMENTWISE_CYCLES
        wire: Counter[str] = Counter()
        for one in self.compiled.collectives:
            wire["+".join(one["axes"]) + BESIDE * one["hidden"]] += one["wire_bytes"]
        mesh = dataclasses.asdict(self.candidate.mesh)
        host = {k: v for k, v in self.estimate.seconds.items() if k.startswith("host")}
        return seconds | host | collective_seconds(wire, mesh, self.target)

    @property
    def step_seconds(self) -> float:
        return step_seconds(self.seconds)

    @property
    def mfu(self) -> float:
        peak = self.target.chips * self.target.chip.peak_flops
        return self.estimate.model_flops / (self.step_seconds * peak)


def plan(config: Config, target: Target, effort: Effort, cache: Path, say: Say) -> list[Found]:
    """The candidates for `config` on a target: those that fit first, the fastest of them first.

    Raises InputError where no mesh divides the experiment, or a compiler fails.
    """
    config = for_planning(config)
    ranked = rank(config, target)
    if not effort.candidates:
        return ordered(ranked)
    chosen = _chosen(ranked, effort.candidates)
    looked_at = _compile_all(config, chosen, effort.jobs, cache, False, say)
    if not any(found.fits for found in looked_at):
        # Fast ones were tried; before it is said that none fits, the most frugal ones are.
        frugal = [found for found in _by_memory(ranked) if found not in chosen][:FRUGAL]
        looked_at += _compile_all(config, frugal, effort.jobs, cache, False, say)
        chosen += frugal
    rest = [found for found in ranked if found not in chosen]
    best = [found for found in ordered(looked_at) if found.fits][: effort.full]
    done = _compile_all(config, best, effort.jobs, cache, True, say)
    again = {found.candidate: found for found in done}
    verified = [again.get(found.candidate, found) for found in looked_at]
    return ordered(verified) + ordered(rest)


def smallest(
    config: Config, target: Target, effort: Effort, cache: Path, say: Say
) -> tuple[Target, bool] | None:
    """The smallest slice of the target's generation that holds `config`, and whether that is
    compiled and not only computed; None where none does.
    """
    config = for_planning(config)
    for size in smaller_and_larger(target):
        try:
            ranked = rank(config, size)
        except InputError:
            continue  # the batch or the heads do not divide over it
        limit = DOUBTFUL * size.chip.hbm_bytes
        hopeful = [found for found in _by_memory(ranked) if found.hbm_bytes <= limit]
        if not effort.candidates:
            if any(found.fits for found in hopeful):
                return size, False
            continue
        # The frugal first: one that fits is enough.
        for found in hopeful[:FRUGAL]:
            done = _compile_all(config, [found], 1, cache, False, say)[0]
            if done.compiled and done.fits:
                return size, True
    return None


def for_planning(config: Config) -> Config:
    """The experiment at its full batch; its vocabulary must be known."""
    require(
        config.model.vocab_size > 0,
        "a plan depends on the vocabulary, and model.vocab_size=0 leaves it to the tokenizer: set "
        "it (--model.vocab-size).",
    )
    train = dataclasses.replace(config.train, ramp_start_tokens=0, ramp_tokens=0)
    return dataclasses.replace(config, train=train)


def rank(config: Config, target: Target) -> list[Found]:
    """Every candidate with its estimate, those that should fit first, the fastest of them first."""
    found = [
        Found(candidate, estimate(candidate.applied(config), target), None, target)
        for candidate in candidates(config, target)
    ]
    require(
        bool(found),
        f"the mesh must divide heads, widths and the batch, and none of {target.chips} devices "
        f"does for {config.train.batch_tokens // config.sequence_length} sequences a batch: plan "
        "for fewer devices, or a larger --train.batch-tokens.",
    )
    return ordered(found)


def ordered(found: Any) -> list[Found]:
    """Those that fit by time, then the others by memory.

    Those that were compiled to the end come before all: their time is by the compiler's cycles, and
    not to be compared with that of formulas, which leave out what makes a program slow.
    """

    def key(one: Found) -> tuple[bool, bool, float]:
        by_formulas = one.compiled is None or not one.compiled.full
        return not one.fits, by_formulas, one.step_seconds if one.fits else one.hbm_bytes

    return sorted(found, key=key)


def _by_memory(found: list[Found]) -> list[Found]:
    return sorted(found, key=lambda one: one.estimate.hbm_bytes)


def candidates(config: Config, target: Target) -> Iterator[Candidate]:
    """Meshes x rematerialisation x micro-batch x residual stream, as far as they divide."""
    rows = config.train.batch_tokens // config.sequence_length
    for mesh in meshes(config, target):
        parts = batch_parts(dataclasses.asdict(mesh))
        each = rows // parts
        sizes = [n for n in range(1, min(each, MOST_ROWS) + 1) if each % n == 0]
        # What keeps everything fits on no TPU; the memory of a host that is here is not ours to
        # plan, or is the device's own.
        left_out: Remat = "offload" if target.is_local else "none"
        remats: list[Remat] = [remat for remat in get_args(Remat) if remat != left_out]
        splits = (False, True) if mesh.tensor > 1 else (False,)
        for remat, size, split in itertools.product(remats, sizes, splits):
            if split and config.sequence_length % (mesh.sequence * mesh.tensor):
                continue
            yield Candidate(mesh, remat, size * config.sequence_length, split)


def meshes(config: Config, target: Target) -> Iterator[MeshConfig]:
    """Every mesh of the target's devices that divides the experiment.

    A pipeline is no part of the search: where the others fit, its bubble is a loss.
    """
    model, length = config.model, config.sequence_length
    rows = config.train.batch_tokens // length
    chips = target.slice_chips
    for tensor, sequence in itertools.product(_divisors(chips), _divisors(chips)):
        if model.num_heads % tensor or model.mlp_dim % tensor or model.padded_vocab_size % tensor:
            continue
        # A part of a sequence shorter than a kernel's block wastes it.
        if chips % (tensor * sequence) or (sequence > 1 and length // sequence < 512):
            continue
        left = chips // (tensor * sequence)
        for fsdp in _divisors(left):
            parts = target.slices * left
            if model.embed_dim % fsdp or model.token_dim % fsdp or rows % parts:
                continue
            yield MeshConfig(left // fsdp, fsdp, tensor, sequence, target.slices)


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _chosen(ranked: list[Found], most: int) -> list[Found]:
    """The first `most` that may fit, PER_MESH of each mesh; the most frugal where none may."""
    limit = DOUBTFUL * ranked[0].target.chip.hbm_bytes
    hopeful = [found for found in ranked if found.estimate.hbm_bytes <= limit]
    hopeful = sorted(hopeful, key=lambda found: found.step_seconds)
    if not hopeful:
        return _by_memory(ranked)[:1]
    seen: Counter[MeshConfig] = Counter()
    chosen = []
    for found in hopeful:
        mesh = found.candidate.mesh
        if seen[mesh] < PER_MESH and len(chosen) < most:
            seen[mesh] += 1
            chosen.append(found)
    return chosen


def _compile_all(
    config: Config, found: list[Found], jobs: int, cache: Path, full: bool, say: Say
) -> list[Found]:
    """`found`, compiled; tells of each as it is done."""

    def one(item: Found) -> Found:
        applied = item.candidate.applied(config)
        try:
            compiled = compile_candidate(applied, item.target, cache, full)
        except InputError as error:
            # Of this candidate alone: what is known of it stays, and the others go on.
            say(f"failed {item.target.name} {described(item)}: {error}")
            return item
        done = dataclasses.replace(item, compiled=compiled)
        say(f"{'compiled' if full else 'looked at'} {item.target.name} {described(done)}")
        return done

    if found:
        compiler_version(found[0].target)  # without which all would fail
    with ThreadPoolExecutor(jobs) as pool:
        try:
            return list(pool.map(one, found))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            end_all()
            raise


def mesh_words(mesh: MeshConfig) -> str:
    """data 2 x fsdp 8."""
    axes = dataclasses.asdict(mesh)
    return " x ".join(f"{name} {size}" for name, size in axes.items() if size > 1) or "one device"


def described(found: Found) -> str:
    """One line for the progress: what it is, and whether it fits."""
    mesh = mesh_words(found.candidate.mesh)
    limit = found.target.chip.hbm_bytes / 2**30
    verdict = "fits" if found.fits else "does not fit"
    return (
        f"{mesh}, {found.candidate.remat}: {found.hbm_bytes / 2**30:.2f} of {limit:.2f} GiB, "
        f"{verdict}, {found.step_seconds:.3g} s a step"
    )
