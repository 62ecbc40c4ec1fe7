"""What of a benchmark is cut out of a text, by hand-written answers, and the report by sets."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest

from gpt_jax.config import DataConfig, InputError
from gpt_jax.data.build import decontaminate as module
from gpt_jax.data.build.decontaminate import (
    Found,
    Index,
    clean,
    collisions,
    examples,
    find,
    index,
    report,
    report_words,
    totals,
)
from gpt_jax.data.ngrams import words
from gpt_jax.data.recipe import Benchmark, Decontaminate
from gpt_jax.data.sources import Document, documents

CONFIG = Decontaminate(benchmarks=(Benchmark("quiz", ("x",)),))
QUESTION = "Which of the seven hills of Rome is the one nearest to the river?"
ANSWER = "It is the Aventine, says every guide that I have read of the city so far."
LEFT, RIGHT = "lorem " * 100, " ipsum" * 100


def named(*texts: str, name: str = "doc") -> list[Document]:
    return [Document(f"{name}:{i}", text) for i, text in enumerate(texts)]


def quiz(*texts: str, n: int = 13) -> Index:
    return index([("quiz", named(*texts, name="quiz"))], n)


def cleaned(texts: list[str], *questions: str, config: Decontaminate = CONFIG):
    """(pieces, reason) of each of the documents of a corpus."""
    made = quiz(*questions, n=config.ngram)
    found = find(named(*texts), made)
    colliding = collisions(totals([found], made), made, config.common)
    result = [clean(text, colliding, made, config) for text in texts]
    touched = [i for i, one in enumerate(result) if one.reason]
    assert set(touched) <= set(found.touched.tolist())
    return [(one.pieces, one.reason) for one in result]


def test_a_question_and_200_characters_on_each_side_are_cut_out():
    text = LEFT + QUESTION + RIGHT
    # Words begin and end at letters: the question mark is beyond the last one.
    assert cleaned([text], QUESTION) == [((LEFT[:-200], RIGHT[199:]), "cut")]
    made = quiz(ANSWER, QUESTION)
    colliding = collisions(totals([find(named(text), made)], made), made, 10)
    (cut,) = clean(text, colliding, made, CONFIG).cuts
    assert cut == (600 - 200, 600 + len(QUESTION) - 1 + 200, "quiz:1")


def test_case_punctuation_and_space_do_not_hide_it():
    shouted = QUESTION.upper().replace(" ", "\n * ").replace("HILLS", "'hills'")
    ((pieces, reason),) = cleaned([LEFT + shouted + RIGHT], QUESTION)
    assert reason == "cut"
    assert not any("seven" in piece.lower() for piece in pieces)


def test_twelve_words_in_a_row_are_no_collision():
    for few in (QUESTION.removesuffix(" the river?"), QUESTION.removeprefix("Which of ")):
        text = LEFT + few + RIGHT
        assert cleaned([text], QUESTION) == [((text,), None)]
    short = " ".join(QUESTION.split()[:12])
    assert cleaned([LEFT + short + RIGHT], short) == [((LEFT + short + RIGHT,), None)]


def test_in_any_script():
    # The words of Chinese are its characters.
    question = (
        "\u53e4\u7f57\u9a6c\u7684\u4e03\u5ea7\u5c71\u4e2d\u54ea\u4e00\u5ea7\u79bb\u6cb3\u6700\u8fd1"
    )
    left, right = "\u524d" * 500, "\u540e" * 500
    (((first, last), reason),) = cleaned([left + question + "\uff1f" + right], question)
    assert (first, last, reason) == (left[:300], right[199:], "cut")
    assert cleaned([LEFT + "\u00c9t\u00e9 " + QUESTION], "\u00e9t\u00e9 " + QUESTION)[0][1] == "cut"


def test_cuts_that_meet_are_one():
    def pieces(gap: int) -> tuple[str, ...]:
        # A question ends in a mark that is no part of the collision.
        text = LEFT + QUESTION + "-" * (gap - 1) + " " + QUESTION + RIGHT
        return cleaned([text], QUESTION)[0][0]

    assert pieces(300) == pieces(399) == (LEFT[:-200], RIGHT[199:])
    assert pieces(599) == (LEFT[:-200], "-" * 200, RIGHT[199:])


@pytest.mark.parametrize("before", [399, 400, 401])
def test_a_piece_of_fewer_than_200_characters_is_dropped(before):
    text = "x" * (before - 1) + " " + QUESTION
    left = text[: before - 200]
    expected = ((left,), "cut") if before >= 400 else ((), "nothing left")
    assert cleaned([text], QUESTION) == [expected]


def test_a_document_in_more_than_ten_pieces_goes():
    def text(count: int, gap: int = 1000) -> str:
        return ("y" * gap + " ").join([""] + [QUESTION] * count) + RIGHT

    pieces, reason = cleaned([text(9)], QUESTION)[0]
    assert (len(pieces), reason) == (10, "cut")
    assert cleaned([text(10)], QUESTION) == [((), "cut into more than 10 pieces")]
    # Those that are too short count: the document is in pieces none the less.
    assert cleaned([text(10, 450)], QUESTION) == [((), "cut into more than 10 pieces")]
    few = Decontaminate(max_pieces=2, margin=0, ngram=3)
    assert cleaned(["a b c d"], "b c d", config=few) == [(("a ",), "cut")]
    assert cleaned(["a b c d a b c d a"], "b c d", config=few)[0][1].startswith("cut into more")


def test_what_more_than_ten_documents_share_is_a_common_phrase():
    text = LEFT + QUESTION + RIGHT
    assert {reason for _, reason in cleaned([text] * 10, QUESTION)} == {"cut"}
    assert cleaned([text] * 11, QUESTION) == [((text,), None)] * 11
    # Documents count, not how often each has it.
    twice = LEFT + QUESTION + RIGHT + QUESTION
    assert {reason for _, reason in cleaned([twice] * 6, QUESTION)} == {"cut"}


def test_texts_without_words_and_other_texts_stay():
    texts = ["", " ", "?!", "short", LEFT]
    assert cleaned(texts, QUESTION) == [((text,), None) for text in texts]


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([20] * 40, 13),
        ([3] * 40, 8),
        ([10] * 40, 10),
        (range(1, 202), 11),  # the 5th percentile of 1, ..., 201
        ([1, 1, *[12] * 98], 12),
        ([1] * 10 + [12] * 90, 8),
        ([9], 9),
    ],
)
def test_the_report_takes_the_papers_n(lengths, expected):
    assert report_words(words(["w " * length for length in lengths]), 13) == expected
    assert report_words(words(["w " * length for length in lengths]), 5) == 5


def test_the_report_says_what_was_seen_before_and_after():
    """Three benchmarks, by hand: of long examples, of short ones, and one that is not seen."""
    short = [
        "who was the first king of all england then",
        "one two three four five six seven eight",
    ]
    other = ["nothing like it is in any of the documents that are here at all today"]
    made = index(
        [
            ("long", named(QUESTION, ANSWER, name="long")),
            ("short", named(*short, "too few", name="short")),
            ("other", named(*other, name="other")),
        ],
        13,
    )
    assert made.benchmarks == (("long", 13, 2), ("short", 8, 3), ("other", 13, 1))
    corpus = named(LEFT, LEFT + QUESTION + RIGHT, "x " + short[0], ANSWER[:30], ANSWER)
    before = find(corpus, made)
    assert before.touched.tolist() == [1, 4]
    counts = totals([before], made)
    colliding = collisions(counts, made, 10)
    left = [
        Document(document.name, piece)
        for document in corpus
        for piece in clean(document.text, colliding, made, CONFIG).pieces
    ]
    after = totals([find(left, made)], made)
    # The question has 14 words and so two 13-grams, the answer 16 and so four. The first of the
    # short ones has nine words, the second eight, and so three 8-grams together.
    common = {"dirty_after": 0, "ngrams_after": 0.0, "shorter": 0}
    later = find(named(QUESTION, name="later"), made)  # of two holders the first is named
    assert report(made, counts, after, [before, later]) == {
        "long": {
            "examples": 2,
            "words": 13,
            "dirty_before": 2,
            "ngrams_before": 1.0,
            "such_as": [["long:0", "doc:1"], ["long:1", "doc:4"]],
            "dirty": {"before": ["long:0", "long:1"], "after": []},
            **common,
        },
        "short": {
            "examples": 3,
            "words": 8,
            "shorter": 1,
            "dirty_before": 1,
            "ngrams_before": 0.666667,
            "dirty_after": 1,
            "ngrams_after": 0.666667,
            "such_as": [["short:0", "doc:2"]],
            "dirty": {"before": ["short:0"], "after": ["short:0"]},
        },
        "other": {
            "examples": 1,
            "words": 13,
            "dirty_before": 0,
            "ngrams_before": 0.0,
            "such_as": [],
            "dirty": {"before": [], "after": []},
            **common,
        },
    }


def test_n_grams_are_counted_as_sets_count_them(monkeypatch):
    """Of real text: how many documents have each n-gram, over parts and groups."""
    monkeypatch.setattr(module, "GROUP", 50_000)
    corpus = [one for one in documents(DataConfig()) if one.text.isascii()][:120]
    plain = [
        ["".join(filter(str.isalnum, word)).lower() for word in one.text.split()] for one in corpus
    ]
    plain = [[word for word in some if word] for some in plain]
    texts = [" ".join(some[k : k + 20]) for some in plain for k in range(0, len(some), 400)]
    made = index([("texts", named(*texts))], 13)
    grams = [{*zip(*(some[i:] for i in range(13)), strict=False)} for some in plain]
    counts = Counter(gram for some in grams for gram in some)
    wanted = [[*zip(*(text.split()[i:] for i in range(13)), strict=False)] for text in texts]
    expected = {gram: counts[gram] for some in wanted for gram in some}
    assert len(expected) > 1000
    assert max(expected.values()) > 1
    _, begin, end = made.tables[0]
    of_rows = [gram for some in wanted for gram in some]
    # Many of the examples have 13 words at least; the report's n of all is then 13.
    assert made.benchmarks[0][1] == 13
    for split in ([0, 120], [0, 1, 50, 120]):
        parts = [find(corpus[a:b], made) for a, b in itertools.pairwise(split)]
        found = totals(parts, made)
        assert len(found) == end - begin == len(expected)
        assert found[made.gram_R].tolist() == [expected[gram] for gram in of_rows]
        shown = report(made, found, found, parts)["texts"]["such_as"]
        assert len(shown) == 5
        for example, holder in shown:
            of_example = wanted[int(example.split(":")[1])]
            holders = (
                one.name for one, some in zip(corpus, grams, strict=True) if of_example[0] in some
            )
            assert holder == next(holders)


def test_what_is_found_comes_back_from_its_file(tmp_path):
    made = quiz(QUESTION, ANSWER, "one two three four five six seven eight")
    found = find(named(LEFT, QUESTION, ANSWER), made)
    assert len(found.gram_H) > 0
    for value, kind in ((made, Index), (found, Found), (find([], made), Found)):
        for name in ("a.npz", "b.npz"):
            value.save(tmp_path / name)
        assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
        back = vars(kind.load(tmp_path / "a.npz"))
        for name, part in vars(value).items():
            assert np.array_equal(back[name], part), name
            assert type(back[name]) is type(part)
    for content in (b"", b"not an archive", (tmp_path / "a.npz").read_bytes()[:-50]):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(InputError, match=r"cannot be read from .*bad\.npz"):
            Index.load(tmp_path / "bad.npz")


def test_examples_are_records_in_a_template(tmp_path):
    records = [
        {"q": "Who?", "choices": ["a", "b"], "more": {"why": "so"}},
        {"q": "Why?", "choices": ["c"], "more": {"why": None}},
        {"q": None, "choices": [""], "more": {"why": ""}},
    ]
    (tmp_path / "quiz.jsonl").write_text("\n".join(map(json.dumps, records)))
    files = (str(tmp_path / "quiz.jsonl"),)
    benchmark = Benchmark("quiz", files, "{q} {choices[0]} {more[why]}")
    assert [*examples(benchmark)] == [
        Document("quiz:quiz.jsonl:1", "Who? a so"),
        Document("quiz:quiz.jsonl:2", "Why? c "),
    ]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{answer}", r"quiz.jsonl:1 has no {answer}.* choices, empty, q"),
        ("{choices[5]}", r"there are 1 items"),
        ("{q[why]}", r"quiz.jsonl:1 has no {q\[why\]}"),
        ("{q.__class__}", r"quiz.jsonl:1 has no {q.__class__}"),
        ("{q:d}", r"without a format"),
        ("{empty}", r"'quiz' has no text"),
        ("{q", r"braces of a template are closed"),
        ("{{q}}", r"names fields in braces"),
        ("question", r"names fields in braces"),
    ],
)
def test_a_template_that_does_not_fit_is_named(tmp_path, template, message):
    record = {"q": "Who?", "choices": ["a"], "empty": None}
    (tmp_path / "quiz.jsonl").write_text(json.dumps(record))
    with pytest.raises(InputError, match=message):
        [*examples(Benchmark("quiz", (str(tmp_path / "quiz.jsonl"),), template))]
