"""Without PyTorch and transformers the suite says what it leaves out, and why."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
MODULES = ("test_parity.py", "test_convert.py", "test_train_converted.py")
PROGRAM = """
import sys
sys.modules["torch"] = sys.modules["transformers"] = None  # an import of these fails
import pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[1:]]))
"""


@pytest.mark.slow
def test_what_needs_torch_is_skipped_with_the_reason():
    """Whole files of this folder, named in the summary together with what to install."""
    files = [str(HERE / name) for name in MODULES]
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, *files], capture_output=True, text=True, cwd=HERE.parents[1]
    )
    lines = [line for line in ended.stdout.splitlines() if line.startswith("SKIPPED")]
    for name in MODULES:
        assert any(name in line and "pip install -e '.[parity]'" in line for line in lines), name
    assert "3 skipped" in ended.stdout
