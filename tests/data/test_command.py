"""`gpt-jax data` as it is typed."""

import json
import re
from pathlib import Path

import pytest

from gpt_jax.cli import main
from gpt_jax.paths import user_path

RECIPE = """
from gpt_jax.data.recipe import Recipe, Source, Vocabulary

def get_config():
    return Recipe(
        name="small",
        sources=(Source("one", ("{folder}/*.txt",)), Source("two", ("{folder}/*.md",))),
        validation_fraction=0.3,
        vocabulary=Vocabulary(tokenizer="bytes"),
    )
"""


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    """A file with a recipe for two sources of ten documents."""
    folder = tmp_path / "text"
    folder.mkdir()
    for i in range(10):
        (folder / f"{i}.txt").write_text(f"Text {i}. " * 20)
        (folder / f"{i}.md").write_text(f"# Page {i}\n" * 20)
    path = tmp_path / "small.py"
    path.write_text(RECIPE.format(folder=folder))
    return str(path)


def test_a_corpus_is_built_and_its_ledger_shown(recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["data", "build", recipe]) == 0
    said = capsys.readouterr().out
    assert "gpt-jax train EXPERIMENT --data.corpus corpora/small" in said
    assert main(["data", "show", "corpora/small"]) == 0
    table = capsys.readouterr().out
    assert re.search(r"two +10 ", table)
    assert table.strip() in said
    ledger = json.loads(Path("corpora/small/ledger.json").read_bytes())
    tokens = [source["shards"]["train"]["tokens"] for source in ledger["sources"].values()]
    assert all(f"{count:,}" in table for count in tokens)


def test_fields_of_a_recipe_are_options(recipe, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["--seed", "3", "--sources.1.weight", "2", "--sources.0.weight", "1"]
    assert main(["data", "build", recipe, "--out", str(out), "--processes", "1", *words]) == 0
    said = json.loads((out / "recipe.json").read_bytes())
    assert (said["seed"], said["sources"][1]["weight"]) == (3, 2.0)
    with pytest.raises(SystemExit) as exit:
        main(["data", "build", recipe, "--help"])
    assert exit.value.code == 0
    assert "--dedup.threshold" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--validation-fraction", "2"], "between 0 and 1"),
        (["--steps", "dedup", "quality"], "needs a source with quality='reference'"),
        (["--sources.0.weight", "1"], "either every source has a weight or none"),
        (["--sources.0.files", "nowhere/*.txt"], "matches none"),
        (["--processes", "-1"], "--processes is negative"),
        (["--vocabulary.tokenizer", "words"], "the tokenizer of a corpus is"),
        (["--vocabulary.tokenizer", "none"], "tokens, text or both"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_bad_options_are_one_paragraph(recipe, tmp_path, capsys, words, message):
    assert main(["data", "build", recipe, "--out", str(tmp_path / "out"), *words]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_unknown_field_names_the_nearest(recipe, capsys):
    with pytest.raises(SystemExit) as exit:
        main(["data", "build", recipe, "--dedup.treshold", "0.7"])
    assert exit.value.code == 2
    assert "--dedup.threshold" in capsys.readouterr().err


def test_a_recipe_is_no_experiment_and_an_experiment_no_recipe(recipe, root, capsys):
    assert main(["train", recipe]) == 1
    assert "is no experiment: its get_config() gives a Recipe" in capsys.readouterr().err
    assert main(["data", "build", str(root / "experiments" / "quickstart.py")]) == 1
    assert "is no recipe: its get_config() gives a Config" in capsys.readouterr().err


def test_a_ledger_that_is_not_there_is_named(tmp_path, capsys):
    assert main(["data", "show", str(tmp_path)]) == 1
    assert "a corpus has a ledger.json" in capsys.readouterr().err


def test_the_rates_of_a_build_are_measured_and_nothing_is_left(
    recipe, capsys, monkeypatch, tmp_path
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    assert main(["data", "bench", recipe, "--processes", "2"]) == 0
    table = capsys.readouterr().out
    assert "2 processes" in table
    assert "write shards" in table
    assert [*(tmp_path / "temporary").iterdir()] == []


def test_a_corpus_goes_to_a_bucket_and_is_not_replaced_there(
    recipe, server, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    out = "gs://bucket-of-tests/corpora/small"
    for _ in range(2):
        assert main(["data", "build", recipe, "--out", out]) == 0
    here = {
        path.relative_to(tmp_path / "corpora/small").as_posix(): path.read_bytes()
        for path in (tmp_path / "corpora/small").rglob("*")
        if path.is_file()
    }
    there = user_path(out)
    assert {name: (there / name).read_bytes() for name in here} == here
    assert main(["data", "show", out]) == 0
    capsys.readouterr()
    assert main(["data", "build", recipe, "--out", out, "--validation-fraction", "0.5"]) == 1
    assert "a corpus in a bucket is never replaced" in capsys.readouterr().err
    assert {name: (there / name).read_bytes() for name in here} == here
