"""Checkpoints that are whole or are not checkpoints.

A step is one folder, `<folder>/<step>`, with three Orbax items: `params`, `rest` (the remaining
train state) and `record`, a JSON text under its own SHA-256 that holds the caller's `meta`, the
step's rank, and shape, dtype and digest of every array. What decides whether a folder is a
checkpoint is that record: it must be intact, name this step, and agree with the arrays read back.

This stands on `orbax.checkpoint.AsyncCheckpointer` and not on its `CheckpointManager`. When a save
fails in the background the manager says that it worked, names the step as its latest and reports
no error; it also lists empty and half-deleted folders as steps. The layer below raises the error,
and publishes a step by renaming a finished folder or, in a bucket, by a last file. The manager's
remaining part, retention, is one function here. What the folder itself does, on a file system that
renames atomically and in a bucket, is in `storage.py`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax import traverse_util

from gpt_jax.config import InputError, require
from gpt_jax.parallel import hosts
from gpt_jax.paths import absolute, make_folder, told_of_buckets
from gpt_jax.train.digest import named_leaves, tree_digest
from gpt_jax.train.storage import steps_of

log = logging.getLogger("gpt_jax")
# Orbax logs every failure several times over, with tracebacks; what matters is raised below.
logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
_earlier_hook = sys.unraisablehook


def _unraisable_hook(unraisable: Any) -> None:
    """Keep quiet about the reads and writes that Orbax leaves behind when one of them has failed.

    It closes its event loop under them, and each then prints a page of traceback, some of them
    later: they would bury our one line that says what is damaged or not saved, and why.
    """
    code = getattr(unraisable.object, "cr_code", None)
    in_orbax = code is not None and "orbax" in code.co_filename
    if not in_orbax and str(unraisable.exc_value) != "Event loop is closed":
        _earlier_hook(unraisable)


sys.unraisablehook = _unraisable_hook


class CheckpointError(InputError):
    """A step could not be saved. The last good checkpoint is as it was; later saves may succeed."""


class _DamagedError(Exception):
    """Why a folder that is named like a checkpoint is none."""


class Checkpointer:
    """Writes and restores the checkpoints of one run; a context manager that waits at its end.

    Opening it removes what a killed process left half written or half deleted.

    Args:
      folder: made if missing; one run writes to it, of all whose hosts it must be the same.
      keep_last: as many newest steps are kept.
      keep_best: besides them, as many steps of lowest rank.
    """

    def __init__(self, folder: Path, keep_last: int, keep_best: int) -> None:
        self._folder = absolute(folder)
        self._steps = steps_of(self._folder)
        self._keep_last, self._keep_best = keep_last, keep_best
        self._saving: int | None = None
        self._ranks: dict[int, float | None] = {}
        hosts.on_first(self._open)
        self._orbax = _writer()
        self.last_committed: int | None = None
        """The newest step known to be good: restored, or saved to the end, by this object."""

    def _open(self) -> None:
        make_folder(self._folder)
        with told_of_buckets():
            self._clear_partial()
        for step in self._steps.found():
            with suppress(_DamagedError):
                self._ranks[step] = _rank(self._folder / str(step))

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        try:
            self.close()
        except CheckpointError as failure:
            if error is None:
                raise
            log.warning("%s", failure)  # it must not hide what ended the run

    def close(self) -> None:
        """Wait for the save under way, and raise `CheckpointError` if it fails."""
        try:
            self._settle(wait=True)
        finally:
            self._orbax.close()

    def poll(self) -> None:
        """Raise `CheckpointError` if the save under way has failed; do not wait for it."""
        self._settle(wait=False)

    def save(
        self, step: int, params: Any, rest: Any, meta: dict[str, Any], rank: float | None = None
    ) -> None:
        """Save a step in the background; a step that is saved already is left as it is.

        Returns when the arrays are on the host: they may then be donated. Waits first for the
        save before it, if that is still under way.

        Args:
          params, rest: trees of jax arrays, of any sharding.
          meta: what JSON can hold; given back by `restore`.
          rank: of the step, for `keep_best`: the least is the best. None or not finite: it has
            none.

        Raises:
          CheckpointError: this save, or the one before it, could not be written. The earlier
            failure is raised before anything of this step is written.
        """
        self._settle(wait=True)
        path = self._folder / str(step)
        # Another host may see a change of the folder later than the first.
        if hosts.from_first(step in self._steps.found()):
            return
        self._clear_partial()
        state = {"params": params, "rest": rest}
        record = {"step": step, "rank": rank, "meta": meta}
        record |= {"layout": _layout(state), "digests": tree_digest(state)}
        body = json.dumps(record)
        items = {name: ocp.args.StandardSave(tree) for name, tree in state.items()}
        sealed = {"sha256": hashlib.sha256(body.encode()).hexdigest(), "body": body}
        try:
            self._orbax.save(
                path, args=ocp.args.Composite(**items, record=ocp.args.JsonSave(sealed))
            )
        except (OSError, ValueError) as error:
            raise self._failure(step, error) from error
        self._saving, self._ranks[step] = step, rank

    def restore(
        self, abstract_params: Any, abstract_rest: Any
    ) -> tuple[int, Any, Any, dict[str, Any]] | None:
        """The newest good checkpoint as (step, params, rest, meta); None if there is none at all.

        A damaged one is passed over with a warning on the logger "gpt_jax", and moved to
        `damaged/` so that the run can save that step again. Nothing is moved unless a good one is
        found.

        Args:
          abstract_params, abstract_rest: trees of `jax.ShapeDtypeStruct` with the shardings wanted,
            of any mesh.

        Raises:
          InputError: every checkpoint is damaged, or the newest intact one has other arrays, shapes
            or dtypes than asked for.
        """
        abstract = {"params": abstract_params, "rest": abstract_rest}
        good, damaged = _newest_good(self._folder, self._steps.found(), abstract)
        if good is None:
            return None
        record, state = good
        hosts.on_first(lambda: [self._move_aside(step) for step in damaged])
        self.last_committed = record["step"]
        return record["step"], state["params"], state["rest"], record["meta"]

    def _settle(self, wait: bool) -> None:
        """Learn what became of the save under way."""
        step = self._saving
        if step is None:
            return
        try:
            self._orbax.check_for_errors()
            if not wait and not self._steps.is_there(step):
                return
            self._orbax.wait_until_finished()
        except Exception as error:  # whatever a background thread may raise
            raise self._failure(step, error) from error
        self._saving, self.last_committed = None, step
        if hosts.is_first():
            self._retire()

    def _failure(self, step: int, error: Exception) -> CheckpointError:
        """Give up on a save: join its threads, free its disk space, and word the error."""
        with suppress(Exception):
            self._orbax.wait_until_finished()
        # Errors of one save surface from Orbax more than once; the next save must not meet them.
        self._orbax = _writer()
        self._saving = None
        self._clear_partial()
        last = "there is no good checkpoint known before it"
        if self.last_committed is not None:
            last = f"the last good checkpoint is step {self.last_committed}"
        return CheckpointError(
            f"could not save step {step} in {self._folder}: {_reason(error)}; {last}. Make room "
            "or mend the folder; the same command then continues from there."
        )

    def _retire(self) -> None:
        """Delete the steps that neither `keep_last` nor `keep_best` holds."""
        # A step without an intact record is none, and takes no good one's place.
        steps = [step for step in self._steps.found() if step in self._ranks]
        ranked = _by_rank({step: self._ranks.get(step) for step in steps})
        kept = {*steps[-self._keep_last :], *ranked[: self._keep_best]}
        for step in set(steps) - kept:
            self._steps.delete(step)

    def _clear_partial(self) -> None:
        """Remove what is no step any more, or not yet; only while no save is under way."""
        if hosts.is_first():
            self._steps.clear_partial()

    def _move_aside(self, step: int) -> None:
        self._steps.move_aside(step)
        self._ranks.pop(step, None)


def _writer() -> ocp.AsyncCheckpointer:
    # Folders made in the background, the default, leave threads behind when that fails: the
    # process could not end for the 20 minutes that they wait.
    options = ocp.options.AsyncOptions(create_directories_asynchronously=False)
    return ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler(), async_options=options)


def _by_rank(ranks: dict[int, float | None]) -> list[int]:
    """The steps that have a rank, the best first; of equal ones the earliest."""
    found = sorted((rank, step) for step, rank in ranks.items() if rank is not None)
    return [step for rank, step in found if math.isfinite(rank)]


def _rank(path: Path) -> float | None:
    record = _read_record(path)
    return record["rank"] if "rank" in record else record["val_loss"]  # of older checkpoints


def best_step(folder: Path) -> int | None:
    """The step of lowest rank in a folder of checkpoints; None where none has a rank."""
    ranks = {}
    for step in steps_of(folder := absolute(folder)).found():
        with suppress(_DamagedError):
            ranks[step] = _rank(folder / str(step))
    return next(iter(_by_rank(ranks)), None)


def load_params(
    folder: Path, abstract_params: Any = None, step: int | None = None, any_dtype: bool = False
) -> tuple[int, Any, dict[str, Any]]:
    """Parameters alone, as (step, params, meta), of one step or of the newest good one.

    Reads only: nothing in `folder` is made, moved or removed, so that it may belong to a run under
    way or to somebody else.

    Args:
      abstract_params: as in `Checkpointer.restore`. None: nested dicts as they were saved, on one
        device.
      any_dtype: take the dtypes that were saved, and not those of `abstract_params`.

    Raises:
      InputError: there is no such checkpoint, it is damaged, or it holds other parameters.
    """
    steps = steps_of(folder := absolute(folder)).found()
    require(bool(steps), f"there is no checkpoint in {folder}: give the folder of a run's steps.")
    require(
        step is None or step in steps,
        f"there is no checkpoint of step {step} in {folder}: there are {_listed(steps)}.",
    )
    wanted = steps if step is None else [step]
    abstract = {"params": abstract_params}
    good, _ = _newest_good(folder, wanted, abstract, any_dtype)
    assert good is not None  # as `wanted` is not empty
    record, state = good
    return record["step"], state["params"], record["meta"]


def _newest_good(
    folder: Path, steps: list[int], abstract: dict[str, Any], any_dtype: bool = False
) -> tuple[tuple[dict[str, Any], dict[str, Any]] | None, list[int]]:
    """((record, state) of the newest good step, the damaged steps newer than it)."""
    if _spread(abstract):
        steps = hosts.from_first(steps)
    damaged = []
    for step in reversed(steps):
        path = folder / str(step)
        try:
            return _read(path, abstract, any_dtype), damaged
        except _DamagedError as error:
            log.warning("checkpoint %s is damaged and passed over: %s", path, error)
            damaged.append(step)
    require(
        not damaged,
        f"no checkpoint in {folder} can be used, all are damaged: {_listed(steps)}. Nothing was "
        "changed: bring back a copy of one, or start a new run in another folder.",
    )
    return None, damaged


def _spread(tree: Any) -> bool:
    """Whether the arrays are those of several hosts, which then read them together."""
    return not all(leaf.sharding.is_fully_addressable for leaf in jax.tree.leaves(tree))


def _read(
    path: Path, abstract: dict[str, Any], any_dtype: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The record and the arrays asked for, or `_DamagedError`; `InputError` if they do not fit."""

    def read() -> tuple[dict[str, Any], dict[str, Any]]:
        record = _read_record(path)
        wanted = {
            name: _abstract_dicts(record["layout"], name) if tree is None else tree
            for name, tree in abstract.items()
        }
        if any_dtype:
            wanted = _as_saved(record["layout"], wanted)
        _check_fit(path, record["layout"], wanted)
        items = {name: ocp.args.StandardRestore(tree) for name, tree in wanted.items()}
        return record, _restore_items(path, items)

    # A step that one host cannot read is damaged for all of them.
    record, state = hosts.together(read, _DamagedError) if _spread(abstract) else read()
    digests = tree_digest(state)
    changed = [name for name, digest in digests.items() if record["digests"][name] != digest]
    if changed:
        raise _DamagedError(f"the values of {_listed(changed)} are not those that were saved")
    return record, state


def _read_record(path: Path) -> dict[str, Any]:
    sealed = _restore_items(path, {"record": ocp.args.JsonRestore()})["record"]
    try:
        body = sealed["body"]
        intact = hashlib.sha256(body.encode()).hexdigest() == sealed["sha256"]
    except (KeyError, TypeError, AttributeError) as error:
        raise _DamagedError("its record cannot be read") from error
    if not intact:
        raise _DamagedError("its record is not what was saved")
    record = json.loads(body)
    if record["step"] != int(path.name):
        raise _DamagedError(f"it is a copy of step {record['step']}")
    return record


def _restore_items(path: Path, items: dict[str, Any]) -> dict[str, Any]:
    """Read Orbax items; whatever is wrong with the files is a `_DamagedError`."""
    # Each host for itself: whether it waits for the others is the caller's affair.
    own = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=own, active_processes={own})
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone)
    )
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as orbax:
        try:
            found = orbax.restore(path, args=ocp.args.Composite(**items))
        except Exception as error:  # Orbax raises bare Exception around what TensorStore says
            cause = error.__cause__ or error
            if isinstance(cause, MemoryError | jax.errors.JaxRuntimeError):
                raise  # too little memory is no fault of the files
            raise _DamagedError(f"{_listed(items)} cannot be read: {_reason(cause)}") from error
    return {name: found[name] for name in items}


def _layout(tree: Any) -> dict[str, list[Any]]:
    """Path -> [dtype, shape], for arrays and abstract ones alike."""
    return {path: [str(x.dtype), list(x.shape)] for path, x in named_leaves(tree).items()}


def _check_fit(path: Path, saved: dict[str, list[Any]], abstract: dict[str, Any]) -> None:
    """Compare what is asked for with what was saved: Orbax itself casts without a word."""
    asked = _layout(abstract)
    saved = {name: kind for name, kind in saved.items() if name.split("/")[0] in abstract}
    differences = [
        f"{name} is {_kind(saved.get(name))} in the checkpoint and {_kind(asked.get(name))} here"
        for name in sorted(saved | asked)
        if saved.get(name) != asked.get(name)
    ]
    require(
        not differences,
        f"checkpoint {path} is of another model or optimizer: {_listed(differences)}. Use the "
        "config that the run was started with.",
    )


def _kind(layout: list[Any] | None) -> str:
    return f"{layout[0]}{layout[1]}" if layout else "missing"


def _abstract_dicts(layout: dict[str, list[Any]], item: str) -> dict[str, Any]:
    """The abstract tree of an item that was saved as nested dicts, on this process's first device.

    Without shardings Orbax insists on the devices that it was saved on.
    """
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    flat = {
        name.removeprefix(f"{item}/"): jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
        for name, (dtype, shape) in layout.items()
        if name.startswith(f"{item}/")
    }
    return traverse_util.unflatten_dict(flat, sep="/")


def _as_saved(layout: dict[str, list[Any]], abstract: dict[str, Any]) -> dict[str, Any]:
    """`abstract` with the dtypes that were saved."""

    def leaf(path: Any, x: Any) -> Any:
        kind = layout.get(jax.tree_util.keystr(path, simple=True, separator="/"))
        return jax.ShapeDtypeStruct(x.shape, kind[0] if kind else x.dtype, sharding=x.sharding)

    return jax.tree_util.tree_map_with_path(leaf, abstract)


def _reason(error: BaseException) -> str:
    """What the operating system said, without TensorStore's account of itself; one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    code = re.search(r"os_error_code='(\d+)'", str(error))
    lines = str(error).splitlines() or [repr(error)]
    return os.strerror(int(code[1])) if code else lines[0][:300]


def _listed(names: Iterable[Any], most: int = 3) -> str:
    """Up to `most` names, and how many more there are."""
    names = [str(name) for name in names]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
