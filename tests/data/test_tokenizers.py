"""Tokenizers: nothing is lost, nothing in a text can pass for a separator, streams are whole."""

import io
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from gpt_jax.config import InputError
from gpt_jax.data import tokenizers
from gpt_jax.data.tokenizers import (
    CUTS,
    SEPARATOR_PIECE,
    ByteTokenizer,
    CharacterTokenizer,
    SentencePieceTokenizer,
    _sample_lines,
    load_tokenizer,
    read_model,
    train_sentencepiece,
)

TEXT = [
    "def f(x):\n    return x + 1\n\n\n",
    "The caf\u00e9\t\u2581 is open.\r\n",
    "word word\u2581word\n" * 50,
]
AWKWARD = [
    "",
    " ",
    "  \n \n\n",
    "\u2581",
    "a \u2581 b\u2581\u2581",
    "\n\u2581\n",
    "<|endoftext|><s></s><unk>\n<0x41>",
    "\0\x01\t\r\n\x7f\x85\u2028",
    "\u2047 \u2585 \ufeff \ufffd",
    "\U0001f600e\u0301\U0010ffff",
]


def given_model(**options) -> bytes:
    """A SentencePiece model with its own defaults, which are not lossless."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT * 3),
        model_writer=model,
        minloglevel=2,
        hard_vocab_limit=False,
        **options,
    )
    return model.getvalue()


LEARNED = train_sentencepiece(TEXT, 300, 10_000)
CHARACTERS = CharacterTokenizer("".join(TEXT + AWKWARD))
NO_CONTROLS = SentencePieceTokenizer(
    given_model(
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        bos_id=-1,
        eos_id=-1,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
    )
)
LOSSLESS = pytest.mark.parametrize(
    "tokenizer", [LEARNED, ByteTokenizer(), CHARACTERS, NO_CONTROLS], ids=lambda t: t.kind
)


def check(tokenizer, text):
    """One text, there and back: whole, in a stream, byte for byte."""
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32
    assert ids.ndim == 1
    assert tokenizer.separator not in ids
    assert all(0 <= token < tokenizer.vocab_size for token in ids)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert tokenizer.byte_lengths[ids].sum() == len(text.encode())
    stream = tokenizer.stream()
    pieces = [stream.push(token) for token in ids]
    assert "".join(pieces) == text
    assert stream.flush() == ""


@LOSSLESS
@pytest.mark.parametrize("text", AWKWARD)
def test_awkward_text_comes_back(tokenizer, text):
    check(tokenizer, text)


@given(st.text())
def test_any_text_comes_back(text):
    for tokenizer in (LEARNED, ByteTokenizer(), NO_CONTROLS):
        check(tokenizer, text)


@given(st.text(alphabet="de f\n\t\u2581\u00e9<|>", max_size=80))
def test_text_like_the_corpus_comes_back(text):
    check(LEARNED, text)
    check(NO_CONTROLS, text)


@given(st.lists(st.integers(0, LEARNED.vocab_size - 1)))
def test_a_stream_of_any_ids_is_their_decoding(ids):
    for tokenizer in (LEARNED, ByteTokenizer()):
        known = [token for token in ids if token < tokenizer.vocab_size]
        stream = tokenizer.stream()
        text = "".join(map(stream.push, known)) + stream.flush()
        assert text == tokenizer.decode(known)


def test_a_stream_holds_half_a_character_back():
    stream = ByteTokenizer().stream()
    assert [stream.push(byte) for byte in b"a\xf0\x9f\x98\x80"] == ["a", "", "", "", "\U0001f600"]
    assert [stream.push(byte) for byte in b"\xe2\x96"] == ["", ""]
    assert stream.flush() == "\ufffd"


@LOSSLESS
def test_names_of_special_tokens(tokenizer):
    """Text by default, and tokens where that is asked for."""
    name, separator = SEPARATOR_PIECE, tokenizer.separator
    assert tokenizer.special_tokens == {name: separator}
    assert (tokenizer.prefix, tokenizer.max_length) == ((), None)
    text = f"a{name}\n{name}{name}"
    check(tokenizer, text)
    ids = tokenizer.encode(text, special_tokens=True)
    a, line = tokenizer.encode("a"), tokenizer.encode("\n")
    assert ids.dtype == np.int32
    assert ids.tolist() == [*a, separator, *line, separator, separator]
    assert tokenizer.decode(ids) == "a\n"
    for special in (False, True):
        batch = tokenizer.encode_batch(["", text, "b"], special_tokens=special)
        alone = [tokenizer.encode(part, special_tokens=special) for part in ("", text, "b")]
        assert [ids.tolist() for ids in batch] == [ids.tolist() for ids in alone]


def test_pieces_of_a_given_model_by_name():
    tokenizer = SentencePieceTokenizer(given_model(vocab_size=60))
    assert tokenizer.special_tokens == {"<s>": 1, "</s>": 2}
    assert tokenizer.encode("<s></s>", special_tokens=True).tolist() == [1, 2]
    assert not {1, 2} & {*tokenizer.encode("<s></s>").tolist()}
    assert (tokenizer.piece_id("</s>"), tokenizer.piece_id("<none>")) == (2, None)


@given(st.text(alphabet="def xyz_.,(\n\t\u00e9\u0301\u201c\u4e2d1", max_size=60))
def test_word_by_word_is_what_sentencepiece_itself_gives(text):
    for tokenizer in (LEARNED, NO_CONTROLS):
        assert tokenizer.encode(text).tolist() == tokenizer._processor.encode(text)


def test_words_that_were_forgotten_are_encoded_again(monkeypatch):
    monkeypatch.setattr(tokenizers, "REMEMBERED", 10)
    tokenizer = SentencePieceTokenizer(LEARNED.model)
    for text in TEXT * 2:
        assert tokenizer.encode(text).tolist() == LEARNED.encode(text).tolist()
        assert len(tokenizer._ids_of) < 30


@pytest.mark.parametrize(
    ("pieces", "cut"),
    [([], CUTS[0]), (["x."], CUTS[1]), (["x y"], None), (["x\n"], None)],
    ids=["ours", "letters and signs", "over a space", "over a line end"],
)
def test_a_text_is_cut_where_no_piece_lies(pieces, cut):
    """A piece over the cut is found as one, wherever it stands."""
    model = given_model(
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        user_defined_symbols=["\n", *pieces],
    )
    tokenizer = SentencePieceTokenizer(model)
    assert tokenizer.lossless
    assert tokenizer._cut == cut
    for text in ("x.y x", "x y x\ny.x y", ".x.."):
        assert tokenizer.encode(text).tolist() == tokenizer._processor.encode(text)


def test_ids_of_bytes_and_characters():
    assert ByteTokenizer().encode("h\u00e9").tolist() == [104, 0xC3, 0xA9]
    assert (ByteTokenizer().vocab_size, ByteTokenizer().separator) == (257, 256)
    characters = CharacterTokenizer("hello\u00e9")
    assert characters.characters == "ehlo\u00e9"
    assert characters.encode("hole\u00e9").tolist() == [1, 3, 2, 0, 4]
    assert characters.byte_lengths.tolist() == [1, 1, 1, 1, 2, 0]
    assert characters.separator == 5


def test_the_separator_stands_for_nothing():
    for tokenizer in (LEARNED, ByteTokenizer(), CHARACTERS, NO_CONTROLS):
        assert tokenizer.byte_lengths[tokenizer.separator] == 0
        assert tokenizer.decode([tokenizer.separator]) == ""
        assert tokenizer.byte_lengths.shape == (tokenizer.vocab_size,)


@LOSSLESS
def test_saved_and_loaded(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert type(loaded) is type(tokenizer)
    assert loaded.digest == tokenizer.digest
    assert loaded.table == tokenizer.table
    assert loaded.separator == tokenizer.separator
    assert loaded.encode("word").tolist() == tokenizer.encode("word").tolist()


def test_training_is_deterministic_and_quiet(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert train_sentencepiece(TEXT, 300, 10_000).digest == LEARNED.digest
    assert LEARNED.vocab_size == 300
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_training_reads_a_bounded_sample_from_all_over():
    lines = [f"{i % 10}{i % 10} " * 20 for i in range(1000)]
    text = "\n".join(["aa" * 500] * 100 + lines + ["zz" * 500] * 100)
    learned = train_sentencepiece([text], 290, 30_000)
    assert {b"aa", b"zz"} <= set(learned.table)


def test_a_sample_is_spread_evenly_and_fits():
    lines = [f"{i:04d}" for i in range(1000)]
    assert _sample_lines(["\n".join(lines)], 4000) == lines
    assert _sample_lines(["\n".join(lines)], 3999) == lines[::2]
    assert _sample_lines(["\n".join(lines[:500]), "\n".join(lines[500:])], 550) == lines[::8]
    assert list(map(len, _sample_lines(["x" * 10_000], 9000))) == [4096, 1808]


def test_one_very_long_line():
    text = "xyz" * 100_000
    check(train_sentencepiece([text], 264, 1_000_000), text)


def test_a_vocabulary_that_does_not_suit_names_one_that_does():
    with pytest.raises(InputError, match=r"=5000 does not: this text gives (\d+)") as most:
        train_sentencepiece(TEXT, 5000, 10_000)
    largest = int(str(most.value).split("gives ")[1].split()[0])
    assert train_sentencepiece(TEXT, largest, 10_000).vocab_size == largest
    with pytest.raises(InputError, match=r"=100 does not: this text needs (\d+)") as least:
        train_sentencepiece(TEXT, 100, 10_000)
    smallest = int(str(least.value).split("needs ")[1].split()[0])
    assert train_sentencepiece(TEXT, smallest, 10_000).vocab_size == smallest
    with pytest.raises(InputError, match="SentencePiece says"):
        train_sentencepiece(["\n\n"], 300, 10_000)


def test_a_given_model_is_taken_as_it_is(tmp_path):
    (tmp_path / "their.model").write_bytes(given_model(vocab_size=60))
    tokenizer = read_model(str(tmp_path / "their.model"))
    own = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "their.model"))
    ids = tokenizer.encode("word  is open\n")
    assert ids.tolist() == own.encode("word  is open\n")
    assert tokenizer.decode(ids) == " word is open"
    assert tokenizer.separator == own.eos_id()
    assert tokenizer.vocab_size == own.get_piece_size()


def test_a_model_without_controls_gets_one_more_id():
    assert NO_CONTROLS.separator == NO_CONTROLS.vocab_size - 1
    assert NO_CONTROLS.vocab_size == NO_CONTROLS._processor.get_piece_size() + 1


@pytest.mark.parametrize("content", [None, b"", b"not a model"])
def test_a_bad_model_is_named(tmp_path, content):
    path = tmp_path / "bad.model"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"bad\.model"):
        read_model(str(path))


@pytest.mark.parametrize(
    "content", [None, b"{", b"[]", b'{"kind": "morse"}', b'{"kind": "sentencepiece"}']
)
def test_a_bad_tokenizer_folder_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(InputError, match="must hold a tokenizer"):
        load_tokenizer(Path(tmp_path))


def test_text_that_cannot_be_encoded_is_named():
    with pytest.raises(InputError, match=r"'z' \(U\+007A\)"):
        CharacterTokenizer("abc").encode("abz")
    for tokenizer in (LEARNED, ByteTokenizer(), CHARACTERS):
        with pytest.raises(InputError, match="character 1 of this one is half of a surrogate"):
            tokenizer.encode("a\udc80")


BOUNDED = """
import numpy as np
from gpt_jax.data.tokenizers import train_sentencepiece

def peak():
    # ru_maxrss would count what the process that started this one holds.
    lines = open("/proc/self/status").read().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

def texts():
    for seed in range(100):
        digits = np.random.default_rng(seed).bytes(500_000).hex()
        yield "\\n".join(digits[i : i + 80] for i in range(0, len(digits), 80))

before = peak()
train_sentencepiece(texts(), 300, 1_000_000)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the peak")
def test_training_takes_the_memory_that_it_says():
    """Of 100 MB that are random to the end, 1 MB is learned from."""
    out = subprocess.run([sys.executable, "-c", BOUNDED], capture_output=True, check=True)
    assert 2_000_000 < int(out.stdout) < tokenizers.TRAINING_MEMORY * 1_000_000
