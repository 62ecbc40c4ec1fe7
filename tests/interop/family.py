"""Small random models of every architecture, made with transformers, and ours beside them.

Sizes are drawn to be awkward: head dims other than 64, odd vocabularies and MLP widths, windows
shorter than the sequence; and every parameter, biases and norms too, is moved off its initial
value, so that none can be left out unseen.
"""

import dataclasses
import json
import warnings
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CTRLConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoConfig,
    GPTNeoXConfig,
    OpenAIGPTConfig,
    OPTConfig,
)

from gpt_jax.config import ModelConfig
from gpt_jax.interop.load import load_hf
from gpt_jax.model.decoder import GPT

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

LENGTH = 24
"""Tokens of the sequences compared; windows are shorter, contexts longer."""
TOLERANCE = 2e-5


@dataclasses.dataclass(frozen=True)
class Draw:
    """Sizes of one small model."""

    vocab: int
    context: int
    layers: int
    heads: int
    head_dim: int
    mlp: int
    window: int
    rotary: int

    @property
    def width(self) -> int:
        return self.heads * self.head_dim


# A mesh of 2 x 2 x 2 divides these; the tokens are 256 bytes, an end of text, and more.
DIVISIBLE = Draw(vocab=300, context=32, layers=2, heads=4, head_dim=8, mlp=80, window=5, rotary=4)


def draw(seed: int) -> Draw:
    rng = np.random.default_rng(seed)
    head_dim = int(rng.choice([6, 10, 12, 14, 20]))
    heads = int(rng.choice([1, 2, 3, 5]))
    return Draw(
        vocab=int(rng.integers(80, 200)) | 1,
        context=int(rng.integers(LENGTH + 8, 50)),
        layers=int(rng.choice([2, 3, 4])),
        heads=heads,
        head_dim=head_dim,
        mlp=int(rng.integers(2, 6) * heads * head_dim + rng.integers(1, 9)),
        window=int(rng.integers(2, 9)),
        rotary=int(rng.choice([2, 4, head_dim])),
    )


def gpt1(d: Draw) -> OpenAIGPTConfig:
    return OpenAIGPTConfig(
        vocab_size=d.vocab,
        n_positions=d.context,
        n_embd=d.width,
        n_layer=d.layers,
        n_head=d.heads,
        layer_norm_epsilon=1e-4,
    )


def gpt2(d: Draw, **more) -> GPT2Config:
    return GPT2Config(
        vocab_size=d.vocab,
        n_positions=d.context,
        n_embd=d.width,
        n_layer=d.layers,
        n_head=d.heads,
        n_inner=d.mlp,
        layer_norm_epsilon=1e-4,
        **more,
    )


def cerebras(d: Draw) -> GPT2Config:
    return gpt2(d, activation_function="gelu")


def gpt2_chinese(d: Draw) -> GPT2Config:
    """Its files have the MLP at its usual width, and no n_inner."""
    config = gpt2(d)
    config.n_inner = None
    return config


def gpt_neo(d: Draw) -> GPTNeoConfig:
    # An odd depth has a kind left over, as no published one does.
    pairs, left = divmod(d.layers, 2)
    types = [[["global", "local"], pairs]] + ([[["local"], 1]] if left else [])
    return GPTNeoConfig(
        vocab_size=d.vocab,
        max_position_embeddings=d.context,
        hidden_size=d.width,
        num_layers=d.layers,
        num_heads=d.heads,
        attention_types=types,
        window_size=d.window,
        intermediate_size=d.mlp,
        layer_norm_epsilon=1e-4,
    )


def gpt3(d: Draw) -> GPTNeoConfig:
    """Dense and banded layers in turn; `as_gpt3` makes GPT-3's attention of GPT-Neo's."""
    return gpt_neo(replace(d, layers=4 if d.layers == 3 else d.layers))


def gptj(d: Draw) -> GPTJConfig:
    return GPTJConfig(
        vocab_size=d.vocab,
        n_positions=d.context,
        n_embd=d.width,
        n_layer=d.layers,
        n_head=d.heads,
        rotary_dim=d.rotary,
        n_inner=d.mlp,
        layer_norm_epsilon=1e-4,
    )


def gpt_neox(d: Draw, **more) -> GPTNeoXConfig:
    sizes = {
        "vocab_size": d.vocab,
        "max_position_embeddings": d.context,
        "hidden_size": d.width,
        "num_hidden_layers": d.layers,
        "num_attention_heads": d.heads,
        "intermediate_size": d.mlp,
        "rotary_pct": d.rotary / d.head_dim,
        "layer_norm_eps": 1e-4,
    }
    return GPTNeoXConfig(**(sizes | more))


def gpt_neox_sequential(d: Draw) -> GPTNeoXConfig:
    return gpt_neox(d, use_parallel_residual=False, rotary_emb_base=500, attention_bias=False)


def pythia(d: Draw) -> GPTNeoXConfig:
    """A quarter of each head is rotated, and the head dims are such that this is even."""
    heads = 2 if d.heads == 1 else d.heads
    sizes = {"hidden_size": heads * 16, "num_attention_heads": heads, "rotary_pct": 0.25}
    return gpt_neox(d, **sizes, intermediate_size=4 * heads * 16)


def opt(d: Draw, **more) -> OPTConfig:
    return OPTConfig(
        vocab_size=d.vocab,
        max_position_embeddings=d.context,
        hidden_size=d.width,
        num_hidden_layers=d.layers,
        num_attention_heads=d.heads,
        ffn_dim=d.mlp,
        **more,
    )


def opt_350m(d: Draw) -> OPTConfig:
    return opt(d, do_layer_norm_before=False, word_embed_proj_dim=d.width - 3)


def ctrl(d: Draw) -> CTRLConfig:
    return CTRLConfig(
        vocab_size=d.vocab,
        n_positions=d.context,
        n_embd=d.width,
        n_layer=d.layers,
        n_head=d.heads,
        dff=d.mlp,
    )


MODELS = {
    "GPT-1": gpt1,
    "GPT-2": gpt2,
    "GPT-3": gpt3,
    "GPT-Neo": gpt_neo,
    "GPT-J": gptj,
    "GPT-NeoX": gpt_neox,
    "GPT-NeoX, sequential": gpt_neox_sequential,
    "Pythia": pythia,
    "OPT": opt,
    "OPT-350m": opt_350m,
    "Cerebras-GPT": cerebras,
    "GPT2-Chinese": gpt2_chinese,
    "CTRL": ctrl,
}


@dataclasses.dataclass(frozen=True)
class Pair:
    """transformers' model, its folder, and ours."""

    theirs: torch.nn.Module
    folder: Path
    config: ModelConfig
    params: dict

    @property
    def tokens(self) -> np.ndarray:
        rng = np.random.default_rng(1)
        return rng.integers(0, self.config.vocab_size, (2, LENGTH))

    def their_logits(self) -> np.ndarray:
        with torch.no_grad():
            return self.theirs(torch.tensor(self.tokens)).logits.numpy()

    def our_logits(self) -> np.ndarray:
        apply = jax.jit(GPT(self.config).apply)
        return np.asarray(apply({"params": self.params}, jnp.asarray(self.tokens)))

    def difference(self) -> float:
        """The largest absolute difference of any logit."""
        return float(np.abs(self.our_logits() - self.their_logits()).max())

    def layer_differences(self) -> list[float]:
        """The largest absolute differences: of what the first layer reads, and each leaves."""
        apply = jax.jit(lambda p, t: GPT(self.config).apply(p, t, mutable="intermediates")[1])
        kept = apply({"params": self.params}, jnp.asarray(self.tokens))["intermediates"]
        slots = len(self.config.attention_pattern)
        ours = [kept["embedded"][0]]
        ours += [
            kept["layers"][str(layer % slots)]["output"][0][layer // slots]
            for layer in range(self.config.num_layers)
        ]
        theirs = self._layer_outputs()
        return [float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True)]

    def _layer_outputs(self) -> list[np.ndarray]:
        """What goes into the first layer, and what comes out of each."""
        outputs = []
        stacks = (m for m in self.theirs.modules() if isinstance(m, torch.nn.ModuleList))
        stack = next(m for m in stacks if len(m) == self.config.num_layers)
        hooks = [
            layer.register_forward_hook(
                lambda _, __, out: outputs.append(out if torch.is_tensor(out) else out[0])
            )
            for layer in stack
        ]
        hooks.append(
            stack[0].register_forward_pre_hook(lambda _, inputs: outputs.append(inputs[0]))
        )
        self.their_logits()
        for hook in hooks:
            hook.remove()
        return [out.numpy() for out in outputs]


def make_theirs(name: str, seed: int) -> torch.nn.Module:
    """A model of transformers with every parameter moved."""
    torch.manual_seed(seed)
    theirs = transformers.AutoModelForCausalLM.from_config(
        MODELS[name](draw(seed)), attn_implementation="eager"
    )
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return theirs.eval()


def save(theirs: torch.nn.Module, folder: Path) -> None:
    """Its files, with a tokenizer of as many words as the model has tokens."""
    theirs.save_pretrained(folder)
    write_tokenizer(folder, theirs.config.vocab_size)


def write_tokenizer(folder: Path, size: int) -> None:
    """A tokenizer.json of the words w0, w1, ... and an end of text, `size` tokens in all."""
    words = {f"w{i}": i for i in range(size - 1)} | {"<|endoftext|>": size - 1}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "<|endoftext|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_bytes(folder: Path) -> None:
    """A byte-level tokenizer.json without merges: 256 tokens and an end of text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    ids = {mark: i for i, mark in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"eos_token": "<|endoftext|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def make_pair(name: str, seed: int, folder: Path) -> Pair:
    """Both models, ours by way of the files."""
    theirs = make_theirs(name, seed)
    save(theirs, folder)
    config, params, _ = load_hf(folder)
    if name == "GPT-3":
        return Pair(theirs, folder, *as_gpt3(config.model, params))
    return Pair(theirs, folder, config.model, params)


def as_gpt3(model: ModelConfig, params: dict) -> tuple[ModelConfig, dict]:
    """GPT-3 from GPT-Neo: scores are divided by sqrt(H), so queries are multiplied by it; the
    biases that GPT-Neo lacks are zero.
    """
    params = jax.tree.map(np.array, params)
    for slot in params["layers"].values():
        slot["attention"]["qkv"][:, :, 0] *= model.head_dim**0.5
        slot["attention"]["qkv_bias"] = np.zeros_like(slot["attention"]["qkv"][:, 0])
    return replace(model, scale_attention=True, qkv_bias=True), params


warnings.filterwarnings("ignore", module="torch|transformers")
