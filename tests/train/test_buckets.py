"""Runs, text and caches in a bucket, over HTTP to the stand-in of tests/bucket_server.py.

What a run in a bucket leaves is compared with the run on this machine that was never disturbed:
metrics and arrays are the same bits.
"""

import gzip
import json
import re

import jax
import numpy as np
import pytest
from test_several_hosts import Hosts, assert_same_losses
from tiny_run import (
    TEXTS,
    assert_same_run,
    files,
    finish,
    start,
)

import gpt_jax
from gpt_jax.cli import main

BUCKET = "bucket-of-tests"


def bring(server, name, folder):
    """Copy the objects below `name` to a folder of this machine; returns it."""
    for found in server.names(BUCKET, f"{name}/"):
        path = folder / found.removeprefix(f"{name}/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(server.objects[BUCKET, found].data)
    return folder


def put_text(server):
    """The text of the tiny experiment under corpus/, and as packed lines under packed/."""
    for name, text in TEXTS.items():
        server.put(BUCKET, f"corpus/{name}", text.encode(), {})
        lines = [json.dumps({"text": line}) for line in text.split("\n")]
        packed = gzip.compress("\n".join(lines).encode())
        server.put(BUCKET, f"packed/{name}.jsonl.gz", packed, {})


def words(err):
    """What was said on stderr, without TensorStore's line on the token of tests."""
    return re.sub(r"I\d+ .*GOOGLE_AUTH_TOKEN_FOR_TESTING\n", "", err)


@pytest.mark.slow
def test_a_run_in_a_bucket_that_is_killed_again_and_again(
    tiny, tmp_path, finished_alone, server, capsys
):
    """Text, cache and run are there; SIGKILL between saves, during one, and just before its end."""
    undisturbed, _ = finished_alone
    put_text(server)
    root = f"gs://{BUCKET}"
    command = ["train", tiny, "--workdir", f"{root}/runs/x", "--data.files", f"{root}/corpus/*.txt"]
    command += ["--data.cache-dir", f"{root}/cache", "--checkpoint.every", "4"]
    for when, began in (
        (lambda method, name: method == "POST" and "checkpoints/8/" in name, 0),
        (lambda method, name: name.endswith("checkpoints/12/commit_success.txt"), 4),
        (lambda method, name: method == "DELETE" and "checkpoints/8/params/" in name, 8),
    ):
        server.hold(when)
        process = start(*command)
        assert server.held.wait(120), finish(process)
        process.kill()
        _, out, err = finish(process)
        server.release()
        assert words(err) == ""
        assert (f"continuing from step {began}\n" in out) == (began > 0)
    status, out, err = finish(start(*command))
    assert (status, words(err)) == (0, "")
    assert "continuing from step 16\n" in out
    assert out.endswith(f"gpt-jax generate {root}/runs/x --prompt the\n")
    assert server.names(BUCKET, "runs/x/lock") == []
    run = bring(server, "runs/x", tmp_path / "brought")
    assert_same_run(run, undisturbed)
    assert not [name for name in files(run) if ".part-" in name]
    names = {name.split("/")[0] for name in files(undisturbed)} - {"lock"}
    assert {name.split("/")[0] for name in files(run)} == names
    # What was written is what was sent, but for the lock and what each restart writes anew.
    lines = (run / "metrics.jsonl").read_bytes()
    sent = sum(size for name, size in server.uploaded.items() if "/.part-" in name)
    events = sum(len(data) for name, data in files(run).items() if "tfevents" in name)
    assert sent <= len(lines) * 2 + events

    # The run can be read where it is, and once it is brought here it is a run like any other.
    here, there = (gpt_jax.load(place) for place in (undisturbed, f"{root}/runs/x"))
    jax.tree.map(np.testing.assert_array_equal, here[1], there[1])
    said = []
    for place in (f"{root}/runs/x", run):
        assert main(["generate", str(place), "--prompt", "def ", "--max-new-tokens", "5"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    before = server.names(BUCKET, "runs/x/")
    more = ["--data.cache-dir", f"{root}/cache", "--data.files", f"{root}/packed/*.jsonl.gz"]
    more += ["--train.total-tokens", "1024", "--optimizer.decay-tokens", "1024"]
    assert main(["train", f"{root}/runs/x", "--workdir", f"{root}/runs/y", *more]) == 0
    out = capsys.readouterr().out
    assert f"start   the parameters of {root}/runs/x\n" in out
    assert server.names(BUCKET, "runs/x/") == before
    config = json.loads(server.objects[BUCKET, "runs/y/config.json"].data)
    assert config["init_from"] == f"{root}/runs/x"
    assert config["data"]["tokenizer"] == f"{root}/runs/x/tokenizer"


@pytest.mark.slow
def test_two_hosts_that_share_a_bucket_and_nothing_else(
    tiny, tmp_path, finished_alone, server, monkeypatch
):
    """Each has a home of its own; both are killed in a save, and the losses are those of one."""
    alone, _ = finished_alone
    put_text(server)
    root = f"gs://{BUCKET}"
    words = [tiny, "--workdir", f"{root}/runs/x", "--data.files", f"{root}/corpus/*.txt"]
    words += ["--data.cache-dir", f"{root}/cache", "--data.tokenizer", "bytes"]

    def both():
        home = tmp_path / "homes"
        return Hosts(2, *words, before=lambda n: monkeypatch.setenv("HOME", str(home / str(n))))

    server.hold(lambda method, name: name.endswith("checkpoints/8/commit_success.txt"))
    with both() as hosts:
        assert server.held.wait(200), hosts.end()
    server.release()
    with both() as hosts:
        (status, out, err), (other_status, _, other_err) = hosts.end()
    assert (status, other_status) == (0, 0), err + other_err
    assert "devices 2 x cpu on 2 hosts" in out
    assert "continuing from step 4\n" in out
    run = bring(server, "runs/x", tmp_path / "brought")
    assert_same_losses(run, alone)
    for home in range(2):
        (kept,) = (tmp_path / "homes" / str(home) / ".cache" / "gpt_jax").iterdir()
        assert f"cache/{kept.name}/complete.json" in server.names(BUCKET)
