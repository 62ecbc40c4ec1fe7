"""The shape of the whole: what may import what, how long things are, and that no knob is dead."""

import ast
import dataclasses
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpt_jax.config import Config, MeshConfig
from gpt_jax.data import recipe
from gpt_jax.data.recipe import Recipe
from gpt_jax.experiment import defined
from gpt_jax.parallel.sharding import RULES

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "gpt_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
EXPERIMENTS = sorted(
    [*(ROOT / "experiments").glob("*.py"), *(ROOT / "experiments" / "finetune").glob("*.py")]
)
OF_SCALING = sorted((ROOT / "experiments" / "scaling").glob("*.py"))
RECIPES = sorted((ROOT / "experiments" / "data").glob("*.py"))

# Rooms, and which others each may import: the design's table.
CORE = {
    "config",
    "paths",
    "presets",
    "chips",
    "flops",
    "sandbox",
    "data",
    "model",
    "parallel",
    "plots",
}
LEAVES = {"generate", "evaluate", "interop", "scaling", "plan", "launch"}
TOP = {"cli", "bench"}
CONFIGS = ("config", "model_config", "tune_config", "feedback_config")
"""Files that define the experiment."""
MAY_IMPORT = {
    "fields": set(),
    "model_config": {"fields"},
    "tune_config": {"fields"},
    "feedback_config": {"fields"},
    "config": {"fields", "model_config", "tune_config", "feedback_config"},
    **{name: {"config"} for name in CORE - {"config"}},
    "data": {"config", "paths"},
    "train": CORE,
    "sandbox_watcher": set(),  # a program of its own
    **{name: CORE | {"train"} for name in LEAVES},
    "experiment": {"config", "paths", "train"},
    **{name: CORE | LEAVES | TOP | {"train", "experiment"} for name in TOP},
    # `gpt_jax.load` and its like are looked up by name when they are asked for.
    "__init__": {"config", "model", "train", "interop"},
}


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def room(path: Path) -> str:
    """The first part of a file's place in the package: a folder, or a file at the top."""
    return Path(relative(path)).parts[0].removesuffix(".py")


def imports(path: Path, at_load: bool = False) -> Iterator[str]:
    """Absolute names of the modules that a file imports; `at_load`: not those within functions."""
    tree = ast.parse(path.read_text())
    lazy = {
        id(inner)
        for node in ast.walk(tree)
        if at_load and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in lazy:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)}: imports are written out in full"
            assert node.module
            # `from gpt_jax import config` imports gpt_jax.config.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(path: Path) -> set[str]:
    names = (name.split(".") for name in imports(path))
    return {parts[1] for parts in names if parts[0] == "gpt_jax"}


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_a_room_imports_only_from_the_rooms_to_its_left(path):
    """Anywhere in the file, within functions and type checks too."""
    own = room(path)
    assert own in MAY_IMPORT, f"{own} is not a room of the design"
    assert rooms_imported(path) - {own} <= MAY_IMPORT[own]


def test_a_leaf_is_imported_by_nothing_but_the_top():
    """The same table from the other side: leaves are not imported, and bench only by cli."""
    imported = [(room(path), rooms_imported(path)) for path in FILES]
    importers = {name: {by for by, names in imported if name in names} for name in LEAVES | TOP}
    for leaf in LEAVES:
        assert importers[leaf] <= {leaf, "__init__", *TOP}
    assert importers["bench"] <= {"cli"}
    assert {room(path) for path in FILES if "experiment" in rooms_imported(path)} == {"cli"}
    assert importers["cli"] == set()
    assert "cli" in importers["generate"]  # or this test looks at nothing


@pytest.mark.parametrize("path", [path for path in FILES if room(path) == "data"], ids=relative)
def test_the_data_room_needs_no_device(path):
    """Text to batches without jax, so that worker processes and tools start quickly."""
    assert not {"jax", "jaxlib", "flax", "optax"} & {name.split(".")[0] for name in imports(path)}


@pytest.mark.parametrize(
    "module",
    [
        "fields",
        "config",
        "model_config",
        "tune_config",
        "feedback_config",
        "presets",
        "chips",
        "flops",
        "data.schedule",
        "data.recipe",
    ],
)
def test_a_file_of_arithmetic_needs_the_standard_library_alone(module):
    """These import nothing from elsewhere, themselves or through each other."""
    path = PACKAGE / (module.replace(".", "/") + ".py")
    tops = {name.split(".")[0] for name in imports(path)}
    assert tops <= sys.stdlib_module_names | {"gpt_jax"}


def loaded_by(module: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after importing `module`."""
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(out.stdout.split())


@pytest.mark.parametrize("module", ["gpt_jax", "gpt_jax.cli", "gpt_jax.config", "gpt_jax.presets"])
def test_importing_it_costs_nothing(module):
    """`gpt-jax --help` answers at once: nothing heavy is loaded before a command needs it."""
    heavy = {"jax", "numpy", "flax", "optax", "orbax", "grain", "sentencepiece", "tyro", "rich"}
    assert not heavy & loaded_by(module)


def test_the_command_line_imports_the_heavy_rooms_within_its_commands():
    """The reason for the above, by its statements."""
    names = set(imports(PACKAGE / "cli.py", at_load=True))
    assert {name.split(".")[1] for name in names if name.startswith("gpt_jax.")} == {
        "config",
        "experiment",
        "paths",
    }
    assert not {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"gpt_jax"}


def attributes_read() -> set[str]:
    """Names that are read as attributes anywhere outside the configs and the presets.

    A property of a config that is read there reads the fields in its body.
    """
    read = {
        name
        for path in FILES
        if room(path) not in {*CONFIGS, "presets"}
        for name in loads(ast.parse(path.read_text()))
    }
    properties = {
        node.name: loads(node)
        for name in CONFIGS
        for node in ast.walk(ast.parse((PACKAGE / f"{name}.py").read_text()))
        if isinstance(node, ast.FunctionDef)
        and any(
            isinstance(mark, ast.Name) and mark.id == "property" for mark in node.decorator_list
        )
    }
    return read.union(*(properties[name] for name in properties if name in read))


def loads(tree: ast.AST) -> set[str]:
    """Names that are read as attributes within `tree`."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }


def test_no_knob_is_dead():
    """Every field of the experiment is read; the mesh's are axes of the sharding table."""
    parts = [item.default_factory for item in dataclasses.fields(Config)]
    parts = [part for part in parts if dataclasses.is_dataclass(part) and part is not MeshConfig]
    assert len(parts) == 7
    fields = {item.name for part in [Config, *parts] for item in dataclasses.fields(part)}
    assert len(fields) > 40
    assert fields - attributes_read() == set()
    axes = {axis for _, over in RULES for axis in over or ()}
    assert {item.name for item in dataclasses.fields(MeshConfig)} == axes


def test_no_knob_of_a_recipe_is_dead():
    """Every field of a recipe and of its parts is read by the build."""
    parts = [item for item in vars(recipe).values() if dataclasses.is_dataclass(item)]
    fields = {item.name for part in parts for item in dataclasses.fields(part)}
    assert {recipe.Recipe, recipe.Benchmark} <= {*parts}
    assert len(fields) >= 30
    build = [path for path in FILES if relative(path).startswith("data/build/")]
    read = [loads(ast.parse(path.read_text())) for path in [*build, PACKAGE / "data/command.py"]]
    assert fields - set().union(*read) == set()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_builds(path):
    """get_config() gives a Recipe of the file's own name; the docstring gives the command."""
    config = defined(path)
    assert type(config) is recipe.Recipe
    assert config.name == path.stem
    assert f"gpt-jax data build experiments/data/{path.name}" in path.read_text()


@pytest.mark.parametrize("path", OF_SCALING, ids=lambda path: path.stem)
def test_a_study_or_what_belongs_to_one_builds(path):
    """Of the file's own name, the same each time; the docstring gives the command."""
    commands = {"Study": "scaling run", "Sweep": "scaling sweep", "Config": "train"}
    made = defined(path)
    assert made.name == path.stem
    assert made == defined(path)
    command = f"gpt-jax {commands[type(made).__name__]} experiments/scaling/{path.name}"
    assert command in path.read_text().split('"""')[1]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_builds(path):
    """get_config() gives a Config of the file's own name; the docstring gives the command."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    assert type(config) is Config
    assert config.name == path.stem
    assert f"gpt-jax train {path.relative_to(ROOT).as_posix()}" in module.__doc__
    assert module.get_config() == config


def test_the_experiments_of_the_paper_are_there():
    """One file for each size that the presets know, so that swapping the file swaps the size."""
    from gpt_jax.presets import GPT3_SIZES

    stems = {path.stem for path in EXPERIMENTS}
    assert {f"gpt3_{size}" for size in GPT3_SIZES} <= stems
    assert {"quickstart", "local_text"} <= stems


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_no_file_is_long_and_no_function_either(path):
    """500 lines and 80: what does not fit is two things."""
    text = path.read_text()
    assert len(text.splitlines()) <= 500
    long = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno + 1 > 80
    }
    assert long == {}


def test_every_file_says_what_it_is():
    """A docstring at the top of each module that holds anything."""
    silent = [
        relative(path)
        for path in FILES
        if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


@pytest.mark.parametrize("kind", [Config, Recipe])
def test_the_experiment_and_the_recipe_in_the_readme_build(kind):
    """Its Python that defines get_config(), taken from the page as a reader would take it."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (block,) = (b for b in blocks if "def get_config" in b and f"return {kind.__name__}(" in b)
    names = {}
    exec(block, names)
    assert type(names["get_config"]()) is kind
