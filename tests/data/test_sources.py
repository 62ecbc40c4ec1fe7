"""Documents and the split: names, order, and every fault of a corpus."""

import gzip
import json
import pickle
import sysconfig
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_jax.config import DataConfig, InputError
from gpt_jax.data import sources
from gpt_jax.data.sources import Document, content_id, documents, held_out, pieces, records


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
        ("x.jsonl", b'{"text": 3}', r"field 'text' is a string, and .*x.jsonl:1 .*type is int"),
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
    """A file with `texts` in the column "text", claimed to be UTF-8 where they are bytes."""
    column = pa.array(texts, pa.binary() if bytes in map(type, texts) else pa.string())
    columns = {"text": column.view(pa.string()), "label": pa.array(range(len(texts)))}
    return pq_of(columns, **options)


def pq_of(columns: dict, **options) -> bytes:
    """A Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, **options)
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


@pytest.mark.parametrize("name", ["a.jsonl", "b.jsonl.gz", "c.jsonl.zst", "d.parquet", "e.md.zst"])
def test_every_format_in_a_bucket(tmp_path, server, name):
    lines = "\n".join(json.dumps({"text": text}) for text in TEXTS).encode()
    content = {".gz": gzip.compress(lines), ".zst": packed(lines), ".parquet": parquet(TEXTS)}
    data = content.get(Path(name).suffix, lines)
    (tmp_path / name).write_bytes(data)
    server.put("bucket-of-tests", f"deep/er/{name}", data, {})
    assert [d.text for d in read("gs://bucket-of-tests/**/*")] == [
        d.text for d in read(tmp_path / name)
    ]
    (piece,) = pieces(("gs://bucket-of-tests/deep/**/*",))
    assert (piece.name, piece.size) == (f"er/{name}", len(data))


def test_markdown_and_source_trees(tmp_path):
    for name in ("docs/a.md", "docs/b/c.md", "docs/b/d.rst", "src/x.py", "src/.git/y.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    found = read(tmp_path / "docs/**/*.md", tmp_path / "src/**/*.py")
    assert [d.name for d in found] == ["a.md", "b/c.md", "x.py"]


def test_names_that_two_globs_give_are_told_apart(tmp_path):
    """By the order of the globs, which is the same on every machine."""
    for folder in ("z", "a"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.txt").write_text(folder)
    found = read(tmp_path / "z/*.txt", tmp_path / "a/*.txt", tmp_path / "z/x.txt")
    assert found == [Document("x.txt", "z"), Document("x.txt#2", "a")]


def test_a_link_is_read_as_what_it_is_named(tmp_path):
    """As the cache of the Hugging Face hub has them; a file that is linked twice is read once."""
    (tmp_path / "blob").write_bytes(gzip.compress(b'{"text": "a"}'))
    (tmp_path / "x.jsonl.gz").symlink_to(tmp_path / "blob")
    (tmp_path / "y.jsonl.gz").symlink_to(tmp_path / "blob")
    assert read(tmp_path / "*.gz") == [Document("x.jsonl.gz:1", "a")]


BAD = {
    "x.txt": b"b\xffd",
    "x.txt.zst": packed(b"b\xffd"),
    "x.jsonl": b'{"text": "one"}\n{"text": "b\xffd"}\n{"text": "three"}',
    "y.jsonl": rb'{"text": "one"}' + b"\n" + rb'{"text": "\udbff"}' + b'\n{"text": "three"}',
    "x.parquet": parquet([b"one", b"b\xffd", b"three"]),
    "y.parquet": parquet([b"one", b"b\xffd", b"three"], store_schema=False),
    "x.py": b"def found():\n    yield 'one'\n    yield {'text': '\\ud800'}\n    yield 'three'",
}


@pytest.mark.parametrize("name", BAD)
def test_a_document_that_is_no_unicode_can_be_skipped(tmp_path, name):
    """It is named with the reason, and the rest is read."""
    path = tmp_path / name
    path.write_bytes(BAD[name])
    source = f"python:{path}:found" if name == "x.py" else str(path)
    (piece,), told = pieces((source,)), []
    found = list(sources.read(piece, "text", lambda *said: told.append(said)))
    whole = ".txt" in name
    assert [document.text for document in found] == ([] if whole else ["one", "three"])
    ((bad, reason),) = told
    last = {"jsonl": ":2", "parquet": ":1", "py": ":found:1"}.get(name.split(".")[1], "")
    assert bad == name + last
    assert "surrogate" in reason if name in ("y.jsonl", "x.py") else "(0xff)" in reason
    with pytest.raises(InputError, match=r"text must be (UTF-8|valid Unicode), and .*/[xy]\."):
        list(sources.read(piece, "text"))
    if not whole and name[0] + name[-1] not in ("xt", "yt"):  # a column may be of bytes
        with pytest.raises(InputError):
            list(records(piece))


def test_whole_records(tmp_path):
    """A text alone is a record with one field."""
    (tmp_path / "a.txt").write_text("all of it")
    (tmp_path / "b.jsonl").write_text('{"a": {"b": "deep", "c": null}, "n": [1, 2.5, true]}\n\n{}')
    (tmp_path / "c.parquet").write_bytes(parquet(["x", None]))
    (tmp_path / "d.py").write_text("def found():\n    yield 'x'\n    yield {'text': 'y', 'n': 1}")
    files = (f"{tmp_path}/{name}" for name in ("a.txt", "b.jsonl", "c.parquet"))
    names = (*files, f"python:{tmp_path}/d.py:found")
    found = [record for piece in pieces(names) for record in records(piece)]
    assert found == [
        ("a.txt", {"text": "all of it"}),
        ("b.jsonl:1", {"a": {"b": "deep", "c": None}, "n": [1, 2.5, True]}),
        ("b.jsonl:3", {}),
        ("c.parquet:0", {"text": "x", "label": 0}),
        ("c.parquet:1", {"text": None, "label": 1}),
        ("d.py:found:0", {"text": "x"}),
        ("d.py:found:1", {"text": "y", "n": 1}),
    ]
    (tmp_path / "b.jsonl").write_text('{"a": {"b": "deep", "c": null}}\n{"a/b": "flat"}')
    assert [d.text for d in read(tmp_path / "b.jsonl", jsonl_field="a/b")] == ["deep", "flat"]
    assert read(tmp_path / "c.parquet") == [Document("c.parquet:0", "x")]  # null is no text


def test_a_row_group_at_a_time_and_the_text_alone(tmp_path):
    """What is damaged in other columns or further on does not matter before it is read."""
    texts = [f"text {i} " + "." * 500 for i in range(40)]
    data = bytearray(parquet(texts, row_group_size=10, compression="none", use_dictionary=False))
    path = tmp_path / "x.parquet"
    at = pq.ParquetFile(pa.BufferReader(bytes(data))).metadata
    label = at.row_group(0).column(1)
    assert label.path_in_schema == "label"
    data[label.data_page_offset : label.data_page_offset + 20] = b"\xff" * 20
    path.write_bytes(data)
    assert [d.text for d in read(path)] == texts
    (piece,) = pieces((str(path),))
    with pytest.raises(InputError, match="every file that is named must be readable"):
        list(records(piece))
    text = at.row_group(1).column(0)
    data[text.data_page_offset : text.data_page_offset + 20] = b"\xff" * 20
    path.write_bytes(data)
    reading = sources.read(piece, "text")
    found = [next(reading).text for _ in range(10)]
    with pytest.raises(InputError, match="every file that is named must be readable"):
        next(reading)
    assert found == texts[:10]


FLIPPED = parquet(
    TEXTS, write_page_checksum=True, compression="none", use_dictionary=False
).replace(b"one\r\ntwo", b"one\r\nt7o", 1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt.zst", b"not zstd", r"x.txt.zst is not \(ZSTD"),
        ("x.txt.zst", packed(b"text" * 99)[:-3], r"x.txt.zst is not \(Truncated"),
        ("x.jsonl.zst", packed(b'{"text": "a"}\n' * 9) + b"more", r"x.jsonl.zst is not \(ZSTD"),
        ("x.txt.gz", gzip.compress(b"text" * 99) + b"more", r"x.txt.gz is not \(Not a gzipped"),
        ("x.parquet", b"not parquet", r"x.parquet is not \(Parquet magic bytes not found"),
        ("x.parquet", parquet(TEXTS)[:-9], r"x.parquet is not"),
        ("x.parquet", FLIPPED, r"x.parquet is not \(could not verify page integrity"),
        ("x.parquet.gz", b"", r"x.parquet.gz is packed as a whole: unpack it"),
        ("x.parquet", parquet([]), r"there is no text in .*x.parquet"),
        ("x.parquet", pq_of({"txt": ["a"]}), r"no column 'text': did you mean 'txt'\?"),
        ("x.parquet", pq_of({"text": [1]}), r"field 'text' is a string, and .*x.parquet:0"),
        ("x.jsonl", b'{"txt": "a"}', r"x.jsonl:1 is not: did you mean 'txt'\? --data.jsonl-field"),
        ("x.jsonl", b"{}", r"x.jsonl:1 is not: it is empty"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read(tmp_path / name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("function", "body", "message"),
    [
        ("found", "def fuond(): yield 'x'", r"x.py has no function 'found': did you mean 'fuond'"),
        ("found", "import no_such_module", r"cannot be imported: ModuleNotFoundError.*line 1\)"),
        ("found", "def found(:", r"cannot be imported: SyntaxError"),
        ("found", "def found():\n  yield 'x'\n  1 / 0", r"failed: ZeroDivisionError.*x.py, line 3"),
        ("found", "def found(): return [3]", r"yields str or dict, and .* yields a int: 3"),
        ("found", "def found(): yield {'body': 'x'}", r"field 'text' is a string, and .*found:0"),
        ("no function", "", "is named python:PATH.py:FUNCTION or python:MODULE:FUNCTION"),
    ],
)
def test_a_function_that_fails_is_named(tmp_path, function, body, message):
    (tmp_path / "x.py").write_text(body)
    with pytest.raises(InputError, match=message):
        read(f"python:{tmp_path}/x.py:{function}")


def test_a_function_of_a_module(tmp_path, monkeypatch):
    (tmp_path / "my_sources.py").write_text("def found():\n    yield {'body': 'x'}")
    monkeypatch.syspath_prepend(tmp_path)
    found = read("python:my_sources:found", jsonl_field="body")
    assert found == [Document("my_sources:found:0", "x")]
    with pytest.raises(InputError, match=r"there is no file .*/nowhere.py"):
        read("python:nowhere.py:found")


def test_what_the_text_is_known_by_without_reading_it(tmp_path, monkeypatch):
    """The standard library too; nothing tells what a function gives, or what has just changed."""
    path = tmp_path / "x.txt"
    path.write_text("text")

    def known(*files: object, **data) -> str | None:
        return content_id(DataConfig(files=tuple(map(str, files)), **data))

    assert known(path) is None
    old = [known(), known(Path(sysconfig.get_paths()["stdlib"], "json/*.py"))]
    assert None not in old
    assert old == [known(), known(Path(sysconfig.get_paths()["stdlib"], "json/*.py"))]
    monkeypatch.setattr(sources, "SETTLED_SECONDS", 0)
    first = known(path)
    assert first is not None
    assert known(path) == first
    assert known(path, jsonl_field="body") != first
    time.sleep(0.02)
    path.write_text("taxt")
    assert known(path) not in (None, first)
    (tmp_path / "x.py").write_text("def found(): yield 'x'")
    assert known(path, f"python:{tmp_path}/x.py:found") is None


def test_a_function_s_file_is_a_module_like_any_other(tmp_path):
    """dataclasses look up annotations that are text in the module of the class, by its name."""
    (tmp_path / "x.py").write_text(
        "from __future__ import annotations\n"
        "import dataclasses\n"
        "@dataclasses.dataclass\n"
        "class Row:\n"
        "    text: str\n"
        "def found():\n"
        "    yield dataclasses.asdict(Row('a'))\n"
    )
    assert [one.text for one in read(f"python:{tmp_path}/x.py:found")] == ["a"]
