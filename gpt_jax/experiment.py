"""What an experiment file or a recipe says, with fields changed by options.

tyro, which reads the options, is imported only when there is something to read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
import itertools
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gpt_jax.config import Config, InputError, require
from gpt_jax.paths import in_bucket, resolved

if TYPE_CHECKING:
    from gpt_jax.train.origin import Reader

T = TypeVar("T")


def load_experiment(
    path: Path, overrides: Sequence[str], command: str = "train", reader: Reader | None = None
) -> Config:
    """The config of an experiment file with fields overridden from the command line.

    The folder of a run stands for its config, with its tokenizer and its parameters to start from.
    An experiment that says nothing of the model has that of its `init_from`, which `reader` reads
    where it is in the Hugging Face format.

    Raises InputError where the file is missing or has no get_config(), a value breaks a rule, or
    there is no model for examples to be learned by; exits with 2, and names the nearest field,
    where an option is unknown or ill-typed.
    """
    if path.is_dir():
        from gpt_jax.train.run import read_config

        default = read_config(path)
        tokenizer = str(resolved(path) / "tokenizer")
        data = dataclasses.replace(default.data, tokenizer=tokenizer)
        # Other text takes the place of the run's own, which is a corpus or files.
        given = {word.partition("=")[0] for word in overrides}
        if "--data.files" in given:
            data = dataclasses.replace(data, corpus="", mixture=())
        if "--data.corpus" in given:
            data = dataclasses.replace(data, files=())
        default = dataclasses.replace(default, data=data, init_from=str(resolved(path)))
        config = _of_one_length(overridden(default, path, overrides, command), overrides)
        require(
            bool(config.data.files or config.data.corpus) or (path / "metrics.jsonl").exists(),
            f"{path} is a model from elsewhere, and there is no text to go on with: name some "
            "(--data.files 'my_corpus/*.txt').",
        )
        return config
    config = defined(path)
    require(
        isinstance(config, Config),
        f"{path} is no experiment: its get_config() gives a {type(config).__name__}. A recipe "
        "for a corpus is for `gpt-jax data build`.",
    )
    if origin := _given(overrides, "init-from", config.init_from):
        from gpt_jax.train.origin import with_origin

        config = with_origin(dataclasses.replace(config, init_from=origin), reader)
    config = _of_one_length(overridden(config, path, overrides, command), overrides)
    # Before a training that ends without it reads, or downloads, all of its data.
    config.check_vocabulary()
    return config


def _of_one_length(config: Config, overrides: Sequence[str]) -> Config:
    """`config`; InputError where tokens are asked for and epochs count."""
    require(
        config.train.epochs == 0 or not _given(overrides, "train.total-tokens", ""),
        "a run is as long as its epochs or its tokens say, and --train.total-tokens is given with "
        f"train.epochs={config.train.epochs:g}: give --train.epochs 0 with it.",
    )
    return config


def _given(overrides: Sequence[str], name: str, default: str) -> str:
    """The last value that the options give a field of text."""
    for word, after in itertools.pairwise([*overrides, ""]):
        option, equals, value = word.partition("=")
        if option.replace("_", "-") == f"--{name}":
            default = value if equals else after
    return default


def defined(path: Path) -> Any:
    """What get_config() of a Python file gives; raises InputError where there is no such."""
    require(
        path.is_file() and not in_bucket(path),
        f"an experiment or a recipe is a Python file, and there is none at {path}: give the path "
        "of one, such as experiments/quickstart.py or experiments/data/python_text.py.",
    )
    # By its path, which is the name of no other module.
    name = str(path.absolute())
    spec = importlib.util.spec_from_file_location(name, path)
    require(
        spec is not None and spec.loader is not None,
        f"an experiment or a recipe is a Python file, and {path} does not end in .py.",
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look up annotations that are text
    spec.loader.exec_module(module)
    require(
        hasattr(module, "get_config"),
        f"an experiment file must define get_config(), and {path} does not.",
    )
    return module.get_config()


def overridden(default: T, path: Path, overrides: Sequence[str], command: str) -> T:
    """`default`, a frozen config, with the fields that the options `overrides` give.

    Raises InputError where a value breaks a rule; exits with 2 where an option is unknown or
    ill-typed.
    """
    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                type(default),
                default=default,
                args=list(overrides),
                prog=f"gpt-jax {command} {path}",
                description="Fields of what the file defines, with its values as defaults.",
            )
    except SystemExit as exit:
        # A rule of ours that was broken is told in our words, not in tyro's around them.
        cause = exit.__context__
        while cause is not None and not isinstance(cause, InputError):
            cause = cause.__context__
        if cause is not None:
            raise cause from None
        # The same words without the frame that tyro draws around them.
        words = re.sub(r"[\u2500-\u257f]+", " ", said.getvalue()).split()
        if words:
            print(f"error: {' '.join(words)}", file=sys.stderr)
        raise
