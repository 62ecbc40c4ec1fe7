"""The page of `gpt-jax inspect`: whole by itself, and nothing of the text is read as HTML."""

import dataclasses
import json
import re
import zlib
from html.parser import HTMLParser
from pathlib import Path

import jax
import numpy as np
import pytest
from random_model import random_params

from gpt_jax.cli import main
from gpt_jax.config import Config, ModelConfig
from gpt_jax.data.tokenizers import ByteTokenizer
from gpt_jax.evaluate.inspect.induction import Induction
from gpt_jax.evaluate.inspect.page import Guess, Page, page, png
from gpt_jax.train.checkpoint import Checkpointer
from gpt_jax.train.run import write_run

TEXTS = ["<script>", "alert('x')", "</script>", "\n", '"&quot;']
NOW = Induction(np.array([[0.25, 0.75]]), 3.5, 2.25)
SEEN = Page(
    TEXTS,
    np.array([0.5, 1.0, 2.0, 4.5]),
    [[Guess(f"<b>{layer}", 0.5) for _ in TEXTS] for layer in range(2)],
    np.tile(np.tri(5), (1, 2, 1, 1)),
)


class Reader(HTMLParser):
    """What a browser would see: the tags, their attributes, and the text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.sources, self.texts, self.open = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in ("meta", "img", "br", "path", "use"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if self.open and tag == self.open[-1]:
            self.open.pop()

    def handle_data(self, data):
        self.texts.append(data)


def test_the_text_stays_text():
    """No tag comes of it, and it can be read as it was given."""
    read = Reader(page(SEEN, NOW, {}, "<i>a run</i>"))
    assert not {"script", "b", "i"} & set(read.tags)
    assert read.open == []
    assert "".join(TEXTS) in "".join(read.texts)
    assert "<i>a run</i>" in read.texts


def test_the_page_needs_nothing_else():
    """No source is but a picture within it or a part of it; nor does the style load any."""
    text = page(SEEN, NOW, {4: NOW, 8: NOW}, "a run")
    read = Reader(text)
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in read.sources)
    assert len([s for s in read.sources if s.startswith("data:")]) == 2  # one for each head
    assert not re.search(r"@import|url\((?!#)", text)
    assert "<svg" in text


def test_numbers_are_told():
    """The mean loss, each token's, scores, and what the repetition spares."""
    text = page(SEEN, NOW, {}, "a run")
    assert "2.0000 nats per token over 4 tokens" in text
    assert 'title="4.500 nats, probability 0.0111"' in text
    assert "background:rgba(213,94,0,0.750)" in text
    assert "cost 3.500 nats, the same said again 2.250" in text


def test_a_picture_is_a_png():
    """Unpacked by hand: a byte of filter for each row, then its greys."""
    picture = png(np.array([[0, 255, 7], [8, 9, 10]]))
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    assert picture[16:24] == b"\x00\x00\x00\x03\x00\x00\x00\x02"
    start = picture.index(b"IDAT") + 4
    size = int.from_bytes(picture[start - 8 : start - 4], "big")
    assert zlib.decompress(picture[start : start + size]) == bytes([0, 0, 255, 7, 0, 8, 9, 10])


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    """A run of two steps, with random weights."""
    folder = tmp_path_factory.mktemp("inspect") / "run"
    model = ModelConfig(vocab_size=257, context_length=32, num_layers=2, embed_dim=8, num_heads=2)
    write_run(folder, dataclasses.replace(Config(name="<tiny>"), model=model), ByteTokenizer())
    with Checkpointer(folder / "checkpoints", 9, 0) as checkpointer:
        for step in (4, 8):
            params = jax.tree.map(lambda leaf, step=step: leaf * step, random_params(model))
            checkpointer.save(step, params, {"count": np.int32(step)}, {})
    return folder


@pytest.mark.slow
def test_the_command_writes_a_page_of_every_step(run_folder, tmp_path, capsys):
    """With `--step all` the plot has both steps; the tokens shown are those of the text."""
    out = tmp_path / "page.html"
    words = ["inspect", str(run_folder), "--text", "Gr\u00fc\u00dfe <b>", "--out", str(out)]
    scores = tmp_path / "scores.json"
    assert main([*words, "--step", "all", "--json", str(scores)]) == 0
    at_steps = json.loads(scores.read_text())
    assert [len(at_steps[step]["score"]) for step in ("4", "8")] == [2, 2]
    assert at_steps["4"] != at_steps["8"]
    text = out.read_text(encoding="ascii")
    told = capsys.readouterr().out
    assert re.match(rf"{out} shows \d+ tokens; induction score 0\.\d+ \(layer", told)
    read = Reader(text)
    assert "b" not in read.tags
    assert {"svg", "img"} <= set(read.tags)
    assert main([*words, "--step", "4", "--json", str(scores)]) == 1
    assert "add --step all" in capsys.readouterr().err
    assert main([*words, "--step", "4"]) == 0
    assert "<svg" not in out.read_text(encoding="ascii")


@pytest.mark.parametrize(
    ("text", "step", "rule"),
    [
        ("x" * 99, "last", "--text must have from 2 .* it has 99 .* context_length=32"),
        ("hello", "5", "no checkpoint of step 5"),
        ("hello", "worst", "a step is a number, best or last"),
    ],
)
def test_bad_input_leaves_the_page_that_was_there(run_folder, tmp_path, capsys, text, step, rule):
    """The message has the value."""
    out = tmp_path / "page.html"
    out.write_text("before")
    words = ["inspect", str(run_folder), "--text", text, "--step", step, "--out", str(out)]
    assert main(words) == 1
    assert re.search(rule, capsys.readouterr().err)
    assert out.read_text() == "before"
