"""The build as a whole: what it makes, that it goes on after a kill, and that nothing is lost."""

import dataclasses
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from gpt_jax.config import InputError
from gpt_jax.data import sources
from gpt_jax.data.build.steps import build
from gpt_jax.data.recipe import Recipe, Source, Vocabulary
from gpt_jax.data.shards import TokenShards
from gpt_jax.data.tokenizers import load_tokenizer

QUIET = Console(quiet=True)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Two sources of real words: 30 small files, and 60 lines of JSON."""
    draw = random.Random(0)
    words = Path(json.__file__).read_text(encoding="utf-8").split()
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(30):
        (folder / f"{i:02d}.txt").write_text(" ".join(draw.choices(words, k=200)))
    lines = [json.dumps({"body": " ".join(draw.choices(words, k=100))}) for _ in range(60)]
    (folder / "lines.jsonl").write_text("\n".join(lines))
    return folder


def recipe_of(texts: Path, **fields) -> Recipe:
    defaults = {
        "sources": (
            Source("files", (str(texts / "*.txt"),), weight=1.0),
            Source("lines", (str(texts / "*.jsonl"),), "body", weight=2.0),
        ),
        "part_bytes": 6000,
        "validation_fraction": 0.2,
        "vocabulary": Vocabulary(vocab_size=400, sample_bytes=20_000),
    }
    return Recipe(**(defaults | fields))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def num_files(folder: Path) -> int:
    """Files that are there; folders that go away meanwhile are no error."""
    return sum(len(names) for _, _, names in os.walk(folder))


def texts_of(split: TokenShards, tokenizer) -> list[str]:
    flat = split.read(0, split.index.tokens)
    ends = np.flatnonzero(flat == tokenizer.separator)
    return [tokenizer.decode(part.tolist()[:-1]) for part in np.split(flat, ends[:-1] + 1)]


def test_every_document_is_on_one_side_and_as_it_was(texts, tmp_path):
    out = tmp_path / "corpus"
    ledger = build(recipe_of(texts), out, 1, QUIET)
    tokenizer = load_tokenizer(out)
    lines = (texts / "lines.jsonl").read_text().splitlines()
    wanted = {
        "files": [path.read_text() for path in sorted(texts.glob("*.txt"))],
        "lines": [json.loads(line)["body"] for line in lines],
    }
    for name, documents in wanted.items():
        sides = [
            texts_of(TokenShards.open(out / side / name), tokenizer)
            for side in ("train", "validation")
        ]
        assert sorted(sides[0] + sides[1]) == sorted(documents)
        assert 0 < len(sides[1]) < len(documents) / 2
        assert sides[0] == [text for text in documents if text in sides[0]]  # in their order
        counted = ledger["sources"][name]["shards"]["train"]
        assert counted["documents"] == len(sides[0])
        assert counted["bytes"] == sum(len(text.encode()) for text in sides[0])
        assert len([*(out / "train" / name).glob("*.bin")]) > 3
    assert json.loads((out / "ledger.json").read_bytes()) == ledger


def test_the_bytes_do_not_depend_on_the_processes(texts, tmp_path):
    for processes in (1, 3):
        build(recipe_of(texts), tmp_path / str(processes), processes, QUIET)
    assert contents(tmp_path / "1") == contents(tmp_path / "3")
    assert contents(tmp_path / "1.work") == contents(tmp_path / "3.work")


def test_another_build_goes_on_from_the_steps_that_are_the_same(texts, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "SETTLED_SECONDS", 0)  # they were written just now
    out = tmp_path / "corpus"
    build(recipe_of(texts), out, 1, QUIET)
    before = contents(out)
    said = Console(record=True, width=100, file=(tmp_path / "log").open("w"))
    build(recipe_of(texts), out, 1, said)
    assert contents(out) == before
    assert said.export_text().count("as before") == 4
    said = Console(record=True, width=100, file=(tmp_path / "log").open("w"))
    build(recipe_of(texts, vocabulary=Vocabulary(tokenizer="bytes")), out, 1, said)
    assert said.export_text().count("as before") == 1
    assert load_tokenizer(out).kind == "bytes"


def test_changed_text_is_read_again(texts, tmp_path):
    recipe = recipe_of(texts, vocabulary=Vocabulary(tokenizer="bytes"))
    first = build(recipe, tmp_path / "corpus", 1, QUIET)
    (texts / "00.txt").write_text("Entirely different.")
    second = build(recipe, tmp_path / "corpus", 1, QUIET)
    assert second["digest"] != first["digest"]
    assert second["sources"]["lines"] == first["sources"]["lines"]


def test_a_function_is_asked_again_by_each_build_that_begins_anew(texts, tmp_path):
    code = tmp_path / "documents.py"
    code.write_text(f"def found():\n    return open({str(texts / '00.txt')!r}).read().split()\n")
    source = Source("words", (f"python:{code}:found",))
    recipe = recipe_of(texts, sources=(source,), vocabulary=Vocabulary(tokenizer="bytes"))
    first = build(recipe, tmp_path / "corpus", 1, QUIET)
    assert build(recipe, tmp_path / "corpus", 1, QUIET) == first
    (texts / "00.txt").write_text("entirely different words " * 20)
    second = build(recipe, tmp_path / "corpus", 1, QUIET)
    assert second["sources"]["words"]["steps"]["read"]["documents"] == 60
    (tmp_path / "corpus.work" / "ended").unlink()  # as a kill would have left it
    (texts / "00.txt").write_text("again " * 50)
    assert build(recipe, tmp_path / "corpus", 1, QUIET) == second


def test_text_alone_is_a_corpus_too(texts, tmp_path):
    import pyarrow.parquet as pq

    recipe = recipe_of(texts, keep_text=True, vocabulary=Vocabulary(tokenizer="none"))
    build(recipe, tmp_path / "corpus", 1, QUIET)
    tables = [pq.read_table(path) for path in sorted((tmp_path / "corpus").rglob("*.parquet"))]
    found = [text for table in tables for text in table["text"].to_pylist()]
    lines = (texts / "lines.jsonl").read_text().splitlines()
    files = [path.read_text() for path in sorted(texts.glob("*.txt"))]
    assert found == files + [json.loads(line)["body"] for line in lines]
    assert tables[-1]["id"].to_pylist()[-1] == "lines.jsonl:60"


def test_bad_input_leaves_the_corpus_that_is_there(texts, tmp_path):
    out = tmp_path / "corpus"
    build(recipe_of(texts), out, 1, QUIET)
    before = contents(out)
    (texts / "07.txt").write_bytes(b"not \xff UTF-8")
    with pytest.raises(InputError, match="UTF-8"):
        build(recipe_of(texts), out, 1, QUIET)
    assert contents(out) == before
    ledger = build(recipe_of(texts, invalid_utf8="skip"), out, 1, QUIET)
    row = ledger["sources"]["files"]["steps"]["read"]["dropped"]["not UTF-8"]
    assert row["documents"] == 1
    assert "07.txt" in row["examples"][0]


@pytest.mark.parametrize("fraction", [1e-9, 1 - 1e-9])
def test_text_all_on_one_side_replaces_no_corpus(texts, tmp_path, fraction):
    out, tokens = tmp_path / "corpus", Vocabulary(tokenizer="bytes")
    build(recipe_of(texts, vocabulary=tokens), out, 1, QUIET)
    before = contents(out)
    with pytest.raises(InputError, match="both sides"):
        build(recipe_of(texts, vocabulary=tokens, validation_fraction=fraction), out, 1, QUIET)
    assert contents(out) == before


def test_a_folder_of_other_things_is_left_alone(texts, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").touch()
    with pytest.raises(InputError, match="neither"):
        build(recipe_of(texts), tmp_path / "mine", 1, QUIET)
    assert contents(tmp_path / "mine") == {"notes": b""}


def test_a_source_without_text_is_named(texts, tmp_path):
    (texts / "empty.md").write_text(" \n")
    source = Source("nothing", (str(texts / "*.md"),))
    with pytest.raises(InputError, match="'nothing' has none"):
        build(recipe_of(texts, sources=(source,)), tmp_path / "corpus", 1, QUIET)


BUILD = """
import json, sys
from pathlib import Path
from rich.console import Console
from gpt_jax.config import from_dict
from gpt_jax.data.build.steps import build
from gpt_jax.data.recipe import Recipe

if __name__ == "__main__":
    build(from_dict(Recipe, json.loads(sys.argv[1])), Path(sys.argv[2]), 2, Console())
"""


@pytest.mark.slow
def test_killed_at_ten_random_points_the_bytes_are_the_same(texts, tmp_path):
    """Each time when a random number of files is there, counted by their names."""
    recipe = recipe_of(texts, keep_text=True)
    build(recipe, tmp_path / "undisturbed", 1, QUIET)
    folder, script = tmp_path / "killed", tmp_path / "build.py"
    folder.mkdir()
    script.write_text(BUILD)
    arguments = [sys.executable, str(script), json.dumps(dataclasses.asdict(recipe))]

    def start() -> subprocess.Popen:
        return subprocess.Popen([*arguments, str(folder / "corpus")], stdout=subprocess.DEVNULL)

    work = contents(tmp_path / "undisturbed.work")
    draw, kills = random.Random(1), 0
    for count in sorted(draw.sample(range(1, len(work)), 10)):
        with start() as process:
            while process.poll() is None and num_files(folder) < count:
                time.sleep(0.002)
            kills += process.poll() is None
            process.send_signal(signal.SIGKILL)
        assert not (folder / "corpus").exists()
    assert kills == 10
    with start() as process:
        assert process.wait() == 0
    assert contents(folder / "corpus") == contents(tmp_path / "undisturbed")
    assert contents(folder / "corpus.work") == work


@pytest.mark.parametrize("moment", ["before", "between"])
def test_killed_while_the_corpus_takes_its_place(texts, tmp_path, monkeypatch, moment):
    """The older one is there, or comes back; the new one is whole in the end."""
    out = tmp_path / "corpus"
    build(recipe_of(texts), out, 1, QUIET)
    older = contents(out)
    recipe = recipe_of(texts, vocabulary=Vocabulary(tokenizer="bytes"))
    renames, rename = [], Path.rename

    def dying(self, target):
        if Path(target).name in ("corpus", ".old-corpus"):
            renames.append(self)
            if len(renames) == {"before": 1, "between": 2}[moment]:
                raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dying)
        with pytest.raises(KeyboardInterrupt):
            build(recipe, out, 1, QUIET)
    assert contents(out if moment == "before" else tmp_path / ".old-corpus") == older
    (texts / "bad.txt").write_bytes(b"\xff")
    with pytest.raises(InputError):
        build(recipe, out, 1, QUIET)
    assert contents(out) == older
    (texts / "bad.txt").unlink()
    build(recipe, out, 1, QUIET)
    assert load_tokenizer(out).kind == "bytes"
    assert {path.name for path in tmp_path.iterdir()} == {"corpus", "corpus.work", "texts"}


@pytest.mark.parametrize("changed", [{"part_bytes": 2500}, {"validation_fraction": 0.6}], ids=str)
def test_what_an_older_build_left_changes_nothing(texts, tmp_path, changed):
    """Where the recipe differs in what a step depends on, its jobs are done anew."""
    one_file = {"sources": (Source("lines", (str(texts / "*.jsonl"),), "body"),)}
    build(recipe_of(texts, **one_file), tmp_path / "a", 1, QUIET)
    for name in ("a", "b"):
        build(recipe_of(texts, **one_file, **changed), tmp_path / name, 1, QUIET)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_the_order_of_the_sources_is_no_small_thing(texts, tmp_path):
    """Of two copies the first source's stays, whatever an older build had found."""
    files = Source("files", (str(texts / "*.txt"),))
    copies = Source("copies", (str(texts / "0*.txt"),))
    bytes_alone = {"steps": ("dedup",), "vocabulary": Vocabulary(tokenizer="bytes")}
    left = []
    for order in ((files, copies), (copies, files)):
        ledger = build(recipe_of(texts, sources=order, **bytes_alone), tmp_path / "a", 1, QUIET)
        left.append([len(source["shards"]) for source in ledger["sources"].values()])
        rows = [source["steps"]["dedup"] for source in ledger["sources"].values()]
        assert rows[1]["dropped"]["same words as a better one"]["documents"] == 10
    assert left[0][1] == 0
    build(recipe_of(texts, sources=(copies, files), **bytes_alone), tmp_path / "b", 1, QUIET)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_function_that_was_corrected_is_asked_again(texts, tmp_path):
    """Whether the build before ended with an error or was killed."""
    code = tmp_path / "documents.py"
    source = Source("words", (f"python:{code}:found",))
    recipe = recipe_of(texts, sources=(source,), vocabulary=Vocabulary(vocab_size=400))
    code.write_text("def found():\n    return ['too little']\n")
    with pytest.raises(InputError, match="more text"):
        build(recipe, tmp_path / "corpus", 1, QUIET)
    text = texts / "00.txt"
    code.write_text(f"def found():\n    return [open({str(text)!r}).read()] * 30\n")
    first = build(recipe, tmp_path / "corpus", 1, QUIET)
    (tmp_path / "corpus.work" / "ended").unlink()  # as a kill would have left it
    code.write_text(code.read_text().replace("30", "31"))
    second = build(recipe, tmp_path / "corpus", 1, QUIET)
    documents = [x["sources"]["words"]["steps"]["read"]["documents"] for x in (first, second)]
    assert documents == [30, 31]


@pytest.mark.parametrize("damaged", ["documents-files*/00001-000.parquet", "dedup*/00002.npy"])
def test_what_is_damaged_in_the_work_folder_says_what_to_do(texts, tmp_path, monkeypatch, damaged):
    monkeypatch.setattr(sources, "SETTLED_SECONDS", 0)  # or they are read again
    out, work = tmp_path / "corpus", tmp_path / "corpus.work"
    recipe = recipe_of(texts, steps=("dedup",), vocabulary=Vocabulary(tokenizer="bytes"))
    build(recipe, out, 1, QUIET)
    before = contents(out)
    (path,) = work.glob(damaged)
    os.truncate(path, 70)
    (shards,) = work.glob("shards*")
    shutil.rmtree(shards)
    with pytest.raises(InputError, match=re.escape(f"delete the folder {work},")):
        build(recipe, out, 1, QUIET)
    assert contents(out) == before
    shutil.rmtree(work)
    build(recipe, out, 1, QUIET)
    assert contents(out) == before
