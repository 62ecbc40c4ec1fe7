"""Tasks put to a small model: figures counted again from what it said, and the command itself."""

import json
from pathlib import Path

import jax
import pytest
from random_model import random_params
from small_run import MODEL, make_run

from gpt_jax import cli, sandbox
from gpt_jax.config import InputError, MeshConfig
from gpt_jax.data.tasks.task import Question, Task
from gpt_jax.data.tokenizers import ByteTokenizer
from gpt_jax.evaluate import command
from gpt_jax.evaluate.language_model import LanguageModel
from gpt_jax.evaluate.run import prepare, put, require_tokens, text_task
from gpt_jax.parallel.mesh import make_mesh
from gpt_jax.train import run as train_run


def choice(n: int) -> Question:
    endings = (f" {n}", f" {n + 1} and more", " none")
    return Question(f"q{n}", f"Count {n}:", (endings[n % 3],), endings, n % 3)


CHOICE = Task(
    "counting",
    "choice",
    "3",
    lambda split, seed: tuple(choice(n + 100 * (split == "train")) for n in range(40)),
    ("accuracy_per_byte", "accuracy"),
    delimiter="\n",
)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    made = LanguageModel(MODEL, ByteTokenizer(), make_mesh(MeshConfig(), jax.devices()[:1]), 1024)
    made.params = random_params(MODEL)
    return made


def test_a_choice_is_scored_by_each_rule(model):
    """Counted again from the log-probabilities of the records."""
    result = put(model, prepare(CHOICE, 0, 0, 0))
    assert [*result.scores][:2] == ["accuracy_per_byte", "accuracy"]
    assert len(result.records) == 40
    raw = per_byte = bare = 0
    for n, record in enumerate(result.records):
        logprobs, alone = record["logprobs"], record["logprobs_unconditional"]
        sizes = [len(text) - 1 for text in record["choices"]]
        raw += max(range(3), key=logprobs.__getitem__) == n % 3
        per_byte += max(range(3), key=lambda i: logprobs[i] / sizes[i]) == n % 3
        bare += max(range(3), key=lambda i: logprobs[i] - alone[i]) == n % 3
        again = model.loglikelihoods([(f"Count {n}:", text) for text in record["choices"]])
        assert [one.logprob for one in again] == logprobs
        (after,) = model.loglikelihoods([("Answer:", record["choices"][0])])
        assert after.logprob == alone[0]
    told = {name: score.value for name, score in result.scores.items()}
    assert told["accuracy"] == raw / 40
    assert told["accuracy_per_byte"] == per_byte / 40
    assert told["accuracy_unconditional"] == bare / 40
    assert 0 < raw < 40
    found = result.as_dict()
    assert (found["prompt_version"], found["seed"], found["examples"]) == ("3", 0, 40)
    assert found["metrics"]["accuracy"]["low"] < raw / 40 < found["metrics"]["accuracy"]["high"]
    assert found["contamination"] == "not checked"


def test_shots_that_do_not_fit_are_counted(model):
    """128 tokens hold 5 or 6 of 8 shots; and a question longer than that is told of too."""
    result = put(model, prepare(CHOICE, 8, 5, 0), resamples=0)
    kept = [record["shots"] for record in result.records]
    assert all(2 < count < 8 for count in kept)
    assert result.counts == {
        "with_fewer_shots": 5,
        "shots_left_out": 40 - sum(kept),
        "too_long": 0,
        "without_tokens": 0,
        "with_shorter_answers": 0,
    }
    for record in result.records:
        (context,) = record["contexts"]
        longest = max(map(len, record["choices"]))
        assert len(context) + longest - 1 <= 128
        assert context.count("Count") == record["shots"] + 1
    long = Question("long", "x" * 200, (" a",), (" a", " b"), 0)
    task = Task("long", "choice", "1", lambda split, seed: (long,), ("accuracy",))
    assert put(model, prepare(task, 0, 0, 0)).counts["too_long"] == 1


def test_the_examples_are_drawn_by_the_seed(model):
    names = [[q.name for q in prepare(CHOICE, 0, 7, seed).questions] for seed in (0, 0, 1)]
    assert names[0] == names[1] != names[2]
    assert names[0] == sorted(names[0], key=lambda name: int(name[1:]))
    assert len(prepare(CHOICE, 0, 99, 0).questions) == 40


class DropsDigits(ByteTokenizer):
    """As a tokenizer of somebody else may have no token for some text."""

    def _encode(self, text):
        return super()._encode("".join(c for c in text if not c.isdigit()))


def test_a_choice_that_tokenises_to_nothing_leaves_its_question_out(model):
    """Counted and told; where it is all of them there is no figure to give, and other tasks have
    theirs: only a training run, which has them not yet, does not begin.
    """
    mixed = (choice(3), Question("bare", "Count:", ("4",), ("4", " x"), 0))
    made = LanguageModel(MODEL, DropsDigits(), model.mesh, 1024)
    made.params = model.params
    task = Task("mixed", "choice", "1", lambda split, seed: mixed, ("accuracy",))
    result = put(made, prepare(task, 0, 0, 0))
    assert result.counts["without_tokens"] == 1
    assert result.as_dict()["examples"] == 1
    assert result.records[1]["left_out"]
    task = Task("bare", "choice", "1", lambda split, seed: mixed[1:], ("accuracy",))
    bare = prepare(task, 0, 0, 0)
    nothing = put(made, bare)
    assert nothing.counts["without_tokens"] == 1
    assert nothing.as_dict()["examples"] == 0
    assert nothing.as_dict()["metrics"]["accuracy"] == {"value": None, "low": None, "high": None}
    columns = command.as_table([nothing, result]).columns
    assert [*columns[2].cells] == ["0", "1"]
    assert next(iter(columns[4].cells)) == "-"
    require_tokens(made, [result.exam])
    with pytest.raises(InputError, match="each question of bare"):
        require_tokens(made, [bare])


def test_answers_are_written_and_scored(model):
    """The right answer is what this model writes, for every other question."""
    asked = [f"Say {n}:" for n in range(6)]
    written = model.generate(asked, ("\n",), 6)
    questions = tuple(
        Question(f"q{n}", text, (answer if n % 2 else " no",))
        for n, (text, answer) in enumerate(zip(asked, written, strict=True))
    )
    task = Task("saying", "generate", "1", lambda s, seed: questions, ("exact_match", "f1"))
    task = Task(**vars(task) | {"max_new_tokens": 6})
    result = put(model, prepare(task, 0, 0, 0))
    assert result.scores["exact_match"].value == 0.5
    assert [record["exact_match"] for record in result.records] == [0, 1] * 3
    assert [record["written"] for record in result.records] == [[text] for text in written]


def test_an_answer_that_would_fill_the_context_has_half_of_it(model):
    """Of 128 tokens, and that is counted and said; what comes before has the other half."""
    asked = [Question(f"q{n}", f"Say {n}:", (" no",)) for n in range(3)]
    asked.append(Question("long", "x" * 70, (" no",)))
    task = Task("code", "generate", "1", lambda s, seed: asked, ("f1",), stop=())
    task = Task(**vars(task) | {"max_new_tokens": 256})
    result = put(model, prepare(task, 0, 0, 0))
    written = model.generate([question.context for question in asked], (), 64)
    assert [record["written"] for record in result.records] == [[text] for text in written]
    assert (result.counts["with_shorter_answers"], result.counts["too_long"]) == (4, 1)
    said = "4 questions had half of the context for an answer, which has no room for the task's 256"
    assert any(said in line for line in command._remarks(result))


@pytest.mark.slow
def test_code_is_run_in_the_sandbox(model, monkeypatch):
    """Context, answer and test make a program; of each question as many as pass@k needs."""
    ran = []

    def run_all(programs):
        ran.extend(programs)
        passed = [n % 4 == 0 for n in range(len(programs))]
        return [sandbox.Outcome("passed" if ok else "failed", "") for ok in passed]

    monkeypatch.setattr(sandbox, "run_all", run_all)
    question = Question("q", "def f():\n", ("    return 1",), test="assert f() == 1")
    task = Task("code", "generate", "1", lambda s, seed: (question,) * 2, ("pass@1", "pass@2"))
    result = put(model, prepare(task, 0, 0, 0))
    assert len(ran) == 8
    assert all(text.startswith("def f():\n") and text.endswith("assert f() == 1") for text in ran)
    assert result.scores["pass@1"].value == 0.25
    assert result.scores["pass@2"].value == 0.5
    assert len(set(result.records[0]["written"])) > 1


def test_any_source_is_told_by_its_documents(model, tmp_path):
    lines = [json.dumps({"body": text}) for text in ("one text", "another, longer text " * 20)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    exam = prepare(text_task(str(tmp_path / "a.jsonl"), "body"), 0, 0, 0)
    result = put(model, exam)
    assert [record["bytes"] for record in result.records] == [8, 420]
    nats = -sum(record["logprob"] for record in result.records)
    assert result.scores["bits_per_byte"].value == pytest.approx(nats / 428 / 0.6931471805599453)
    with pytest.raises(InputError, match="--shots 0"):
        prepare(exam.task, 1, 0, 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "small")


@pytest.fixture
def questions(tmp_path):
    path = tmp_path / "mine.jsonl"
    lines = [
        {"prompt": f"Is {n} odd?", "choices": [" yes", " no"], "answer": n % 2} for n in (1, 2)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_the_command_writes_a_table_and_json(run, questions, tmp_path, capsys):
    out = tmp_path / "out.json"
    words = ["evaluate", str(run), "--tasks", f"{questions},copying", "--examples", "5"]
    words += ["--text", str(questions), "--text-field", "prompt", "--json", str(out), "--records"]
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    for word in ("mine", "copying", "accuracy_per_token", "bits_per_byte", "95 % interval"):
        assert word in said
    assert "contamination not checked: mine, copying\n" in said
    found = json.loads(out.read_text())
    assert [(one["task"], one["examples"]) for one in found["results"]] == [
        ("mine", 2),
        ("copying", 5),
        (str(questions), 2),
    ]
    assert found["step"] == 7
    assert len(found["results"][0]["records"]) == 2
    assert {"value", "low", "high"} == found["results"][0]["metrics"]["accuracy"].keys()


def figures(*words: object) -> dict:
    """What --json gives of a command, but for the time it took."""
    out = Path(str(words[-1]))
    assert cli.main(["evaluate", *map(str, words[:-1]), "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    return {one["task"]: one | {"seconds": 0} for one in found["results"]}


@pytest.mark.slow
def test_a_model_in_the_hugging_face_format_is_evaluated_as_it_is(tmp_path, questions):
    """The same figures as those of the run that it was exported from."""
    run = make_run(tmp_path / "run")
    assert cli.main(["export", str(run), str(tmp_path / "hf")]) == 0
    ours, theirs = (
        figures(tmp_path / name, "--tasks", questions, tmp_path / f"{name}.json")
        for name in ("run", "hf")
    )
    assert ours == theirs


@pytest.mark.slow
def test_a_step_and_split_weights_give_the_same(run, questions, tmp_path):
    whole = figures(run, "--tasks", questions, tmp_path / "a.json")
    split = figures(run, "--tasks", questions, "--fsdp", 2, "--step", 7, tmp_path / "b.json")
    for name, score in whole["mine"]["metrics"].items():
        assert split["mine"]["metrics"][name] == score
    assert cli.main(["evaluate", str(run), "--tasks", str(questions), "--step", "8"]) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tasks", "additon_2"], "addition_2"),
        (["--tasks", "addition_2", "--shots", "few"], "'few'"),
        (["--tasks", "addition_2", "--json", "/nowhere/out.json"], "/nowhere"),
        ([], "nothing to evaluate"),
        (["--tasks", "no.jsonl"], "no.jsonl"),
    ],
)
def test_bad_words_are_told_before_the_model_is_read(words, message, capsys, monkeypatch):
    def never(*_):
        pytest.fail("the model was read")

    monkeypatch.setattr(command, "load_model", never)
    assert cli.main(["evaluate", "RUN", *words]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("devices", [0, -1, 3])
def test_weights_are_split_over_devices_that_there_are(run, devices, capsys):
    assert cli.main(["evaluate", str(run), "--tasks", "copying", "--fsdp", str(devices)]) == 1
    assert f"divides the 8 there are, and --fsdp is {devices}." in capsys.readouterr().err


def test_a_malformed_line_names_file_and_line(questions, capsys, monkeypatch):
    with questions.open("a") as file:
        file.write('{"prompt": "Is 3 odd?", "choices": [" yes", " no"]}\n')
    monkeypatch.setattr(command, "load_model", lambda *_: pytest.fail("the model was read"))
    assert cli.main(["evaluate", "RUN", "--tasks", str(questions)]) == 1
    assert "mine.jsonl:3" in capsys.readouterr().err


def test_an_interrupted_command_leaves_the_file_as_it_was(run, questions, tmp_path, monkeypatch):
    out = tmp_path / "out.json"
    out.write_text("earlier")

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(train_run, "write_whole", interrupted)
    words = ["evaluate", str(run), "--tasks", str(questions), "--json", str(out)]
    assert cli.main(words) == 130
    assert out.read_text() == "earlier"
    assert {path.name for path in tmp_path.iterdir()} == {"out.json", "mine.jsonl"}


def test_the_list_of_tasks_needs_no_run(capsys):
    assert cli.main(["evaluate", "--list-tasks"]) == 0
    assert "addition_2 " in capsys.readouterr().out
