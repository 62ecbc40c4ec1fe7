"""Documents as TFDS datasets: TFDS opens them by itself, and a kill leaves none."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_jax.cli import main
from gpt_jax.config import DataConfig, InputError
from gpt_jax.data.sources import Document, documents, held_out, pieces, read, records
from gpt_jax.data.tfds_builder import write_dataset

FORMATS = ["array_record", "tfrecord"]
DOCUMENTS = [Document(f"source/{i}.txt", f"caf\u00e9 {i}\r\n\0\t" * (i % 7 + 1)) for i in range(50)]
SPLITS = {"train": lambda: DOCUMENTS[:40], "validation": lambda: DOCUMENTS[40:]}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_tfds_opens_it_without_our_code(tmp_path):
    """By name, or as a builder from the folder alone; in the order of the documents."""
    folder = write_dataset("my_text", "1.0.0", tmp_path, SPLITS, shard_bytes=500)
    assert folder == tmp_path / "my_text/1.0.0"
    expected = [{"id": d.name.encode(), "text": d.text.encode()} for d in DOCUMENTS]
    found = tfds.data_source("my_text", split="train", data_dir=tmp_path)
    assert [found[i] for i in range(len(found))] == expected[:40]
    builder = tfds.builder_from_directory(folder)
    assert [*builder.as_data_source("validation")] == expected[40:]
    assert str(builder.info.version) == "1.0.0"
    train = builder.info.splits["train"]
    assert len(train.shard_lengths) > 3
    assert sum(train.shard_lengths) == 40
    numbers = np.random.default_rng(0).permutation(40)[:5]
    assert found.__getitems__([*numbers]) == [expected[i] for i in numbers]


@pytest.mark.parametrize("file_format", FORMATS)
def test_we_read_what_we_wrote_and_it_has_the_same_bytes_again(tmp_path, file_format):
    folders = [
        write_dataset("x", "1.0.0", tmp_path / name, SPLITS, file_format, shard_bytes=500)
        for name in ("one", "two")
    ]
    assert files(folders[0]) == files(folders[1])
    found = pieces((f"tfds:x?data_dir={tmp_path}/one",))
    assert len(found) > 3
    assert [document.text for piece in found for document in read(piece, "text")] == [
        document.text for document in DOCUMENTS[:40]
    ]
    (piece,) = pieces((f"tfds:x?split=validation[-1:]&data_dir={tmp_path}/one",))
    assert [row for _, row in records(piece)] == [
        {"id": DOCUMENTS[-1].name, "text": DOCUMENTS[-1].text}
    ]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text(min_size=1), min_size=1), st.sampled_from(FORMATS), st.integers(1, 99))
def test_any_text_comes_back(tmp_path_factory, texts, file_format, shard_bytes):
    home = tmp_path_factory.mktemp("any")
    found = [Document(str(i), text) for i, text in enumerate(texts)]
    write_dataset("any_text", "1.0.0", home, {"train": lambda: found}, file_format, shard_bytes)
    told = pieces((f"tfds:any_text?data_dir={home}",))
    assert [document.text for piece in told for document in read(piece, "text")] == texts


@pytest.mark.parametrize(
    ("name", "version", "split", "found", "message"),
    [
        ("My-Text", "1.0.0", "train", DOCUMENTS, "the name of a TFDS dataset is .* 'My-Text'"),
        ("x", "1.0", "train", DOCUMENTS, r"the version of .* '1\.0'"),
        ("x", "1.0.0", "all", DOCUMENTS, "the split of .* 'all'"),
        ("x", "1.0.0", "train", [], "split 'train' of x would have no documents"),
    ],
)
def test_what_cannot_be_written_leaves_nothing(tmp_path, name, version, split, found, message):
    with pytest.raises(InputError, match=message):
        write_dataset(name, version, tmp_path, {split: lambda: found})
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_version_is_written_once(tmp_path):
    folder = write_dataset("x", "1.0.0", tmp_path, SPLITS)
    before = files(folder)
    with pytest.raises(InputError, match="is there: delete it, or give another version"):
        write_dataset("x", "1.0.0", tmp_path, {"train": lambda: DOCUMENTS[:1]})
    assert files(folder) == before
    (tmp_path / "y").write_text("no folder")
    with pytest.raises(InputError, match=rf"kept in {tmp_path}/y, which cannot be written"):
        write_dataset("y", "1.0.0", tmp_path, SPLITS)
    with pytest.raises(InputError, match="is in a bucket: write it here, and copy it"):
        write_dataset("x", "1.0.0", "gs://bucket-of-tests/sets", SPLITS)


WRITE = """
import sys, time
from gpt_jax.data.sources import Document
from gpt_jax.data.tfds_builder import write_dataset

def documents():
    for i in range(1000):
        if i == 500:
            print("half", flush=True)
            time.sleep(60)
        yield Document(str(i), "text " * 100)

write_dataset("x", "1.0.0", sys.argv[1], {"train": documents}, shard_bytes=10_000)
"""


def test_a_kill_leaves_no_dataset(tmp_path):
    command = [sys.executable, "-c", WRITE, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"half\n"
        process.send_signal(signal.SIGKILL)
    assert [path.name for path in (tmp_path / "x").iterdir()] != ["1.0.0"]
    with pytest.raises(InputError, match="x is not in"):
        pieces((f"tfds:x?data_dir={tmp_path}",))
    with pytest.raises(tfds.core.DatasetNotFoundError):
        tfds.builder("x", data_dir=tmp_path)
    write_dataset("x", "1.0.0", tmp_path, SPLITS)
    assert len(tfds.data_source("x", split="train", data_dir=tmp_path)) == 40


@pytest.mark.parametrize("file_format", FORMATS)
def test_the_command_splits_as_training_does(tmp_path, texts, capsys, file_format):
    """A document is of the side that `data.files` would have it on, whoever reads it."""
    words = ["tfds", "my_text", f"{texts}/*.txt", "--data-dir", str(tmp_path / "sets")]
    options = ["--validation-fraction", "0.3", "--version", "2.0.0", "--file-format", file_format]
    assert main(["data", *words, *options]) == 0
    assert f"tfds:my_text?data_dir={tmp_path}/sets" in capsys.readouterr().out
    config = DataConfig(files=(f"{texts}/*.txt",), validation_fraction=0.3)
    both = [held_out(document, config) for document in documents(config)]
    for number, split in enumerate(("train", "validation")):
        found = pieces((f"tfds:my_text:2.0.0?split={split}&data_dir={tmp_path}/sets",))
        told = [document.text for piece in found for document in read(piece, "text")]
        assert told == [sides[number] for sides in both if sides[number]] != []
    assert main(["data", *words, *options]) == 1
    assert "is there: delete it, or give another version" in capsys.readouterr().err
