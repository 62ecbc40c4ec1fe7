"""Compiles steps for four v5e chips that are not there, in a process of its own (libtpu is needed).

Prints a line of JSON for each: what attention is said to be, and the kernels that are there.
"""

import dataclasses
import json
import os
import re

# Before jax is imported. libtpu asks the cloud about its machine unless it is told.
os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

import jax
from jax.experimental import topologies

from gpt_jax.config import Config, DataConfig, MeshConfig, ModelConfig, Remat, TrainConfig
from gpt_jax.parallel.sharding import batch_sharding, rules
from gpt_jax.train.step import Program

LENGTH, ROWS = 512, 4
MODEL = ModelConfig(
    vocab_size=128,
    context_length=LENGTH,
    num_layers=4,
    num_heads=2,
    attention_pattern=("dense", "banded"),
    attention_window=128,
    dtype="bfloat16",
)


def compile_step(
    head_dim: int, segmented: bool, mesh: MeshConfig, remat: Remat, devices: list
) -> dict:
    """What a training step is made of, on `devices`."""
    tokens = ROWS * LENGTH
    config = Config(
        model=dataclasses.replace(MODEL, embed_dim=2 * head_dim, remat=remat),
        data=DataConfig(isolate_documents=segmented),
        train=TrainConfig(total_tokens=tokens, batch_tokens=tokens),
        mesh=mesh,
    )
    program = Program(config, devices)
    names = ["inputs", "targets", *(["segment_ids", "positions"] if segmented else [])]
    sharding = batch_sharding(program.mesh, stacked=True)
    batch = {
        name: jax.ShapeDtypeStruct((1, ROWS, LENGTH), "int32", sharding=sharding) for name in names
    }
    batch["weights"] = jax.ShapeDtypeStruct((1, ROWS), "float32", sharding=sharding)
    with jax.set_mesh(program.mesh), rules():
        lowered = program._train.lower(program.abstract, batch)
    text = lowered.compile().as_text()
    calls = [line for line in text.splitlines() if 'custom_call_target="tpu_custom_call"' in line]
    return {
        "attention": program.attention.describe(MODEL),
        "kernels": sorted(re.search(r"splash_mha_\w+?_residuals", line)[0] for line in calls),
    }


if __name__ == "__main__":
    devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices
    parts, stages = MeshConfig(1, 1, 2, sequence=2), MeshConfig(1, 2, 1, pipeline=2)
    for how in (
        (80, False, parts, "none"),
        (96, True, parts, "attention"),
        (64, False, stages, "full"),
    ):
        print(json.dumps(compile_step(*how, devices)), flush=True)
