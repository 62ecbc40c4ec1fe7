"""Runs, text and caches in a bucket, over HTTP to the stand-in of tests/bucket_server.py.

What a run in a bucket leaves is compared with the run on this machine that was never disturbed:
metrics and arrays are the same bits.
"""

import re

import pytest
from bucket_server import BucketServer
from tiny_run import (
    TEXTS,
    assert_same_run,
    finish,
    start,
)

pytest.importorskip("gcsfs", reason="gcsfs is not installed: pip install -e '.[gcs]'")

BUCKET = "bucket-of-tests"


@pytest.fixture
def server(monkeypatch, tmp_path):
    """An empty bucket, which this process and its children take for Cloud Storage."""
    import fsspec
    from etils.epath import backend

    from gpt_jax.train import storage

    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with BucketServer(BUCKET) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        # Clients are kept for the life of a process, and each test has another server.
        storage._client.cache_clear()
        fsspec.get_filesystem_class("gcs").clear_instance_cache()
        backend.fsspec_backend._get_filesystem.cache_clear()
        yield server


def bring(server, name, folder):
    """Copy the objects below `name` to a folder of this machine; returns it."""
    for found in server.names(BUCKET, f"{name}/"):
        path = folder / found.removeprefix(f"{name}/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(server.objects[BUCKET, found].data)
    return folder


def put_text(server):
    """The text of the tiny experiment under corpus/, one file of it packed."""
    for name, text in TEXTS.items():
        server.put(BUCKET, f"corpus/{name}", text.encode(), {})


def words(err):
    """What was said on stderr, without TensorStore's line on the token of tests."""
    return re.sub(r"I\d+ .*GOOGLE_AUTH_TOKEN_FOR_TESTING\n", "", err)


@pytest.mark.slow
def test_a_run_in_a_bucket_that_is_killed_again_and_again(tiny, tmp_path, finished_alone, server):
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
    assert server.names(BUCKET, "runs/x/lock") == []
    run = bring(server, "runs/x", tmp_path / "brought")
    assert_same_run(run, undisturbed)
