"""Datasets shaped as TFDS's own, through the door that the real ones go through: gpt-jax train."""

import json
import math
import shutil

import jax
import numpy as np
import pytest
from numpy_gpt import NumpyGPT
from tfds_sets import ImdbReviews, Wmt14Translate, examples, prepared
from tiny_run import metrics, saved_steps, write_experiment

import gpt_jax
from gpt_jax.cli import main
from gpt_jax.data.sources import is_held_out

pytestmark = pytest.mark.slow

SENTIMENT = ("Review: {text}\nSentiment:", " {label}")
FRACTION = 0.3


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_experiment(tmp_path_factory.mktemp("tiny"))


def train(tiny, run, source, *more):
    """Six steps of 8 sequences of 128 bytes; what was said is left in capsys."""
    words = ["train", str(tiny), "--workdir", str(run), "--data.files", source, *more]
    words += ["--data.split", "path", "--data.validation-fraction", str(FRACTION)]
    words += ["--model.context-length", "128", "--model.num-layers", "1"]
    words += ["--train.batch-tokens", "1024", "--train.total-tokens", str(6 * 1024)]
    words += ["--optimizer.decay-tokens", "0", "--checkpoint.every", "2"]
    assert main(words) == 0


def by_numpy(run, pairs):
    """Loss per learned token, and bits per byte of the targets, of each pair by itself."""
    _, params, tokenizer = gpt_jax.load(run)
    model = NumpyGPT(jax.device_get(params), ("dense",), None, tokenizer.vocab_size)
    nats, count = 0.0, 0
    for prompt, target in pairs:
        read = [*prompt.encode(), *target.encode(), tokenizer.separator]
        logits = model.logits(np.array([read[:-1]]))[0, len(prompt.encode()) - 1 :]
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        learned = read[len(prompt.encode()) :]
        nats -= log_p[np.arange(len(learned)), learned].sum()
        count += len(learned)
    size = sum(len(target.encode()) for _, target in pairs)
    return nats / count, nats / math.log(2) / size


def held_out(name, rows):
    """Those rows of a training split, in one shard, that its records' names hold out."""
    return [row for i, row in enumerate(rows) if is_held_out(f"{name}:train:00000:{i}", FRACTION)]


def test_reviews_as_text(tiny, tmp_path, capsys):
    builder = prepared(ImdbReviews, tmp_path / "tfds")
    source = f"tfds:imdb_reviews/plain_text?data_dir={tmp_path}/tfds"
    train(tiny, tmp_path / "run", source)
    texts = [row["text"] for row in examples(builder, "train")]
    held = held_out("imdb_reviews/plain_text", texts)
    assert 0 < len(held) < len(texts) == 20
    size = sum(len(text.encode()) for text in texts)
    held_size = sum(len(text.encode()) + 1 for text in held)
    out = capsys.readouterr().out
    assert f"text    {20 - len(held)} documents" in out
    assert f"{size + 20 - held_size:,} tokens; {held_size:,} tokens held out" in out
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["files"] == [source]
    losses = [line["loss"] for line in metrics(tmp_path / "run")]
    assert losses[-1] < losses[0]


def test_reviews_as_examples(tiny, tmp_path, capsys):
    """Each prompt is a review, each target the name of its label.

    The validation is what NumPy finds for each held-out example by itself, of the targets alone.
    """
    builder = prepared(ImdbReviews, tmp_path / "tfds")
    prompt, target = SENTIMENT
    source = f"tfds:imdb_reviews?data_dir={tmp_path}/tfds"
    train(tiny, tmp_path / "run", source, "--data.prompt", prompt, "--data.target", target)
    texts = [
        (prompt.format(**row), target.format(label=("neg", "pos")[row["label"]]))
        for row in examples(builder, "train")
    ]
    held = held_out("imdb_reviews/plain_text", texts)
    out = capsys.readouterr().out
    assert f"learn   {20 - len(held)} of {20 - len(held)} examples in " in out
    longest = max(len((p + t).encode()) for p, t in texts if (p, t) not in held)
    assert f"0 of {20 - len(held)} (0.00%) are longer than 128 tokens, the longest has" in out
    assert f"the longest has {longest}\n" in out
    loss, bits = by_numpy(tmp_path / "run", held)
    last = metrics(tmp_path / "run")[-1]
    assert last["val_loss"] == pytest.approx(loss, rel=1e-5)
    assert last["val_bits_per_byte"] == pytest.approx(bits, rel=1e-5)
    assert "gzip" not in out
    assert last["loss"] < metrics(tmp_path / "run")[0]["loss"]


def test_translations_as_examples_go_on_bit_for_bit(tiny, tmp_path, capsys):
    """A prompt in German, a target in English, and a run that goes on from its second step."""
    builder = prepared(Wmt14Translate, tmp_path / "tfds")
    words = [f"tfds:wmt14_translate/de-en?data_dir={tmp_path}/tfds"]
    words += ["--data.prompt", "{de}\n", "--data.target", "{en}", "--checkpoint.keep-last", "9"]
    whole = tmp_path / "whole"
    train(tiny, whole, *words)
    texts = [(f"{row['de']}\n", row["en"]) for row in examples(builder, "train")]
    loss, bits = by_numpy(whole, held_out("wmt14_translate/de-en", texts))
    last = metrics(whole)[-1]
    assert last["val_loss"] == pytest.approx(loss, rel=1e-5)
    assert last["val_bits_per_byte"] == pytest.approx(bits, rel=1e-5)
    run = shutil.copytree(whole, tmp_path / "run")
    for step in saved_steps(run):
        if step > 2:
            shutil.rmtree(run / "checkpoints" / str(step))
    capsys.readouterr()
    train(tiny, run, *words)
    assert "continuing from step 2" in capsys.readouterr().out
    assert metrics(run) == metrics(whole)
    ours, theirs = (jax.tree.leaves(gpt_jax.load(folder)[1]) for folder in (run, whole))
    assert all(np.array_equal(x, y) for x, y in zip(ours, theirs, strict=True))


def test_a_field_that_is_not_there_ends_it_with_a_sentence(tiny, tmp_path, capsys):
    prepared(Wmt14Translate, tmp_path / "tfds")
    source = f"tfds:wmt14_translate/de-en?data_dir={tmp_path}/tfds"
    words = ["train", str(tiny), "--workdir", str(tmp_path / "run"), "--data.split", "path"]
    words += ["--data.files", source, "--data.prompt", "{de}", "--data.target", "{english}"]
    assert main(words) == 1
    error = capsys.readouterr().err
    assert "wmt14_translate/de-en:train:00000:0 has no {english}: at 'english', " in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
