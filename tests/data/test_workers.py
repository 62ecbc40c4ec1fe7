"""Processes of our own: in order, few ahead, and without a second run of the script."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from gpt_jax.data.workers import in_order, pool

SCRIPT = """
from gpt_jax.data.workers import pool

print("the script runs")
with pool(2) as executor:
    print([*executor.map(abs, range(-9, 0))])
"""


def test_results_come_in_the_order_of_the_tasks_which_are_drawn_as_needed():
    drawn, most = [], 0

    def tasks():
        for seconds in (0.2, 0.0, 0.1, 0.0, 0.0):
            drawn.append(seconds)
            yield seconds

    with pool(2) as executor:
        pids = {executor.submit(os.getpid).result() for _ in range(9)}
        for i, done in enumerate(in_order(executor, _slept, tasks(), 3)):
            assert done == drawn[i]
            most = max(most, len(drawn) - i)
        assert executor.submit(os.getenv, "TOKENIZERS_PARALLELISM").result() == "false"
    assert most == 3
    assert os.getpid() not in pids


def _slept(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def test_a_script_that_does_not_guard_itself_runs_once(tmp_path: Path):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == f"the script runs\n{[*range(9, 0, -1)]}\n"
    assert (done.stderr, done.returncode) == ("", 0)


def test_a_terminal_that_interrupts_them_hears_nothing_of_it():
    """^C goes to each process of a terminal: a worker ends, without a traceback."""
    with pool(1) as executor:
        assert executor.submit(signal.getsignal, signal.SIGINT).result() is signal.SIG_DFL
