"""`gpt-jax chat` against `generate` on the conversation so far."""

import io
import os
import signal
import sys
import threading
import time

import pytest
from random_run import MODEL, letters_params, write_random_run

from gpt_jax.cli import main
from gpt_jax.data import chat
from gpt_jax.data.tokenizers import ByteTokenizer
from gpt_jax.generate.serve.engine import Engine
from gpt_jax.generate.text import generate
from gpt_jax.model.sampling import Sampling

NEW = 12


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_random_run(tmp_path_factory.mktemp("runs") / "spoken")


@pytest.fixture
def talk(run, monkeypatch, capsys):
    """`talk(lines, options...)`: what `gpt-jax chat` prints for each line that is said."""

    def lines_of(said, *options):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(line + "\n" for line in said)))
        assert main(["chat", str(run), "--temperature", "0", *options]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        return out.splitlines()

    return lines_of


def reply(*messages):
    """What the model says to a conversation of (role, content)."""
    conversation = [{"role": role, "content": content} for role, content in messages]
    pieces = generate(
        MODEL,
        letters_params(),
        ByteTokenizer(),
        [chat.render(conversation)],
        max_new_tokens=NEW,
        how=Sampling(temperature=0),
        stop=chat.STOP,
    )
    return "".join(piece for (piece,) in pieces)


@pytest.mark.slow
def test_a_reply_knows_what_was_said_before(talk):
    """Two turns after a system message; a blank line says nothing."""
    system = ("system", "Be kind.")
    first = reply(system, ("user", "hi"))
    second = reply(system, ("user", "hi"), ("assistant", first), ("user", "why"))
    options = ["--system", "Be kind.", "--max-new-tokens", str(NEW)]
    assert talk(["hi", "  ", "why"], *options) == [first, second]
    assert first != second


@pytest.mark.slow
def test_the_oldest_turns_are_forgotten_and_that_is_said(talk):
    """Four turns in 160 tokens; what is too long by itself is not answered, and not kept."""
    said = ["hi", "x" * 150, "a longer line than that", "and so on", "to the end"]
    out = talk(said, "--max-new-tokens", str(NEW))
    assert out[1].startswith("(the model reads 160 tokens, and that is too long to leave 12 of")
    forgotten = [line for line in out if "are forgotten)" in line]
    assert forgotten
    assert "its oldest 2 messages" in forgotten[0]
    kept = [line for line in out if not line.startswith("(")]
    assert len(kept) == 4
    last = [("user", said[3]), ("assistant", kept[2]), ("user", said[4])]
    assert kept[3] == reply(*last)


@pytest.mark.slow
def test_ctrl_c_stops_a_reply_and_not_the_conversation(talk, monkeypatch):
    """What was written of it stays in the conversation."""
    step, begun = Engine._step, threading.Event()

    def slow_step(self, length_B, reach, asks):
        if any(asks):  # not while it compiles
            begun.set()
            time.sleep(0.05)
        return step(self, length_B, reach, asks)

    def interrupt():
        begun.wait(60)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Engine, "_step", slow_step)
    threading.Thread(target=interrupt).start()
    stopped, second = talk(["hi", "why"], "--max-new-tokens", "20")
    part = stopped.removesuffix(" (stopped)")
    assert stopped != part
    assert reply(("user", "hi")).startswith(part[:NEW])
    assert 0 < len(part) < 20
    after = reply(("user", "hi"), ("assistant", part), ("user", "why"))
    assert second.startswith(after)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--max-new-tokens", "0"], "--max-new-tokens must be positive"),
        (["--seed", "-1"], "--seed must be in"),
        (["--top-p", "0"], "top_p must be above 0"),
    ],
)
def test_bad_options_are_told_before_the_model_is_read(tmp_path, capsys, options, words):
    assert main(["chat", str(tmp_path / "none"), *options]) == 1
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("words", [["chat"], ["serve", "--port", "0"]], ids=lambda words: words[0])
def test_the_step_is_the_one_that_is_asked_for(run, words, capsys):
    """The run has step 0 alone."""
    assert main([*words, str(run), "--step", "3"]) == 1
    assert "step 3" in capsys.readouterr().err
