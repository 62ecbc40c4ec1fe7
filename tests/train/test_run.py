"""A run folder: what a finished run holds, who may train in it, and what is refused."""

import dataclasses
import json
import logging
import math
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_metrics import read_events
from tiny_run import BATCH_TOKENS, STEPS, TEXTS, files, metrics, saved, saved_steps

import gpt_jax
from gpt_jax.cli import load_experiment, main
from gpt_jax.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    InputError,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
    flatten,
)
from gpt_jax.data.tokenizers import ByteTokenizer, CharacterTokenizer
from gpt_jax.train.run import (
    RunFolder,
    StopSignals,
    command,
    disagreements,
    new_run_path,
    write_json,
)


@pytest.mark.slow
def test_a_finished_run_holds_everything(finished, tiny):
    """The folder alone tells what ran, how it went, and gives the model back."""
    expected = {"checkpoints", "config.json", "lock", "metrics.jsonl", "sample.txt"}
    expected |= {"summary.json", "tensorboard", "tokenizer"}
    assert {path.name for path in finished.iterdir()} == expected
    assert saved_steps(finished) == [4, 8, 12, 16, 20, 24]
    asked = dataclasses.asdict(load_experiment(tiny, ["--checkpoint.keep-last", "9"]))
    asked["model"]["vocab_size"] = 257  # 256 bytes and the separator
    assert json.loads((finished / "config.json").read_text()) == json.loads(json.dumps(asked))
    assert (finished / "sample.txt").read_text().startswith("the")


@pytest.mark.slow
def test_metrics_of_a_finished_run(finished):
    """A line every 2 steps, tokens 256 a step, losses where it was evaluated: every 12 steps."""
    lines = metrics(finished)
    assert [line["step"] for line in lines] == list(range(2, STEPS + 1, 2))
    assert [line["tokens"] for line in lines] == [step * BATCH_TOKENS for step in range(2, 25, 2)]
    assert [line["step"] for line in lines if "val_loss" in line] == [12, 24]
    for line in lines:
        for name in ("loss", "gradient_norm", "learning_rate"):
            assert float(np.float32(line[name])) == line[name]  # a float32, all its bits
        if "val_loss" in line:
            assert line["val_perplexity"] == math.exp(line["val_loss"])
            assert line["val_bits_per_byte"] > 0
    assert lines[0]["loss"] == pytest.approx(math.log(257), abs=0.3)  # it knows nothing yet
    assert lines[-1]["val_loss"] < lines[5]["val_loss"] < math.log(257) - 0.5


@pytest.mark.slow
def test_the_learning_rate_is_the_formula(finished):
    """Cosine from 3e-3 at 0 to a tenth at 24 x 256 tokens, at the tokens seen with each step."""
    for line in metrics(finished):
        share = line["tokens"] / (24 * 256)
        rate = 3e-3 * (0.1 + 0.9 * (1 + math.cos(math.pi * share)) / 2)
        assert line["learning_rate"] == pytest.approx(rate, rel=1e-5)


@pytest.mark.slow
def test_the_summary_is_the_last_of_each(finished):
    summary = json.loads((finished / "summary.json").read_text())
    assert summary.pop("tokens_per_second") > 0
    assert summary == metrics(finished)[-1] | {"stopped_by": None, "best_step": 24}


@pytest.mark.slow
def test_tensorboard_tells_the_same(finished):
    (path,) = (finished / "tensorboard").iterdir()
    told = {
        (event.step, value.tag): value.simple_value
        for event in read_events(path)
        for value in event.summary.value
        if value.tag != "tokens_per_second"
    }
    assert told == {
        (line["step"], name): np.float32(value)
        for line in metrics(finished)
        for name, value in line.items()
        if name != "step"
    }


@pytest.mark.slow
def test_load_gives_the_model_that_was_validated(finished):
    """val_loss and bits per byte again, from the public API's logits and the files themselves.

    The last tenth of each file, its bytes and a separator (256), one after the other; every token
    but the first is predicted once, in windows of 32; separators cost nats and stand for no byte.
    """
    config, params, tokenizer = gpt_jax.load(finished)
    assert isinstance(tokenizer, ByteTokenizer)
    tokens = []
    for name in sorted(TEXTS):
        text = TEXTS[name]
        tokens += [*text[int(len(text) * 0.9) :].encode(), 256]
    targets = np.array(tokens[1:])
    inputs = np.zeros(-(-len(targets) // 32) * 32, np.int32)
    inputs[: len(targets)] = tokens[:-1]
    inputs_BT = jnp.asarray(inputs.reshape(-1, 32))
    logits = jax.jit(gpt_jax.GPT(config.model).apply)({"params": params}, inputs_BT)
    assert logits.shape[:2] == inputs_BT.shape
    logits = np.asarray(logits, np.float64).reshape(len(inputs), -1)[: len(targets), :257]
    nats = np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(targets)), targets]
    last = metrics(finished)[-1]
    assert last["val_loss"] == pytest.approx(nats.mean(), rel=1e-5)
    bits_per_byte = nats.sum() / math.log(2) / (targets != 256).sum()
    assert last["val_bits_per_byte"] == pytest.approx(bits_per_byte, rel=1e-5)


@pytest.mark.slow
def test_load_reads_only(finished):
    before = files(finished)
    gpt_jax.load(finished)
    assert files(finished) == before


@pytest.mark.slow
def test_a_run_of_another_platform_is_loaded_for_this_one(finished, tmp_path):
    """Here there is no TPU: with splash attention the model would be interpreted, or refused."""
    run = shutil.copytree(finished, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["model"]["attention"] = "splash"
    (run / "config.json").write_text(json.dumps(config))
    assert gpt_jax.load(run)[0] == gpt_jax.load(finished)[0]


@pytest.mark.slow
def test_the_state_counts_what_was_drawn(finished):
    """24 steps of 8 windows of 32 tokens; nothing was skipped."""
    state = saved(finished, STEPS)
    counted = {name: int(state[f"rest['{name}']"]) for name in ("step", "samples", "skipped")}
    assert counted == {"step": 24, "samples": 192, "skipped": 0}


@pytest.mark.slow
def test_the_same_command_on_a_finished_run_changes_nothing(finished, tiny, tmp_path, capsys):
    run = shutil.copytree(finished, tmp_path / "run")
    again = ["train", str(tiny), "--workdir", str(run), "--checkpoint.keep-last", "9"]
    assert main(again) == 0
    assert "continuing from step 24" in capsys.readouterr().out
    now, before = files(run), files(finished)
    assert {name for name in now if now[name] != before.get(name)} == {
        name for name in now.keys() - before.keys() if name.startswith("tensorboard/")
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prompt", "x" * 40], "40 tokens are more than 32: shorten the prompt."),
        (["--prompt", "abc", "--max-new-tokens", "30"], "ask for at most 29 new tokens"),
    ],
)
def test_a_prompt_longer_than_the_context_is_refused(finished, words, message, capsys):
    assert main(["generate", str(finished), *words]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_a_prompt_that_does_not_fit_costs_the_sample_and_not_the_end(
    finished, tiny, tmp_path, capsys
):
    """After hours of training the losses are printed all the same."""
    run = shutil.copytree(finished, tmp_path / "run")
    words = ["--checkpoint.keep-last", "9", "--train.sample-prompt", "x" * 40]
    assert main(["train", str(tiny), "--workdir", str(run), *words]) == 0
    out = capsys.readouterr().out
    assert "(no sample: " in out
    assert f"validation loss {metrics(finished)[-1]['val_loss']:.4f}" in out


@pytest.mark.slow
def test_generate_writes_the_sample_again(finished, capsys):
    """The sample of a run is that of its seed, at the temperature that generate has by default."""
    assert main(["generate", str(finished), "--prompt", "the", "--max-new-tokens", "8"]) == 0
    assert capsys.readouterr().out == (finished / "sample.txt").read_text() + "\n"


@pytest.mark.slow
def test_another_text_is_refused_and_nothing_changes(finished, tiny, tmp_path, monkeypatch):
    """A run continues on the text it began with; its own tokenizer is not overwritten first."""
    run = shutil.copytree(finished, tmp_path / "run")
    other = tmp_path / "other.txt"
    other.write_text("Another text altogether. " * 200)
    config = load_experiment(tiny, ["--checkpoint.keep-last", "9"])
    ran = gpt_jax.train.run.read_config(run)
    # As if the same glob now matched something else: the config itself agrees with the run's.
    (run / "config.json").write_text(
        json.dumps(dataclasses.asdict(ran)).replace(
            json.dumps(config.data.files[0]), json.dumps(str(other))
        )
    )
    before = files(run)
    changed = dataclasses.replace(config.data, files=(str(other),))
    with pytest.raises(
        InputError, match="the text, its tokenizer, its split or what its sources weigh has ch"
    ):
        gpt_jax.train.loop.train(dataclasses.replace(config, data=changed), run)
    assert files(run) == before


CONFIG = Config(name="a", model=ModelConfig(vocab_size=128))


def begun(path, config=CONFIG):
    with RunFolder(path, config) as run:
        run.write(config, CharacterTokenizer("abc"))
    return path


def test_a_run_is_continued_with_its_own_config(tmp_path):
    """Every field that disagrees is named with both values."""
    run = begun(tmp_path / "run")
    before = files(run)
    asked = dataclasses.replace(
        CONFIG,
        model=ModelConfig(vocab_size=128, num_layers=6),
        optimizer=OptimizerConfig(learning_rate=0.5),
    )
    with pytest.raises(InputError) as error:
        RunFolder(run, asked)
    assert "model.num_layers: 4 in the run, 6 asked" in str(error.value)
    assert "optimizer.learning_rate: 0.001 in the run, 0.5 asked" in str(error.value)
    assert str(error.value).count(" in the run, ") == 2
    assert files(run) == before
    with RunFolder(run, CONFIG):  # and the refusal did not keep the lock
        pass


def test_what_computes_nothing_else_may_change(tmp_path):
    """Where a run goes on and how it is watched is free, and config.json has the newest."""
    run = begun(tmp_path / "run")
    asked = dataclasses.replace(
        CONFIG,
        mesh=MeshConfig(fsdp=2),
        model=dataclasses.replace(CONFIG.model, vocab_size=0, remat="full"),
        train=dataclasses.replace(CONFIG.train, log_every=3, device_batch_tokens=256),
        checkpoint=dataclasses.replace(CONFIG.checkpoint, every=7),
    )
    with RunFolder(run, asked) as folder:
        folder.write(asked, CharacterTokenizer("abc"))
    written = json.loads((run / "config.json").read_text())
    assert (written["mesh"]["fsdp"], written["train"]["log_every"]) == (2, 3)


def test_one_process_at_a_time(tmp_path):
    """The second is refused, the first keeps its lock; closed, the folder is free."""
    with RunFolder(tmp_path / "run", CONFIG):
        for _ in range(2):
            with pytest.raises(InputError, match="another one is at work in"):
                RunFolder(tmp_path / "run", CONFIG)
    RunFolder(tmp_path / "run", CONFIG).__exit__()


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("irreplaceable")
    with pytest.raises(InputError, match=r"must name a new folder or a run's, and .* other files"):
        RunFolder(tmp_path, CONFIG)
    assert files(tmp_path) == {"thesis.txt": b"irreplaceable"}


@pytest.mark.parametrize("name", ["file", "file/run"])
def test_a_file_is_no_folder(tmp_path, name):
    (tmp_path / "file").write_text("irreplaceable")
    with pytest.raises(InputError, match="--workdir"):
        RunFolder(tmp_path / name, CONFIG)
    assert files(tmp_path) == {"file": b"irreplaceable"}


def test_an_empty_folder_and_one_killed_at_once_are_new(tmp_path):
    """A process killed before it wrote config.json leaves its lock file, and that is all."""
    RunFolder(tmp_path, CONFIG).__exit__()
    assert set(files(tmp_path)) == {"lock"}
    RunFolder(tmp_path, CONFIG).__exit__()


def test_a_damaged_config_is_an_error(tmp_path):
    run = begun(tmp_path / "run")
    (run / "config.json").write_text("{")
    with pytest.raises(InputError, match="must be the config of a run as JSON"):
        RunFolder(run, CONFIG)


def test_json_is_there_whole_or_not_at_all(tmp_path):
    """What cannot be written leaves the file as it was."""
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


@pytest.mark.parametrize("holds", ["nothing", "a config"])
def test_load_wants_a_run(tmp_path, holds):
    """A folder that is no run and a run without a checkpoint are told apart."""
    run = begun(tmp_path / "run") if holds == "a config" else tmp_path
    rule = "there is no checkpoint in" if holds == "a config" else "a run is a folder with a config"
    with pytest.raises(InputError, match=rule):
        gpt_jax.load(run)


def test_a_new_run_takes_a_name_that_is_free(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda _: "20260102-030405")
    names = []
    for _ in range(3):
        names.append(new_run_path("tiny").as_posix())
        new_run_path("tiny").mkdir(parents=True)
    stem = "runs/tiny-20260102-030405"
    assert names == [stem, f"{stem}-1", f"{stem}-2"]


def test_the_command_can_be_pasted():
    """Globs and spaces are quoted for the shell."""
    words = ["train", "my file.py", "--data.files", "x/*.txt"]
    assert command(words) == "gpt-jax train 'my file.py' --data.files 'x/*.txt'"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_is_obeyed(number):
    """Obeyed: what the signal did before, which for Ctrl-C is KeyboardInterrupt."""
    obeyed = []
    earlier = signal.signal(signal.SIGTERM, lambda *_: obeyed.append("SIGTERM"))
    try:
        with StopSignals() as stop:
            assert stop.requested is None
            signal.raise_signal(number)
            assert stop.requested == signal.Signals(number).name
            try:
                signal.raise_signal(number)
            except KeyboardInterrupt:
                obeyed.append("SIGINT")
            assert obeyed == [stop.requested]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, earlier)


def test_a_second_interrupt_ends_the_command_with_130(tmp_path, monkeypatch, capsys):
    """The status that a shell expects of a program ended by Ctrl-C, and no traceback."""

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("gpt_jax.train.run.read_config", interrupted)
    assert main(["generate", str(tmp_path)]) == 130
    assert capsys.readouterr().err == ""
    assert not [handler for handler in logging.root.handlers if handler.level == logging.DEBUG]


def test_disagreements_name_each_field_with_both_values():
    """What a run may not change while it is continued, in the order of the fields."""
    ran = Config(name="a")
    asked = dataclasses.replace(
        ran,
        model=dataclasses.replace(ran.model, num_layers=6),
        train=dataclasses.replace(ran.train, total_tokens=99),
    )
    assert disagreements(ran, asked) == [
        "model.num_layers: 4 in the run, 6 asked",
        "train.total_tokens: 10000000 in the run, 99 asked",
    ]
    assert disagreements(ran, ran) == []


def test_where_and_how_it_is_watched_may_change():
    """Devices, checkpoints, logging and the closing sample do not change what is computed."""
    ran = Config()
    asked = Config(
        model=ModelConfig(attention="xla", remat="full", scan_unroll=2),
        data=DataConfig(cache_dir="/elsewhere"),
        train=TrainConfig(
            device_batch_tokens=1024,
            log_every=1,
            max_skipped_in_row=3,
            sample_prompt="x",
            sample_tokens=1,
        ),
        checkpoint=CheckpointConfig(every=7, keep_last=5, keep_best=0),
        mesh=MeshConfig(data=2, fsdp=2, tensor=2),
    )
    assert disagreements(ran, asked) == []


def test_every_other_field_may_not_change():
    """Field by field: all that is not on the list above is a disagreement, and only it."""
    free = {
        *("model.attention", "model.remat", "model.scan_unroll", "model.split_residual"),
        *("data.cache_dir", "data.corpus", "compiler_options"),
        *("train.device_batch_tokens", "train.log_every", "train.max_skipped_in_row"),
        *("train.sample_prompt", "train.sample_tokens"),
        *("train.heartbeat_seconds", "train.watchdog_seconds"),
        *("checkpoint.every", "checkpoint.keep_last", "checkpoint.keep_best"),
        *("mesh.data", "mesh.fsdp", "mesh.tensor"),
        *("mesh.sequence", "mesh.pipeline", "mesh.slice"),
    }
    ran = Config()
    for name in flatten(ran):
        asked = Config()
        part = asked if "." not in name else getattr(asked, name.split(".")[0])
        object.__setattr__(part, name.split(".")[-1], "something else")  # past all the rules
        expected = [] if name in free else [name]
        assert [line.split(":")[0] for line in disagreements(ran, asked)] == expected
