"""Likelihoods against a decoder in NumPy float64, one text at a time and without padding."""

import dataclasses

import jax
import numpy as np
import pytest
from numpy_gpt import NumpyGPT
from random_model import random_params

from gpt_jax.config import InputError, MeshConfig, ModelConfig
from gpt_jax.data.tokenizers import (
    ByteTokenizer,
    CharacterTokenizer,
    SentencePieceTokenizer,
    train_sentencepiece,
)
from gpt_jax.evaluate import language_model
from gpt_jax.evaluate.language_model import LanguageModel
from gpt_jax.model.sampling import Sampling
from gpt_jax.parallel.mesh import make_mesh
from gpt_jax.train import loss

BYTES = ByteTokenizer()
CONFIG = ModelConfig(
    vocab_size=257,
    context_length=40,
    num_layers=2,
    embed_dim=16,
    num_heads=2,
    attention_pattern=("dense", "banded"),
    attention_window=5,
)
PARAMS = random_params(CONFIG)
PAIRS = [
    ("The answer is", " yes"),
    ("The answer is ", "yes"),  # the space is of the ending
    ("", "A document's beginning"),
    ("x", "y"),
    ("two lines\n\n", "of"),
    ("too long for the context, " * 3, "as is said"),
    ("an ending", " that alone is longer than the whole context of the model"),
    ("T\u00e9l\u00e9", " \u20ac 3"),
    ("  ", "only spaces before it"),
    ("nothing", ""),
]


def model_on(devices: int, config=CONFIG, params=PARAMS, batch_tokens=128, **mesh) -> LanguageModel:
    over = make_mesh(MeshConfig(**mesh), jax.devices()[:devices])
    made = LanguageModel(config, BYTES, over, batch_tokens)
    made.params = params
    return made


@pytest.fixture(scope="module")
def one() -> LanguageModel:
    """On one device."""
    return model_on(1)


def reference(before: bytes, after: bytes) -> tuple[float, bool]:
    """(log probability, whether greedy) by NumPy, of bytes after bytes, the last 41 of them."""
    ids = [*(before or [256]), *after][-(CONFIG.context_length + 1) :]
    model = NumpyGPT(PARAMS, CONFIG.attention_pattern, CONFIG.attention_window, 257)
    logits = model.logits(np.array(ids[:-1])[None])[0]
    count = min(len(after), len(ids) - 1)
    logits, targets = logits[len(ids) - 1 - count :], np.array(ids[len(ids) - count :], int)
    log_z = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)) + logits.max(-1)
    chosen = logits[np.arange(count), targets]
    return float((chosen - log_z).sum()), bool((logits.argmax(-1) == targets).all())


def split(context: str, ending: str) -> tuple[bytes, bytes]:
    """The bytes on both sides, white space at the end of the context moved to the ending."""
    bare = context.rstrip()
    return bare.encode(), (context[len(bare) :] + ending).encode()


def test_likelihoods_are_those_of_numpy(one):
    """Texts of all lengths: short, cut on the left, empty before or after."""
    found = one.loglikelihoods(PAIRS)
    for (context, ending), likelihood in zip(PAIRS, found, strict=True):
        before, after = split(context, ending)
        logprob, greedy = reference(before, after)
        assert likelihood.logprob == pytest.approx(logprob, rel=2e-5, abs=1e-9)
        assert likelihood.greedy == greedy
        assert likelihood.tokens == min(len(after), CONFIG.context_length)
        assert likelihood.num_bytes == len(ending.encode())
        assert likelihood.cut == max(0, len(before or " ") + len(after) - 41)


def test_what_the_model_writes_itself_is_greedy():
    """And with its first letter changed it is not."""
    tokenizer = CharacterTokenizer("abcdefgh")
    config = dataclasses.replace(CONFIG, vocab_size=8)  # it never ends a document
    made = LanguageModel(config, tokenizer, make_mesh(MeshConfig(), jax.devices()[:1]))
    made.params = random_params(config)
    (text,) = made.generate(["abc"], max_new_tokens=12)
    assert text
    changed = ("b" if text[0] == "a" else "a") + text[1:]
    same, other = made.loglikelihoods([("abc", text), ("abc", changed)])
    assert (same.greedy, other.greedy) == (True, False)


@pytest.mark.parametrize("length", [0, 1, 39, 40, 41, 80, 97])
def test_a_text_of_any_length_is_scored_once_each_token(one, length):
    """In windows that begin one token before what they predict; the last one reaches back."""
    ids = bytes(np.random.default_rng(length).integers(32, 127, length).tolist())
    whole, total = [256, *ids], 0.0
    for start in range(0, length, 40):
        end = min(start + 40, length)
        before = whole[max(end - 40, 0) : start + 1]
        model = NumpyGPT(PARAMS, CONFIG.attention_pattern, CONFIG.attention_window, 257)
        inputs = [*before, *whole[start + 1 : end]]
        logits = model.logits(np.array(inputs)[None])[0][len(before) - 1 :]
        log_z = np.log(np.exp(logits).sum(-1))
        total += float((logits[np.arange(end - start), whole[start + 1 : end + 1]] - log_z).sum())
    (found,) = one.rolling([ids.decode()])
    assert found.logprob == pytest.approx(total, rel=2e-5)
    assert (found.tokens, found.num_bytes) == (length, length)
    read, nats = one.token_nats(ids.decode())
    assert read.tolist() == list(ids)
    assert -nats.sum(dtype=np.float64) == pytest.approx(found.logprob, rel=1e-6)


def test_padding_and_company_change_nothing(one):
    """Alone, among others, twice, in any order: the same figures, bit for bit."""
    together = one.loglikelihoods(PAIRS)
    assert [one.loglikelihoods([pair])[0] for pair in PAIRS] == together
    assert one.loglikelihoods(PAIRS[::-1] * 9)[: len(PAIRS)] == together[::-1]


@pytest.mark.slow
def test_eight_devices_give_what_one_gives(one):
    """Rows, parameters and heads split; and logits made in parts, a word from the vocabulary."""
    expected = one.loglikelihoods(PAIRS), one.rolling(["long text " * 20])
    for mesh in ({}, {"fsdp": 2, "tensor": 2}, {"sequence": 2}):
        many = model_on(8, **mesh)
        found = many.loglikelihoods(PAIRS), many.rolling(["long text " * 20])
        for ours, theirs in zip(found, expected, strict=True):
            for a, b in zip(ours, theirs, strict=True):
                assert a.logprob == pytest.approx(b.logprob, rel=1e-5, abs=1e-9)
                assert dataclasses.replace(a, logprob=0) == dataclasses.replace(b, logprob=0)


@pytest.mark.slow
def test_logits_made_in_parts_are_the_same(one, monkeypatch):
    """Where the vocabulary is large there is no room for those of a whole batch."""
    monkeypatch.setattr(loss, "MAX_LOGITS", 10 * 384)
    parts = model_on(1)
    for a, b in zip(parts.loglikelihoods(PAIRS), one.loglikelihoods(PAIRS), strict=True):
        assert a.logprob == pytest.approx(b.logprob, rel=1e-5, abs=1e-9)
        assert a.greedy == b.greedy


def test_each_bucket_is_compiled_once():
    """However many rows there are of whatever lengths, and whatever the parameters."""
    made = model_on(1)
    pairs = [("c" * (1 + n % 38), "e") for n in range(120)]
    first = made.loglikelihoods(pairs)
    made.params = jax.tree.map(lambda x: x + 0.1, PARAMS)
    assert made.loglikelihoods(pairs) != first
    assert sorted(made._programs) == [32, 40]
    assert [program._cache_size() for program in made._programs.values()] == [1, 1]


@pytest.mark.parametrize(
    ("length", "bucket"),
    [(1, 32), (32, 32), (33, 48), (48, 48), (49, 64), (65, 96), (97, 128), (700, 768), (999, 1000)],
)
def test_a_row_is_padded_by_a_third_at_most(length, bucket):
    config = dataclasses.replace(CONFIG, context_length=1000)
    made = LanguageModel(config, BYTES, make_mesh(MeshConfig(), jax.devices()[:1]))
    assert made._bucket(length) == bucket


def test_the_next_batch_is_on_its_way_before_the_last_is_read(monkeypatch):
    """The devices never wait for the host."""
    made, events = model_on(1, batch_tokens=40), []
    dispatch, get = made._dispatch, jax.device_get
    monkeypatch.setattr(made, "_dispatch", lambda *a: events.append("send") or dispatch(*a))
    monkeypatch.setattr(jax, "device_get", lambda x: events.append("read") or get(x))
    made.loglikelihoods([("c", "e")] * 5)
    assert "".join(event[0] for event in events) == "sss" + "rs" * 2 + "rrr"


def test_progress_counts_every_row(one):
    told = []
    one.loglikelihoods(PAIRS * 3, lambda done, rows: told.append((done, rows)))
    assert told[-1] == (30, 30)
    assert told == sorted(told)


PROMPTS = ["a", "some longer prompt", "", "def f(x):", "a"]


@pytest.mark.slow
def test_generation_is_the_same_on_eight_devices(one):
    """Greedy, so that rounding changes nothing."""
    expected = one.generate(PROMPTS, max_new_tokens=12)
    assert model_on(8).generate(PROMPTS, max_new_tokens=12) == expected


def test_generation_ends_at_stop_strings_and_needs_no_company(one):
    """Greedy: alone or among prompts of other lengths."""
    free = one.generate(PROMPTS, max_new_tokens=12)
    assert free[0] == free[4]
    assert [one.generate([prompt], max_new_tokens=12)[0] for prompt in PROMPTS[:2]] == free[:2]
    mark = free[1][3]
    assert one.generate(PROMPTS, [mark], 12) == [text.split(mark)[0] for text in free]


@pytest.mark.slow
def test_sampling_follows_from_the_seed(one):
    how = Sampling(temperature=1.0)
    drawn = [one.generate(["a", "b"] * 5, (), 8, how, seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) > 2


@pytest.mark.slow
def test_sampling_does_not_depend_on_the_batches(one):
    """Ten texts in three batches are those of one; and the second batch of a seed draws as the
    first of no other: not of the seed that is as much higher as there were rows before.
    """
    how = Sampling(temperature=1.0)
    in_parts, at_once = (
        made.generate(["a"] * 10, (), 6, how, 0) for made in (one, model_on(1, batch_tokens=512))
    )
    assert in_parts == at_once
    others = one.generate(["a"] * 10, (), 6, how, 4)
    assert not set(in_parts[4:8]) & set(others[:4])


def test_writing_ends_when_every_row_has(one, monkeypatch):
    """The rest of `max_new_tokens` is not computed: a stop string of one token ends its row."""
    found, real = [], language_model.decode_all
    monkeypatch.setattr(
        language_model,
        "decode_all",
        lambda *a, **named: found.append(real(*a, **named)) or found[0],
    )
    texts = one.generate(["a"], [chr(n) for n in range(128)], 30)
    (longest,) = found[0].lengths_B.tolist()
    assert longest < 20
    assert len(texts[0]) < longest


def test_a_prompt_too_long_keeps_its_end(one):
    """Twelve new tokens leave room for 28."""
    text = "0123456789" * 5
    assert one.generate([text], max_new_tokens=12) == one.generate([text[-28:]], max_new_tokens=12)
    with pytest.raises(InputError, match="ask for fewer"):
        one.generate(["a"], max_new_tokens=40)


def test_tokens_that_span_the_border_are_of_the_ending():
    """Whole less context, by the count of the context's tokens: as the harness does it."""
    texts = ["the cat sat on the mat, the end of the theory"] * 50
    tokenizer: SentencePieceTokenizer = train_sentencepiece(texts, 290, 10**6)
    config = dataclasses.replace(CONFIG, vocab_size=tokenizer.vocab_size)
    made = LanguageModel(config, tokenizer, make_mesh(MeshConfig(), jax.devices()[:1]))
    whole, before = tokenizer.encode("on the mat"), tokenizer.encode("on the")
    ((context, ending),) = made._encoded([("on the", " mat")])
    assert context.tolist() == before.tolist()
    assert ending.tolist() == whole[len(before) :].tolist()
