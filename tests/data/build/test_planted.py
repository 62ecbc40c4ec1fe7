"""What was planted in a real corpus is found: against a count of all pairs of documents."""

import dataclasses
import importlib.util
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from gpt_jax.data.build.steps import build
from gpt_jax.data.recipe import Vocabulary

QUIET = Console(quiet=True)
Corpus = dict[str, tuple[str, str]]
"""By a document's id: its source and its text."""


def module_of(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def grams(text: str) -> frozenset[int]:
    """The set of 13-grams of a text, written as plainly as can be."""
    bare = "".join(c for c in text if c.isspace() or is_kept(c))
    words = bare.lower().split()
    return frozenset(hash(tuple(words[i : i + 13])) for i in range(max(1, len(words) - 12)))


def is_kept(character: str) -> bool:
    if character.isascii():
        return character.isalnum()
    return unicodedata.category(character)[0] not in "PC"


def contents(folder: Path) -> Corpus:
    found: Corpus = {}
    for path in sorted(folder.glob("documents/*/*.parquet")):
        table = pq.read_table(path)
        rows = zip(table["id"].to_pylist(), table["text"].to_pylist(), strict=True)
        found |= {name: (path.parent.name, text) for name, text in rows}
    return found


def similar_pairs(corpus: Corpus, order: list[str], least: float) -> list[tuple[str, str, float]]:
    """All (better, worse, Jaccard index) of at least `least`, by what documents have in common."""
    sets = {name: grams(text) for name, (_, text) in corpus.items()}
    holders = defaultdict(list)
    place = {
        name: i for i, name in enumerate(sorted(corpus, key=lambda n: order.index(corpus[n][0])))
    }
    for name in place:
        for gram in sets[name]:
            holders[gram].append(name)
    shared = defaultdict(int)
    for names in holders.values():
        for i, one in enumerate(names):
            for other in names[i + 1 :]:
                shared[one, other] += 1
    found = []
    for (one, other), count in shared.items():
        jaccard = count / (len(sets[one]) + len(sets[other]) - count)
        if jaccard >= least:
            found.append((one, other, jaccard))
    return found


@pytest.mark.slow
def test_what_was_planted_is_found(root, tmp_path):
    recipes = root / "experiments" / "data"
    base = module_of(recipes / "python_text.py")
    recipe = module_of(recipes / "python_text_planted.py").get_config()
    library, code, _, planted = recipe.sources
    recipe = dataclasses.replace(
        recipe,
        # Fewer files of the same sources; the packages' take longest to be read.
        sources=(library, dataclasses.replace(code, files=base.CODE[:1]), planted),
        steps=(),
        keep_text=True,
        vocabulary=Vocabulary(tokenizer="none"),
    )
    build(recipe, tmp_path / "raw", 2, QUIET)
    raw = contents(tmp_path / "raw")
    recipe = dataclasses.replace(recipe, steps=("dedup",))
    ledger = build(recipe, tmp_path / "deduplicated", 2, QUIET)
    left = contents(tmp_path / "deduplicated")

    order = [source.name for source in recipe.sources]
    pairs = similar_pairs(raw, order, least=0.5)
    alike = [(better, worse) for better, worse, jaccard in pairs if jaccard >= 0.8]
    found = [worse not in left for _, worse in alike]
    assert len(found) > 150
    assert sum(found) >= 0.95 * len(found)
    # Nothing went that had nothing like it.
    gone = raw.keys() - left.keys()
    assert gone <= {worse for _, worse, jaccard in pairs if jaccard >= 0.6}
    counts = ledger["sources"]["planted"]["steps"]["dedup"]["dropped"]
    assert counts["same words as a better one"]["documents"] == 40
    assert counts["near duplicate of a better one"]["documents"] == len(
        {name for name in gone if 40 <= number(name) < 80}
    )
    assert {number(name) for name in left} >= {*range(80, 120)}

    recipe = dataclasses.replace(recipe, steps=("dedup", "decontaminate"))
    ledger = build(recipe, tmp_path / "clean", 2, QUIET)
    clean = contents(tmp_path / "clean")
    chapters = [grams(chapter) for chapter in base.language_reference()]
    wanted = frozenset().union(*chapters)
    held = Counter(gram for _, text in left.values() for gram in grams(text) & wanted)
    colliding = {gram for gram, count in held.items() if count <= 10}
    now = {gram for _, text in clean.values() for gram in grams(text) & wanted}
    assert not now & colliding
    report = ledger["steps"]["decontaminate"]["benchmarks"]["language_reference"]
    assert report["examples"] == len(chapters)
    assert report["dirty_before"] == sum(not held.keys().isdisjoint(own) for own in chapters) > 30
    assert report["dirty_after"] == sum(not now.isdisjoint(own) for own in chapters)
    # What has nothing of it is as it was, and of each planted page something is left.
    for name, (_, text) in left.items():
        if not grams(text) & colliding:
            assert clean[name] == left[name]
    pages = {number(name.partition("#")[0]) for name in clean if "#cut" in name}
    assert len(pages) > 10
    assert pages >= {number(name) for name in raw if number(name) >= 120}


def number(name: str) -> int:
    """Which of the planted documents this is; the first 40 are copies, the next 40 nearly."""
    return int(name.rpartition(":")[2]) if name.startswith("python_text_planted") else -1
