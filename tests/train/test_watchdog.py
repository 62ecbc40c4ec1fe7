"""The watchdog: what counts as stuck, and what it then does. Whole runs: test_several_hosts.py."""

import os
import time

import pytest

from gpt_jax.train.watchdog import Watchdog


@pytest.fixture
def ended(monkeypatch):
    """The statuses that the process was to end with, and the times."""
    calls = []
    monkeypatch.setattr(os, "_exit", lambda status: calls.append((status, time.monotonic())))
    return calls


def steps(watchdog, *seconds):
    """Steps that take so long."""
    watchdog.step_ended()
    for each in seconds:
        time.sleep(each)
        watchdog.step_ended()


def test_a_step_that_does_not_end_is_caught(ended, capfd):
    """After 0.5 s, with the stack of this very line, and the status 75."""
    with Watchdog(0.5) as watchdog:
        steps(watchdog, 0.01)
        began = time.monotonic()
        time.sleep(1.2)
    status, at = ended[0]
    assert status == 75
    assert 0.5 < at - began < 1.2
    err = capfd.readouterr().err
    assert err.startswith("error: no step has ended for ")
    assert "the same command continues from the last checkpoint" in err
    assert "test_a_step_that_does_not_end_is_caught" in err


def test_slow_is_not_stuck(ended):
    """Ten times the longest step so far: 2 s here, where 1 s is an hour of a large batch."""
    with Watchdog(0.2) as watchdog:
        steps(watchdog, 0.2, 0.01)
        time.sleep(1.0)
    assert ended == []


def test_nothing_counts_before_the_second_step_or_while_it_looks_away(ended):
    """Compilation, and then validation; what comes after that does."""
    with Watchdog(0.3) as watchdog:
        time.sleep(0.6)
        watchdog.step_ended()
        time.sleep(0.6)  # how long a step takes is not known yet
        watchdog._longest = 0.01
        with watchdog.looks_away():
            time.sleep(0.6)
        assert ended == []
        time.sleep(0.8)
    assert ended[0][0] == 75


def test_zero_watches_nothing(ended):
    with Watchdog(0) as watchdog:
        steps(watchdog, 0.01)
        time.sleep(0.3)
        assert not watchdog._thread.is_alive()
    assert ended == []
