"""Where parameters would lie, against sums done by hand and against arrays that do."""

import json
import math

import jax
import pytest

from gpt_jax.cli import main
from gpt_jax.config import Config, InputError, MeshConfig, ModelConfig
from gpt_jax.flops import num_params
from gpt_jax.plan.shard import as_table, layout
from gpt_jax.presets import gpt3
from gpt_jax.train.step import Program

MODEL = ModelConfig(vocab_size=128, context_length=16, num_layers=2, embed_dim=16, num_heads=2)


def test_gpt_3_over_512_devices():
    """175b over 2 x 64 x 4: what is split over fsdp and tensor is a 256th, and in float32."""
    config = gpt3("175b")
    mesh = MeshConfig(data=2, fsdp=64, tensor=4)
    found = layout(Config(model=config.model, mesh=mesh, train=config.train), 512)
    rows = {row.name: row for row in found.parameters}
    up = rows["layers/0/mlp/up"]
    assert up.shape == (48, 12288, 49152)
    assert up.axes == ("", "fsdp", "tensor")
    assert up.bytes == 4 * 48 * 12288 * 49152 == 256 * up.device_bytes
    padding = 4 * (50304 - 50257) * 12288
    assert sum(row.bytes for row in rows.values()) == 4 * num_params(config.model) + padding
    # Adam's two moments lie as the parameters do; its counter is 4 bytes.
    assert found.optimizer_bytes == 2 * found.device_bytes + 4


@pytest.mark.parametrize(
    "mesh",
    [
        MeshConfig(1, 8, 1),
        MeshConfig(2, 2, 2),
        MeshConfig(1, 2, 1, sequence=2, slice=2),
        MeshConfig(1, 4, 1, pipeline=2),
    ],
)
def test_it_is_what_the_devices_hold(mesh):
    """The same as a program over 8 fake devices, array by array."""
    config = Config(model=MODEL, mesh=mesh)
    abstract = Program(config, jax.devices()).abstract
    found = layout(config, 8)
    leaves = jax.tree.leaves(abstract.params)
    parts = [4 * math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves]
    assert [row.device_bytes for row in found.parameters] == parts


def test_the_command_prints_it(root, capsys):
    """As a table and as JSON, with no such devices here."""
    command = ["shard", str(root / "experiments/gpt3_125m.py"), "--mesh.fsdp", "64"]
    assert main([*command, "--devices", "100"]) == 1
    assert "must divide the 100 devices" in capsys.readouterr().err
    assert main(command) == 0
    table = capsys.readouterr().out
    assert table.startswith("64 devices: fsdp 64\n")
    line = next(line for line in table.splitlines() if line.startswith("layers/0/mlp/down "))
    assert line.split()[-2:] == ["56.623", "0.885"]  # 6 x 3072 x 768 x 4 bytes, and a 64th
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mesh"]["fsdp"] == 64


def test_layers_in_stages_are_shown_as_such(root, capsys):
    """GPT-3 Small's 12 layers alternate: 6 turns of the pattern, one to a stage."""
    command = ["shard", str(root / "experiments/gpt3_125m.py"), "--mesh.pipeline", "6"]
    assert main([*command, "--mesh.fsdp", "4"]) == 0
    table = capsys.readouterr().out
    assert table.startswith("24 devices: pipeline 6 x fsdp 4\n")
    line = next(line for line in table.splitlines() if line.startswith("layers/0/mlp/down "))
    assert line.split()[4:7] == ["pipeline", "-", "fsdp"]
    assert line.split()[-2:] == ["56.623", "2.359"]  # 6 x 3072 x 768 x 4 bytes, and a 24th
    assert main([*command[:-1], "4"]) == 1
    assert "12 layers, in turns of 2, do not divide" in " ".join(capsys.readouterr().err.split())


def test_what_cannot_be_told_is_said():
    with pytest.raises(InputError, match=r"model.vocab_size=0 leaves it to the tokenizer"):
        layout(Config(), 1)
    config = Config(model=MODEL, mesh=MeshConfig(1, 3, 1))
    with pytest.raises(InputError, match="axis of 16 that does not divide over fsdp = 3"):
        layout(config, 3)
    assert "parameters" in as_table(layout(Config(model=MODEL), 1))
