"""Freed memory stays with the process."""

import platform as python_platform
import subprocess
import sys

import pytest

COUNT_FAULTS = """
import ctypes, resource, sys, threading
from gpt_jax.parallel import platform

if "configured" in sys.argv:
    platform.configure()

libc, size = ctypes.CDLL(None), 64 << 20
libc.malloc.restype = ctypes.c_void_p
libc.memset.argtypes = ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t
libc.free.argtypes = (ctypes.c_void_p,)

def work():
    for _ in range(2):
        block = libc.malloc(size)
        libc.memset(block, 1, size)
        libc.free(block)

def faults():
    # As in XLA, where other threads than the first allocate.
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
"""


def count_faults(*arguments: str) -> int:
    command = [sys.executable, "-c", COUNT_FAULTS, *arguments]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(
    python_platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is configured"
)
def test_memory_that_is_freed_is_not_faulted_in_again():
    """Twice 64 MiB are 32,768 pages of 4 KiB: all faulted in by default, hardly any after."""
    assert count_faults() > 32_000
    assert count_faults("configured") < 1_000
