"""The corpus of python_text.py with text planted in it that must be found and taken away.

    gpt-jax data build experiments/data/python_text_planted.py

The source "planted" holds exact copies of the library's modules, copies with words changed here and
there, copies with so many changed that they are other texts, and pages with a paragraph of the
benchmark in their middle. Its ledger says what became of them; `tests/data/build/test_planted.py`
compares that with a count of all pairs, on fewer files.
"""

import dataclasses
import importlib.util
import pydoc_data.topics
import random
import re
import types
from collections.abc import Iterator
from pathlib import Path

from gpt_jax.data.recipe import Recipe, Source

COPIES = 40
"""Of each kind."""
WORDS = 400
"""In a text that is copied, at least."""


def get_config() -> Recipe:
    """The better sources come first, so that of two copies the planted one goes."""
    base = _python_text().get_config()
    planted = Source("planted", (f"python:{__file__}:planted",), weight=0.01)
    return dataclasses.replace(base, name="python_text_planted", sources=(*base.sources, planted))


def planted() -> Iterator[str]:
    """COPIES exact copies of the library's modules, as many near and far ones, and then pages."""
    draw, texts = random.Random(0), _modules()
    yield from texts[:COPIES]
    for text in texts[COPIES : 2 * COPIES]:
        yield changed(text, draw.randint(118, 400), draw)
    for text in texts[2 * COPIES : 3 * COPIES]:
        yield changed(text, draw.randint(20, 50), draw)
    chapters = [text for _, text in sorted(pydoc_data.topics.topics.items()) if len(text) > 2000]
    for i, text in enumerate(texts[3 * COPIES : 4 * COPIES]):
        # Told backwards it is no copy of anything.
        words = text.split()[::-1]
        words[200:200] = chapters[i % len(chapters)][500:1000].split()
        yield " ".join(words)


def changed(text: str, every: int, draw: random.Random) -> str:
    """The text with one of so many words changed: each is in 13 of the 13-grams."""
    parts = re.split(r"(\s+)", text)
    for place in range(draw.randrange(0, 2 * every, 2), len(parts), 2 * every):
        parts[place] += "changed"
    return "".join(parts)


def _modules() -> list[str]:
    """Modules at the top of the library, of some length, in the order of their names."""
    paths = sorted(_python_text().LIBRARY.glob("*.py"))
    texts = [path.read_text(encoding="utf-8") for path in paths]
    return [text for text in texts if len(text.split()) >= WORDS]


def _python_text() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(
        "python_text", Path(__file__).with_name("python_text.py")
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
