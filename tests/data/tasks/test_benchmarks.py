"""The benchmarks' definitions: against TFDS's own features, and the figures of the paper."""

import importlib
import inspect
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tfds_sets import ImdbReviews, prepared

from gpt_jax.config import InputError
from gpt_jax.data import tfds as reading
from gpt_jax.data.tasks.benchmarks import BENCHMARKS, NORMALISED
from gpt_jax.data.tasks.registry import find_task, task_names

for room in reading.ROOMS[:-1]:
    importlib.import_module(f"tensorflow_datasets.{room}")


def features_of(source: str, tmp_path, monkeypatch):
    """What TFDS documents of a dataset, and the text of the module that does."""
    request = reading.parse(source)
    cls = tfds.builder_cls(request.name)
    module = sys.modules[cls.__module__]
    if request.name == "super_glue":  # which asks TensorFlow for nothing but the name of int32
        monkeypatch.setattr(module, "tf", SimpleNamespace(int32=np.int32))
    config = {"config": request.config} if request.config else {}
    return cls(data_dir=str(tmp_path), **config).info.features, inspect.getsource(module)


def plain(feature, name: str = ""):
    """A value as `gpt_jax.data.tfds.records` gives it."""
    if isinstance(feature, tfds.features.FeaturesDict):
        return {key: plain(feature[key], key) for key in feature}
    if isinstance(feature, tfds.features.Sequence):
        inner = feature.feature
        if isinstance(inner, tfds.features.FeaturesDict):
            return {key: [plain(inner[key], key)] * 2 for key in inner}
        return [plain(inner, name)] * 2
    if isinstance(feature, tfds.features.ClassLabel):
        return feature.int2str(feature.num_classes - 1)
    kind = np.dtype(feature.np_dtype).kind
    return {"b": True, "i": 1, "f": 0.5}.get(kind, f"a {name} _ text")


# Fields whose text is one of a few.
VALUES = {
    "arc_easy": {"answerKey": "B"},
    "arc_challenge": {"answerKey": "B"},
    "copa": {"question": "effect"},
    "race_h": {"answers": ["A", "B"]},
    "race_m": {"answers": ["A", "B"]},
    "record": {"answers": ["x"], "entities": ["x", "y"]},
}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_definition_names_what_the_dataset_has(name, tmp_path, monkeypatch):
    """Fields, labels and splits, by TFDS's own class: a record of its features is a question."""
    definition = BENCHMARKS[name]
    for source in (*definition.test, *definition.train):
        features, code = features_of(source, tmp_path, monkeypatch)
        record = plain(features) | VALUES.get(name, {})
        rows = [record] if definition.rows is None else list(definition.rows(record))
        assert rows
        questions = [definition.question(row, "x:1") for row in rows]
        assert all(question.answers[0].strip() for question in questions)
        assert all(question.context == question.context.rstrip(" ") for question in questions)
        split = reading.parse(source).split.removesuffix("_xl")
        assert re.search(rf"Split\.{split.upper()}\b|['\"/]{split}['\"_]", code), split
        label = re.fullmatch(r"\{(\w+)\}", definition.answer)
        if label and isinstance(dict(features.items()).get(label[1]), tfds.features.ClassLabel):
            known = features[label[1]].names
            assert {*(definition.labels or map(str, range(len(known))))} == {*known}


def test_the_paper_normalises_three_of_them():
    """Section 2.4: ARC, OpenBookQA and RACE, by the unconditional probability."""
    found = {name for name, task in BENCHMARKS.items() if task.metrics == NORMALISED}
    assert found == {"arc_easy", "arc_challenge", "openbookqa", "race_h", "race_m"}


# (task, record as TFDS has it, what is read, what is right, what is wrong), of figure G.n.
FIGURES = {
    4: (
        "piqa",
        {
            "goal": "How to apply sealant to wood.",
            "sol1": "Using a brush, brush on sealant onto wood until it is fully saturated.",
            "sol2": "Using a brush, drip on sealant onto wood until it is fully saturated.",
            "label": "0",
        },
        "How to apply sealant to wood.",
        " Using a brush, brush on sealant onto wood until it is fully saturated.",
        [" Using a brush, drip on sealant onto wood until it is fully saturated."],
    ),
    5: (
        "copa",
        {
            "premise": "My body cast a shadow over the grass.",
            "choice1": "The sun was rising.",
            "choice2": "The grass was cut.",
            "question": "cause",
            "label": "choice1",
        },
        "My body cast a shadow over the grass because",
        " the sun was rising.",
        [" the grass was cut."],
    ),
    7: (
        "anli_r1",
        {"context": "F. J. MacGregor is a politician.", "hypothesis": "He swears.", "label": "n"},
        "F. J. MacGregor is a politician.\nQuestion: He swears. True, False, or Neither?",
        " Neither",
        [" True", " False"],
    ),
    8: (
        "openbookqa",
        {
            "question": {
                "stem": "Organisms require energy in order to do what?",
                "choice_A": "mature and develop.",
                "choice_B": "rest soundly.",
                "choice_C": "absorb light.",
                "choice_D": "take in nutrients.",
            },
            "answerKey": "A",
        },
        "Organisms require energy in order to do what?",
        " mature and develop.",
        [" rest soundly.", " absorb light.", " take in nutrients."],
    ),
    9: (
        "hellaswag",
        {
            "activity_label": "Making a cake",
            "context": "Several cake pops are shown on a display. A woman and girl are shown "
            "making the cake pops in a kitchen. They",
            "endings": [
                "taste them as they place them on plates.",
                "bake them, then frost and decorate.",
            ],
            "label": 1,
        },
        "Making a cake: Several cake pops are shown on a display. A woman and girl are shown "
        "making the cake pops in a kitchen. They",
        " bake them, then frost and decorate.",
        [" taste them as they place them on plates."],
    ),
    11: (
        "arc_challenge",
        {
            "question": "Which skin surface will produce the most heat?",
            "choices": {
                "text": ["dry palms", "wet palms", "palms covered with oil"],
                "label": ["A", "B", "C"],
            },
            "answerKey": "A",
        },
        "Question: Which skin surface will produce the most heat?\nAnswer:",
        " dry palms",
        [" wet palms", " palms covered with oil"],
    ),
    15: (
        "multirc",
        {
            "paragraph": "While this process moved along, diplomacy continued its rounds.",
            "question": "Who did The State Department feel should visit both India and Pakistan?",
            "answer": "Bin Laden",
            "label": "False",
        },
        "READING COMPREHENSION ANSWER KEY\n\nWhile this process moved along, diplomacy continued "
        "its rounds.\n\nWho did The State Department feel should visit both India and Pakistan?\n",
        "- [False] Bin Laden",
        ["- [True] Bin Laden"],
    ),
    21: (
        "lambada",
        {"passage": '"In fact," she said, raising the torch higher, "there\'s more than a step\n'},
        'Fill in blank:\n\n"In fact," she said, raising the torch higher, "there\'s more than a '
        "____. ->",
        " step",
        [],
    ),
    29: (
        "boolq",
        {
            "title": "Normal force",
            "passage": "In a simple case such as an object resting upon a table.",
            "question": "is the normal force equal to the force of gravity",
            "answer": True,
        },
        "Normal force -- In a simple case such as an object resting upon a table.\nquestion: is "
        "the normal force equal to the force of gravity?\nanswer:",
        " yes",
        [" no"],
    ),
    30: (
        "cb",
        {
            "premise": "Certainly, the recent drop in prices doesn't mean Manhattan comes cheap.",
            "hypothesis": "Manhattan comes cheap",
            "label": "contradiction",
        },
        "Certainly, the recent drop in prices doesn't mean Manhattan comes cheap.\nquestion: "
        "Manhattan comes cheap. true, false, or neither?\nanswer:",
        " false",
        [" true", " neither"],
    ),
    31: (
        "rte",
        {
            "premise": "The bet was regarding the top quark, discovered in 1995.",
            "hypothesis": "The Top Quark is the last of six flavors of quarks.",
            "label": "not_entailment",
        },
        "The bet was regarding the top quark, discovered in 1995.\nquestion: The Top Quark is the "
        "last of six flavors of quarks. True or False?\nanswer:",
        " False",
        [" True"],
    ),
    32: (
        "wic",
        {
            "sentence1": "An outfitter provided everything needed for the safari.",
            "sentence2": "He went to a specialist outfitter to buy some boots.",
            "word": "outfitter",
            "label": "False",
        },
        "An outfitter provided everything needed for the safari.\nHe went to a specialist "
        "outfitter to buy some boots.\nquestion: Is the word 'outfitter' used in the same way in "
        "the two sentences above?\nanswer:",
        " no",
        [" yes"],
    ),
    33: (
        "wsc",
        {
            "text": "Mr. Moncrieff has cancelled Edward's allowance on the ground that he no "
            "longer requires his financial support.",
            "span1_text": "Mr. Moncrieff",
            "span2_text": "his",
            "span2_index": 14,
            "label": "True",
        },
        "Final Exam with Answer Key\nInstructions: Please carefully read the following passages. "
        "For each passage, you must identify which noun the pronoun marked in *bold* refers to.\n"
        "=====\nPassage: Mr. Moncrieff has cancelled Edward's allowance on the ground that he no "
        "longer requires *his* financial support.\nQuestion: In the passage above, what does the "
        'pronoun "*his*" refer to?\nAnswer:',
        " Mr. Moncrieff",
        [],
    ),
    20: (
        "drop",
        {
            "passage": "He worked with the Huron, except for a few years from 1629 to 1633.",
            "question": "How many years did he stay in France?",
            "answer": "4",
            "validated_answers": ["4", "4 years"],
        },
        "Passage: He worked with the Huron, except for a few years from 1629 to 1633.\n"
        "Question: How many years did he stay in France?\nAnswer:",
        " 4",
        [],
    ),
    34: (
        "trivia_qa",
        {
            "question": "'Nude Descending A Staircase' is a painting by which artist?",
            "answer": {"value": "Marcel Duchamp", "aliases": ["duchamp", "Marcel Duchamp"]},
        },
        "Q: 'Nude Descending A Staircase' is a painting by which artist?\n\nA:",
        " Marcel Duchamp",
        [],
    ),
    36: (
        "wmt16_de_en",
        {
            "de": "Keinesfalls d\u00fcrfen diese f\u00fcr den Gebrauch verwendet werden.",
            "en": "In no case may they be used for commercial purposes.",
        },
        "Keinesfalls d\u00fcrfen diese f\u00fcr den Gebrauch verwendet werden. =",
        " In no case may they be used for commercial purposes.",
        [],
    ),
}


def asked(name: str, record: dict):
    definition = BENCHMARKS[name]
    rows = definition.rows(record) if definition.rows else [record]
    return [definition.question(row, "x:1") for row in rows]


@pytest.mark.parametrize("figure", FIGURES)
def test_a_question_is_the_figure_of_the_paper(figure):
    name, record, context, right, wrong = FIGURES[figure]
    (question,) = asked(name, record)
    assert BENCHMARKS[name].instruction + question.context == context
    assert question.answers[0] == right
    assert (question.choices[question.right] if wrong else right) == right
    assert sorted({*question.choices} - {right}) == sorted(wrong)
    assert f"G.{figure}" in BENCHMARKS[name].about or figure == 7


def test_partial_evaluation_compares_contexts():
    """Figures G.13 and G.14, with the record of each dataset."""
    winogrande = {
        "sentence": "Johnny likes fruits more than vegetables because the _ are saccharine.",
        "option1": "vegetables",
        "option2": "fruits",
        "label": "2",
    }
    text = (
        "Grace was happy to trade me her sweater for my jacket. She thinks it looks dowdy on her."
    )
    start = text.index("it looks")
    winograd = {
        "text": text,
        "pronoun_start": start,
        "pronoun_end": start + 2,
        "option1_normalized": "the sweater",
        "option2_normalized": "the jacket",
        "label": 0,
    }
    (question,) = asked("winogrande", winogrande)
    before = "Johnny likes fruits more than vegetables because the"
    assert question.contexts == (f"{before} vegetables", f"{before} fruits")
    assert question.choices == (" are saccharine.", " are saccharine.")
    assert question.right == 1
    (question,) = asked("winograd", winograd)
    assert question.contexts[question.right].endswith("She thinks the sweater")
    assert {*question.choices} == {" looks dowdy on her."}


def test_a_text_with_several_questions_answers_those_before():
    """Figures G.18 (CoQA) and G.1 (RACE)."""
    record = {
        "story": "Helsinki is the capital of Finland.",
        "questions": ["what is the most populous municipality in Finland?", "how many live there?"],
        "answers": {"input_text": ["Helsinki", "1.4 million"]},
    }
    one, two = asked("coqa", record)
    first = (
        "Helsinki is the capital of Finland.\n\nQ: what is the most populous municipality in "
        "Finland?\n\nA:"
    )
    assert (one.context, one.answers) == (first, (" Helsinki",))
    assert two.context == f"{first} Helsinki\n\nQ: how many live there?\n\nA:"
    race = {
        "article": "Talk is important.",
        "questions": ["Which is friendly?", "The author considers politics _ ."],
        "options": [["Sports", "Pay", "War", "Tax"], ["fun", "taboo", "old", "new"]],
        "answers": ["A", "B"],
    }
    one, two = asked("race_h", race)
    assert two.context == (
        "Article:\n\nTalk is important.\n\nQ: Which is friendly?\n\nA: Sports\n\n"
        "Q: The author considers politics _ .\n\nA:"
    )
    assert (two.choices[two.right], one.right) == (" taboo", 0)


def test_a_question_without_an_answer_is_unanswerable():
    record = {"title": "The Blitz", "context": "4,000 sorties.", "question": "Who?"}
    (question,) = asked("squad_v2", record | {"answers": {"text": [], "answer_start": []}})
    assert question.answers == (" unanswerable",)
    assert question.context == "Title: The Blitz\n\nBackground: 4,000 sorties.\n\nQ: Who?\n\nA:"
    (question,) = asked("squad_v2", record | {"answers": {"text": ["a", "b", "a"]}})
    assert question.answers == (" a", " b")


def test_a_dataset_is_read_from_where_tfds_has_it(tmp_path, monkeypatch):
    """A set of the shape of IMDB, made by TFDS."""
    prepared(ImdbReviews, tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    task = find_task("imdb")
    test, train = task.questions("test", 0), task.questions("train", 0)
    assert (len(test), len(train)) == (7, 20)
    assert test[1].context.startswith("Review: test review ")
    assert test[1].context.endswith("\nSentiment:")
    assert {q.choices for q in test} == {(" negative", " positive")}
    numbers = [int(re.search(r"review (\d+)", q.context)[1]) for q in test]
    assert [q.right for q in test] == [number % 2 for number in numbers]
    assert task.questions("test", 1) is test


def test_a_dataset_that_is_not_there_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(InputError, match="tfds build story_cloze/2016"):
        find_task("story_cloze").questions("test", 0)


def test_every_name_has_a_line():
    names = task_names()
    assert {*BENCHMARKS} < {*names}
    assert all(0 < len(line) < 140 for line in names.values())
    assert all(find_task(name).name == name for name in names)
