r"""The benchmarks of the paper, from TensorFlow Datasets, in the forms of its appendix G.

Each is one definition: a figure of the paper, and the fields of TFDS that go into it. Where we
differ from a figure, its definition says so. Benchmarks that the paper does not have (SST-2, IMDB,
XSum and the like) are marked "ours".

"\n\n" stands between shots where the paper does not say otherwise ("delimited by 1 or 2 newlines
depending on the task", section 2.4).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

from gpt_jax.data.tasks.records import RecordTask

Record = dict[str, Any]
NORMALISED = ("accuracy_unconditional", "accuracy_per_token")
"""Section 2.4: "on a small number of datasets (ARC, OpenBookQA, and RACE)"."""
YES_NO: dict[str, Any] = {"labels": ("True", "False"), "choices": (" yes", " no")}


def _lambada(record: Record) -> Iterator[Record]:
    text, _, word = record["passage"].strip().rpartition(" ")
    yield {"text": text, "word": word}


def _copa(record: Record) -> Iterator[Record]:
    """The alternatives go on in the middle of a sentence."""
    word = {"cause": "because", "effect": "therefore"}[record["question"]]
    premise = f"{record['premise'].strip().removesuffix('.')} {word}"
    after = [record[name][:1].lower() + record[name][1:] for name in ("choice1", "choice2")]
    yield {"premise": premise, "choices": after, "label": record["label"]}


def _race(record: Record) -> Iterator[Record]:
    """A question for each of the article's, with those before it answered."""
    asked = f"Article:\n\n{record['article'].strip()}\n\n"
    rows = zip(record["questions"], record["options"], record["answers"], strict=True)
    for question, options, answer in rows:
        asked += f"Q: {question}\n\nA:"
        yield {"asked": asked, "options": options, "answer": answer}
        asked += f" {options['ABCD'.index(answer)]}\n\n"


def _coqa(record: Record) -> Iterator[Record]:
    """A turn of the dialogue each, with those before it answered."""
    asked = f"{record['story'].strip()}\n\n"
    for question, answer in zip(record["questions"], record["answers"]["input_text"], strict=True):
        asked += f"Q: {question}\n\nA:"
        yield {"asked": asked, "answer": answer}
        asked += f" {answer}\n\n"


def _squad(record: Record) -> Iterator[Record]:
    """A question without an answer has the one that the paper leaves open: unanswerable."""
    found = list(dict.fromkeys(record["answers"]["text"])) or ["unanswerable"]
    yield record | {"found": found}


def _drop(record: Record) -> Iterator[Record]:
    found = [record["answer"], *record["validated_answers"]]
    yield record | {"found": [text for text in dict.fromkeys(found) if text.strip()]}


def _quac(record: Record) -> Iterator[Record]:
    yield record | {"found": list(dict.fromkeys(record["answers"]["text"]))}


def _trivia(record: Record) -> Iterator[Record]:
    """The answer that is written is shown first; any of its aliases is right."""
    yield record | {
        "found": list(dict.fromkeys([record["answer"]["value"], *record["answer"]["aliases"]]))
    }


def _winogrande(record: Record) -> Iterator[Record]:
    before, _, after = record["sentence"].partition("_")
    contexts = [before + record[name] for name in ("option1", "option2")]
    yield {"contexts": contexts, "after": after.rstrip(), "label": record["label"]}


def _winograd(record: Record) -> Iterator[Record]:
    before = record["text"][: record["pronoun_start"]]
    after = record["text"][record["pronoun_end"] :]
    contexts = [before + record[f"option{i}_normalized"] for i in (1, 2)]
    yield {"contexts": contexts, "after": after.rstrip(), "label": record["label"]}


def _wsc(record: Record) -> Iterator[Record]:
    """Those alone whose noun is what the pronoun refers to: of the others no answer is known."""
    if record["label"] != "True":
        return
    words, at, pronoun = record["text"].split(), record["span2_index"], record["span2_text"]
    end = at + len(pronoun.split())
    # The word may have a comma or the like at its end.
    marked = " ".join(words[at:end]).replace(pronoun, f"*{pronoun}*", 1)
    text = " ".join([*words[:at], marked, *words[end:]])
    yield {"passage": text, "pronoun": pronoun, "noun": record["span1_text"]}


def _record(record: Record) -> Iterator[Record]:
    """One of the entities that are right, against all that are wrong."""
    right, *_ = record["answers"] or [""]
    entities = [right, *(one for one in record["entities"] if one not in record["answers"])]
    bullets = record["passage"].replace("\n@highlight\n", "\n- ").strip()
    endings = [record["query"].replace("@placeholder", entity) for entity in entities]
    if right and len(entities) > 1:
        yield {"passage": bullets, "endings": endings, "answer": 0}


def _hellaswag(record: Record) -> Iterator[Record]:
    """Without the marks of its WikiHow pages."""
    texts = [f"{record['activity_label']}: {record['context']}", *record["endings"]]
    context, *endings = (re.sub(r" *\[(title|header|step|substeps)\] *", " ", t) for t in texts)
    yield {
        "context": " ".join(context.split()),
        "endings": [" ".join(ending.split()) for ending in endings],
        "label": record["label"],
    }


def _tfds(name: str, split: str) -> tuple[str]:
    return (f"tfds:{name}?split={split}",)


def _both(name: str, test: str, train: str = "train") -> dict[str, Any]:
    return {"test": _tfds(name, test), "train": _tfds(name, train)}


def _cloze() -> Iterator[RecordTask]:
    """Section 3.1."""
    yield RecordTask(
        "lambada",
        "the last word of a passage, as a blank to be filled (figure G.21)",
        # TFDS has the development set as train, and the text in lower case, in words apart.
        **_both("lambada", "test"),
        rows=_lambada,
        instruction="Fill in blank:\n\n",
        prompt="{text} ____. ->",
        target=" {word}",
        metrics=("exact_match",),
        max_new_tokens=8,
    )
    yield RecordTask(
        "hellaswag",
        "how a scene goes on (figure G.9)",
        **_both("hellaswag", "validation"),
        rows=_hellaswag,
        prompt="{context}",
        choices=(" {endings}",),
        answer="{label}",
    )
    yield RecordTask(
        "story_cloze",
        "how a story of four sentences ends (figure G.17)",
        **_both("story_cloze/2016", "test", "validation"),
        prompt="{context}",
        choices=(" {endings}",),
        answer="{label}",
        labels=("1", "2"),
    )


def _questions() -> Iterator[RecordTask]:
    """Section 3.2: closed book."""
    for name, source, test, figure in (
        ("trivia_qa", "trivia_qa/unfiltered.nocontext", "validation", 34),
        ("natural_questions", "natural_questions_open", "validation", 24),
        ("web_questions", "web_questions", "test", 35),
    ):
        trivia = name == "trivia_qa"
        field = {"natural_questions": "answer", "web_questions": "answers"}.get(name, "found")
        yield RecordTask(
            name,
            f"a question without a text to look it up in (figure G.{figure})",
            **_both(source, test),
            rows=_trivia if trivia else None,
            prompt="Q: {question}\n\nA:",
            target=f" {{{field}}}",
            metrics=("exact_match_normalised", "f1"),
        )


def _translation() -> Iterator[RecordTask]:
    """Section 3.3; BLEU by sacrebleu, cased, as its table 3.4 says."""
    languages = {"en": "English", "fr": "French", "de": "German", "ro": "Romanian"}
    for source, pair, figures in (
        ("wmt14_translate/fr-en", ("en", "fr"), (38, 39)),
        ("wmt16_translate/de-en", ("en", "de"), (37, 36)),
        ("wmt16_translate/ro-en", ("en", "ro"), (40, 41)),
    ):
        for (one, other), figure in zip((pair, pair[::-1]), figures, strict=True):
            name = f"{source.partition('_')[0]}_{one}_{other}"
            about = f"{languages[one]} to {languages[other]}"
            same: dict[str, Any] = {
                **_both(source, "test"),
                "metrics": ("bleu",),
                "max_new_tokens": 128,
            }
            yield RecordTask(
                name,
                f"{about}, for shots (figure G.{figure})",
                prompt=f"{{{one}}} =",
                target=f" {{{other}}}",
                delimiter="\n",
                **same,
            )
            yield RecordTask(
                f"{name}_asked",
                f"{about}, for no shots (figure G.36)",
                prompt=f"Q: What is the {languages[other]} translation of {{{one}}} A:",
                target=f" {{{other}}}",
                **same,
            )


def _winograd_style() -> Iterator[RecordTask]:
    """Section 3.4: partial evaluation, P(rest | sentence up to and with each noun)."""
    yield RecordTask(
        "winograd",
        "the noun that a pronoun refers to, by the rest of the sentence (figure G.13)",
        test=_tfds("wsc273", "test"),
        rows=_winograd,
        contexts=("{contexts}",),
        target="{after}",
        answer="{label}",
    )
    yield RecordTask(
        "winogrande",
        "the noun that fits, by the rest of the sentence (figure G.14)",
        **_both("winogrande", "validation", "train_xl"),
        rows=_winogrande,
        contexts=("{contexts}",),
        target="{after}",
        answer="{label}",
        labels=("1", "2"),
    )


def _common_sense() -> Iterator[RecordTask]:
    """Section 3.5."""
    yield RecordTask(
        "piqa",
        "how something is done (figure G.4)",
        **_both("piqa", "validation"),
        prompt="{goal}",
        choices=(" {sol1}", " {sol2}"),
        answer="{label}",
    )
    for config, figure in (("Easy", 16), ("Challenge", 11)):
        yield RecordTask(
            f"arc_{config.lower()}",
            f"science at school (figure G.{figure})",
            **_both(f"ai2_arc/ARC-{config}", "test"),
            prompt="Question: {question}\nAnswer:",
            choices=(" {choices[text]}",),
            answer="{answerKey}",
            labels=("A", "B", "C", "D", "E"),
            metrics=NORMALISED,
        )
    yield RecordTask(
        "openbookqa",
        "elementary science (figure G.8)",
        **_both("openbookqa", "test"),
        prompt="{question[stem]}",
        choices=tuple(f" {{question[choice_{letter}]}}" for letter in "ABCD"),
        answer="{answerKey}",
        labels=("A", "B", "C", "D"),
        metrics=NORMALISED,
    )


def _reading() -> Iterator[RecordTask]:
    """Section 3.6."""
    yield RecordTask(
        "coqa",
        "a dialogue about a text (figure G.18)",
        **_both("coqa", "test"),
        rows=_coqa,
        prompt="{asked}",
        target=" {answer}",
        metrics=("f1", "exact_match_normalised"),
    )
    yield RecordTask(
        "drop",
        "a question that needs counting or arithmetic over a text (figure G.20)",
        **_both("drop", "dev"),
        rows=_drop,
        prompt="Passage: {passage}\nQuestion: {question}\nAnswer:",
        target=" {found}",
        metrics=("f1", "exact_match_normalised"),
    )
    yield RecordTask(
        "quac",
        "a question about a section of a page (figure G.25, without the earlier questions)",
        **_both("quac", "validation"),
        rows=_quac,
        prompt="TITLE: {title} - {section_title}\nPARAGRAPH: {context}\n\nQ: {question}\n\nA:",
        target=" {found}",
        metrics=("f1", "exact_match_normalised"),
        max_new_tokens=64,
    )
    yield RecordTask(
        "squad_v2",
        "a question about a paragraph, or 'unanswerable' (figure G.28, without earlier questions)",
        **_both("squad/v2.0", "validation"),
        rows=_squad,
        prompt="Title: {title}\n\nBackground: {context}\n\nQ: {question}\n\nA:",
        target=" {found}",
        metrics=("f1", "exact_match_normalised"),
    )
    for config, letter, figure in (("high", "h", 1), ("middle", "m", 3)):
        yield RecordTask(
            f"race_{letter}",
            f"an examination of reading (figure G.{figure})",
            **_both(f"race/{config}", "test"),
            rows=_race,
            prompt="{asked}",
            choices=(" {options}",),
            answer="{answer}",
            labels=("A", "B", "C", "D"),
            unconditional="A:",
            metrics=NORMALISED,
        )


def _super_glue() -> Iterator[RecordTask]:
    """Section 3.7; the validation splits, for the answers of the tests are not public."""
    yield RecordTask(
        "boolq",
        "yes or no, by a paragraph (figure G.29)",
        **_both("bool_q", "validation"),
        prompt="{title} -- {passage}\nquestion: {question}?\nanswer:",
        answer="{answer}",
        **YES_NO,
    )
    yield RecordTask(
        "cb",
        "whether a text says something (figure G.30)",
        **_both("super_glue/cb", "validation"),
        prompt="{premise}\nquestion: {hypothesis}. true, false, or neither?\nanswer:",
        choices=(" true", " false", " neither"),
        answer="{label}",
        labels=("entailment", "contradiction", "neutral"),
    )
    yield RecordTask(
        "copa",
        "the likelier cause or effect (figure G.5; 'therefore', of effects, is ours)",
        **_both("super_glue/copa", "validation"),
        rows=_copa,
        prompt="{premise}",
        choices=(" {choices}",),
        answer="{label}",
        labels=("choice1", "choice2"),
    )
    yield RecordTask(
        "rte",
        "whether a text says something (figure G.31)",
        **_both("super_glue/rte", "validation"),
        prompt="{premise}\nquestion: {hypothesis} True or False?\nanswer:",
        choices=(" True", " False"),
        answer="{label}",
        labels=("entailment", "not_entailment"),
    )
    yield RecordTask(
        "wic",
        "whether a word is used in the same way (figure G.32)",
        **_both("super_glue/wic", "validation"),
        prompt="{sentence1}\n{sentence2}\nquestion: Is the word '{word}' used in the same way in "
        "the two sentences above?\nanswer:",
        answer="{label}",
        **YES_NO,
    )


def _super_glue_reading() -> Iterator[RecordTask]:
    """The same, of those that ask about a passage."""
    yield RecordTask(
        "wsc",
        "the noun that a pronoun refers to, to be written (figure G.33)",
        **_both("super_glue/wsc.fixed", "validation"),
        rows=_wsc,
        instruction="Final Exam with Answer Key\nInstructions: Please carefully read the following "
        "passages. For each passage, you must identify which noun the pronoun marked in *bold* "
        "refers to.\n=====\n",
        prompt="Passage: {passage}\nQuestion: In the passage above, what does the pronoun "
        '"*{pronoun}*" refer to?\nAnswer:',
        target=" {noun}",
        delimiter="\n=====\n",
        metrics=("exact_match_normalised",),
    )
    yield RecordTask(
        "multirc",
        "whether an answer is right, each by itself (figure G.15; the paper counts the questions "
        "all of whose answers are judged rightly)",
        **_both("super_glue/multirc", "validation"),
        instruction="READING COMPREHENSION ANSWER KEY\n\n",
        prompt="{paragraph}\n\n{question}\n",
        choices=("- [True] {answer}", "- [False] {answer}"),
        answer="{label}",
        labels=("True", "False"),
    )
    yield RecordTask(
        "record",
        "the entity that a summary lacks (figure G.6; of several that are right, the first)",
        **_both("super_glue/record", "validation"),
        rows=_record,
        prompt="{passage}\n",
        choices=("- {endings}",),
        answer="{answer}",
    )


def _inference() -> Iterator[RecordTask]:
    """Section 3.8; the figures begin with "anli 1: anli 1: ", which we leave out."""
    for number, figure in ((1, 7), (2, 2), (3, 10)):
        yield RecordTask(
            f"anli_r{number}",
            f"whether a text says something, adversarial (figure G.{figure})",
            **_both(f"anli/r{number}", "test"),
            prompt="{context}\nQuestion: {hypothesis} True, False, or Neither?",
            choices=(" True", " Neither", " False"),
            answer="{label}",
            labels=("e", "n", "c"),
        )


def _others() -> Iterator[RecordTask]:
    yield RecordTask(
        "cnn_dailymail",
        "a summary, asked for by TL;DR: (GPT-2 paper, section 3.6)",
        **_both("cnn_dailymail", "test"),
        prompt="{article}\n\nTL;DR:",
        target=" {highlights}",
        metrics=("rougeL", "rouge1", "rouge2"),
        stop=("\n\n",),
        max_new_tokens=100,
    )
    yield RecordTask(
        "sst2",
        "whether a sentence of a review is positive (ours)",
        **_both("glue/sst2", "validation"),
        prompt="Review: {sentence}\nSentiment:",
        choices=(" negative", " positive"),
        answer="{label}",
        labels=("negative", "positive"),
    )
    yield RecordTask(
        "imdb",
        "whether a review is positive (ours)",
        **_both("imdb_reviews", "test"),
        prompt="Review: {text}\nSentiment:",
        choices=(" negative", " positive"),
        answer="{label}",
        labels=("neg", "pos"),
    )


BENCHMARKS = {
    task.name: task
    for task in itertools.chain(
        _cloze(),
        _questions(),
        _translation(),
        _winograd_style(),
        _common_sense(),
        _reading(),
        _super_glue(),
        _super_glue_reading(),
        _inference(),
        _others(),
    )
}
"""By name."""
