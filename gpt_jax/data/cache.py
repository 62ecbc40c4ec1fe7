"""Entries of the cache of token shards: folders that are there whole or not at all.

On this machine an entry is filled beside its place and takes its name by one rename. A bucket has
no such rename: there an entry is a folder with `complete.json` in it, which is written last and
holds the size and SHA-256 of every file. Shards are mapped into memory, which only files of this
machine can be, so that an entry of a bucket is copied to the local cache before it is used, by each
host for itself, and checked on its way. Two that build the same entry at once write the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from gpt_jax.config import DataConfig, InputError, require
from gpt_jax.paths import in_bucket, make_folder, told_of_buckets, user_path

PARTIAL = ".partial-"
ABANDONED_SECONDS = 24 * 3600
"""A build this old was killed: its folder is removed by the next one."""
VERIFIED = "verified.json"
"""What was found intact on this machine (`TokenShards.verify`), and is no part of an entry."""
COMPLETE = "complete.json"
CHUNK = 1 << 22
COPIES = 8
"""Files copied at a time: one stream from a bucket is slower than the network."""


def entry(cache_dir: str, key: str, fill: Callable[[Path], None]) -> Path:
    """The folder of a cache entry on this machine; `fill` makes its content where it is nowhere.

    Raises InputError where the cache cannot be written, or what a bucket holds is damaged.
    """
    home = user_path(cache_dir)
    local = _local(home) / key
    if not local.exists():
        with new_folder(local) as partial:
            if not (in_bucket(home) and _download(home / key, partial)):
                fill(partial)
    return local


def copy(cache_dir: str, key: str, there: Path) -> Path:
    """The folder `there` of a bucket, which `share` wrote, copied to this machine as `key`.

    Raises InputError where it is not whole or is damaged, or the cache cannot be written.
    """
    local = _local(user_path(cache_dir)) / key
    if not local.exists():
        with new_folder(local) as partial:
            require(
                _download(there, partial),
                f"a folder of a bucket is whole when it holds {COMPLETE}, and {there} does not: "
                "run again what writes it.",
            )
    return local


def _local(home: Path) -> Path:
    """Where entries are on this machine."""
    return user_path(DataConfig().cache_dir) if in_bucket(home) else home


def share(cache_dir: str, local: Path) -> None:
    """Give a bucket the entry in the folder `local`, which is intact, if it is not there yet."""
    home = user_path(cache_dir)
    if not in_bucket(home):
        return
    there = home / local.name
    with told_of_buckets():
        if (there / COMPLETE).exists():
            return
        own = (path for path in sorted(local.rglob("*")) if not path.name.startswith(VERIFIED))
        files = [path for path in own if path.is_file()]

        def upload(path: Path) -> list[int | str]:
            name = path.relative_to(local).as_posix()
            with path.open("rb") as source, (there / name).open("wb") as target:
                return _copy(source, target)

        with ThreadPoolExecutor(COPIES) as pool:
            digests = list(pool.map(upload, files))
        names = [path.relative_to(local).as_posix() for path in files]
        (there / COMPLETE).write_text(json.dumps(dict(zip(names, digests, strict=True)), indent=1))


def remember(cache_dir: str, name: str, value: dict[str, Any]) -> None:
    """Keep a small thing that took long to find out, beside the entries."""
    home = user_path(cache_dir)
    make_folder(home)
    body = json.dumps(value)
    sealed = json.dumps({"sha256": hashlib.sha256(body.encode()).hexdigest(), "body": body})
    if in_bucket(home):
        (home / name).write_text(sealed)
        return
    with tempfile.NamedTemporaryFile("w", dir=home, prefix=PARTIAL, delete=False) as file:
        file.write(sealed)
    os.replace(file.name, home / name)


def recall(cache_dir: str, name: str) -> dict[str, Any] | None:
    """What was remembered; None where it was not, or is damaged."""
    try:
        sealed = json.loads((user_path(cache_dir) / name).read_text())
        intact = hashlib.sha256(sealed["body"].encode()).hexdigest() == sealed["sha256"]
        return json.loads(sealed["body"]) if intact else None
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _download(there: Path, folder: Path) -> bool:
    """Fill `folder` from an entry of a bucket; False where that is not there."""
    with told_of_buckets():
        try:
            files = json.loads((there / COMPLETE).read_text())
        except FileNotFoundError:
            return False

        def fetch(name: str) -> list[int | str]:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                with (there / name).open("rb") as source, (folder / name).open("wb") as target:
                    return _copy(source, target)
            except FileNotFoundError:
                return [0, "missing"]

        with ThreadPoolExecutor(COPIES) as pool:
            found = dict(zip(files, pool.map(fetch, files), strict=True))
    changed = [name for name in files if found[name] != files[name]]
    require(
        not changed,
        f"token shards must be those that were written, and in {there} these are not: "
        f"{', '.join(changed)}. Delete the folder (gcloud storage rm -r {there}) to have it made "
        "again.",
    )
    return True


def _copy(source: IO[bytes], target: IO[bytes]) -> list[int | str]:
    """Copy a file; returns its size and SHA-256."""
    size, digest = 0, hashlib.sha256()
    while chunk := source.read(CHUNK):
        target.write(chunk)
        digest.update(chunk)
        size += len(chunk)
    return [size, digest.hexdigest()]


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to fill; it takes that name if the body ends well."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder.parent)
        partial = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=folder.parent))
        try:
            yield partial
            partial.chmod(0o755)
            sync_tree(partial)
            try:
                partial.rename(folder)
            except OSError:
                if not folder.exists():  # else another process was first, with the same content
                    raise
            _sync(folder.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"{folder.name} is kept in {folder.parent}, which cannot be written ({error}): free "
            "some space, or name another folder (--data.cache-dir for token shards)."
        ) from error


def _remove_abandoned(parent: Path) -> None:
    for path in parent.glob(f"{PARTIAL}*"):
        with contextlib.suppress(OSError):  # another process may be removing it
            if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


def sync_tree(folder: Path) -> None:
    """Have a folder with all that it holds on the disk before what follows."""
    for path in (*folder.rglob("*"), folder):
        _sync(path)


def _sync(path: Path) -> None:
    """Have a file's content, or a folder's entries, on the disk before what follows."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
