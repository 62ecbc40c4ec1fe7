"""What a completion is worth: a function of prompt, completion and record, built in or a user's.

A reward that raises, takes too long, ends its process or gives no finite number has no value: the
caller leaves its sample out, and the run goes on. Nothing of jax is imported here, as the processes
that a user's reward runs in import it.
"""

from __future__ import annotations

import numbers
import os
import re
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, wait
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

from gpt_jax.config import InputError, nearest, require
from gpt_jax.data import functions, workers
from gpt_jax.data.examples import looked_up
from gpt_jax.sandbox import Limits, run_all

BUILT_IN = ("exact", "match", "length", "tests", "continued_tests")
Function = Callable[[str, str, dict], Any]
LIMITS = Limits()
"""Of a program that is run against its tests."""
LARGEST = 3.4e38
"""Of rewards: what is learned from them is computed in float32."""
STUCK_SECONDS = 10
"""Beyond its time, after which a process that does not come back is killed."""


class Sample(NamedTuple):
    """What a reward is asked about."""

    name: str
    """Of the record: source and position."""
    prompt: str
    completion: str
    record: dict[str, Any]


class Reward(NamedTuple):
    """What it said."""

    value: float | None
    """None: it has failed."""
    failure: str = ""


class Rewards:
    """The reward of that name (`FeedbackConfig.reward`), for many samples at a time.

    Raises InputError where there is none of that name, or its function cannot be imported.
    """

    def __init__(self, name: str, seconds: float) -> None:
        self.name, self._seconds = name, seconds
        kind, _, argument = name.partition(":")
        self._made: Callable[[], Function] | None = None
        self._programs: Callable[[Sample], str] | None = None
        self._function: Function | None = None
        if kind == "python":
            self._made = partial(_find, functions.parse(name)[1])
        elif kind in ("tests", "continued_tests"):
            require(bool(argument), f"{kind}:FIELD names the field of the tests: {name!r}.")
            self._programs = _programs(argument, with_prompt=kind == "continued_tests")
        elif kind == "match":  # which may take for ever too: (a|a)*b
            self._made = partial(_match, argument)
        else:
            require(
                kind in BUILT_IN,
                f"a reward is {', '.join(BUILT_IN)} or python:PATH.py:FUNCTION, and it is "
                f"{name!r}: {nearest(kind, BUILT_IN)}",
            )
            self._function = {"exact": _exact, "length": _length}[kind](argument)
        if self._made:
            self._made()  # what is wrong with it is told now
        self._stack: ExitStack | None = None
        self._pool: Executor | None = None

    def close(self) -> None:
        """End the processes of a user's reward or pattern."""
        if self._stack:
            self._stack.close()
        self._stack = self._pool = None

    def of(self, samples: Sequence[Sample]) -> list[Reward]:
        """The reward of each sample; on all cores, where it is none of a moment."""
        if self._programs:
            return _of_programs(self._programs, samples)
        if self._function:
            return [_called(self._function, sample) for sample in samples]
        return self._in_processes(samples)

    def _in_processes(self, samples: Sequence[Sample]) -> list[Reward]:
        """Of what they make. A process that is stuck or gone takes no other sample with it."""
        found: dict[int, Reward] = {}
        one_by_one = False
        while len(found) < len(samples):
            left = [index for index in range(len(samples)) if index not in found]
            left = left[:1] if one_by_one else left
            futures, failure = {}, ""
            try:
                for index in left:
                    futures[self._started().submit(_in_worker, samples[index])] = index
            except BrokenExecutor:  # by one that was sent before the last was
                failure = "it ended its process"
            pending = set(futures)
            while pending and not failure:
                limit = self._seconds + STUCK_SECONDS
                done, pending = wait(pending, limit, return_when=FIRST_COMPLETED)
                failure = "" if done else f"it took more than {self._seconds:g} s"
                for future in done:
                    try:
                        found[futures[future]] = future.result()
                    except BrokenExecutor:
                        failure = "it ended its process"
                    except (Exception, _TooLong) as error:  # such as what cannot be pickled
                        said = f"it raised {type(error).__name__}: {error}"
                        found[futures[future]] = Reward(None, said)
            if failure:
                # Which of them it was is known only of one alone.
                self._kill()
                if one_by_one:
                    found[left[0]] = Reward(None, failure)
                one_by_one = True
        return [found[index] for index in range(len(samples))]

    def _started(self) -> Executor:
        if self._pool is None:
            self._stack = ExitStack()
            self._pool = self._stack.enter_context(
                workers.pool(workers.num_cores(), _start_worker, self._made, self._seconds)
            )
        return self._pool

    def _kill(self) -> None:
        for process in list((getattr(self._pool, "_processes", None) or {}).values()):
            process.kill()
        self.close()


def _find(path: str) -> Function:
    where, _, name = path.rpartition(":")
    found: Any = functions.function(where, name)
    return found


def _called(function: Function, sample: Sample) -> Reward:
    """The value of a function, or why there is none."""
    try:
        value = function(sample.prompt, sample.completion, dict(sample.record))
        value = value.item() if hasattr(value, "item") else value  # an array of one number
        if isinstance(value, numbers.Real) and abs(float(value)) <= LARGEST:
            return Reward(float(value))
        return Reward(None, f"it gave {value!r:.60}, which is no finite number of float32")
    except BaseException as error:  # what it raises is its own affair, not the run's
        if isinstance(error, KeyboardInterrupt):
            raise
        return Reward(None, f"it raised {functions.last_line(error)}")


class _TooLong(BaseException):
    """Not an Exception: a function that catches those must not catch it."""


_of_worker: tuple[Function, float]


def _start_worker(made: Callable[[], Function], seconds: float) -> None:
    global _of_worker
    _of_worker = made(), seconds
    signal.signal(signal.SIGALRM, _ring)


def _ring(*_: Any) -> None:
    raise _TooLong


def _in_worker(sample: Sample) -> Reward:
    function, seconds = _of_worker
    own = os.getpid()
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        reward = _called(function, sample)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if os.getpid() != own:  # the function has forked, and this is not who was asked
            os._exit(0)
    late = reward.failure.startswith(f"it raised {_TooLong.__name__}")
    return Reward(None, f"it took more than {seconds:g} s") if late else reward


def _exact(field: str) -> Function:
    require(bool(field), "exact:FIELD names the field of the right answer.")

    def reward(_: str, completion: str, record: dict) -> float:
        return float(completion.strip() == _field(record, field).strip())

    return reward


def _match(pattern: str) -> Function:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(
            f"match:PATTERN is a regular expression, and {pattern!r} is none: {error}."
        ) from error
    return lambda _, completion, __: float(bool(compiled.search(completion)))


def _length(number: str) -> Function:
    require(
        number.isdecimal() and int(number) > 0,
        f"length:N is a number of characters, such as length:100, and N is {number!r}.",
    )
    target = int(number)
    return lambda _, completion, __: max(0.0, 1 - abs(len(completion) - target) / target)


def _programs(field: str, with_prompt: bool) -> Callable[[Sample], str]:
    def program(sample: Sample) -> str:
        head = sample.prompt if with_prompt else ""
        return f"{head}{sample.completion}\n{_field(sample.record, field)}\n"

    return program


def _of_programs(program: Callable[[Sample], str], samples: Sequence[Sample]) -> list[Reward]:
    """1 for a program that passes, 0 for one that does not, whatever it does instead."""
    texts, failures = [], {}
    for index, sample in enumerate(samples):
        try:
            texts.append(program(sample))
        except InputError as error:
            texts.append("")
            failures[index] = Reward(None, f"it raised InputError: {error}")
    outcomes = run_all(texts, LIMITS)
    return [
        failures.get(index, Reward(float(outcome.passed))) for index, outcome in enumerate(outcomes)
    ]


def _field(record: dict, path: str) -> str:
    """The text of a field; a/b is b in a."""
    return str(looked_up(record, tuple(path.split("/")), "the record"))
