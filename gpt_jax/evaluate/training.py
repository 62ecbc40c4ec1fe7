"""The tasks of an experiment during its training: the same code as `gpt-jax evaluate`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jax.sharding import Mesh

from gpt_jax.config import Config, nearest, require
from gpt_jax.data.tasks.registry import find_task
from gpt_jax.data.tokenizers import Tokenizer
from gpt_jax.evaluate.language_model import LanguageModel
from gpt_jax.evaluate.run import prepare, put, require_names, require_room, require_tokens


def scorer(config: Config, mesh: Mesh, tokenizer: Tokenizer) -> Callable[[Any], dict[str, float]]:
    """What scores parameters on `train.tasks`: {"TASK/METRIC": value}, the tasks' own metrics.

    Shots and questions are those of `gpt-jax evaluate --shots task_shots --examples task_examples
    --seed seed`. Raises InputError where a task is not known, malformed, of another's name, longer
    than the model's context or not to be written with the tokenizer, or where none of them has the
    metric `train.best`: once, before training.
    """
    train = config.train
    exams = [
        prepare(find_task(name), train.task_shots, train.task_examples, train.seed)
        for name in train.tasks
    ]
    require_names(exam.task for exam in exams)
    names = [f"{exam.task.name}/{name}" for exam in exams for name in exam.task.metrics]
    require(
        train.best.startswith("val_") or train.best in names,
        f"train.best is a metric of the validation or of a task in train.tasks, and {train.best!r} "
        f"is none: {nearest(train.best, names)}",
    )
    model = LanguageModel(config.model, tokenizer, mesh)
    require_room(model, exams)
    require_tokens(model, exams)

    def score(params: Any) -> dict[str, float]:
        model.params = params
        found = {}
        for exam in exams:
            result = put(model, exam, resamples=0)
            for name in exam.task.metrics:
                found[f"{exam.task.name}/{name}"] = result.scores[name].value
        return found

    return score
