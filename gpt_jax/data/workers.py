"""Work over all cores, in processes: results in the order of the tasks, whoever ends first."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

PARENT_SECONDS = 1.0
"""How often a worker looks whether the process that it works for is still there."""


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def pool(
    processes: int, start: Callable[..., None] | None = None, *args: Any
) -> Iterator[Executor]:
    """Processes that end with this one, however it ends; each calls `start(*args)` first.

    They are started anew (spawn), as a fork of a process with threads can hang.
    """
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(processes, context, _begin, (os.getpid(), start, args))
    try:
        yield executor
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        raise
    executor.shutdown()


def in_order(
    executor: Executor, function: Callable[[T], R], tasks: Iterable[T], ahead: int
) -> Iterator[R]:
    """`map(function, tasks)`, with at most `ahead` tasks drawn and not yet answered."""
    waiting: deque[Future[R]] = deque()
    for task in tasks:
        waiting.append(executor.submit(function, task))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _begin(parent: int, start: Callable[..., None] | None, args: tuple) -> None:
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    if start:
        start(*args)


def _end_with(parent: int) -> None:
    """End this process once its parent is gone: a parent that is killed can tell nobody."""
    while os.getppid() == parent:
        time.sleep(PARENT_SECONDS)
    os._exit(1)
