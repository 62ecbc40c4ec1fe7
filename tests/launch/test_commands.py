"""The lines given to gcloud, against lists written by hand, and against gcloud's own parser."""

import dataclasses
import json
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from gpt_jax.chips import CHIPS, find_slice
from gpt_jax.launch import commands
from gpt_jax.launch.job import Job

JOB = Job(
    name="gpt3",
    project="p",
    zone="us-east5-a",
    slice=find_slice("v5p-512"),
    slices=1,
    capacity="spot",
    valid_until="6h",
    workdir="gs://bkt/runs/gpt3",
    archive=Path("/home/me/gpt3.tar.gz"),
    experiment="experiments/gpt3_175b.py",
    overrides=("--data.files", "gs://bkt/it's $(here)/*.txt", "--mesh.tensor", "2"),
    keep=False,
    max_restarts=5,
)
WHERE = ["--project=p", "--zone=us-east5-a"]
QUEUE = ["gcloud", "compute", "tpus", "queued-resources"]


def with_(**changes):
    return dataclasses.replace(JOB, **changes)


def test_create():
    """One slice by its id, several by a count; an on-demand request has no flag."""
    assert commands.create(JOB) == [
        *(*QUEUE, "create", "gpt3", *WHERE),
        *("--accelerator-type=v5p-512", "--runtime-version=v2-alpha-tpuv5", "--node-id=gpt3"),
        *("--spot", "--valid-until-duration=6h"),
    ]
    several = with_(slices=4, slice=find_slice("v5e-16"), capacity="on-demand", valid_until="")
    assert commands.create(several) == [
        *(*QUEUE, "create", "gpt3", *WHERE),
        *("--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite"),
        *("--node-count=4", "--node-prefix=gpt3"),
    ]
    assert several.nodes == ("gpt3-0", "gpt3-1", "gpt3-2", "gpt3-3")
    assert several.hosts == 16
    assert "--reserved" in commands.create(with_(capacity="reserved"))


@pytest.mark.parametrize(
    ("target", "kind", "runtime"),
    [
        ("v4-64", "v4-64", "tpu-ubuntu2204-base"),
        ("v5e-16", "v5litepod-16", "v2-alpha-tpuv5-lite"),
        ("v5p-512", "v5p-512", "v2-alpha-tpuv5"),
        ("v6e-16", "v6e-16", "v2-alpha-tpuv6e"),
    ],
)
def test_accelerators_and_images(target, kind, runtime):
    """As in cloud.google.com/tpu/docs/runtimes; there is an image for every generation."""
    line = commands.create(with_(slice=find_slice(target)))
    assert f"--accelerator-type={kind}" in line
    assert f"--runtime-version={runtime}" in line
    assert commands.RUNTIMES.keys() == CHIPS.keys()


def test_the_lines_around_it():
    assert commands.describe(JOB) == [*QUEUE, "describe", "gpt3", *WHERE, "--format=json"]
    assert commands.delete(JOB) == [*QUEUE, "delete", "gpt3", *WHERE, "--force", "--quiet"]
    assert commands.copy(JOB) == [
        *(*QUEUE, "scp", "/home/me/gpt3.tar.gz", "gpt3:gpt-jax.tar.gz", *WHERE),
        *("--node=all", "--worker=all", "--quiet"),
    ]
    assert commands.summary(JOB) == ["gcloud", "storage", "cat", "gs://bkt/runs/gpt3/summary.json"]
    assert commands.checkpoints(JOB) == [
        *("gcloud", "storage", "ls", "gs://bkt/runs/gpt3/checkpoints/*/commit_success.txt")
    ]
    assert commands.bucket(JOB) == [
        *("gcloud", "storage", "buckets", "create", "gs://bkt", "--project=p"),
        *("--location=us-east5", "--uniform-bucket-level-access"),
    ]


def test_the_words_of_a_host_survive_two_shells(tmp_path):
    """What is printed, given to a shell here and by it to the host's, is what was meant."""
    line = commands.start(JOB)
    assert line[:-1] == [
        *(*QUEUE, "ssh", "gpt3", *WHERE, "--node=all", "--worker=all", "--quiet", "--command")
    ]
    script = tmp_path / "gpt-jax" / "gpt_jax" / "launch" / "host.sh"
    script.parent.mkdir(parents=True)
    script.write_text('printf "%s\\n" "$@"')
    printed = shlex.join(["bash", "-c", line[-1]])
    said = subprocess.run(
        printed, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert said.stdout.splitlines() == [
        *(
            "start",
            "gpt-jax",
            "train",
            "experiments/gpt3_175b.py",
            "--workdir",
            "gs://bkt/runs/gpt3",
        ),
        *("--data.files", "gs://bkt/it's $(here)/*.txt", "--mesh.tensor", "2"),
    ]


def test_the_text_holds_the_lines():
    """Comments aside, and those that stand in comments can be copied too."""
    text = commands.as_text(JOB).splitlines()
    lines = [shlex.split(line) for line in text if not line.startswith("#")]
    assert lines == [line for _, line in commands.story(JOB)]
    assert f"# end it: {shlex.join(commands.delete(JOB))}" in text
    assert commands.delete(JOB) not in [line for _, line in commands.story(with_(keep=True))]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("gcloud"), reason="asks the real gcloud, which is not here")
def test_gcloud_knows_every_word(tmp_path, monkeypatch):
    """Its own static check of a line, which runs nothing and needs no account."""
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    jobs = [JOB, with_(slices=2), with_(capacity="reserved", valid_until="")]
    around = (commands.enable, commands.bucket, commands.follow, commands.log, commands.delete)
    lines = [line for job in jobs for _, line in commands.story(job)] + [f(JOB) for f in around]
    lines.append([*commands.create(JOB), "--bogus"])
    texts = list(dict.fromkeys(map(shlex.join, lines)))
    given = tmp_path / "lines.json"
    given.write_text(json.dumps([{"command_string": text} for text in texts]))
    check = ["gcloud", "meta", "lint-gcloud-commands", f"--commands-file={given}"]
    said = subprocess.run(check, capture_output=True, text=True, check=True)
    # It gives the lines back in its own spelling, and in their order.
    *errors, last = [item["error_message"] for item in json.loads(said.stdout)]
    assert errors == [None] * (len(texts) - 1)
    assert "--bogus" in last
