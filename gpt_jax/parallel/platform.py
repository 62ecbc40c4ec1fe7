"""Settings of the process that make training on a CPU fast; `presets.for_cpu` has the model's.

XLA allocates its temporaries anew for every step. By default glibc takes them from the system and
gives them back each time, and the page faults cost a quarter of a step (figures in the README).
"""

from __future__ import annotations

import ctypes

# Parameters of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8


def configure() -> None:
    """Keep freed memory for the next step; does nothing where the C library is not glibc.

    To be called before jax is imported: a thread keeps the arena that it was born with.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    # One arena, as only the main one can hold large blocks; none of them by mmap; never trimmed.
    for parameter, value in (
        (_ARENA_MAX, 1),
        (_MMAP_MAX, 0),
        (_TRIM_THRESHOLD, 2**31 - 1),
        (_TOP_PAD, 64 << 20),
    ):
        mallopt(parameter, value)
