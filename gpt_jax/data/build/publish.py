"""The corpus takes its place: all of it at once, with an older one there until then."""

from __future__ import annotations

import dataclasses
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpt_jax.config import require
from gpt_jax.data import cache
from gpt_jax.data.build.runner import left_here, write_json
from gpt_jax.data.built import FORMAT, BuiltCorpus, BuiltSource
from gpt_jax.data.recipe import Recipe
from gpt_jax.data.shards import ShardIndex
from gpt_jax.paths import in_bucket, told_of_buckets

OLD = ".old-"


@dataclass
class Content:
    """What a corpus is put together from, wherever the steps have left it."""

    documents: dict[str, list[Path]] = field(default_factory=dict)
    """Per source, Parquet files of the text that is left; none where it is not kept."""
    tokenizer: Path | None = None
    shards: dict[str, dict[str, tuple[ShardIndex, list[Path]]]] = field(default_factory=dict)
    """Per source and side of the split: the index, and the files of its shards in order."""


def publish(recipe: Recipe, out: Path, content: Content, ledger: dict[str, Any]) -> None:
    """Put the corpus in `out`, in place of what is there."""
    partial, old = (out.with_name(f"{mark}{out.name}") for mark in (cache.PARTIAL, OLD))
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    if content.tokenizer:
        shutil.copytree(content.tokenizer, partial, dirs_exist_ok=True)
    for name, paths in content.documents.items():
        for i, path in enumerate(paths):
            _link(path, partial / "documents" / name / f"{i:05d}.parquet")
    for name, sides in content.shards.items():
        for side, (index, paths) in sides.items():
            folder = partial / side / name
            for shard, path in zip(index.shards, paths, strict=True):
                _link(path, folder / shard.name)
            write_json(folder / "index.json", dataclasses.asdict(index))
    sources = tuple(
        BuiltSource(source.name, source.weight)
        for source in recipe.sources
        if "train" in content.shards.get(source.name, {})
    )
    corpus = BuiltCorpus(FORMAT, recipe.name, ledger["digest"], sources)
    write_json(partial / "recipe.json", dataclasses.asdict(recipe))
    write_json(partial / "ledger.json", ledger)
    write_json(partial / "corpus.json", dataclasses.asdict(corpus))
    cache.sync_tree(partial)
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    partial.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def restore(out: Path) -> None:
    """Give an older corpus its place back, where a build was killed while it put its own there."""
    old = out.with_name(f"{OLD}{out.name}")
    if old.exists() and not out.exists():
        old.rename(out)


def share_corpus(local: Path, out: Path) -> None:
    """Give the bucket that `out` is in a corpus that was made here, of the same name.

    Raises InputError where another corpus is there: runs may be training on it.
    """
    if not in_bucket(out):
        return
    record = (local / "corpus.json").read_text()
    with told_of_buckets():
        there = (out / "corpus.json").read_text() if (out / "corpus.json").exists() else record
    require(
        there == record,
        f"a corpus in a bucket is never replaced, and {out} holds another: name a new one (--out).",
    )
    cache.share(str(out.parent), local)


def _link(path: Path, to: Path) -> None:
    """The same file under another name; a copy where the file system has no such thing."""
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, to)
    except OSError:
        with left_here(path):
            shutil.copyfile(path, to)
