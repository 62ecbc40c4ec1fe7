"""A corpus of three real sources that every machine with Python has, by all of the paper's steps.

    gpt-jax data build experiments/data/python_text.py
    gpt-jax train experiments/python_text.py

The standard library's documentation strings, its code, and the documentation strings of installed
packages. The first is what the quality filter takes for good, the last is what it filters. The
chapters of Python's language reference (`pydoc_data`) stand for a benchmark that must not be seen.
"""

import ast
import pydoc_data.topics
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from gpt_jax.data.recipe import Benchmark, Decontaminate, Quality, Recipe, Source, Vocabulary

LIBRARY = Path(sysconfig.get_paths()["stdlib"])
PACKAGES = Path(sysconfig.get_paths()["purelib"])
CODE = (f"{LIBRARY}/*.py", f"{LIBRARY}/[!_st]*/**/*.py")
"""Without its tests and installed packages. The file of the benchmark is there to be found."""
NOT_LIBRARY = {"test", "tests", "idle_test", "site-packages", "dist-packages"}
DOCUMENTED = ("numpy", "scipy", "jax", "flax", "optax", "orbax", "grain")
"""Packages that are here whenever this program is."""
SHORTEST = 80
"""Characters of a documentation string that says something."""


def library() -> Iterator[str]:
    """The documentation strings of the standard library."""
    for path in sorted(LIBRARY.glob("**/*.py")):
        if not NOT_LIBRARY & {*path.relative_to(LIBRARY).parts}:
            yield from docstrings(path)


def packages() -> Iterator[str]:
    """Those of installed packages."""
    for name in DOCUMENTED:
        for path in sorted(PACKAGES.glob(f"{name}/**/*.py")):
            yield from docstrings(path)


def docstrings(path: Path) -> Iterator[str]:
    """The documentation strings of a module, its classes and its functions."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # the library keeps some of those for its own tests
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node) or ""
            if len(text) >= SHORTEST:
                yield text


def language_reference() -> Iterator[str]:
    """The chapters of the language reference that `help()` shows."""
    for _, text in sorted(pydoc_data.topics.topics.items()):
        yield text


def get_config() -> Recipe:
    """Documentation is seen more often than its size would have it, and code less."""
    return Recipe(
        name="python_text",
        sources=(
            Source("library", (f"python:{__file__}:library",), weight=0.2, quality="reference"),
            Source("code", CODE, weight=0.5),
            Source("packages", (f"python:{__file__}:packages",), weight=0.3, quality="filter"),
        ),
        steps=("quality", "dedup", "decontaminate"),
        invalid_utf8="skip",
        part_bytes=2_000_000,
        validation_fraction=0.02,
        # The paper's 9 is for a hundred times as much raw text as is wanted.
        quality=Quality(num_features=1 << 16, alpha=3.0),
        decontaminate=Decontaminate(
            benchmarks=(
                Benchmark("language_reference", (f"python:{__file__}:language_reference",)),
            )
        ),
        vocabulary=Vocabulary(vocab_size=4096, sample_bytes=10_000_000),
    )
