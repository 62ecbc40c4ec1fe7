"""What runs on a host: a command that outlives its session, and whose end can be asked for."""

import hashlib
import os
import shutil
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

import gpt_jax
from gpt_jax.launch.commands import ARCHIVE, UNPACK

SCRIPT = Path(gpt_jax.__file__).parent / "launch" / "host.sh"


@pytest.fixture
def host(tmp_path):
    """`host(verb, words...)`: what the script prints on a machine whose home is a folder."""
    script = tmp_path / "gpt-jax" / "gpt_jax" / "launch" / "host.sh"
    script.parent.mkdir(parents=True)
    shutil.copy(SCRIPT, script)

    def run(*words):
        home = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(
            ["bash", "gpt-jax/gpt_jax/launch/host.sh", *words],
            cwd=tmp_path,
            env=home,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        return done.stdout.strip()

    yield run
    pid = tmp_path / "gpt-jax-run" / "pid"
    if pid.exists() and status(run)[0] == "running":
        os.killpg(int(pid.read_text()), signal.SIGKILL)


def status(host):
    """The word, the exit status and the digest that the host tells."""
    marker, _, *words = host("status").split()
    assert marker == "gpt-jax-status"
    return words


def wait(host, word):
    """The exit status and the digest, once the host tells `word`."""
    deadline = time.monotonic() + 60
    while status(host)[0] != word:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return status(host)[1:]


def digest(*words):
    return hashlib.sha256(b"".join(word.encode() + b"\0" for word in words)).hexdigest()[:12]


def test_a_command_from_start_to_end(host, tmp_path):
    """Its words as they were given, its folder, its log, its status; nothing before it."""
    assert status(host) == ["none", "-", "-"]
    words = ["bash", "-c", 'pwd; printf "%s\n" "$@"; exit 3', "x", "it's $HOME", "a  b"]
    assert host("start", *words).split()[2] in ("running", "ended")
    assert wait(host, "ended") == ["3", digest(*words)]
    copy = str(tmp_path / "gpt-jax")
    assert host("log", "3").splitlines() == [copy, "it's $HOME", "a  b"]


def test_a_command_outlives_the_session_and_is_replaced(host, tmp_path):
    """The second start ends the first by SIGTERM, which has time to save, and the log goes on."""
    save = "trap 'echo saved; exit 0' TERM; echo first; while :; do sleep 0.05; done"
    host("start", "bash", "-c", save)
    assert status(host)[0] == "running"
    while "first" not in host("log", "1").splitlines():
        time.sleep(0.05)
    host("start", "sleep", "60")
    assert status(host) == ["running", "-", digest("sleep", "60")]
    assert "saved" in host("log", "3").splitlines()


def test_a_command_that_a_signal_ends_has_a_status(host, tmp_path):
    """All processes of it are told, as by a machine that goes down: the status is kept."""
    host("start", "bash", "-c", "trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done")
    while "up" not in host("log", "1").splitlines():
        time.sleep(0.05)
    os.killpg(int((tmp_path / "gpt-jax-run" / "pid").read_text()), signal.SIGTERM)
    assert wait(host, "ended")[0] == "5"


def test_a_killed_command_is_gone(host, tmp_path):
    """All of it at once, as when the machine goes down: no exit status, and not running."""
    host("start", "sleep", "60")
    os.killpg(int((tmp_path / "gpt-jax-run" / "pid").read_text()), signal.SIGKILL)
    assert wait(host, "gone") == ["-", digest("sleep", "60")]


def test_a_command_that_is_killed_alone_has_a_status(host):
    host("start", "bash", "-c", "kill -9 $$")
    assert wait(host, "ended")[0] == "137"


def test_what_runs_has_saved_before_its_copy_is_replaced(host, tmp_path):
    """It reads from the copy while it saves; the new copy is there afterwards, and no old file."""
    (tmp_path / "gpt-jax" / "needed").write_text("read while saving")
    save = "trap 'sleep 0.3; cat needed; exit 0' TERM; echo up; while :; do sleep 0.05; done"
    host("start", "bash", "-c", save)
    while "up" not in host("log", "1").splitlines():
        time.sleep(0.05)
    (tmp_path / "new").write_text("")
    with tarfile.open(tmp_path / ARCHIVE, "w:gz") as archive:
        archive.add(tmp_path / "new", "new")
        archive.add(SCRIPT, "gpt_jax/launch/host.sh")
    home = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    for _ in range(2):  # the second time nothing runs
        subprocess.run(["bash", "-c", UNPACK], cwd=tmp_path, env=home, check=True, timeout=60)
        assert sorted(path.name for path in (tmp_path / "gpt-jax").iterdir()) == ["gpt_jax", "new"]
    assert (tmp_path / "gpt-jax-run" / "log").read_text().endswith("read while saving")


def test_install(host, tmp_path):
    """uv makes an environment of a newer Python in the copy, and installs the package there."""
    tools = tmp_path / ".local" / "bin"
    tools.mkdir(parents=True)
    (tools / "uv").write_text('#!/bin/bash\necho "$PWD $*"\n')
    (tools / "uv").chmod(0o755)
    copy = tmp_path / "gpt-jax"
    venv, pip, told = host("install").splitlines()
    assert venv == f"{copy} venv --python 3.12 .venv"
    assert pip == f"{copy} pip install --python .venv/bin/python .[tpu,gcs]"
    assert told.startswith("gpt-jax-status ")
