"""Early stopping and the best step against sequences of metric values written by hand."""

import math

import pytest

from gpt_jax.config import InputError
from gpt_jax.train.best import Best, lower_is_better, rank


@pytest.mark.parametrize(
    ("metric", "lower"),
    [
        ("val_loss", True),
        ("val_loss/books", True),
        ("val_perplexity", True),
        ("val_bits_per_byte", True),
        ("wikitext/perplexity", True),
        ("text/bits_per_byte", True),
        ("addition_2/exact_match", False),
        ("squad/f1", False),
        ("wmt/bleu", False),
        ("glossary/accuracy", False),
        ("glossary/byte_perplexity", True),
        ("val_accuracy", False),
    ],
)
def test_which_way_is_better(metric, lower):
    assert lower_is_better(metric) == lower
    assert (rank(metric, 1.0) < rank(metric, 2.0)) == lower
    assert rank(metric, math.nan) == rank(metric, math.inf) == math.inf


# Of each validation: its value, whether it is the best so far, how many have passed since.
SEQUENCES = {
    "val_loss": [(3.0, True, 0), (2.0, True, 0), (2.0, False, 1), (1.5, True, 0), (1.6, False, 1)],
    "t/accuracy": [(0.0, True, 0), (0.5, True, 0), (0.4, False, 1), (0.5, False, 2)],
    "t/f1": [(math.nan, False, 1), (0.1, True, 0), (math.inf, False, 1), (math.nan, False, 2)],
}


@pytest.mark.parametrize("metric", SEQUENCES)
@pytest.mark.parametrize("patience", [0, 1, 2])
def test_a_sequence_by_hand(metric, patience):
    """Ends at the first validation since whose best `patience` have passed; as good is no better.

    Written down after every validation and read again, nothing is different.
    """
    best = Best(metric, patience)
    for step, (value, is_best, waited) in enumerate(SEQUENCES[metric], 1):
        assert best.see(step, {"step": step, metric: value}) == is_best
        assert best.waited == waited
        assert best.over == (patience > 0 and waited >= patience)
        again = Best(metric, patience)
        again.set_state(best.get_state())
        assert (again.step, again.waited, again.over) == (best.step, best.waited, best.over)
        best = again
    first_best = {"val_loss": (4, 1.5), "t/accuracy": (2, 0.5), "t/f1": (2, 0.1)}
    assert (best.step, best.value) == first_best[metric]


def test_an_older_checkpoint_is_a_beginning():
    best = Best("val_loss", 2)
    best.set_state({})
    assert best.see(1, {"val_loss": 5.0})


def test_a_metric_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="did you mean 't/exact_match'"):
        Best("t/exact_macth", 0).see(1, {"val_loss": 1.0, "t/exact_match": 0.5})
