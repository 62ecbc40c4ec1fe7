"""What a task is: questions with their right answers, and how the paper asks them (section 2.4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["choice", "generate", "text"]
Split = Literal["train", "test"]


@dataclass(frozen=True)
class Question:
    """One example of a task, as text."""

    name: str
    """Of the record: source and position."""
    context: str
    """What is read, without what the task puts before it. Ends without a space."""
    answers: tuple[str, ...]
    """What may follow, each with the space or line break before it; the first is what a shot shows.
    Of kind "text" the text itself."""
    choices: tuple[str, ...] = ()
    """Of kind "choice": the endings that are compared, each as it would follow the context."""
    right: int = -1
    """Which of them is right."""
    contexts: tuple[str, ...] = ()
    """One for each choice, where they differ (partial evaluation, as in Winogrande): the endings
    are then the same. Empty: `context` stands before all."""
    test: str = ""
    """Python that raises unless the code before it, context and answer, is right."""


@dataclass(frozen=True)
class Task:
    """Questions and the form in which they are asked."""

    name: str
    """Lower case, such as addition_2; that which --tasks takes."""
    kind: Kind
    """"choice": which ending is likeliest. "generate": what the model writes. "text": how likely
    the text is."""
    version: str
    """Of the prompt: changed whenever a prompt changes, so that no two are compared by error."""
    questions: Callable[[Split, int], Sequence[Question]]
    """(split, seed) -> questions: shots are drawn from train, test is scored. Raises InputError
    with file and line, or the record's name, where one is malformed."""
    metrics: tuple[str, ...]
    """Names of what is told, the main one first; `gpt_jax.evaluate.scores.NAMES` has them."""
    instruction: str = ""
    """What stands before the first shot."""
    delimiter: str = "\n\n"
    """What stands between shots, and before the question."""
    unconditional: str = "Answer:"
    """The context of the paper's normalisation P(ending | context) / P(ending | this)."""
    stop: tuple[str, ...] = ("\n",)
    """Of kind "generate": where an answer ends."""
    max_new_tokens: int = 32
    sources: tuple[str, ...] = ()
    """Of the test's records, as `DataConfig.files`: what a corpus knows them by."""
