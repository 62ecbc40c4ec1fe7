"""The report page: its figures are those of the files, and nothing in them can disturb it."""

import copy
import json
import re
from html.parser import HTMLParser

import pytest

from gpt_jax import cli

SCORE = {"value": 0.5, "low": 0.25, "high": 0.75}


def exam(task="addition_2", shots=0, version="1", seed=0, contamination="not checked", **metrics):
    return {
        "task": task,
        "kind": "generate",
        "prompt_version": version,
        "shots": shots,
        "seed": seed,
        "examples": 200,
        "metrics": metrics or {"exact_match": SCORE},
        "contamination": contamination,
    }


def evaluation(run, *exams, parameters=800_000, step=10):
    return {
        "run": f"runs/{run}",
        "name": run,
        "step": step,
        "parameters": parameters,
        "results": list(exams),
    }


def write(path, document):
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def report(folder, *documents):
    """The page made of the documents, one file each."""
    paths = [write(folder / f"{n}.json", document) for n, document in enumerate(documents)]
    assert cli.main(["report", *map(str, paths), "--out", str(folder / "page.html")]) == 0
    return (folder / "page.html").read_text()


class Reader(HTMLParser):
    """The page as a browser reads it: its elements, the rows of tables, the texts in plots."""

    def __init__(self, page):
        super().__init__()
        self.rows, self.svg_texts, self.tags, self.attributes = [], [], [], []
        self._open = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [value or "" for _, value in attributes]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in ("meta",):
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [value or "" for _, value in attributes]

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data
        elif "svg" in self._open and data.strip():
            self.svg_texts.append(data)

    def tables(self):
        """{column: text} of each row."""
        found = []
        for row in self.rows:
            if row[0] == "run":
                head = row
            else:
                found.append(dict(zip(head, row, strict=True)))
        return found


def test_every_figure_is_on_the_page(tmp_path):
    """Two runs over shots: what the files say is what the table says, and gaps are gaps."""
    large = {"value": 0.9, "low": 0.85, "high": 0.95}
    page = report(
        tmp_path,
        evaluation("small", exam(), exam(shots=16, exact_match=large | {"value": None})),
        evaluation("large", exam(shots=1, exact_match=large, f1=SCORE), parameters=3_200_000),
    )
    found = Reader(page).tables()
    half, most = "0.5 [0.25, 0.75] n=200", "0.9 [0.85, 0.95] n=200"
    about = {"step": "10", "seed": "0"}
    assert found == [
        {"run": "small", "parameters": "800k", "metric": "exact_match", **about}
        | {"0 shots": half, "1 shots": "missing", "16 shots": "missing"},
        {"run": "large", "parameters": "3.2M", "metric": "exact_match", **about}
        | {"0 shots": "missing", "1 shots": most, "16 shots": "missing"},
        {"run": "large", "parameters": "3.2M", "metric": "f1", **about}
        | {"0 shots": "missing", "1 shots": half, "16 shots": "missing"},
    ]


def test_the_plots_have_a_curve_for_each_run_and_the_sizes_beside_them(tmp_path):
    page = report(
        tmp_path,
        evaluation("small", exam(), exam(shots=16)),
        evaluation("large", exam(), exam(shots=16), parameters=3_200_000),
    )
    texts = Reader(page).svg_texts
    assert {"shots", "exact match", "small", "large", "parameters", "800k", "3.2M"} <= set(texts)
    assert {"0 shots", "16 shots"} <= set(texts)
    one_size = Reader(report(tmp_path, evaluation("small", exam()))).svg_texts
    assert "shots" in one_size
    assert "parameters" not in one_size


def test_versions_of_a_prompt_are_not_drawn_together(tmp_path):
    page = report(
        tmp_path, evaluation("run a", exam(version="1")), evaluation("run b", exam(version="2"))
    )
    assert "in versions 1, 2, whose scores do not compare" in page
    plots = [Reader(f"<svg{part.partition('</svg>')[0]}") for part in page.split("<svg")[1:]]
    drawn = [{"run a", "run b"} & set(plot.svg_texts) for plot in plots]
    assert drawn == [{"run a"}, {"run b"}]
    assert report(tmp_path, evaluation("a", exam()), evaluation("b", exam())).count("<svg") == 1


def test_seeds_are_told_apart(tmp_path):
    page = report(tmp_path, evaluation("a", exam(seed=0)), evaluation("a", exam(seed=7)))
    assert {"a, 0.json, seed 0", "a, 1.json, seed 7"} <= set(Reader(page).svg_texts)


def test_runs_of_one_name_are_told_apart(tmp_path):
    page = report(tmp_path, evaluation("a", exam(), step=10), evaluation("a", exam(), step=2000))
    assert [row["run"] for row in Reader(page).tables()] == ["a, step 10", "a, step 2,000"]


def test_a_model_of_no_run_has_no_step(tmp_path):
    """Such as one in the Hugging Face format; a run of that name is told apart from it."""
    page = report(tmp_path, evaluation("gpt2", exam(), step=None), evaluation("gpt2", exam()))
    rows = [(row["run"], row["step"]) for row in Reader(page).tables()]
    assert rows == [("gpt2", "-"), ("gpt2, step 10", "10")]


def test_what_training_had_seen_is_beside_the_scores(tmp_path):
    clean = {"clean": {"exact_match": SCORE | {"value": 0.4}}, "clean_examples": 150}
    page = report(tmp_path, evaluation("a", exam(contamination="50 of 200 seen") | clean))
    rows = Reader(page).tables()
    assert rows[1]["metric"] == "exact_match, clean"
    assert rows[1]["0 shots"] == "0.4 [0.25, 0.75] n=150"
    assert "a: 50 of 200 seen" in page


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>'])
def test_names_are_text_whatever_is_in_them(tmp_path, name):
    name = name.replace("/", "\u2215")
    exams = exam(task=name, version=name, contamination=name, **{name: SCORE})
    reader = Reader(report(tmp_path, evaluation(name, exams)))
    assert not {"script", "img"} & set(reader.tags)
    assert reader.tables()[0]["run"] == name
    assert name.replace("_", " ") in reader.svg_texts


def test_the_page_needs_nothing_else_and_is_the_same_every_time(tmp_path):
    page = report(tmp_path, evaluation("gr\u00f6\u00dfer", exam()))
    reader = Reader(page)
    assert not {"script", "link", "img", "iframe"} & set(reader.tags)
    addresses = [value for value in reader.attributes if "://" in value]
    assert set(addresses) <= {"http://www.w3.org/1999/xlink", "http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|url\(\s*[^#\s]", page)
    assert page.isascii()
    assert reader.tables()[0]["run"] == "gr\u00f6\u00dfer"
    assert report(tmp_path, evaluation("gr\u00f6\u00dfer", exam())) == page


def broken(change):
    document = copy.deepcopy(evaluation("a", exam()))
    change(document)
    return json.dumps(document)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "Expecting property name"),
        ("[1, 2]", r"the file is no object but \[1, 2\]"),
        ('{"loss": 1}', "the file has no 'run'"),
        (broken(lambda d: d.update(step="last")), "'step' of the file is \"last\""),
        (broken(lambda d: d["results"][0].pop("shots")), r"results\[0\] has no 'shots'"),
        (
            broken(lambda d: d["results"][0]["metrics"]["exact_match"].update(value="high")),
            r"'value' of results\[0\]\.metrics\.exact_match is \"high\"",
        ),
    ],
    ids=["json", "list", "foreign", "step", "shots", "value"],
)
def test_a_file_that_is_no_evaluation_is_named(tmp_path, capsys, text, words):
    """And the page that was there stays."""
    bad, out = tmp_path / "bad.json", tmp_path / "page.html"
    bad.write_text(text)
    out.write_text("before")
    good = write(tmp_path / "good.json", evaluation("a", exam()))
    assert cli.main(["report", str(good), str(bad), "--out", str(out)]) == 1
    said = capsys.readouterr().err
    assert re.search(rf"error: .*{re.escape(str(bad))} is none: {words}", said), said
    assert out.read_text() == "before"


def test_a_file_that_is_not_there_is_named(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path / "none.json"), "--out", str(tmp_path / "x")]) == 1
    assert "none.json is none: No such file or directory." in capsys.readouterr().err
