"""Our tokenizers in the Hugging Face format: transformers reads the same ids and text."""

import io
import json
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gpt_jax.config import InputError
from gpt_jax.data.hf_tokenizers import HuggingFaceTokenizer, read_tokenizer_files
from gpt_jax.data.tokenizers import (
    ByteTokenizer,
    CharacterTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
    train_sentencepiece,
)
from gpt_jax.interop.tokenizer_files import write_tokenizer_files

CORPUS = [Path(json.__file__).read_text(), "caf\u00e9 \u4eca\u5929\u5929\u6c14\u5f88\u597d\n" * 9]
AWKWARD = [
    "",
    " ",
    "  a  b ",
    "\n\n a\r\n\tc\n",
    "\u2581 a\u2581b",
    "e\u0301 \U0001f600\U0001f468\u200d\U0001f469\ufffd",
    "\0\x01\x7f\x85\u2028",
    "<0x41><s></w>##a",
    "aaaaa    bbbb",
    CORPUS[1],
]
ALPHABET = "abcdefghijklmnop \n\t<>|\u2581\u00e9\u4eca\U0001f600\u0301\0"
TEXT = st.text(max_size=30) | st.text(alphabet=ALPHABET, max_size=60)


def model(**options) -> SentencePieceTokenizer:
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 3),
        model_writer=written,
        minloglevel=2,
        vocab_size=400,
        hard_vocab_limit=False,
        **options,
    )
    return SentencePieceTokenizer(written.getvalue())


UNCHANGED = {
    "normalization_rule_name": "identity",
    "add_dummy_prefix": False,
    "remove_extra_whitespaces": False,
    "byte_fallback": True,
}
TOKENIZERS = {
    "bytes": ByteTokenizer(),
    "characters": CharacterTokenizer("".join([*CORPUS, *AWKWARD, ALPHABET])),
    "sentencepiece": train_sentencepiece(CORPUS, 500, 100_000),
    "other_bpe": model(
        model_type="bpe", bos_id=-1, eos_id=-1, user_defined_symbols=["de"], **UNCHANGED
    ),
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(name, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(name)
    write_tokenizer_files(TOKENIZERS[name], folder, 128)
    return folder


@pytest.fixture(scope="module")
def theirs(folder):
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not installed, so it cannot read what we write"
    )
    return transformers.AutoTokenizer.from_pretrained(folder)


def same(ours: Tokenizer, theirs, text: str):
    ids = theirs(text, add_special_tokens=False).input_ids
    assert ids == ours.encode(text).tolist()
    decoded = theirs.decode(ids, skip_special_tokens=True)
    assert decoded == ours.decode(ids) == text


@pytest.mark.parametrize("text", [*AWKWARD, *CORPUS[:1]], ids=lambda text: ascii(text[:12]))
def test_awkward_text_is_the_same(name, theirs, text):
    same(TOKENIZERS[name], theirs, text)


@settings(max_examples=150, deadline=None)
@given(text=TEXT)
def test_any_text_is_the_same(name, theirs, text):
    """But for the name of a special token, which the others take for that token."""
    assume("<|endoftext|>" not in text and "<unk>" not in text and "</s>" not in text)
    ours = TOKENIZERS[name]
    if isinstance(ours, CharacterTokenizer):
        text = "".join(filter(ours.characters.__contains__, text))
    same(ours, theirs, text)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_our_own_reading_is_the_same(name, folder, data):
    """What is written is read here too, without transformers: any ids of whole characters."""
    ours, read = TOKENIZERS[name], read_tokenizer_files(folder)
    text = data.draw(st.text(alphabet=ALPHABET))
    ids = read.encode(text).tolist()
    assert type(read) is HuggingFaceTokenizer
    assert ids == ours.encode(text).tolist()
    assert read.decode([*ids, ours.separator]) == text
    assert (read.separator, read.vocab_size) == (ours.separator, ours.vocab_size)


def test_what_is_special(name, theirs):
    """The separator ends a text, is found by its name, and has no text."""
    ours = TOKENIZERS[name]
    end = next(name for name, i in ours.special_tokens.items() if i == ours.separator)
    assert (theirs.eos_token, theirs.eos_token_id) == (end, ours.separator)
    assert len(theirs) == ours.vocab_size
    assert theirs.model_max_length == 128
    text = f"a{end}b"
    ids = theirs(text, add_special_tokens=False).input_ids
    assert ids == ours.encode(text, special_tokens=True).tolist()
    assert theirs.decode(ids, skip_special_tokens=True) == "ab"


def test_unfinished_characters_of_bytes(tmp_path):
    ours = TOKENIZERS["bytes"]
    write_tokenizer_files(ours, tmp_path, 64)
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for ids in ([0xE2, 0x96], [0xFF, 65, 0xC3], [0xF0, 0x9F, 0x98, 65, 0x80]):
        assert library.decode(ids) == ours.decode(ids)


def test_the_model_file_is_copied(tmp_path):
    ours = TOKENIZERS["sentencepiece"]
    write_tokenizer_files(ours, tmp_path, 64)
    assert (tmp_path / "tokenizer.model").read_bytes() == ours.model
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer_config.json").unlink()
    assert read_tokenizer_files(tmp_path).digest == ours.digest


@pytest.mark.parametrize("given", [model(), model(model_type="unigram", **UNCHANGED)])
def test_a_model_that_cannot_be_said_otherwise_is_copied(tmp_path, given):
    write_tokenizer_files(given, tmp_path, 64)
    assert {path.name for path in tmp_path.iterdir()} == {
        "tokenizer.model",
        "tokenizer_config.json",
    }
    read = read_tokenizer_files(tmp_path)
    assert read.digest == given.digest
    assert read.max_length == 64


def test_files_go_back_as_they_came(tmp_path):
    files = {
        "vocab.txt": b"[UNK]\r\n[SEP]\r\na\r\n",
        "tokenizer_config.json": b'{"do_lower_case" : false}',
    }
    write_tokenizer_files(HuggingFaceTokenizer(files), tmp_path, 64)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_an_unknown_character_is_an_error_there_too(tmp_path):
    write_tokenizer_files(CharacterTokenizer("ab"), tmp_path, 64)
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert library.encode("ba").ids == [1, 0]
    with pytest.raises(Exception, match="Missing"):
        library.encode("abc")


def test_another_kind_is_refused(tmp_path):
    other = object.__new__(type("Morse", (Tokenizer,), {"_encode": None, "save": None}))
    with pytest.raises(InputError, match="this is a Morse"):
        write_tokenizer_files(other, tmp_path, 64)
    assert list(tmp_path.iterdir()) == []


SETTINGS = [
    ({"tokenizer_class": "LlamaTokenizer"}, None),
    ({"tokenizer_class": "XGLMTokenizer"}, "tokenizer_class is 'XGLMTokenizer'"),
    ({"pad_token": "[PAD]"}, r"'\[PAD\]' is not one"),
    ({"added_tokens_decoder": {"7": {"content": "</s>"}}}, "'</s>' is not one, or has another"),
    ({"added_tokens_decoder": {"2": {"content": "</s>"}}}, None),
    ({"eos_token": "<s>"}, "eos_token must be what ends a text .* it is '<s>'"),
    ({"do_lower_case": True}, "do_lower_case is True"),
]


@pytest.mark.parametrize(("config", "message"), SETTINGS)
def test_settings_beside_a_model(tmp_path, config, message):
    (tmp_path / "spiece.model").write_bytes(model().model)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    if message is None:
        assert isinstance(read_tokenizer_files(tmp_path), SentencePieceTokenizer)
    else:
        with pytest.raises(InputError, match=message):
            read_tokenizer_files(tmp_path)
