"""The tiny experiment, trained once for all tests that look at a whole run."""

from pathlib import Path

import pytest
from tiny_run import finish, start, write_experiment

from gpt_jax.cli import main


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The experiment file of tests/tiny_run.py, with its text."""
    return write_experiment(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def finished(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run, in this process on eight devices: copy it, do not change it."""
    run = tmp_path_factory.mktemp("runs") / "finished"
    assert main(["train", str(tiny), "--workdir", str(run), "--checkpoint.keep-last", "9"]) == 0
    return run


@pytest.fixture(scope="session")
def finished_alone(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An undisturbed run in a process of its own, on one device, and what it printed."""
    run = tmp_path_factory.mktemp("runs") / "finished"
    process = start("train", tiny, "--workdir", run, "--checkpoint.keep-last", "9")
    status, out, err = finish(process)
    assert (status, err) == (0, "")
    return run, out
