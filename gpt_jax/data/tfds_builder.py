"""Our documents as a dataset of TFDS, which others open without any of our code.

Written in one pass and in bounded memory, which TFDS's own GeneratorBasedBuilder is not: it sorts a
split in memory, and needs TensorFlow for one that is larger than that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, Protocol

from gpt_jax.config import require
from gpt_jax.data.cache import new_folder
from gpt_jax.data.sources import Document
from gpt_jax.data.tfds import frame, tensorflow_datasets
from gpt_jax.paths import absolute, in_bucket, user_path

FileFormat = Literal["array_record", "tfrecord"]
SHARD_BYTES = 256 << 20
"""Records of one file; TFDS wants 64 MB to 1 GB."""


class _Writer(Protocol):
    def write(self, record: bytes, /) -> Any: ...


def write_dataset(
    name: str,
    version: str,
    data_dir: str | Path,
    splits: Mapping[str, Callable[[], Iterable[Document]]],
    file_format: FileFormat = "array_record",
    shard_bytes: int = SHARD_BYTES,
) -> Path:
    """Write documents as DATA_DIR/NAME/VERSION, and return that folder.

    Its records are {"id": the document's name, "text": its text}, in the order of the documents.
    `tfds.data_source(NAME, data_dir=DATA_DIR)` opens it in ArrayRecord, with no TensorFlow needed;
    `tfds.load`, which makes a tf.data.Dataset, reads TFRecord only; tfds:NAME?data_dir=DATA_DIR is
    either. The same documents give the same bytes, and the folder appears at once and whole.

    Raises:
      InputError: names that TFDS does not take, a version that is there already, a split without
        documents, a folder that cannot be written, or what reading the documents raises.
    """
    for what, text, rule in (
        ("name", name, r"[a-z][a-z0-9_]*"),
        ("version", version, r"\d+\.\d+\.\d+"),
        *(("split", split, r"(?!all$)[a-z][a-z0-9_]*") for split in splits),
    ):
        require(
            re.fullmatch(rule, text) is not None,
            f"the {what} of a TFDS dataset is as in my_text, 1.0.0 and train, and it is {text!r}.",
        )
    folder = absolute(user_path(data_dir)) / name / version
    require(
        not in_bucket(folder),
        f"a dataset is written on a machine, and {folder} is in a bucket: write it here, and copy "
        "it there (gcloud storage cp -r).",
    )
    require(
        not folder.exists(),
        f"a version of a dataset is written once, and {folder} is there: delete it, or give "
        "another version.",
    )
    tfds = tensorflow_datasets()
    text = tfds.features.Text()
    features = tfds.features.FeaturesDict({"id": text, "text": text})
    with new_folder(folder) as partial:
        infos = []
        for split, found in splits.items():
            records = (
                features.serialize_example({"id": document.name, "text": document.text})
                for document in found()
            )
            prefix = f"{name}-{split}.{file_format}"
            lengths, size = _write_shards(partial, prefix, records, file_format, shard_bytes)
            require(bool(lengths), f"the split {split!r} of {name} would have no documents.")
            infos.append(
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=lengths,
                    num_bytes=size,
                    filename_template=tfds.core.ShardedFileTemplate(
                        data_dir=partial,
                        dataset_name=name,
                        split=split,
                        filetype_suffix=file_format,
                    ),
                )
            )
        info = tfds.core.DatasetInfo(
            builder=tfds.core.DatasetIdentity(
                name=name, version=version, data_dir=str(partial), module_name=""
            ),
            description="Documents of text, each with the name that tells where it is from.",
            features=features,
            disable_shuffling=True,  # the order is that of the documents
        )
        info.set_file_format(file_format)
        info.set_splits(tfds.core.SplitDict(infos))
        info.write_to_directory(partial)
    return folder


def _write_shards(
    folder: Path, prefix: str, records: Iterator[bytes], file_format: str, shard_bytes: int
) -> tuple[list[int], int]:
    """Write files named as TFDS names them; returns the records in each, and all their bytes."""
    lengths, total, first = [], 0, next(records, None)
    while first is not None:
        path, record, size, count = folder / f"{len(lengths)}", first, 0, 0
        with ExitStack() as stack:
            writer = _writer(path, file_format, stack)
            while record is not None:
                writer.write(record)
                size, count = size + len(record), count + 1
                record = next(records, None)
                if size >= shard_bytes:
                    break
        lengths.append(count)
        total, first = total + size, record
    for number in range(len(lengths)):
        last_name = f"{prefix}-{number:05d}-of-{len(lengths):05d}"
        (folder / f"{number}").rename(folder / last_name)
    return lengths, total


def _writer(path: Path, file_format: str, stack: ExitStack) -> _Writer:
    if file_format == "array_record":
        from array_record.python.array_record_module import ArrayRecordWriter

        writer = ArrayRecordWriter(str(path), "group_size:1")
        stack.callback(writer.close)
        return writer
    return _Framed(stack.enter_context(path.open("wb")))


class _Framed:
    """A file of TFRecord."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, record: bytes) -> None:
        self._file.write(frame(record))
