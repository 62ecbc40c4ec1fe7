"""metrics.jsonl and TensorBoard events against what was written, read back by other means."""

import json
import math
import struct

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from gpt_jax.config import Config, TrainConfig
from gpt_jax.train import metrics
from gpt_jax.train.metrics import Display, MetricsLog


def read_events(path):
    """The events of a file of TFRecords: length, its checksum, content, its checksum."""
    data, events = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        events.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return events


def line(step, **more):
    return {"step": step, "tokens": step * 10, "loss": 1 / step} | more


def test_floats_read_back_bit_for_bit(tmp_path):
    """Random float32 patterns, subnormals among them, and awkward doubles survive the file."""
    patterns = np.random.default_rng(0).integers(0, 2**32, 2000, dtype=np.uint32)
    singles = patterns.view(np.float32)
    singles = singles[np.isfinite(singles)]
    doubles = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0]
    values = [value.item() for value in singles] + doubles
    with MetricsLog(tmp_path, 0) as log:
        for step, value in enumerate(values, 1):
            log.write({"step": step, "tokens": step, "loss": value})
    read = [json.loads(text)["loss"] for text in (tmp_path / "metrics.jsonl").open()]
    assert struct.pack(f"{len(read)}d", *read) == struct.pack(f"{len(values)}d", *values)
    assert np.float32(read[: len(singles)]).tobytes() == singles.tobytes()


def test_what_follows_the_restored_step_is_dropped_and_the_rest_kept_byte_for_byte(tmp_path):
    """Continued from step 4: lines 2 and 4 stay as they are, whoever wrote them; 6 and 8 go."""
    kept = '{"step": 2,  "tokens":20, "loss": 2.50}\n{"loss": NaN, "tokens": 40, "step": 4}\n'
    lost = '{"step": 6, "tokens": 60, "loss": 1.0}\n{"step": 8, "tokens": 8'
    (tmp_path / "metrics.jsonl").write_text(kept + lost)
    with MetricsLog(tmp_path, 4) as log:
        assert (tmp_path / "metrics.jsonl").read_text() == kept
        assert (log.last["step"], log.last["tokens"]) == (4, 40)
        log.write({"step": 6, "tokens": 60, "loss": 0.5})
    assert (tmp_path / "metrics.jsonl").read_text() == (
        kept + '{"step": 6, "tokens": 60, "loss": 0.5}\n'
    )


@pytest.mark.parametrize("cut", range(1, 39))
def test_an_unfinished_last_line_is_dropped_wherever_it_ends(tmp_path, cut):
    """A process killed in the middle of a line leaves some of its first bytes, never a line."""
    whole = '{"step": 2, "tokens": 20, "loss": 2.5}\n'
    assert len(whole) == 39
    (tmp_path / "metrics.jsonl").write_text(whole + whole[:cut])
    with MetricsLog(tmp_path, 4):
        assert (tmp_path / "metrics.jsonl").read_text() == whole


def test_each_line_is_on_disk_when_write_returns(tmp_path):
    """A kill -9 right after it loses neither the line nor its TensorBoard event."""
    with MetricsLog(tmp_path, 0) as log:
        for step in (1, 2, 3):
            log.write(line(step))
            assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == step
            (path,) = (tmp_path / "tensorboard").iterdir()
            assert read_events(path)[-1].step == step


def test_tensorboard_has_every_value_and_hides_what_was_dropped(tmp_path):
    """A START event at step 5 tells TensorBoard to forget 5 and later of the files before it."""
    with MetricsLog(tmp_path, 4) as log:
        log.write(line(5, val_loss=0.25))
        log.write(line(6, loss=math.nan))
    (path,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*")
    version, start, first, second = read_events(path)
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (5, SessionLog.START)
    values = {value.tag: value.simple_value for value in first.summary.value}
    assert values == {"tokens": 50, "loss": np.float32(0.2), "val_loss": 0.25}
    assert (first.step, second.step) == (5, 6)
    assert math.isnan({value.tag: value.simple_value for value in second.summary.value}["loss"])


def test_the_summary_is_the_last_of_each_metric(tmp_path):
    """val_loss of step 2 is still the last one at step 3, also after the run was continued."""
    with MetricsLog(tmp_path, 0) as log:
        log.write(line(2, val_loss=0.75))
    with MetricsLog(tmp_path, 2) as log:
        log.write(line(3))
        log.write_summary(stopped_by=None)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary == line(3) | {"val_loss": 0.75, "stopped_by": None}


def test_a_full_disk_raises_and_does_not_hang(tmp_path, monkeypatch):
    """tensorboardX's own writer thread would die of it, and the next writes wait for ever."""
    with MetricsLog(tmp_path, 0) as log:

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(log._events, "write_event", full)
        for _ in range(20):
            with pytest.raises(OSError, match="No space left"):
                log.write(line(1))


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until it is moved."""
    now = [100.0]
    monkeypatch.setattr(metrics.time, "perf_counter", lambda: now[0])
    return now


RECORD = {"learning_rate": 1e-3, "gradient_norm": 2.0, "skipped": 0}


def test_the_rate_is_of_training_alone(clock, capsys):
    """512 tokens in 4 s, of which 2 s were a validation: 256 a second."""
    config = Config(train=TrainConfig(total_tokens=4096, batch_tokens=512))
    with Display(config, 0, "cpu") as display:
        clock[0] += 1
        with display.pause():
            clock[0] += 2
        clock[0] += 1
        assert display.rate(512) == 256.0
        clock[0] += 1
        assert display.rate(1024) == 512.0


def test_progress_is_plain_lines_where_there_is_no_terminal(clock, capsys):
    """Of 4,096 tokens 1,024 took 10 s; the other 3,072 will take 30."""
    config = Config(train=TrainConfig(total_tokens=4096, batch_tokens=512))
    with Display(config, 0, "cpu") as display:
        clock[0] += 10
        rate = display.rate(1024)
        record = {"step": 2, "tokens": 1024, "loss": 1.5, "tokens_per_second": rate, **RECORD}
        display.show(record)
        losses = {"val_loss": 1.25, "val_perplexity": 3.4903, "val_bits_per_byte": 1.8034}
        scores = {"addition_2/exact_match": 0.5, "addition_2/f1": 0.625}
        display.show(record | {"skipped": 3} | losses | scores)
    first, second, validation, tasks = capsys.readouterr().out.splitlines()
    assert first == (
        "step 2/8  left 0:00:30  tokens 1,024  loss 1.5000  lr 1.00e-03  grad 2.000  102 tok/s"
    )
    assert "skipped 3" in second
    assert validation == ("step 2: validation loss 1.2500, perplexity 3.49, 1.8034 bits per byte")
    assert tasks == "step 2: addition_2/exact_match 0.5000, addition_2/f1 0.6250"
