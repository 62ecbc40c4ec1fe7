"""The engine against one batch of `generate_tokens`, whoever else is being answered."""

import dataclasses
import threading
import time

import jax
import numpy as np
import pytest
from random_model import random_params

from gpt_jax.config import ModelConfig
from gpt_jax.generate.serve import slots as programs
from gpt_jax.generate.serve.engine import Ask, Engine, Refused
from gpt_jax.model.decode import generate_tokens
from gpt_jax.model.decoder import GPT
from gpt_jax.model.sampling import Sampling

# Prompts of one chunk, of a whole one, and of several with padding after them; a context that is no
# multiple of a chunk; a band that is crossed again and again; more tokens than the tokenizer has.
CONFIG = ModelConfig(
    vocab_size=300,
    context_length=77,
    num_layers=2,
    embed_dim=24,
    num_heads=3,
    attention_pattern=("dense", "banded"),
    attention_window=5,
)
VOCAB = 257
PARAMS = random_params(CONFIG)
PROMPTS = [np.arange(3, 10), np.array([200]), np.arange(100, 132), np.arange(1, 70)]


class Reader:
    """Keeps what an engine tells; `enough` ends the text with the token of that number."""

    def __init__(self, prompt, most, enough=10**9, **how):
        self.places, self.scored, self.ended = [], None, None
        self.done = threading.Event()
        self._enough = enough
        score = self._score if how.pop("score", False) else None
        self.ask = Ask(np.array(prompt), most, self._take, self._end, score=score, **how)

    def _take(self, place):
        self.places.append(place)
        if len(self.places) == self._enough:
            self.done.set()
        return self.done.is_set()

    def _score(self, places):
        self.scored = places

    def _end(self, why):
        self.ended = why
        self.done.set()

    def tokens(self):
        assert self.done.wait(60)
        return [place.token for place in self.places]


@pytest.fixture(scope="module")
def engine():
    engine = Engine(CONFIG, PARAMS, VOCAB, slots=4, queue=20)
    engine.start()
    yield engine
    engine.close()
    engine.join(10)


def is_idle(engine):
    """Whether the engine comes to hold nothing."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        counts = engine.counts()
        if counts["active"] == counts["waiting"] == 0:
            return True
        time.sleep(0.01)
    return False


def plain(prompts, most, how=None, seed=0, model=(CONFIG, PARAMS)):
    """What `generate_tokens` says to a batch of prompts, by default the likeliest tokens."""
    how = how or Sampling(temperature=0)
    steps = generate_tokens(*model, prompts, most, how, vocab_size=VOCAB, seed=seed)
    return np.stack(list(steps), axis=1).tolist()


@pytest.fixture(scope="module")
def greedy():
    """The likeliest 8 tokens after each of PROMPTS."""
    return plain(PROMPTS, 8)


def test_greedy_rows_say_what_a_plain_batch_says(engine, greedy):
    """More of them than slots, at once: each joins as another leaves, and none knows of it."""
    readers = [Reader(PROMPTS[n % 4], 4 + n % 5, temperature=0.0) for n in range(20)]
    engine.submit([reader.ask for reader in readers])
    said = [reader.tokens() for reader in readers]
    assert said == [greedy[n % 4][: 4 + n % 5] for n in range(20)]
    assert len({token for row in said for token in row}) > 10  # or the test says little
    assert {reader.ended for reader in readers} == {"length"}
    assert is_idle(engine)


@pytest.mark.slow
def test_settings_are_each_rows_own(engine, greedy):
    """Three texts of one seed, others with their own temperature and top_p, side by side."""
    hot, narrow = Sampling(temperature=2.0), Sampling(temperature=1.5, top_p=0.6)
    readers = [Reader(PROMPTS[0], 8, temperature=2.0, seed=7, choice=n) for n in range(3)]
    readers += [Reader(PROMPTS[2], 8, temperature=1.5, top_p=0.6, seed=2**32 - 1)]
    readers += [Reader(PROMPTS[3], 8, temperature=0.0, told=True)]
    engine.submit([reader.ask for reader in readers])
    said = [reader.tokens() for reader in readers]
    assert said[:3] == plain([PROMPTS[0]] * 3, 8, hot, 7)
    assert said[3:4] == plain([PROMPTS[2]], 8, narrow, 2**32 - 1)
    assert said[4:] == greedy[3:]
    assert max(token for row in said for token in row) < VOCAB


VARIANTS = [
    {"position_encoding": "sinusoidal", "norm_position": "after", "final_norm": False},
    {"position_encoding": "rotary_halves", "rotary_dim": 4, "attention_window": 40},
]


@pytest.mark.slow
@pytest.mark.parametrize("changes", VARIANTS, ids=lambda changes: changes["position_encoding"])
def test_every_kind_of_position_is_right_in_a_slot(changes):
    """Up to the very end of the context, in a slot that another text was in before."""
    config = dataclasses.replace(CONFIG, **changes)
    model = config, random_params(config)
    engine = Engine(*model, VOCAB, slots=1)
    engine.start()
    readers = [Reader(PROMPTS[n], 8, temperature=0.0) for n in (3, 0, 2)]
    engine.submit([reader.ask for reader in readers])
    said = [reader.tokens() for reader in readers]
    assert said == plain([PROMPTS[n] for n in (3, 0, 2)], 8, model=model)
    assert len(PROMPTS[3]) + 8 == config.context_length
    engine.close()


@pytest.mark.slow
def test_a_step_reaches_as_far_as_it_must():
    """A context of several reaches and chunks: a long text that crosses them, and a short one."""
    config = dataclasses.replace(
        CONFIG,
        context_length=300,
        num_layers=1,
        embed_dim=8,
        num_heads=1,
        attention_pattern=("dense",),
    )
    model = config, random_params(config)
    engine = Engine(*model, VOCAB, slots=1)
    engine.start()
    prompts = [np.arange(1, 251), np.arange(7)]
    readers = [Reader(prompt, 20, temperature=0.0) for prompt in prompts]
    engine.submit([reader.ask for reader in readers])
    assert [reader.tokens() for reader in readers] == plain(prompts, 20, model=model)
    engine.close()


def logprobs(tokens):
    """The model's log-probabilities (T, V) after each of `tokens`, of a plain forward pass."""
    logits = jax.jit(GPT(CONFIG).apply)({"params": PARAMS}, np.array([tokens]))
    return np.asarray(jax.nn.log_softmax(logits[0]))


@pytest.mark.slow
def test_log_probabilities_are_the_models_own(engine):
    """Of prompt and text, whatever the temperature: against a forward pass over all tokens."""
    prompt = PROMPTS[3].tolist()
    reader = Reader(prompt, 8, temperature=2.0, seed=3, told=True, score=True)
    only_scored = Reader(prompt, 0, score=True)
    engine.submit([reader.ask, only_scored.ask])
    tokens = prompt + reader.tokens()
    expected = logprobs(tokens)
    assert only_scored.tokens() == []
    assert only_scored.ended == "length"
    places = reader.scored + reader.places
    assert [place.token for place in places] == tokens[1:]
    for before, place in enumerate(places):
        np.testing.assert_allclose(place.logprob, expected[before, place.token], atol=1e-4)
        known = np.sort(expected[before, :VOCAB])[::-1]
        assert len(place.top) == programs.TOP
        np.testing.assert_allclose([p for _, p in place.top], known[:20], atol=1e-4)
        np.testing.assert_allclose(
            [p for _, p in place.top], [expected[before, t] for t, _ in place.top], atol=1e-4
        )
    assert len(only_scored.scored) == len(prompt) - 1
    ours = [place.logprob for place in only_scored.scored]
    np.testing.assert_allclose(ours, [place.logprob for place in places[: len(ours)]], atol=1e-5)


def test_a_reader_that_has_enough_or_has_gone_leaves_its_slot(engine):
    """By its own answer, by `cancel` in the middle and while it waits, and by failing."""
    enough = Reader(PROMPTS[0], 60, enough=3, temperature=0.0)
    readers = [Reader(PROMPTS[0], 60, temperature=0.0) for _ in range(20)]
    failing = Reader(PROMPTS[0], 60)
    failing.ask.take = lambda _: 1 / 0
    engine.submit([enough.ask, failing.ask, *(reader.ask for reader in readers)])
    engine.cancel([reader.ask for reader in readers])
    assert is_idle(engine)
    assert len(enough.tokens()) == 3
    assert enough.ended is None
    assert failing.ended == "failed"
    assert all(reader.ended is None for reader in readers)
    taken = [len(reader.places) for reader in readers]
    time.sleep(0.05)
    assert [len(reader.places) for reader in readers] == taken  # nothing comes any more


def test_what_is_too_late_ends(engine):
    """A text in a slot, and one that has waited too long, are told so."""
    late = Reader(PROMPTS[0], 60, deadline=time.monotonic() - 1)
    soon = Reader(PROMPTS[0], 60)
    soon.ask.take = lambda _: setattr(soon.ask, "deadline", 0.0)
    engine.submit([late.ask, soon.ask])
    assert late.tokens() == soon.tokens() == []
    assert (late.ended, soon.ended) == ("time", "time")
    assert is_idle(engine)


def test_short_prompts_do_not_keep_a_long_one_waiting(engine):
    """Its three chunks are every second one at the least: six go by, and not those of all 20."""
    done = []
    readers = [Reader(PROMPTS[3 if n == 0 else 1], 1) for n in range(21)]
    for n, reader in enumerate(readers):
        reader.ask.end = lambda why, n=n, end=reader.ask.end: (done.append(n), end(why))
    engine.submit([reader.ask for reader in readers])
    assert all(len(reader.tokens()) == 1 for reader in readers)
    assert done.index(0) <= 3
    assert is_idle(engine)


def test_the_queue_has_an_end():
    """Asks are taken together or not at all; a closed engine takes none and ends what it has."""
    engine = Engine(CONFIG, PARAMS, VOCAB, slots=4, queue=3)
    readers = [Reader(PROMPTS[0], 60) for _ in range(9)]
    engine.submit([reader.ask for reader in readers[:4]])
    with pytest.raises(Refused, match="full"):
        engine.submit([reader.ask for reader in readers[4:8]])
    engine.submit([reader.ask for reader in readers[4:7]])
    assert engine.counts() == {"slots": 4, "active": 0, "waiting": 7}
    engine.close()
    engine.start()
    engine.join(60)
    assert [reader.ended for reader in readers] == ["closed"] * 7 + [None] * 2
    with pytest.raises(Refused, match="closed"):
        engine.submit([readers[8].ask])


def test_nothing_is_compiled_after_the_start(engine):
    """Whatever is asked, and however many do."""
    before = programs.step._cache_size(), programs.read._cache_size()
    for count in (1, 2, 5, 9):
        hows = [{"temperature": 0.0}, {"top_p": 0.5}, {"told": True}, {"score": True, "seed": 4}]
        readers = [Reader(PROMPTS[n % 4], 3, **hows[(n + count) % 4]) for n in range(count)]
        engine.submit([reader.ask for reader in readers])
        assert all(len(reader.tokens()) == 3 for reader in readers)
    assert (programs.step._cache_size(), programs.read._cache_size()) == before


def test_nor_with_the_parameters_of_a_run():
    """Which are committed to a device, as `gpt_jax.load` puts them there."""
    params = jax.device_put(PARAMS, jax.local_devices()[0])
    engine = Engine(CONFIG, params, VOCAB, slots=1, queue=1)
    engine.start()
    before = programs.step._cache_size(), programs.read._cache_size()
    reader = Reader(PROMPTS[0], 3)
    engine.submit([reader.ask])
    assert len(reader.tokens()) == 3
    engine.close()
    engine.join(10)
    assert (programs.step._cache_size(), programs.read._cache_size()) == before


def test_a_model_that_fails_ends_every_text(monkeypatch, caplog):
    """With one line in the log, and nothing is taken after that."""
    engine = Engine(CONFIG, PARAMS, VOCAB, slots=4, queue=20)
    engine.start()
    monkeypatch.setattr(engine, "_step", lambda *_: 1 / 0)
    readers = [Reader(PROMPTS[0], 9) for _ in range(7)]
    engine.submit([reader.ask for reader in readers])
    for reader in readers:
        reader.tokens()
    assert {reader.ended for reader in readers} == {"failed"}
    assert engine.failed
    assert "ZeroDivisionError" in caplog.text
    with pytest.raises(Refused, match="failed"):
        engine.submit([Reader(PROMPTS[0], 9).ask])
