"""Tasks over records of JSONL files: forms, definitions, and what is said of a malformed line."""

import collections
import json

import pytest

from gpt_jax.config import InputError
from gpt_jax.data.tasks import records
from gpt_jax.data.tasks.records import CODE_STOP, RecordTask
from gpt_jax.data.tasks.registry import find_task


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def only(task, split="test"):
    (question,) = task.questions(split, 0)
    return question


def test_prompt_and_target(tmp_path):
    """One target, or several that are right; they follow the prompt as they are written."""
    path = write(
        tmp_path / "capitals.jsonl",
        {"prompt": "Q: France?\nA:", "target": " Paris"},
        {"prompt": "Q: Bolivia?\nA:", "target": [" Sucre", " La Paz"]},
    )
    task = find_task(path)
    one, two = task.questions("test", 0)
    assert (task.name, task.kind, task.metrics[0]) == ("capitals", "generate", "exact_match")
    assert (one.name, one.context, one.answers) == (
        "capitals.jsonl:1",
        "Q: France?\nA:",
        (" Paris",),
    )
    assert two.answers == (" Sucre", " La Paz")
    with pytest.raises(InputError, match="capitals has none: ask it with --shots 0"):
        task.questions("train", 0)


def test_shots_come_from_the_file_beside(tmp_path):
    path = write(tmp_path / "q.jsonl", {"prompt": "a", "target": "b"})
    write(tmp_path / "q.train.jsonl", {"prompt": "c", "target": "d"})
    assert only(find_task(path), "train").context == "c"


def test_of_many_training_questions_a_sample_is_kept(tmp_path, monkeypatch):
    """In their order, by the seed, of the first ones; the rest is not read. Of few it is all."""
    path = write(tmp_path / "q.jsonl", {"prompt": "a", "target": "b"})
    write(tmp_path / "q.train.jsonl", *({"prompt": f"{n}", "target": "d"} for n in range(40)))
    with (tmp_path / "q.train.jsonl").open("a") as file:
        file.write("{oops\n")
    monkeypatch.setattr(records, "SHOTS_WITHIN", 40)

    def kept(seed):
        return [int(question.context) for question in find_task(path).questions("train", seed)]

    assert kept(0) == [*range(40)]
    monkeypatch.setattr(records, "SHOTS_FROM", 10)
    found = [kept(seed) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert all(len(set(some)) == 10 and some == sorted(some) for some in found)
    # Each of 40 is in a quarter of 800 samples: 200, with a standard deviation of 12.
    counts = collections.Counter(
        n for i in range(800) for n in records._sample(range(40), 10, f"{i}")
    )
    assert all(140 < counts[n] < 260 for n in range(40))


@pytest.mark.parametrize("answer", [1, "1", " red", "red"])
def test_prompt_choices_and_answer(tmp_path, answer):
    record = {"prompt": "Blood is", "choices": [" blue", " red", " green"], "answer": answer}
    task = find_task(write(tmp_path / "q.jsonl", record))
    question = only(task)
    assert (task.kind, question.right, question.answers) == ("choice", 1, (" red",))
    assert question.choices == (" blue", " red", " green")


def test_text(tmp_path):
    task = find_task(write(tmp_path / "q.jsonl", {"text": "A text.\nOf two lines."}))
    assert (task.kind, only(task).answers) == ("text", ("A text.\nOf two lines.",))


def test_code_in_the_form_of_human_eval(tmp_path):
    """What is run is context, answer and check, one after the other."""
    record = {
        "task_id": "HumanEval/0",
        "prompt": "def add(a, b):\n",
        "canonical_solution": "    return a + b\n",
        "test": "def check(candidate):\n    assert candidate(2, 3) == 5\n",
        "entry_point": "add",
    }
    task = find_task(write(tmp_path / "human_eval.jsonl", record))
    question = only(task)
    assert (task.metrics, task.stop) == (("pass@1",), CODE_STOP)
    exec(question.context + question.answers[0] + question.test, {})
    with pytest.raises(AssertionError):
        exec(question.context + "    return a - b\n" + question.test, {})
    own = {"prompt": "x =", "target": " 1", "test": "\nassert x == 1"}
    assert only(find_task(write(tmp_path / "own.jsonl", own))).test == "\nassert x == 1"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"prompt": "a", "target": "b"}', "{oops"], r"q\.jsonl:2 is not"),
        (['{"prompt": "a", "target": "b"}', '{"prompt": "a"}'], r"q\.jsonl:2 has no \{target\}"),
        (['{"prompt": "a", "target": []}'], r"q\.jsonl:1 has none"),
        (['{"prompt": "a", "target": " "}'], r"one of q\.jsonl:1 has none"),
        (['{"prompt": "a", "target": [null]}'], r"q\.jsonl:1 \(item 0\) is empty"),
        (['{"prompt": "a", "target": {"b": 1}}'], r"\{target\} of q\.jsonl:1 is a dict"),
        (['{"question": "a"}'], r"q\.jsonl:1 has question: write it so"),
        (['{"prompt": "a", "choices": ["b"], "answer": 0}'], r"q\.jsonl:1 has 1"),
        (['{"prompt": "a", "choices": ["b", "c"], "answer": 2}'], r"of 0, 1, .* q\.jsonl:1 is '2'"),
        (['{"prompt": "a", "choices": ["b", "c"], "answer": -1}'], r"q\.jsonl:1 is '-1'"),
        (['{"prompt": "a", "choices": ["b", ""], "answer": 0}'], r"one of q\.jsonl:1 has none"),
        (["[]"], r"q\.jsonl:1 is not"),
        ([], "has no line"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, lines, message):
    path = tmp_path / "q.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(InputError, match=message) as told:
        find_task(str(path)).questions("test", 0)
    assert "data.files" not in str(told.value)


def test_a_file_that_a_definition_names_and_is_not_there_is_told(tmp_path):
    """As a source of the task, which is no option of training."""
    task = RecordTask("mine", test=(str(tmp_path / "none.jsonl"),), prompt="{q}", target="{a}")
    with pytest.raises(InputError, match=r"none\.jsonl' matches none: check the path") as told:
        task.task().questions("test", 0)
    assert "data.files" not in str(told.value)


def test_a_line_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n')
    with pytest.raises(InputError, match=r"q\.jsonl is not at byte 24"):
        find_task(str(path)).questions("test", 0)


def test_a_definition_in_json(tmp_path):
    """The fields of RecordTask; the files that it names lie beside it."""
    write(tmp_path / "rows.jsonl", {"q": "2+2", "a": {"value": 4}})
    write(tmp_path / "more.jsonl", {"q": "1+1", "a": {"value": 2}})
    path = tmp_path / "sums.json"
    definition = {
        "test": ["rows.jsonl"],
        "train": [str(tmp_path / "more.jsonl")],
        "prompt": "{q}=",
        "target": "{a[value]}",
        "metrics": ["exact_match"],
        "stop": ["\n", ";"],
        "version": "7",
    }
    path.write_text(json.dumps(definition))
    task = find_task(str(path))
    assert (task.name, task.version, task.stop) == ("sums", "7", ("\n", ";"))
    assert (only(task).context, only(task).answers) == ("2+2=", ("4",))
    assert only(task, "train").answers == ("2",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"promt": "x"}, "no field 'promt': did you mean 'prompt'"),
        ({"stop": "x"}, "stop must be"),
        ({"test": []}, "no records to be scored"),
        ({"choices": ["a", "b"]}, "has none or several of these"),
        ({"target": ""}, "has none or several of these"),
        ({"answer": "{a}"}, "has none or several of these"),
        ({"name": "a b"}, "letters, digits"),
    ],
)
def test_a_definition_that_is_none_says_why(tmp_path, change, message):
    path = tmp_path / "sums.json"
    path.write_text(json.dumps({"test": ["x.jsonl"], "prompt": "{q}", "target": "{a}"} | change))
    with pytest.raises(InputError, match=rf"sums\.json does not define a task: .*{message}"):
        find_task(str(path))


def test_a_definition_in_python(tmp_path):
    """get_task() may give functions too."""
    path = tmp_path / "mine.py"
    path.write_text(
        "from gpt_jax.data.tasks.records import RecordTask\n"
        "def rows(record):\n"
        "    yield {'q': record['q'].upper()}\n"
        "def source():\n"
        "    yield {'q': 'a'}\n"
        "def get_task():\n"
        "    return RecordTask('mine', test=(f'python:{__file__}:source',), rows=rows,\n"
        "                      prompt='{q}', target=' {q}')\n"
    )
    assert (only(find_task(str(path))).context, find_task(str(path)).name) == ("A", "mine")
    path.write_text("get_task = lambda: 3\n")
    with pytest.raises(InputError, match=r"must give a RecordTask or a Task, and gives a int"):
        find_task(str(path))
    path.write_text("def get_task():\n    return {}['tests']\n")
    with pytest.raises(InputError, match=r"failed: KeyError: 'tests' \(mine\.py, line 2\)"):
        find_task(str(path))
    path.write_text("def get_tsk(): pass\n")
    with pytest.raises(InputError, match="did you mean 'get_tsk'"):
        find_task(str(path))
    with pytest.raises(InputError, match="there is no"):
        find_task(str(tmp_path / "none.py"))


def test_a_record_that_its_function_fails_for_is_named(tmp_path):
    path = write(tmp_path / "x.jsonl", {"q": "a"}, {"k": "a"})
    task = RecordTask(
        "mine", test=(path,), rows=lambda record: [{"q": record["q"]}], prompt="{q}", target="{q}"
    )
    with pytest.raises(InputError, match=r"of the task mine failed for x\.jsonl:2: KeyError: 'q'"):
        task.task().questions("test", 0)


def test_contexts_are_compared_too():
    definition = RecordTask(
        "partial", test=("x",), contexts=("{a}", "{b}"), target=" {c}", answer="{n}"
    )
    question = definition.question({"a": "A", "b": "B", "c": "end", "n": 1}, "x:1")
    assert (question.contexts, question.choices, question.right) == (("A", "B"), (" end",) * 2, 1)
