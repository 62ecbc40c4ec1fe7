"""A converted model trains, shards, saves, resumes, generates and goes out like one born here."""

import dataclasses
import json
import shutil

import pytest

pytest.importorskip("torch", reason="models are made with it: pip install -e '.[parity]'")
pytest.importorskip("transformers", reason="models are made with it: pip install -e '.[parity]'")

import jax
import numpy as np
import torch
from family import DIVISIBLE, TOLERANCE, ctrl, gpt1, gpt2, gpt_neo, gpt_neox, gptj, opt, write_bytes
from tiny_run import TEXTS
from transformers import AutoModelForCausalLM

import gpt_jax
from gpt_jax.cli import main
from gpt_jax.config import InputError
from gpt_jax.experiment import load_experiment
from gpt_jax.interop.convert import convert, export
from gpt_jax.train.digest import named_leaves
from gpt_jax.train.loop import train

MODELS = {
    "GPT-1": lambda: gpt1(DIVISIBLE),
    "GPT-2": lambda: gpt2(DIVISIBLE),
    "GPT-Neo": lambda: gpt_neo(DIVISIBLE),
    "GPT-J": lambda: gptj(DIVISIBLE),
    "GPT-NeoX": lambda: gpt_neox(DIVISIBLE),
    "OPT-350m": lambda: opt(DIVISIBLE, do_layer_norm_before=False, word_embed_proj_dim=24),
    "CTRL": lambda: ctrl(DIVISIBLE),
}
DROPOUTS = ("embedding", "attention", "residual")
OPTIONS = [
    *("--train.total-tokens", "1536", "--train.batch-tokens", "256", "--train.log-every", "1"),
    *("--train.eval-every", "3", "--checkpoint.every", "3", "--train.sample-tokens", "8"),
    *("--optimizer.learning-rate", "3e-3", "--data.split", "position"),
]


def prepare(name, folder):
    """A run made of random weights, and the options of a training that goes on from it."""
    torch.manual_seed(0)
    theirs = AutoModelForCausalLM.from_config(MODELS[name]())
    theirs.save_pretrained(folder / "hf")
    write_bytes(folder / "hf")
    (folder / "text").mkdir()
    for file, text in TEXTS.items():
        (folder / "text" / file).write_text(text)
    convert(folder / "hf", folder / "converted")
    files, cache = f"{folder}/text/*.txt", f"{folder}/cache"
    return [*OPTIONS, "--data.files", files, "--data.cache-dir", cache]


def losses(run):
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"]) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_it_lives_like_one_born_here(name, tmp_path, capsys):
    """Six steps over a mesh of 8, broken off after the third, and out again to transformers."""
    options = prepare(name, tmp_path)
    mesh = ["--mesh.data", "2", "--mesh.fsdp", "2", "--mesh.tensor", "2"]
    config = load_experiment(tmp_path / "converted", [*options, *mesh])
    off = {f"{part}_dropout": 0.0 for part in DROPOUTS}
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, **off))
    whole = train(config, tmp_path / "whole")
    assert "start   the parameters of" in capsys.readouterr().out
    found = losses(tmp_path / "whole")
    assert [step for step, _ in found] == [1, 2, 3, 4, 5, 6]
    assert found[-1][1] < found[0][1]

    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoints" / "6")
    shutil.rmtree(tmp_path / "converted" / "checkpoints")  # not needed any more
    train(config, tmp_path / "again")
    assert losses(tmp_path / "again") == found
    trained, params, tokenizer = gpt_jax.load(whole.folder)
    _, resumed, _ = gpt_jax.load(tmp_path / "again")
    assert jax.tree.all(jax.tree.map(np.array_equal, params, resumed))

    capsys.readouterr()
    assert main(["generate", str(whole.folder), "--prompt", "Tee", "--max-new-tokens", "5"]) == 0
    assert capsys.readouterr().out.startswith("Tee")
    export(whole.folder, tmp_path / "out")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out", attn_implementation="eager")
    tokens = tokenizer.encode(TEXTS["b.txt"])[None, :30]
    with torch.no_grad():
        expected = theirs.eval()(torch.tensor(tokens)).logits.numpy()
    logits = gpt_jax.GPT(trained.model).apply({"params": params}, tokens)
    assert np.abs(logits - expected).max() < TOLERANCE


@pytest.mark.slow
def test_it_starts_from_the_very_parameters_or_not_at_all(tmp_path):
    """At a rate near zero the parameters stay; another model or tokenizer is refused."""
    options = prepare("GPT-2", tmp_path)
    converted = tmp_path / "converted"
    config = load_experiment(converted, [*options, "--optimizer.learning-rate", "1e-12"])
    train(config, tmp_path / "run")
    _, given, _ = gpt_jax.load(converted)
    _, kept, _ = gpt_jax.load(tmp_path / "run")
    for path, leaf in named_leaves(given).items():
        assert np.abs(leaf - named_leaves(kept)[path]).max() < 1e-8, path

    def refused(said, *more, workdir="refused"):
        with pytest.raises(InputError, match=said):
            train(load_experiment(converted, [*options, *more]), tmp_path / workdir)
        assert not (tmp_path / "refused").exists()

    refused("model.num_layers: 2 there, 4 here", "--model.num-layers", "4")
    refused("tokenizer of the one it starts from", "--data.tokenizer", "bytes")
    refused("in another folder than the one it is initialised from", workdir="converted")
    refused("a run is a folder with a config.json", "--init-from", str(tmp_path / "nothing"))
    assert sorted(path.name for path in converted.iterdir()) == [
        "checkpoints",
        "config.json",
        "tokenizer",
    ]
