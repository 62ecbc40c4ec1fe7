"""Several hosts on one machine: real processes that train together over loopback.

The reference is one process, which tests elsewhere compare with NumPy. Losses agree to rtol 1e-5:
float32 sums in another order differ by about 1e-7 each, and Adam lets that grow a little.
"""

import socket

import numpy as np
import pytest
from tiny_run import STEPS, finish, metrics, start

pytestmark = pytest.mark.slow


def free_port():
    """A port of loopback that nothing listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def launch(count, *words, devices=1, each=()):
    """`count` hosts that train with these words; `each`: more words for some of them by index."""
    port = free_port()
    more = dict(each)
    return [
        start(
            *("train", *words, *more.get(index, ())),
            *("--coordinator", f"127.0.0.1:{port}", "--num-hosts", count, "--host-index", index),
            devices=devices,
        )
        for index in range(count)
    ]


def end(processes):
    """[(exit status, stdout, stderr)] of all of them."""
    return [finish(process) for process in processes]


def assert_same_losses(run, alone):
    """The same lines at the same steps, with the same losses but for rounding."""
    ours, theirs = metrics(run), metrics(alone)
    assert [line["tokens"] for line in ours] == [line["tokens"] for line in theirs]
    for name in ("loss", "learning_rate", "gradient_norm"):
        np.testing.assert_allclose(
            [line[name] for line in ours], [line[name] for line in theirs], rtol=1e-5
        )
    for ours_line, theirs_line in zip(ours, theirs, strict=True):
        for name in ("val_loss", "val_bits_per_byte"):
            assert (name in ours_line) == (name in theirs_line)
            if name in ours_line:
                assert ours_line[name] == pytest.approx(theirs_line[name], rel=1e-5)


def test_two_train_as_one_does(tiny, tmp_path, finished_alone):
    """Losses of one process; the first speaks and writes what one process does, once."""
    alone, _ = finished_alone
    run = tmp_path / "run"
    (status, out, _), (other_status, other_out, _) = end(launch(2, tiny, "--workdir", run))
    assert (status, other_status) == (0, 0)
    assert_same_losses(run, alone)
    assert "devices 2 x cpu on 2 hosts" in out
    assert f"step 24/{STEPS}" in out
    assert out.endswith(f"gpt-jax generate {run} --prompt the\n")
    assert not [line for line in other_out.splitlines() if "Gloo" not in line]
    assert {path.name for path in run.iterdir()} == {path.name for path in alone.iterdir()}
    assert len([*(run / "tensorboard").iterdir()]) == 1
