"""Ours against transformers, in float32: logits, layers, loss, gradients and greedy text."""

import pytest

pytest.importorskip("torch", reason="parity is with PyTorch: pip install -e '.[parity]'")
pytest.importorskip("transformers", reason="parity is with it: pip install -e '.[parity]'")

import jax
import jax.numpy as jnp
import numpy as np
import torch
from family import MODELS, TOLERANCE, make_pair, save
from safetensors.numpy import save_file

from gpt_jax.config import TrainConfig
from gpt_jax.generate.text import generate
from gpt_jax.interop.hf_config import read_config_json
from gpt_jax.interop.load import load_hf, read_params
from gpt_jax.interop.weights import Weights
from gpt_jax.model.decode import generate_tokens
from gpt_jax.model.decoder import GPT
from gpt_jax.model.sampling import Sampling
from gpt_jax.train.digest import named_leaves
from gpt_jax.train.loss import batch_loss

GREEDY = Sampling(temperature=0.0)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """One small model of each kind, made once."""
    made = {}

    def of(name, seed=0):
        if (name, seed) not in made:
            made[name, seed] = make_pair(name, seed, tmp_path_factory.mktemp("hf"))
        return made[name, seed]

    return of


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_layers_agree(pair, name):
    """To 2e-5 in float32, and so does what every layer leaves on the way."""
    layers = pair(name).layer_differences()
    far = [(n, x) for n, x in enumerate(layers) if x > TOLERANCE]
    assert not far, f"differs first after {far[0][0]} layers, by {far[0][1]}"
    assert pair(name).difference() < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("name", MODELS)
def test_logits_agree_in_other_sizes(pair, name, seed):
    assert pair(name, seed).difference() < TOLERANCE


def test_a_layer_that_differs_is_found(pair):
    """The tests above can fail, and say where: a norm moved in the second layer."""
    good = pair("GPT-2")
    params = jax.tree.map(np.array, good.params)
    params["layers"]["0"]["norm_mlp"]["bias"][1] += 0.01
    differences = type(good)(good.theirs, good.folder, good.config, params).layer_differences()
    assert max(differences[:2]) < TOLERANCE < min(differences[2:])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["GPT-2", "GPT-Neo", "GPT-J", "GPT-NeoX", "OPT-350m", "CTRL"])
def test_loss_and_every_gradient_agree(pair, name, tmp_path):
    """To 1e-4 of each tensor's largest gradient, against autograd."""
    p = pair(name)
    tokens = torch.tensor(p.tokens)
    logits = p.theirs(tokens[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    p.theirs.zero_grad()
    loss.backward()
    batch = {
        "inputs": jnp.asarray(p.tokens[:, :-1]),
        "targets": jnp.asarray(p.tokens[:, 1:]),
        "weights": jnp.ones(len(p.tokens)),
    }

    def mean_loss(params):
        sums = batch_loss(GPT(p.config), params, batch, TrainConfig())
        return sums.objective / sums.weight

    ours, gradients = jax.jit(jax.value_and_grad(mean_loss))(p.params)
    assert float(ours) == pytest.approx(loss.item(), rel=1e-5)

    # Their gradients take the way that parameters take, through a file.
    named = {name: x.grad.numpy() for name, x in p.theirs.named_parameters()}
    save_file(named, tmp_path / "model.safetensors")
    kind, _ = read_config_json(p.folder)
    expected = named_leaves(read_params(kind, p.config, Weights(tmp_path), None, None))
    for path, gradient in named_leaves(gradients).items():
        size = np.abs(expected[path]).max()
        assert size > 0
        assert np.abs(gradient - expected[path]).max() <= 1e-4 * size, path


def uncached(p, prompt, count):
    """Greedy tokens from the whole sequence, read anew for each."""
    apply = jax.jit(GPT(p.config).apply)
    tokens = np.zeros((1, p.config.context_length), np.int32)
    tokens[0, : len(prompt)] = prompt
    for place in range(len(prompt), len(prompt) + count):
        tokens[0, place] = np.argmax(apply({"params": p.params}, tokens)[0, place - 1])
    return tokens[0, len(prompt) : len(prompt) + count].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_greedy_text_is_that_of_transformers(pair, name):
    """Cached, uncached and transformers' generate, for prompts of two lengths in one batch."""
    p, count = pair(name), 12
    prompts = [p.tokens[0, :9], p.tokens[1, :4]]
    found = generate_tokens(
        p.config, p.params, prompts, count, GREEDY, vocab_size=p.config.vocab_size
    )
    rows = np.stack(list(found), 1).tolist()
    # An end of text would be an end to both; here they are to go on.
    p.theirs.generation_config.eos_token_id = None
    for prompt, row in zip(prompts, rows, strict=True):
        given = torch.tensor(prompt)[None]
        out = p.theirs.generate(given, max_new_tokens=count, do_sample=False, use_cache=False)
        assert row == out[0, len(prompt) :].tolist()
        assert row == uncached(p, prompt, count)
    _, _, tokenizer = load_hf(p.folder)
    end = tokenizer.separator
    text = " ".join(f"w{token}" for token in prompts[0])
    if end not in rows[0]:
        pieces = generate(p.config, p.params, tokenizer, [text], max_new_tokens=count, how=GREEDY)
        assert text + "".join(x for (x,) in pieces) == tokenizer.decode([*prompts[0], *rows[0]])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_kept_or_cast_as_asked(pair, dtype, tmp_path):
    p = pair("GPT-J")
    half = type(p.theirs)(p.theirs.config)
    half.load_state_dict(p.theirs.state_dict())
    save(half.to(dtype), tmp_path)
    config, params, _ = load_hf(tmp_path)
    name = str(dtype).removeprefix("torch.")
    assert {str(x.dtype) for x in jax.tree.leaves(params)} == {name}
    assert config.model.dtype == ("bfloat16" if dtype == torch.bfloat16 else "float32")
    _, wide, _ = load_hf(tmp_path, dtype="float32")
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(wide), strict=True):
        assert b.dtype == np.float32
        assert np.array_equal(np.asarray(a, np.float32), b)
