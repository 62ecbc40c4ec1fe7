"""Candidates compiled ahead of time for chips that are not here, each in a process of its own.

A first pass ends a process as soon as the compiler has assigned its buffers: memory and collectives
are known by then, and what is left to do, most of the time, is to write machine code. Answers are
kept on disk, by a digest of the program (its config, our sources, the libraries that trace it), the
topology and the compiler's version.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from gpt_jax.chips import GIB
from gpt_jax.config import Config, InputError
from gpt_jax.parallel.hosts import code_version
from gpt_jax.parallel.mesh import batch_parts, mesh_shape
from gpt_jax.plan.hlo import memory_bytes, program_facts
from gpt_jax.plan.target import Target
from gpt_jax.train.step import micro_batches

MEMORY_LIMIT = 8 * GIB
"""Of one compiler; 175 B parameters over 512 chips take it 2."""
SECONDS_LIMIT = 900.0
_BUFFERS = "after_optimizations_after_buffer_assignment.txt"
_MEMORY = "memory-usage-report.txt"
# libtpu looks for a TPU's metadata otherwise, and lets one process at a time load it.
_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_ENABLE_COMPILATION_CACHE": "0",
    "XLA_FLAGS": "",
    "LIBTPU_INIT_ARGS": "",
}
_running: set[subprocess.Popen[bytes]] = set()


def end_all() -> None:
    """End the compilers that are at work: they do not see the Ctrl-C that their parent does."""
    for process in list(_running):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler says of a candidate."""

    hbm_bytes: int
    """Of each device: arguments, temporaries, code."""
    argument_bytes: int | None
    temporary_bytes: int | None
    """Both None where only buffers were assigned."""
    too_large: bool
    """It is the compiler that refused it, and `hbm_bytes` is what it said is needed."""
    collectives: tuple[dict[str, Any], ...]
    product_cycles: int
    other_cycles: int
    """By the compiler's estimate, of matrix products and of other work; 0 where it gave none."""
    compile_seconds: float
    full: bool
    """Compiled to the end, and not until buffers were assigned."""


def compile_candidate(config: Config, target: Target, cache: Path, full: bool) -> Compiled:
    """Compile the training step of `config` for a target, or take the answer that is kept.

    Raises InputError where the experiment cannot be built on that mesh, where the compiler is not
    installed, fails, or takes too much memory or time.
    """
    path = cache / f"{_digest(config, target, full)}.json"
    if path.exists():
        # A file that another version wrote, or a killed one left, is as good as none.
        with contextlib.suppress(ValueError, TypeError):
            known = json.loads(path.read_text())
            return Compiled(**known | {"collectives": tuple(known["collectives"])})
    found = _compile(config, target, full)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(dataclasses.asdict(found)))
    partial.replace(path)
    return found


def _digest(config: Config, target: Target, full: bool) -> str:
    parts = (config.model, config.tune, config.optimizer, config.train, config.mesh)
    made_from = {
        "program": [dataclasses.asdict(part) for part in parts],
        "data": [config.sequence_length, config.data.segmented, config.data.supervised],
        "options": config.compiler_options,
        "flags": os.environ.get("XLA_FLAGS", "") if target.is_local else "",
        "code": code_version(),
        "target": [target.chip.generation, target.topology, target.slices, full],
        "devices": target.chip.device_kinds,
        "compiler": compiler_version(target),
    }
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:24]


def compiler_version(target: Target) -> str:
    """Of what compiles for a target; raises InputError where it is not installed."""
    try:
        return importlib.metadata.version("jaxlib" if target.is_local else "libtpu")
    except importlib.metadata.PackageNotFoundError:
        raise InputError(
            "compiling for TPUs that are not here needs libtpu, which is not installed: pip "
            "install 'gpt_jax[tpu]' (or -e '.[tpu]' in a clone), or plan by arithmetic alone "
            "(--no-compile)."
        ) from None


def _compile(config: Config, target: Target, full: bool) -> Compiled:
    folder = Path(tempfile.mkdtemp(prefix="gpt_jax-plan-"))
    early = not full and not target.is_local
    request = {
        "config": dataclasses.asdict(config),
        "topology": None if target.is_local else f"{target.chip.generation}:{target.topology}",
        "num_slices": target.slices,
        "dump": str(folder) if early else None,
    }
    environment = os.environ if target.is_local else os.environ | _ENVIRONMENT
    start = time.perf_counter()
    try:
        with (folder / "stderr").open("w+b") as errors, (folder / "stdout").open("w+b") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "gpt_jax.plan.worker"],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=errors,
                env=environment,
                start_new_session=True,  # so that all of it can be ended
            )
            _running.add(process)
            try:
                assert process.stdin is not None
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.close()
                assigned = _wait(process, folder if early else None, start)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                _running.discard(process)
            seconds = time.perf_counter() - start
            if assigned:
                return _of_buffers(config, target, folder, seconds)
            out.seek(0)
            errors.seek(0)
            said = errors.read().decode(errors="replace")
            return _of_answer(out.read().decode(), said, full, seconds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(process: subprocess.Popen[bytes], dump: Path | None, start: float) -> bool:
    """Wait for the process to end, or to assign its buffers: True. Memory and time are limited."""
    before: list[int] = []
    while process.poll() is None:
        if dump:
            # The files are there before they are whole: two looks apart they must be the same.
            sizes = _dumped_sizes(dump)
            if sizes and sizes == before:
                return True
            before = sizes
            time.sleep(0.5 if sizes else 0)
        resident = _resident_bytes(process.pid)
        if resident > MEMORY_LIMIT:
            raise InputError(
                f"a compiler may take {MEMORY_LIMIT / GIB:.0f} GiB of this machine's memory, and "
                f"it took {resident / GIB:.1f}: plan by arithmetic alone (--no-compile)."
            )
        if time.perf_counter() - start > SECONDS_LIMIT:
            raise InputError(
                f"a candidate is compiled in {SECONDS_LIMIT:.0f} seconds at most, and this one was "
                "not: plan by arithmetic alone (--no-compile), or on a faster machine."
            )
        time.sleep(0.1)
    return False


def _dumped_sizes(dump: Path) -> list[int]:
    """Of the two files that tell of the step; none while one of them is missing or empty."""
    sizes = [
        [path.stat().st_size for path in sorted(dump.glob(f"*train_step*{name}"))]
        for name in (_BUFFERS, _MEMORY)
    ]
    return [*sizes[0], *sizes[1]] if all(part and all(part) for part in sizes) else []


def _resident_bytes(pid: int) -> int:
    """Of a process; 0 once it has ended, or where there is no /proc."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except (OSError, IndexError):
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _of_buffers(config: Config, target: Target, folder: Path, seconds: float) -> Compiled:
    """From what the compiler has left in `folder`: the last module is the step itself."""
    text, report = (
        max(folder.glob(f"*train_step*{name}"), key=lambda path: path.name).read_text()
        for name in (_BUFFERS, _MEMORY)
    )
    mesh = mesh_shape(config.mesh, target.chips)
    _, num_micro = micro_batches(config, batch_parts(mesh))
    facts = program_facts(text, mesh, num_micro)
    return Compiled(
        hbm_bytes=memory_bytes(report),
        argument_bytes=None,
        temporary_bytes=None,
        too_large=False,
        collectives=tuple(facts["collectives"]),
        product_cycles=0,
        other_cycles=0,
        compile_seconds=seconds,
        full=False,
    )


def _of_answer(answer: str, errors: str, full: bool, seconds: float) -> Compiled:
    if not answer.strip():
        raise InputError(_last_error(errors))
    found = json.loads(answer)
    if "too_large" in found:
        # "... required for HLO temporaries (16.24G) exceeds available HBM (15.75G)".
        needed = re.search(r"([\d.]+)([KMGT])\) exceeds available", found["too_large"])
        if needed is None:
            raise InputError(f"the compiler must not fail, and it did: {found['too_large'][:400]}")
        size = float(needed[1]) * 2 ** (10 * " KMGT".index(needed[2]))
        return Compiled(int(size), None, None, True, (), 0, 0, seconds, full)
    return Compiled(
        hbm_bytes=found["hbm_bytes"],
        argument_bytes=found["argument_bytes"],
        temporary_bytes=found["temporary_bytes"],
        too_large=False,
        collectives=tuple(found["collectives"]),
        product_cycles=found["product_cycles"],
        other_cycles=found["other_cycles"],
        compile_seconds=seconds,
        full=True,
    )


def _last_error(errors: str) -> str:
    """A rule of ours that was broken, in its words; else the compiler's last line."""
    lines = [line for line in errors.splitlines() if line.strip()] or ["it said nothing"]
    last = lines[-1]
    if "InputError: " in last:
        return last.split("InputError: ", 1)[1]
    return f"the compiler must not fail, and it did: {last[:400]}"
