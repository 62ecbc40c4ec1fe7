"""A user's path: a place on this machine, or gs://BUCKET/... in Google Cloud Storage.

Code that takes paths is written once, with the methods that `pathlib.Path` and `etils.epath.Path`
share. What a bucket cannot do is dealt with in two places, `data/cache.py` and `train/storage.py`,
and follows from what it is: a table from names to objects. A folder is a common beginning of names:
it needs no making, is not there while it is empty, and cannot be renamed. An object is written
whole, is seen whole or not at all, and can neither be appended to nor mapped into memory. There are
no locks, but an object can be written on the condition that it is still of a certain generation.
"""

from __future__ import annotations

import glob
import importlib.util
import logging
import os
import re
import resource
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, cast

from gpt_jax.config import InputError, require

SCHEME = "gs://"
OPEN_FILES = 1 << 16
VERSION = ("generation", "size", "crc32c")
"""What Cloud Storage tells of an object that would be another if its content were."""


class Stored(NamedTuple):
    """What is known of a file without reading it."""

    size: int
    """Bytes."""
    version: str
    """In a bucket of this content and no other; on this machine what no ordinary change of the
    content leaves as it is: size, times of change, inode."""


def user_path(text: str | os.PathLike[str]) -> Path:
    """The path that a user wrote: `~` is their home, and gs:// a bucket.

    A path of a bucket is an `etils.epath.Path`, given the type of what it stands in for. Raises
    InputError where the name of its bucket is none, or what reads buckets is not installed.
    """
    name = os.fspath(text)
    if not re.match("gs:/", name):
        return Path(name).expanduser()
    name = SCHEME + name.removeprefix("gs:").strip("/")  # pathlib makes one slash of two
    require(
        re.match(r"gs://[a-z0-9][\w.-]+[a-z0-9](/|$)", name) is not None,
        f"a path in a bucket is gs://BUCKET/NAME, and {os.fspath(text)!r} is not.",
    )
    require(
        importlib.util.find_spec("gcsfs") is not None,
        f"{name} is in a bucket, and reading those needs gcsfs, which is not installed: pip "
        "install 'gpt_jax[gcs]', or -e '.[gcs]' in a clone.",
    )
    # One way to buckets, tested here, whether TensorFlow is installed or not.
    os.environ.setdefault("EPATH_USE_TF", "false")
    import fsspec.config
    from etils import epath

    # It logs each failure with a page of traceback; what matters is raised.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    # Otherwise what it once listed is believed for ever, and others write there too.
    fsspec.config.conf.setdefault("gcs", {})["use_listings_cache"] = False
    return cast(Path, epath.Path(name))


def in_bucket(path: Path | str) -> bool:
    """Whether a path is of a bucket."""
    return os.fspath(path).startswith(SCHEME)


def resolved(path: Path) -> Path:
    """The path in full; links are followed on this machine, and there are none in a bucket."""
    return path if in_bucket(path) else path.resolve()


def absolute(path: Path) -> Path:
    """The path from the root on."""
    return path if in_bucket(path) else path.absolute()


def open_many_files() -> None:
    """Let this process have OPEN_FILES open, or as many as the system allows.

    A file that is mapped into memory counts as open, and a large corpus is thousands of shards,
    where systems begin with 256 (macOS) or 1,024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(ValueError, OSError):  # a system may allow less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def make_folder(path: Path) -> None:
    """Have a folder there, and those above it; a bucket's needs no making."""
    if not in_bucket(path):
        path.mkdir(parents=True, exist_ok=True)


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder of a bucket to a new one, within Cloud Storage."""
    _file_system().copy(str(source), str(target), recursive=True)


def find(pattern: str) -> tuple[Path, dict[Path, Stored]]:
    """(root, the files that a glob matches or that it names); `**` is any number of folders.

    The root is the folders of the glob before its first wildcard. As in `glob.glob`, a wildcard
    matches no dot at the beginning of a name.
    """
    path, text = user_path(pattern), os.path.expanduser(pattern)
    if in_bucket(path):
        return _find_in_bucket(path, text)
    if os.path.exists(path) or not glob.has_magic(text):
        return path.parent, _stored([path])
    return _fixed_part(path), _stored(map(Path, glob.glob(text, recursive=True)))


def _stored(paths: Iterable[Path]) -> dict[Path, Stored]:
    """Those of `paths` that are files."""
    found = {}
    for path in paths:
        if os.path.isfile(path):
            at = path.stat()
            version = f"{at.st_size} {at.st_mtime_ns} {at.st_ctime_ns} {at.st_ino}"
            found[path] = Stored(at.st_size, version)
    return found


def _find_in_bucket(path: Path, text: str) -> tuple[Path, dict[Path, Stored]]:
    """`find`, with one listing; epath's own glob refuses `**`."""
    wild, root = glob.has_magic(text), path.parent
    try:
        hits = _file_system().glob(text, detail=True) if wild else {text: _file_system().info(text)}
    except FileNotFoundError:
        hits = {}
    found = {
        user_path(SCHEME + info["name"]): Stored(
            info["size"], " ".join(str(info.get(key)) for key in VERSION)
        )
        for info in hits.values()
        if info["type"] == "file"
    }
    if wild:
        root = _fixed_part(path)
    if wild and "/." not in text[len(str(root)) :]:
        # fsspec's wildcards match dots as any other character.
        dotted = re.compile(r"/\.")
        found = {at: v for at, v in found.items() if not dotted.search(str(at)[len(str(root)) :])}
    return root, found


def _fixed_part(path: Path) -> Path:
    """The folders of a glob before its first wildcard."""
    wild = next(i for i, part in enumerate(path.parts) if glob.has_magic(part))
    return type(path)(*path.parts[:wild])


def _file_system() -> Any:
    import fsspec

    # The one that epath uses: fsspec keeps one for each set of arguments.
    return fsspec.filesystem("gcs", finalize_on_close=True)


@contextmanager
def told_of_buckets() -> Iterator[None]:
    """Turn what the libraries raise where a bucket cannot be used into InputError."""
    try:
        yield
    except Exception as error:
        reason = bucket_fault(error)
        if reason is None:
            raise
        raise InputError(
            f"a bucket must be there and open to you, and Cloud Storage answers: {reason}. Check "
            "its name, and who you are to it (gcloud auth application-default login, or the "
            "service account of this machine and its access scopes). What was whole still is."
        ) from error


def bucket_fault(error: BaseException) -> str | None:
    """What Cloud Storage or the way to it has to say, in one line; None for any other error."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    modules = {frame.f_globals.get("__name__", "").partition(".")[0] for frame in frames}
    if isinstance(error, OSError) and error.errno is None and "gcsfs" in modules:
        return f"{type(error).__name__}, {error}"
    kinds = type(error).__mro__
    homes = ("gcsfs.", "google.api_core.", "google.auth.", "aiohttp.", "requests.")
    if not any(f"{kind.__module__}.".startswith(homes) for kind in kinds):
        return None
    text = str(error)
    said, bucket = re.search(r'"message": "([^"]*)"', text), re.search(r"/b/([^/?]+)", text)
    if not said:
        return (text.splitlines() or [type(error).__name__])[0][:300]
    where = f"gs://{bucket[1]}: " if bucket else ""
    return f"{where}{getattr(error, 'code', '')} {said[1]}".rstrip(" .")
