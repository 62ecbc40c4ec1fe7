"""A corpus as `gpt-jax data build` leaves it, written by hand for the tests of what reads it."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from gpt_jax.data.built import FORMAT, BuiltCorpus, BuiltSource
from gpt_jax.data.shards import ShardWriter
from gpt_jax.data.tokenizers import ByteTokenizer

Texts = Mapping[str, tuple[float, list[str], list[str]]]


def write_corpus(folder: Path, sources: Texts, digest: str = "d" * 64) -> Path:
    """A corpus in bytes; of each source its weight, its training and its held-out documents."""
    folder.mkdir(parents=True)
    tokenizer = ByteTokenizer()
    tokenizer.save(folder)
    for name, (_, *sides) in sources.items():
        for side, texts in zip(("train", "validation"), sides, strict=True):
            if not texts:
                continue
            with ShardWriter(folder / side / name, tokenizer, side == "validation") as writer:
                for text in texts:
                    writer.add(text)
                writer.finish(f"{name} {side}")
    built = BuiltCorpus(
        FORMAT,
        folder.name,
        digest,
        tuple(BuiltSource(name, weight) for name, (weight, *_) in sources.items()),
    )
    (folder / "corpus.json").write_text(json.dumps(dataclasses.asdict(built)))
    return folder
