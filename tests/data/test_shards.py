"""Shards: what is written is read back, and what is damaged is named."""

import gzip
import hashlib
import json
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_jax.config import InputError
from gpt_jax.data import shards as shards_module
from gpt_jax.data import sources
from gpt_jax.data.cache import VERIFIED
from gpt_jax.data.encode import encode
from gpt_jax.data.shards import ShardWriter, TokenShards
from gpt_jax.data.tokenizers import ByteTokenizer, CharacterTokenizer

TEXTS = ["ab", "c\u00e9", "a longer document", "d"]
DOCUMENTS = [[*text.encode(), 256] for text in TEXTS]


@pytest.fixture
def folder(tmp_path):
    """Shards of TEXTS, of at most 8 tokens where a document allows it."""
    with ShardWriter(tmp_path / "train", ByteTokenizer(), shard_tokens=8) as writer:
        for text in TEXTS:
            writer.add(text)
        writer.finish("a digest")
    return tmp_path / "train"


def test_documents_are_packed_whole(folder):
    shards = TokenShards.open(folder)
    shards.verify()
    expected = [DOCUMENTS[0] + DOCUMENTS[1], DOCUMENTS[2], DOCUMENTS[3]]
    assert [tokens.tolist() for tokens in shards.tokens] == expected
    index = shards.index
    assert (index.documents, index.tokens, index.bytes) == (4, 27, 23)
    assert (index.dtype, index.separator, index.vocab_size) == ("uint16", 256, 257)
    assert (index.tokenizer, index.sources) == (ByteTokenizer().digest, "a digest")
    assert [path.stat().st_size for path in sorted(folder.glob("*.bin"))] == [14, 36, 4]


@settings(max_examples=30)
@given(st.lists(st.integers(0, 12), max_size=12), st.integers(1, 12))
def test_documents_added_together_lie_as_those_added_one_by_one(lengths, size):
    texts = ["x" * length for length in lengths]
    contents = []
    for parts in ([[text] for text in texts], [texts], [texts[:2], texts[2:]]):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "train")
            with ShardWriter(path, ByteTokenizer(), True, shard_tokens=size) as writer:
                for part in parts:
                    writer.add_batch(part, encode(part, ByteTokenizer()))
                writer.finish("")
            contents.append({file.name: file.read_bytes() for file in path.iterdir()})
    assert contents[0] == contents[1] == contents[2]


def test_the_size_of_the_text_packed_is_that_of_one_file(tmp_path):
    texts = [f"{i} of some words, {i % 7}\n" * 50 for i in range(50)]
    with ShardWriter(tmp_path / "train", ByteTokenizer(), measure_gzip=True) as writer:
        for text in texts:
            writer.add(text)
        writer.finish("")
    data = "".join(texts).encode()
    index = TokenShards.open(tmp_path / "train").index
    assert index.gzip_bits_per_byte == 8 * len(gzip.compress(data, 9)) / len(data)


def test_reading_crosses_shards(folder):
    shards = TokenShards.open(folder)
    flat = np.concatenate(shards.tokens)
    for start in range(len(flat) + 1):
        for stop in range(start, len(flat) + 1):
            assert shards.read(start, stop).tolist() == flat[start:stop].tolist()


def test_a_large_vocabulary_takes_four_bytes(tmp_path):
    characters = [chr(point) for point in range(0x10000, 0x20001)]
    tokenizer = CharacterTokenizer(characters)
    with ShardWriter(tmp_path / "train", tokenizer) as writer:
        writer.add(characters[-1])
        writer.finish("")
    shards = TokenShards.open(tmp_path / "train")
    assert shards.index.dtype == "uint32"
    assert shards.tokens[0].tolist() == [0x10000, 0x10001]


def test_an_unfinished_folder_has_no_index(tmp_path):
    with ShardWriter(tmp_path / "train", ByteTokenizer()) as writer:
        writer.add("text")
    with pytest.raises(InputError, match=r"index\.json cannot be read.*delete the folder"):
        TokenShards.open(tmp_path / "train")


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b + b"\0\0", lambda b: b""])
def test_a_shard_of_the_wrong_size_is_named(folder, change):
    path = folder / "00001.bin"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError, match=r"00001\.bin has \d+ bytes of 36: delete the folder"):
        TokenShards.open(folder)


def test_a_missing_shard_is_named(folder):
    (folder / "00002.bin").unlink()
    with pytest.raises(InputError, match=r"00002\.bin has 0 bytes of 4"):
        TokenShards.open(folder)


def test_a_flipped_bit_is_found(folder):
    data = bytearray((folder / "00001.bin").read_bytes())
    data[10] ^= 1
    (folder / "00001.bin").write_bytes(data)
    with pytest.raises(InputError, match=r"00001\.bin has another: it is damaged"):
        TokenShards.open(folder).verify()


@pytest.mark.parametrize(
    "change", [{"format": 99}, {"dtype": "int8"}, {"tokens": "many"}, {"shards": None}]
)
def test_a_bad_index_is_named(folder, change):
    path = folder / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=r"index\.json cannot be read"):
        TokenShards.open(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff"])
def test_an_unreadable_index_is_named(folder, content):
    (folder / "index.json").write_bytes(content)
    with pytest.raises(InputError, match=r"index\.json cannot be read"):
        TokenShards.open(folder)


def test_a_shard_that_was_not_written_to_is_not_read_again(folder, monkeypatch):
    """Whatever is remembered, what was written to since is read: also with its old times."""
    read = []

    def sha256(data, original=hashlib.sha256):
        read.append(len(data))
        return original(data)

    monkeypatch.setattr(shards_module.hashlib, "sha256", sha256)
    for _ in range(2):  # written just now: another change could leave their times as they are
        TokenShards.open(folder).verify()
        assert read == [7, 18, 2]
        read.clear()
    monkeypatch.setattr(sources, "SETTLED_SECONDS", 0)
    TokenShards.open(folder).verify()
    assert read == [7, 18, 2]
    TokenShards.open(folder).verify()
    assert read == [7, 18, 2]
    time.sleep(0.05)  # the clock of a file system ticks every few milliseconds
    path = folder / "00001.bin"
    times, data = path.stat(), path.read_bytes()
    path.write_bytes(data[:-1] + b"\2")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(InputError, match=r"00001\.bin has another: it is damaged"):
        TokenShards.open(folder).verify()
    path.write_bytes(data)
    read.clear()
    TokenShards.open(folder).verify()
    assert read == [18]


@pytest.mark.parametrize("content", [b"", b"[]", b'{"00000.bin": 1}'])
def test_a_damaged_memory_is_none(folder, content, monkeypatch):
    monkeypatch.setattr(sources, "SETTLED_SECONDS", 0)
    TokenShards.open(folder).verify()
    kept = (folder / VERIFIED).read_bytes()
    (folder / VERIFIED).write_bytes(content)
    TokenShards.open(folder).verify()
    assert (folder / VERIFIED).read_bytes() == kept
    assert len([*folder.iterdir()]) == 5


def test_more_shards_than_files_may_be_open_at_first(tmp_path):
    """Systems begin with 256 or 1,024, of which a corpus has thousands."""
    with ShardWriter(tmp_path / "train", ByteTokenizer(), shard_tokens=2) as writer:
        for _ in range(60):
            writer.add("a")
        writer.finish(sources="digest")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        lowest = len(os.listdir("/dev/fd")) + 20
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
        assert len(TokenShards.open(tmp_path / "train").tokens) == 60
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
