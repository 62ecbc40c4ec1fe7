"""What of a model follows from its width: initial values, learning rates, multipliers.

"standard" is GPT-2's: nothing but the attention scale does, so that the best learning rate falls
as the model widens. "mup" is the maximal update parametrisation of Tensor Programs V (Yang et al.
2022, arXiv:2203.03466), in the form of its table 8, which lets the embedding be the output layer
too. With m = embed_dim / base_width:

    parameters                               init std      Adam     Muon        multiplier
    qkv, out, up, down (D x D, D x 4 D)      s / sqrt(m)   1 / m    1/sqrt(m)   1
    embedding, positions, norms, biases      s             1        -           1
    output layer                             s             1        -           1 / m
    adapters' A (D x r); B (r x D)           as without    1/m; 1   1/m; 1      1
    a classifier (D x C; their table 3)      s / m         1 / m    -           1

and scores are divided by the head dim and not by its root. All is relative to the base, where both
parametrisations are the same model, to the bit. A family of widths has one ratio of mlp_dim to
embed_dim, and one embedding_width where that is set: the projections then have one side that does
not grow, as tables have, and keep their rate.

Muon is not in that paper. Its column follows from the spectral condition for feature learning
(Yang, Simon & Bernstein 2023, arXiv:2310.17813): an update must have a spectral norm that goes
with sqrt(fan out / fan in), which of a hidden matrix is constant. An orthogonal update of the RMS
of Adam's (`train/optimizer.py`) has one of 0.2 sqrt(max fan), hence the root. Adam's column follows
too: its updates, nearly of rank one, have a norm that goes with the width itself.

Not scaled: Adam's eps, which is small beside any gradient at widths met here (appendix B.3).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from gpt_jax.config import ModelConfig, require

INIT_STD = 0.02
POSITION_INIT_STD = 0.01
HIDDEN = ("qkv", "out", "up", "down")
"""Matrices of the layers: both of their sides grow with the width."""
READ_OUT = ("weights", *(f"{name}_a" for name in HIDDEN))
"""Matrices from the width to a few: a classifier, and the first halves of adapters."""


def init_std(model: ModelConfig, name: str) -> float:
    """Standard deviation of the initial values of the matrices of a name, in float64."""
    std = POSITION_INIT_STD if name == "positions" else INIT_STD
    if name in ("out", "down"):
        # GPT-2 scales what is added to the residual stream by 1/sqrt(number of residual layers).
        std /= (2 * model.num_layers) ** 0.5
    if name in HIDDEN:
        std /= model.width_multiplier**0.5
    return std / model.width_multiplier if name == "weights" else std


def rate_multiplier(model: ModelConfig, optimizer: Literal["adamw", "muon"], name: str) -> float:
    """What the learning rate is multiplied by for the parameters of a name; 1 at the base."""
    if name in READ_OUT:
        return 1 / model.width_multiplier
    if name in HIDDEN:
        return model.width_multiplier ** (-0.5 if optimizer == "muon" else -1.0)
    return 1.0


def attention_scale(model: ModelConfig) -> float:
    """What scores are multiplied by: 1 / sqrt(H), or 1 / H times the root of the base's H."""
    base = model.base_head_dim or model.head_dim
    at_base = base**-0.5 if model.scale_attention else 1.0
    return at_base * (base / model.head_dim)


def embedding_multiplier(model: ModelConfig) -> float:
    """What token embeddings are multiplied by, where `scale_embedding` is set: as at the base."""
    return (model.base_width or model.embed_dim) ** 0.5 if model.scale_embedding else 1.0


def output_multiplier(model: ModelConfig) -> float:
    """What logits are multiplied by, before the bias of the output layer."""
    return 1 / model.width_multiplier


def standard_form(model: ModelConfig) -> ModelConfig:
    """The model of the standard parametrisation that computes the same from `merged` parameters.

    Raises InputError where there is none: a tied embedding that nothing stands before.
    """
    plain = replace(model, parametrisation="standard", base_width=0, base_head_dim=0)
    require(
        model.width_multiplier == 1
        or not model.tied_head
        or model.final_norm
        or model.token_dim != model.embed_dim,
        "the output multiplier of parametrisation='mup' is merged into the output layer, or into "
        "what stands before a tied one, and this model has a tied embedding and no final norm: "
        "such a model is exported at embed_dim == base_width alone; train it with "
        "--model.tied-head False or --model.final-norm True.",
    )
    return plain


def merged(model: ModelConfig, params: Any) -> Any:
    """Parameters with which `standard_form(model)` computes what `model` does with `params`.

    Multipliers go into the queries, the embedding, and the output layer or the last thing before
    one that is tied. Exact where they are powers of two; else each weight is rounded once more.
    """
    plain = standard_form(model)
    params = dict(params)

    def scale(name: str, by: float) -> None:
        if by != 1:
            params[name] = params[name] * by

    of_input = embedding_multiplier(model) / embedding_multiplier(plain)
    of_output = output_multiplier(model)
    scale("embedding", of_input)
    if not model.tied_head:
        scale("head", of_output)
    elif model.token_dim != model.embed_dim:
        scale("project_out", of_output / of_input)
    elif of_output != of_input:
        norm = params["norm_final"]
        params["norm_final"] = {name: x * (of_output / of_input) for name, x in norm.items()}
    of_queries = attention_scale(model) / attention_scale(plain)
    if of_queries != 1:
        params["layers"] = {
            slot: layer | {"attention": _with_queries(layer["attention"], of_queries)}
            for slot, layer in params["layers"].items()
        }
    return params


def _with_queries(attention: Any, by: float) -> Any:
    """Parameters of attention, stacked over layers, that make queries `by` times as large."""
    scaled = dict(attention)
    for name, axis in (("qkv", 2), ("qkv_bias", 1)):
        if name in attention:
            x = attention[name]
            queries = (*[slice(None)] * axis, 0)
            scaled[name] = x.at[queries].multiply(by)
    return scaled
