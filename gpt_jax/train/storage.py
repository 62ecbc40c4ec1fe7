"""What the folder of a run can do, on a file system and in a bucket.

A run needs five things of the place that it is kept in:

                             file system              bucket
    one writer at a time     flock: the kernel        a lock object, kept alive by rewriting it; one
                             drops it with the        that rests for LEASE_SECONDS is taken over, at
                             process                  once if it was left by this same machine
    a step appears at once   a folder is renamed      Orbax writes commit_success.txt last; without
                                                      it a folder is no step
    a step goes at once      it is renamed first      commit_success.txt is deleted first
    a file appears at once   it is renamed            an object does so by nature
    a log grows              append                   what is new is sent every FLUSH_SECONDS and
                                                      before each save, and is joined to the object
                                                      by the service: traffic is what was written

A process that loses its lock without knowing (it was frozen, or cut off) cannot append any more:
its next append, which precedes every save, is on condition of the object's generation, and ends the
run. Were it frozen in the middle of a save, it may still mix its files with those of its successor:
the digests in the step's record then tell that the step is none.
"""

from __future__ import annotations

import fcntl
import functools
import json
import logging
import os
import re
import shutil
import socket
import tempfile
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from gpt_jax.config import InputError, require
from gpt_jax.paths import copy_folder, in_bucket, told_of_buckets

log = logging.getLogger("gpt_jax")

LEASE_SECONDS = 60.0
"""A lock object that nobody has rewritten for so long is nobody's."""
RENEW_SECONDS = 15.0
FLUSH_SECONDS = 30.0
"""A log in a bucket lags behind by so much. An object may be written about once a second."""
LOOK_SECONDS = 2.0
"""Between two looks at whether a step in a bucket is there yet: each is a request."""
MARKER = "commit_success.txt"
"""What Orbax puts into a step's folder last."""


class Lock(Protocol):
    """Held from when it is made until it is closed."""

    def close(self) -> None: ...


def lock_folder(folder: Path) -> Lock:
    """Make the caller the only one to write to a run's folder.

    Raises InputError where another process is that; OSError where it cannot be written.
    """
    return _Lease(folder / "lock") if in_bucket(folder) else _FileLock(folder / "lock")


def _at_work(folder: Path) -> InputError:
    return InputError(
        "one process at a time may train in a folder, and another one is at work in "
        f"{folder}: wait for it, stop it, or name another --workdir."
    )


class _FileLock:
    """The kernel drops it with the process, however that ends."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise _at_work(path.parent) from None

    def close(self) -> None:
        self._file.close()


class _Lease:
    """An object that its holder rewrites every RENEW_SECONDS, from a thread."""

    def __init__(self, path: Path) -> None:
        self._path, self._closed = path, threading.Event()
        self._mine = json.dumps({"holder": uuid.uuid4().hex, **_this_process()}).encode()
        with told_of_buckets():
            self._object = _Object(path)
            if not self._object.write(self._mine, 0):
                self._take_over()
        self._thread = threading.Thread(target=self._renew, daemon=True, name="lock renewal")
        self._thread.start()

    def _take_over(self) -> None:
        """Become the holder of a lock that was left behind, or raise."""
        content, generation = self._object.read()
        owner = _parsed(content)
        if owner.get("machine") == _this_process()["machine"]:
            alive = _is_running(owner)
        else:
            log.warning(
                "%s is locked by a process of %s: waiting %.0f seconds for a sign of life from it",
                self._path.parent,
                owner.get("machine", ["another machine"])[0],
                LEASE_SECONDS,
            )
            alive, end = False, time.monotonic() + LEASE_SECONDS
            while generation and not alive and time.monotonic() < end:
                time.sleep(LEASE_SECONDS / 20)
                seen, generation = generation, self._object.read()[1]
                alive = generation not in (seen, 0)
        if alive or not self._object.write(self._mine, generation):
            raise _at_work(self._path.parent)

    def _renew(self) -> None:
        while not self._closed.wait(RENEW_SECONDS):
            with suppress(Exception):  # the network may be back next time
                if not self._object.write(self._mine, self._object.generation):
                    log.warning("the lock of %s was taken by another process", self._path.parent)
                    return

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        with suppress(Exception):  # it rests from now on, and is nobody's in a minute
            self._object.delete()


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        owner = json.loads(content)
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _this_process() -> dict[str, Any]:
    boot = Path("/proc/sys/kernel/random/boot_id")
    started = boot.read_text().strip() if boot.exists() else ""
    machine = [socket.gethostname(), uuid.getnode(), started]
    return {"machine": machine, "pid": os.getpid(), "began": _began(os.getpid())}


def _began(pid: int) -> str:
    """When a process began, which tells two of one number apart; empty where Linux is not."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _is_running(owner: dict[str, Any]) -> bool:
    """Whether the process of this machine that took a lock still runs."""
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return _began(owner["pid"]) == owner["began"]


class _Object:
    """An object of a bucket, written on the condition that nobody else has written it."""

    def __init__(self, path: Path) -> None:
        bucket, _, self._name = str(path).removeprefix("gs://").partition("/")
        self._bucket = _client().bucket(bucket)
        self._size = 0
        self.generation = 0
        """The one that was read or written last, by this object; 0: there is none."""

    def read(self) -> tuple[bytes, int]:
        """(content, generation); the generation is 0 where there is no object."""
        while True:
            found = self._bucket.get_blob(self._name)
            if found is None:
                return b"", 0
            with suppress(*_conflicts()):  # it has changed in between
                generation = found.generation
                return found.download_as_bytes(if_generation_match=generation), generation

    def write(self, content: bytes, generation: int | None) -> bool:
        """Replace this generation, or any if None; False, with nothing done, if it has gone.

        A write that was carried out, and whose answer was lost on the way, is True too.
        """
        blob = self._bucket.blob(self._name)
        try:
            blob.upload_from_string(content, if_generation_match=generation)
        except _conflicts()[:1]:
            found, now = self.read()
            if found != content:
                return False
            self.generation, self._size = now, len(content)
            return True
        self.generation, self._size = blob.generation, len(content)
        return True

    def append(self, content: bytes) -> bool:
        """Add to what was written last, on the same conditions as `write`.

        Sends `content` alone: the service joins it to the object.
        """
        if not self._size:  # there may be no object, and an empty one has nothing to be joined to
            return self.write(content, self.generation)
        whole = self._bucket.blob(self._name)
        part = self._bucket.blob(f"{self._name.rpartition('/')[0]}/{PART}{uuid.uuid4().hex}")
        part.upload_from_string(content)
        try:
            whole.compose([whole, part], if_generation_match=self.generation)
        except _conflicts():
            found = self._bucket.get_blob(self._name)
            size = self._size + len(content)
            if found is None or found.size != size:
                return False
            if found.download_as_bytes(start=self._size) != content:
                return False
            whole = found
        finally:
            with suppress(Exception):
                part.delete()
        self.generation, self._size = whole.generation, self._size + len(content)
        return True

    def delete(self) -> None:
        """Delete what was written last, unless it has been replaced."""
        with suppress(*_conflicts()):
            self._bucket.blob(self._name).delete(if_generation_match=self.generation)


@functools.cache
def _client() -> Any:
    from google.cloud import storage  # comes with gcsfs

    # Of a project it needs the name only to make or list buckets; "_" is Google's for any.
    return storage.Client(project="_")


def _conflicts() -> tuple[type[Exception], ...]:
    """What is raised where an object has been replaced, and where it, or its bucket, is gone."""
    from google.api_core import exceptions

    return exceptions.PreconditionFailed, exceptions.NotFound


PART = ".part-"
"""Begins the names of objects that are about to be joined to another."""


class Log(Protocol):
    """A file that grows."""

    def write(self, content: bytes) -> None:
        """Add to it, now or a little later."""

    def flush(self) -> None:
        """Return once all of it is in its place."""

    def close(self) -> None: ...


def open_log(path: Path, content: bytes) -> Log:
    """A file that begins as `content`, whatever was there before, and grows from there."""
    return _BucketLog(path, content) if in_bucket(path) else _FileLog(path, content)


class _FileLog:
    def __init__(self, path: Path, content: bytes) -> None:
        partial = path.with_name(path.name + ".partial")
        partial.write_bytes(content)
        partial.replace(path)
        self._file = path.open("ab")

    def write(self, content: bytes) -> None:
        self._file.write(content)
        self._file.flush()

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self._file.close()


class _BucketLog:
    def __init__(self, path: Path, content: bytes) -> None:
        self._path, self._waiting, self._flushed = path, b"", time.monotonic()
        with told_of_buckets():
            for left in path.parent.glob(f"{PART}*"):  # by a process that was killed
                left.unlink()
            self._object = _Object(path)
            # From here on, a process that held the run before this one can append no more.
            self._object.write(content, None)

    def write(self, content: bytes) -> None:
        self._waiting += content
        if time.monotonic() - self._flushed >= FLUSH_SECONDS:
            try:
                self.flush()
            except InputError:
                raise
            except Exception as error:
                # It is tried again, and before a checkpoint it must work.
                log.warning("%s cannot be written now: %s", self._path, error)

    def flush(self) -> None:
        self._flushed = time.monotonic()
        if self._waiting:
            require(
                self._object.append(self._waiting),
                f"one process at a time may train in a folder, and another one has written to "
                f"{self._path} since this one did: it has taken the run over, and this one ends.",
            )
            self._waiting = b""

    def close(self) -> None:
        with told_of_buckets():
            self.flush()


class EventsFolder:
    """A folder of this machine for a library to append one file in, which grows in `folder` too."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._temporary = folder, None
        self.local = folder
        if in_bucket(folder):
            self._temporary = tempfile.TemporaryDirectory(prefix="gpt_jax-events-")
            self.local = Path(self._temporary.name)
            self._log: Log | None = None
            self._sent = 0
        else:
            folder.mkdir(exist_ok=True)

    def send(self) -> None:
        """Take over what the library has flushed since the last time."""
        if self._temporary is None:
            return
        for path in self.local.iterdir():
            if self._log is None:
                self._log = open_log(self._folder / path.name, b"")
            with path.open("rb") as file:
                file.seek(self._sent)
                new = file.read()
            self._sent += len(new)
            self._log.write(new)

    def flush(self) -> None:
        if self._temporary is not None and self._log is not None:
            self._log.flush()

    def close(self) -> None:
        self.send()
        if self._temporary is not None:
            if self._log is not None:
                self._log.close()
            self._temporary.cleanup()


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all."""
    if in_bucket(path):
        path.write_text(text)
        return
    partial = path.with_name(path.name + ".partial")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


class Steps:
    """The steps of a run, each a folder that appears and goes at once: on a file system."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def found(self) -> list[int]:
        """Steps that are there, ascending; that says nothing yet of what is in them."""
        return _numbered(self._folder) if self._folder.is_dir() else []

    def is_there(self, step: int) -> bool:
        return (self._folder / str(step)).exists()

    def clear_partial(self) -> None:
        """Remove what is no step any more, or not yet; only while no save is under way."""
        for pattern in ("*.orbax-checkpoint-tmp*", "*.deleted"):
            for path in self._folder.glob(pattern):
                shutil.rmtree(path, ignore_errors=True)

    def delete(self, step: int) -> None:
        # Renamed first: killed half-way through the deletion, it is no longer a step.
        doomed = self._folder / f"{step}.deleted"
        (self._folder / str(step)).rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def move_aside(self, step: int) -> None:
        """Move a step to `damaged/`, beside others of its number."""
        home = self._folder / "damaged"
        home.mkdir(exist_ok=True)
        (self._folder / str(step)).rename(home / _free_name(home, step))


class _BucketSteps(Steps):
    """In a bucket, where a step is what has the MARKER."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._looked = 0.0

    def found(self) -> list[int]:
        with told_of_buckets():
            return [step for step in super().found() if self._is_marked(step)]

    def is_there(self, step: int) -> bool:
        """May be wrong for LOOK_SECONDS after the step has appeared."""
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return False
        self._looked = time.monotonic()
        return self._is_marked(step)

    def _is_marked(self, step: int) -> bool:
        return (self._folder / str(step) / MARKER).exists()

    def clear_partial(self) -> None:
        if self._folder.is_dir():
            for step in _numbered(self._folder):
                if not self._is_marked(step):
                    _remove(self._folder / str(step))

    def delete(self, step: int) -> None:
        (self._folder / str(step) / MARKER).unlink()
        _remove(self._folder / str(step))

    def move_aside(self, step: int) -> None:
        """Copied first: killed half-way, it is still a step, and is found to be damaged again."""
        home = self._folder / "damaged"
        copy_folder(self._folder / str(step), home / _free_name(home, step))
        self.delete(step)


def steps_of(folder: Path) -> Steps:
    """The steps of a run's folder `checkpoints/`, which need not be there."""
    return _BucketSteps(folder) if in_bucket(folder) else Steps(folder)


def _numbered(folder: Path) -> list[int]:
    names = (path.name for path in folder.iterdir())
    return sorted(int(name) for name in names if re.fullmatch(r"0|[1-9]\d*", name))


def _free_name(home: Path, step: int) -> str:
    names = [path.name for path in home.iterdir()] if home.is_dir() else []
    taken = sum(1 for name in names if name.split("-")[0] == str(step))
    return f"{step}-{taken}" if taken else str(step)


def _remove(folder: Path) -> None:
    """Delete a folder of a bucket; what is left of it, if that fails, goes the next time."""
    bucket_folder: Any = folder
    with suppress(OSError):
        bucket_folder.rmtree(missing_ok=True)
