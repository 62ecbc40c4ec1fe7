"""The checkout as one archive: the code on the hosts is the code that is here, changes included."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

from gpt_jax.config import require

PARTS = ("pyproject.toml", "setup.cfg", "README.md", "gpt_jax", "experiments")
"""What is installed, and what is run; tests and notebooks stay here."""


def checkout() -> Path:
    """The clone that this package is imported from; raises InputError where there is none."""
    root = Path(__file__).resolve().parents[2]
    require(
        (root / "setup.cfg").is_file(),
        f"launch copies the checkout to the hosts, and gpt_jax is installed in {root} without one: "
        "work from a clone (pip install -e .).",
    )
    return root


def place(experiment: Path, root: Path) -> str:
    """Where the experiment file lies in the archive: where it is, or in launched/ from elsewhere.

    Raises InputError where it is not a file.
    """
    require(
        experiment.is_file(),
        f"launch takes the file of an experiment, and {experiment} is none: to go on from a run "
        "in a bucket, write a file that names it in init_from.",
    )
    full = experiment.resolve()
    inside = full.is_relative_to(root)
    return full.relative_to(root).as_posix() if inside else f"launched/{full.name}"


def archive(name: str) -> Path:
    """Where the archive of a job lies on this machine."""
    return Path.home() / ".cache" / "gpt_jax" / "launch" / f"{name}.tar.gz"


def pack(experiment: Path, root: Path, to: Path) -> None:
    """Write the checkout at `root` and the experiment file to `to`, a .tar.gz.

    The same files give the same bytes.
    """
    files = {path.relative_to(root).as_posix(): path for path in _files(root)}
    files[place(experiment, root)] = experiment
    to.parent.mkdir(parents=True, exist_ok=True)
    with (
        to.open("wb") as out,
        gzip.GzipFile(filename="", fileobj=out, mode="wb", mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for name, path in sorted(files.items()):
            content = path.read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))


def _files(root: Path) -> Iterator[Path]:
    for part in PARTS:
        path = root / part
        inner = path.rglob("*") if path.is_dir() else [path]
        yield from (file for file in inner if file.is_file() and file.parent.name != "__pycache__")
