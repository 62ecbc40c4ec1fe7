"""Runs Python text that nobody has read, such as what a model wrote, in a process of its own.

What is guaranteed on Linux: the program has an empty folder, no input, no environment and limits
of time, memory, processes, files and output; it counts as passed only if all of it ran to its end;
and when `run` returns, or the process that called it dies in whatever way, no process and no file
of the program is left. Where the kernel lets an unprivileged process make namespaces (most do; the
usual settings of Docker do not), it also has no network, sees no other process to disturb, and can
write nowhere but to its folder, which lies in memory and is limited too.

What is not: it is no jail. It reads what the user can read, and a program that wants to be counted
as passed can find a way, as it runs in one process with its tests. Without namespaces it can also
write what the user can write and signal the user's processes, one by one; a filter of its system
calls keeps it from all of them at once and from the network (x86-64 and ARM). This keeps out
accidents, not an adversary. On systems other than Linux there is no more than the limits that the
system knows, and processes that the program leaves behind are not found.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Status = Literal["passed", "failed", "timeout", "memory", "processes"]
GRACE_SECONDS = 20
"""Beyond its limit, that the process which watches over a program has to clean up."""

NAMESPACES = True
"""Whether the kernel is asked for them: a test of what is left without them sets it to False."""


@dataclass(frozen=True)
class Limits:
    """What a program may take; more of it ends the program."""

    cpu_seconds: int = 5
    """Of each of its processes. Unlike the time by the clock it hardly depends on what else runs,
    so that an innocent program is not stopped on a machine that is busy."""
    seconds: float = 15.0
    """By the clock, for a program that waits."""
    memory: int = 512 * 2**20
    """Bytes: address space of each process, and what all of them together hold."""
    processes: int = 16
    """At once, itself included; seen a little late, so that it may have more for some 20 ms."""
    file_bytes: int = 16 * 2**20
    """Of a file, and where the folder lies in memory of all files together."""
    open_files: int = 64


@dataclass(frozen=True)
class Outcome:
    """What became of a program."""

    status: Status
    """passed: it ran to its end. failed: it raised, exited early or crashed. timeout, memory,
    processes: it met that limit."""
    message: str
    """The exception, or the last line that it wrote to stderr; "" if it passed."""

    @property
    def passed(self) -> bool:
        return self.status == "passed"


def run(program: str, limits: Limits | None = None) -> Outcome:
    """Run a program, tests and all, to its end or to its limits; never raises for what it does.

    It is run as a script is, its `__name__` is "__main__", in a Python like this one with the
    packages of this one; its hashes are the same every time. What it prints is dropped. To exit
    is to fail, with status 0 too: whoever exits may not have run the tests.
    """
    limits = limits or Limits()
    name = f"gpt_jax-sandbox-{secrets.token_hex(8)}"
    job = {
        "program": program,
        "token": secrets.token_hex(16),
        "folder": os.path.join(tempfile.gettempdir(), name),
        "parent": os.getpid(),
        "limits": asdict(limits),
        "namespaces": NAMESPACES,
    }
    # -P and -s with an environment that holds nothing of the user's are what -I is, and leave
    # room for a seed of hashes: a set has the same order in every run of a program.
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": job["folder"],
        "TMPDIR": job["folder"],
        "PYTHONHASHSEED": "0",
    }
    watcher = subprocess.Popen(
        [sys.executable, "-P", "-s", "-B", str(Path(__file__).with_name("sandbox_watcher.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        cwd="/",
        start_new_session=True,
    )
    errors = b""
    try:
        answer, errors = watcher.communicate(
            json.dumps(job).encode(), timeout=limits.seconds + GRACE_SECONDS
        )
        return Outcome(**json.loads(answer))
    except subprocess.TimeoutExpired:
        return Outcome("timeout", "the process that watches over it is stuck")
    except (ValueError, TypeError):  # it was killed, or there is no room for it
        text = errors.decode(errors="replace").strip().rpartition("\n")[2]
        return Outcome("failed", text or "the process that watches over it was killed")
    finally:
        if watcher.poll() is None:
            watcher.kill()
            watcher.wait()
        for stream in (watcher.stdin, watcher.stdout, watcher.stderr):
            if stream:
                stream.close()


def run_all(programs: Sequence[str], limits: Limits | None = None) -> list[Outcome]:
    """`run` of each program, as many at a time as there are cores."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(lambda program: run(program, limits), programs))
