"""Tokenizers in the files of the Hugging Face format, through the `tokenizers` library."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from tokenizers import AddedToken, models

from gpt_jax.config import InputError, require
from gpt_jax.data.hf_files import (
    CLASSES,
    CTRL_JOIN,
    SETTINGS_FILES,
    VOCABULARY_FILES,
    WORD_END,
    Settings,
    build,
    check_settings,
    ctrl_id,
    parts_of,
    pipeline_of,
)
from gpt_jax.data.tokenizers import (
    SPACE_MARK,
    SentencePieceTokenizer,
    TextStream,
    Tokenizer,
    utf8_bytes,
)
from gpt_jax.paths import make_folder, user_path

SEPARATOR_ROLES = ("eos", "sep", "bos", "pad", "unk")
USUAL_NAMES = {
    "eos": ("<|endoftext|>", "</s>", "<eos>", "[EOS]", "<|end_of_text|>"),
    "sep": ("[SEP]", "<sep>"),
    "bos": ("<s>", "<bos>", "[BOS]", "<|begin_of_text|>"),
    "pad": ("[PAD]", "<pad>", "<|padding|>"),
    "unk": ("<unk>", "[UNK]"),
}
"""Special tokens that a lone tokenizer.json holds, by what they are for: it does not say."""
_KEPT_BYTES = (*range(33, 127), *range(161, 173), *range(174, 256))
BYTE_OF_MARK = {chr(value): value for value in _KEPT_BYTES} | {
    chr(256 + i): value for i, value in enumerate(sorted({*range(256)} - {*_KEPT_BYTES}))
}
"""GPT-2's printable character for each byte, the other way round."""
NEVER_IN_UTF8 = frozenset([0xC0, 0xC1, *range(0xF5, 0x100)])


class HuggingFaceTokenizer(Tokenizer):
    """The tokenizer of a folder in the Hugging Face format; ids and text are that format's.

    The separator is the end-of-text token, else the separating, the start-of-text, the padding or
    the unknown token: the first that the files name. GPT-1 and CTRL have the last alone, and there
    a text with unknown characters does encode to it. Elsewhere no text does, unless its names of
    special tokens are asked for.

    Where the vocabulary is byte-level, `table` has the exact bytes of each id. Elsewhere decoding
    depends on the neighbours (the space between two words belongs to neither), and `table` has the
    bytes of the piece alone, without the marks for word starts, ends and continuations: it counts
    no space that is in no piece.
    """

    kind = "huggingface"

    def __init__(self, files: Mapping[str, bytes], model_type: str = "", tokenizer_class: str = ""):
        self.files = dict(files)
        """The files it was read from, by name."""
        self.model_type = model_type
        settings = Settings(files)
        pipeline = pipeline_of(files, settings, model_type)
        known = (name for name, way in CLASSES.items() if way == pipeline)
        self.tokenizer_class = tokenizer_class or next(known, "")
        """transformers' class; a tokenizer.json need not say one."""
        check_settings(settings.config, pipeline, files)
        names = settings.names(pipeline)
        self._library, vocabulary = build(pipeline, files, settings, names)
        self._ctrl_ids = self._map_ids(vocabulary, names) if pipeline == "ctrl" else None
        added = self._add_tokens(settings, names, vocabulary)
        self._pieces = _pieces(vocabulary, added)
        special = {token.content: i for i, token in added.items() if token.special}
        self._special_ids = frozenset(special.values())
        definition = json.loads(self._library.to_str())
        self._decoders = [*parts_of(definition["decoder"], "decoders")]
        self._bytewise = [part["type"] for part in self._decoders] == ["ByteLevel"]
        super().__init__(
            [
                self._piece_bytes(self._pieces[i])
                if i in self._pieces and i not in self._special_ids
                else b""
                for i in range(max(self._pieces) + 1)
            ],
            _separator(names, special),
            _digest(self.kind, model_type, pipeline, files),
            special,
        )
        start = names["bos"]
        if start and (settings.config.get("add_bos_token") or _template_start(definition) == start):
            self.prefix = (special[start],)
        self.max_length = settings.max_length()
        unknown = special.get(names.get("unk") or "")
        self._guarded = np.array([i for i in special.values() if i != unknown], np.int32)
        self._missing = self._missing_bytes()

    def _map_ids(self, pieces: Mapping[str, int], names: Mapping[str, str | None]) -> np.ndarray:
        """CTRL's ids by the library's, (N,) int32."""
        internal = self._library.get_vocab()
        found = np.empty(len(internal), np.int32)
        for piece, i in internal.items():
            found[i] = ctrl_id(piece, pieces, pieces[str(names["unk"])])
        return found

    def _add_tokens(
        self, settings: Settings, names: Mapping[str, str | None], vocabulary: dict
    ) -> dict[int, AddedToken]:
        """Put the tokens that the settings name into the library's tokenizer; all, by id."""
        library = self._library
        # Without this, the name of a special token in a text is that token.
        library.encode_special_tokens = True
        library.no_truncation()
        library.no_padding()
        known = set(map(repr, library.get_added_tokens_decoder().values()))
        library.add_tokens([t for t in settings.added.values() if repr(t) not in known])
        for token in settings.special_tokens(names):
            found = {t.content: t for t in library.get_added_tokens_decoder().values()}
            if not (token.content in found and found[token.content].special):
                library.add_special_tokens([found.get(token.content, token)])
        added = library.get_added_tokens_decoder()
        if self._ctrl_ids is not None:
            added = self._map_added(added, vocabulary)
        ids = {token.content: i for i, token in added.items()}
        for i, token in settings.added.items():
            require(
                ids[token.content] == i,
                f"an added token must have the id that follows from the vocabulary, and for "
                f"{token.content!r} that is {ids[token.content]} where {settings.source} says {i}: "
                "correct it there.",
            )
        return added

    def _map_added(
        self, added: Mapping[int, AddedToken], vocabulary: Mapping[str, int]
    ) -> dict[int, AddedToken]:
        """CTRL's ids of added tokens, which from here on are what encoding gives."""
        assert self._ctrl_ids is not None
        new = itertools.count(len(vocabulary))
        mapped = {}
        for i, token in sorted(added.items()):
            require(
                i >= len(self._ctrl_ids),
                f"a special token of CTRL must not be a part of its words, and {token.content!r} "
                "is: give it another name.",
            )
            found = vocabulary.get(token.content)
            mapped[next(new) if found is None else found] = token
        self._ctrl_ids = np.append(self._ctrl_ids, np.array([*mapped], np.int32))
        return mapped

    def _missing_bytes(self) -> frozenset[int]:
        """Bytes of text that a byte-level vocabulary has no token for, and would leave out."""
        model = self._library.model
        if not (self._bytewise and isinstance(model, models.BPE)) or model.unk_token:
            return frozenset()
        held = {piece[0] for piece in self.table if len(piece) == 1}
        return frozenset(range(256)) - held - NEVER_IN_UTF8

    @functools.cached_property
    def _naming(self) -> tokenizers.Tokenizer:
        """The library's tokenizer that knows the names of special tokens in a text."""
        library = tokenizers.Tokenizer.from_str(self._library.to_str())
        library.encode_special_tokens = False
        return library

    def encode(self, text: str, special_tokens: bool = False) -> np.ndarray:
        return self.encode_batch([text], special_tokens)[0]

    def encode_batch(self, texts: Sequence[str], special_tokens: bool = False) -> list[np.ndarray]:
        for text in texts:
            data = utf8_bytes(text)
            absent = self._missing and self._missing.intersection(data)
            require(
                not absent,
                "text must be made of bytes that the vocabulary has, and it lacks "
                f"{bytes(absent)!r}: leave those characters out, or take another tokenizer.",
            )
        if special_tokens:
            return self._ids(self._naming, texts)
        batch = self._ids(self._library, texts)
        for i, ids in enumerate(batch):
            if np.isin(ids, self._guarded).any():
                batch[i] = self._encode(texts[i])
        return batch

    def _encode(self, text: str) -> np.ndarray:
        """The ids of text that spells a special token in a vocabulary that would take it for one.

        Such a name is cut after its first character, and the text on each side encoded alone.
        """
        cuts = [f"(?<={re.escape(n[0])})(?={re.escape(n[1:])})" for n in self.special_tokens]
        ids = np.concatenate(self._ids(self._library, re.split("|".join(cuts), text)))
        wrong = ids[np.isin(ids, self._guarded)]
        require(
            not len(wrong),
            "no text may encode to a special token, and this one does, to "
            f"{[self._pieces[int(i)] for i in wrong[:3]]}: leave that out of the text.",
        )
        return ids

    def _ids(self, library: tokenizers.Tokenizer, texts: Sequence[str]) -> list[np.ndarray]:
        try:
            batch = library.encode_batch_fast(list(texts), add_special_tokens=False)
        except Exception as error:  # The library raises nothing narrower.
            raise InputError(
                f"text must be made of what the vocabulary knows, and the tokenizers library "
                f"says {str(error)!r}: leave the unknown out, or take another tokenizer."
            ) from error
        found = [np.array(encoding.ids, np.int32) for encoding in batch]
        return found if self._ctrl_ids is None else [self._ctrl_ids[ids] for ids in found]

    def decode(self, ids: Iterable[int]) -> str:
        if self._bytewise:
            return super().decode(ids)
        ids = [i for i in map(int, ids) if i in self._pieces and i not in self._special_ids]
        if self._ctrl_ids is None:
            return self._library.decode(ids)
        words = " ".join(self._pieces[i] for i in ids)
        return words.replace(f"{CTRL_JOIN} ", "").strip()

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return super().decode_bytes(ids) if self._bytewise else self.decode(ids).encode()

    def stream(self, after: Iterable[int] = ()) -> TextStream:
        return TextStream(self.table) if self._bytewise else _HeldStream(self, after)

    @functools.cached_property
    def probes(self) -> list[int]:
        """One id of each sort that has its own effect on the text before it."""
        chosen: dict[tuple, int] = {}
        for i, piece in self._pieces.items():
            text = self.table[i]
            sort = (
                piece.startswith("##"),
                piece.startswith(SPACE_MARK),
                piece.endswith((WORD_END, CTRL_JOIN)),
                _is_byte(piece),
            )
            # A letter, since it is not part of any mark; of bytes, one that is never UTF-8.
            if piece == "<0xFF>" or (text.lstrip()[:1].isalpha() and not _is_byte(piece)):
                chosen.setdefault(sort, i)
        return list(chosen.values())

    def _piece_bytes(self, piece: str) -> bytes:
        if self._bytewise:
            known = all(mark in BYTE_OF_MARK for mark in piece)
            return bytes(map(BYTE_OF_MARK.__getitem__, piece)) if known else piece.encode()
        if self._ctrl_ids is not None:
            return piece.removesuffix(CTRL_JOIN).encode()
        for part in self._decoders:
            if part["type"] == "ByteFallback" and _is_byte(piece):
                return bytes([int(piece[1:-1], 16)])
            if part["type"] == "WordPiece":
                piece = piece.removeprefix(part["prefix"])
            elif part["type"] == "BPEDecoder":
                piece = piece.replace(part["suffix"], "")
            elif part["type"] == "Metaspace":
                piece = piece.replace(part["replacement"], " ")
            elif part["type"] == "Replace" and "String" in part["pattern"]:
                piece = piece.replace(part["pattern"]["String"], part["content"])
        return piece.encode()

    def save(self, folder: Path) -> None:
        marker = {"kind": self.kind, "model_type": self.model_type}
        marker["tokenizer_class"] = self.tokenizer_class
        (folder / "tokenizer.json").write_text(json.dumps(marker))
        make_folder(folder / "files")
        for name, content in self.files.items():
            (folder / "files" / name).write_bytes(content)


class _HeldStream(TextStream):
    """A stream for text that depends on what follows: it holds back what may still change.

    That is U+FFFD at the end, and whatever one more id would change, tried with one of each sort.
    """

    def __init__(self, tokenizer: HuggingFaceTokenizer, after: Iterable[int]):
        self._decode = tokenizer.decode
        self._probes = tokenizer.probes
        self._ids = [int(token) for token in after]
        self._given = len(self._decode(self._ids))

    def push(self, token: int) -> str:
        self._ids.append(int(token))
        text = self._decode(self._ids)
        # U+FFFD may be the beginning of a character.
        stable = len(text.rstrip("\ufffd"))
        for probe in self._probes:
            stable = _common_length(text[:stable], self._decode([*self._ids, probe]))
        new = text[self._given : stable]
        self._given = max(self._given, stable)
        last = self._decode([token])
        if stable == len(text) and last.strip():
            # Nothing before this id matters any more; it stays, since the first is special.
            self._ids, self._given = [int(token)], len(last)
        return new

    def flush(self) -> str:
        rest = self._decode(self._ids)[self._given :]
        self._ids, self._given = [], 0
        return rest


def read_tokenizer_files(
    folder: Path, model_type: str = "", tokenizer_class: str = ""
) -> Tokenizer:
    """The tokenizer of a folder in the Hugging Face format.

    Args:
      folder: has tokenizer.json, else vocab.json and merges.txt, else vocab.txt, else a
        SentencePiece tokenizer.model or spiece.model: the first of these is taken. Beside it,
        tokenizer_config.json, special_tokens_map.json and added_tokens.json are read.
      model_type: config.json's. Of vocab.json and merges.txt, "openai-gpt", "ctrl" and "gpt_neox"
        have their own way to tokens, and all others GPT-2's. Empty: as config.json says, if there
        is one.
      tokenizer_class: config.json's, which old files have instead of a tokenizer_config.json.

    Raises:
      InputError: a file that is missing, broken or contradicts another; a setting that changes ids
        and that is not done here.
    """
    folder, files = user_path(folder), {}
    said = _of_model(folder)
    model_type = model_type or said.get("model_type", "")
    tokenizer_class = tokenizer_class or said.get("tokenizer_class", "")
    for name in (*VOCABULARY_FILES, *SETTINGS_FILES):
        try:
            if (folder / name).exists():
                files[name] = (folder / name).read_bytes()
        except OSError as error:
            raise InputError(
                f"the files of a tokenizer must be readable, and {folder / name} is not ({error}): "
                "restore it."
            ) from error
    library_files = files.keys() & {"tokenizer.json", "vocab.txt"} or (
        files.keys() >= {"vocab.json", "merges.txt"}
    )
    others = [name for name in ("tokenizer.model", "spiece.model") if name in files]
    require(
        bool(library_files or others),
        "a folder with a tokenizer must have tokenizer.json, or vocab.json and merges.txt, or "
        f"vocab.txt, or tokenizer.model or spiece.model, and {folder} has "
        f"{', '.join(files) or 'none of them'}: put the files of the model's tokenizer there.",
    )
    try:
        if library_files:
            return HuggingFaceTokenizer(files, model_type, tokenizer_class)
        return _sentencepiece(files, others[0])
    except InputError as error:
        raise InputError(f"the tokenizer in {folder} cannot be used: {error}") from error


def _of_model(folder: Path) -> dict[str, str]:
    """What the model's config.json says in words; nothing where there is none."""
    try:
        values = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError, RecursionError):  # the model's own reader says what is wrong
        return {}
    values = values if isinstance(values, dict) else {}
    return {key: value for key, value in values.items() if isinstance(value, str)}


def _sentencepiece(files: Mapping[str, bytes], name: str) -> SentencePieceTokenizer:
    """A SentencePiece model, if the settings beside it change nothing."""
    settings = Settings(files)
    check_settings(settings.config, pipeline_of(files, settings, ""), files)
    tokenizer = SentencePieceTokenizer(files[name])
    names = settings.names("sentencepiece")
    ids = {token.content: i for i, token in settings.added.items()}
    for token in settings.special_tokens(names):
        ids.setdefault(token.content, -1)
    for piece, i in ids.items():
        own = tokenizer.piece_id(piece)
        require(
            own is not None and i in (own, -1),
            f"special tokens must be pieces of {name}, and {piece!r} is not one, or has another "
            "id: make a tokenizer.json that has it (save_pretrained writes one).",
        )
    end = names["eos"]
    require(
        end is None or tokenizer.piece_id(end) == tokenizer.separator,
        f"eos_token must be what ends a text in {name}, and it is {end!r}: correct the setting.",
    )
    tokenizer.max_length = settings.max_length()
    return tokenizer


def _common_length(first: str, second: str) -> int:
    """Characters with which both begin."""
    pairs = zip(first, second, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


def _template_start(definition: Mapping[str, Any]) -> str | None:
    """The special token that a tokenizer.json puts before each text."""
    for part in parts_of(definition["post_processor"], "processors"):
        if part["type"] == "TemplateProcessing" and "SpecialToken" in part["single"][0]:
            return part["single"][0]["SpecialToken"]["id"]
        if "cls" in part:
            return part["cls"][0]
    return None


def _pieces(vocabulary: Mapping[str, int], added: Mapping[int, AddedToken]) -> dict[int, str]:
    """Every piece and added token by its id, of which each must have its own."""
    pieces = {i: piece for piece, i in vocabulary.items()}
    for i, token in added.items():
        require(
            pieces.setdefault(i, token.content) == token.content,
            f"a token must have an id of its own, and {i} is that of both {pieces[i]!r} and "
            f"{token.content!r}, which is added: the vocabulary has a gap, so put the token in it.",
        )
    return dict(sorted(pieces.items()))


def _separator(names: Mapping[str, str | None], special: Mapping[str, int]) -> int:
    """The id that follows each document."""
    named = [names[role] for role in SEPARATOR_ROLES]
    usual = [name for role in SEPARATOR_ROLES for name in USUAL_NAMES[role]]
    # Where the files give a role to any token, they are believed; usual names are a guess.
    for name in filter(None, named if any(named) else usual):
        if name in special:
            return special[name]
    raise InputError(
        "a tokenizer must have a special token that can follow each document, and this one has "
        f"none of eos, sep, bos, pad and unk (its special tokens: {[*special]}): name one, as "
        "eos_token in tokenizer_config.json."
    )


def _digest(kind: str, model_type: str, pipeline: str, files: Mapping[str, bytes]) -> str:
    """SHA-256 of what defines the tokenizer."""
    used = {
        "tokenizer.json": ("tokenizer.json",),
        "bert": ("vocab.txt",),
    }.get(pipeline, ("vocab.json", "merges.txt"))
    contents = {
        name: hashlib.sha256(files[name]).hexdigest()
        for name in (*used, *SETTINGS_FILES)
        if name in files
    }
    definition = {"kind": kind, "model_type": model_type, "files": contents}
    return hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()


def _is_byte(piece: str) -> bool:
    """Whether a piece is the name of a byte, as <0x0A>."""
    return re.fullmatch("<0x[0-9A-F]{2}>", piece) is not None
