"""Programs that loop, fork, fill the memory, exit early: each has its outcome, and leaves nothing.

What is left is looked for in /proc and in the folder of temporary files, not asked of the sandbox.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt_jax import sandbox
from gpt_jax.sandbox import Limits, run, run_all

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")
LIMITS = Limits(cpu_seconds=1, seconds=4, memory=256 * 2**20, processes=8)

ENDS = {
    "x = 1 + 1\nassert x == 2": ("passed", ""),
    "assert 1 == 2, 'not equal'": ("failed", "AssertionError: not equal"),
    "x = (": ("failed", "SyntaxError: '(' was never closed (program.py, line 1)"),
    "x = '\ud800'": ("failed", "UnicodeEncodeError"),
    "input()": ("failed", "EOFError"),
    "import os\nassert os.listdir() == []": ("passed", ""),
    "import os\nassert 'HOME' in os.environ and len(os.environ) < 8": ("passed", ""),
    "open('a', 'w').write('b')\nassert open('a').read() == 'b'": ("passed", ""),
    "print('x' * 10**7)": ("passed", ""),
    "import sys\nsys.stderr.write('x' * 10**7)": ("passed", ""),
    "if __name__ == '__main__': raise ValueError('as a script')": ("failed", "ValueError"),
    # Who ends before the tests has not passed them.
    "import sys\nsys.exit(0)\nassert False": ("failed", "SystemExit: 0"),
    "import os\nos._exit(0)\nassert False": ("failed", "it exited with status 0 before its end"),
    "import os\nos.write(2, b'so: passed\\n')\nos._exit(0)": ("failed", "so: passed"),
    "import os\nos.write(3, b'passed')\nos._exit(0)": ("failed", "it exited"),
    "raise KeyboardInterrupt": ("failed", "KeyboardInterrupt"),
    # An annotation is code too.
    "def f(x: List[int]): pass": ("failed", "NameError: name 'List' is not defined"),
    # A copy that comes to the end does not stand for the one that fails.
    "import os, time\nif os.fork():\n    time.sleep(0.2)\n    assert False": (
        "failed",
        "AssertionError",
    ),
    # Limits.
    "while True: pass": ("timeout", "it took more than"),
    "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass": (
        "timeout",
        "it took more than",
    ),
    "import os\nos.kill(os.getpid(), 9)": ("failed", "it was killed by SIGKILL before its end"),
    "import time\ntime.sleep(100)": ("timeout", "it took more than 4 s"),
    "x = []\nwhile True: x.append(bytearray(10**7))": ("memory", "MemoryError"),
    "import os\nwhile True: os.fork()": ("processes", "it had more than 8 processes"),
    "f = open('a', 'w')\nwhile True: f.write('x' * 10**6)": ("failed", "OSError: [Errno 27]"),
    "x = [open('a', 'w') for _ in range(100)]": ("failed", "OSError: [Errno 24]"),
    "def f(): f()\nf()": ("failed", "RecursionError: maximum recursion depth exceeded"),
    "import ctypes\nctypes.string_at(0)": ("failed", "it was killed by SIGSEGV before its end"),
    # Memory of several processes, none of which holds too much.
    "import os, time\nos.fork()\nos.fork()\nx = b'x' * 10**8\ntime.sleep(3)": ("memory", "its"),
    # Nobody listens there, but who has a network is told so.
    "import socket\nsocket.create_connection(('127.0.0.1', 9), 1)": ("failed", "Error"),
}


WAYS = [
    pytest.param(True, id="namespaces"),
    pytest.param(False, id="without", marks=pytest.mark.slow),
]


@pytest.fixture(params=WAYS)
def namespaces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Once with the kernel's namespaces (where it has them), and once without."""
    monkeypatch.setattr(sandbox, "NAMESPACES", request.param)
    return request.param


def folders() -> set[str]:
    return {name for name in os.listdir(tempfile.gettempdir()) if name.startswith("gpt_jax-sand")}


def running(marker: str) -> list[str]:
    """Processes of which an argument is `marker`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if marker in path.read_text().split("\0"):
                found.append(path.parent.name)
        except OSError:
            continue
    return found


def test_every_program_has_its_outcome_and_leaves_no_file(namespaces: bool) -> None:
    before = folders()
    outcomes = run_all(list(ENDS), LIMITS)
    for program, (status, message), outcome in zip(ENDS, ENDS.values(), outcomes, strict=True):
        assert (outcome.status, outcome.passed) == (status, status == "passed"), program
        assert message in outcome.message, program
    assert folders() <= before


def test_a_process_that_detached_itself_ends_with_the_program(namespaces: bool) -> None:
    marker = f"{1000 + os.getpid()}.{int(namespaces)}"
    program = f"""
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv("/bin/sleep", ["sleep", "{marker}"])
    os._exit(0)
os.wait()
time.sleep(0.3)
"""
    seen = []
    code = f"from gpt_jax import sandbox; sandbox.NAMESPACES = {namespaces}; "
    started = subprocess.Popen(
        [sys.executable, "-c", f"{code}print(sandbox.run({program!r}))"],
        stdout=subprocess.PIPE,
        text=True,
    )
    while started.poll() is None:
        seen += running(marker)
        time.sleep(0.02)
    assert started.communicate()[0].startswith("Outcome(status='passed'")
    assert seen
    assert running(marker) == []


def test_nothing_is_left_of_a_program_whose_caller_was_killed(namespaces: bool) -> None:
    marker, before = f"{2000 + os.getpid()}.{int(namespaces)}", folders()
    program = f"import os; os.execv('/bin/sleep', ['sleep', '{marker}'])"
    code = f"from gpt_jax import sandbox; sandbox.NAMESPACES = {namespaces}; "
    caller = subprocess.Popen([sys.executable, "-c", f"{code}sandbox.run({program!r})"])
    wait_for(lambda: bool(running(marker)))
    caller.kill()
    caller.wait()
    wait_for(lambda: not running(marker) and folders() <= before)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_all_processes_at_once_are_out_of_reach(namespaces: bool) -> None:
    # Signal 0 asks whether they could be signalled, and does nothing.
    outcome = run("import os\nos.kill(-1, 0)", LIMITS)
    # Without namespaces it is refused; with them there are no other processes.
    assert outcome.message.startswith(("PermissionError", "ProcessLookupError")), outcome


def test_sets_have_the_same_order_each_time() -> None:
    program = "assert False, list({str(n) for n in range(20)})"
    assert run(program, LIMITS) == run(program, LIMITS)


def test_with_namespaces_nothing_outside_can_be_written(tmp_path: Path) -> None:
    can = subprocess.run(["unshare", "--user", "--net", "true"], check=False, capture_output=True)
    if can.returncode:
        pytest.skip("this kernel lets no process make namespaces")
    tmp_path.chmod(0o777)
    outcome = run(f"open({str(tmp_path / 'a')!r}, 'w')", LIMITS)
    assert "Read-only file system" in outcome.message
    # All files together are limited, as they are in memory.
    filled = run("for n in range(9):\n    open(str(n), 'w').write('x' * 4 * 10**6)", LIMITS)
    assert "No space left" in filled.message


HALF = """
import os, sys
from types import SimpleNamespace
from gpt_jax import sandbox_watcher as watcher
names = ("unshare", "mount", "syscall")
watcher.libc = SimpleNamespace(**{name: getattr(watcher.libc, name) for name in names})
setattr(watcher.libc, sys.argv[1], lambda *_: -1)
before = os.readlink("/proc/self/ns/mnt")
assert watcher._enter_namespaces(sys.argv[2], 10**6) is False
assert os.readlink("/proc/self/ns/mnt") == before
"""


@pytest.mark.parametrize("fails", ["mount", "syscall"])
def test_half_of_the_namespaces_are_none(fails, tmp_path):
    """Where files cannot be shut out, nothing is said to be: the filter of calls is for that."""
    subprocess.run([sys.executable, "-c", HALF, fails, tmp_path], check=True)
