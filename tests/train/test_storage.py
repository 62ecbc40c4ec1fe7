"""What a run's folder can do in a bucket: the same promises as on a file system, kept otherwise."""

import json
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.config import InputError
from gpt_jax.paths import user_path
from gpt_jax.train import storage
from gpt_jax.train.checkpoint import Checkpointer, CheckpointError, load_params
from gpt_jax.train.storage import lock_folder, open_log, steps_of

BUCKET = "bucket-of-tests"
RUN = f"gs://{BUCKET}/run"
HOLD = "import sys; from gpt_jax.paths import user_path; from gpt_jax.train import storage\n" + (
    "lock = storage.lock_folder(user_path(sys.argv[1])); print('held', flush=True); input()"
)


@pytest.fixture
def run(server):
    """A folder of the bucket; it needs `server`, as the clients find it by that."""
    return user_path(RUN)


def holder():
    """A process that holds the lock of RUN until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, RUN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_until_the_first_is_killed(run):
    """Its own machine knows at once that it is dead, and nobody waits for the lock to run out."""
    process = holder()
    with pytest.raises(InputError, match=f"another one is at work in {RUN}: wait for it"):
        lock_folder(run)
    process.kill()
    process.wait()
    began = time.monotonic()
    lock_folder(run).close()
    assert time.monotonic() - began < storage.LEASE_SECONDS / 4
    assert not (run / "lock").exists()


def test_a_process_that_has_the_number_of_one_that_died(run, server):
    """It is not taken for that: it began at another time."""
    left = storage._this_process() | {"began": "1"}
    server.put(BUCKET, "run/lock", json.dumps(left).encode(), {})
    lock_folder(run).close()


def test_the_lock_of_another_machine(run, server, monkeypatch, caplog):
    """Held while it is rewritten, and nobody's once it has not been for LEASE_SECONDS."""
    monkeypatch.setattr(storage, "LEASE_SECONDS", 0.6)
    theirs = json.dumps({"machine": ["elsewhere", 1, "2"], "pid": 3, "began": "4"}).encode()
    stop = threading.Event()

    def live():
        while not stop.wait(0.1):
            server.put(BUCKET, "run/lock", theirs, {})

    server.put(BUCKET, "run/lock", theirs, {})
    thread = threading.Thread(target=live)
    thread.start()
    with pytest.raises(InputError, match="another one is at work"):
        lock_folder(run)
    assert "run is locked by a process of elsewhere: waiting" in caplog.text
    stop.set()
    thread.join()
    began = time.monotonic()
    lock = lock_folder(run)
    assert time.monotonic() - began >= 0.6
    lock.close()


def test_of_two_that_take_over_one_does(run, server, monkeypatch):
    """Both have seen the same lock rest for long enough."""
    monkeypatch.setattr(storage, "LEASE_SECONDS", 0.3)
    server.put(BUCKET, "run/lock", b"not even JSON", {})
    ends = []

    def start():
        try:
            ends.append(lock_folder(run))
        except InputError as error:
            ends.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(end, InputError) for end in ends) == 3
    for end in ends:
        if not isinstance(end, InputError):
            end.close()


def test_a_lock_is_kept_alive_and_an_answer_that_is_lost_loses_nothing(run, server, monkeypatch):
    monkeypatch.setattr(storage, "RENEW_SECONDS", 0.05)
    lock = lock_folder(run)
    seen = set()
    for turn in range(200):
        seen.add(server.objects[BUCKET, "run/lock"].generation)
        if turn == 20:
            server.lose_answer(lambda method, name: name == "run/lock")
        if len(seen) > 5 and turn > 100:
            break
        time.sleep(0.02)
    assert len(seen) > 5
    lock.close()
    assert server.names(BUCKET) == []


def test_a_log_that_grows(run, server, monkeypatch):
    """What is sent is what was written, once; a part whose answer was lost is not joined twice."""
    monkeypatch.setattr(storage, "FLUSH_SECONDS", 0.0)
    server.put(BUCKET, "run/.part-left", b"by a process that was killed", {})
    lines = [f"line {n}\n".encode() * 50 for n in range(30)]
    log = open_log(run / "metrics.jsonl", lines[0])
    for n, line in enumerate(lines[1:]):
        if n in (7, 8):
            server.lose_answer(lambda method, name: name.endswith("/compose"))
        if n == 9:
            server.lose_answer(lambda method, name: ".part-" in name)
        log.write(line)
    log.close()
    assert server.names(BUCKET) == ["run/metrics.jsonl"]
    assert server.objects[BUCKET, "run/metrics.jsonl"].data == b"".join(lines)
    assert sum(server.uploaded.values()) < 1.1 * len(b"".join(lines))


def test_a_log_lags_behind_and_a_flush_ends_that(run, server):
    log = open_log(run / "metrics.jsonl", b"")
    log.write(b"one\n")
    log.write(b"two\n")
    assert server.objects[BUCKET, "run/metrics.jsonl"].data == b""
    log.flush()
    assert server.objects[BUCKET, "run/metrics.jsonl"].data == b"one\ntwo\n"


def test_a_process_that_was_overtaken_writes_no_more(run, server):
    """The log that its successor has opened is not the one that it wrote."""
    ours = open_log(run / "metrics.jsonl", b"one\n")
    theirs = open_log(run / "metrics.jsonl", b"one\n")
    ours.write(b"two\n")
    with pytest.raises(InputError, match="has taken the run over, and this one ends"):
        ours.flush()
    theirs.write(b"TWO\n")
    theirs.flush()
    assert server.objects[BUCKET, "run/metrics.jsonl"].data == b"one\nTWO\n"


def state(step):
    return {"w": jnp.arange(2000.0) * step}, {"step": jnp.int32(step)}


def restored(folder):
    """The step that is restored, once its arrays are found to be its own."""
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), state(0)
    )
    with Checkpointer(folder, 2, 0) as checkpointer:
        found = checkpointer.restore(*abstract)
    if found is None:
        return None
    step, params, rest, meta = found
    np.testing.assert_array_equal(params["w"], state(step)[0]["w"])
    assert (int(rest["step"]), meta) == (step, {"n": step})
    return step


def save(folder, *steps):
    with Checkpointer(folder, 2, 0) as checkpointer:
        for step in steps:
            checkpointer.save(step, *state(step), {"n": step})


def test_a_step_is_one_from_its_last_file_to_the_deletion_of_that(run, server):
    """Saved, kept, retired; without the last file it is none, is not listed, and is cleared."""
    folder = run / "checkpoints"
    assert restored(folder) is None
    save(folder, 1, 2, 3)
    assert steps_of(folder).found() == [2, 3]
    assert not [name for name in server.names(BUCKET) if "/1/" in name]
    del server.objects[BUCKET, "run/checkpoints/3/commit_success.txt"]
    assert steps_of(folder).found() == [2]
    assert load_params(folder)[0] == 2
    assert [name for name in server.names(BUCKET) if "/3/" in name]
    assert restored(folder) == 2
    assert not [name for name in server.names(BUCKET) if "/3/" in name]
    save(folder, 3)
    assert restored(folder) == 3
    # Cut off in the middle of a deletion: its last file has gone first.
    deleted = []
    server.refuse(
        lambda method, name: method == "DELETE" and (deleted.append(name), deleted[1:])[1]
    )
    steps_of(folder).delete(3)
    assert len(deleted) > 1
    assert len([name for name in server.names(BUCKET) if "/3/" in name]) > 5
    assert steps_of(folder).found() == [2]


def test_damaged_arrays_are_passed_over_and_copied_aside(run, server, caplog):
    folder = run / "checkpoints"
    save(folder, 1, 2)
    for aside in ("2", "2-1"):
        names = server.names(BUCKET, "run/checkpoints/2/params/ocdbt")
        name = max(names, key=lambda name: len(server.objects[BUCKET, name].data))
        data = bytearray(server.objects[BUCKET, name].data)
        data[len(data) // 2] ^= 1
        server.put(BUCKET, name, bytes(data), {})
        before = {name for name in server.names(BUCKET) if "/2/" in name}
        assert restored(folder) == 1
        assert "checkpoints/2 is damaged and passed over" in caplog.text
        after = {name for name in server.names(BUCKET) if f"/damaged/{aside}/" in name}
        assert {name.replace(f"damaged/{aside}/", "2/") for name in after} == {
            name for name in before if "damaged" not in name
        }
        assert server.objects[BUCKET, name.replace("/2/", f"/damaged/{aside}/")].data == data
        save(folder, 2)
    assert restored(folder) == 2


def save_and_wait(checkpointer, step):
    """Save, and learn what came of it as the loop does."""
    checkpointer.save(step, *state(step), {"n": step})
    while checkpointer.last_committed != step:
        checkpointer.poll()


def test_a_save_that_the_bucket_refuses(run, server):
    """It is an error that names the last good step, and what was there is still there."""
    folder = run / "checkpoints"
    with Checkpointer(folder, 2, 0) as checkpointer:
        checkpointer.save(1, *state(1), {"n": 1})
        while checkpointer.last_committed is None:
            checkpointer.poll()
        for part, status in (("", 403), ("", 418), ("params/ocdbt", 403), ("commit_success", 403)):
            server.refuse(lambda method, name, part=part: f"/2/{part}" in name and method != "GET")
            server.refusal = status
            with pytest.raises(
                CheckpointError, match=r"step 2 in .*: .* good checkpoint is step 1"
            ):
                save_and_wait(checkpointer, 2)
            server.refuse(lambda method, name: False)
            assert load_params(folder)[0] == 1
        save_and_wait(checkpointer, 2)
    assert restored(folder) == 2
