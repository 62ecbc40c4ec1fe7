"""Templates over the fields of records, against str.format where it says the same."""

import ast
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_jax.config import DataConfig, InputError, read_template
from gpt_jax.data.examples import Example, examples, fill
from gpt_jax.experiment import load_experiment

RECORD = {
    "text": "a {film}",
    "label": 1,
    "score": 0.5,
    "good": True,
    "nothing": None,
    "translation": {"de": "ja", "en": "yes"},
    "answers": [{"text": "eins"}, {"text": "zwei"}],
    "a.b": "dotted",
    "keys": "a field",
}


@pytest.mark.parametrize(
    "template",
    [
        "{text}",
        "Review: {text}\nSentiment: {label}",
        "{{{score}}} {good}}}{{",
        "{translation[de]}={translation[en]}",
        "{answers[1][text]}",
        "no field",
        "",
    ],
)
def test_a_template_is_filled_as_by_format(template):
    assert fill(read_template(template), RECORD, "x:1") == template.format(**RECORD)


def test_a_field_is_looked_up_and_nothing_else():
    """No attribute of a value can be reached: a dot is a character of the field's name."""
    assert fill(read_template("{a.b} {keys}"), RECORD, "x:1") == "dotted a field"
    for template in ("{text.__class__}", "{translation.keys}"):
        with pytest.raises(InputError, match=r"x:1 has no \{"):
            fill(read_template(template), RECORD, "x:1")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{txt}", r"x:1 has no \{txt\}: at 'txt', did you mean 'text'"),
        ("{translation[dd]}", r"no \{translation\[dd\]\}: at 'dd', did you mean 'de'"),
        ("{answers[2]}", "at '2', there are 2 items, counted from 0"),
        ("{answers[-1]}", "at '-1', there are 2 items"),
        ("{label[a]}", "at 'a', there is nothing within"),
        ("{text[0]}", "at '0', there is nothing within"),
        ("{translation}", r"\{translation\} of x:1 is a dict: name a field within"),
        ("{answers}", "is a list"),
        ("{nothing}", r"\{nothing\} of x:1 is empty: .* leave such records out"),
    ],
)
def test_what_is_not_there_is_named(template, message):
    with pytest.raises(InputError, match=message):
        fill(read_template(template), RECORD, "x:1")


@given(st.text(), st.text())
def test_text_stands_for_itself(before, value):
    """Braces in a value are text; those of the template are doubled."""
    template = before.replace("{", "{{").replace("}", "}}") + "{x}"
    assert fill(read_template(template), {"x": value}, "") == before + value


def test_records_of_any_source_become_examples(tmp_path):
    """JSON lines, a Python function and a text file, whose one field is its text."""
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"en": f"w{i}", "de": f"W{i}", "text": "t"}) + "\n" for i in range(2))
    )
    (tmp_path / "b.txt").write_text("whole")
    (tmp_path / "c.py").write_text("def pairs():\n    yield {'text': 'x', 'de': 'y'}\n")
    files = (str(tmp_path / "a.jsonl"), f"python:{tmp_path}/c.py:pairs")
    data = DataConfig(files=files, prompt="<{text}>", target="{de}")
    assert [*examples(data)] == [
        Example("a.jsonl:1", ("<t>", "W0")),
        Example("a.jsonl:2", ("<t>", "W1")),
        Example("c.py:pairs:0", ("<x>", "y")),
    ]
    alone = DataConfig(files=(str(tmp_path / "b.txt"),), prompt="Say: ", target="{text}")
    assert [*examples(alone)] == [Example("b.txt", ("Say: ", "whole"))]


def test_no_record_at_all_is_an_error(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n")
    data = DataConfig(files=(str(tmp_path / "a.jsonl"),), prompt="a", target="{b}")
    with pytest.raises(InputError, match=r"there is no record in .*a\.jsonl"):
        [*examples(data)]


def test_functions_of_the_library_are_examples(root):
    """The experiment's own: a comment, then a line that Python can read."""
    (path,) = root.glob("experiments/name_functions.py")
    data = load_experiment(path, []).data
    found = [*itertools.islice(examples(data), 50)]
    assert len({example.parts[0] for example in found}) == 50
    for _, (prompt, target) in found:
        assert prompt.startswith("# ")
        assert prompt.count("\n") == 1
        ast.parse(f"{prompt}{target}\n    pass")


def written(tmp_path, *rows):
    """A JSONL file of these records."""
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return (str(path),)


def test_labels_are_written_as_their_words(tmp_path):
    files = written(tmp_path, {"t": "good", "y": 1}, {"t": "0", "y": "0"})
    data = DataConfig(
        files=files, prompt="{t}:", target=" {y}.", labels=("0=negative", "1=positive")
    )
    assert [example.parts for example in examples(data)] == [
        ("good:", " positive."),
        ("0:", " negative."),
    ]
    other = DataConfig(files=files, prompt="{t}:", target=" {y}", labels=("1=positive",))
    with pytest.raises(InputError, match=r"\{y\} of x\.jsonl:2 is '0': there are 1"):
        [*examples(other)]


def test_a_pair_has_three_parts(tmp_path):
    files = written(tmp_path, {"q": "a", "good": "b", "bad": {"text": "c"}})
    data = DataConfig(files=files, prompt="{q}", target="{good}", rejected="{bad[text]}")
    assert [*examples(data)] == [Example("x.jsonl:1", ("a", "b", "c"))]


def test_a_conversation_has_its_turns_and_an_end(tmp_path):
    """In a field within another; one in which the assistant is silent has the end alone."""
    files = written(tmp_path, {"a": {"b": ["Hi.", "Ho."]}}, {"a": {"b": ["Hi."]}})
    asked = "<|user|>\nHi.\n<|end|>\n<|assistant|>\n"
    assert [*examples(DataConfig(files=files, chat="a/b"))] == [
        Example("x.jsonl:1", (asked, "Ho.\n<|end|>\n", "", "")),
        Example("x.jsonl:2", ("", "")),
    ]
    with pytest.raises(InputError, match=r"x\.jsonl:1 has no \{a\[c\]\}: at 'c', there are b"):
        [*examples(DataConfig(files=files, chat="a/c"))]
    files = written(tmp_path, {"b": ["Hi."]}, {"b": [{"role": "bot", "content": "Hi."}]})
    with pytest.raises(InputError, match=r"message 0 of b of x\.jsonl:2 is not known: 'bot'"):
        [*examples(DataConfig(files=files, chat="b"))]


def test_a_malformed_line_is_named(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"m": ["Hi.", "Ho."]}\n{"m": ["Hi."\n')
    with pytest.raises(InputError, match=r"JSON object, and .*/x\.jsonl:2 is not"):
        [*examples(DataConfig(files=(str(path),), chat="m"))]
