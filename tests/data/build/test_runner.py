"""Jobs that are done once: in order, over processes, and whole after a kill."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpt_jax.config import InputError
from gpt_jax.data.build.runner import Job, Runner, atomic, digest_of


def square(log: Path, value: int) -> dict:
    """A job that leaves a mark each time it is done."""
    with log.open("a") as file:
        file.write(f"{value}\n")
    if value < 0:
        raise InputError("a job must be given a number that is not negative")
    return {"square": value * value}


def jobs(folder: Path, *values: int) -> list[Job]:
    return [Job(folder / f"{value}.json", square, (folder / "log", value)) for value in values]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_job_is_done_once_and_answers_in_its_place(tmp_path, processes):
    with Runner(tmp_path, processes) as runner:
        assert runner.run("squares", jobs(tmp_path, 3, 1)) == [{"square": 9}, {"square": 1}]
    with Runner(tmp_path, processes) as runner:
        found = runner.run("squares", jobs(tmp_path, 1, 2, 3))
    assert found == [{"square": 1}, {"square": 4}, {"square": 9}]
    assert sorted((tmp_path / "log").read_text().split()) == ["1", "2", "3"]


def test_an_error_of_a_job_arrives_and_what_was_done_stays(tmp_path):
    with (
        Runner(tmp_path, 1) as runner,
        pytest.raises(InputError, match="not negative"),
    ):
        runner.run("squares", jobs(tmp_path, 5, -1, 6))
    assert (tmp_path / "5.json").exists()
    assert not (tmp_path / "-1.json").exists()


def die() -> dict:
    """A job whose process is ended from outside, as by the kernel where memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def test_a_process_that_is_killed_is_told_of(tmp_path):
    doomed = [Job(tmp_path / f"{i}.json", die, ()) for i in range(2)]
    with pytest.raises(InputError, match="fewer --processes"), Runner(tmp_path, 2) as runner:
        runner.run("doomed", doomed)


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/x\.work cannot be written"):
        Runner(tmp_path / "file" / "x.work", 1)


def test_one_build_at_a_time(tmp_path):
    with Runner(tmp_path, 1), pytest.raises(InputError, match="another holds"):
        Runner(tmp_path, 1)
    Runner(tmp_path, 1).__exit__(None, None, None)


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "new" / "x.txt"

    def fail():
        with atomic(path) as partial:
            partial.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [*path.parent.iterdir()] == []
    with atomic(path) as partial:
        partial.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"


def test_what_a_killed_build_left_is_cleared_away(tmp_path):
    (tmp_path / "step").mkdir()
    (tmp_path / "step" / ".partial-abc.bin").write_bytes(b"half")
    (tmp_path / "step" / ".partial-folder").mkdir()
    (tmp_path / "step" / "0.json").write_text("{}")
    with Runner(tmp_path, 1):
        assert [path.name for path in (tmp_path / "step").iterdir()] == ["0.json"]


def test_digests_depend_on_all_that_they_are_made_of():
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
    assert digest_of({"a": 1, "b": [2]}) != digest_of({"a": 1, "b": [3]})


NAPS = """
import time
from pathlib import Path

def nap(path):
    Path(path).touch()
    time.sleep(60)
"""
WORK = """
import sys
from gpt_jax.data.workers import pool, in_order
from naps import nap

with pool(1) as executor:
    list(in_order(executor, nap, [sys.argv[1]], 1))
"""


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    script, mark = tmp_path / "work.py", tmp_path / "begun"
    script.write_text(WORK)
    (tmp_path / "naps.py").write_text(NAPS)
    parent = subprocess.Popen([sys.executable, str(script), str(mark)])
    wait_until(mark.exists)
    (child,) = [
        int(pid)
        for pid in Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
        if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_until(lambda: not is_running(child))


def wait_until(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return b"Z" not in Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2][:3]
    except (ProcessLookupError, FileNotFoundError):
        return False
