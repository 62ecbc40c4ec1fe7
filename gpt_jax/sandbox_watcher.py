"""The process that watches over a program in the sandbox; `sandbox.py` starts it, none imports it.

watcher      reads the job, keeps the limits that the kernel does not, kills, cleans up
+ gate       goes where the program is to be: a user of its own, no network, files to read
  + init     process 1 there: when it goes, all below it go
    + program, and whatever it starts
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import time
import types
from typing import Any

POLL_SECONDS = 0.02
TAIL_BYTES = 2000
"""Of what the program writes to stderr, kept."""
# From <linux/prctl.h>, <linux/sched.h>, <linux/mount.h>, <asm-generic/unistd.h>.
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
NEW_USER, NEW_PID, NEW_NET, NEW_MOUNTS, NEW_IPC = (
    0x10000000,
    0x20000000,
    0x40000000,
    0x00020000,
    0x08000000,
)
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, MOUNT_READ_ONLY, MOUNT_PRIVATE = (
    442,
    -100,
    0x8000,
    1,
    1 << 18,
)
libc: Any = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Read a job from stdin, run it, write what became of it to stdout, both JSON."""
    job = json.loads(sys.stdin.buffer.read())
    os.mkdir(job["folder"], 0o700)
    try:
        outcome = _watch(job)
    finally:
        _kill_descendants()
        _remove(job["folder"])
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(outcome).encode())


def _watch(job: dict[str, Any]) -> dict[str, str]:
    """Start the program, and wait for its end or its limits."""
    limits, started = job["limits"], time.monotonic()
    _adopt_orphans()
    (report, to_report), (errors, to_errors), (ended, to_ended) = (os.pipe() for _ in range(3))
    if os.fork() == 0:
        try:
            _be_gate(job, to_report, to_errors, to_ended)
        finally:
            os._exit(1)
    for end in (to_report, to_errors, to_ended):
        os.close(end)
    streams = {report: b"", errors: b"", ended: b""}
    broken, open_ends = "", set(streams)
    while ended in open_ends and not broken and os.getppid() == job["parent"]:
        _read(streams, open_ends, POLL_SECONDS)
        broken = _broken_limit(limits, started)
    _kill_descendants()
    while open_ends and _read(streams, open_ends, 0):
        pass
    if broken:
        return {"status": broken, "message": BROKEN[broken].format(**limits)}
    return _verdict(job["token"], streams[report], streams[errors], streams[ended])


BROKEN = {
    "timeout": "it took more than {seconds} s",
    "memory": "its processes held more than {memory} bytes",
    "processes": "it had more than {processes} processes",
}


def _read(streams: dict[int, bytes], open_ends: set[int], wait: float) -> bool:
    """Read what has come, keeping its end; False if nothing has."""
    ready, _, _ = select.select(list(open_ends), [], [], wait)
    for end in ready:
        part = os.read(end, 65536)
        streams[end] = (streams[end] + part)[-TAIL_BYTES:]
        if not part:
            open_ends.discard(end)
    return bool(ready)


def _broken_limit(limits: dict[str, Any], started: float) -> str:
    """Which of the limits that the kernel does not keep is broken, "" for none."""
    if time.monotonic() - started > limits["seconds"]:
        return "timeout"
    processes = _descendants()[2:]  # without gate and init
    if len(processes) > limits["processes"]:
        return "processes"
    if sum(_resident(pid) for pid in processes) > limits["memory"]:
        return "memory"
    return ""


def _verdict(token: str, report: bytes, errors: bytes, ended: bytes) -> dict[str, str]:
    """What the report of the program, its stderr and its wait status come to."""
    said, _, status_and_message = report.decode(errors="replace").partition(" ")
    if said == token:
        status, _, message = status_and_message.partition(" ")
        return {"status": status, "message": message}
    written = errors.decode(errors="replace").strip().rpartition("\n")[2]
    wait_status, spent = map(int, ended.split()) if ended else (signal.SIGKILL, 0)
    code = os.waitstatus_to_exitcode(wait_status)
    if code == -signal.SIGXCPU or (code == -signal.SIGKILL and spent):
        return {"status": "timeout", "message": "it took more than its processor time"}
    how = f"exited with status {code}"
    if code < 0:
        how = f"was killed by {signal.Signals(-code).name}"
    return {"status": "failed", "message": written[-500:] or f"it {how} before its end"}


def _be_gate(job: dict[str, Any], *ends: int) -> None:
    """Go into namespaces, and start what is first in them."""
    _die_with_parent()
    job["shut_in"] = job["namespaces"] and _enter_namespaces(
        job["folder"], job["limits"]["file_bytes"]
    )
    init = os.fork()
    if init == 0:
        try:
            _be_init(job, *ends)
        finally:
            os._exit(1)
    for end in ends:
        os.close(end)
    os.waitpid(init, 0)
    os._exit(0)


def _be_init(job: dict[str, Any], to_report: int, to_errors: int, to_ended: int) -> None:
    """Start the program, take in what it orphans, and tell how it ended."""
    _die_with_parent()
    program = os.fork()
    if program == 0:
        os.close(to_ended)
        try:
            _be_program(job, to_report, to_errors)
        finally:
            os._exit(1)
    os.close(to_report)
    os.close(to_errors)
    pid, status, used = 0, 0, None
    while pid != program:
        pid, status, used = os.wait4(-1, 0)
    spent = used is not None and used.ru_utime + used.ru_stime >= job["limits"]["cpu_seconds"]
    os.write(to_ended, f"{status} {int(spent)}".encode())
    os._exit(0)


def _be_program(job: dict[str, Any], to_report: int, to_errors: int) -> None:
    """Run the program under its limits, and report with the token how it went."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for source, target in ((null, 0), (null, 1), (to_errors, 2), (to_report, 3)):
        os.dup2(source, target)
    os.closerange(4, 256)
    os.set_inheritable(3, False)
    os.chdir(job["folder"])
    _set_limits(job["limits"])
    if not job["shut_in"]:
        _filter_calls()
    own = os.getpid()
    program, token = job["program"], job["token"]
    module = types.ModuleType("__main__")
    sys.modules["__main__"], sys.argv = module, ["program.py"]
    status, message = "passed", ""
    try:
        # Not with the __future__ of this file: annotations of the program are evaluated.
        code = compile(program, "program.py", "exec", dont_inherit=True)
        exec(code, vars(module))
    except MemoryError:
        status, message = "memory", "MemoryError"
    except BaseException as error:
        status, message = "failed", type(error).__name__
        with contextlib.suppress(BaseException):
            text = str(error).strip().rpartition("\n")[2]
            message = f"{message}: {text[:400]}" if text else message
    if os.getpid() == own:  # and not a copy of it that has come to the end too
        os.write(3, f"{token} {status} {message}".encode(errors="replace")[-TAIL_BYTES:])
    os._exit(0)


def _set_limits(limits: dict[str, Any]) -> None:
    # SIGXCPU at the one, SIGKILL at the other, which a program that ignores the first comes to.
    seconds = limits["cpu_seconds"]
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    kept = {
        resource.RLIMIT_AS: limits["memory"],
        resource.RLIMIT_FSIZE: limits["file_bytes"],
        resource.RLIMIT_NOFILE: limits["open_files"],
        resource.RLIMIT_CORE: 0,
    }
    for limit, value in kept.items():
        with contextlib.suppress(ValueError, OSError):  # some are not known everywhere
            resource.setrlimit(limit, (value, value))


def _die_with_parent() -> None:
    if hasattr(libc, "prctl"):
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _adopt_orphans() -> None:
    """Processes below this one whose parents end become children of this one."""
    if hasattr(libc, "prctl"):
        libc.prctl(PR_SET_CHILD_SUBREAPER, 1)


def _enter_namespaces(folder: str, file_bytes: int) -> bool:
    """Shut out network, other processes and files; whether the kernel allows all of it.

    Tried in a process of its own first: one that got half of the way has no way back. Kernels
    before 5.12 cannot make what is mounted read-only, and some systems let a namespace be made in
    which nothing may be done.
    """
    trial = os.fork()
    if trial == 0:
        try:
            os._exit(0 if _entered(folder, file_bytes) else 1)
        finally:
            os._exit(1)
    _, status = os.waitpid(trial, 0)
    return status == 0 and _entered(folder, file_bytes)


def _entered(folder: str, file_bytes: int) -> bool:
    uid, gid = os.getuid(), os.getgid()
    spaces = NEW_USER | NEW_PID | NEW_NET | NEW_MOUNTS | NEW_IPC
    if not hasattr(libc, "unshare") or libc.unshare(spaces) != 0:
        return False
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    with open("/proc/self/gid_map", "w") as file:
        file.write(f"{gid} {gid} 1")
    attributes = (ctypes.c_uint64 * 4)(MOUNT_READ_ONLY, 0, MOUNT_PRIVATE, 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    sealed = libc.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, attributes, size)
    options = f"size={file_bytes},nr_inodes=10000,mode=700".encode()
    return sealed == 0 and libc.mount(b"tmpfs", folder.encode(), b"tmpfs", 0, options) == 0


def _filter_calls() -> None:
    """Refuse, where no namespace does, what kills all processes at once, and the network."""
    numbers = {"x86_64": (0xC000003E, 62, 41), "aarch64": (0xC00000B7, 129, 198)}
    machine = os.uname().machine
    if machine not in numbers or not hasattr(libc, "prctl"):
        return
    architecture, kill, socket = numbers[machine]
    load, equal, give = 0x20, 0x15, 0x06  # of words at an offset; with a constant; a verdict
    allow, refuse = 0x7FFF0000, 0x00050000 | errno.EPERM
    # (code, jump if so, jump if not, constant); see seccomp(2) for the words and their offsets.
    program = [
        (load, 0, 0, 4),
        (equal, 0, 8, architecture),
        (load, 0, 0, 0),
        (equal, 0, 2, kill),
        (load, 0, 0, 16),
        (equal, 5, 4, 0xFFFFFFFF),  # all processes that there are
        (equal, 0, 3, socket),
        (load, 0, 0, 16),
        (equal, 2, 0, 2),  # IPv4
        (equal, 1, 0, 10),  # IPv6
        (give, 0, 0, allow),
        (give, 0, 0, refuse),
    ]
    code = b"".join(struct.pack("HBBI", *line) for line in program)
    lines = ctypes.create_string_buffer(code, len(code))
    filter_of_lines = struct.pack("HxxxxxxP", len(program), ctypes.addressof(lines))
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.c_char_p(filter_of_lines), 0, 0)


def _descendants() -> list[int]:
    """All processes below this one, parents before children; [] where there is no /proc."""
    children: dict[int, list[int]] = {}
    try:
        names = os.listdir("/proc")
    except OSError:
        return []
    for name in names:
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError):
                with open(f"/proc/{name}/stat", "rb") as file:
                    parent = int(file.read().rpartition(b")")[2].split()[1])
                children.setdefault(parent, []).append(int(name))
    found = [os.getpid()]
    for pid in found:
        found += children.get(pid, [])
    return found[1:]


def _resident(pid: int) -> int:
    """Bytes of memory that a process holds by itself."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            _, held, shared = file.read().split()[:3]
    except (OSError, ValueError):
        return 0
    return (int(held) - int(shared)) * resource.getpagesize()


def _kill_descendants() -> None:
    """Kill all processes below this one, those too that start meanwhile, and wait for them."""
    while True:
        processes = _descendants()
        # Stopped first, so that what is killed cannot be replaced by what is not yet.
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in processes:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.001)


def _remove(folder: str) -> None:
    """Remove the folder with all that is in it, however deep, and whatever its permissions."""
    with contextlib.suppress(OSError):
        os.rmdir(folder)
        return
    # Not shutil: it recurses, and a program may nest folders deeper than Python's stack.
    for command in (["rm", "-rf"], ["chmod", "-R", "u+rwX"], ["rm", "-rf"]):
        if os.path.lexists(folder):
            subprocess.run([*command, folder], stderr=subprocess.DEVNULL, check=False)


if __name__ == "__main__":
    main()
