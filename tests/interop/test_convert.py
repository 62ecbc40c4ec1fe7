"""Runs from Hugging Face folders and folders from runs: nothing lost, nothing ignored."""

import json
import pickle
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="models are made with it: pip install -e '.[parity]'")
pytest.importorskip("transformers", reason="models are made with it: pip install -e '.[parity]'")

import jax
import numpy as np
import torch
from family import DIVISIBLE, MODELS, TOLERANCE, gptj, make_pair, write_bytes
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import gpt_jax
from gpt_jax.cli import main
from gpt_jax.config import InputError, MeshConfig, ModelConfig
from gpt_jax.experiment import load_experiment
from gpt_jax.interop import load
from gpt_jax.interop.convert import convert, export
from gpt_jax.interop.hf_config import to_config_json
from gpt_jax.parallel.mesh import make_mesh
from gpt_jax.train.digest import named_leaves

# GPT-3 is no architecture of transformers.
ROUND = [name for name in MODELS if name != "GPT-3"]


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return make_pair("GPT-2", 0, tmp_path_factory.mktemp("gpt2"))


@pytest.fixture
def copy(gpt2, tmp_path):
    """The files of a small GPT-2, to be spoiled."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in gpt2.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def change(folder, **settings):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def retensor(folder, edit):
    """Write the weights again after `edit` has changed the dict of them."""
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("name", ROUND)
def test_there_and_back(name, tmp_path):
    """Every tensor is bit-equal, and transformers gives the same logits again."""
    pair = make_pair(name, 5, tmp_path / "hf")
    convert(pair.folder, tmp_path / "run")
    kind = export(tmp_path / "run", tmp_path / "back")
    assert kind == pair.theirs.config.model_type
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "back", attn_implementation="eager")
    assert type(back) is type(pair.theirs)
    before, after = pair.theirs.state_dict(), back.state_dict()
    assert before.keys() == after.keys()
    for key in before:
        assert torch.equal(before[key], after[key]), key
    with torch.no_grad():
        logits = back(torch.tensor(pair.tokens)).logits.numpy()
    assert np.array_equal(logits, pair.their_logits())
    assert np.abs(logits - pair.our_logits()).max() < TOLERANCE
    words = "w3 w1 w4"
    for folder in (pair.folder, tmp_path / "back"):
        assert AutoTokenizer.from_pretrained(folder)(words).input_ids == [3, 1, 4]


def test_a_file_in_parts_and_in_another_dtype(gpt2, tmp_path, capsys):
    """Shards with an index, out and in again; bfloat16 is asked for, and rounded once."""
    assert main(["convert", str(gpt2.folder), str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert f"gpt-jax generate {tmp_path}/run" in said
    out = ["export", str(tmp_path / "run"), str(tmp_path / "parts")]
    assert main([*out, "--dtype", "bfloat16", "--max-file-gb", "1e-5"]) == 0
    assert "transformers' gpt2" in capsys.readouterr().out
    files = sorted(path.name for path in (tmp_path / "parts").glob("*.safetensors"))
    assert len(files) > 3
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "parts", dtype="auto").state_dict()
    _, params, _ = gpt_jax.load_hf(tmp_path / "parts")
    for key, value in gpt2.theirs.state_dict().items():
        assert torch.equal(theirs[key], value.to(torch.bfloat16)), key
    for path, leaf in named_leaves(gpt2.params).items():
        assert np.array_equal(named_leaves(params)[path], leaf.astype("bfloat16")), path
    config, loaded, tokenizer = gpt_jax.load(tmp_path / "run")
    assert config.model == gpt2.config
    assert tokenizer.encode("w7").tolist() == [7]
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded, gpt2.params))


def test_into_shards(tmp_path, monkeypatch):
    """Over 8 devices each holds its part, put there in blocks; values and padding are the same."""
    torch.manual_seed(0)
    theirs = AutoModelForCausalLM.from_config(gptj(DIVISIBLE))
    theirs.save_pretrained(tmp_path)
    write_bytes(tmp_path)
    _, whole, _ = gpt_jax.load_hf(tmp_path)
    # So small that matrices come in several blocks, the last of them not as long as the others.
    monkeypatch.setattr(load, "BLOCK", 600)
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    _, params, _ = gpt_jax.load_hf(tmp_path, mesh=mesh)
    for path, leaf in named_leaves(params).items():
        assert np.array_equal(leaf, named_leaves(whole)[path]), path
    assert params["head"].addressable_shards[0].data.shape == (384 // 2, 32 // 2)
    layer = params["layers"]["0"]
    assert layer["attention"]["qkv"].addressable_shards[0].data.shape == (2, 16, 3, 2, 8)
    assert layer["mlp"]["up"].addressable_shards[0].data.shape == (2, 16, 40)
    assert not np.asarray(params["head"])[300:].any()

    convert(tmp_path, tmp_path / "run", fsdp=2)
    _, loaded, _ = gpt_jax.load(tmp_path / "run")
    assert jax.tree.all(jax.tree.map(np.array_equal, loaded, whole))
    with pytest.raises(InputError, match=r"does not divide over fsdp = 3 devices"):
        convert(tmp_path, tmp_path / "other", fsdp=3)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"activation_function": "gelu_python"}, "activation_function .* 'gelu_python'"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx .* True"),
        ({"add_cross_attention": True}, "add_cross_attention .* True"),
        ({"quantization_config": {"bits": 4}}, "not: quantization_config={'bits': 4}"),
        ({"sliding_window": 7}, "not: sliding_window=7"),
        ({"model_type": "llama"}, "model_type .* 'llama'"),
        ({"n_layer": "3"}, "n_layer in config.json must be of type int, and it is '3'"),
        ({"n_layer": None}, "n_layer .* None"),
        ({"n_head": 7}, "num_heads must divide embed_dim"),
        ({"n_head": 0}, "n_head .* must be positive .* 0"),
        ({"n_inner": 0}, "n_inner .* must be positive .* 0"),
        ({"vocab_size": 2**62}, "vocab_size .* must be a number below"),
        ({"layer_norm_epsilon": float("nan")}, "layer_norm_epsilon .* nan"),
        ({"model_type": ["gpt2"]}, r"model_type .* \['gpt2'\]"),
        ({"n_positions": 999}, r"wpe.weight is of shape .* where the config asks for \(999,"),
        ({"n_layer": 7}, r"there is no transformer.h.\d.ln_1.weight"),
        ({"tie_word_embeddings": False}, r"there is no lm_head.weight"),
        ({"n_layer": 1}, "transformer.h.1.attn.c_attn.bias.* have none"),
        ({"vocab_size": 9}, "the model has 9 tokens and the tokenizer"),
    ],
)
def test_a_setting_that_is_not_done_is_named(copy, settings, said):
    """An unknown activation, attention type, scaling flag or size is never ignored."""
    change(copy, **settings)
    with pytest.raises(InputError, match=said):
        gpt_jax.load_hf(copy)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("GPT-Neo", {"attention_types": [[["global", "ring"], 2]]}, "attention_types .* 'ring'"),
        ("GPT-Neo", {"attention_types": [["global"]]}, "attention_types .* must be like"),
        ("GPT-Neo", {"attention_types": [3]}, "attention_types .* must be like"),
        ("GPT-Neo", {"attention_types": [], "attention_layers": []}, "it names 0"),
        # transformers reads neither of these two.
        ("GPT-NeoX", {"rope_theta": 50, "rope_parameters": {}}, "rope_theta .* 10000.0, .* 50"),
        ("GPT-NeoX", {"partial_rotary_factor": 0.9}, "partial_rotary_factor .* it is 0.9"),
        ("GPT-NeoX", {"rope_parameters": {"rope_theta": "x"}}, "rope_theta .* float, .* 'x'"),
        ("GPT-NeoX", {"num_attention_heads": 0}, "num_attention_heads .* must be positive"),
        ("GPT-NeoX", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
        ("GPT-NeoX", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope_type.*yarn"),
        ("GPT-J", {"rotary_dim": 3}, "rotary_dim .* even number of dims"),
        ("GPT-J", {"rotary_dim": None}, "rotary_dim .* None"),
        ("OPT", {"layer_norm_elementwise_affine": False}, "layer_norm_elementwise_affine"),
        ("OPT", {"layerdrop": 0.1}, "layerdrop .* 0.1"),
        ("CTRL", {"layer_norm_epsilon": 1e-5}, "layer_norm_epsilon"),
    ],
)
def test_settings_of_the_other_architectures(name, settings, said, tmp_path):
    """Where a file could say what its own code would do and ours does not."""
    make_pair(name, 0, tmp_path)
    change(tmp_path, **settings)
    with pytest.raises(InputError, match=said):
        gpt_jax.load_hf(tmp_path)


def test_tokenizer_and_model_must_fit(copy):
    """More tokens or places in the tokenizer than in the model: both numbers are named."""
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 4096}))
    places = json.loads((copy / "config.json").read_text())["n_positions"]
    with pytest.raises(InputError, match=f"the model has {places} and the tokenizer 4096"):
        gpt_jax.load_hf(copy)
    (copy / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"tokenizer.json, or vocab.json and merges.txt"):
        gpt_jax.load_hf(copy)


def test_old_files_have_more_and_other_names(copy, gpt2):
    """No prefix, causal masks as buffers, and the tied output layer written out: all the same."""

    def old(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("transformer.")] = tensors.pop(name)
        tensors["h.0.attn.bias"] = np.tril(np.ones((1, 1, 4, 4), np.uint8))
        tensors["h.0.attn.masked_bias"] = np.full(1, -1e4, "float32")
        tensors["lm_head.weight"] = tensors["wte.weight"].copy()

    retensor(copy, old)
    _, params, _ = gpt_jax.load_hf(copy)
    assert jax.tree.all(jax.tree.map(np.array_equal, params, gpt2.params))

    twice = "transformer.wte.weight"
    retensor(copy, lambda tensors: tensors.update({twice: tensors["wte.weight"].copy()}))
    with pytest.raises(InputError, match=r"transformer.wte.weight and wte.weight are the same"):
        gpt_jax.load_hf(copy)
    retensor(copy, lambda tensors: tensors.pop(twice))
    retensor(copy, lambda tensors: tensors["lm_head.weight"].__setitem__((3, 1), 9.0))
    with pytest.raises(InputError, match=r"lm_head.weight and wte.weight differ"):
        gpt_jax.load_hf(copy)


def test_weights_that_are_not_there_or_not_whole(copy):
    """Each is refused before anything is read, by the file's or the tensor's name."""
    retensor(copy, lambda tensors: tensors.update({"transformer.extra": np.zeros(3, "float32")}))
    with pytest.raises(InputError, match=r"transformer.extra \(1 in all\) have none"):
        gpt_jax.load_hf(copy)
    retensor(copy, lambda tensors: tensors.pop("transformer.extra"))
    half = "transformer.h.1.mlp.c_fc.weight"
    retensor(copy, lambda tensors: tensors.update({half: tensors[half].astype("float16")}))
    with pytest.raises(InputError, match="float16 and float32: ask for one"):
        gpt_jax.load_hf(copy)
    assert gpt_jax.load_hf(copy, dtype="float32")
    with pytest.raises(InputError, match="'int8' is none of these"):
        gpt_jax.load_hf(copy, dtype="int8")
    retensor(copy, lambda tensors: tensors["transformer.ln_f.bias"].__setitem__(0, 1e6))
    with pytest.raises(InputError, match=r"transformer.ln_f.bias has values that are infinite in"):
        gpt_jax.load_hf(copy, dtype="float16")
    retensor(copy, lambda tensors: tensors.update({half: tensors[half].astype("int8")}))
    with pytest.raises(InputError, match=r"c_fc.weight .* is of I8: quantised"):
        gpt_jax.load_hf(copy)

    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(InputError, match="must be a whole safetensors file"):
        gpt_jax.load_hf(copy)
    weights.unlink()
    with pytest.raises(InputError, match="has neither: give the folder"):
        gpt_jax.load_hf(copy)
    (copy / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    with pytest.raises(InputError, match=r"pytorch_model.bin, a pickle: .*save_pretrained"):
        gpt_jax.load_hf(copy)


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ("{", "must be JSON with a weight_map"),
        ('{"weight_map": {"a": "../x.safetensors"}}', "must name files beside itself"),
        ('{"weight_map": {"a": "gone.safetensors"}}', "there is no gone.safetensors: 1 of 1"),
        ('{"weight_map": {"a": "part.safetensors"}}', r"part.safetensors has no \['a'\]"),
    ],
)
def test_an_index_that_lies(copy, index, said):
    (copy / "model.safetensors").rename(copy / "part.safetensors")
    (copy / "model.safetensors.index.json").write_text(index)
    with pytest.raises(InputError, match=said):
        gpt_jax.load_hf(copy)


def test_nothing_that_was_there_is_lost(copy, tmp_path, capsys):
    """A folder that is there is not written to; a conversion that fails leaves none."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "precious").write_text("x")
    (tmp_path / "run.partial").write_text("x")
    assert main(["convert", str(copy), str(run)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert [path.name for path in run.iterdir()] == ["precious"]
    convert(copy, tmp_path / "good")
    assert main(["export", str(tmp_path / "good"), str(run)]) == 1
    assert (
        main(["export", str(tmp_path / "good"), str(tmp_path / "x"), "--max-file-gb", "nan"]) == 1
    )
    assert main(["export", str(copy), str(tmp_path / "x")]) == 1
    assert "make one of it with `gpt-jax convert`" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "good"), str(tmp_path / "x")]) == 1
    assert "is a run already" in capsys.readouterr().err
    assert main(["convert", "openai-community/gpt2", str(tmp_path / "x")]) == 1
    assert "hf download openai-community/gpt2" in capsys.readouterr().err
    change(copy, sliding_window=3)
    assert main(["convert", str(copy), str(tmp_path / "new")]) == 1
    assert main(["convert", str(copy), str(tmp_path / "a" / "b" / "new")]) == 1
    assert main(["convert", str(tmp_path / "nowhere"), str(tmp_path / "new")]) == 1
    assert main(["convert", str(copy), str(tmp_path / "new"), "--fsdp", "9"]) == 1
    assert main(["convert", str(copy), str(copy / "config.json" / "new")]) == 1
    assert "cannot be made" in capsys.readouterr().err
    there = ["copy", "good", "run", "run.partial"]
    assert sorted(path.name for path in tmp_path.iterdir()) == there


@pytest.mark.parametrize("fast", [False, True])
def test_a_chinese_vocabulary_keeps_its_class(gpt2, tmp_path, fast):
    """vocab.txt has no settings beside it: that it is BERT's stands in config.json alone."""
    hf = tmp_path / "hf"
    hf.mkdir()
    for name in ("config.json", "model.safetensors"):
        (hf / name).write_bytes((gpt2.folder / name).read_bytes())
    change(hf, tokenizer_class="BertTokenizer")
    (hf / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n床\n前\n明\n月\n光\n")
    if fast:
        AutoTokenizer.from_pretrained(hf).backend_tokenizer.save(str(hf / "tokenizer.json"))
    convert(hf, tmp_path / "run")
    export(tmp_path / "run", tmp_path / "back")
    ids = [5, 6, 7, 8, 9]
    for folder in (hf, tmp_path / "back"):
        theirs = AutoTokenizer.from_pretrained(folder)
        assert theirs("床前明月光", add_special_tokens=False).input_ids == ids, folder
    _, _, tokenizer = gpt_jax.load(tmp_path / "run")
    assert tokenizer.encode("床前明月光").tolist() == ids


def test_targets_of_other_shapes(gpt2, tmp_path, monkeypatch):
    """An empty folder, a link to one, and the folder that one is in are new enough."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    convert(gpt2.folder, tmp_path / "link")
    assert (tmp_path / "empty" / "config.json").is_file()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    export(tmp_path / "empty", Path())
    assert (tmp_path / "here" / "model.safetensors").is_file()
    (tmp_path / "empty").rename(tmp_path / "moved")  # a run is whole wherever it is
    with pytest.raises(InputError, match="there is no text to go on with"):
        load_experiment(tmp_path / "moved", [])
    config = load_experiment(tmp_path / "moved", ["--data.files", "x.txt"])
    assert config.init_from == str(tmp_path / "moved")
    assert config.data.tokenizer == str(tmp_path / "moved" / "tokenizer")


def test_a_model_that_the_format_cannot_state():
    """GPT-3's bands with scaled attention are no architecture there: the error says so."""
    with pytest.raises(InputError, match=r"attention_pattern=.*banded"):
        to_config_json(ModelConfig(vocab_size=9, attention_pattern=("dense", "banded")))
    assert to_config_json(ModelConfig(vocab_size=9))["model_type"] == "gpt2"
    twice = ModelConfig(vocab_size=9, attention_pattern=("dense", "dense"), mlp_width=1024)
    assert to_config_json(twice)["model_type"] == "gpt2"
