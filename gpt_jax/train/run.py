"""A run on disk: one folder that is whole without the machine that made it.

config.json     the experiment, every field
tokenizer/      text to tokens and back
checkpoints/    parameters and the rest of the state, by step
metrics.jsonl   one line per log
summary.json    the last value of each metric, when the run ends
tensorboard/    the same metrics for TensorBoard
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shlex
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gpt_jax.config import Config, InputError, disagreements, from_dict, require
from gpt_jax.data.tokenizers import Tokenizer, load_tokenizer
from gpt_jax.model.decoder import GPT
from gpt_jax.train.checkpoint import load_params

RUNS = Path("runs")


class RunFolder:
    """The folder of a run in training, locked against a second process while it is open."""

    def __init__(self, path: Path, config: Config) -> None:
        """Open a run's folder, new or to be continued.

        Raises InputError where another process trains in it, where it is no run, or where `config`
        disagrees with the run's own. Nothing in the folder is changed by that.
        """
        self.path = path
        require(
            not path.exists() or path.is_dir(),
            f"--workdir names the folder of a run, and {path} is a file.",
        )
        foreign = path.is_dir() and any(path.iterdir()) and not (path / "config.json").exists()
        require(
            not foreign or (path / "lock").exists(),
            f"--workdir must name a new folder or a run's, and {path} holds other files.",
        )
        self._made = not path.exists()
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = (path / "lock").open("a")
        except OSError as error:
            raise InputError(
                f"--workdir must name a folder that can be written, and {path} cannot "
                f"({error.strerror}): name another."
            ) from error
        try:
            # The kernel drops the lock with the process, however it ends.
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise InputError(
                "one process at a time may train in a folder, and another one is at work in "
                f"{path}: wait for it, stop it, or name another --workdir."
            ) from None
        try:
            self._check(config)
        except InputError:
            self._lock.close()
            raise

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        """Let go of the folder, and remove it if it is ours and nothing was written to it."""
        lock = self.path / "lock"
        if self._made and [*self.path.iterdir()] == [lock]:
            lock.unlink()
            self.path.rmdir()
        self._lock.close()

    def _check(self, config: Config) -> None:
        if not (self.path / "config.json").exists():
            return
        ran = read_config(self.path)
        if config.model.vocab_size == 0:
            model = dataclasses.replace(config.model, vocab_size=ran.model.vocab_size)
            config = dataclasses.replace(config, model=model)
        differences = disagreements(ran, config)
        require(
            not differences,
            f"a run continues with the config it began with, and {self.path} disagrees on "
            f"{'; '.join(differences)}. Undo the change, or train it anew in another --workdir.",
        )

    def write(self, config: Config, tokenizer: Tokenizer) -> None:
        """Keep what the run needs to be read anywhere."""
        (self.path / "tokenizer").mkdir(exist_ok=True)
        tokenizer.save(self.path / "tokenizer")
        write_json(self.path / "config.json", dataclasses.asdict(config))

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"


def new_run_path(name: str) -> Path:
    """A folder under runs/ that does not exist yet: the experiment's name and the time."""
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    candidates = (RUNS / (f"{stem}-{n}" if n else stem) for n in range(1000))
    return next(path for path in candidates if not path.exists())


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file that is there whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w") as file:
        json.dump(value, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_config(run: Path) -> Config:
    """The config of a run; raises InputError where `run` is not the folder of one."""
    path = run / "config.json"
    require(
        path.is_file(),
        f"a run is a folder with a config.json, and {run} has none: give the path that "
        "`gpt-jax train` printed.",
    )
    try:
        return from_dict(Config, json.loads(path.read_text()))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} must be the config of a run as JSON: {error}.") from None


def load(run: str | Path) -> tuple[Config, Any, Tokenizer]:
    """A trained model: `config, params, tokenizer = gpt_jax.load(run)`.

    The parameters are those of the newest good checkpoint, float32, on one device, ready for
    `gpt_jax.GPT(config.model).apply({"params": params}, tokens)`. Raises InputError where `run` is
    not a run's folder or has no checkpoint to read. The run itself is not touched.
    """
    run = Path(run)
    config = read_config(run)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    boxed = jax.eval_shape(GPT(config.model).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
        nn.unbox(boxed)["params"],
    )
    _, params, _ = load_params(run / "checkpoints", abstract)
    return config, params, load_tokenizer(run / "tokenizer")


def command(arguments: list[str]) -> str:
    """The shell line that runs `gpt-jax` with `arguments`."""
    return shlex.join(["gpt-jax", *arguments])


class StopSignals:
    """Turns the first SIGTERM or Ctrl-C into a request to save and end; a second one is obeyed."""

    def __init__(self) -> None:
        self.requested: str | None = None
        """The signal's name, once it came."""
        self._earlier: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._earlier[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    def _request(self, number: int, _: FrameType | None) -> None:
        self.requested = signal.Signals(number).name
        signal.signal(number, self._earlier[number])
