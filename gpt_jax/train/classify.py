"""GPT-1's way to tell classes apart (Radford et al. 2018, sections 3.2 and 3.3).

A linear layer reads what the output layer reads at the last token of a prompt. Its cross-entropy is
learned together with the language model's, of all tokens of an example, times `tune.lm_weight`. The
layer lies beside the model's parameters, as "classifier", and is no part of the model. The paper
drops out a tenth of its input; here the model's own dropout is all there is.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax import Array

from gpt_jax.config import ModelConfig, TuneConfig
from gpt_jax.model.parametrisation import init_std
from gpt_jax.train.tune import CLASSIFIER


@flax.struct.dataclass
class ClassSums:
    """Sums over examples, () float32."""

    nats: Array
    """Cross-entropy of the true classes."""
    right: Array
    """Examples whose true class is the likeliest."""
    examples: Array


def with_classifier(params: Any, key: Array, tune: TuneConfig, model: ModelConfig) -> Any:
    """`params` with a layer for `tune.classes`: weights (D, C) drawn as the paper's, biases zero.

    Where `params` are boxed with their logical axes, so is the layer.
    """
    if not tune.classes:
        return params
    boxed = isinstance(params["embedding"], nn.LogicallyPartitioned)
    key = jax.random.fold_in(key, len(tune.classes))
    shape = (model.embed_dim, len(tune.classes))
    weights_DC = init_std(model, "weights") * jax.random.normal(key, shape)
    biases_C = jnp.zeros(len(tune.classes))
    layer: dict[str, Any] = {"weights": weights_DC, "biases": biases_C}
    if boxed:
        layer["weights"] = nn.LogicallyPartitioned(weights_DC, ("D", None))
        layer["biases"] = nn.LogicallyPartitioned(biases_C, (None,))
    return {**params, CLASSIFIER: layer}


def class_sums(classifier: Any, x_BTD: Array, labels_BT: Array) -> ClassSums:
    """Sums over the examples in a micro-batch.

    Args:
      classifier: weights (D, C) and biases (C,).
      x_BTD: what the output layer reads.
      labels_BT: the class at the last token of each prompt, -1 elsewhere, int32.
    """
    weights_DC, biases_C = classifier["weights"], classifier["biases"]
    logits_BTC = jnp.einsum("BTD,DC->BTC", x_BTD.astype(jnp.float32), weights_DC) + biases_C
    asked_BT = labels_BT >= 0
    # A comparison and not a gather, which would fetch the tokens of other devices.
    is_class_BTC = jnp.arange(biases_C.shape[0]) == labels_BT[..., None]
    true_BT = jnp.where(is_class_BTC, logits_BTC, 0.0).sum(-1)
    nats_BT = jax.nn.logsumexp(logits_BTC, axis=-1) - true_BT
    right_BT = logits_BTC.argmax(-1) == labels_BT
    return ClassSums(
        nats=jnp.where(asked_BT, nats_BT, 0.0).sum(),
        right=(right_BT & asked_BT).sum().astype(jnp.float32),
        examples=asked_BT.sum().astype(jnp.float32),
    )
