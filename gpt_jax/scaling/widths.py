"""One model at several widths: the family that muP transfers a learning rate along."""

from __future__ import annotations

from dataclasses import replace

from gpt_jax.config import ModelConfig, Parametrisation, require


def widened(base: ModelConfig, width: int, parametrisation: Parametrisation) -> ModelConfig:
    """`base` with so many dims: more heads of the same size, an MLP of the same proportion.

    Both parametrisations are `base` itself at its own width. Raises InputError where the base is
    no standard model, or heads or MLP would not be whole.
    """
    require(
        base.parametrisation == "standard",
        "a family of widths starts from a model of the standard parametrisation, and "
        f"parametrisation is {base.parametrisation!r}: leave it out of the base.",
    )
    require(
        width > 0 and width % base.head_dim == 0 and width * base.mlp_dim % base.embed_dim == 0,
        f"a width is a whole number of heads of {base.head_dim} dims, with an MLP of "
        f"{base.mlp_dim} / {base.embed_dim} of it, and {width} is none: the next that is follows "
        f"{width // base.head_dim * base.head_dim}.",
    )
    mup = parametrisation == "mup"
    return replace(
        base,
        embed_dim=width,
        num_heads=width // base.head_dim,
        mlp_width=width * base.mlp_dim // base.embed_dim if base.mlp_width else 0,
        parametrisation=parametrisation,
        base_width=base.embed_dim if mup else 0,
    )
