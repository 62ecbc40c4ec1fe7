"""Several hosts as one: how they find each other, agree, and end together.

Every host runs the same command and the same program; what differs between them is which rows of
the batch each loads, and that the first alone writes. `jax.distributed` joins them: its service
runs on the first host, and learns by heartbeats who has died.

One host has nobody to find or to wait for: every function here is then the plain call.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import itertools
import json
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import jax
from jax._src import distributed

from gpt_jax.config import InputError, require

T = TypeVar("T")

CLUSTERS = ("gcetpu", "gketpu", "slurm", "ompi")
"""What tells hosts of each other, by jax's names: Cloud TPU, SLURM, Open MPI. Not Kubernetes: in a
pod jax would ask its cluster's service, or warn that it cannot, alone or not."""
START_SECONDS = 300
"""The hosts of a run start within so long of each other."""
END_SECONDS = 5
"""A host that ends with an error waits so long for the others to end with one too."""
WAIT_MILLISECONDS = 2**31 - 1
"""Three weeks and a half: hosts wait for each other, and only a dead one ends that."""
LIBRARIES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
LOST = (
    "another host of this run has died, has ended or cannot be reached, and none trains without it "
    "(look for what it said itself): the same command on every host continues from the last "
    "checkpoint"
)


@contextmanager
def joined(
    coordinator: str | None = None,
    count: int | None = None,
    index: int | None = None,
    bind: str | None = None,
    heartbeat_seconds: int = 100,
) -> Iterator[None]:
    """Within it, this process is one of the hosts of a run; entered before jax looks for devices.

    Without arguments the cluster is what jax finds (of CLUSTERS), or
    this host alone, for which nothing is looked up and no port opened. When one host dies, or ends
    with an error, all do: within `heartbeat_seconds` and END_SECONDS.

    Args:
      coordinator: "ADDRESS:PORT" at which the first host listens.
      count, index: how many hosts there are, and which of them this is.
      bind: "ADDRESS:PORT" for the first host to listen on, where that is another one.

    Raises:
      InputError: one of the first three arguments without the others, an address that is none,
        hosts that did not meet in time, hosts with different numbers of devices.
    """
    given, local_devices = (coordinator, count, index), None
    if given == (None, None, None):
        coordinator, count, index, local_devices = _cluster()
        if count is None or count == 1:
            require(
                bind is None,
                f"a host alone listens nowhere, and --coordinator-bind is {bind}: tell it of the "
                "others (--coordinator, --num-hosts, --host-index), or leave it out.",
            )
            yield
            return
    require(
        coordinator is not None and count is not None and index is not None,
        "hosts are told of each other by --coordinator, --num-hosts and --host-index together, and "
        f"they are {', '.join(map(str, given))}: give all three, or none on a cluster that tells "
        "(Cloud TPU, SLURM).",
    )
    assert coordinator is not None
    assert count is not None
    assert index is not None
    _check(coordinator, count, index, bind)
    last_words = _LastWords(
        f"{count} hosts must meet at {coordinator} within {START_SECONDS} s of each other, and "
        f"host {index} did not meet all of them: start one command for each index, at an address "
        "of the first host that all of them reach"
    )
    jax.distributed.initialize(
        coordinator,
        count,
        index,
        local_devices,
        cluster_detection_method="deactivate",
        # By default it listens on every interface of the host.
        coordinator_bind_address=bind or coordinator,
        initialization_timeout=START_SECONDS,
        heartbeat_timeout_seconds=heartbeat_seconds,
        shutdown_timeout_seconds=END_SECONDS,
    )
    last_words.text = LOST
    try:
        require(
            jax.device_count() == count * jax.local_device_count(),
            f"every host must have as many devices as the others, and host {index} has "
            f"{jax.local_device_count()} of the {jax.device_count()} of {count} hosts.",
        )
        yield
    except BaseException as error:
        last_words.spoken = True
        if shown := _loss(error):
            raise InputError(f"{LOST}. Here it showed as: {shown}") from error
        raise


def _loss(error: BaseException | None) -> str | None:
    """What jax said where `error` comes from a collective that has lost a member, else None."""
    while error is not None:
        from_jax = isinstance(error, RuntimeError | ValueError) and not isinstance(
            error, InputError
        )
        if from_jax and _LOSS.search(str(error)):
            return _first_line(error)
        error = error.__cause__
    return None


_LOSS = re.compile(
    r"gloo|nccl|connection (closed|reset)|socket closed|unavailable|coordination|heartbeat|barrier",
    re.IGNORECASE,
)
"""In what jax raises when a collective has lost a member."""


def _cluster() -> tuple[str | None, int | None, int | None, Any]:
    """(coordinator, count, index, local device ids) as jax detects them; None where it is alone.

    That is by environment variables; only on a TPU machine is Google's metadata server asked.
    """
    from jax._src.clusters import ClusterEnv  # there is no public way to ask without joining

    for cluster in ClusterEnv._cluster_types:
        if cluster.name in CLUSTERS and cluster.is_env_present():
            return ClusterEnv.auto_detect_unset_distributed_params(
                None, None, None, None, cluster.name, START_SECONDS
            )
    return None, None, None, None


def _check(coordinator: str, count: int, index: int, bind: str | None) -> None:
    for option, address in (("--coordinator", coordinator), ("--coordinator-bind", bind)):
        require(
            address is None or re.fullmatch(r".+:\d{1,5}", address) is not None,
            f"{option} must be ADDRESS:PORT of the first host, and it is {address!r}.",
        )
    require(
        0 <= index < count,
        f"--host-index counts from 0 to --num-hosts less one, and it is {index} of {count}.",
    )
    if index > 0:
        return
    # Tried here first: jax's own server may crash where it cannot listen.
    host, _, port = (bind or coordinator).rpartition(":")
    try:
        place = (host.strip("[]"), int(port))
        family = socket.getaddrinfo(*place, type=socket.SOCK_STREAM)[0][0]
        socket.create_server(place, family=family).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"the first host must be able to listen at {bind or coordinator}, and it is not "
            f"({error}): name an address of its own and a free port (--coordinator, and "
            "--coordinator-bind where it is known to the others by another address)."
        ) from error


class _LastWords:
    """Says why this process ends when jax ends it.

    Once the service has told of a host that died, or has waited in vain for one to join, jax aborts
    the process, after a line that says so and a stack of its own code. Nothing in Python sees that
    but a handler of SIGABRT, and Python's own would run only later: this one is C's.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.spoken = False
        """Whether this process has an error of its own to tell."""
        self._handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(self._speak)
        libc = ctypes.CDLL(None)
        libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
        libc.signal.restype = ctypes.c_void_p
        libc.signal(signal.SIGABRT, ctypes.cast(self._handler, ctypes.c_void_p))
        _keep.append(self)

    def _speak(self, _: int) -> None:
        if not self.spoken:
            os.write(2, f"error: {self.text}.\n".encode())
        os._exit(1)


_keep: list[_LastWords] = []  # the handler is called to the end of the process


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [repr(error)])[0][:300]


def is_first() -> bool:
    """Whether this host is the one that writes and speaks."""
    return jax.process_index() == 0


def gather(text: str) -> list[str]:
    """The `text` of every host, in the order of their indices; waits for all of them.

    It goes through the service and not through the devices, which wait for each other less
    patiently than hosts must for one that tokenises. Every host calls this equally often.
    """
    if jax.process_count() == 1:
        return [text]
    client: Any = distributed.global_state.client  # as Orbax does: there is no public way
    turn = f"gpt_jax/gather/{next(_turns)}"
    client.key_value_set(f"{turn}/{jax.process_index()}", text)
    client.wait_at_barrier(turn, WAIT_MILLISECONDS)
    found = {int(key.rpartition("/")[2]): said for key, said in client.key_value_dir_get(turn)}
    return [found[index] for index in range(jax.process_count())]


_turns = itertools.count()


def from_first(value: Any) -> Any:
    """The first host's `value`, of what JSON can hold, on every host."""
    return value if jax.process_count() == 1 else json.loads(gather(json.dumps(value))[0])


def together(work: Callable[[], T], kind: type[Exception] = InputError) -> T:
    """`work()` of every host; an error of this `kind` that any of them meets is raised by all."""
    if jax.process_count() == 1:
        return work()
    done: list[T] = []
    failure: Exception | None = None
    try:
        done.append(work())
    except kind as error:
        failure = error
    said = gather(str(failure) if failure else "")
    if failure:
        raise failure
    for index, text in enumerate(said):
        if text:
            raise kind(f"{text} (This is what host {index} met.)")
    return done[0]


def on_first(work: Callable[[], T]) -> T | None:
    """`work()` on the first host, None on the others, which wait for it; InputError on all."""
    return together(lambda: work() if is_first() else None)


def require_agreement(mine: Callable[[], Mapping[str, Any]]) -> None:
    """Raise InputError on every host, with the names that differ and two of their values.

    Args:
      mine: gives what must be the same on every host: values that JSON can hold, by name.
    """
    if jax.process_count() == 1:
        return
    hosts = [json.loads(text) for text in gather(json.dumps(dict(mine())))]
    differing = []
    for name in dict.fromkeys(name for host in hosts for name in host):
        values = [host.get(name) for host in hosts]
        other = next((i for i, value in enumerate(values) if value != values[0]), None)
        if other is not None:
            differing.append(f"{name}: {values[0]!r} on host 0, {values[other]!r} on host {other}")
    require(
        not differing,
        f"the hosts of a run must agree, and they differ in {'; '.join(differing)}. Give every "
        "host the same command, program and text.",
    )


def code_version() -> dict[str, str]:
    """What the program is made of: a digest of this package's sources, and library versions."""
    package, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        for part in (path.relative_to(package).as_posix().encode(), path.read_bytes()):
            digest.update(len(part).to_bytes(8, "big") + part)
    versions = {f"{name} version": importlib.metadata.version(name) for name in LIBRARIES}
    return {"the code of gpt_jax (digest)": digest.hexdigest()[:12]} | versions
