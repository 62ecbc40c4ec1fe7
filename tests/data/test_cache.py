"""The cache of token shards in a bucket: made once, copied and checked by everyone else."""

import pytest
from bucket_server import BucketServer

from gpt_jax.config import InputError
from gpt_jax.data import corpus as corpus_module
from gpt_jax.data.corpus import PLAIN, prepare
from gpt_jax.data.sources import documents

BUCKET = "bucket-of-tests"


def quiet(_: str) -> None:
    pass


@pytest.fixture
def in_bucket(server, experiment, texts):
    """The `experiment` of this folder with its texts, packed, and its cache in the bucket."""
    for path in texts.iterdir():
        server.put(BUCKET, f"texts/{path.name}", path.read_bytes(), {})
    files = (f"gs://{BUCKET}/texts/*.txt",)
    return lambda **data: experiment(files=files, cache_dir=f"gs://{BUCKET}/cache", **data)


def reads_of(server: BucketServer, part: str) -> int:
    return sum(count for name, count in server.downloads.items() if part in name)


@pytest.fixture
def another_machine(monkeypatch, tmp_path):
    """Go on with an empty home, as another host would."""
    homes = iter(range(99))
    return lambda: monkeypatch.setenv("HOME", str(tmp_path / f"home-{next(homes)}"))


def test_text_in_a_bucket_is_the_same_text(in_bucket, experiment):
    assert [*documents(in_bucket().data)] == [*documents(experiment().data)]
    local, there = prepare(experiment(), quiet), prepare(in_bucket(), quiet)
    assert there.folder.name == local.folder.name


@pytest.mark.parametrize("tokenizer", ["bytes", "characters", "sentencepiece"])
def test_another_host_reads_the_shards_and_not_the_text(
    tokenizer, in_bucket, server, another_machine, monkeypatch
):
    config = in_bucket(tokenizer=tokenizer, vocab_size=300 if tokenizer == "sentencepiece" else 0)
    first = prepare(config, quiet)
    tokens = first.train[PLAIN].read(0, first.train[PLAIN].index.tokens)
    server.downloads.clear()
    another_machine()
    monkeypatch.setattr(corpus_module, "_write", None)
    second = prepare(config, quiet)
    assert second.folder != first.folder
    assert second.tokenizer.digest == first.tokenizer.digest
    assert (second.train[PLAIN].read(0, second.train[PLAIN].index.tokens) == tokens).all()
    assert reads_of(server, "cache/") > 3
    assert reads_of(server, "texts/") == 0


def test_text_that_changed_is_read_again(in_bucket, server):
    first = prepare(in_bucket(), quiet)
    server.put(BUCKET, "texts/03.txt", b"other words", {})
    second = prepare(in_bucket(), quiet)
    assert second.folder.name != first.folder.name
    assert second.train[PLAIN].index.bytes != first.train[PLAIN].index.bytes


def test_a_copy_that_is_not_what_was_written(in_bucket, server, another_machine):
    """A flipped bit, a missing file: named, and nothing of it stays on this machine."""
    folder = prepare(in_bucket(), quiet).folder
    name = f"cache/{folder.name}/train/00000.bin"
    data = bytearray(server.objects[BUCKET, name].data)
    data[5] ^= 1
    server.put(BUCKET, name, bytes(data), {})
    for fault in ("changed", "missing"):
        if fault == "missing":
            del server.objects[BUCKET, name]
        another_machine()
        with pytest.raises(InputError, match=r"these are not: train/00000\.bin\. Delete the fol"):
            prepare(in_bucket(), quiet)


def test_an_entry_without_its_last_file_is_none(in_bucket, server, another_machine):
    """So it is when its writer was killed: the next one makes it, and puts all of it there."""
    folder = prepare(in_bucket(), quiet).folder
    entry = f"cache/{folder.name}/"
    whole = {name: server.objects[BUCKET, name].data for name in server.names(BUCKET, entry)}
    for name in (f"{entry}complete.json", f"{entry}train/index.json"):
        del server.objects[BUCKET, name]
    another_machine()
    said = []
    prepare(in_bucket(), said.append)
    assert any(line.startswith("tokenised") for line in said)
    again = {name: server.objects[BUCKET, name].data for name in server.names(BUCKET, entry)}
    assert again == whole
    del server.objects[BUCKET, f"{entry}complete.json"]
    prepare(in_bucket(), said.append)  # it is on this machine, and is given to the others
    assert f"{entry}complete.json" in server.names(BUCKET)


def test_a_memory_that_is_damaged_is_none(in_bucket, server):
    first = prepare(in_bucket(), quiet)
    (name,) = server.names(BUCKET, "cache/survey-")
    content = server.objects[BUCKET, name].data
    server.put(BUCKET, name, content.replace(b'documents\\": 40', b'documents\\": 41'), {})
    assert server.objects[BUCKET, name].data != content
    assert prepare(in_bucket(), quiet).folder == first.folder
    assert server.objects[BUCKET, name].data == content
