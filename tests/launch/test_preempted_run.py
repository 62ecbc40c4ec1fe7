"""A real training under `gpt-jax launch`: machines are taken away, and not a bit of it changes.

The hosts run what was copied to them, on one CPU device, and the bucket is tests/bucket_server.py.
"""

import os
import shlex
import sys
import time

import pytest
from bucket_server import BucketServer
from stand_in import StandIn
from tiny_run import TEXTS, assert_same_run, finish, start, write_experiment

from gpt_jax.cli import main
from gpt_jax.launch import loop

pytest.importorskip("gcsfs", reason="gcsfs is not installed: pip install -e '.[gcs]'")

GPT_JAX = """#!/bin/bash
export PYTHONPATH=$PWD {environment}
exec {python} -c 'import sys; from gpt_jax.cli import main; sys.exit(main())' "$@"
"""


def mirror(server, cloud):
    """What `gcloud storage` sees of the bucket: the names of whole checkpoints, the summary."""
    for name in server.names("bucket-b", "runs/x/"):
        if name.endswith(("commit_success.txt", "summary.json")):
            path = cloud.folder / "bucket" / "bucket-b" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(server.objects["bucket-b", name].data)


@pytest.mark.slow
def test_a_preempted_run_is_the_undisturbed_one(tmp_path, monkeypatch):
    """Machines vanish twice; metrics and arrays are the same bits as without."""
    tiny = write_experiment(tmp_path / "tiny")
    undisturbed = tmp_path / "undisturbed"
    status, _, err = finish(start("train", tiny, "--workdir", undisturbed))
    assert status == 0, err

    cloud = StandIn(tmp_path / "cloud")
    cloud.plan(hosts=1)
    # Requests at which the machines vanish: one in the middle of a save, one just before its end.
    losses = [
        lambda method, name: method == "POST" and "checkpoints/8/params" in name,
        lambda method, name: name.endswith("checkpoints/16/commit_success.txt"),
    ]
    with BucketServer("bucket-b") as server:
        for name, text in TEXTS.items():
            server.put("bucket-b", f"corpus/{name}", text.encode(), {})
        kept = {
            name: value for name, value in os.environ.items() if name.startswith(("JAX_", "XLA_"))
        }
        given = kept | server.environment | {"JAX_NUM_CPU_DEVICES": "1"}
        environment = " ".join(f"{name}={shlex.quote(value)}" for name, value in given.items())
        script = GPT_JAX.format(environment=environment, python=sys.executable)
        (cloud.folder / "train").write_text(script)

        lose = cloud.folder / "lose"

        def sleep(_):
            time.sleep(0.3)
            mirror(server, cloud)
            if losses and server.held.is_set() and not lose.exists():
                if losses[0]:
                    lose.write_text("SUSPENDED")
                    losses[0] = None
                else:  # it is done
                    losses.pop(0)
                    server.release()
                    if losses:
                        server.hold(losses[0])

        server.hold(losses[0])
        monkeypatch.setattr(loop, "sleep", sleep)
        monkeypatch.setenv("PATH", str(cloud.bin))
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        place = ["--target", "v5e-1", "--project", "p", "--zone", "us-east5-a", "--name", "x"]
        where = ["--workdir", "gs://bucket-b/runs/x", "--data.files", "gs://bucket-b/corpus/*.txt"]
        try:
            assert main(["launch", str(tiny), *place, *where, "--spot"]) == 0
        finally:
            cloud.kill_hosts()
        run = tmp_path / "brought"
        for name in server.names("bucket-b", "runs/x/"):
            path = run / name.removeprefix("runs/x/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(server.objects["bucket-b", name].data)
    assert losses == []
    assert sum("create" in line for line in cloud.lines) == 3
    assert cloud.resources == {}
    assert_same_run(run, undisturbed)
