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
import json
import shlex
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import flax.linen as nn
import jax
from jax.experimental import multihost_utils

from gpt_jax.config import Config, InputError, flatten, from_dict, require
from gpt_jax.data.tokenizers import Tokenizer, load_tokenizer
from gpt_jax.parallel import hosts
from gpt_jax.paths import in_bucket, make_folder, resolved, told_of_buckets, user_path
from gpt_jax.train.checkpoint import best_step, load_params
from gpt_jax.train.state import boxed_params
from gpt_jax.train.storage import lock_folder, write_whole
from gpt_jax.train.tune import effective

RUNS = Path("runs")

# What may change when a run is continued: where it runs and how it is watched, not what it
# computes. A different mesh or micro-batch sees the same samples in the same order, equal up to
# rounding. A corpus may have moved: its digest tells which it is. What ends in a dot or "_" stands
# for all fields that begin so.
FREE_ON_RESUME = (
    "mesh.",
    "checkpoint.",
    "model.attention",
    "compiler_options",
    "model.remat",
    "model.split_residual",
    "model.scan_unroll",
    "data.cache_dir",
    "data.corpus",
    "train.device_batch_tokens",
    "train.log_every",
    "train.max_skipped_in_row",
    "train.heartbeat_seconds",
    "train.watchdog_seconds",
    "train.sample_",
)


class RunFolder:
    """The folder of a run in training, locked against a second process while it is open.

    Of several hosts the first alone holds the lock and writes.
    """

    def __init__(self, path: Path, config: Config) -> None:
        """Open a run's folder, new or to be continued.

        Raises InputError where another process trains in it, where it is no run, or where `config`
        disagrees with the run's own. Nothing in the folder is changed by that.
        """
        self.path = path
        self._made, self._lock = False, None
        hosts.on_first(lambda: self._open(path, config))
        try:
            hosts.together(self._check_shared)
            with told_of_buckets():
                is_new = not (path / "config.json").exists()
            self.is_new = hosts.from_first(is_new)
            """Whether no training in it has begun yet."""
        except BaseException:
            self._close()
            raise

    def _open(self, path: Path, config: Config) -> None:
        with told_of_buckets():
            made = not path.exists()
            require(
                made or path.is_dir(),
                f"--workdir names the folder of a run, and {path} is a file.",
            )
            foreign = path.is_dir() and any(path.iterdir())
            foreign = foreign and not (path / "config.json").exists()
        require(
            not config.init_from or resolved(user_path(config.init_from)) != resolved(path),
            f"a run starts in another folder than the one it is initialised from, and both are "
            f"{path}: name another --workdir.",
        )
        require(
            not foreign or (path / "lock").exists(),
            f"--workdir must name a new folder or a run's, and {path} holds other files.",
        )
        self._made = made
        try:
            make_folder(path)
            self._lock = lock_folder(path)
        except OSError as error:
            raise InputError(
                f"--workdir must name a folder that can be written, and {path} cannot "
                f"({error.strerror}): name another."
            ) from error
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
        if self._lock is None:
            return
        lock = self.path / "lock"
        if self._made and not in_bucket(lock) and [*self.path.iterdir()] == [lock]:
            lock.unlink()
            self.path.rmdir()
        self._lock.close()

    def _check_shared(self) -> None:
        require(
            hosts.is_first() or in_bucket(self.path) or self.path.is_dir(),
            f"the hosts of a run read what the first writes, and {self.path.absolute()} is there "
            "and not here: name a --workdir on a file system that all of them share.",
        )

    def _check(self, config: Config) -> None:
        if not (self.path / "config.json").exists():
            return
        ran = read_config(self.path)
        if config.model.vocab_size == 0:
            model = dataclasses.replace(config.model, vocab_size=ran.model.vocab_size)
            config = dataclasses.replace(config, model=model)
        if config.train.epochs:  # whose tokens are not counted yet
            train = dataclasses.replace(config.train, total_tokens=ran.train.total_tokens)
            config = dataclasses.replace(config, train=train)
        differences = disagreements(ran, config)
        require(
            not differences,
            f"a run continues with the config it began with, and {self.path} disagrees on "
            f"{'; '.join(differences)}. Undo the change, train it anew in another --workdir, or go "
            f"on from its parameters in a new run (gpt-jax train {self.path} --workdir NEW).",
        )

    def write(self, config: Config, tokenizer: Tokenizer) -> None:
        """Keep what the run needs to be read anywhere."""
        if hosts.is_first():
            write_run(self.path, config, tokenizer)

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"


def disagreements(ran: Config, asked: Config) -> list[str]:
    """What a continued run would change against its own config: "field: 4 in the run, 6 asked"."""
    old, new = flatten(ran), flatten(asked)
    return [
        f"{name}: {old[name]!r} in the run, {new[name]!r} asked"
        for name in old
        if old[name] != new[name] and not is_free(name)
    ]


def is_free(name: str) -> bool:
    """Whether a field, such as "model.remat", may change when a run is continued."""
    beginnings = tuple(free for free in FREE_ON_RESUME if free.endswith((".", "_")))
    return name in FREE_ON_RESUME or name.startswith(beginnings)


def write_run(path: Path, config: Config, tokenizer: Tokenizer) -> None:
    """Write what makes a folder a run: its tokenizer, and then its config."""
    make_folder(path / "tokenizer")
    tokenizer.save(path / "tokenizer")
    write_json(path / "config.json", dataclasses.asdict(config))


def new_run_path(name: str) -> Path:
    """A folder under runs/ that does not exist yet: the experiment's name and the time."""
    stem = f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    candidates = (RUNS / (f"{stem}-{n}" if n else stem) for n in range(1000))
    return next(path for path in candidates if not path.exists())


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file that is there whole or not at all."""
    write_whole(path, json.dumps(value, indent=2) + "\n")


def read_config(run: Path) -> Config:
    """The config of a run; raises InputError where `run` is not the folder of one."""
    path = run / "config.json"
    require(
        path.is_file(),
        f"a run is a folder with a config.json, and {run} has none: give the path that "
        "`gpt-jax train` printed.",
    )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} must be the config of a run as JSON: {error}.") from None
    require(
        not isinstance(values, dict) or "model_type" not in values,
        f"{run} is a model in the Hugging Face format, and a run is needed: make one of it with "
        "`gpt-jax convert`.",
    )
    try:
        return from_dict(Config, values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


@told_of_buckets()
def load(run: str | Path, step: int | str | None = None) -> tuple[Config, Any, Tokenizer]:
    """A trained or converted model: `config, params, tokenizer = gpt_jax.load(run)`.

    The parameters are in the dtype that they were saved in (float32 where they were trained), on
    one device, ready for `gpt_jax.GPT(config.model).apply({"params": params}, tokens)`; adapters
    are merged into them. The config's `model.attention` is "auto", as the kernel that the run was
    trained with may not be had here. The run itself is not touched.

    Args:
      run: its folder, here or in a bucket.
      step: whose parameters: a number, "last", "best" (by the run's train.best), or None: the best
        of a run with train.patience, which ends some way after it, and the last of any other.

    Raises InputError where `run` is not a run's folder or has no such checkpoint to read.
    """
    run = user_path(run)
    config = read_config(run)
    params = load_model(run, config, jax.local_devices()[0], step)
    model = dataclasses.replace(config.model, attention="auto")
    return dataclasses.replace(config, model=model), params, load_tokenizer(run / "tokenizer")


def load_model(run: Path, config: Config, device: Any, step: int | str | None = None) -> Any:
    """The parameters of a run, adapters merged, on one device, in the dtype they were saved in."""
    sharding = jax.sharding.SingleDeviceSharding(device)
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        nn.unbox(boxed_params(config.model, config.tune)),
    )
    number = step_to_load(run, config, step)
    params = load_params(run / "checkpoints", abstract, number, any_dtype=True)[1]
    return effective(params, config)


def step_to_load(run: Path, config: Config, step: int | str | None = None) -> int | None:
    """The step that `load` means; None: the newest good one."""
    if step is None:
        return best_step(run / "checkpoints") if config.train.patience else None
    if step == "best":
        best = best_step(run / "checkpoints")
        require(
            best is not None,
            f"the best step is one of those that were validated, and no checkpoint of {run} was: "
            "take the last (--step last).",
        )
        return best
    require(
        step == "last" or str(step).isdecimal(),
        f"a step is a number, best or last, and it is {step!r}.",
    )
    return None if step == "last" else int(step)


def command(arguments: list[str]) -> str:
    """The shell line that runs `gpt-jax` with `arguments`."""
    return shlex.join(["gpt-jax", *arguments])


class StopSignals:
    """Turns the first SIGTERM or Ctrl-C into a request to save and end; a second one is obeyed.

    Of several hosts it is enough that one gets it.
    """

    def __init__(self) -> None:
        self.requested: str | None = None
        """The signal's name, once it came."""
        self._earlier: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        # Among several hosts jax has a handler of SIGTERM, which tells the others.
        alone = jax.process_count() == 1
        for number in (signal.SIGTERM, signal.SIGINT) if alone else (signal.SIGINT,):
            self._earlier[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    def _request(self, number: int, _: FrameType | None) -> None:
        self.requested = signal.Signals(number).name
        signal.signal(number, self._earlier[number])
        if signal.SIGTERM not in self._earlier:
            signal.raise_signal(signal.SIGTERM)

    def asked(self, step: int) -> bool:
        """Whether to save and end after `step`; to be called once in every step.

        All hosts get the same answer at the same step: jax has them agree on one that none of them
        has passed.
        """
        if jax.process_count() == 1:
            return self.requested is not None
        if not multihost_utils.reached_preemption_sync_point(step):
            return False
        self.requested = self.requested or signal.SIGTERM.name
        return True
