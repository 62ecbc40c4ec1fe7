"""Ends a process whose step has stopped: a host that is alive but stuck holds up all the others.

Heartbeats do not see it, as they come from a thread of their own, and a collective waits for ever.
"""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_STATUS = 75
"""EX_TEMPFAIL of sysexits.h: the same command may succeed."""
TIMES_LONGEST = 10


class Watchdog:
    """Watches that steps end, from a thread of its own, while it is open.

    A step is stuck when it takes `seconds`, and ten times as long as the longest before it: on a
    slow machine a step may take minutes, and in a batch ramp each takes longer than the last. So it
    watches from the second step on, and never while it is told to look away. It then writes the
    stacks of all threads to stderr and ends the process with EXIT_STATUS.
    """

    def __init__(self, seconds: float) -> None:
        """`seconds`: 0 watches nothing."""
        self._seconds, self._longest = seconds, 0.0
        self._since: float | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        if self._seconds:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def step_ended(self) -> None:
        """A step has ended on the devices, and the next is under way."""
        now = time.monotonic()
        if self._since is not None:
            self._longest = max(self._longest, now - self._since)
        self._since = now

    @contextmanager
    def looks_away(self) -> Iterator[None]:
        """Within it, time does not count: validation, a save, rewards: what has no usual length."""
        running, self._since = self._since is not None, None
        yield
        self._since = time.monotonic() if running else None

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._seconds / 10)):
            since, limit = self._since, max(self._seconds, TIMES_LONGEST * self._longest)
            if since is None or not self._longest:
                continue
            waited = time.monotonic() - since
            if waited > limit:
                text = (
                    f"error: no step has ended for {waited:.0f} s (the longest before took "
                    f"{self._longest:.1f} s): this process or another host of the run is stuck. "
                    "Its threads are below; the same command continues from the last checkpoint.\n"
                )
                os.write(2, text.encode())
                faulthandler.dump_traceback(file=2, all_threads=True)
                os._exit(EXIT_STATUS)
