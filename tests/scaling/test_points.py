"""Reading the runs of others: columns by any name, and files that are none."""

import re

import pytest

from gpt_jax.config import InputError
from gpt_jax.scaling.points import Columns, Point, column, read_csv


@pytest.fixture
def written(tmp_path):
    def write(text, encoding="utf-8"):
        path = tmp_path / "runs.csv"
        path.write_bytes(text.encode(encoding))
        return path

    return write


def test_a_file_with_our_names(written):
    path = written("name,params,tokens,loss,batch\na,1e6,2e7,4.5,1e5\nb, 2000000,4e7,4.0,2e5\n")
    assert read_csv(path) == [
        Point("a", 4.5, 1e6, 2e7, 1.2e14, steps=200, batch=1e5),
        Point("b", 4.0, 2e6, 4e7, 4.8e14, steps=200, batch=2e5),
    ]


def test_a_file_with_other_names_and_flops_for_tokens(written):
    """As a spreadsheet writes it: byte-order mark, CRLF, quotes, and an empty last line."""
    path = written(
        '"Model Size","Training FLOP",loss,note\r\n4e8,1.92e19,2.9,"a, b"\r\n\r\n', "utf-8-sig"
    )
    (point,) = read_csv(path, Columns(params="Model Size", flops="Training FLOP"))
    assert point == Point("line 2", 2.9, 4e8, 8e9, 1.92e19)


def test_a_file_of_compute_alone(written):
    """Enough for L(C); a law that needs more says which option gives it."""
    points = read_csv(written("flops,loss\n1e18,3.0\n1e19,2.7\n"))
    assert column(points, "flops").tolist() == [1e18, 1e19]
    with pytest.raises(InputError, match=r"needs params of every run, and line 2 has none.*--par"):
        column(points, "params")
    with pytest.raises(InputError, match="or --flops and --params"):
        column(points, "tokens")


@pytest.mark.parametrize("value", ["-1e6", "0", "nan", "inf", "1.5B"])
@pytest.mark.parametrize("name", ["params", "loss"])
def test_a_value_that_is_no_positive_number(written, name, value):
    row = {"params": "1e6", "loss": "3"} | {name: value}
    path = written(f"params,loss\n1e6,4\n{row['params']},{row['loss']}\n")
    rule = f"{name} must be a positive number, and line 3 of {path} has {value!r}: correct"
    with pytest.raises(InputError, match=re.escape(rule)):
        read_csv(path)


def test_an_empty_cell_is_not_known_but_every_run_has_a_loss(written):
    points = read_csv(written("params,steps,loss\n1e6,,4\n2e6, ,3\n"))
    assert points == [Point("line 2", 4.0, 1e6), Point("line 3", 3.0, 2e6)]
    with pytest.raises(InputError, match=r"loss must be a positive number, and line 3 .*''"):
        read_csv(written("params,loss\n1e6,4\n2e6,\n"))


@pytest.mark.parametrize(
    ("text", "columns", "rule"),
    [
        ("", {}, "no column 'loss'"),
        ("params,loss\n", {}, "has none below its header"),
        ("params,loss\n1,2,3\n", {}, "line 2 of .* has 3 for 2: '1,2,3'"),
        ('params,loss\n"1,2\n', {}, "cannot be read as one: unexpected end"),
        ("params,loss\n1\n", {}, "line 2 of .* has 1 for 2"),
        ("params,params,loss\n1,1,2\n", {}, "each column has a name of its own"),
        ("N,loss\n1,2\n", {"params": "n"}, "--params names a column, and .* has no 'n': it has N,"),
        ("N,val\n1,2\n", {}, "name it with --loss; it has N, val"),
        ("N,loss\n1,2\n", {"params": "N", "tokens": "N"}, "'N' of .* is taken as params and tok"),
    ],
)
def test_what_is_no_table(written, text, columns, rule):
    with pytest.raises(InputError, match=rule):
        read_csv(written(text), Columns(**columns))


def test_a_file_that_is_not_there_or_is_no_text(written, tmp_path):
    with pytest.raises(InputError, match=r"missing\.csv cannot be read"):
        read_csv(tmp_path / "missing.csv")
    path = written("")
    path.write_bytes(b"params,loss\n\xff\xfe,2\n")
    with pytest.raises(InputError, match="a CSV file in UTF-8"):
        read_csv(path)
