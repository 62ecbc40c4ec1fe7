"""The files of a Hugging Face tokenizer: what they say, and the library's tokenizer of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from gpt_jax.config import InputError, require

VOCABULARY_FILES = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
)
SETTINGS_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
PIPELINES: dict[str, dict[str, str]] = {
    "tokenizer.json": {},
    "gpt2": {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "unk": "<|endoftext|>"},
    "gpt_neox": {
        "bos": "<|endoftext|>",
        "eos": "<|endoftext|>",
        "unk": "<|endoftext|>",
        "pad": "<|padding|>",
    },
    "openai-gpt": {"unk": "<unk>"},
    "ctrl": {"unk": "<unk>"},
    "bert": {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"},
    "sentencepiece": {},
}
"""Each way from vocabulary files to a tokenizer, with its special tokens unless the files say."""
CLASSES = {
    "GPT2Tokenizer": "gpt2",
    "GPTNeoXTokenizer": "gpt_neox",
    "OpenAIGPTTokenizer": "openai-gpt",
    "CTRLTokenizer": "ctrl",
    "BertTokenizer": "bert",
    "DistilBertTokenizer": "bert",
    "LlamaTokenizer": "sentencepiece",
    "T5Tokenizer": "sentencepiece",
}
ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
WORD_END = "</w>"
CTRL_JOIN = "@@"
"""CTRL's mark at the end of a piece that another piece of the same word follows."""
UNHEEDED = {"split_special_tokens": False, "never_split": None, "do_basic_tokenize": True}
"""Settings that no way here does, each with the value that asks for nothing."""
HEEDED = {
    "add_prefix_space": (False, ("gpt2", "gpt_neox")),
    "do_lower_case": (False, ("bert",)),
    "tokenize_chinese_chars": (False, ("bert",)),
    "strip_accents": (None, ("bert",)),
}
"""Settings that some do: the value that asks for nothing, and who does what is asked."""
MAX_IDS = 1 << 24
"""More than any vocabulary has: a larger id would make a table that does not fit the memory."""


class Settings:
    """What the files beside a vocabulary say of it."""

    def __init__(self, files: Mapping[str, bytes]):
        self.config = dict(_json(files, "tokenizer_config.json"))
        self.added: dict[int, AddedToken] = {}
        """Tokens beyond the vocabulary, by id."""
        self.source = "added_tokens_decoder in tokenizer_config.json"
        """Where they are named."""
        declared = self.config.get("added_tokens_decoder")
        if declared is None:
            self.config |= _json(files, "special_tokens_map.json")
            self.source = "added_tokens.json"
            special = {_name(value) for key, value in self.config.items() if _names_one(key, value)}
            special |= {_name(value) for value in self._extra()}
            for name, i in _json(files, "added_tokens.json").items():
                require(type(i) is int, f"added_tokens.json must give ids, and {name!r} has {i!r}.")
                self.added[i] = AddedToken(
                    name, special=name in special, normalized=name not in special
                )
        else:
            require(
                isinstance(declared, dict) and all(map(str.isdecimal, declared)),
                f"{self.source} must be tokens by their ids, and it is {declared!r:.80}.",
            )
            self.added = {int(i): _added(token) for i, token in declared.items()}
        self.added = dict(sorted(self.added.items()))

    def names(self, pipeline: str) -> dict[str, str | None]:
        """The special token of each role; None where the files say that there is none."""
        defaults = PIPELINES[pipeline]
        said: dict[str, Any] = {
            role: self.config.get(f"{role}_token", defaults.get(role)) for role in ROLES
        }
        return {role: None if value is None else _name(value) for role, value in said.items()}

    def special_tokens(self, names: Mapping[str, str | None]) -> list[AddedToken]:
        """Those of `names`, then others that the files name, with how each is found in text."""
        others = [
            value
            for key, value in self.config.items()
            if _names_one(key, value) and key.removesuffix("_token") not in ROLES
        ]
        named = [self.config.get(f"{role}_token") or name for role, name in names.items() if name]
        return [_added(value, special=True) for value in [*named, *self._extra(), *others]]

    def _extra(self) -> list[Any]:
        extra = self.config.get("extra_special_tokens")
        extra = extra or self.config.get("additional_special_tokens") or []
        require(
            isinstance(extra, list | dict),
            f"the special tokens of tokenizer_config.json must be a list or an object, and there "
            f"is {extra!r}: correct it.",
        )
        return list(extra.values() if isinstance(extra, dict) else extra)

    def max_length(self) -> int | None:
        """model_max_length, unless it is the huge number that stands for none."""
        length = self.config.get("model_max_length")
        if isinstance(length, bool) or not isinstance(length, int | float):
            return None
        return int(length) if 0 < length < 1e9 else None


def _names_one(key: str, value: Any) -> bool:
    """Whether a setting names a special token."""
    return key.endswith("_token") and isinstance(value, str | dict)


def _name(value: Any) -> str:
    """The name in a token of a settings file."""
    name = value.get("content") if isinstance(value, dict) else value
    require(
        isinstance(name, str) and name != "",
        f"a special token must be text, or an object with its text as content, and one is {value!r}"
        ": correct tokenizer_config.json or special_tokens_map.json.",
    )
    return str(name)


def _added(value: Any, special: bool = False) -> AddedToken:
    given = value if isinstance(value, dict) else {}
    flags = {
        key: given[key] for key in ("lstrip", "rstrip", "normalized", "single_word") if key in given
    }
    require(
        all(type(flag) is bool for flag in flags.values()),
        f"the flags of a special token must be true or false, and one is {value!r}: correct it.",
    )
    special = special or bool(given.get("special"))
    return AddedToken(_name(value), special=special, **flags)


def _json(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no such file."""
    try:
        content = json.loads(files.get(name, b"{}"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} must be JSON, and it is not ({error}): restore it.") from error
    require(isinstance(content, dict), f"{name} must hold an object, and it is {content!r:.80}.")
    return content


def _lines(files: Mapping[str, bytes], name: str) -> list[str]:
    """The lines of a file, without their ends."""
    try:
        text = files[name].decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{name} must be UTF-8, and it is not ({error}): restore it.") from error
    return text.removesuffix("\n").replace("\r\n", "\n").split("\n")


def pipeline_of(files: Mapping[str, bytes], settings: Settings, model_type: str) -> str:
    """Which of PIPELINES makes the tokenizer."""
    named = str(settings.config.get("tokenizer_class") or "").removesuffix("Fast")
    if "tokenizer.json" in files:
        return "tokenizer.json"
    if {"vocab.json", "merges.txt"} <= files.keys():
        fallback = model_type if model_type in ("openai-gpt", "ctrl", "gpt_neox") else "gpt2"
        suits = ("gpt2", "gpt_neox", "openai-gpt", "ctrl")
    else:
        fallback = "bert" if "vocab.txt" in files else "sentencepiece"
        suits = (fallback,)
    found = CLASSES.get(named, "") if named else fallback
    require(
        found in suits,
        f"a tokenizer of {', '.join(name for name in VOCABULARY_FILES if name in files)} must be "
        f"of a class that is known here, and tokenizer_class is {named!r}: give the folder a "
        "tokenizer.json (save_pretrained writes one), or name one of "
        f"{', '.join(name for name, way in CLASSES.items() if way in suits)}.",
    )
    return found


def check_settings(config: Mapping[str, Any], pipeline: str, files: Mapping[str, bytes]) -> None:
    """Raise InputError for a setting that would change ids, and that is not done."""
    asked = {key: value for key, value in UNHEEDED.items() if config.get(key, value) != value}
    if pipeline == "tokenizer.json":
        asked |= _contradictions(config, _json(files, "tokenizer.json"))
    else:
        for key, (nothing, doers) in HEEDED.items():
            if pipeline not in doers and config.get(key, nothing) not in (nothing, None):
                asked[key] = nothing
        # GPT-1 writes everything in lower case, as BERT does where it is not told otherwise.
        if pipeline == "openai-gpt":
            asked.pop("do_lower_case", None)
            asked.pop("tokenize_chinese_chars", None)
            if config.get("do_lower_case") is False:
                asked["do_lower_case"] = True
    for key, value in asked.items():
        raise InputError(
            f"what tokenizer_config.json asks for must be what the tokenizer does, and its {key} "
            f"is {config[key]!r} where this one knows only {value!r}: correct the setting, or make "
            "a tokenizer.json that does it."
        )


def _contradictions(config: Mapping[str, Any], definition: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that differ from the same in tokenizer.json, with what that says."""
    names = {
        "add_prefix_space": ("ByteLevel", "add_prefix_space"),
        "do_lower_case": ("BertNormalizer", "lowercase"),
        "tokenize_chinese_chars": ("BertNormalizer", "handle_chinese_chars"),
        "strip_accents": ("BertNormalizer", "strip_accents"),
    }
    parts = [
        *parts_of(definition.get("normalizer"), "normalizers"),
        *parts_of(definition.get("pre_tokenizer"), "pretokenizers"),
    ]
    return {
        key: part.get(field)
        for key, (kind, field) in names.items()
        for part in parts
        if part.get("type") == kind and config.get(key, part.get(field)) != part.get(field)
    }


def parts_of(part: Any, inner: str) -> Iterator[dict[str, Any]]:
    """A part of a tokenizer.json, or those that it is a sequence of."""
    yield from part[inner] if part and inner in part else filter(None, [part])


def build(
    pipeline: str, files: Mapping[str, bytes], settings: Settings, names: Mapping[str, str | None]
) -> tuple[tokenizers.Tokenizer, dict[str, int]]:
    """The library's tokenizer, and the ids of the vocabulary by piece.

    They are the library's own ids, but for CTRL.
    """
    if pipeline == "tokenizer.json":
        try:
            library = tokenizers.Tokenizer.from_buffer(files["tokenizer.json"])
        except Exception as error:  # The library raises nothing narrower.
            raise InputError(
                f"tokenizer.json must be of the tokenizers library, and that says {str(error)!r}: "
                "restore the file, or write it anew with a current version."
            ) from error
        vocabulary = library.get_vocab(with_added_tokens=False)
        _check_ids(vocabulary, "tokenizer.json")
        return library, vocabulary
    if pipeline == "bert":
        return _word_pieces(files, settings.config, str(names["unk"]))
    vocabulary = _json(files, "vocab.json")
    _check_ids(vocabulary, "vocab.json")
    if pipeline == "ctrl":
        return _ctrl(vocabulary, _lines(files, "merges.txt"), str(names["unk"])), vocabulary
    merges = _merges(_lines(files, "merges.txt"), vocabulary)
    if pipeline == "openai-gpt":
        return _gpt1(vocabulary, merges, str(names["unk"])), vocabulary
    library = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    if pipeline == "gpt_neox":
        library.normalizer = normalizers.NFC()
    prefix_space = bool(settings.config.get("add_prefix_space"))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    library.decoder = decoders.ByteLevel()
    return library, vocabulary


def _check_ids(vocabulary: Mapping[str, Any], name: str) -> None:
    """Every piece has an id of its own."""
    require(bool(vocabulary), f"a vocabulary must hold pieces, and {name} has none: restore it.")
    owner: dict[int, str] = {}
    for piece, i in vocabulary.items():
        require(
            type(i) is int and 0 <= i < MAX_IDS,
            f"a piece must have an id from 0 to {MAX_IDS - 1}, and {name} gives {piece!r} {i!r}: "
            "correct it.",
        )
        require(
            owner.setdefault(i, piece) == piece,
            f"a piece must have an id of its own, and {name} gives {i} to both {owner.get(i)!r} "
            f"and {piece!r}: correct it.",
        )


def _merges(lines: list[str], vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
    """The pairs of merges.txt, each checked."""
    merges = []
    for line in lines:
        if line.startswith("#version") or (not line and line is lines[-1]):
            continue
        pair = line.split(" ")
        require(
            len(pair) == 2,
            f"a line of merges.txt must be two pieces with a space between, and one is {line!r}: "
            "restore the file.",
        )
        for piece in (*pair, "".join(pair)):
            require(
                piece in vocabulary,
                f"merges must join pieces of the vocabulary to one of it, and for {line!r} of "
                f"merges.txt vocab.json lacks {piece!r}: take both files from the same tokenizer.",
            )
        merges.append((pair[0], pair[1]))
    return merges


def _gpt1(
    vocabulary: dict[str, int], merges: list[tuple[str, str]], unknown: str
) -> tokenizers.Tokenizer:
    """Lower case, words and punctuation apart, then BPE with a mark at the end of each word."""
    library = tokenizers.Tokenizer(
        models.BPE(vocabulary, merges, end_of_word_suffix=WORD_END, unk_token=unknown)
    )
    library.normalizer = normalizers.BertNormalizer(lowercase=True)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.BPEDecoder(suffix=WORD_END)
    return library


def _word_pieces(
    files: Mapping[str, bytes], config: Mapping[str, Any], unknown: str
) -> tuple[tokenizers.Tokenizer, dict[str, int]]:
    """BERT's. Of a piece that is there twice the last line counts, as in the library."""
    vocabulary = {line.rstrip(): i for i, line in enumerate(_lines(files, "vocab.txt"))}
    require(any(vocabulary), "a vocabulary must hold pieces, and vocab.txt has none: restore it.")
    require(
        unknown in vocabulary,
        f"vocab.txt must have the unknown token, and {unknown!r} is not in it: name the right one "
        "as unk_token in tokenizer_config.json.",
    )
    library = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
    library.normalizer = normalizers.BertNormalizer(
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
        strip_accents=config.get("strip_accents"),
        lowercase=config.get("do_lower_case", True),
    )
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece(prefix="##")
    return library, vocabulary


def _ctrl(vocabulary: Mapping[str, int], lines: list[str], unknown: str) -> tokenizers.Tokenizer:
    """CTRL's: words up to white space, with a line end that follows; BPE within each.

    Its vocabulary marks pieces that do not end a word, and its merges those that do. The library's
    vocabulary has every piece of either, with ids of its own; a piece may end a word and have
    CTRL's mark in it.
    """
    require(
        unknown in vocabulary,
        f"vocab.json must have the unknown token, and {unknown!r} is not in it: name the right one "
        "as unk_token in tokenizer_config.json.",
    )
    # The first line is a header, whatever it says.
    merges = [tuple(line.split()) for line in lines[1:] if line]
    for pair in merges:
        require(
            len(pair) == 2,
            f"a line of merges.txt must be two pieces with a space between, and one is "
            f"{' '.join(pair)!r}: restore the file.",
        )
    pieces = [
        key.removesuffix(CTRL_JOIN) if key.endswith(CTRL_JOIN) else key + WORD_END
        for key in vocabulary
    ]
    pieces += [piece for pair in merges for piece in (*pair, "".join(pair))]
    pieces = [piece for piece in dict.fromkeys(pieces) if piece]
    library = tokenizers.Tokenizer(
        models.BPE(
            {piece: i for i, piece in enumerate(pieces)},
            [(first, second) for first, second in merges],
            end_of_word_suffix=WORD_END,
            unk_token=unknown + WORD_END,
        )
    )
    library.pre_tokenizer = pre_tokenizers.Split(Regex(r"\S+\n?"), "removed", invert=True)
    return library


def ctrl_id(piece: str, vocabulary: Mapping[str, int], unknown: int) -> int:
    """CTRL's own id of a piece in the library's vocabulary."""
    key = piece.removesuffix(WORD_END) if piece.endswith(WORD_END) else piece + CTRL_JOIN
    return vocabulary.get(key, unknown)
