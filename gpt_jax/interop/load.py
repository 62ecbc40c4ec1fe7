"""A checkpoint in the Hugging Face format as a config, sharded parameters and a tokenizer."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import Array
from jax.sharding import Mesh, NamedSharding

from gpt_jax.config import (
    Config,
    DataConfig,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
    require,
)
from gpt_jax.data.hf_tokenizers import read_tokenizer_files
from gpt_jax.data.tokenizers import Tokenizer
from gpt_jax.interop.hf_config import read_config_json
from gpt_jax.interop.layout import Place, places
from gpt_jax.interop.names import NAMES
from gpt_jax.interop.weights import Weights, cast, check_dtype
from gpt_jax.parallel.mesh import make_mesh
from gpt_jax.parallel.sharding import shardings
from gpt_jax.train.digest import named_leaves
from gpt_jax.train.state import boxed_params

BLOCK = 1 << 24
"""Elements of a tensor that the host holds at once."""


def load_hf(
    folder: str | Path, *, dtype: str | None = None, mesh: Mesh | None = None
) -> tuple[Config, Any, Tokenizer]:
    """A Hugging Face folder: `config, params, tokenizer = gpt_jax.load_hf(folder)`.

    Reads config.json, model.safetensors (or the files that its index names) and the tokenizer
    files, of GPT-1, GPT-2, GPT-Neo, GPT-J, GPT-NeoX, OPT and CTRL models and what shares their
    format. The parameters are ready for `gpt_jax.GPT(config.model).apply({"params": params},
    tokens)`. Tensors are read one at a time, in blocks of rows, each straight into its shards: the
    host holds one block, and the devices the rest.

    Args:
      folder: with the files.
      dtype: of the parameters: float32, bfloat16 or float16. None: that of the file.
      mesh: with the axes data, fsdp and tensor, over which the parameters are sharded, as
        `gpt_jax.parallel.mesh.make_mesh(MeshConfig(data=1, fsdp=8))` makes it. None: all of them
        on this process's first device.

    Raises InputError where a file is missing, broken or a pickle, where config.json has a setting
    that is not done here, where a tensor is missing, unknown or of another shape, or where the
    tokenizer has more tokens or places than the model.
    """
    folder = Path(folder)
    check_folder(folder)
    check_dtype(dtype)
    kind, model = read_config_json(folder)
    tokenizer = read_tokenizer_files(folder, kind)
    check_tokenizer(tokenizer, model, folder)
    weights = Weights(folder)
    params = read_params(kind, model, weights, dtype, mesh)
    if params["embedding"].dtype == jnp.bfloat16:
        model = dataclasses.replace(model, dtype="bfloat16")
    return _config(folder, model, tokenizer), params, tokenizer


def check_folder(folder: Path) -> None:
    """Raise InputError unless a model can be in `folder`."""
    require(
        folder.is_dir(),
        f"a model is read from a folder on this machine, and there is no folder {folder}. If it is "
        "the name of one on the Hugging Face hub, get it first: pip install huggingface_hub && hf "
        f"download {folder} --local-dir DIR --include '*.safetensors' '*.json' '*.txt' '*.model'",
    )


def check_tokenizer(tokenizer: Tokenizer, model: ModelConfig, folder: Path) -> None:
    """Raise InputError unless the model knows all tokens and places of the tokenizer."""
    require(
        tokenizer.vocab_size <= model.vocab_size,
        f"a model must know every token of its tokenizer, and in {folder} the model has "
        f"{model.vocab_size} tokens and the tokenizer {tokenizer.vocab_size}: one of the two is "
        "another model's.",
    )
    places = tokenizer.max_length or 0
    require(
        places <= model.context_length,
        f"a model must know every position that its tokenizer allows, and in {folder} the model "
        f"has {model.context_length} and the tokenizer {places}: one of the two is another "
        "model's, or model_max_length in tokenizer_config.json is wrong.",
    )


def _config(folder: Path, model: ModelConfig, tokenizer: Tokenizer) -> Config:
    """An experiment that would go on from here: small batches, and AdamW at a low rate."""
    # CTRL has places for 50,000 tokens, and its tokenizer says that it was made for 256.
    length = tokenizer.max_length or model.context_length
    return Config(
        name=re.sub(r"\W+", "_", folder.resolve().name).strip("_") or "model",
        model=model,
        data=DataConfig(sequence_length=length if length < model.context_length else 0),
        optimizer=OptimizerConfig(learning_rate=5e-5),
        train=TrainConfig(batch_tokens=max(4096 // length, 1) * length),
    )


def read_params(
    kind: str, model: ModelConfig, weights: Weights, dtype: str | None, mesh: Mesh | None
) -> Any:
    """The parameters of `model` from a file of architecture `kind`, tensor by tensor."""
    wanted = places(kind, model)
    names = _match(kind, model, wanted, weights)
    by_array: dict[str, list[Place]] = defaultdict(list)
    for place in wanted:
        by_array[place.ours].append(place)
    boxed = boxed_params(model)
    if mesh is None:
        mesh = make_mesh(MeshConfig(data=1), jax.local_devices()[:1])
    layout, shapes = named_leaves(shardings(boxed, mesh)), named_leaves(nn.unbox(boxed))
    arrays = {}
    for path, parts in by_array.items():
        kinds = {str(weights.dtype(names[part.theirs])) for part in parts}
        require(
            dtype is not None or len(kinds) == 1,
            f"the layers of a model must be of one dtype, and {parts[0].theirs} and its like are "
            f"{' and '.join(sorted(kinds))}: ask for one (dtype='float32', --dtype float32).",
        )
        array = _zeros(shapes[path].shape, dtype or kinds.pop(), layout[path])
        for part in parts:
            array = _put(array, part, weights, names[part.theirs])
        arrays[path] = array
    return traverse_util.unflatten_dict(arrays, sep="/")


def _match(kind: str, model: ModelConfig, wanted: list[Place], weights: Weights) -> dict[str, str]:
    """The file's names of all tensors wanted; raises InputError unless they are just those."""
    table = NAMES[kind]
    # Bare models lack the prefix; transformers 4 and 5 name GPT-NeoX's output layer differently.
    found: dict[str, str] = {}
    for name in sorted(weights.names):
        short = re.sub(r"^lm_head\b", table.head, name.removeprefix(table.prefix))
        require(
            short not in found,
            f"a tensor must be in the file once, and {found.get(short)} and {name} are the same: "
            "remove one of them.",
        )
        found[short] = name
    for place in wanted:
        name = found.get(place.theirs)
        require(
            name is not None,
            f"the weights must hold every tensor of the model that config.json describes, and "
            f"there is no {place.name_in_file}.",
        )
        assert name is not None
        shape = weights.shape(name)
        require(
            shape == place.their_shape,
            f"config.json and the weights must agree, and {name} is of shape {shape} where the "
            f"config asks for {place.their_shape}.",
        )
    head, used = f"{table.head}.weight", {place.theirs for place in wanted}
    if model.tied_head and head in found:
        _check_tied(weights, found[head], found[wanted[0].theirs])
        used.add(head)
    unknown = [
        name
        for short, name in sorted(found.items())
        if short not in used and not re.fullmatch(table.buffers, short)
    ]
    require(
        not unknown,
        f"every tensor must have its place in the model, and {', '.join(unknown[:3])} "
        f"({len(unknown)} in all) have none: this is another model than config.json says.",
    )
    return found


def _check_tied(weights: Weights, head: str, embedding: str) -> None:
    require(
        weights.equal(head, embedding),
        f"config.json says that the output layer is the embedding (tie_word_embeddings), and "
        f"{head} and {embedding} differ: set it to false to keep both.",
    )


def _zeros(shape: tuple[int, ...], dtype: str, sharding: NamedSharding) -> Array:
    return jax.jit(functools.partial(jnp.zeros, shape, dtype), out_shardings=sharding)()


def _put(array: Array, place: Place, weights: Weights, name: str) -> Array:
    """`array`, which is given away, with one tensor in its place: block by block."""
    sharding: Any = array.sharding
    one = sharding.shard_shape(array.shape)
    parts = tuple(n // m for n, m in zip(array.shape, one, strict=True))
    for rows, block in place.blocks(parts, BLOCK):
        values = block.to_ours(cast(weights.rows(name, rows), array.dtype, name))
        # Only the vocabulary need not divide; the rows that pad it are zero as they are.
        padding = [(0, -n % m) for n, m in zip(block.shape, parts, strict=True)]
        values = np.pad(values, padding) if np.any(padding) else values
        piece = jax.make_array_from_callback(values.shape, sharding, values.__getitem__)
        # Waited for, or blocks would queue up on the host faster than the devices take them.
        array = jax.block_until_ready(_updater(sharding)(array, piece, block.start))
    return array


@functools.cache
def _updater(sharding: NamedSharding) -> Any:
    """dynamic_update_slice in place, over the devices of `sharding`."""
    return jax.jit(jax.lax.dynamic_update_slice, donate_argnums=0, out_shardings=sharding)
