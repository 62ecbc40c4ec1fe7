"""Our tokenizers as the files of the Hugging Face format."""

from __future__ import annotations

import json
from pathlib import Path

import sentencepiece
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers

from gpt_jax.config import InputError
from gpt_jax.data.hf_tokenizers import BYTE_OF_MARK, HuggingFaceTokenizer
from gpt_jax.data.tokenizers import (
    BYTE_PIECES,
    PROBE,
    SPACE_MARK,
    ByteTokenizer,
    CharacterTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
)


def write_tokenizer_files(tokenizer: Tokenizer, folder: Path, context_length: int) -> None:
    """Write what `transformers.AutoTokenizer.from_pretrained` makes the same tokenizer of.

    A HuggingFaceTokenizer gives the files back that it came from. Others become a tokenizer.json,
    and ids and text are the same, with these differences in how that format works:

    - A text with the name of a special token (<|endoftext|>) has that token, as our own
      `encode(text, special_tokens=True)` does.
    - SentencePiece: ids whose bytes are not UTF-8 may decode to more U+FFFD than here.
    - A text that a character tokenizer does not know is an error of another type.

    Beside it, tokenizer.model holds a SentencePiece model as it was. A given model that rewrites
    text, or is not byte-pair encoding, has only that, and what reads it must know the model.

    Args:
      tokenizer: any of ours.
      folder: is there; files of the same names are replaced.
      context_length: the longest text, in tokens, that the model reads.

    Raises:
      InputError: a tokenizer of another kind.
    """
    if isinstance(tokenizer, HuggingFaceTokenizer):
        for name, content in tokenizer.files.items():
            (folder / name).write_bytes(content)
        return
    if isinstance(tokenizer, ByteTokenizer):
        library = _bytes()
    elif isinstance(tokenizer, CharacterTokenizer):
        library = _characters(tokenizer)
    elif isinstance(tokenizer, SentencePieceTokenizer):
        (folder / "tokenizer.model").write_bytes(tokenizer.model)
        library = _sentencepiece(tokenizer)
    else:
        raise InputError(
            "a tokenizer that is written for others must be of bytes, characters, SentencePiece or "
            f"the Hugging Face format, and this is a {type(tokenizer).__name__}: take one of those."
        )
    end = next(name for name, i in tokenizer.special_tokens.items() if i == tokenizer.separator)
    config = {
        "eos_token": end,
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
    }
    if library is not None:
        names = sorted(tokenizer.special_tokens, key=tokenizer.special_tokens.__getitem__)
        library.add_special_tokens([AddedToken(name, normalized=False) for name in names])
        (folder / "tokenizer.json").write_text(library.to_str(), encoding="utf-8")
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def _bytes() -> tokenizers.Tokenizer:
    """Byte-level BPE without merges."""
    library = tokenizers.Tokenizer(models.BPE(dict(BYTE_OF_MARK), []))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    library.decoder = decoders.ByteLevel()
    return library


def _characters(tokenizer: CharacterTokenizer) -> tokenizers.Tokenizer:
    """Each character a word; one that is unknown is an error, since no word stands for it."""
    vocabulary = {character: i for i, character in enumerate(tokenizer.characters)}
    library = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    library.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    library.decoder = decoders.Fuse()
    return library


def _sentencepiece(tokenizer: SentencePieceTokenizer) -> tokenizers.Tokenizer | None:
    """Byte-pair encoding with the pieces' scores as ranks; None for a model that is otherwise.

    Pieces keep their spaces, so that U+2581 in a text remains what it is.
    """
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
    if not tokenizer.lossless:
        return None
    first_byte = processor.piece_to_id(BYTE_PIECES[0])
    user_defined, ranked, vocabulary = [], [], {}
    for i in range(processor.get_piece_size()):
        piece = processor.id_to_piece(i)
        text = piece.replace(SPACE_MARK, " ")
        vocabulary[piece if processor.is_control(i) or processor.is_byte(i) else text] = i
        if processor.is_control(i) or processor.is_unknown(i) or processor.is_byte(i):
            continue
        # Pieces that are given come before the bytes, and those that are learned after them.
        if i < first_byte:
            user_defined.append(text)
        else:
            ranked.append((-processor.get_score(i), i, text))
    merges = [
        (text[:cut], text[cut:])
        for _, _, text in sorted(ranked)
        for cut in range(1, len(text))
        if text[:cut] in vocabulary and text[cut:] in vocabulary
    ]
    library = tokenizers.Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True))
    library.add_tokens([AddedToken(text, normalized=False) for text in user_defined])
    library.add_special_tokens([processor.id_to_piece(processor.unk_id())])
    library.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return library if _same_ids(library, tokenizer) else None


def _same_ids(library: tokenizers.Tokenizer, tokenizer: SentencePieceTokenizer) -> bool:
    """Whether every piece, and text of them all, has the same ids in both."""
    pieces = [piece.decode("utf-8", "ignore") for piece in tokenizer.table]
    return all(
        library.encode(text).ids == tokenizer.encode(text).tolist()
        for text in (PROBE, *pieces, "".join(pieces), "".join(pieces[::-1]))
    )
