"""Lines given to gcloud, and what its answers mean."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from typing import Any

from gpt_jax.config import InputError
from gpt_jax.launch import commands
from gpt_jax.launch.commands import Line
from gpt_jax.launch.job import Job

TIMEOUT = 1800
"""Seconds that a line may take: a session with a host that is taken away may hang."""
LOST_NODES = ("PREEMPTED", "TERMINATED", "STOPPED", "DELETING")
"""States of a slice that does not come back
(cloud.google.com/tpu/docs/reference/rest/v2/projects.locations.nodes)."""


class CloudError(Exception):
    """A line that failed, with what gcloud said; another try may succeed."""


@dataclass(frozen=True)
class Request:
    """A queued resource."""

    state: str
    reason: str
    """Why it failed, where it has."""
    accelerator_type: str


@dataclass(frozen=True)
class Host:
    """What one host says of its training."""

    name: str
    word: str
    """none, running, gone (without an exit status: killed, or the host was restarted) or ended."""
    exit: int | None
    digest: str
    """Of the command; - where there is none."""


class Cloud:
    """One job's view of Google Cloud."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def run(self, line: Line) -> str:
        """What a line prints; raises CloudError where it fails, InputError without gcloud."""
        try:
            done = subprocess.run(
                line, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT
            )
        except FileNotFoundError:
            raise InputError(
                "launch runs gcloud, and there is none on the PATH: install the Google Cloud CLI "
                "(cloud.google.com/sdk/docs/install), then `gcloud auth login`."
            ) from None
        except subprocess.TimeoutExpired:
            raise CloudError(f"gcloud {line[4]} did not end within {TIMEOUT} s") from None
        if done.returncode:
            words = " ".join(done.stderr.split())
            raise CloudError(words[-600:] or f"gcloud ended with status {done.returncode}")
        return done.stdout

    def request(self) -> Request | None:
        """The queued resource, or None where there is none."""
        try:
            found = json.loads(self.run(commands.describe(self.job)))
        except CloudError as error:
            if re.search(r"NOT_FOUND|not found", str(error)):
                return None
            raise
        state = found["state"]
        specs: list[Any] = found.get("tpu", {}).get("nodeSpec", [])
        accelerators = [spec.get("node", {}).get("acceleratorType", "") for spec in specs]
        reason = state.get("failedData", {}).get("error", {}).get("message", "")
        return Request(state["state"], reason, accelerators[0] if accelerators else "")

    def lost(self) -> list[str]:
        """Which of the job's slices were taken away, with their states."""
        found = json.loads(self.run(commands.nodes(self.job)))
        states = [(node["name"].rpartition("/")[2], node.get("state")) for node in found]
        ours = [pair for pair in states if pair[0] in self.job.nodes]
        return [f"{name} is {state}" for name, state in ours if state in LOST_NODES]

    def first_host(self) -> tuple[Host | None, str]:
        """What the first host says, if it has anything of ours, and the last line of its log."""
        hosts, rest = _parse(self.run(commands.ask_first(self.job)))
        return hosts[0] if hosts else None, rest

    def all_hosts(self, line: Line) -> list[Host]:
        """What every host says after `line`; raises CloudError where one does not.

        gcloud leaves out a slice that it cannot reach, with a warning and exit status 0
        (surface/compute/tpus/queued_resources/ssh.py in its sources).
        """
        hosts, _ = _parse(self.run(line))
        if len(hosts) != self.job.hosts:
            raise CloudError(f"{len(hosts)} of {self.job.hosts} hosts answer")
        return hosts

    def has_ended(self) -> bool:
        """Whether the run has come to its end: a stop by a signal leaves a summary too."""
        try:
            summary = json.loads(self.run(commands.summary(self.job)))
        except CloudError as error:
            if _absent(error):
                return False
            raise
        except json.JSONDecodeError:
            return False
        return summary.get("stopped_by", "") is None

    def newest_checkpoint(self) -> int:
        """The last step that was saved, or -1."""
        try:
            names = self.run(commands.checkpoints(self.job)).split()
        except CloudError as error:
            if _absent(error):
                return -1
            raise
        steps = (name.split("/")[-2] for name in names)
        return max((int(step) for step in steps if step.isdigit()), default=-1)

    def log(self) -> str:
        """The end of the hosts' logs; empty where they cannot be reached."""
        try:
            return self.run(commands.log(self.job)).rstrip()
        except CloudError:
            return ""


def _parse(said: str) -> tuple[list[Host], str]:
    """The lines of host.sh in what hosts print, and the last of the others."""
    pattern = r"gpt-jax-status (\S+) (\w+) (\S+) (\S+)"
    hosts, rest = [], ""
    for text in filter(None, map(str.strip, said.splitlines())):
        if found := re.fullmatch(pattern, text):
            name, word, code, digest = found.groups()
            hosts.append(Host(name, word, None if code == "-" else int(code), digest))
        else:
            rest = text
    return hosts, rest


def _absent(error: CloudError) -> bool:
    """Whether `gcloud storage` found no such object, in a bucket that is there."""
    return "matched no objects" in str(error)
