"""TFDS datasets shaped like real ones, made by real builders of TFDS, in its formats of files."""

import json
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from tensorboardX.record_writer import RecordWriter

tfds.disable_progress_bar()
TEXT, LABEL = tfds.features.Text(), tfds.features.ClassLabel(names=["neg", "pos"])
REVIEWS = {"train": 20, "test": 7, "unsupervised": 3}
"""Splits of the reviews, and how many there are."""


def review(split: str, number: int) -> dict:
    """The reviews without labels have -1, as IMDB's."""
    label = -1 if split == "unsupervised" else number % 2
    return {"text": f"{split} review {number}: caf\u00e9\t\r\n\0 " * 3, "label": label}


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")
    features: dict | None = None
    rows: dict[str, list[dict]] | None = None

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=self.features)

    def _split_generators(self, manager):
        return {split: self._generate_examples(rows) for split, rows in self.rows.items()}

    def _generate_examples(self, rows):
        yield from enumerate(rows)


class ImdbReviews(_Builder, skip_registration=True):
    """As imdb_reviews/plain_text."""

    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="plain_text", version="1.0.0")]  # noqa: RUF012
    features = tfds.features.FeaturesDict({"text": TEXT, "label": LABEL})
    rows = {split: [review(split, i) for i in range(n)] for split, n in REVIEWS.items()}  # noqa: RUF012


class Wmt14Translate(_Builder, skip_registration=True):
    """As wmt14_translate/de-en."""

    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name="de-en", version="1.0.0")]  # noqa: RUF012
    features = tfds.features.Translation(["de", "en"])
    rows = {"train": [{"de": f"Satz {i}, gr\u00fcn", "en": f"Sentence {i}"} for i in range(20)]}  # noqa: RUF012


class Nested(_Builder, skip_registration=True):
    """Fields within fields, lists, numbers, and one more label."""

    features = tfds.features.FeaturesDict(
        {
            "page": {"title": TEXT, "text": TEXT},
            "answers": tfds.features.Sequence(
                {"text": TEXT, "start": tfds.features.Scalar(np.int32)}
            ),
            "choices": tfds.features.Sequence(TEXT),
            "labels": tfds.features.Sequence(LABEL),
            "score": np.float32,
        }
    )
    row = {  # noqa: RUF012
        "page": {"title": "A", "text": "The text."},
        "answers": [{"text": "one", "start": 1}, {"text": "zw\u00f6lf", "start": 12}],
        "choices": ["x", "y", "z"],
        "labels": ["pos", "neg"],
        "score": 0.5,
    }
    rows = {"validation": [row]}  # noqa: RUF012


def prepared(builder: type, data_dir: Path, file_format: str = "array_record", shards: int = 1):
    """Have TFDS make a dataset; returns its builder, or in TFRecord the folder (`as_tf_record`)."""
    built = builder(
        data_dir=str(data_dir), file_format=file_format.replace("tfrecord", "array_record")
    )
    how = tfds.download.DownloadConfig(num_shards=shards)
    built.download_and_prepare(download_config=how)
    if file_format == "tfrecord":
        as_tf_record(Path(built.data_path))
    return built


def as_tf_record(folder: Path) -> None:
    """Turn a prepared dataset into one that TFDS wrote where TensorFlow was installed.

    The framing is that of TensorBoard's event files, which tensorboardX writes.
    """
    for path in sorted(folder.glob("*.array_record-*")):
        reader = ArrayRecordReader(str(path))
        write_tf_records(
            path.with_name(path.name.replace(".array_record-", ".tfrecord-")),
            reader.read_all(),
        )
        reader.close()
        path.unlink()
    info = folder / "dataset_info.json"
    told = json.loads(info.read_text())
    assert told["fileFormat"] == "array_record"
    info.write_text(json.dumps(told | {"fileFormat": "tfrecord"}))


def write_tf_records(path: Path, records: Iterable[bytes]) -> None:
    """A TFRecord file."""
    writer = RecordWriter(str(path))
    for record in records:
        writer.write(record)
    writer.close()


def examples(builder, split: str) -> list[dict]:
    """What TFDS itself reads, with bytes as text."""
    return [
        {key: value.decode() if isinstance(value, bytes) else value for key, value in row.items()}
        for row in builder.as_data_source(split)
    ]


def shard(folder: Path, split: str) -> Path:
    """The only file of a split."""
    (path,) = (path for path in folder.iterdir() if re.search(rf"-{split}\.\w+-0", path.name))
    return path
