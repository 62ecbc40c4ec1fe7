"""The command line: what it accepts, what it refuses, and in which words."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import files, write_experiment

from gpt_jax.cli import main
from gpt_jax.config import Config, DataConfig, InputError
from gpt_jax.experiment import load_experiment

EXPERIMENTS = sorted((Path(__file__).parents[1] / "experiments").glob("*.py"))


@pytest.fixture
def tiny(tmp_path):
    return write_experiment(tmp_path / "tiny")


@pytest.fixture
def said(capsys):
    """`said(words...)`: (exit status, stdout, stderr) of a command that may also exit by itself."""

    def run(*words):
        try:
            status = main([str(word) for word in words])
        except SystemExit as end:
            status = end.code
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return status, out, err

    return run


def paragraph(err):
    """The words of an error that is one paragraph of ours."""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


IMPORTED = """
import sys
from gpt_jax.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert end.code == 0
heavy = {"jax", "jaxlib", "flax", "numpy", "orbax", "tensorboardX", "grain"} & set(sys.modules)
print("imported:", sorted(heavy))
"""
PACKAGE = """
import sys, gpt_jax
print("imported:", sorted({"jax", "flax", "numpy"} & set(sys.modules)))
"""


@pytest.mark.parametrize(
    "words",
    [["--help"], ["train", "--help"], ["generate", "--help"], ["scaling", "fit", "--help"], []],
)
def test_help_imports_nothing_heavy(words):
    """So that it answers at once; nor does naming what the package gives import it."""
    code = (
        IMPORTED
        if words
        else "import gpt_jax, sys; print('imported:', sorted({'jax'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("imported: []\n")
    assert done.stderr == ""


def test_help_names_the_commands(said):
    status, out, _ = said("--help")
    assert status == 0
    assert all(name in out for name in ("train", "generate", "bench"))
    status, out, _ = said("train", "--help")
    assert status == 0
    assert "--workdir" in out
    assert "`gpt-jax train EXPERIMENT --help` lists them." in " ".join(out.split())


@pytest.mark.parametrize("before", [[], ["--workdir", "somewhere"]])
def test_the_help_of_an_experiment_lists_its_fields(said, tiny, before):
    """Every part of the config, with this experiment's value as the default; nothing is run."""
    status, out, err = said("train", *before, tiny, "--help")
    assert (status, err) == (0, "")
    for option in (
        "--model.num-layers",
        "--data.files",
        "--optimizer.b1",
        "--train.z-loss",
        "--checkpoint.every",
        "--mesh.fsdp",
    ):
        assert option in out
    assert "(default: 0.003)" in out
    assert not Path("somewhere").exists()


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_builds(path):
    """As it stands and with a field changed; its docstring gives the command."""
    config = load_experiment(path, [])
    assert isinstance(config, Config)
    assert load_experiment(path, ["--train.seed", "7"]).train.seed == 7
    assert f"gpt-jax train experiments/{path.name}" in path.read_text().split('"""')[1]


def test_an_experiment_may_have_dataclasses_with_annotations_as_text(tmp_path):
    path = tmp_path / "json.py"  # as a module of Python's own is called
    path.write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from gpt_jax.config import Config, DataConfig\n"
        "@dataclass\n"
        "class Named:\n"
        "    name: str\n"
        "def get_config():\n"
        "    return Config(name=Named('mine').name, data=DataConfig(tokenizer='bytes'))\n"
    )
    assert load_experiment(path, []).name == "mine"
    assert sys.modules["json"] is json


def test_there_are_experiments():
    assert "quickstart" in [path.stem for path in EXPERIMENTS]


def test_an_option_changes_one_field(tiny):
    """All else stays as the file has it, and each value has its field's type."""
    plain = json.dumps(load_experiment(tiny, []), default=vars)
    changed = json.dumps(load_experiment(tiny, ["--model.num-layers", "6"]), default=vars)
    assert '"num_layers": 2' in plain
    assert changed == plain.replace('"num_layers": 2', '"num_layers": 6')
    words = ["--data.files", "x/*.txt", "y.txt", "--model.attention-pattern", "dense", "banded"]
    config = load_experiment(tiny, [*words, "--optimizer.eps", "1e-6", "--model.dtype", "bfloat16"])
    assert config.data.files == ("x/*.txt", "y.txt")
    assert config.model.attention_pattern == ("dense", "banded")
    assert (config.optimizer.eps, config.model.dtype) == (1e-6, "bfloat16")


def test_other_text_takes_the_place_of_a_runs_own(tmp_path):
    """A run that was made of a corpus goes on with files, and the other way round."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").touch()
    mixed = Config(data=DataConfig(corpus="corpora/x", mixture=("a=1", "b=2@500")))
    (run / "config.json").write_text(json.dumps(mixed, default=vars))
    config = load_experiment(run, ["--data.files", "more.txt"])
    assert (config.data.files, config.data.corpus, config.data.mixture) == (("more.txt",), "", ())
    plain = Config(data=DataConfig(files=("old.txt",)))
    (run / "config.json").write_text(json.dumps(plain, default=vars))
    config = load_experiment(run, ["--data.corpus=corpora/y"])
    assert (config.data.files, config.data.corpus) == ((), "corpora/y")
    assert load_experiment(run, []).data.files == ("old.txt",)


def test_rules_hold_for_all_options_together(tiny):
    """5 heads do not divide a width of 32, and do divide the 40 that comes after them."""
    config = load_experiment(tiny, ["--model.num-heads", "5", "--model.embed-dim", "40"])
    assert config.model.head_dim == 8


@pytest.mark.parametrize(
    ("words", "box"),
    [
        (["--model.num-layer", "6"], ["--model.num-layer", "--model.num-layers INT"]),
        (["--modle.num-layers", "6"], ["--modle.num-layers", "--model.num-layers INT"]),
        (["--model.num-layers", "six"], ["--model.num-layers", "'six'"]),
        (["--optimizer.learning-rate", "fast"], ["--optimizer.learning-rate", "'fast'"]),
        (["--model.dtype", "float16"], ["--model.dtype", "float16", "bfloat16"]),
        (["--model.num-layers"], ["--model.num-layers"]),
    ],
)
def test_an_unknown_or_ill_typed_option_names_the_field(said, tiny, tmp_path, words, box):
    """tyro's words in one paragraph on stderr, exit status 2, and no folder is made."""
    status, out, err = said("train", tiny, "--workdir", tmp_path / "run", *words)
    assert (status, out) == (2, "")
    assert all(text in paragraph(err) for text in box)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (["--model.num-heads", "5"], "5 heads do not divide a width of 32: change one of the two"),
        (["--data.sequence-length", "64"], "64 is more than model.context_length=32: shorten the"),
        (["--train.batch-tokens", "100"], "100 tokens do not divide into sequences of 32: the"),
        (["--train.total-tokens", "0"], "total_tokens must be positive, and it is 0."),
        (
            ["--data.tokenizer", "words"],
            "tokenizer must be one of sentencepiece, bytes, characters",
        ),
        (["--optimizer.warmup-tokens", "999999"], "cannot decay before it has warmed up"),
    ],
)
def test_a_broken_rule_is_one_paragraph(said, tiny, tmp_path, words, rule):
    """Though it is tyro that builds the config, the words are ours alone."""
    status, out, err = said("train", tiny, "--workdir", tmp_path / "run", *words)
    assert (status, out) == (1, "")
    assert rule in paragraph(err)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["train", "bench"])
def test_what_is_no_experiment(said, tmp_path, command):
    """Missing (also with --help), not Python, without get_config."""
    missing = tmp_path / "missing.py"
    for more in ([], ["--help"]):
        status, _, err = said(command, missing, *more)
        assert status == 1
        assert f"there is none at {missing}: give the path of one" in paragraph(err)
    (tmp_path / "notes.txt").write_text("no code")
    status, _, err = said(command, tmp_path / "notes.txt")
    assert status == 1
    assert "notes.txt does not end in .py." in paragraph(err)
    (tmp_path / "empty.py").write_text("x = 1\n")
    status, _, err = said(command, tmp_path / "empty.py")
    assert status == 1
    assert "must define get_config(), and" in paragraph(err)


def test_a_rule_broken_by_the_file_itself_is_one_paragraph(said, tmp_path):
    code = "from gpt_jax.config import ModelConfig\nget_config = lambda: ModelConfig(num_heads=3)\n"
    (tmp_path / "broken.py").write_text(code)
    status, _, err = said("train", tmp_path / "broken.py")
    assert status == 1
    assert "3 heads do not divide a width of 256" in paragraph(err)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("def get_config(:\n", SyntaxError),
        ("def get_config():\n    return 1 / 0\n", ZeroDivisionError),
    ],
)
def test_a_bug_in_the_file_keeps_its_traceback(tmp_path, code, kind):
    """It is the user's own code: the traceback shows the line."""
    path = tmp_path / "buggy.py"
    path.write_text(code)
    with pytest.raises(kind) as error:
        main(["train", str(path)])
    where = error.value.filename if kind is SyntaxError else str(error.traceback[-1].path)
    assert where == str(path)


def test_commands_and_options_that_do_not_exist(said, tmp_path):
    assert said()[0] == said("trian", "x.py")[0] == said("train")[0] == 2
    status, _, err = said("generate", tmp_path, "--promt", "x")
    assert status == 2
    assert "unrecognized arguments: --promt x" in err


def test_generate_on_a_folder_that_is_no_run(said, tmp_path):
    status, _, err = said("generate", tmp_path)
    assert status == 1
    assert f"{tmp_path} has none: give the path that `gpt-jax train` printed" in paragraph(err)


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (["--data.files", "nowhere/*.txt"], "'nowhere/*.txt' matches none: check the path"),
        (["--mesh.data", "3"], "must divide the 8 devices present, and data=3 does not"),
        (
            ["--train.batch-tokens", "160"],
            "5 sequences of 32 tokens do not divide over slice x pipeline x data x fsdp",
        ),
        (["--model.vocab-size", "100"], "vocab_size=100 is less than the tokenizer's 257"),
        (["--data.tokenizer", "sentencepiece"], "a tokenizer that is trained needs its size"),
        (["--data.tokenizer", "no.model"], "data.tokenizer='no.model' cannot be read"),
    ],
)
def test_what_only_the_text_or_the_devices_can_tell(said, tiny, tmp_path, words, rule):
    """One paragraph too, before anything is trained."""
    status, _, err = said("train", tiny, "--workdir", tmp_path / "run", *words)
    assert status == 1
    assert rule in paragraph(err)
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"caf\xe9", "text must be UTF-8, and {path} is not at byte 3 (0xe9): convert it"),
        (b"", "there is no text in {path}: name files that have some (--data.files)."),
    ],
)
def test_text_that_is_none(said, tiny, tmp_path, content, rule):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    words = ["--data.files", path, "--workdir", tmp_path / "run"]
    status, _, err = said("train", tiny, *words)
    assert status == 1
    assert rule.format(path=path) in paragraph(err)


def test_a_folder_with_other_files_is_left_alone(said, tiny, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("irreplaceable")
    for workdir in (tmp_path / "home", tmp_path / "home" / "thesis.txt"):
        status, _, err = said("train", tiny, "--workdir", workdir)
        assert status == 1
        assert f"{workdir}" in paragraph(err)
    assert files(tmp_path / "home") == {"thesis.txt": b"irreplaceable"}


def test_a_full_disk_is_one_paragraph(said, tmp_path, monkeypatch):
    """Wherever it strikes; any other fault of the system is a defect, and keeps its traceback."""

    def full(run):
        raise OSError(28, "No space left on device", str(run))

    monkeypatch.setattr("gpt_jax.train.run.read_config", full)
    status, _, err = said("generate", tmp_path)
    assert status == 1
    assert f"No space left on device: '{tmp_path}'" in paragraph(err)
    monkeypatch.setattr("gpt_jax.train.run.read_config", lambda _: os.stat("/nowhere/at/all"))
    with pytest.raises(FileNotFoundError):
        main(["generate", str(tmp_path)])


def test_an_error_that_is_raised_by_hand_is_a_value_error():
    """So that a notebook that knows nothing of us can catch it."""
    assert issubclass(InputError, ValueError)


@pytest.mark.slow
def test_a_model_larger_than_a_device_ends_its_training_without_a_sample(
    said, tiny, tmp_path, monkeypatch
):
    """All is saved by then: it is said, and the exit status is that of a run that ended well."""

    class Small:
        def memory_stats(self):
            return {"bytes_limit": 1000}

    monkeypatch.setattr("jax.local_devices", lambda: [Small()])
    status, out, err = said(
        "train", tiny, "--workdir", tmp_path / "run", "--train.total-tokens", 512
    )
    assert (status, err) == (0, "")
    assert "(no sample: a model writes text on one device, and this one takes" in out


@pytest.mark.parametrize("words", [["bench"], ["plan", "--target", "v5e-4", "--no-compile"]])
def test_a_step_of_another_kind_is_neither_measured_nor_planned(said, words, tmp_path):
    """That of training on text would be taken for it."""
    path = tmp_path / "rewarded.py"
    path.write_text(
        "from gpt_jax.config import Config, DataConfig, FeedbackConfig\n"
        "def get_config():\n"
        "    feedback = FeedbackConfig(method='reinforce', reward='length:3')\n"
        "    data = DataConfig(prompt='{q}', target='{a}', tokenizer='bytes')\n"
        "    return Config(name='rewarded', data=data, feedback=feedback)\n"
    )
    status, _, err = said(words[0], path, *words[1:])
    assert status == 1
    assert "feedback.method='reinforce' holds another model" in paragraph(err)
