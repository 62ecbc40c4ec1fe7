"""Eight fake CPU devices, warnings from our own code as errors, one compilation cache a run."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bucket_server import ENVIRONMENT, BucketServer, forget_clients

# Before jax is imported, and inherited by the processes that tests start.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUM_CPU_DEVICES"] = "8"
_compiled = tempfile.TemporaryDirectory(prefix="gpt_jax-tests-")
os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"
# Compiling is most of the suite's time, and half of it is spent on speed that no test needs.
os.environ["XLA_FLAGS"] = f"--xla_backend_optimization_level=0 {os.environ.get('XLA_FLAGS', '')}"

os.environ |= ENVIRONMENT  # of the stand-in for Cloud Storage

import pytest  # noqa: E402

ROOT = Path(__file__).parents[1]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("filterwarnings", r"error:::gpt_jax(\.|$)")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[BucketServer]:
    """One empty bucket, "bucket-of-tests", which this process and its children find by HTTP.

    The home, and so the local cache, is a new folder.
    """
    pytest.importorskip("gcsfs", reason="gcsfs is not installed: pip install -e '.[gcs]'")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with BucketServer("bucket-of-tests") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        forget_clients()
        yield server
    forget_clients()


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository, for the experiment files."""
    return ROOT
