"""`gpt-jax evaluate`: tasks put to a model, a table for the terminal, and JSON."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from gpt_jax.config import require
from gpt_jax.data.tasks.registry import find_task, task_names
from gpt_jax.data.tasks.task import Task
from gpt_jax.evaluate import probing
from gpt_jax.evaluate.contamination import NOT_CHECKED
from gpt_jax.evaluate.language_model import Progress
from gpt_jax.evaluate.load import Loaded, load_model
from gpt_jax.evaluate.probes import Asked, Probe, ProbeResult
from gpt_jax.evaluate.probes import put as put_probe
from gpt_jax.evaluate.probing import find_probe, is_probe, probe_names
from gpt_jax.evaluate.run import Exam, Result, prepare, put, require_names, text_task
from gpt_jax.evaluate.scores import Score
from gpt_jax.flops import num_params
from gpt_jax.train.run import write_json


def run(options: argparse.Namespace) -> None:
    """Score a model on tasks.

    All that can be wrong with tasks, shots or --json is found before the model is read.
    """
    if options.list_tasks:
        for name, about in sorted((task_names() | probe_names()).items()):
            print(f"{name:<24} {about}")
        return
    exams, probes, asked = _exams(options), _probes(options), probing.asked(options)
    if options.json:
        _check_writable(options.json)
    require(options.run_folder is not None, "there is no RUN to evaluate: give its folder.")
    loaded = load_model(
        options.run_folder,
        options.step,
        options.reader,
        options.fsdp,
        options.device_batch_tokens,
    )
    results, probed = _put_all(loaded, exams, probes, asked)
    print_tables(results, probed)
    if options.json:
        told = [result.as_dict(options.records) for result in results]
        told += [result.as_dict() for result in probed]
        write_json(options.json, as_json(options.run_folder, loaded, told))
        print(f"{options.json} has all figures.")


def _exams(options: argparse.Namespace) -> list[Exam]:
    """What is asked for; text without shots."""
    names = [name for name in options.tasks.split(",") if name]
    tasks: list[Task] = [find_task(name, probe_names()) for name in names if not is_probe(name)]
    texts = [text_task(source, options.text_field) for source in options.text]
    require_names([*tasks, *texts])
    require(bool(names or texts), "there is nothing to evaluate: name --tasks, or a --text.")
    require(options.examples >= 0, f"--examples is 0 or more, and it is {options.examples}.")
    require(options.seed >= 0, f"--seed is 0 or more, and it is {options.seed}.")
    counts = _shots(options.shots)
    seed, examples = options.seed, options.examples
    asked = [
        prepare(task, count, examples, seed)
        for task in tasks
        for count in ([0] if task.kind == "text" else counts)
    ]
    return [*asked, *(prepare(text, 0, examples, seed) for text in texts)]


def _probes(options: argparse.Namespace) -> list[Probe]:
    return [find_probe(name) for name in options.tasks.split(",") if is_probe(name)]


def _shots(words: str) -> list[int]:
    counts = words.split(",")
    require(
        all(count.isdecimal() for count in counts),
        f"--shots is one or more numbers, such as 0,1,16, and it is {words!r}.",
    )
    return [int(count) for count in dict.fromkeys(counts)]


def _check_writable(path: Path) -> None:
    require(not path.is_dir(), f"--json names a file, and {path} is a folder.")
    require(
        path.parent.is_dir(), f"--json names a file in a folder, and there is no {path.parent}."
    )


def _put_all(
    loaded: Loaded, exams: Sequence[Exam], probes: Sequence[Probe], asked: Asked
) -> tuple[list[Result], list[ProbeResult]]:
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    shown = sys.stderr.isatty()
    with Bars(*columns, console=console, transient=True, disable=not shown) as bars:

        @contextlib.contextmanager
        def bar(title: str) -> Iterator[Progress]:
            own = bars.add_task(title, total=None)
            yield lambda done, rows: bars.update(own, completed=done, total=rows)
            bars.remove_task(own)

        results, probed = [], []
        for exam in exams:
            with bar(_title(exam)) as progress:
                results.append(put(loaded.model, exam, loaded.config, progress))
        for probe in probes:
            with bar(probe.name) as progress:
                put_so = dataclasses.replace(asked, progress=progress)
                probed.append(put_probe(loaded.model, probe, put_so))
    return results, probed


def _title(exam: Exam) -> str:
    return f"{exam.task.name}, {exam.shots} shots" if exam.task.kind != "text" else exam.task.name


def as_json(path: Path, loaded: Loaded, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All that was found, ready for JSON."""
    return {
        "run": str(path),
        "name": loaded.config.name if loaded.config else path.name,
        "step": loaded.step,
        "parameters": num_params(loaded.model.config),
        "results": results,
    }


def print_tables(results: Sequence[Result], probed: Sequence[ProbeResult]) -> None:
    """What is found with its intervals, and what else is to be said of it."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    if results:
        console.print(as_table(results), "")
    if probed:
        console.print(probing.as_table(probed), "")
    for result in results:
        for line in _remarks(result):
            print(f"{_title(result.exam)}: {line}")
    tasks = (result.exam.task.name for result in results if _unchecked(result))
    if names := dict.fromkeys(tasks):
        print(f"contamination {NOT_CHECKED}: {', '.join(names)}")
    for line in itertools.chain.from_iterable(map(probing.lines, probed)):
        print(line)


def as_table(results: Sequence[Result]) -> Table:
    """The tasks' own metrics with their intervals."""
    table = Table(box=None, pad_edge=False)
    for name in ("task", "shots", "examples", "metric", "value", "95 % interval"):
        table.add_column(name, justify="left" if name in ("task", "metric") else "right")
    for result in results:
        own = [(name, result.scores[name]) for name in result.exam.task.metrics]
        clean = [(f"{name}, clean", result.clean[name]) for name in result.clean]
        for n, (name, score) in enumerate([*own, *clean[: len(own)]]):
            beginning = [
                result.exam.task.name,
                str(result.exam.shots),
                f"{len(result.exam.questions) - result.counts['without_tokens']:,}",
            ]
            table.add_row(*(beginning if n == 0 else [""] * 3), name, *_figures(score))
    return table


def _figures(score: Score) -> tuple[str, str]:
    if score.low is None or score.high is None:
        return "-" if math.isnan(score.value) else f"{score.value:.4f}", "-"
    return f"{score.value:.4f}", f"{score.low:.4f} to {score.high:.4f}"


def _remarks(result: Result) -> list[str]:
    """In words, what a reader of the figures must know."""
    counts, lines = result.counts, []
    if counts["with_fewer_shots"]:
        lines.append(
            f"{counts['with_fewer_shots']:,} questions have fewer shots, as the context has no "
            f"room for {counts['shots_left_out']:,} in all."
        )
    if counts["too_long"]:
        lines.append(
            f"{counts['too_long']:,} questions do not fit the context by themselves, and their "
            "beginning was not read."
        )
    if counts["without_tokens"]:
        lines.append(
            f"{counts['without_tokens']:,} questions were left out: the tokenizer makes nothing of "
            "a choice."
        )
    if counts["with_shorter_answers"]:
        lines.append(
            f"{counts['with_shorter_answers']:,} questions had half of the context for an answer, "
            f"which has no room for the task's {result.exam.task.max_new_tokens:,} tokens."
        )
    if result.contamination:
        lines.append(f"{result.contamination.line}.")
    return lines


def _unchecked(result: Result) -> bool:
    return not result.contamination and result.exam.task.kind != "text"
