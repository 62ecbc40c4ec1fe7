"""Every line that is given to gcloud, as a list of words: what --dry-run prints is what is run.

Sources: cloud.google.com/sdk/gcloud/reference/compute/tpus/queued-resources (create, describe, scp,
ssh, delete) for the lines, cloud.google.com/tpu/docs/queued-resources for the states, and
cloud.google.com/tpu/docs/runtimes for the images.

Nothing tells a host of a multislice who it is. Cloud TPU writes MEGASCALE_COORDINATOR_ADDRESS,
MEGASCALE_NUM_SLICES and MEGASCALE_SLICE_ID to the tpu-env metadata of the nodes that one queued
resource with --node-count has made, and jax.distributed.initialize() reads them there
(jax/_src/clusters/cloud_tpu_cluster.py, get_tpu_env_value).
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from gpt_jax.launch.job import Job

RUNTIMES = {
    "v4": "tpu-ubuntu2204-base",
    "v5e": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}
"""The image of the hosts, by generation; JAX is not part of it."""
ARCHIVE = "gpt-jax.tar.gz"
COPY = "gpt-jax"
"""The archive and its content on a host, in the home folder."""
HOST = f"bash {COPY}/gpt_jax/launch/host.sh"
# What still runs needs its copy until it has saved.
_STOP = f"{{ [ ! -e {COPY}/gpt_jax/launch/host.sh ] || {HOST} stop; }}"
UNPACK = f"{_STOP} && rm -rf {COPY} && mkdir {COPY} && tar -xzf {ARCHIVE} -C {COPY}"
LOG_LINES = 30

Line = list[str]
_QUEUE = ("gcloud", "compute", "tpus", "queued-resources")
_ALL = ("--node=all", "--worker=all")


def _where(job: Job) -> Line:
    return [f"--project={job.project}", f"--zone={job.zone}"]


def create(job: Job) -> Line:
    """Ask for the slices."""
    several = [f"--node-count={job.slices}", f"--node-prefix={job.name}"]
    return [
        *(*_QUEUE, "create", job.name, *_where(job)),
        f"--accelerator-type={job.slice.accelerator_type}",
        f"--runtime-version={RUNTIMES[job.slice.generation]}",
        *(several if job.slices > 1 else [f"--node-id={job.name}"]),
        *([] if job.capacity == "on-demand" else [f"--{job.capacity}"]),
        *([f"--valid-until-duration={job.valid_until}"] if job.valid_until else []),
    ]


def describe(job: Job) -> Line:
    """What became of the request."""
    return [*_QUEUE, "describe", job.name, *_where(job), "--format=json"]


def nodes(job: Job) -> Line:
    """The slices that are there: one that was taken away may be listed while its request is not."""
    return ["gcloud", "compute", "tpus", "tpu-vm", "list", *_where(job), "--format=json"]


def copy(job: Job) -> Line:
    """Put the archive on every host."""
    target = f"{job.name}:{ARCHIVE}"
    return [*_QUEUE, "scp", str(job.archive), target, *_where(job), *_ALL, "--quiet"]


def _ssh(job: Job, command: str, hosts: Sequence[str] = _ALL) -> Line:
    return [*_QUEUE, "ssh", job.name, *_where(job), *hosts, "--quiet", "--command", command]


def install(job: Job) -> Line:
    """Unpack and install it on every host."""
    return _ssh(job, f"{UNPACK} && {HOST} install")


def start(job: Job) -> Line:
    """Start training on every host, detached from the session."""
    return _ssh(job, f"{HOST} start {shlex.join(job.train)}")


def ask_first(job: Job) -> Line:
    """Whether the first host trains, and the last that it said."""
    return _ssh(job, f"test ! -e {COPY} || {{ {HOST} status && {HOST} log 1; }}", ())


def ask(job: Job) -> Line:
    """Whether each host trains, or with which status it ended."""
    return _ssh(job, f"test ! -e {COPY} || {HOST} status")


def log(job: Job) -> Line:
    """The end of every host's log."""
    return _ssh(job, f"{HOST} log {LOG_LINES}")


def follow(job: Job) -> Line:
    """The first host's log as it grows, for a person."""
    return _ssh(job, "tail -n 100 -F gpt-jax-run/log", ())


def summary(job: Job) -> Line:
    """The run's summary, which says whether it has ended."""
    return ["gcloud", "storage", "cat", f"{job.workdir}/summary.json"]


def checkpoints(job: Job) -> Line:
    """The run's checkpoints: those that are whole (train/storage.py)."""
    return ["gcloud", "storage", "ls", f"{job.workdir}/checkpoints/*/commit_success.txt"]


def delete(job: Job) -> Line:
    """Give everything back: the nodes, and the request, which would count against the quota."""
    return [*_QUEUE, "delete", job.name, *_where(job), "--force", "--quiet"]


def bucket(job: Job) -> Line:
    """Make the bucket, once, in the region of the TPUs."""
    name = "/".join(job.workdir.split("/")[:3])
    place = [f"--project={job.project}", f"--location={job.zone.rpartition('-')[0]}"]
    return ["gcloud", "storage", "buckets", "create", name, *place, "--uniform-bucket-level-access"]


def enable(job: Job) -> Line:
    """Switch the service on, once for a project."""
    return ["gcloud", "services", "enable", "tpu.googleapis.com", f"--project={job.project}"]


def story(job: Job) -> list[tuple[str, Line]]:
    """The lines of a run in the order in which they are first run, each with what it is for."""
    return [
        ("has the run ended already?", summary(job)),
        ("what has it saved? Asked again after a restart", checkpoints(job)),
        (
            "is the request there? Asked again until it is ACTIVE, and while it trains",
            describe(job),
        ),
        (f"ask for {job.slices} x {job.slice.name}: {job.hosts} hosts", create(job)),
        ("was a slice taken away?", nodes(job)),
        ("is it training? Asked again until it is not", ask_first(job)),
        ("nothing is running yet: the code, to every host", copy(job)),
        ("install it", install(job)),
        ("start, and outlive the session", start(job)),
        ("the first host has ended: and the others?", ask(job)),
        *([] if job.keep else [("the run has ended: give the machines back", delete(job))]),
    ]


def as_text(job: Job) -> str:
    """What --dry-run prints: the lines of a run, and those around it in comments."""
    before = (("once, for the project", enable(job)), ("once, for the bucket", bucket(job)))
    after = (("watch it", follow(job)), ("if it fails", log(job)), ("end it", delete(job)))
    return "\n".join(
        [
            *(f"# {why}: {shlex.join(line)}" for why, line in before),
            *(f"# {why}\n{shlex.join(line)}" for why, line in story(job)),
            *(f"# {why}: {shlex.join(line)}" for why, line in after),
        ]
    )
