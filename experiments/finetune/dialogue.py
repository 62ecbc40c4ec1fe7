"""A language model that answers in turns: sessions with Python's interpreter, or your own chats.

    gpt-jax train experiments/finetune/dialogue.py --init-from RUN
    gpt-jax train experiments/finetune/dialogue.py --init-from RUN --data.files chats.jsonl
    gpt-jax chat NEW                                # NEW: the path that train printed

RUN is a run, here or in a bucket, or a folder in the Hugging Face format; model and tokenizer are
its own. A line of chats.jsonl is {"messages": [{"role": "user", "content": "..."}, {"role":
"assistant", "content": "..."}]}, after a message of "system" or not; `gpt_jax/data/chat.py` has the
other forms that are taken, and the template. Every reply of a conversation is learned, after all
before it. TFDS: --data.files 'tfds:wiki_dialog/OQ?split=train' --data.chat utterances.

Without any files the conversations are the examples in the documentation of Python's own library:
the user types, the interpreter answers. There are some 260 with 1,000 replies, enough to learn the
form and not to learn Python. From a quickstart of 2 layers of width 128 with 2,048 tokens, which is
no model to talk with, three epochs (0.12 M tokens) take two busy CPU cores two minutes with
--train.batch-tokens 2048 --optimizer.learning-rate 1e-3 and end at a validation loss of 2.67.
"""

import ast
import doctest
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpt_jax.config import Config, DataConfig
from gpt_jax.data.sources import documents
from gpt_jax.presets import fine_tuning

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def sessions() -> Iterator[dict[str, Any]]:
    """The examples of each documentation string as a conversation."""
    for document in documents(DataConfig()):  # the library's sources
        if ">>> " not in document.text:
            continue
        with warnings.catch_warnings(action="ignore"):  # of old escapes in strings
            tree = ast.parse(document.text)
        for node in ast.walk(tree):
            if isinstance(node, DOCUMENTED) and (messages := turns(ast.get_docstring(node) or "")):
                yield {"messages": messages}


def turns(documentation: str) -> list[dict[str, str]]:
    """What is typed and what is answered; what has no answer is typed with what comes next."""
    messages, typed = [], ""
    try:
        found = doctest.DocTestParser().get_examples(documentation)
    except ValueError:  # prompts that are none
        return []
    for example in found:
        typed += example.source
        answer = example.want.replace("<BLANKLINE>", "")
        if typed.strip() and answer.strip():
            messages.append({"role": "user", "content": typed})
            messages.append({"role": "assistant", "content": answer})
            typed = ""
    return messages


def get_config() -> Config:
    """Conversations that do not fit lose their last turns."""
    return fine_tuning(
        "dialogue",
        DataConfig(
            files=(f"python:{Path(__file__).absolute()}:sessions",),
            chat="messages",
            too_long="cut_target_end",
        ),
    )
