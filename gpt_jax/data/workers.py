"""Work over all cores, in processes: results in the order of the tasks, whoever ends first."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import types
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
def pool(processes: int, start: Callable[..., Any] | None = None, *args: Any) -> Iterator[Executor]:
    """Processes that end with this one, however it ends; each calls `start(*args)` first.

    They are started anew (spawn), as a fork of a process with threads can hang. What they are to
    do is of a module that they import, never of the script that was started.
    """
    context = multiprocessing.get_context("spawn")
    executor = _Executor(processes, context, _begin, (os.getpid(), start, args))
    try:
        yield executor
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        raise
    executor.shutdown()


class _Executor(ProcessPoolExecutor):
    """Starts processes that do not run the main script again, whether it guards itself or not."""

    def submit(self, fn: Callable[..., R], /, *args: Any, **kwargs: Any) -> Future[R]:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = types.ModuleType("__main__")  # from no file
        try:
            return super().submit(fn, *args, **kwargs)
        finally:
            sys.modules["__main__"] = main


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


def _begin(parent: int, start: Callable[..., Any] | None, args: tuple) -> None:
    # A terminal gives ^C to all of them; what there is to say of it, the parent says.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    # There is a process a core: threads of the tokenizers library would be in the way.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if start:
        start(*args)


def _end_with(parent: int) -> None:
    """End this process once its parent is gone: a parent that is killed can tell nobody."""
    while os.getppid() == parent:
        time.sleep(PARENT_SECONDS)
    os._exit(1)
