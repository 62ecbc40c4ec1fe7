"""Repair of text: what was decoded wrongly is mended, and nothing else is touched."""

import importlib.util

import pytest

from gpt_jax.config import InputError
from gpt_jax.data.build.normalise import repaired, require_repair


@pytest.mark.parametrize("wrong", ["latin-1", "windows-1252"])
def test_what_was_decoded_wrongly_is_mended(wrong):
    right = "L\u2019\u00e9t\u00e9, na\u00efve caf\u00e9.\n\u00dcber alles\n"
    assert repaired(right.encode().decode(wrong)) == right
    assert repaired("ascii alone\n" + right.encode().decode(wrong)) == "ascii alone\n" + right


@pytest.mark.parametrize(
    "text",
    [
        "plain\r\nlines\t\x0c\x1b[31m&amp;\r",
        "\u201cquotes\u201d \ufb01ne \uff21 e\u0301 \u2028 &lt;\u00e9\r\n\x07\x1b[0m",
        "\u4e2d\u6587 \u0440\u0443\u0441\u0441\u043a\u0438\u0439 \U0001f600",
    ],
)
def test_anything_else_is_left_as_it_is(text):
    assert repaired(text) == text


def test_what_is_not_installed_is_named(monkeypatch):
    require_repair()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs ftfy.*gpt_jax\[repair\]"):
        require_repair()
