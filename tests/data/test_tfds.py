"""TFDS datasets by name, without TensorFlow: what TFDS reads is what we read."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import tfds_sets
from rich.console import Console
from tfds_sets import ImdbReviews, Nested, Wmt14Translate, examples, prepared, shard

from gpt_jax.cli import main
from gpt_jax.config import DataConfig, InputError
from gpt_jax.data import tfds
from gpt_jax.data.build.steps import build
from gpt_jax.data.corpus import PLAIN, prepare
from gpt_jax.data.recipe import Recipe, Source, Vocabulary
from gpt_jax.data.sources import content_id, documents, pieces, read, records

FORMATS = ["array_record", "tfrecord", "parquet"]


@pytest.fixture(scope="module", params=FORMATS)
def reviews(request, tmp_path_factory):
    """A folder with the reviews in two shards a split, in each format."""
    data_dir = tmp_path_factory.mktemp("tfds")
    prepared(ImdbReviews, data_dir, request.param, shards=2)
    return data_dir


@pytest.fixture(scope="module")
def builder(tmp_path_factory):
    """The same as TFDS opens it; shuffled by its keys alone, it is the same everywhere."""
    return prepared(ImdbReviews, tmp_path_factory.mktemp("by_tfds"), shards=2)


def texts(*sources: str, field: str = "text") -> list[str]:
    return [document.text for piece in pieces(sources) for document in read(piece, field)]


def test_every_format_is_read_as_tfds_reads_it(reviews, builder):
    """Two shards, each a piece; a document is known by its shard and its place there."""
    found = pieces((f"tfds:imdb_reviews/plain_text?data_dir={reviews}",))
    names = [f"imdb_reviews/plain_text:train:{i:05d}" for i in range(2)]
    assert [piece.name for piece in found] == names
    told = [document for piece in found for document in read(piece, "text")]
    assert [document.name for document in told] == [f"{n}:{i}" for n in names for i in range(10)]
    expected = examples(builder, "train")
    assert [document.text for document in told] == [row["text"] for row in expected]
    assert sorted(document.text for document in told) == sorted(
        row["text"] for row in ImdbReviews.rows["train"]
    )
    rows = [row for piece in found for _, row in records(piece)]
    assert rows == [{**row, "label": ["neg", "pos"][row["label"]]} for row in expected]
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize(
    "split", ["test", "train[:10%]", "train[50%:]", "train[3:5]", "train[-4:]+test[:2]", "all"]
)
def test_a_split_is_sliced_as_tfds_slices_it(reviews, builder, split):
    found = texts(f"tfds:imdb_reviews?split={split}&data_dir={reviews}")
    assert sorted(found) == sorted(row["text"] for row in examples(builder, split))


def test_no_record_is_read_twice(reviews, builder):
    """Parts that overlap, in one split or in two sources, are read once; names do not move."""
    one = f"tfds:imdb_reviews?split=train[:3]+train[2:6]&data_dir={reviews}"
    two = f"tfds:imdb_reviews?split=train[5:8]+train[15:]&data_dir={reviews}"
    found = [document for piece in pieces((one, two, one)) for document in read(piece, "text")]
    rows = examples(builder, "train")
    assert [document.text for document in found] == [row["text"] for row in rows[:8] + rows[15:]]
    assert [document.name.split(":")[-2:] for document in found] == [
        *(["00000", str(i)] for i in range(8)),
        *(["00001", str(i)] for i in range(5, 10)),
    ]


def test_records_are_plain_python(tmp_path):
    prepared(ImdbReviews, tmp_path)
    (piece,) = pieces((f"tfds:imdb_reviews?split=unsupervised&data_dir={tmp_path}",))
    assert {row["label"] for _, row in records(piece)} == {None}
    prepared(Wmt14Translate, tmp_path)
    (piece,) = pieces((f"tfds:wmt14_translate/de-en?data_dir={tmp_path}",))
    found = [row for _, row in records(piece)]
    assert sorted(found, key=str) == sorted(Wmt14Translate.rows["train"], key=str)
    assert sorted(document.text for document in read(piece, "de")) == sorted(
        row["de"] for row in Wmt14Translate.rows["train"]
    )
    prepared(Nested, tmp_path)
    (piece,) = pieces((f"tfds:nested?split=validation&data_dir={tmp_path}",))
    assert piece.name == "nested:validation:00000"
    answers = {"text": ["one", "zw\u00f6lf"], "start": [1, 12]}  # TFDS turns them inside out
    assert list(records(piece)) == [
        ("nested:validation:00000:0", {**Nested.row, "answers": answers})
    ]
    assert [document.text for document in read(piece, "page/text")] == ["The text."]
    with pytest.raises(InputError, match=r"'page/txt' of .* is none: did you mean 'page/text'"):
        list(read(piece, "page/txt"))
    with pytest.raises(InputError, match=r"'score' of .* is none: there are page/text, page/title"):
        list(read(piece, "score"))


def test_the_newest_version_and_the_default_config_are_taken(tmp_path):
    home = Path(prepared(ImdbReviews, tmp_path).data_path).parents[1]
    for version in ("1.2.0", "1.10.0", "2.0.0"):
        shutil.copytree(home / "plain_text/1.0.0", home / "plain_text" / version)
    (home / "plain_text/2.0.0/features.json").unlink()  # a copy that has not ended
    (home / "plain_text/incomplete.ABC_3.0.0").mkdir()

    def version(name: str) -> str:
        (piece,) = pieces((f"tfds:{name}?data_dir={tmp_path}",))
        return Path(piece.path).parent.name

    assert version("imdb_reviews") == "1.10.0"
    assert version("imdb_reviews/plain_text:1.0.0") == "1.0.0"
    assert version("imdb_reviews:1.2.*") == "1.2.0"
    shutil.copytree(home / "plain_text", home / "bytes")
    assert version("imdb_reviews") == "1.10.0"  # .config/metadata.json names the default
    shutil.rmtree(home / ".config")
    with pytest.raises(InputError, match=r"several configs, .* bytes, plain_text\."):
        version("imdb_reviews")
    assert version("imdb_reviews/bytes") == "1.10.0"


def test_the_data_dir_of_tfds_is_the_default(reviews, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(reviews))
    assert len(texts("tfds:imdb_reviews")) == 20
    monkeypatch.chdir(reviews.parent)
    monkeypatch.setenv("TFDS_DATA_DIR", reviews.name)
    assert all(os.path.isabs(piece.path) for piece in pieces(("tfds:imdb_reviews",)))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("tfds:imdb_reviews?split=trian", r"no split 'trian': did you mean 'train'\?"),
        ("tfds:imdb_reviews?split=train[:1", r"no split 'train\[:1': Error parsing"),
        ("tfds:imdb_reviews?splitt=train", r"option 'splitt': did you mean 'split'\?"),
        ("tfds:imdb_reviews?split", r"gives no value to 'split'"),
        ("tfds:imdb_reviews/plain_texts", r"no config 'plain_texts': did you mean 'plain_text'"),
        ("tfds:imdb_review", r"does not know how to make it: did you mean 'imdb_reviews'"),
        ("tfds:nestd", r"does not know how to make it: did you mean 'nested'"),
        ("tfds:qqqq", r"does not know how to make it: it knows \d+ names"),
        ("tfds:nested:2.0.0", r"nested:2.0.0 is not in .*: there is 1.0.0\."),
        ("tfds:bad name", r"a dataset is named tfds:NAME/CONFIG:VERSION\?split"),
    ],
)
def test_what_is_not_there_is_named_with_the_nearest(source, message, tmp_path, monkeypatch):
    prepared(ImdbReviews, tmp_path)
    prepared(Nested, tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(InputError, match=message):
        pieces((source,))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("damage", ["flip", "cut", "short", "gone"])
def test_a_damaged_shard_is_named(tmp_path, name, damage):
    """One bit, half a file, a file that has fewer records than the dataset says, none."""
    folder = Path(prepared(ImdbReviews, tmp_path, name).data_path)
    path = shard(folder, "train")
    data = bytearray(path.read_bytes())
    if damage == "flip":
        at = data.index(b"train review 7") if b"train review 7" in data else 200
        data[at] ^= 4
    elif damage == "cut":
        del data[len(data) // 2 :]
    elif damage == "short":
        data = bytearray(shard(folder, "test").read_bytes())
    path.write_bytes(data)
    if damage == "gone":
        path.unlink()
    with pytest.raises(InputError, match=path.name):
        texts(f"tfds:imdb_reviews?data_dir={tmp_path}")


def test_a_tf_record_that_is_cut_between_records_is_damaged(tmp_path):
    """Each frame is whole then, and only the dataset knows how many there were."""
    folder = Path(prepared(ImdbReviews, tmp_path, "tfrecord").data_path)
    path = shard(folder, "train")
    frames = list(tfds._tf_records(path))
    tfds_sets.write_tf_records(path, frames[:-1])
    with pytest.raises(InputError, match="ends after 19 records, and has at least 20"):
        texts(f"tfds:imdb_reviews?data_dir={tmp_path}")


def test_damaged_metadata_is_named(tmp_path):
    folder = Path(prepared(ImdbReviews, tmp_path).data_path)
    (folder / "dataset_info.json").write_text("{")
    with pytest.raises(InputError, match=rf"those in {folder} cannot be read"):
        pieces((f"tfds:imdb_reviews?data_dir={tmp_path}",))


def test_text_that_is_not_utf8_can_be_skipped(tmp_path):
    folder = Path(prepared(ImdbReviews, tmp_path, "tfrecord").data_path)
    path = shard(folder, "train")
    bad = [record.replace(b"\xc3\xa9", b"\xc3\xff", 1) for record in tfds._tf_records(path)]
    tfds_sets.write_tf_records(path, [*bad[:1], *tfds._tf_records(path)][:20])
    (piece,) = pieces((f"tfds:imdb_reviews?data_dir={tmp_path}",))
    told = []
    assert len(list(read(piece, "text", lambda *said: told.append(said)))) == 19
    ((name, reason),) = told
    assert name == "imdb_reviews/plain_text:train:00000:0"
    assert "not at byte" in reason
    for found in (read(piece, "text"), records(piece)):
        with pytest.raises(InputError, match=r"train.tfrecord-00000-of-00001:0 is not at byte"):
            list(found)


class TinyReviews(tfds_sets._Builder):
    """Known to TFDS by its name, as its own are."""

    features = ImdbReviews.features
    rows = ImdbReviews.rows
    fault: Exception | None = None

    def _split_generators(self, manager):
        if self.fault:
            raise self.fault
        return super()._split_generators(manager)


def test_what_is_not_prepared_is_prepared(tmp_path, capfd):
    """In ArrayRecord, once, and without the bars of TFDS."""
    source = f"tfds:tiny_reviews?data_dir={tmp_path}/new"
    assert len(texts(source)) == 20
    assert capfd.readouterr() == ("", f"preparing tfds:tiny_reviews in {tmp_path}/new\n")
    assert shard(tmp_path / "new/tiny_reviews/1.0.0", "train").name.count("array_record") == 1
    assert len(texts(source)) == 20
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "fault", [ModuleNotFoundError("No module named 'tensorflow'"), ConnectionError("no network")]
)
def test_what_cannot_be_prepared_here_comes_with_the_command(tmp_path, monkeypatch, fault):
    monkeypatch.setattr(TinyReviews, "fault", fault)
    with pytest.raises(InputError, match="tfds build tiny_reviews --file_format=array_record") as e:
        pieces((f"tfds:tiny_reviews?data_dir={tmp_path}",))
    assert str(fault) in str(e.value)
    assert f"copy DIR/tiny_reviews to {tmp_path}" in str(e.value)
    assert list(tmp_path.glob("tiny_reviews/*")) == []


@pytest.mark.parametrize("name", FORMATS)
def test_a_dataset_in_a_bucket(server, tmp_path, name):
    prepared(ImdbReviews, tmp_path, name, shards=2)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            inner = path.relative_to(tmp_path).as_posix()
            server.put("bucket-of-tests", f"sets/{inner}", path.read_bytes(), {})
    here, there = f"?data_dir={tmp_path}", "?data_dir=gs://bucket-of-tests/sets"
    assert texts("tfds:imdb_reviews" + there) == texts("tfds:imdb_reviews" + here)
    told = [content_id(DataConfig(files=(f"tfds:imdb_reviews{there}",))) for _ in range(2)]
    assert told[0] == told[1] is not None
    with pytest.raises(InputError, match=r"it is prepared on a machine, not in a bucket: .*build"):
        pieces((f"tfds:tiny_reviews{there}",))


def test_a_dataset_is_a_corpus(reviews, experiment):
    """Through the door of `data.files`, as any other text."""
    config = experiment(files=(f"tfds:imdb_reviews?data_dir={reviews}&split=train+test",))
    corpus = prepare(config, lambda line: None)
    found = list(documents(config.data))
    assert len(found) == 27
    size = sum(len(document.text.encode()) for document in found)
    assert sum(sides[PLAIN].index.bytes for sides in (corpus.train, corpus.validation)) == size


@pytest.mark.slow
@pytest.mark.parametrize(
    ("builder_of", "file_format", "source", "field"),
    [
        (ImdbReviews, "tfrecord", "imdb_reviews/plain_text?split=train+unsupervised&", "text"),
        (Wmt14Translate, "array_record", "wmt14_translate/de-en?", "en"),
    ],
    ids=["imdb", "wmt"],
)
def test_a_run_trains_on_a_dataset(tmp_path, root, builder_of, source, field, file_format):
    """The door that the real ones of these names would take: the command, and a corpus built."""
    prepared(builder_of, tmp_path / "sets", file_format)
    named = f"tfds:{source}data_dir={tmp_path}/sets"
    options = {
        "model.vocab-size": 0,
        "model.context-length": 32,
        "model.num-layers": 1,
        "model.embed-dim": 16,
        "model.num-heads": 1,
        "train.total-tokens": 512,
        "train.batch-tokens": 256,
        "train.sample-tokens": 1,
        "optimizer.warmup-tokens": 0,
        "data.tokenizer": "bytes",
        "data.validation-fraction": 0.3,
        "data.cache-dir": tmp_path / "cache",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    experiment, run = str(root / "experiments/quickstart.py"), tmp_path / "run"
    told = ["--data.files", named, "--data.jsonl-field", field, "--workdir", str(run)]
    assert main(["train", experiment, *words, *told]) == 0
    assert 0 < json.loads((run / "summary.json").read_text())["val_loss"] < 6

    found = (Source("set", (named,), text_field=field),)
    recipe = Recipe(sources=found, vocabulary=Vocabulary("bytes"), validation_fraction=0.3)
    ledger = build(recipe, tmp_path / "corpus", 1, Console(quiet=True))
    (read_step,) = (source["steps"]["read"] for source in ledger["sources"].values())
    assert read_step["documents"] == len(texts(named, field=field))
