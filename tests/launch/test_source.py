"""What travels to the hosts: the checkout as it is, and the experiment."""

import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from gpt_jax.config import InputError
from gpt_jax.launch import source


@pytest.fixture
def clone(tmp_path):
    """A small checkout, with what stays at home."""
    root = tmp_path / "clone"
    for name, text in {
        "setup.cfg": "[metadata]",
        "pyproject.toml": "",
        "README.md": "# gpt_jax",
        "gpt_jax/__init__.py": "",
        "gpt_jax/launch/host.sh": "echo",
        "gpt_jax/__pycache__/x.pyc": "",
        "experiments/one.py": "1",
        "tests/test_x.py": "",
        "runs/big": "",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def content(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar}


def test_the_checkout_with_its_changes(clone, tmp_path, monkeypatch):
    """The files of the package and the experiments, as they are now, and the same bytes again."""
    (clone / "gpt_jax" / "new.py").write_text("changed")
    archive = tmp_path / "cache" / "x.tar.gz"
    experiment = clone / "experiments" / "one.py"
    source.pack(experiment, clone, archive)
    assert content(archive) == {
        "README.md": b"# gpt_jax",
        "experiments/one.py": b"1",
        "gpt_jax/__init__.py": b"",
        "gpt_jax/launch/host.sh": b"echo",
        "gpt_jax/new.py": b"changed",
        "pyproject.toml": b"",
        "setup.cfg": b"[metadata]",
    }
    assert source.place(experiment, clone) == "experiments/one.py"
    first = archive.read_bytes()
    experiment.touch()
    later = time.time() + 100
    monkeypatch.setattr(time, "time", lambda: later)
    source.pack(experiment, clone, archive)
    assert archive.read_bytes() == first


def test_an_experiment_from_elsewhere(clone, tmp_path):
    (tmp_path / "mine.py").write_text("2")
    archive = tmp_path / "x.tar.gz"
    source.pack(tmp_path / "mine.py", clone, archive)
    assert source.place(tmp_path / "mine.py", clone) == "launched/mine.py"
    assert content(archive)["launched/mine.py"] == b"2"


def test_what_is_no_file(clone, tmp_path):
    with pytest.raises(InputError, match="launch takes the file of an experiment"):
        source.place(tmp_path, clone)


def test_a_package_without_a_checkout(tmp_path, monkeypatch):
    assert (source.checkout() / "tests" / "launch" / Path(__file__).name).exists()
    monkeypatch.setattr(source, "__file__", str(tmp_path / "gpt_jax" / "launch" / "x.py"))
    with pytest.raises(InputError, match=r"work from a clone \(pip install -e .\)"):
        source.checkout()


def test_the_room_needs_the_standard_library_alone():
    """So that a laptop without accelerators' software can launch."""
    code = (
        "import gpt_jax.launch.loop, gpt_jax.launch.source, sys; "
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"jax", "flax", "numpy", "tyro", "etils"} & set(out.stdout.split())
