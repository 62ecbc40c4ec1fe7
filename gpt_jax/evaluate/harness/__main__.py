"""`python -m gpt_jax.evaluate.harness`: the harness' own command, which then knows our model."""

from __future__ import annotations

import gpt_jax.evaluate.harness  # noqa: F401  (which tells the harness of the model)
from gpt_jax.parallel import platform


def main() -> None:
    """The harness' command line."""
    from lm_eval.__main__ import cli_evaluate  # pyright: ignore[reportMissingImports]

    platform.configure()
    cli_evaluate()


if __name__ == "__main__":
    main()
