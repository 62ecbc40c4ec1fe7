"""Rewards by hand-written tables, and what becomes of those that fail."""

import multiprocessing
import time

import pytest

from gpt_jax.config import FeedbackConfig, InputError
from gpt_jax.sandbox import Limits
from gpt_jax.train import rewards
from gpt_jax.train.rewards import Reward, Rewards, Sample


def values(name: str, *completions: str, record: dict | None = None, prompt: str = "") -> list:
    own = Rewards(name, 1.0)
    samples = [Sample("r", prompt, text, record or {}) for text in completions]
    found = own.of(samples)
    own.close()
    return [reward.failure or reward.value for reward in found]


def test_exact_match_with_a_field():
    record = {"answer": "42", "a": {"b": 7}}
    assert values("exact:answer", "42", " 42\n", "4 2", "", record=record) == [1, 1, 0, 0]
    assert values("exact:a/b", "7", "8", record=record) == [1, 0]
    (failure,) = values("exact:answr", "42", record=record)
    assert failure.startswith("it raised InputError")
    assert "answer" in failure


def test_a_regular_expression_is_searched():
    assert values(r"match:^\d+:\d$", "12:3", "a 12:3", "12:34") == [1, 0, 0]


def test_a_regular_expression_that_does_not_end_is_given_up():
    """It would try each of 2^40 ways to read the a's before it knows that no b follows."""
    assert values("match:^(a|a)*b$", "a" * 40, "aab") == ["it took more than 1 s", 1]


def test_length_falls_off_on_both_sides():
    assert values("length:4", "", "ab", "abcd", "abcde", "a" * 8, "a" * 99) == [
        0,
        0.5,
        1,
        0.75,
        0,
        0,
    ]


def test_programs_are_run_against_their_tests(monkeypatch):
    """The ones that loop, fork or exit are worth 0, and the others keep what they are worth."""
    monkeypatch.setattr(rewards, "LIMITS", Limits(cpu_seconds=1, seconds=4))
    record = {"tests": "assert double(4) == 8"}
    body = "    return 2 * x"
    head = "def double(x):\n"
    hostile = ["    while True: pass", "    import os\n    while True: os.fork()", "    exit(0)"]
    completions = [body, "    return x", "    return", *hostile, body]
    wanted = [1, 0, 0, 0, 0, 0, 1]
    assert values("continued_tests:tests", *completions, record=record, prompt=head) == wanted
    assert values("tests:tests", head + body, body, record=record, prompt="Double x.") == [1, 0]
    (failure,) = values("tests:test", head + body, record=record)
    assert "InputError" in failure


REWARD = """
import math, os, sys, time

def reward(prompt, completion, record):
    if completion == "raise":
        raise KeyError("no such thing")
    if completion == "nan":
        return math.nan
    if completion == "inf":
        return math.inf
    if completion == "huge":
        return 1e39
    if completion == "none":
        return None
    if completion == "text":
        return "1"
    if completion == "exit":
        sys.exit(0)
    if completion == "gone":
        os._exit(3)
    if completion == "loop":
        while True:
            try:
                time.sleep(0.01)
            except Exception:
                pass
    if completion == "fork":
        os.fork()
    if completion == "changed":
        record.clear()
    return len(prompt) + len(completion) + record["more"]
"""


def test_a_users_function_may_fail_in_any_way_and_takes_no_other_with_it(tmp_path):
    (tmp_path / "own.py").write_text(REWARD)
    asked = [
        "a",
        "raise",
        "nan",
        "inf",
        "huge",
        "none",
        "text",
        "exit",
        "gone",
        "loop",
        "fork",
        "bb",
    ]
    found = values(f"python:{tmp_path}/own.py:reward", *asked, record={"more": 0.5}, prompt="12")
    assert [found[0], *found[-2:]] == [3.5, 6.5, 4.5]
    for failure, part in zip(
        found[1:-2],
        [
            "it raised KeyError: 'no such thing' (own.py, line 6)",
            "it gave nan, which is no finite number",
            "it gave inf",
            "it gave 1e+39, which is no finite number of float32",
            "it gave None",
            "it gave '1'",
            "it raised SystemExit",
            "it ended its process",
            "it took more than 1 s",
        ],
        strict=True,
    ):
        assert failure.startswith(part)


def test_a_number_of_numpy_is_a_number(tmp_path):
    text = "import numpy as np\ndef own(p, c, r): return np.array([1, 2, 3]) == len(c)\n"
    text += "def one(p, c, r): return np.all(own(p, c, r)[:1])\n"
    (tmp_path / "own.py").write_text(text)
    assert values(f"python:{tmp_path}/own.py:one", "a", "bb") == [1, 0]
    (failure,) = values(f"python:{tmp_path}/own.py:own", "a")
    assert failure.startswith("it raised ValueError")


def test_what_cannot_be_asked_and_a_process_that_is_gone_take_no_run_with_them(tmp_path):
    """A record that cannot be pickled; and processes that died before the next batch is sent."""
    (tmp_path / "own.py").write_text(REWARD)
    rewards = Rewards(f"python:{tmp_path}/own.py:reward", 1.0)
    try:
        good, bad = ({"more": 0.5}, {"more": lambda: 1})
        one, other = rewards.of([Sample("r", "", "a", record) for record in (good, bad)])
        assert one.value == 1.5
        assert "pickle" in other.failure
        for process in multiprocessing.active_children():
            process.kill()
            process.join()
        time.sleep(0.5)  # now the pool knows
        assert rewards.of([Sample("r", "", "bb", good)]) == [Reward(2.5)]
    finally:
        rewards.close()


def test_there_must_be_such_a_reward(tmp_path):
    (tmp_path / "own.py").write_text("x = 1")
    for name, message in {
        "exakt:a": "exact",
        "exact": "names the field",
        "tests:": "names the field",
        "match:(": "regular expression",
        "length:x": "number of characters",
        "python:nowhere.py:f": "there is no file",
        f"python:{tmp_path}/own.py:f": "has no function 'f'",
    }.items():
        with pytest.raises(InputError, match=message):
            Rewards(name, 1.0)


def test_a_config_of_feedback_that_cannot_be():
    for fields, message in (
        ({"method": "reinforce"}, "needs one"),
        ({"reward": "length:3"}, "needs one"),
        ({"method": "dpo", "beta": 0.0}, "beta must be positive"),
        ({"method": "reinforce", "reward": "length:3", "group": 1}, "a group of 1"),
        ({"beta": -1.0}, "must not be negative"),
        ({"group": 0}, "group"),
    ):
        with pytest.raises(InputError, match=message):
            FeedbackConfig(**fields)
