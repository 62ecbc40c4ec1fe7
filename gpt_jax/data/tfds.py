"""Datasets of TensorFlow Datasets (TFDS), read without TensorFlow.

    tfds:NAME[/CONFIG][:VERSION][?split=SPLIT&data_dir=DIR]

SPLIT is in the language of TFDS, "train[:10%]" or "train+test", and train where it is not given;
VERSION is the newest there is, and may be "1.*.*"; DIR is a folder or gs://, and as in TFDS
$TFDS_DATA_DIR or ~/tensorflow_datasets. A dataset lies in DIR/NAME/CONFIG/VERSION as it was
prepared: its features, its splits, and shards in ArrayRecord, TFRecord or Parquet, which hold
tf.train.Example protos. TFDS tells what is where; what is not prepared it prepares.
"""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import importlib
import io
import json
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from gpt_jax.config import InputError, nearest, require
from gpt_jax.data import formats
from gpt_jax.data.formats import InvalidText
from gpt_jax.paths import absolute, find, in_bucket, told_of_buckets, user_path

SCHEME = "tfds:"
ROOMS = ("text", "translate", "summarization", "question_answering", "text_simplification")
"""Modules of TFDS that make the older datasets known when they are imported."""
BATCH = 256
"""Records that are read from an ArrayRecord file at a time."""
NETWORK_BYTES = 1 << 22


@dataclass(frozen=True)
class Request:
    """What tfds:... asks for."""

    name: str
    config: str
    version: str
    split: str
    data_dir: str

    @property
    def full_name(self) -> str:
        """As TFDS writes it."""
        config = f"/{self.config}" if self.config else ""
        return f"{self.name}{config}" + (f":{self.version}" if self.version else "")


class Shard(NamedTuple):
    """Records `start` up to `stop` of one file."""

    name: str
    """imdb_reviews/plain_text:train:00001"""
    path: str
    size: int
    version: str
    start: int
    stop: int


def parse(source: str) -> Request:
    """Read tfds:...; raises InputError where it is none."""
    told, _, query = source.removeprefix(SCHEME).partition("?")
    found = re.fullmatch(r"(\w+)(?:/([^:/]+))?(?::([\d.*]+))?", told)
    if found is None:
        raise InputError(
            "a dataset is named tfds:NAME/CONFIG:VERSION?split=SPLIT&data_dir=DIR, where all but "
            f"NAME may be left out, and {source!r} is not."
        )
    options = {"split": "train", "data_dir": os.environ.get("TFDS_DATA_DIR", "")}
    for item in query.split("&") if query else ():
        key, equal, value = item.partition("=")
        require(key in options, f"{source!r} has the option {key!r}: {nearest(key, options)}")
        require(bool(equal and value), f"{source!r} gives no value to {key!r}.")
        options[key] = value
    data_dir = options["data_dir"] or "~/tensorflow_datasets"
    return Request(found[1], found[2] or "", found[3] or "", options["split"], data_dir)


def shards(source: str) -> list[Shard]:
    """What holds the split that tfds:... names; it is prepared first where it is not there.

    Raises InputError for names that are not there, with the nearest that are, for a dataset that
    cannot be prepared here, with the command that does it elsewhere, and for a missing file.
    """
    request = parse(source)
    with told_of_buckets():
        folder = _folder(request)
    if folder is None:
        _prepare(request)
        folder = _folder(request)
        assert folder is not None
    splits = _info(folder).splits
    asked = _instructions(splits, request)
    with told_of_buckets():
        files = find(f"{_escaped(folder)}/*")[1]
    known_as = f"{request.name}/{folder.parent.name}"
    if folder.parent.name == request.name:
        known_as = request.name
    place = {
        os.path.basename(path): (name, number)
        for name in splits
        for number, path in enumerate(splits[name].filepaths)
    }
    found = []
    for path, start, stop in asked:
        split, number = place[path.name]
        require(
            path in files,
            f"every shard of a dataset must be there, and {path} is not: copy it again, or delete "
            f"{folder} and prepare the dataset anew.",
        )
        name = f"{known_as}:{split}:{number:05d}"
        found.append(Shard(name, str(path), *files[path], start, stop))
    return found


def records(
    path: str, start: int, stop: int, field: str | None
) -> Iterator[tuple[int, dict[str, Any] | InvalidText]]:
    """(number in the file, record) of a shard's records `start` up to `stop`, as plain Python.

    With `field`, which must be of text, a record is {field: its bytes}; a field within a field is
    "a/b". Else a ClassLabel is its name, or None where it has none, and text that is not UTF-8
    gives the InvalidText that it would raise. Raises InputError where the file is damaged.
    """
    place = user_path(path)
    info = _info(place.parent)
    features = info.features
    numbered = _numbered(place, info.file_format.value, start, stop)
    if field is None:
        for number, raw in numbered:
            try:
                value = _plain(features, features.deserialize_example_np(raw), f"{path}:{number}")
                yield number, value
            except InvalidText as error:
                yield number, error
        return
    from tensorflow_datasets.proto import tf_example_pb2

    texts = list(_text_fields(features))
    require(
        field in texts,
        f"the field that holds the text must be a text, and {field!r} of {place.parent} is "
        f"none: {nearest(field, texts)} --data.jsonl-field names it (text_field in a recipe).",
    )
    for number, raw in numbered:
        example = tf_example_pb2.Example.FromString(raw)  # pyright: ignore
        (value,) = example.features.feature[field].bytes_list.value
        yield number, {field: value}


def _folder(request: Request) -> Path | None:
    """Where the dataset is; None where it has to be prepared."""
    home = _home(request)
    if request.config:
        return _newest(home / request.config, request.version)
    if (found := _newest(home, request.version)) is not None:
        return found
    configs = [name for name in _names(home) if _newest(home / name, request.version)]
    with contextlib.suppress(OSError, ValueError, KeyError):
        default = json.loads((home / ".config/metadata.json").read_text())["default_config_name"]
        configs = [default] if default in configs else configs
    require(
        len(configs) < 2,
        f"{request.full_name} is prepared with several configs, and one must be named, as "
        f"tfds:{request.name}/{(configs or [''])[0]}: {', '.join(configs)}.",
    )
    return _newest(home / configs[0], request.version) if configs else None


def _home(request: Request) -> Path:
    return absolute(user_path(request.data_dir)) / request.name


def _newest(home: Path, wanted: str) -> Path | None:
    """The folder of the highest version in `home` that is wanted."""
    versions = [name for name in _names(home) if re.fullmatch(r"\d+\.\d+\.\d+", name)]
    versions = [name for name in versions if fnmatch.fnmatch(name, wanted or "*")]
    for name in sorted(versions, key=lambda name: [*map(int, name.split("."))], reverse=True):
        if (home / name / "features.json").exists():
            return home / name
    return None


def _names(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _escaped(folder: Path) -> str:
    """A folder's path with what would be a wildcard taken for itself."""
    return re.sub(r"([*?[])", r"[\1]", str(folder))


def _instructions(splits: Any, request: Request) -> list[tuple[Path, int, int]]:
    """(file, start, stop) of what the split asks for, in the order of TFDS."""
    try:
        asked = splits[request.split].file_instructions
    except (ValueError, KeyError, AssertionError) as error:
        name = re.split(r"[+\[]", request.split)[0]
        hint = nearest(name, splits) if name not in splits else f"{error}".splitlines()[0]
        raise InputError(
            f"{request.full_name} has no split {request.split!r}: {hint} Slices are written "
            "train[:10%], and sums train+test."
        ) from error
    return [(user_path(part.filename), part.skip, part.skip + part.take) for part in asked]


def _prepare(request: Request) -> None:
    """Have TFDS make the dataset; raises InputError where it does not exist or cannot be made."""
    tfds, name, home = tensorflow_datasets(), request.full_name, _home(request).parent
    for room in ROOMS:
        with contextlib.suppress(ImportError):
            importlib.import_module(f"tensorflow_datasets.{room}")
    known = {*tfds.list_builders(with_community_datasets=False)}
    there = _names(home / request.name)
    if request.name not in known:
        hint = f"there is {', '.join(there)}." if there else _nearest(request.name, known, home)
        raise InputError(
            f"{name} is not in {home}, and TFDS does not know how to make it: {hint} "
            "?data_dir=DIR says where datasets are."
        )
    elsewhere = (
        f"pip install tensorflow tensorflow-datasets && tfds build {name} "
        f"--file_format=array_record --data_dir=DIR; then copy DIR/{request.name} to {home}, or "
        "name DIR by ?data_dir=DIR."
    )
    require(
        not in_bucket(home),
        f"{name} is not in {home}, and it is prepared on a machine, not in a bucket: {elsewhere}",
    )
    try:
        configs = tfds.builder_cls(request.name).builder_configs
        require(
            not request.config or request.config in configs,
            f"{request.name} has no config {request.config!r}: {nearest(request.config, configs)}",
        )
        print(f"preparing {SCHEME}{name} in {home}", file=sys.stderr, flush=True)
        with contextlib.redirect_stdout(io.StringIO()):
            builder = tfds.builder(name, data_dir=str(home), file_format="array_record")
            where_from = tfds.download.DownloadConfig(try_download_gcs=False)
            builder.download_and_prepare(download_config=where_from)
    except InputError:
        raise
    except Exception as error:
        if _folder(request) is not None:  # another process was first
            return
        raise InputError(
            f"{name} is not in {home}, and could not be prepared here ({type(error).__name__}: "
            f"{' '.join(str(error).split()):.200}). Where there is a network, with TensorFlow "
            f"and whatever else the dataset wants: {elsewhere}"
        ) from error


def _nearest(name: str, known: set[str], home: Path) -> str:
    """The closest of what is in `home`, or else of what TFDS knows."""
    for names in (_names(home), known):
        if difflib.get_close_matches(name, names, n=1):
            return nearest(name, names)
    return f"it knows {len(known)} names."


def _info(folder: Path) -> Any:
    """The DatasetInfo of a prepared dataset: features, splits, format of the shards."""
    try:
        with told_of_buckets():
            return tensorflow_datasets().builder_from_directory(str(folder)).info
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"a prepared dataset has its features and splits in features.json and "
            f"dataset_info.json, and those in {folder} cannot be read ({type(error).__name__}: "
            f"{' '.join(str(error).split()):.200}): copy or prepare it again."
        ) from error


def _numbered(path: Path, file_format: str, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
    """(number, record) of the records `start` up to `stop`; a file with fewer is damaged."""
    number = start
    with formats.readable(path):
        for number, raw in enumerate(_raw(path, file_format, start, stop), start):
            yield number, raw
        if number + 1 < stop:
            raise EOFError(f"it ends after {number + 1} records, and has at least {stop}")


def _raw(path: Path, file_format: str, start: int, stop: int) -> Iterator[bytes]:
    if file_format == "array_record":
        with _on_this_machine(path) as local:
            yield from _array_records(local, start, stop)
    elif file_format in ("tfrecord", "parquet"):
        found = _tf_records(path) if file_format == "tfrecord" else _parquet_records(path)
        for number, raw in zip(range(stop), found, strict=False):
            if number >= start:
                yield raw
    else:
        raise InputError(
            f"the shards of a dataset must be in ArrayRecord, TFRecord or Parquet, and {path} is "
            f"in {file_format}: prepare it with --file_format=array_record."
        )


def _array_records(path: Path, start: int, stop: int) -> Iterator[bytes]:
    from array_record.python.array_record_module import ArrayRecordReader

    try:
        reader = ArrayRecordReader(str(path), options="readahead_buffer_size:0")
        stop = min(stop, reader.num_records())
        for first in range(start, stop, BATCH):
            yield from reader.read(first, min(first + BATCH, stop))
        reader.close()
    except (RuntimeError, ValueError) as error:
        raise OSError(str(error)[:200]) from error


def _tf_records(path: Path) -> Iterator[bytes]:
    """Records of a TFRecord file (`frame`)."""

    def check(data: bytes, crc: bytes) -> bytes:
        if _masked_crc(data) != crc:
            raise EOFError(f"the record that ends before byte {file.tell()} is damaged")
        return data

    with path.open("rb") as file:
        while head := file.read(12):
            size = int.from_bytes(check(head[:8], head[8:]), "little")
            body = file.read(size + 4)
            yield check(body[:size], body[size:])


def frame(record: bytes) -> bytes:
    """A record as TensorFlow writes it: length, masked CRC of that, data, masked CRC of that.

    tensorflow/core/lib/io/record_writer.h; numbers are little-endian.
    """
    length = len(record).to_bytes(8, "little")
    return length + _masked_crc(length) + record + _masked_crc(record)


def _masked_crc(data: bytes) -> bytes:
    """CRC-32C, rotated and moved, so that one over data with CRCs in it is no weak one."""
    import google_crc32c

    raw = google_crc32c.value(data)
    return ((raw >> 15 | raw << 17) + 0xA282EAD8 & 0xFFFFFFFF).to_bytes(4, "little")


def _parquet_records(path: Path) -> Iterator[bytes]:
    for _, row in formats.rows(path, "data"):
        data = row["data"]
        yield data.encode() if isinstance(data, str) else data


@contextlib.contextmanager
def _on_this_machine(path: Path) -> Iterator[Path]:
    """A file to be read at random: a copy of it, for a while, where it is in a bucket."""
    if not in_bucket(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="gpt_jax-") as folder:
        local = Path(folder, path.name)
        with path.open("rb") as source, local.open("wb") as target:
            shutil.copyfileobj(source, target, NETWORK_BYTES)
        yield local


def _text_fields(features: Any, prefix: str = "") -> Iterator[str]:
    """Fields that hold one text, as they are named in an Example."""
    kinds = tensorflow_datasets().features
    for name, feature in features.items():
        if isinstance(feature, kinds.FeaturesDict):
            yield from _text_fields(feature, f"{prefix}{name}/")
        elif isinstance(feature, kinds.Text) or (
            type(feature) in (kinds.Tensor, kinds.Scalar)
            and feature.shape == ()
            and feature.np_dtype.kind in "OSU"
        ):
            yield prefix + name


def _plain(feature: Any, value: Any, where: str) -> Any:
    """What a feature decodes to, as str, int, float, list and dict."""
    kinds = tensorflow_datasets().features
    if isinstance(feature, kinds.FeaturesDict):
        return {name: _plain(feature[name], item, where) for name, item in value.items()}
    if isinstance(feature, kinds.Sequence):
        inner = feature.feature
        if isinstance(inner, kinds.FeaturesDict):
            return {
                name: [_plain(inner[name], item, where) for item in items]
                for name, items in value.items()
            }
        return [_plain(inner, item, where) for item in value]
    if isinstance(feature, kinds.ClassLabel):
        return feature.int2str(int(value)) if value >= 0 else None
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(feature, kinds.Text) and isinstance(value, bytes):
        return formats.decoded(value, where)
    return value


def tensorflow_datasets() -> ModuleType:
    """TFDS, silent unless something fails."""
    os.environ.setdefault("EPATH_USE_TF", "false")
    import tensorflow_datasets as tfds
    from absl import logging as absl_logging

    # Without a network it would tell of each of ten tries, and then fail as we say.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    absl_logging.get_absl_logger().addFilter(_is_heard)  # adding it twice is once
    tfds.disable_progress_bar()
    return tfds


def _is_heard(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR or "tensorflow_datasets" not in record.pathname
