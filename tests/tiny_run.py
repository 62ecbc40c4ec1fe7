"""A tiny experiment for the tests of whole runs, and how to start it and read what it leaves."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp

EXPERIMENT = """
from gpt_jax.config import (
    CheckpointConfig, Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
)

def get_config():
    return Config(
        name="tiny",
        model=ModelConfig(context_length=32, num_layers=2, embed_dim=32, num_heads=2),
        data=DataConfig(
            files=({files!r},), tokenizer="bytes", split="position", cache_dir={cache!r},
            validation_fraction=0.1,
        ),
        optimizer=OptimizerConfig(learning_rate=3e-3, decay_tokens=24 * 256),
        train=TrainConfig(
            total_tokens=24 * 256, batch_tokens=256, log_every=2, eval_every=12,
            sample_prompt="the", sample_tokens=8,
        ),
        checkpoint=CheckpointConfig(every=4),
    )
"""
STEPS = 24
BATCH_TOKENS = 256

TEXTS = {
    "a.txt": "Grüße aus der Küche: \u20ac 3,50 für Tee. " * 40,
    "b.txt": "".join(
        f"{n} bottles stand here, and {n - 1} of them are green.\n" for n in range(60)
    ),
    "c.txt": "".join(f"def f{n}(x):\n    return x + {n * n}\n\n" for n in range(80)),
}


def write_experiment(folder: Path) -> Path:
    """tiny.py in `folder`, over three small files beside it: 24 steps of 256 tokens."""
    (folder / "text").mkdir(parents=True)
    for name, text in TEXTS.items():
        (folder / "text" / name).write_bytes(text.encode())
    path = folder / "tiny.py"
    files, cache = str(folder / "text" / "*.txt"), str(folder / "cache")
    path.write_text(EXPERIMENT.format(files=files, cache=cache))
    return path


def start(
    *arguments: object,
    devices: int = 1,
    file_limit: int = -1,
    folder: Path | None = None,
    **environment: str,
) -> subprocess.Popen:
    """`gpt-jax` with these arguments in a process of its own; its output can be read.

    `file_limit`: bytes that no file of it may grow past, which fails as a full disk does.
    `folder`: where it starts, and takes the package from if that is there.
    """
    code = (
        "import resource, sys; from gpt_jax.cli import main; "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({file_limit}, -1)); sys.exit(main())"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)} | environment,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    """(exit status, stdout, stderr) of a process once it has ended."""
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def wait_for_step(run: Path, step: int, process: subprocess.Popen) -> None:
    """Return once metrics.jsonl has a line of `step` or later, or the process has ended."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if any(line["step"] >= step for line in metrics(run)):
            return
        time.sleep(0.01)
    assert process.poll() is not None, f"no step {step} after 300 s"


def metrics(run: Path) -> list[dict]:
    """The whole lines of metrics.jsonl, without the one field that depends on the clock."""
    path = run / "metrics.jsonl"
    lines = re.findall(r"(.*)\n", path.read_text()) if path.exists() else []
    records = [json.loads(line) for line in lines]
    for record in records:
        record.pop("tokens_per_second")
    return records


def saved_steps(run: Path) -> list[int]:
    """Steps that have a folder under checkpoints/, ascending."""
    names = [path.name for path in (run / "checkpoints").iterdir()]
    return sorted(int(name) for name in names if name.isdigit())


def saved(run: Path, step: int) -> dict[str, np.ndarray]:
    """Every array of a checkpoint by its path, read by Orbax alone: none of our code is in it."""
    import jax

    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    arrays = {}
    for item in ("params", "rest"):
        path = run / "checkpoints" / str(step) / item
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as orbax:
            shapes = orbax.metadata(path).item_metadata
            abstract = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), shapes
            )
            tree = orbax.restore(path, args=ocp.args.StandardRestore(abstract))
        for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
            arrays[item + jax.tree_util.keystr(keys)] = np.asarray(leaf)
    return arrays


def assert_same_run(run: Path, undisturbed: Path) -> None:
    """Parameters, optimizer state and metrics are those of the other run, bit for bit."""
    assert metrics(run) == metrics(undisturbed)
    ours, theirs = saved(run, STEPS), saved(undisturbed, STEPS)
    assert ours.keys() == theirs.keys()
    assert len(ours) > 20
    different = [name for name in ours if ours[name].tobytes() != theirs[name].tobytes()]
    assert different == []


def files(folder: Path) -> dict[str, bytes]:
    """The content of every file under a folder."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
