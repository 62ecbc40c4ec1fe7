"""Text in pieces against the text of all tokens, stop strings against `str.split`."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_model import random_params

from gpt_jax.config import InputError, ModelConfig
from gpt_jax.data.prompts import TextRow, prompt_ids
from gpt_jax.data.tokenizers import ByteTokenizer
from gpt_jax.generate import text as text_module
from gpt_jax.generate.text import generate
from gpt_jax.model.decode import generate_tokens
from gpt_jax.model.sampling import Sampling

GREEDY, RANDOM = Sampling(temperature=0), Sampling(temperature=2.0)
BYTES = ByteTokenizer()
# It knows more tokens than the tokenizer.
SMALL = ModelConfig(vocab_size=300, context_length=45, num_layers=1, embed_dim=8, num_heads=2)
SMALL_PARAMS = random_params(SMALL)
NEW = 14


def test_no_prompts_at_all_are_refused_as_text_too():
    """`generate` with an empty list does not end silently."""
    with pytest.raises(InputError, match="at least one prompt"):
        list(generate(SMALL, None, BYTES, [], max_new_tokens=1, how=GREEDY))


def test_streamed_pieces_are_the_text_of_the_tokens():
    """Random bytes are rarely UTF-8: the pieces add up to `decode` of the ids all the same."""
    prompts, model = ["def ", "", "x" * 31], (SMALL, SMALL_PARAMS)
    ids = [np.array(list(text.encode()) or [256], np.int32) for text in prompts]
    steps = generate_tokens(*model, ids, NEW, RANDOM, vocab_size=257, seed=3)
    drawn = np.stack(list(steps), axis=1).tolist()
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
        monkeypatch.setattr(text_module, "generate_tokens", lambda *_, **__: iter(script.T))
        prompts = ["?"] * len(rows)
        how = {"max_new_tokens": length, "how": GREEDY, "stop": stop}
        return list(generate(SMALL, None, BYTES, prompts, **how))

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
    row = TextRow(BYTES, ("abcd", "bc"))
    assert row._release("1 abcd") == "1 a"  # the same where it all comes as one token


@given(st.text("ab\u00e9", max_size=30), st.text("ab\u00e9", min_size=1, max_size=4))
def test_a_stop_string_is_a_split(text, stop):
    """Any text and stop string over three characters, one of them of two bytes."""
    row = TextRow(BYTES, (stop,))
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
    row, shown = TextRow(BYTES, stops), ""
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
    row = TextRow(BYTES, ())
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
    assert prompt_ids(BYTES, f"a{name}b", special_tokens=True).tolist() == [97, 256, 98]
    assert prompt_ids(BYTES, name).tolist() == list(name.encode())
