"""Files of Hugging Face tokenizers: what is missing, broken or not done is named."""

import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from gpt_jax.config import InputError
from gpt_jax.data.hf_tokenizers import read_tokenizer_files


def write(folder: Path, **files) -> Path:
    """Each file, JSON unless it is text; `vocab_json=` writes vocab.json."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / ".".join(name.rsplit("_", 1))
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_text(text, encoding="utf-8", newline="")
    return folder


GPT2 = {"vocab_json": {"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}, "merges_txt": "a b\n"}
BERT = {"vocab_txt": "[UNK]\n[SEP]\na\n"}
WORDS = tokenizers.Tokenizer(models.WordLevel({"a": 0}, "<unk>"))
PREFIXED = tokenizers.Tokenizer.from_str(WORDS.to_str())
PREFIXED.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"must have tokenizer\.json, or .* has none of them: put"),
        ({"vocab_json": {"a": 0}}, r"has vocab\.json: put"),
        (GPT2 | {"vocab_json": "{"}, r"vocab\.json must be JSON"),
        (GPT2 | {"vocab_json": []}, r"vocab\.json must hold an object, and it is \[\]"),
        (GPT2 | {"vocab_json": {}}, r"vocab\.json has none"),
        (GPT2 | {"vocab_json": {"a": "0"}}, r"gives 'a' '0'"),
        (GPT2 | {"vocab_json": {"a": 0, "b": 1 << 40}}, r"from 0 to \d+, and .* 'b' 1099511627776"),
        (GPT2 | {"vocab_json": "[" * 100_000}, r"vocab\.json must be JSON"),
        (
            GPT2 | {"tokenizer_config_json": {"eos_token": {"content": "b", "lstrip": "x"}}},
            "flags of a special token must be true or false",
        ),
        (
            BERT | {"tokenizer_config_json": {"added_tokens_decoder": {"3": 5}}},
            "must be text.*is 5",
        ),
        (
            BERT | {"tokenizer_config_json": {"additional_special_tokens": 5}},
            "must be a list or an object, and there is 5",
        ),
        (GPT2 | {"vocab_json": {"a": 0, "b": 0}}, r"gives 0 to both 'a' and 'b'"),
        (GPT2 | {"merges_txt": "a c\n"}, r"for 'a c' of merges\.txt vocab\.json lacks 'c'"),
        (GPT2 | {"merges_txt": "b a\n"}, r"lacks 'ba'"),
        (GPT2 | {"merges_txt": "a b c\n"}, r"two pieces .* one is 'a b c'"),
        ({"tokenizer_json": "{"}, r"tokenizer\.json must be JSON"),
        ({"tokenizer_json": {}}, r"tokenizer\.json must be of the tokenizers library"),
        ({"tokenizer_json": WORDS.to_str()}, r"none of eos, sep, bos, pad and unk"),
        ({"vocab_txt": "\n"}, r"vocab\.txt has none"),
        ({"vocab_txt": "a\n"}, r"must have the unknown token, and '\[UNK\]'"),
        (BERT | {"tokenizer_config_json": "["}, r"tokenizer_config\.json must be JSON"),
        (BERT | {"tokenizer_config_json": {"sep_token": 3}}, r"special token must be text.*is 3"),
        (BERT | {"tokenizer_config_json": {"do_basic_tokenize": False}}, "do_basic_tokenize is F"),
        (BERT | {"tokenizer_config_json": {"never_split": ["a"]}}, r"never_split is \['a'\]"),
        (BERT | {"tokenizer_config_json": {"tokenizer_class": "MyTokenizer"}}, "is 'MyTokenizer'"),
        (
            BERT | {"added_tokens_json": {"<x>": 9}},
            r"'<x>' that is 3 where added_tokens\.json says",
        ),
        (BERT | {"added_tokens_json": {"<x>": "9"}}, r"must give ids, and '<x>' has '9'"),
        (BERT | {"tokenizer_config_json": {"added_tokens_decoder": []}}, "tokens by their ids"),
        (GPT2 | {"tokenizer_config_json": {"do_lower_case": True}}, "do_lower_case is True"),
        (GPT2 | {"tokenizer_config_json": {"split_special_tokens": True}}, "split_special_tokens"),
        (
            {
                "tokenizer_json": PREFIXED.to_str(),
                "tokenizer_config_json": {"add_prefix_space": True},
            },
            "add_prefix_space is True where this one knows only False",
        ),
        (
            GPT2 | {"vocab_json": {"a": 0, "b": 1, "ab": 3}},
            "3 is that of both 'ab' and '<|endoftext|>'",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path, files, message):
    with pytest.raises(InputError, match=message.replace("<|", r"<\|").replace("|>", r"\|>")):
        read_tokenizer_files(write(tmp_path, **files))


def test_more_that_is_wrong_is_named(tmp_path):
    (tmp_path / "vocab.txt").write_bytes(b"[UNK]\n\xff\n")
    with pytest.raises(InputError, match=r"vocab\.txt must be UTF-8"):
        read_tokenizer_files(tmp_path)
    (tmp_path / "vocab.txt").unlink()
    (tmp_path / "vocab.txt").mkdir()
    with pytest.raises(InputError, match=r"vocab\.txt is not"):
        read_tokenizer_files(tmp_path)
    lower = {"tokenizer_config_json": {"do_lower_case": False}}
    with pytest.raises(InputError, match="do_lower_case is False where this one knows only True"):
        read_tokenizer_files(write(tmp_path / "gpt1", **GPT2, **lower), "openai-gpt")
    ctrl = write(tmp_path / "ctrl", vocab_json={"<unk>": 0, "a": 1}, merges_txt="#\na\n")
    with pytest.raises(InputError, match="two pieces with a space between"):
        read_tokenizer_files(ctrl, "ctrl")
    write(ctrl, vocab_json={"a": 1}, merges_txt="#\n")
    with pytest.raises(InputError, match="must have the unknown token, and '<unk>' is not in it"):
        read_tokenizer_files(ctrl, "ctrl")
    write(ctrl, vocab_json={"<unk>": 0, "a@@": 1}, special_tokens_map_json={"pad_token": "a"})
    with pytest.raises(InputError, match="must not be a part of its words, and 'a' is"):
        read_tokenizer_files(ctrl, "ctrl")


def test_text_that_the_vocabulary_lacks(tmp_path):
    tokenizer = read_tokenizer_files(write(tmp_path / "gpt2", **GPT2))
    assert tokenizer.encode("abab").tolist() == [2, 2]
    with pytest.raises(InputError, match=r"it lacks b'c': leave"):
        tokenizer.encode("abc")
    WORDS.add_special_tokens(["</s>"])
    words = read_tokenizer_files(write(tmp_path / "words", tokenizer_json=WORDS.to_str()))
    with pytest.raises(InputError, match="Missing"):
        words.encode("b")
