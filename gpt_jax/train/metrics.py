"""What a run tells: metrics.jsonl, TensorBoard events, summary.json and the terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore

from gpt_jax.chips import peak_flops
from gpt_jax.config import Config
from gpt_jax.data.schedule import BatchSchedule
from gpt_jax.flops import train_flops_per_token
from gpt_jax.parallel import hosts
from gpt_jax.train.run import write_json
from gpt_jax.train.storage import EventsFolder, open_log

Record = dict[str, int | float]
FEEDBACK_METRICS = ("reward", "kl", "reward_margin", "preference_accuracy")
"""Of a step that learns from feedback, those that the terminal shows."""


class MetricsLog:
    """Metrics of a run on disk, from `step` on: what a killed process wrote after it is dropped.

    Of several hosts the first alone writes. Floats are written with all their digits, so that they
    read back bit for bit.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._folder, path = folder, folder / "metrics.jsonl"
        self.last: Record = {}
        """The last value of each metric."""
        if not hosts.is_first():
            return
        kept = []
        for line in path.read_text().splitlines(keepends=True) if path.exists() else []:
            record = _parsed(line)
            if record is not None and record["step"] <= step:
                kept.append(line)
                self.last |= record
        self._file = open_log(path, "".join(kept).encode())
        # Not tensorboardX's SummaryWriter: it writes from a thread, and when that dies of a full
        # disk, the run waits for it for ever.
        self._events_folder = EventsFolder(folder / "tensorboard")
        self._events = EventsWriter(str(self._events_folder.local / "events"))
        restart = SessionLog(status=SessionLog.START)
        self._write_event(step + 1, session_log=restart)  # hides what came after `step`

    def write(self, record: Record) -> None:
        """Append a line; `record` has at least step and tokens."""
        self.last |= record
        if not hosts.is_first():
            return
        self._file.write(json.dumps(record).encode() + b"\n")
        values = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in record.items()
            if name != "step"
        ]
        self._write_event(record["step"], summary=Summary(value=values))

    def flush(self) -> None:
        """Return once every line is where it can be read, and would outlive this process."""
        if hosts.is_first():
            self._file.flush()
            self._events_folder.flush()

    def write_summary(self, **more: Any) -> None:
        """Write summary.json: the last of each metric, and `more`."""
        if hosts.is_first():
            write_json(self._folder / "summary.json", self.last | more)

    def _write_event(self, step: int | float, **content: Any) -> None:
        self._events.write_event(Event(wall_time=time.time(), step=int(step), **content))
        self._events.flush()
        self._events_folder.send()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        if hosts.is_first():
            self._file.close()
            self._events.close()
            self._events_folder.close()


def _parsed(line: str) -> Record | None:
    """A line of metrics.jsonl; None for one that a killed process left unfinished."""
    if not line.endswith("\n"):
        return None
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def validation_in_words(record: Record) -> str:
    """What a validation says of the held-out text, whatever kind of run it is of."""
    said = [f"validation loss {record['val_loss']:.4f}"]
    if "val_perplexity" in record:
        said.append(f"perplexity {record['val_perplexity']:.2f}")
        said.append(f"{record['val_bits_per_byte']:.4f} bits per byte")
    for name in ("accuracy", "preference_accuracy"):
        if f"val_{name}" in record:
            said.append(f"{name.replace('_', ' ')} {record[f'val_{name}']:.4f}")
    return ", ".join(said)


class Display:
    """Progress on the first host's terminal: a live bar, or plain lines where there is none.

    It keeps the clock of the run: tokens per second count training alone.
    """

    def __init__(self, config: Config, step: int, device_kind: str) -> None:
        schedule, self._length = BatchSchedule.of(config), config.sequence_length
        self._total = schedule.num_steps
        self._tokens = self._first_tokens = schedule.start(step) * self._length
        self._last_tokens = schedule.start(self._total) * self._length
        self._began = self._since = time.perf_counter()
        self._paused = 0.0
        self._flops = train_flops_per_token(config.model, self._length)
        self._peak = peak_flops(device_kind, config.model.dtype)
        self._console = Console(
            file=sys.stdout, highlight=False, soft_wrap=True, quiet=not hosts.is_first()
        )
        text = TextColumn("{task.description}", table_column=Column(no_wrap=False))
        columns = (BarColumn(20), text) if self._console.width > 120 else (text,)
        self._bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task("compiling", total=self._total, completed=step)

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, markup=False)

    def advance(self, step: int) -> None:
        """`step` is under way, and so the program is compiled."""
        compiling = self._bar.tasks[self._task].description == "compiling"
        self._bar.update(self._task, completed=step, description="training" if compiling else None)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Within it, no time is counted as training."""
        start = time.perf_counter()
        yield
        self._paused += time.perf_counter() - start

    def rate(self, tokens: int) -> float:
        """Tokens per second of training since the last call; `tokens` is the count so far."""
        now = time.perf_counter()
        rate = (tokens - self._tokens) / max(now - self._since - self._paused, 1e-9)
        self._tokens, self._since, self._paused = tokens, now, 0.0
        return rate

    def show(self, record: Record) -> None:
        """The state of the run after a step, from its line of metrics.jsonl."""
        step, tokens, rate = record["step"], record["tokens"], record["tokens_per_second"]
        # Over the whole run so far, so that validations and saves are in it.
        pace = (time.perf_counter() - self._began) / max(tokens - self._first_tokens, 1)
        left = timedelta(seconds=int(pace * (self._last_tokens - tokens)))
        parts = [
            f"step {step:,}/{self._total:,}",
            f"left {left}",
            f"tokens {tokens:,}",
            f"loss {record['loss']:.4f}",
            f"lr {record['learning_rate']:.2e}",
            f"grad {record['gradient_norm']:.3f}",
            f"{rate:,.0f} tok/s",
        ]
        parts += [
            f"{name.replace('_', ' ')} {record[name]:.3f}"
            for name in FEEDBACK_METRICS
            if name in record
        ]
        if self._peak:
            parts.append(f"MFU {rate * self._flops / jax.device_count() / self._peak:.1%}")
        if record["skipped"]:
            parts.append(f"skipped {record['skipped']}")
        line = "  ".join(parts)
        self._bar.update(self._task, completed=step, description=line)
        if not self._console.is_terminal:
            self.say(line)
        if "val_loss" in record:
            by_source = [
                f"{name.removeprefix('val_loss/')} {value:.4f}"
                for name, value in record.items()
                if name.startswith("val_loss/")
            ]
            self.say(
                f"step {step:,}: {validation_in_words(record)}"
                + (f" (loss of {', '.join(by_source)})" if by_source else "")
            )
            scores = [
                f"{name} {value:.4f}"
                for name, value in record.items()
                if "/" in name and not name.startswith("val_loss/")
            ]
            if scores:
                self.say(f"step {step:,}: {', '.join(scores)}")
