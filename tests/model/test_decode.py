"""Generation against a loop over the whole model."""

import dataclasses

import jax
import numpy as np
import pytest
from random_model import random_params

from gpt_jax.config import InputError, ModelConfig
from gpt_jax.model import decode
from gpt_jax.model.decode import generate_tokens
from gpt_jax.model.decoder import GPT
from gpt_jax.model.sampling import Sampling

GREEDY, RANDOM = Sampling(temperature=0), Sampling(temperature=2.0)
# Nothing divides anything else: a context that is no multiple of the prompts' bucket, a window
# that is crossed again and again, a vocabulary with padding (257 of 384).
CONFIG = ModelConfig(
    vocab_size=257,
    context_length=45,
    num_layers=4,
    embed_dim=24,
    num_heads=3,
    attention_pattern=("dense", "banded"),
    attention_window=5,
)
# Where the depth does not matter: quick to compile. It knows more tokens than the tokenizer.
SMALL = ModelConfig(vocab_size=300, context_length=45, num_layers=1, embed_dim=8, num_heads=2)
PROMPTS = [np.arange(3, 10), np.array([200]), np.arange(100, 131)]
NEW = 14  # together with the longest prompt, the whole context


PARAMS, SMALL_PARAMS = random_params(CONFIG), random_params(SMALL)


def without_a_cache(config: ModelConfig, params, prompts, choose) -> list[list[int]]:
    """A loop over the whole model, the prompts one by one: `choose(logits, ids)` is the next id."""
    apply = jax.jit(GPT(config).apply)
    rows = []
    for prompt in prompts:
        tokens = np.zeros((1, config.context_length), np.int32)
        tokens[0, : len(prompt)] = prompt
        for end in range(len(prompt), len(prompt) + NEW):
            # What is to the right of `end` changes nothing: the model is causal.
            logits = np.array(apply({"params": params}, tokens)[0, end - 1])
            tokens[0, end] = choose(logits, tokens[0, :end].tolist())
        rows.append(tokens[0, len(prompt) : len(prompt) + NEW].tolist())
    return rows


def run(prompts, new=NEW, how=GREEDY, model=(CONFIG, PARAMS), vocab_size=257, seed=0) -> list:
    """What each prompt is continued with, as lists of ids."""
    steps = generate_tokens(*model, prompts, new, how, vocab_size=vocab_size, seed=seed)
    return np.stack(list(steps), axis=1).tolist()


@pytest.mark.parametrize("kernel", ["splash", "cudnn"])
def test_with_a_cache_attention_is_always_that_of_xla(kernel):
    """A run that was trained on an accelerator writes anywhere, prompts of any length."""
    forced = dataclasses.replace(SMALL, attention=kernel)
    prompts = [np.array([3, 1, 4, 1, 5])]
    ours, plain = (run(prompts, model=(config, SMALL_PARAMS)) for config in (forced, SMALL))
    assert ours == plain


@pytest.fixture(scope="module")
def together():
    """The greedy continuations of PROMPTS as one batch."""
    return run(PROMPTS)


def test_the_cache_changes_nothing(together):
    """Prompts of 7, 1 and 31 tokens in one batch say what a loop over the whole model says.

    The last of them is continued to the very end of the context.
    """
    assert together == without_a_cache(CONFIG, PARAMS, PROMPTS, lambda logits, _: logits.argmax())
    assert len(PROMPTS[2]) + NEW == CONFIG.context_length
    assert len({token for row in together for token in row}) > 10  # or the test says little


def test_a_penalty_counts_the_prompt_and_what_was_drawn():
    """A penalty so large that nothing is said twice, against a loop over the tokens so far."""

    def choose(logits: np.ndarray, ids: list[int]) -> int:
        for token in set(ids):
            logits[token] *= 1 / 50 if logits[token] > 0 else 50
        return int(logits[:257].argmax())

    how = Sampling(temperature=0, repetition_penalty=50.0)
    found = run(PROMPTS, how=how, model=(SMALL, SMALL_PARAMS))
    assert found == without_a_cache(SMALL, SMALL_PARAMS, PROMPTS, choose)
    for prompt, row in zip(PROMPTS, found, strict=True):
        assert len({*prompt.tolist(), *row}) == len(prompt) + NEW


def test_a_prompt_alone_says_what_it_says_in_company(together):
    """One by one, where nothing is padded to the others' length, and in another order."""
    for prompt, expected in zip(PROMPTS, together, strict=True):
        assert run([prompt]) == [expected]
    assert run(PROMPTS[::-1]) == together[::-1]


def test_a_seed_names_a_text():
    """The same seed gives the same text, another seed another, and two rows differ."""
    asked = {"how": RANDOM, "model": (SMALL, SMALL_PARAMS)}
    first = run([PROMPTS[0]] * 3, **asked, seed=7)
    assert run([PROMPTS[0]] * 3, **asked, seed=7) == first
    assert run([PROMPTS[0]] * 3, **asked, seed=8) != first
    assert first[0] != first[1] != first[2]
    assert run(PROMPTS, **asked, seed=7)[0] == first[0]


def test_only_the_tokenizers_tokens_are_drawn():
    """The model knows 300 tokens, the tokenizer 257: the others would have no text."""
    drawn = [run(PROMPTS, how=RANDOM, model=(SMALL, SMALL_PARAMS), seed=seed) for seed in range(9)]
    drawn = np.array(drawn)
    assert drawn.max() < 257
    assert len(np.unique(drawn)) > 100


def test_the_padding_of_the_vocabulary_is_never_drawn():
    """Not even at a temperature that makes all even: 9 tokens exist, and the table has 128 rows."""
    config = ModelConfig(vocab_size=9, context_length=64, num_layers=1, embed_dim=8, num_heads=1)
    prompts, how = [np.array([8, 0])] * 8, Sampling(temperature=1e6)
    drawn = run(prompts, 30, how, (config, random_params(config)), vocab_size=128)
    assert {token for row in drawn for token in row} == set(range(9))


def test_each_shape_is_compiled_once():
    """Prompts of other lengths in the same bucket, and other seeds, reuse the two programs."""
    model = dataclasses.replace(SMALL, remat="full"), SMALL_PARAMS  # no other test compiles it
    before = decode.prefill._cache_size(), decode.decode._cache_size()
    for seed, lengths in enumerate([(3, 9), (30, 1), (32, 32), (5, 6)]):
        run([np.ones(n, np.int32) for n in lengths], new=9, model=model, seed=seed)
    assert decode.prefill._cache_size() - before[0] == 1
    assert decode.decode._cache_size() - before[1] == 1


def test_the_next_step_is_on_its_way_before_the_last_is_handed_out(monkeypatch):
    """After n tokens were handed out, n steps have been dispatched; after the last, no more."""
    calls, compiled = [], decode.decode
    monkeypatch.setattr(
        decode, "decode", lambda *args, **kwargs: calls.append(1) or compiled(*args, **kwargs)
    )
    steps = generate_tokens(CONFIG, PARAMS, PROMPTS, NEW, GREEDY, vocab_size=257)
    assert calls == []
    dispatched = [sum(calls) for _ in steps]
    assert dispatched == [*range(1, NEW), NEW - 1]


@pytest.mark.parametrize(
    ("prompts", "new", "rule"),
    [
        ([], 1, "at least one prompt, and there are 0"),
        ([np.arange(3), np.arange(0)], 1, r"every prompt needs a token, .* \[3, 0\]"),
        ([np.ones(46, np.int32)], 1, "context, and 46 tokens are more than 45"),
        ([np.arange(3), np.ones(40, np.int32)], 6, "context of 45 .* 40 \\+ 6 .* at most 5 new"),
        ([np.ones(45, np.int32)], 1, "45 \\+ 1 do not: ask for at most 0 new"),
        ([np.arange(3)], 0, "max_new_tokens must be positive, and it is 0"),
        ([np.array([4, 257])], 1, "257.* is not one of its 257"),
        ([np.array([4, -1])], 1, "-1.* is not one of its 257"),
    ],
)
def test_what_cannot_be_continued_is_refused(prompts, new, rule):
    """Before anything is computed (there are no parameters here), with the numbers."""
    with pytest.raises(InputError, match=rule):
        run(prompts, new, model=(CONFIG, None))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_is_32_bits(seed):
    """The message gives the value."""
    with pytest.raises(InputError, match=rf"^seed must .*{seed}\.$"):
        run(PROMPTS, model=(CONFIG, None), seed=seed)
