"""Settings of the machine that must stand before jax is imported."""

from __future__ import annotations

import os

CPU_XLA_FLAGS = ""


def configure() -> None:
    """Put our XLA flags before the user's own, which win where they say otherwise."""
    flags = f"{CPU_XLA_FLAGS} {os.environ.get('XLA_FLAGS', '')}".strip()
    if flags:
        os.environ["XLA_FLAGS"] = flags
