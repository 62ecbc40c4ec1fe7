"""A corpus of three real sources that every machine with Python has, by all of the paper's steps.

    gpt-jax data build experiments/data/python_text.py
    gpt-jax train experiments/python_text.py

The standard library's documentation strings, its code, and the documentation of the packages that
are installed. The first is what the quality filter takes for good, the last is what it filters; the
chapters of Python's language reference (`pydoc_data`) stand for a benchmark that must not be seen.
"""

import ast
import pydoc_data.topics
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from gpt_jax.data.recipe import Benchmark, Decontaminate, Quality, Recipe, Source, Vocabulary

LIBRARY = sysconfig.get_paths()["stdlib"]
PACKAGES = sysconfig.get_paths()["purelib"]
CODE = (f"{LIBRARY}/*.py", f"{LIBRARY}/[!_st]*/**/*.py")
"""Without its tests, without installed packages, and without the benchmark."""
SHORTEST = 80
"""Characters of a documentation string that says something."""


def docstrings() -> Iterator[dict[str, str]]:
    """The documentation strings of the standard library's modules, classes and functions."""
    for path in sorted(Path(LIBRARY).glob("**/*.py")):
        name = path.relative_to(LIBRARY)
        if {"test", "tests", "idle_test", "site-packages", "dist-packages"} & {*name.parts}:
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # the library keeps some of those for its own tests
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node) or ""
                if len(text) >= SHORTEST:
                    yield {"text": text, "name": f"{name}:{getattr(node, 'name', '')}"}


def language_reference() -> Iterator[dict[str, str]]:
    """The chapters of the language reference that `help()` shows."""
    for name, text in sorted(pydoc_data.topics.topics.items()):
        yield {"name": name, "text": text}


def get_config() -> Recipe:
    """Twice as many samples of documentation as its size would give, and the rest code."""
    return Recipe(
        name="python_text",
        sources=(
            Source(
                "docstrings", (f"python:{__file__}:docstrings",), weight=0.2, quality="reference"
            ),
            Source("code", CODE, weight=0.6),
            Source(
                "packages",
                tuple(f"{PACKAGES}/**/{name}" for name in ("*.md", "*.rst", "METADATA")),
                weight=0.2,
                quality="filter",
            ),
        ),
        steps=("quality", "dedup", "decontaminate"),
        invalid_utf8="skip",
        part_bytes=2_000_000,
        validation_fraction=0.05,
        quality=Quality(num_features=1 << 16),
        decontaminate=Decontaminate(
            benchmarks=(
                Benchmark("language_reference", (f"python:{__file__}:language_reference",)),
            )
        ),
        vocabulary=Vocabulary(vocab_size=4096, sample_bytes=10_000_000),
    )
