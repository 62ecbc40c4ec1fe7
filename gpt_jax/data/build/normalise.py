"""What may be changed in a text as it is read: nothing, unless a recipe asks for `repair`."""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

from gpt_jax.config import require


def require_repair() -> None:
    """Raise InputError where text cannot be repaired, before a build that would need it."""
    require(
        importlib.util.find_spec("ftfy") is not None,
        "repair=True in a recipe needs ftfy, which is not installed: pip install "
        "'gpt_jax[repair]', or -e '.[repair]' in a clone.",
    )


def repaired(text: str) -> str:
    """The text as it was before it was decoded wrongly (UTF-8 taken for Latin-1, and the like).

    Where nothing shows that, it stays as it is: ftfy's other corrections, of quotation marks, line
    ends, ligatures, control characters and HTML, are switched off.
    """
    if text.isascii():  # each wrong decoding leaves other characters
        return text
    import ftfy

    return ftfy.fix_text(text, _encoding_alone())


@functools.cache
def _encoding_alone() -> Any:
    import ftfy

    return ftfy.TextFixerConfig(
        unescape_html=False,
        remove_terminal_escapes=False,
        fix_latin_ligatures=False,
        fix_character_width=False,
        uncurl_quotes=False,
        fix_line_breaks=False,
        remove_control_chars=False,
        normalization=None,
    )
