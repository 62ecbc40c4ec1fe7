"""Text to token ids and back, without losing a byte.

Every tokenizer is a table of the bytes that each id stands for, plus a way to encode. One id, the
separator, stands for no bytes: it follows each document, and no text encodes to it, unless the
caller says that names of special tokens in the text mean those tokens.
"""

from __future__ import annotations

import codecs
import functools
import hashlib
import io
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import sentencepiece

from gpt_jax.config import InputError, require
from gpt_jax.paths import user_path

SPACE_MARK = "▁"
"""U+2581, which SentencePiece writes for a space, and so cannot tell from one."""
SEPARATOR_PIECE = "<|endoftext|>"
BYTE_PIECES = tuple(f"<0x{value:02X}>" for value in range(256))
PROBE = " \t a\n\n  b\r\n\0\u00e9\U0001f600 "
"""Text that a model which rewrites white space, or lacks a byte, does not give back."""
LONGEST_LINE = 4096
"""Characters of a line that SentencePiece trains on as one; a longer line is cut up."""
TRAINING_MEMORY = 48
"""Bytes of memory that learning a vocabulary takes at most for each byte of the sample: 18 to 27 of
source code, 34 of random digits, most of it in SentencePiece."""
LINES = re.compile(f"[^\n{SPACE_MARK}]+")
_LETTERS = "A-Za-z\u00c0-\u1fff\u2c00-\ud7ff"
CUTS = (
    re.compile(f" *(?:[{_LETTERS}]+|[^{_LETTERS} \n{SPACE_MARK}]+)|\n|{SPACE_MARK}| +"),
    re.compile(f" *[^ \n{SPACE_MARK}]+|\n|{SPACE_MARK}| +"),
)
"""Ways to cut a text into words, the finer first; each cuts by the two characters at the cut."""
REMEMBERED = 1_000_000
"""Characters of words whose ids are remembered before all are forgotten: some 30 MB of memory."""


class Tokenizer(ABC):
    """What the rest of the program knows of a tokenizer."""

    kind: ClassVar[str]
    prefix: tuple[int, ...] = ()
    """Ids that go before a prompt."""
    max_length: int | None = None
    """The longest text, in tokens, that the tokenizer's files say its model can read."""

    def __init__(
        self,
        table: Sequence[bytes],
        separator: int,
        digest: str,
        special_tokens: Mapping[str, int] | None = None,
    ):
        self.table = tuple(table)
        """The bytes that each id stands for; none for the separator and other control ids."""
        self.vocab_size = len(self.table)
        self.separator = separator
        self.digest = digest
        """SHA-256 of what defines it."""
        self.special_tokens = dict(special_tokens or {SEPARATOR_PIECE: separator})
        """The ids that stand for no text, by name."""

    def encode(self, text: str, special_tokens: bool = False) -> np.ndarray:
        """Token ids (N,) int32 of any text.

        Args:
          text: any valid Unicode.
          special_tokens: the name of a special token in the text stands for that token; without
            it, the name is text like any other.

        Raises:
          InputError: text that the tokenizer has no tokens for, or half of a surrogate pair.
        """
        if not special_tokens:
            return self._encode(text)
        names = sorted(map(re.escape, self.special_tokens), key=len, reverse=True)
        parts = re.split(f"({'|'.join(names)})", text)
        ids = [self._encode(part) for part in parts]
        ids[1::2] = [np.array([self.special_tokens[name]], np.int32) for name in parts[1::2]]
        return np.concatenate(ids)

    def encode_batch(self, texts: Sequence[str], special_tokens: bool = False) -> list[np.ndarray]:
        """What `encode` gives for each of `texts`."""
        return [self.encode(text, special_tokens) for text in texts]

    @abstractmethod
    def _encode(self, text: str) -> np.ndarray:
        """The ids of text in which no name is special."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write tokenizer.json, and the files that it goes by where there are any, to `folder`."""

    @functools.cached_property
    def byte_lengths(self) -> np.ndarray:
        """UTF-8 bytes that each id stands for, (vocab_size,) int32."""
        return np.array([len(piece) for piece in self.table], np.int32)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of `ids`, which need not end at the end of a character."""
        return b"".join(self.table[token] for token in ids)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; what is not UTF-8 becomes U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")

    def stream(self, after: Iterable[int] = ()) -> TextStream:
        """A decoder for ids that arrive one by one, of the text that follows that of `after`.

        The bytes of an id do not depend on the ids before it; in other kinds of tokenizer they do.
        """
        return TextStream(self.table)


class TextStream:
    """Decodes id by id and never emits part of a character; all of it together is `decode`."""

    def __init__(self, table: Sequence[bytes]):
        self._table = table
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The text that became whole with this id, often none."""
        return self._decoder.decode(self._table[token])

    def flush(self) -> str:
        """What is left at the end: U+FFFD for a character that was never finished."""
        return self._decoder.decode(b"", final=True)


class ByteTokenizer(Tokenizer):
    """The 256 bytes, then the separator."""

    kind = "bytes"

    def __init__(self):
        definition = _definition(self.kind)
        table = [bytes([value]) for value in range(256)]
        super().__init__([*table, b""], separator=256, digest=_sha256(definition))

    def _encode(self, text: str) -> np.ndarray:
        return np.frombuffer(utf8_bytes(text), np.uint8).astype(np.int32)

    def save(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_bytes(_definition(self.kind))


class CharacterTokenizer(Tokenizer):
    """The distinct characters of a corpus in code point order, then the separator."""

    kind = "characters"

    def __init__(self, characters: Iterable[str]):
        self.characters = "".join(sorted(set(characters)))
        self._definition = _definition(self.kind, characters=self.characters)
        self._points = _code_points(self.characters)
        table = [character.encode() for character in self.characters]
        super().__init__([*table, b""], separator=len(table), digest=_sha256(self._definition))

    def _encode(self, text: str) -> np.ndarray:
        points = _code_points(text)
        ids = np.searchsorted(self._points, points)
        known = self._points[np.minimum(ids, len(self._points) - 1)] == points
        if not known.all():
            unknown = text[int(np.argmin(known))]
            raise InputError(
                f"a character tokenizer knows the {len(self.characters)} characters of its corpus, "
                f"and {unknown!r} (U+{ord(unknown):04X}) is not one of them: leave it out, or "
                "train with another tokenizer (--data.tokenizer bytes knows every text)."
            )
        return ids.astype(np.int32)

    def save(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_bytes(self._definition)


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model: our own, which is lossless, or any that is given.

    The separator is the model's end-of-text id, else its start-of-text id, else one id more than
    the model has. A given model that rewrites text (adds a leading space, folds white space, has no
    bytes to fall back on) still does so, and `byte_lengths` counts what it keeps.
    """

    kind = "sentencepiece"

    def __init__(self, model: bytes):
        self.model = model
        """The .model file."""
        self._processor = processor = _load_model(model)
        table = [_piece_bytes(processor, token) for token in range(processor.get_piece_size())]
        controls = [token for token in (processor.eos_id(), processor.bos_id()) if token >= 0]
        if not controls:
            table.append(b"")
        separator = controls[0] if controls else len(table) - 1
        names = {
            processor.id_to_piece(token): token
            for token in range(processor.get_piece_size())
            if processor.is_control(token)
        }
        if not controls:
            names[SEPARATOR_PIECE] = separator
        super().__init__(table, separator, _sha256(model), names)
        byte_ids = [processor.piece_to_id(piece) for piece in BYTE_PIECES]
        self.lossless = all(map(processor.is_byte, byte_ids)) and (
            self.decode(processor.encode(PROBE)) == PROBE
        )
        """Whether it gives back any text as it was."""
        self._space_mark = [byte_ids[value] for value in SPACE_MARK.encode()]
        # Where no piece lies across a cut, as in our own models, the merges in one word know
        # nothing of the next, and what was merged before can be looked up: the ids are those of
        # the whole text in half the time. (Only BPE has ranks for scores. Unigram adds up
        # logarithms, and how a sum is rounded depends on what stands around.)
        written = _written(processor)
        texts = [processor.id_to_piece(i).replace(SPACE_MARK, " ") for i in written]
        ranked = all(processor.get_score(i).is_integer() for i in written)
        whole = (cut for cut in CUTS if all(len(cut.findall(text)) == 1 for text in texts))
        newline = processor.encode("\n") == [processor.piece_to_id("\n")]
        self._cut = next(whole, None) if ranked and newline else None
        self._ids_of: dict[str, bytes] = {}
        """int32 of each word that is remembered."""
        self._remembered = 0

    def _encode(self, text: str) -> np.ndarray:
        utf8_bytes(text)
        if not self.lossless:
            return np.array(self._processor.encode(text), np.int32)
        if self._cut:
            return self._encode_words(self._cut.findall(text))
        parts = map(self._processor.encode, text.split(SPACE_MARK))
        return np.array(_join(parts, self._space_mark), np.int32)

    def _encode_words(self, words: list[str]) -> np.ndarray:
        """The ids of a text that is cut."""
        if self._remembered > REMEMBERED or not self._ids_of:
            self._ids_of = {
                "\n": _int32(self._processor.encode("\n")),
                SPACE_MARK: _int32(self._space_mark),
            }
            self._remembered = 0
        new = list(set(words).difference(self._ids_of))
        if new:
            text = "\n".join([*new, ""])  # one call for all of them
            ids = np.array(self._processor.encode(text), np.int32)
            ends = np.flatnonzero(ids == self._processor.piece_to_id("\n"))
            data, start = ids.tobytes(), 0
            for word, end in zip(new, (ends * ids.itemsize).tolist(), strict=True):
                self._ids_of[word] = data[start:end]
                start = end + ids.itemsize
            self._remembered += len(text)
        return np.frombuffer(bytearray().join(map(self._ids_of.__getitem__, words)), np.int32)

    def piece_id(self, piece: str) -> int | None:
        """The id of a piece of the model; None for what is none."""
        found = self._processor.piece_to_id(piece)
        return found if self._processor.id_to_piece(found) == piece else None

    def save(self, folder: Path) -> None:
        (folder / "tokenizer.json").write_bytes(_definition(self.kind))
        (folder / "tokenizer.model").write_bytes(self.model)


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer that was saved in `folder`; raises InputError where there is none."""
    folder = user_path(folder)
    path = folder / "tokenizer.json"
    try:
        saved = json.loads(path.read_bytes())
        if saved["kind"] == SentencePieceTokenizer.kind:
            return SentencePieceTokenizer((folder / "tokenizer.model").read_bytes())
        if saved["kind"] == CharacterTokenizer.kind:
            return CharacterTokenizer(saved["characters"])
        if saved["kind"] == "huggingface":
            # That file is built on this one, and its library is slow to load.
            from gpt_jax.data.hf_tokenizers import read_tokenizer_files

            return read_tokenizer_files(
                folder / "files", saved["model_type"], saved["tokenizer_class"]
            )
        require(saved["kind"] == ByteTokenizer.kind, f"it has the unknown kind {saved['kind']!r}.")
        return ByteTokenizer()
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{folder} must hold a tokenizer that this program saved, and {path.name} or the file "
            f"beside it cannot be read ({error!r}): restore it, or delete the folder."
        ) from error


def read_model(path: str) -> SentencePieceTokenizer:
    """The tokenizer of a SentencePiece .model file; raises InputError where it is none."""
    try:
        return SentencePieceTokenizer(user_path(path).read_bytes())
    except (OSError, InputError) as error:
        raise InputError(f"data.tokenizer={path!r} cannot be read: {error}") from error


def read_tokenizer(path: str) -> Tokenizer:
    """The tokenizer of a folder: one that this program saved, or of the Hugging Face format."""
    folder = user_path(path)
    try:
        ours = "kind" in json.loads((folder / "tokenizer.json").read_bytes())
    except (OSError, ValueError):
        ours = False
    if ours:
        return load_tokenizer(folder)
    from gpt_jax.data.hf_tokenizers import read_tokenizer_files

    return read_tokenizer_files(folder)


def train_sentencepiece(
    texts: Iterable[str], vocab_size: int, sample_bytes: int
) -> SentencePieceTokenizer:
    """Learn a lossless byte-pair vocabulary; the same texts give the same model, byte for byte.

    Args:
      texts: the training text, read once.
      vocab_size: ids in all: the separator, a line end, an unknown that never occurs, 256 bytes,
        and pieces.
      sample_bytes: the most that is learned from; of a longer text, lines spread evenly over it.
        Memory is for TRAINING_MEMORY times as much, and one of the texts, however many come.

    Raises:
      InputError: a vocab_size larger or smaller than the text can give, with the limit.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_handed_over(_sample_lines(texts, sample_bytes)),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            # Lossless: nothing is normalised, trimmed or added, and any byte has a piece.
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            allow_whitespace_only_pieces=True,
            byte_fallback=True,
            user_defined_symbols=["\n"],
            unk_id=0,
            eos_id=1,
            eos_piece=SEPARATOR_PIECE,
            bos_id=-1,
            max_sentence_length=4 * LONGEST_LINE,
            num_threads=2,  # BPE is learned by one, but the number becomes a part of the model
            minloglevel=2,
        )
    except RuntimeError as error:
        raise InputError(_training_advice(str(error), vocab_size)) from error
    return SentencePieceTokenizer(model.getvalue())


def _sample_lines(texts: Iterable[str], limit: int) -> list[str]:
    """Lines of at most `limit` bytes: every one, or every second, fourth, ... that still fits."""
    kept: list[str] = []
    size, stride, seen = 0, 1, 0
    for text in texts:
        for line in LINES.finditer(text):
            for start in range(line.start(), line.end(), LONGEST_LINE):
                if seen % stride == 0:
                    kept.append(text[start : min(start + LONGEST_LINE, line.end())])
                    size += len(kept[-1].encode())
                seen += 1
                while size > limit and len(kept) > 1:
                    kept, stride = kept[::2], 2 * stride
                    size = sum(len(line.encode()) for line in kept)
    return kept


def _handed_over(lines: list[str]) -> Iterator[str]:
    """The lines, each forgotten here as it is taken."""
    lines.reverse()
    while lines:
        yield lines.pop()


def _training_advice(error: str, vocab_size: int) -> str:
    """SentencePiece's refusal as a message for people."""
    rule = f"a vocabulary must suit its text, and model.vocab_size={vocab_size} does not: "
    if most := re.search(r"Please set it to a value <= (\d+)", error):
        return rule + f"this text gives {most[1]} tokens at most. Ask for fewer, or give more text."
    if least := re.search(r"smaller than required_chars\. \d+ vs (\d+)", error):
        return rule + f"this text needs {least[1]} at least. Ask for more, or take bytes as tokens."
    return rule + f"SentencePiece says {error!r}. Take bytes as tokens (--data.tokenizer bytes)."


def _load_model(model: bytes) -> sentencepiece.SentencePieceProcessor:
    try:
        require(bool(model), "it is empty.")
        return sentencepiece.SentencePieceProcessor(model_proto=model)
    except (RuntimeError, InputError) as error:
        raise InputError(f"this is not a SentencePiece model: {error}") from error


def _written(processor: sentencepiece.SentencePieceProcessor) -> list[int]:
    """The ids whose pieces are text as it is written."""
    others = (processor.is_control, processor.is_unknown, processor.is_byte)
    ids = range(processor.get_piece_size())
    return [token for token in ids if not any(is_other(token) for is_other in others)]


def _piece_bytes(processor: sentencepiece.SentencePieceProcessor, token: int) -> bytes:
    """The bytes that a piece stands for."""
    if processor.is_control(token) or processor.is_unknown(token):
        return b""
    piece = processor.id_to_piece(token)
    if processor.is_byte(token):
        return bytes([int(piece[1:-1], 16)])
    return piece.replace(SPACE_MARK, " ").encode()


def _join(parts: Iterable[list[int]], between: list[int]) -> list[int]:
    """All ids of `parts`, with those of `between` between each two."""
    joined: list[int] = []
    for i, part in enumerate(parts):
        if i:
            joined += between
        joined += part
    return joined


def _int32(ids: Sequence[int]) -> bytes:
    return np.array(ids, np.int32).tobytes()


def utf8_bytes(text: str) -> bytes:
    """The UTF-8 of `text`; raises InputError for half of a surrogate pair."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"text must be valid Unicode, and character {error.start} of this one is half of a "
            f"surrogate pair, {text[error.start]!r}: it came from bytes that are not UTF-8."
        ) from error


def _code_points(text: str) -> np.ndarray:
    """(N,) uint32, one for each character."""
    utf8_bytes(text)
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def _definition(kind: str, **fields: str) -> bytes:
    """What tokenizer.json holds."""
    return json.dumps({"kind": kind, **fields}).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
