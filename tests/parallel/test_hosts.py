"""Hosts that find each other and agree; whole runs are in tests/train/test_several_hosts.py."""

import json
import os
import socket
import subprocess
import sys

import jax
import pytest

from gpt_jax.config import InputError
from gpt_jax.parallel import hosts

SLURM = {
    "SLURM_JOB_ID": "70001",
    "SLURM_STEP_NODELIST": "node[003-008],other",
    "SLURM_NTASKS": "6",
    "SLURM_PROCID": "4",
    "SLURM_LOCALID": "0",
}


@pytest.fixture
def no_network(monkeypatch):
    """No socket can be made, and joining fails."""

    def refused(*_, **__):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "socket", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(jax.distributed, "initialize", refused)


def test_a_host_alone_joins_nothing(no_network):
    """On a laptop: no port, no look-up, and everything is the plain call."""
    with hosts.joined():
        assert hosts.is_first()
        assert hosts.gather("x") == ["x"]
        assert hosts.from_first({"a": (1,)}) == {"a": (1,)}
        assert hosts.on_first(lambda: 3) == hosts.together(lambda: 3) == 3
        hosts.require_agreement(lambda: pytest.fail("nothing to compare it with"))


def test_a_pod_is_a_host_alone(no_network, monkeypatch, recwarn):
    """What does not tell of other hosts is not asked, and nothing is said of it."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    with hosts.joined():
        assert not recwarn.list


def test_a_cluster_of_one_is_a_host_alone(no_network, monkeypatch):
    for name, value in (SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}).items():
        monkeypatch.setenv(name, value)
    with hosts.joined():
        pass


def test_slurm_tells_who_is_who(monkeypatch):
    """The first node of the list, at a port of the job's: 65536 - 4096 + 70001 mod 4096."""
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    asked = {}
    monkeypatch.setattr(jax.distributed, "initialize", lambda *a, **k: asked.update(k, args=a))
    monkeypatch.setattr(hosts, "_LastWords", lambda text: type("Quiet", (), {})())
    with pytest.raises(InputError, match="as many devices as the others"), hosts.joined():
        pass  # as this process has not joined: it has 8 devices of 8, where 6 hosts have 48
    assert asked["args"] == ("node003:61809", 6, 4, [0])
    assert asked["coordinator_bind_address"] == "node003:61809"
    assert asked["heartbeat_timeout_seconds"] == 100


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((None, 2, None), "they are None, 2, None: give all three"),
        (("h:1", 2, None), "give all three"),
        (("h:1", 2, 2), "it is 2 of 2"),
        (("h:1", 2, -1), "it is -1 of 2"),
        (("h", 2, 0), "--coordinator must be ADDRESS:PORT"),
        (("h:1", 2, 1, "x"), "--coordinator-bind must be ADDRESS:PORT"),
        (("127.0.0.1:99999", 2, 0), "the first host must be able to listen at 127.0.0.1:99999"),
    ],
)
def test_what_is_said_must_be_whole(given, told):
    with pytest.raises(InputError) as error, hosts.joined(*given):
        pass
    assert told in str(error.value)


def test_a_port_that_is_taken_is_refused():
    """jax's own server crashes there."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(InputError, match="Address already in use"), hosts.joined(address, 2, 0):
            pass


PROGRAM = """
import json, sys
from gpt_jax.config import InputError, MeshConfig
from gpt_jax.parallel import hosts
from gpt_jax.parallel.mesh import make_mesh
from gpt_jax.parallel.sharding import local_rows

def said(work, *arguments):
    try:
        return work(*arguments)
    except InputError as error:
        return str(error)

def work():
    if index == 1:
        raise InputError("it is late.")

address, index = sys.argv[1], int(sys.argv[2])
with hosts.joined(address, 2, index):
    found = {
        "gather": hosts.gather("x" * index),
        "from_first": hosts.from_first(index),
        "on_first": hosts.on_first(lambda: index),
        "together": said(hosts.together, work),
        "agree": said(hosts.require_agreement, lambda: {"a": 1, "b": index, f"c{index}": 0}),
    }
    for name, mesh in {
        "data": MeshConfig(),
        "fsdp": MeshConfig(1, 4),
        "sequence": MeshConfig(1, 1, 1, sequence=4),
        "fsdp, tensor": MeshConfig(1, 2, 2),
        "sequence, tensor": MeshConfig(1, 1, 2, sequence=2),
        "slice, sequence": MeshConfig(1, 1, 1, sequence=2, slice=2),
    }.items():
        found[name] = local_rows(make_mesh(mesh), 8).tolist()
print(json.dumps(found))
"""


@pytest.mark.slow
def test_two_hosts_agree_and_load_what_their_devices_hold():
    """Two processes with two devices each, and what each of them finds, against a table."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, address, str(index)],
            env=os.environ | {"JAX_NUM_CPU_DEVICES": "2"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    first, second = (
        json.loads(process.communicate(timeout=120)[0].splitlines()[-1]) for process in processes
    )
    assert [process.returncode for process in processes] == [0, 0]
    low, high, every = [0, 1, 2, 3], [4, 5, 6, 7], [*range(8)]
    split = dict.fromkeys(("data", "fsdp", "fsdp, tensor", "slice, sequence"), low)
    # The batch is whole there: its sequences are split between the hosts.
    shared = {"sequence": every, "sequence, tensor": every}
    told = (
        "the hosts of a run must agree, and they differ in b: 0 on host 0, 1 on host 1; c0: 0 on "
        "host 0, None on host 1; c1: None on host 0, 0 on host 1. Give every host the same "
        "command, program and text."
    )
    both = {"gather": ["", "x"], "from_first": 0, "agree": told} | shared
    late = "it is late."
    assert first == both | split | {
        "on_first": 0,
        "together": f"{late} (This is what host 1 met.)",
    }
    assert second == both | dict.fromkeys(split, high) | {"on_first": None, "together": late}
