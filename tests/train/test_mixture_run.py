"""A run on a mixture: what it says, what it draws, and that it goes on bit for bit."""

import shutil

import numpy as np
import pytest
from built_corpus import write_corpus
from tiny_run import BATCH_TOKENS, STEPS, TEXTS, assert_same_run, metrics, saved_steps

from gpt_jax.cli import load_experiment, main
from gpt_jax.data.built import open_built
from gpt_jax.data.mixture import open_mixture

pytestmark = pytest.mark.slow

CHANGE = 8 * BATCH_TOKENS


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The three texts as three sources, the last tenth of each held out."""
    sources = {}
    for weight, (name, text) in zip((0.5, 0.3, 0.2), TEXTS.items(), strict=True):
        cut = len(text) * 9 // 10
        sources[name.removesuffix(".txt")] = (weight, [text[:cut]], [text[cut:]])
    return write_corpus(tmp_path_factory.mktemp("corpora") / "three", sources)


def words(corpus, *more):
    """Options that put the tiny experiment on a corpus, where `c` comes later and `a` goes."""
    given = ["--data.files", "--data.tokenizer", "sentencepiece", "--data.corpus", str(corpus)]
    given += ["--data.mixture", "c=0", f"a=0@{CHANGE}", f"c=0.3@{CHANGE}"]
    return [*given, "--checkpoint.keep-last", "9", *more]


def test_a_run_on_a_mixture_goes_on_bit_for_bit(tiny, corpus, tmp_path, monkeypatch, capsys):
    """Gone on with from before the change of weights, on the corpus in another place.

    The batches that reached the step are those of the mixture; by hand: a has 0.5 of 0.8 in the
    first third of the run, c half of the rest, and b what is left.
    """
    seen = []
    from gpt_jax.train.step import Program

    inner = Program.train_step

    def spy(self, state, batch):
        seen.append(batch["inputs"])
        return inner(self, state, batch)

    monkeypatch.setattr(Program, "train_step", spy)
    whole = tmp_path / "whole"
    assert main(["train", str(tiny), "--workdir", str(whole), *words(corpus)]) == 0
    out = capsys.readouterr().out
    assert "source  a  62.50%, then 0.00%; " in out
    assert "source  b  37.50%, then 50.00%; " in out
    assert "source  c  0.00%, then 50.00%; " in out
    assert f"shares  change at {CHANGE:,} tokens" in out
    for line in metrics(whole):
        if "val_loss" in line:
            losses = [line[f"val_loss/{name}"] for name in "abc"]
            assert min(losses) < line["val_loss"] < max(losses)
            parts = ", ".join(
                f"{name} {loss:.4f}" for name, loss in zip("abc", losses, strict=True)
            )
            assert f"bits per byte (loss of {parts})\n" in out
    config = load_experiment(tiny, words(corpus))
    mixture = open_mixture(open_built(config), config)
    expected = mixture.at(np.arange(STEPS * BATCH_TOKENS // 32))["inputs"]
    assert np.array_equal(np.concatenate(seen).reshape(-1, 32), expected)

    run = shutil.copytree(whole, tmp_path / "run")
    for step in saved_steps(run):
        if step > 4:
            shutil.rmtree(run / "checkpoints" / str(step))
    moved = shutil.copytree(corpus, tmp_path / "moved")
    assert main(["train", str(tiny), "--workdir", str(run), *words(moved)]) == 0
    assert "continuing from step 4" in capsys.readouterr().out
    assert_same_run(run, whole)


def test_what_cannot_be_mixed_leaves_nothing(tiny, corpus, tmp_path, capsys):
    run = tmp_path / "run"
    command = ["train", str(tiny), "--workdir", str(run)]
    for options, rule in {
        tuple(words(tmp_path / "none")): "gpt-jax data build experiments/data/none.py --out ",
        tuple(words(corpus, "--data.mixture", "d=1")): "'d' is none of them: there are a, b, c.",
        ("--data.corpus", str(corpus)): "and both are given",
    }.items():
        assert main([*command, *options]) == 1
        error = capsys.readouterr().err
        assert rule in error
        assert error.count("\n") == 1
        assert not run.exists()
