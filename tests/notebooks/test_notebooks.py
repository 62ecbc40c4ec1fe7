"""Every notebook runs from its first cell to its last on the results that are stored beside it."""

import ast
import os
import shutil
from pathlib import Path

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST = 1_000_000
"""Bytes of a notebook with its outputs, and of all stored results of one."""


def stem(path):
    return path.stem


def code_cells(path):
    cells = nbformat.read(path, as_version=4).cells
    return [cell for cell in cells if cell.cell_type == "code"]


def test_there_are_notebooks():
    assert "fine_tuning" in {path.stem for path in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    """In a copy of its folder, so that nothing it writes stays."""
    folder = shutil.copytree(path.parent, tmp_path / "notebooks")
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")  # which it may read
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), before]).rstrip(os.pathsep))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.delenv("LIVE", raising=False)
    notebook = nbformat.read(folder / path.name, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources=resources
    ).execute()
    ran = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in ran)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=stem)
def test_a_notebook_shows_and_does_not_define(path):
    """What it uses is in the package, under test."""
    defining = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda
    for cell in code_cells(path):
        lines = [line for line in cell.source.split("\n") if not line.startswith("%")]
        tree = ast.parse("\n".join(lines))
        assert not [node for node in ast.walk(tree) if isinstance(node, defining)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=stem)
def test_a_notebook_is_stored_with_its_outputs(path):
    """Whole and in order, with plots, without errors, and small."""
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert path.stat().st_size < LARGEST
    results = path.parent / "results" / path.stem
    assert sum(file.stat().st_size for file in results.rglob("*") if file.is_file()) < LARGEST
