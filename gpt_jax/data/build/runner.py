"""Jobs that are done once: how a build goes over all cores and survives being killed anywhere.

A job writes its files and then its marker, a JSON file; each takes its name by one rename, when
its bytes are on the disk. A job whose marker is there has been done and is not done again. What a
job writes is a function of its arguments alone, so that a job that was killed half way, and is done
again, ends with the same bytes. Folders of jobs are named by a digest of all that their results
depend on: with another recipe they are other folders.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from gpt_jax.config import InputError, require
from gpt_jax.data.cache import PARTIAL
from gpt_jax.data.workers import pool

WORK = ".work"
"""Ends the name of the folder of a corpus's jobs, which begins with the corpus's."""
PACKAGES = ("numpy", "scipy", "pyarrow", "sentencepiece")
"""What the bytes of a corpus may depend on beside the recipe and the text."""
Result = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One piece of work."""

    marker: Path
    """Holds the result, as JSON, once the job is done."""
    function: Callable[..., Result]
    """Of a module's top level, as it goes to another process."""
    arguments: tuple


class Runner:
    """Does jobs in processes of its own, within the folder `work`, which it locks.

    A context manager. Raises InputError where another build is at work in the same folder.
    """

    def __init__(self, work: Path, processes: int, console: Console | None = None):
        self.work, self.processes = work, processes
        self.console = console or Console(quiet=True)
        try:
            work.mkdir(parents=True, exist_ok=True)
            self._lock = (work / "lock").open("w")
        except OSError as error:
            raise InputError(
                f"a build works in a folder beside the corpus, and {work} cannot be written "
                f"({error}): build elsewhere (--out)."
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = False
        except BlockingIOError:
            held = True
        require(
            not held,
            f"one build at a time works in a folder, and another holds {work}: wait for it, or "
            "build elsewhere (--out).",
        )
        _remove_partial(work)
        self._ended = work / "ended"
        self.goes_on = not self._ended.exists()
        """Whether the last build here was stopped before its end, if there was one."""
        self._ended.unlink(missing_ok=True)
        self.seconds: dict[str, float] = {}
        """What each step took, of those that had anything to do."""
        self._exit = contextlib.ExitStack()
        self._executor: Executor | None = None

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            # One that ended by a fault was not stopped: what was at fault may have been mended.
            if error[0] is None or issubclass(error[0], InputError):
                self._ended.touch()
            self._exit.__exit__(*error)
        finally:
            self._lock.close()

    def folder(self, step: str, made_from: Any) -> Path:
        """The folder of a step whose results depend on `made_from`, which JSON can state.

        And on the versions of what it is made with: no corpus is half of an older library's.
        """
        return self.work / f"{step}-{digest_of([made_from, made_with()])[:16]}"

    def forget(self, folder: Path) -> None:
        """Have the jobs of a step's folder done again."""
        if folder.exists():
            # Renamed first, so that a kill leaves no half of it.
            shutil.rmtree(folder.rename(folder.with_name(f"{PARTIAL}{folder.name}")))

    def run(self, what: str, jobs: Sequence[Job]) -> list[Result]:
        """The results of `jobs`, in their order; those that are not there yet are made now."""
        begun = time.perf_counter()
        missing = [job for job in jobs if not job.marker.exists()]
        if missing:
            silent = not self.console.is_terminal
            with Progress(console=self.console, transient=True, disable=silent) as progress:
                task = progress.add_task(what, total=len(jobs), completed=len(jobs) - len(missing))
                for _ in self._done(missing):
                    progress.advance(task)
        seconds = time.perf_counter() - begun
        if missing:
            self.seconds[what] = seconds
        took = f"{seconds:8.1f} s" if missing else "  as before"
        self.console.print(
            f"{what:<34}{len(jobs):>6} {'jobs' if len(jobs) > 1 else 'job ':<5}{took}"
        )
        return [read_json(job.marker) for job in jobs]

    def job(self, what: str, job: Job) -> Result:
        """The result of one job."""
        return self.run(what, [job])[0]

    def _done(self, jobs: Sequence[Job]) -> Iterator[None]:
        """Once for each job, when it is done."""
        if len(jobs) == 1 or self.processes == 1:
            for job in jobs:
                yield _do(job)
            return
        try:
            for future in as_completed([self._pool().submit(_do, job) for job in jobs]):
                yield future.result()
        except BrokenProcessPool as error:
            raise InputError(
                "every process of a build must live to its end, and one was killed, as happens "
                f"where memory runs out. What was done is kept in {self.work}: give the same "
                "command with fewer --processes, or a smaller --part-bytes, which begins anew."
            ) from error

    def _pool(self) -> Executor:
        if not self._executor:
            self._executor = self._exit.enter_context(pool(self.processes))
        return self._executor

    def start(self, function: Callable[[], None]) -> None:
        """Have the processes there, with all that the module of `function` imports."""
        if self.processes > 1:
            begun = [self._pool().submit(function) for _ in range(self.processes)]
            for future in begun:
                future.result()


def _remove_partial(work: Path) -> None:
    """Remove what was being written when a build was killed.

    For a moment its processes may still be at work, so that what is here may go while it is seen.
    """
    for at, folders, files in os.walk(work):
        for name in folders:
            if name.startswith(PARTIAL):
                shutil.rmtree(Path(at, name), ignore_errors=True)
        for name in files:
            if name.startswith(PARTIAL):
                Path(at, name).unlink(missing_ok=True)


def _do(job: Job) -> None:
    result = job.function(*job.arguments)
    write_json(job.marker, result)


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A new file to fill beside `path`; it takes that name if the body ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=PARTIAL, suffix=path.suffix, dir=path.parent)
    partial = Path(name)
    try:
        yield partial
        os.fsync(descriptor)
        partial.chmod(0o644)
        partial.rename(path)
    finally:
        os.close(descriptor)
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """JSON in a file that is there whole or not at all."""
    with atomic(path) as partial:
        partial.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")


def read_json(path: Path) -> Any:
    """What `write_json` wrote; raises InputError as `left_here` does."""
    with left_here(path):
        return json.loads(path.read_bytes())


@contextlib.contextmanager
def left_here(path: Path) -> Iterator[None]:
    """Say what to do where the body cannot read a file that a job has left: raises InputError."""
    try:
        yield
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        # All of it: markers tell of files that are there, in folders that are not theirs too.
        work = next((at for at in path.parents if at.suffix == WORK), path.parent)
        raise InputError(
            f"what a build has left for the next must stay as it is, and {path} cannot be read "
            f"({type(error).__name__}: {' '.join(str(error).split()):.200}): delete the folder "
            f"{work}, and build again."
        ) from error


def made_with() -> dict[str, str]:
    """The version of each of PACKAGES."""
    return {package: version(package) for package in PACKAGES}


def digest_of(value: Any) -> str:
    """SHA-256 of what JSON can state."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
