"""What is to be launched, and every check of it that needs neither devices nor the network."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from gpt_jax.chips import Slice
from gpt_jax.config import Config, require

Capacity = Literal["on-demand", "spot", "reserved"]


@dataclass(frozen=True)
class Job:
    """One experiment on slices of a pod."""

    name: str
    """Of the queued resource; its nodes are named after it."""
    project: str
    zone: str
    slice: Slice
    slices: int
    """How many of them, joined by the data-centre network."""
    capacity: Capacity
    valid_until: str
    """How long the request may wait in the queue, as gcloud writes durations (6h). Empty: ever."""
    workdir: str
    """The run's folder, in a bucket."""
    archive: Path
    """The checkout, packed, on this machine."""
    experiment: str
    """The experiment file's place in the archive."""
    overrides: tuple[str, ...]
    """Fields of the experiment, as given on the command line."""
    keep: bool
    """Leave the machines there when training has ended."""
    max_restarts: int
    """Restarts in a row without a new checkpoint, after which it is given up."""

    @property
    def hosts(self) -> int:
        return self.slice.hosts * self.slices

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the slices; Cloud TPU numbers those of a multislice from 0."""
        if self.slices == 1:
            return (self.name,)
        return tuple(f"{self.name}-{n}" for n in range(self.slices))

    @property
    def train(self) -> tuple[str, ...]:
        """What every host runs, the first time and after every restart."""
        return ("gpt-jax", "train", self.experiment, "--workdir", self.workdir, *self.overrides)

    @property
    def digest(self) -> str:
        """Of `train`, as host.sh computes it."""
        words = b"".join(word.encode() + b"\0" for word in self.train)
        return hashlib.sha256(words).hexdigest()[:12]

    def __post_init__(self) -> None:
        require(
            re.fullmatch(r"[a-z]([-a-z0-9]{0,53}[a-z0-9])?", self.name) is not None,
            "--name must be of lower-case letters, digits and hyphens, begin with a letter, and "
            f"have 55 characters at most, and it is {self.name!r}.",
        )
        require(
            re.fullmatch(r"[a-z]+-[a-z]+[0-9]+-[a-z]", self.zone) is not None,
            f"--zone is a zone such as us-east5-a, and it is {self.zone!r}: `gcloud compute tpus "
            "locations list` names those with TPUs.",
        )
        require(self.slices > 0, f"--slices must be positive, and it is {self.slices}.")
        require(
            self.max_restarts >= 0, f"--max-restarts must not be negative: {self.max_restarts}."
        )
        require(
            self.capacity in get_args(Capacity),
            f"capacity is one of {', '.join(get_args(Capacity))}, and it is {self.capacity!r}.",
        )
        check_workdir(self.workdir, self.hosts)


def check(config: Config, job: Job) -> None:
    """Raise InputError unless `config` can be run as `job`."""
    check_mesh(config, job.slice, job.slices)
    check_paths(config)


def check_workdir(workdir: str, hosts: int) -> None:
    """Raise InputError unless a run's folder is in a bucket."""
    why = (
        f"the {hosts} hosts of this slice have a disk each"
        if hosts > 1
        else "the machine's disk is deleted with it"
    )
    require(
        re.fullmatch(r"gs://[a-z0-9][-_.a-z0-9]+[a-z0-9]/.*[^/]", workdir) is not None,
        f"--workdir must be a folder in a bucket (gs://BUCKET/runs/NAME), and it is {workdir!r}: "
        f"{why}. `gcloud storage buckets create` makes a bucket; --dry-run prints the line.",
    )


def check_mesh(config: Config, part: Slice, slices: int) -> None:
    """Raise InputError unless the mesh of `config` uses all chips of so many slices."""
    count = part.chips * slices
    sizes = dataclasses.asdict(config.mesh)
    require(
        sizes["slice"] in (slices, -1),
        f"mesh.slice is the number of slices, which are joined by a slower network, and it is "
        f"{sizes['slice']} for --slices {slices}: give --mesh.slice {slices}.",
    )
    fixed = math.prod(size for size in sizes.values() if size > 0)
    fits = count % fixed == 0 if -1 in sizes.values() else count == fixed
    asked = " x ".join(f"{name} {size}" for name, size in sizes.items() if size != 1)
    require(
        fits,
        f"the mesh must use all chips, {count} in {slices} x {part.name}, and it is "
        f"{asked or '1 device'}: `gpt-jax plan` finds the best (-1 for one axis: what is left).",
    )


def check_paths(config: Config) -> None:
    """Raise InputError where the experiment reads from this machine's disk."""
    tokenizer = config.data.tokenizer
    # A name without a slash is one that is built in, and trained or made on the hosts.
    is_path = "/" in tokenizer or tokenizer.endswith(".model")
    paths: Sequence[tuple[str, str]] = [
        *(("data.files", name) for name in config.data.files),
        *((("data.corpus", config.data.corpus),) if config.data.corpus else ()),
        *((("data.tokenizer", tokenizer),) if is_path else ()),
        *((("init_from", config.init_from),) if config.init_from else ()),
    ]
    for field, path in paths:
        require(
            path.startswith("gs://"),
            f"the hosts read from a bucket, and {field} is {path!r} on this machine: `gcloud "
            f"storage cp -r {path} gs://BUCKET/data/`, and give --{field.replace('_', '-')} "
            "gs://BUCKET/data/...",
        )
