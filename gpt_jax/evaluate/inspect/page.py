"""The page of `gpt-jax inspect`: one HTML file that needs nothing else, and has no script."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

import numpy as np

from gpt_jax.evaluate.inspect.induction import Induction
from gpt_jax.plots import as_svg, draw_curves, figure

STYLE = """
body { font: 15px/1.6 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em;
  color: #1a1a1a; background: #fff; }
.about { color: #666; }
.text { white-space: pre-wrap; font-family: ui-monospace, monospace; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font: 12px ui-monospace, monospace; }
th, td { padding: .15em .5em; white-space: pre; text-align: left; font-weight: normal; }
th { color: #666; }
figure { display: inline-block; margin: .3em; font-size: 11px; color: #666; text-align: center; }
img { display: block; width: 96px; height: 96px; image-rendering: pixelated;
  border: 1px solid #ddd; }
"""


class Guess(NamedTuple):
    """What a layer would say next."""

    text: str
    chance: float


@dataclass(frozen=True)
class Page:
    """What was seen of a text of T tokens."""

    texts: Sequence[str]
    """Of each token."""
    nats_T: np.ndarray
    """Of each token but the first, (T - 1,)."""
    guesses_KT: Sequence[Sequence[Guess]]
    """What follows each token: by what the first layer reads, and by what each layer leaves."""
    attention_LNTS: np.ndarray


def page(seen: Page, now: Induction, by_step: Mapping[int, Induction], title: str) -> str:
    """The whole page; `by_step` has the induction of each checkpoint, where it is to be plotted."""
    parts = [
        _section("Loss", "Nats per token, darker where the token was less expected.", _loss(seen)),
        _section(
            "Logit lens",
            "What each layer would say next if it were the last (nostalgebraist 2020).",
            _lens(seen),
        ),
        _section(
            "Induction",
            "Random tokens said twice: attention from the second time to the token after the first "
            f"(Olsson et al. 2022), by layer and head. New tokens cost {now.first:.3f} nats, the "
            f"same said again {now.again:.3f}.",
            _induction(now, by_step),
        ),
        _section(
            "Attention",
            "From each place (down) to the places before it (across), black for 1.",
            _maps(seen, now),
        ),
    ]
    title = escape(title)
    return (
        "<!DOCTYPE html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
        f"<style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n{''.join(parts)}</body></html>\n"
    )


def _section(name: str, about: str, body: str) -> str:
    return f'<h2>{name}</h2>\n<p class="about">{escape(about)}</p>\n{body}\n'


def _shown(text: str) -> str:
    """A token's text where white space is to be seen."""
    marks = {"\n": "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}", "\t": "\N{RIGHTWARDS ARROW TO BAR}"}
    return escape("".join(marks.get(letter, letter) for letter in text))


def _shade(share: float) -> str:
    """A style that is white at 0 and dark orange at 1."""
    return f"background:rgba(213,94,0,{min(max(share, 0.0), 1.0):.3f})"


def _loss(seen: Page) -> str:
    """The text, each token shaded by its loss; 10 nats and more are darkest."""
    spans = [f"<span>{escape(seen.texts[0])}</span>"]
    for text, nats in zip(seen.texts[1:], seen.nats_T, strict=True):
        told = f"{nats:.3f} nats, probability {math.exp(-nats):.3g}"
        spans.append(f'<span style="{_shade(nats / 10)}" title="{told}">{escape(text)}</span>')
    mean = f"{seen.nats_T.mean():.4f} nats per token over {len(seen.nats_T)} tokens"
    return f'<p class="text">{"".join(spans)}</p>\n<p>{mean}.</p>'


def _lens(seen: Page) -> str:
    """A row for each layer, the last first; a column for each token."""
    heads = "".join(f"<th>{_shown(text)}</th>" for text in seen.texts)
    rows = []
    for layer, guesses in reversed(list(enumerate(seen.guesses_KT))):
        cells = "".join(
            f'<td style="{_shade(0.8 * guess.chance)}" title="{guess.chance:.3g}">'
            f"{_shown(guess.text)}</td>"
            for guess in guesses
        )
        name = f"layer {layer - 1}" if layer else "embedding"
        rows.append(f"<tr><th>{name}</th>{cells}</tr>\n")
    return f'<div class="scroll"><table><tr><th></th>{heads}</tr>\n{"".join(rows)}</table></div>'


def _induction(now: Induction, by_step: Mapping[int, Induction]) -> str:
    layers, heads = now.score_LN.shape
    top = "".join(f"<th>head {head}</th>" for head in range(heads))
    rows = "".join(
        f"<tr><th>layer {layer}</th>"
        + "".join(f'<td style="{_shade(x)}">{x:.3f}</td>' for x in now.score_LN[layer])
        + "</tr>\n"
        for layer in range(layers)
    )
    table = f'<div class="scroll"><table><tr><th></th>{top}</tr>\n{rows}</table></div>'
    return table + (_over_steps(by_step) if by_step else "")


def _over_steps(by_step: Mapping[int, Induction]) -> str:
    """The best head's score, and what the repetition spares, over the steps of the run."""
    records = [
        {"step": step, "score": found.best[0], "drop": found.first - found.again}
        for step, found in sorted(by_step.items())
    ]
    drawn, (left, right) = figure(2)
    draw_curves(left, {"": records}, "score", "score of the best head", x="step", x_label="step")
    draw_curves(right, {"": records}, "drop", "nats less, said again", x="step", x_label="step")
    return f"<div>{as_svg(drawn)}</div>"


def _maps(seen: Page, now: Induction) -> str:
    """A picture for each head."""
    figures = []
    for layer, heads in enumerate(seen.attention_LNTS):
        for head, map_TS in enumerate(heads):
            name = f"layer {layer}, head {head}"
            picture = base64.b64encode(png(255 - np.round(255 * map_TS))).decode()
            score = now.score_LN[layer, head]
            figures.append(
                f'<figure><img alt="{name}" src="data:image/png;base64,{picture}">{name}<br>'
                f"induction {score:.2f}</figure>"
            )
        figures.append("<br>")
    return "".join(figures)


def png(grey: np.ndarray) -> bytes:
    """A picture of (height, width) greys, 0 black and 255 white (PNG, ISO/IEC 15948)."""
    height, width = grey.shape
    rows = np.pad(grey.astype(np.uint8), ((0, 0), (1, 0)))  # each row begins with its filter, none

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    image = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows.tobytes()))
    return b"\x89PNG\r\n\x1a\n" + image + chunk(b"IEND", b"")
