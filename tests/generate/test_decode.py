"""Generation against a loop over the whole model, stop strings against `str.split`."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_jax.config import InputError, ModelConfig
from gpt_jax.data.tokenizers import ByteTokenizer
from gpt_jax.generate import decode
from gpt_jax.generate.decode import generate, generate_tokens
from gpt_jax.generate.sampling import Sampling
from gpt_jax.model.decoder import GPT

GREEDY, RANDOM = Sampling(temperature=0), Sampling(temperature=2.0)
BYTES = ByteTokenizer()
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


def random_params(config: ModelConfig):
    """Weights so large, and biases so small, that the text is not the same token over and over."""
    abstract = jax.eval_shape(GPT(config).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    random = np.random.default_rng(0)

    def draw(path, leaf) -> jax.Array:
        size = 0.05 if jax.tree_util.keystr(path).endswith("bias']") else 0.5
        return jnp.asarray(random.normal(0, size, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, nn.unbox(abstract)["params"])


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


def test_no_prompts_at_all_are_refused_as_text_too():
    """`generate` with an empty list does not end silently."""
    with pytest.raises(InputError, match="at least one prompt"):
        list(generate(CONFIG, None, BYTES, [], max_new_tokens=1, how=GREEDY))


def test_streamed_pieces_are_the_text_of_the_tokens():
    """Random bytes are rarely UTF-8: the pieces add up to `decode` of the ids all the same."""
    prompts, model = ["def ", "", "x" * 31], (SMALL, SMALL_PARAMS)
    ids = [np.array(list(text.encode()) or [256], np.int32) for text in prompts]
    drawn = run(ids, how=RANDOM, model=model, seed=3)
    turns = list(generate(*model, BYTES, prompts, max_new_tokens=NEW, how=RANDOM, seed=3))
    for row, pieces in zip(drawn, zip(*turns, strict=True), strict=True):
        kept = row[: row.index(256)] if 256 in row else row
        assert "".join(pieces) == bytes(kept).decode("utf-8", "replace")


@pytest.fixture
def speak(monkeypatch):
    """`speak(rows, stop)`: the turns of `generate` when the model says the bytes of `rows`.

    A row is bytes, or a list of ids where 256 ends a document; shorter rows go on with "#".
    """

    def turns(rows: list, stop: tuple[str, ...] = ()) -> list:
        length = max(len(row) for row in rows)
        script = np.full((len(rows), length), ord("#"), np.int32)
        for place, row in enumerate(rows):
            script[place, : len(row)] = list(row)
        monkeypatch.setattr(decode, "generate_tokens", lambda *_, **__: iter(script.T))
        prompts = ["?"] * len(rows)
        how = {"max_new_tokens": length, "how": GREEDY, "stop": stop}
        return list(generate(CONFIG, None, BYTES, prompts, **how))

    return turns


def whole(turns: list) -> list[str]:
    return ["".join(pieces) for pieces in zip(*turns, strict=True)]


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("one\n\ntwo", "\n\n", "one"),
        ("one\ntwo", "\n\n", "one\ntwo"),  # only its beginning, twice held back and let go
        ("one\n\n", "\n\n", "one"),  # at the very end
        ("one\n", "\n\n", "one\n"),  # begun at the very end
        ("\n\none", "\n\n", ""),
        ("aaab", "aab", "a"),  # the beginning overlaps itself
        ("ababac!", "abac", "ab"),
        ("caf\u00e9 \u20ac1", "\u20ac", "caf\u00e9 "),  # three tokens of one character
        ("text", "", "text"),  # nothing stops at nothing
    ],
)
def test_a_stop_string_ends_the_text_before_it(speak, text, stop, expected):
    """By example; every byte is a token, so that each stop string spans several."""
    assert whole(speak([text.encode()], (stop,))) == [expected]


def test_what_may_begin_a_stop_string_is_held_back(speak):
    """Piece by piece: "a" is shown at once, "<" and "<e" only when they are no longer a stop."""
    assert [turn[0] for turn in speak([b"a<<em"], ("<end>",))] == ["a", "", "<", "", "<em", ""]
    assert [turn[0] for turn in speak([b"a<e"], ("<end>",))] == ["a", "", "", "<e"]


def test_of_several_stop_strings_the_first_to_be_complete_ends_the_text(speak):
    """However the text is cut into tokens; the longer of two that end together."""
    assert whole(speak([b"1 abcd"], ("abcd", "bc"))) == ["1 a"]
    assert whole(speak([b"1 abcd"], ("bcd", "abcd"))) == ["1 "]
    row = decode._Row(BYTES, ("abcd", "bc"))
    assert row._release("1 abcd") == "1 a"  # the same where it all comes as one token


@given(st.text("ab\u00e9", max_size=30), st.text("ab\u00e9", min_size=1, max_size=4))
def test_a_stop_string_is_a_split(text, stop):
    """Any text and stop string over three characters, one of them of two bytes."""
    row = decode._Row(BYTES, (stop,))
    shown = "".join(row.push(byte) for byte in text.encode()) + row.flush()
    assert shown == text.split(stop)[0]


@given(
    st.text("ab", max_size=30),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    st.integers(1, 5),
)
def test_several_stop_strings_are_a_search_over_prefixes(text, stops, size):
    """The shortest prefix that ends with a stop string, less the longest that it ends with.

    The text comes in pieces of `size` characters, which changes nothing.
    """
    expected = text
    for end in range(len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            expected = text[: end - max(map(len, complete))]
            break
    row, shown = decode._Row(BYTES, stops), ""
    for low in range(0, len(text), size):
        if not row.ended:
            shown += row._release(text[low : low + size])
    assert shown + row.flush() == expected


def test_the_separator_ends_a_row(speak):
    """It is no text itself, and releases what was held back for a stop string."""
    assert whole(speak([[*b"one<", 256, *b"two"]], ("<end>",))) == ["one<"]


def test_rows_end_one_by_one_and_the_text_with_the_last(speak):
    """A row that has ended yields "" until the last has; then nothing more is asked for."""
    turns = speak([b"a.zzzzzz", b"bbb.zzzz", [*b"cc", 256, *b"zzzzz"]], (".",))
    assert turns == [["a", "b", "c"], ["", "b", "c"], ["", "b", ""], ["", "", ""]]


@given(st.binary(max_size=24))
def test_no_piece_is_half_a_character(data):
    """Any bytes: the pieces add up to the text, and none changes when the next one comes.

    A character's bytes arrive one at a time, and it is shown with the last of them.
    """
    row = decode._Row(BYTES, ())
    pieces = [row.push(byte) for byte in data]
    assert "".join(pieces) + row.flush() == data.decode("utf-8", "replace")
    if "\ufffd" not in data.decode("utf-8", "replace"):
        ends = [data[:n].decode("utf-8", "ignore") for n in range(len(data) + 1)]
        assert ["".join(pieces[:n]) for n in range(len(data) + 1)] == ends


def test_a_character_is_shown_with_its_last_byte(speak):
    """Three bytes of the euro sign; a character that is never finished becomes U+FFFD."""
    assert [turn[0] for turn in speak(["\u20ac".encode()])] == ["", "", "\u20ac", ""]
    assert [turn[0] for turn in speak(["\u20ac".encode()[:2]])] == ["", "", "\ufffd"]


def test_names_of_special_tokens_in_a_prompt_are_text_unless_asked():
    """Of bytes: the separator, or the 13 letters of its name."""
    name = "<|endoftext|>"
    assert decode.prompt_ids(BYTES, f"a{name}b", special_tokens=True).tolist() == [97, 256, 98]
    assert decode.prompt_ids(BYTES, name).tolist() == list(name.encode())
