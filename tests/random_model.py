"""Parameters with which a small model says more than one thing."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gpt_jax.config import ModelConfig
from gpt_jax.model.decoder import GPT


def random_params(config: ModelConfig):
    """Weights so large, and biases so small, that the text is not the same token over and over."""
    abstract = jax.eval_shape(GPT(config).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    random = np.random.default_rng(0)

    def draw(path, leaf) -> jax.Array:
        size = 0.05 if jax.tree_util.keystr(path).endswith("bias']") else 0.5
        return jnp.asarray(random.normal(0, size, leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, nn.unbox(abstract)["params"])
