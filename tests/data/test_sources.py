"""Documents and the split: names, order, and every fault of a corpus."""

import gzip
import json
import pickle
import sysconfig
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_jax.config import DataConfig, InputError
from gpt_jax.data.sources import Document, documents, held_out, pieces, records


def read(*files, **data) -> list[Document]:
    return list(documents(DataConfig(files=tuple(map(str, files)), **data)))


def test_the_standard_library_is_read_as_it_stands():
    root = Path(sysconfig.get_paths()["stdlib"])
    found = {document.name: document.text for document in documents(DataConfig())}
    assert list(found) == sorted(found)
    assert found["json/decoder.py"].encode() == (root / "json/decoder.py").read_bytes()
    folders = {part for name in found for part in Path(name).parts[:-1]}
    assert not folders & {"site-packages", "dist-packages", "test", "tests", "__pycache__"}
    assert sum(len(text) for text in found.values()) > 5_000_000


def test_names_are_relative_to_the_fixed_part_of_the_glob(tmp_path):
    for name in ("b/x.txt", "a/y.txt", "a/deep/z.md", "a/[odd].txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [d.name for d in read(tmp_path / "**/*.txt")] == ["a/[odd].txt", "a/y.txt", "b/x.txt"]
    assert [d.name for d in read(tmp_path / "a/*.txt")] == ["[odd].txt", "y.txt"]
    assert [d.name for d in read(tmp_path / "a/[odd].txt")] == ["[odd].txt"]
    twice = read(tmp_path / "a/**/*", tmp_path / "**/*.txt")
    assert sorted(d.text for d in twice) == ["a/[odd].txt", "a/deep/z.md", "a/y.txt", "b/x.txt"]


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.txt").write_text("here")
    assert read("~/x.txt") == [Document("x.txt", "here")]


def test_lines_and_archives(tmp_path):
    lines = [{"text": "one\r\ntwo"}, {"text": ""}, {"text": "\u00e9\U0001f600", "other": 1}]
    content = "\n\n".join(map(json.dumps, lines)).encode()
    (tmp_path / "a.jsonl").write_bytes(content)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(content))
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"\ttabs\r\n"))
    assert read(tmp_path / "*") == [
        Document("a.jsonl:1", "one\r\ntwo"),
        Document("a.jsonl:5", "\u00e9\U0001f600"),
        Document("b.jsonl.gz:1", "one\r\ntwo"),
        Document("b.jsonl.gz:5", "\u00e9\U0001f600"),
        Document("c.txt.gz", "\ttabs\r\n"),
    ]
    assert read(tmp_path / "a.jsonl", jsonl_field="text")[0].text == "one\r\ntwo"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt", b"good\nb\xffd", r"x.txt is not at byte 6 \(0xff\)"),
        ("x.jsonl", b'{"text": "a"}\n{"text": "\xff"}', r"x.jsonl is not at byte 24 \(0xff\)"),
        ("x.jsonl", b'{"text": "a"}\n{"text"', r"x.jsonl:2 is not"),
        ("x.jsonl", b'{"body": "a"}', r"field 'text' is a string, and .*x.jsonl:1"),
        ("x.jsonl", b'{"text": 3}', r"field 'text' is a string, and .*x.jsonl:1"),
        ("x.jsonl", b'["text"]', r"must be a JSON object, and .*x.jsonl:1 is not"),
        ("x.jsonl", b'"text"', r"must be a JSON object, and .*x.jsonl:1 is not"),
        ("x.jsonl", rb'{"text": "a\ud800b"}', r"x.jsonl:1 has half of a surrogate pair"),
        ("x.txt.gz", b"not gzip", r"x.txt.gz is not"),
        ("x.txt.gz", gzip.compress(b"text" * 99)[:20], r"x.txt.gz is not"),
        ("x.txt", b"", r"there is no text in .*x.txt"),
        ("y.txt", b"text", r"matches none"),
    ],
)
def test_bad_input_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(tmp_path / name.replace("y", "x"))


def test_a_folder_is_not_a_file(tmp_path):
    with pytest.raises(InputError, match=r"folder/\*\*"):
        read(tmp_path)


def test_split_by_path_takes_whole_documents():
    config = DataConfig(validation_fraction=0.25)
    parts = {
        name: held_out(Document(name, "some text"), config)
        for name in (f"{i}.py" for i in range(2000))
    }
    assert set(parts.values()) == {("some text", ""), ("", "some text")}
    held = sum(validation != "" for _, validation in parts.values())
    assert 440 < held < 560
    # `printf 0.py | sha256sum` begins 2fbc, which is 0.19 of 2^16, and that of 1.py 44da, 0.27.
    assert parts["0.py"] == ("", "some text")
    assert parts["1.py"] == ("some text", "")


@given(st.text(), st.floats(0.01, 0.99))
def test_split_by_position_loses_nothing(text, fraction):
    config = DataConfig(split="position", validation_fraction=fraction)
    assert "".join(held_out(Document("x", text), config)) == text


def test_split_by_position_cuts_where_nanogpt_does():
    config = DataConfig(split="position", validation_fraction=0.1)
    train, validation = held_out(Document("x", "a" * 1_115_394), config)
    assert (len(train), len(validation)) == (1_003_854, 111_540)


def packed(data: bytes) -> bytes:
    """zstd, in two frames."""
    half, frames = len(data) // 2, []
    for part in (data[:half], data[half:]):
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(part)
        frames.append(sink.getvalue().to_pybytes())
    return b"".join(frames)


def parquet(texts: list[str | bytes | None], **options) -> bytes:
    sink = pa.BufferOutputStream()
    table = {
        "text": pa.array(texts),
        "label": list(range(len(texts))),
        "big": ["x" * 999] * len(texts),
    }
    pq.write_table(pa.table(table), sink, **options)
    return sink.getvalue().to_pybytes()


TEXTS = ["one\r\ntwo", "", "\u00e9\U0001f600\0", "\u2028 \x85 not the end of a line"]


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.jsonl.zst", "x.parquet", "x.py"])
def test_every_format_gives_the_same_documents(tmp_path, name):
    """Positions are lines, from 1, and rows, from 0."""
    lines = "\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in TEXTS).encode()
    function = f"def found():\n    for text in {TEXTS!r}:\n        yield {{'text': text}}"
    content = {
        "x.jsonl": lines,
        "x.jsonl.gz": gzip.compress(lines),
        "x.jsonl.zst": packed(lines),
        "x.parquet": parquet(TEXTS),
        "x.py": function.encode(),
    }[name]
    path = tmp_path / name
    path.write_bytes(content)
    source = f"python:{path}:found" if name == "x.py" else path
    first = int("jsonl" in name)
    said = name + (":found" if name == "x.py" else "")
    assert read(source) == [
        Document(f"{said}:{i}", text) for i, text in enumerate(TEXTS, first) if text
    ]
    (piece,) = pieces((str(source),))
    assert [(name, record["text"]) for name, record in records(piece)] == [
        (f"{said}:{i}", text) for i, text in enumerate(TEXTS, first)
    ]
    assert pickle.loads(pickle.dumps(piece)) == piece
    assert piece.size == (0 if name == "x.py" else len(content))
