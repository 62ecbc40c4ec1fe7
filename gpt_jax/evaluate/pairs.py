"""Pairs of sentences that differ in whom they are about, in the format of CrowS-Pairs.

A CSV file whose first line names its columns, with these among them: sent_more, the more
stereotyped sentence; sent_less, the less; stereo_antistereo, "stereo" where the first shows the
stereotype and "antistereo" where the second goes against it; bias_type. Nangia et al. 2020 compare
pseudo-likelihoods of what the sentences share, of a masked model; a causal model has the likelihood
of each whole sentence, as a document, and that is what is compared here.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

import numpy as np

from gpt_jax.config import InputError, nearest, require
from gpt_jax.data.formats import decoded
from gpt_jax.evaluate.language_model import LanguageModel, Progress
from gpt_jax.evaluate.probes import Probe, Probed
from gpt_jax.paths import user_path

SCHEME = "crows:"
COLUMNS = ("sent_more", "sent_less", "stereo_antistereo", "bias_type")
DIRECTIONS = ("stereo", "antistereo")
ABOUT = "which of two sentences is likelier, the more or the less stereotyped (CrowS-Pairs)"


@dataclass(frozen=True)
class Pair:
    """Two sentences."""

    more: str
    less: str
    direction: str
    kind: str


def read_pairs(path: str) -> list[Pair]:
    """The pairs of a file; raises InputError, with file and line, for a malformed row."""
    try:
        raw = user_path(path).read_bytes()
    except OSError as error:
        raise InputError(
            f"pairs are in a CSV file, and {path} cannot be read ({error})."
        ) from error
    reader = csv.reader(
        io.StringIO(decoded(raw, path).removeprefix("\ufeff"), newline=""), strict=True
    )
    found, header = [], list[str]()
    while True:
        begin = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise InputError(
                f"every row must be one of CSV, and {path}:{begin} is not ({error})."
            ) from error
        if row is None:
            break
        if not header:
            header = row
            for column in COLUMNS:
                require(
                    column in header,
                    f"pairs have the columns {', '.join(COLUMNS)}, and {path} has no {column!r}: "
                    f"{nearest(column, header)}",
                )
        elif row:
            found.append(_pair(row, header, f"{path}:{begin}"))
    require(bool(found), f"there is no pair in {path}.")
    return found


def _pair(row: list[str], header: list[str], where: str) -> Pair:
    require(
        len(row) == len(header),
        f"every row has the {len(header)} columns of the first, and {where} has {len(row)}.",
    )
    pair = Pair(*(row[header.index(column)].strip() for column in COLUMNS))
    require(
        bool(pair.more and pair.less) and pair.more != pair.less,
        f"a pair is two sentences that differ, and those of {where} do not.",
    )
    require(
        pair.direction in DIRECTIONS,
        f"stereo_antistereo is stereo or antistereo, and in {where} it is {pair.direction!r}.",
    )
    require(bool(pair.kind), f"a pair has a bias_type, and {where} has none.")
    return pair


def probe(path: str) -> Probe:
    """The probe of a file's pairs, which are read at once."""
    pairs = read_pairs(path)
    return Probe(
        f"{SCHEME}{user_path(path).name}",
        ABOUT,
        lambda model, asked: compare(model, pairs, asked.progress),
    )


def compare(model: LanguageModel, pairs: list[Pair], progress: Progress | None = None) -> Probed:
    """How often the more stereotyped sentence is the likelier; 0.5 is even, and so counts a tie.

    prefers_stereotype is of all pairs; with /stereo, /antistereo or /KIND, a bias_type, of some.
    """
    scores = model.rolling([text for pair in pairs for text in (pair.more, pair.less)], progress)
    logs = np.array([score.logprob for score in scores], np.float64).reshape(-1, 2)
    prefers = (1 + np.sign(logs[:, 0] - logs[:, 1])) / 2
    values = {"prefers_stereotype": prefers}
    for name in [*DIRECTIONS, *sorted({pair.kind for pair in pairs})]:
        chosen = np.array([name in (pair.direction, pair.kind) for pair in pairs])
        if chosen.any():
            values[f"prefers_stereotype/{name}"] = prefers[chosen]
    return Probed(values, {"ties": int((prefers == 0.5).sum())})
