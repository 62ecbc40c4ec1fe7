"""Examples in sequences: against a table, against loops, and by counting."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_jax.config import InputError
from gpt_jax.data.batches import train_batches
from gpt_jax.data.corpus import prepare
from gpt_jax.data.packing import fit, pack
from gpt_jax.data.schedule import BatchSchedule
from gpt_jax.data.shards import ShardIndex, TokenShards
from gpt_jax.data.sources import is_held_out
from gpt_jax.data.supervised import (
    Packed,
    describe_examples,
    held_out_examples,
    training_examples,
    validation_batches,
    validation_bytes,
)

RULES = ("drop", "cut_prompt_start", "cut_target_end")


def shards_of(*sizes, split_at=()):
    """Prompts and targets by turns, of these many tokens: the ids 1, 2, 3, ... with 0 at the end of
    each; `split_at`: places at which another shard begins.
    """
    return shards_with([size for pair in sizes for size in pair], split_at)


def shards_with(lengths, split_at=()):
    """Documents of these many tokens, likewise."""
    ends = np.cumsum(np.array(lengths) + 1) - 1
    tokens = np.arange(1, ends[-1] + 2, dtype=np.uint16)
    tokens[ends] = 0
    index = ShardIndex(1, len(ends), len(tokens), 0, "uint16", 0, 1 << 16, "", "", 0.0, ())
    return TokenShards(Path("fake/train"), index, tuple(np.split(tokens, split_at)))


def by_loop(shards, length, rule, prefix=()):
    """(inputs, targets, weights) of each example that fits, and what became of them."""
    documents, held, found, fates = [], [], [], Counter()
    for token in np.concatenate(shards.tokens).tolist():
        if token:
            held.append(token)
        else:
            documents.append(held)
            held = []
    for prompt, target in zip(documents[::2], documents[1::2], strict=True):
        head = [*prefix, *prompt] or [0]
        whole = [*head, *target, 0]
        over = len(whole) - 1 - length
        if not target:
            fates["empty"] += 1
            continue
        if over > 0:
            fates["too long"] += 1
            if rule == "cut_prompt_start" and over < len(prompt):
                head = [*prefix, *prompt[over:]]
                whole = [*head, *target, 0]
            elif rule == "cut_target_end" and len(head) <= length:
                whole = whole[: length + 1]
            else:
                fates["left out"] += 1
                continue
        weights = [float(place >= len(head)) for place in range(1, len(whole))]
        found.append((whole[:-1], whole[1:], weights))
    return sorted(found), fates


def chats_of(*talks):
    """Conversations of prompts and targets by turns, of these many tokens: ids 1, 2, 3, ..."""
    return shards_of(*(pair for talk in talks for pair in [*talk, (0, 0)]))


def read_back(batch, separator=0):
    """(inputs, targets, weights) of each example in rows of a batch, told apart by the segments."""
    found = []
    for row in range(len(batch["inputs"])):
        segments = batch["segment_ids"][row]
        assert set(np.diff(segments)) <= {0, 1}
        for segment in range(segments[0], segments[-1] + 1):
            mine = segments == segment
            assert batch["positions"][row][mine].tolist() == [*range(mine.sum())]
            values = [batch[name][row][mine].tolist() for name in ("inputs", "targets", "weights")]
            if any(values[2]):
                found.append(tuple(values))
            else:  # padding
                assert segment == segments[-1]
                assert set(values[0]) == {separator}
    return sorted(found)


@pytest.mark.parametrize("split_at", [(), (3,), (4, 9)])
def test_a_batch_by_a_table(split_at):
    """Prompts 1 2, none, 9 10 11, with targets 4, 7, 13 14, in sequences of 9: the longest example
    has room for the next; the one without a prompt begins with a separator.
    """
    packed = Packed(shards_of((2, 1), (0, 1), (3, 2), split_at=split_at), 9, 0, "drop")
    assert packed.num_samples == 2
    assert packed.padding == pytest.approx(8 / 18)
    assert packed.num_learned == 7
    batch = packed.at(np.arange(2))
    rows = np.argsort(-batch["inputs"][:, 0])
    assert {name: x[rows].tolist() for name, x in batch.items()} == {
        "inputs": [[9, 10, 11, 13, 14, 1, 2, 4, 0], [0, 7, 0, 0, 0, 0, 0, 0, 0]],
        "targets": [[10, 11, 13, 14, 0, 2, 4, 0, 0], [7, 0, 0, 0, 0, 0, 0, 0, 0]],
        "weights": [[0, 0, 1, 1, 1, 0, 1, 1, 0], [1, 1, 0, 0, 0, 0, 0, 0, 0]],
        "segment_ids": [[0, 0, 0, 0, 0, 1, 1, 1, 2], [0, 0, 1, 1, 1, 1, 1, 1, 1]],
        "positions": [[0, 1, 2, 3, 4, 0, 1, 2, 0], [0, 1, 0, 1, 2, 3, 4, 5, 6]],
    }
    kinds = {name: x.dtype for name, x in batch.items()}
    assert kinds.pop("weights") == np.float32
    assert set(kinds.values()) == {np.dtype(np.int32)}


def test_a_prefix_is_read_before_each_prompt():
    """Two tokens that the tokenizer puts before a prompt, also before an empty one."""
    packed = Packed(shards_of((2, 1), (0, 2)), 5, 0, "drop", prefix=(91, 92))
    assert read_back(packed.at(np.arange(2))) == [
        ([91, 92, 1, 2, 4], [92, 1, 2, 4, 0], [0, 0, 0, 1, 1]),
        ([91, 92, 7, 8], [92, 7, 8, 0], [0, 1, 1, 1]),
    ]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("drop", []),
        # Prompt 1 2 3 4 5, target 7 8; a target of 6 tokens has no room for a prompt.
        ("cut_prompt_start", [([3, 4, 5, 7, 8], [4, 5, 7, 8, 0], [0, 0, 1, 1, 1])]),
        # Of the second, prompt 10 and target 12 ... 17, the end is lost, and no 0 is learned; of
        # the first there is room for a token to predict, and none to read.
        (
            "cut_target_end",
            [
                ([1, 2, 3, 4, 5], [2, 3, 4, 5, 7], [0, 0, 0, 0, 1]),
                ([10, 12, 13, 14, 15], [12, 13, 14, 15, 16], [1, 1, 1, 1, 1]),
            ],
        ),
    ],
)
def test_what_is_too_long_by_a_table(rule, expected):
    """Sequences of 5; the third, prompt 19 and target 21, fits, and the fourth has no target."""
    packed = Packed(shards_of((5, 2), (1, 6), (1, 1), (2, 0)), 5, 0, rule)
    short = ([19, 21], [21, 0], [1, 1])
    assert read_back(packed.at(np.arange(packed.num_samples))) == sorted([*expected, short])
    assert packed.fit.too_long == 2
    assert packed.fit.too_long_left_out == 2 - len(expected)
    assert packed.fit.longest == 7
    assert packed.fit.empty == 1


def test_a_conversation_by_a_table():
    """Prompts 1 2 and 6 with targets 4 and 8 9, then none at all, then 14 with 16: every target is
    learned after all before it, and only the end of the last is a separator.
    """
    shards = chats_of([(2, 1), (1, 2)], [], [(1, 1)])
    packed = Packed(shards, 9, 0, "drop", form="chat")
    batch = packed.at(np.arange(1))
    assert {name: x.tolist() for name, x in batch.items()} == {
        "inputs": [[1, 2, 4, 6, 8, 9, 15, 17, 0]],
        "targets": [[2, 4, 6, 8, 9, 0, 17, 0, 0]],
        "weights": [[0, 1, 0, 1, 1, 1, 1, 1, 0]],
        "segment_ids": [[0, 0, 0, 0, 0, 0, 1, 1, 2]],
        "positions": [[0, 1, 2, 3, 4, 5, 0, 1, 0]],
    }
    assert packed.num_learned == 6
    assert packed.num_examples == 3
    assert packed.fit.empty == 1


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("drop", []),
        ("cut_prompt_start", [([2, 4, 6, 8, 9], [4, 6, 8, 9, 0], [1, 0, 1, 1, 1])]),
        ("cut_target_end", [([1, 2, 4, 6, 8], [2, 4, 6, 8, 9], [0, 1, 0, 1, 1])]),
    ],
)
def test_a_conversation_that_is_too_long_by_a_table(rule, expected):
    """Sequences of 5, of the conversation above with 6, and one of 5 whose replies are all of it:
    from its start nothing can be cut.
    """
    shards = chats_of([(2, 1), (1, 2)], [(1, 1)])
    packed = Packed(shards, 5, 0, rule, form="chat")
    short = ([13, 15], [15, 0], [1, 1])
    assert read_back(packed.at(np.arange(packed.num_samples))) == sorted([*expected, short])
    assert packed.fit.too_long == 1


@settings(deadline=None)
@given(
    talks=st.lists(
        st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), max_size=4),
        min_size=1,
        max_size=12,
    ),
    length=st.integers(4, 24),
    num_prefix=st.integers(0, 2),
    rule=st.sampled_from(RULES),
)
def test_every_reply_is_learned_as_by_a_loop(talks, length, num_prefix, rule):
    """Against a loop over conversations: whole ones, in order, learned where a reply is."""
    shards, prefix = chats_of(*talks), (5001, 5002)[:num_prefix]
    tokens, expected = iter(np.concatenate(shards.tokens).tolist()), []
    for talk in talks:
        read = [(i, 0.0) for i in prefix]
        for sizes in talk:
            for size, weight in zip(sizes, (0.0, 1.0), strict=True):
                read += [(next(tokens), weight) for _ in range(size)]
                assert next(tokens) == 0
        assert [next(tokens), next(tokens)] == [0, 0]
        whole = [*read, (0, 1.0)]
        over = len(read) - length
        if over > 0 and rule == "cut_prompt_start" and over < talk[0][0]:
            whole = whole[:num_prefix] + whole[num_prefix + over :]
        elif over > 0 and rule == "cut_target_end" and num_prefix + talk[0][0] <= length:
            whole = whole[: length + 1]
        elif over > 0 or not talk:
            continue
        ids, weights = zip(*whole, strict=True)
        expected.append(([*ids[:-1]], [*ids[1:]], [*weights[1:]]))
    if not expected:
        with pytest.raises(InputError, match="a split needs an example that fits"):
            Packed(shards, length, 0, rule, prefix, "chat")
        return
    packed = Packed(shards, length, 0, rule, prefix, "chat")
    batch = packed.at(np.arange(packed.num_samples))
    assert read_back(batch) == sorted(expected)
    assert packed.num_learned == batch["weights"].sum()


def triples_of(*sizes):
    """Prompts, chosen and rejected answers of these many tokens; the ids 1, 2, 3, ..."""
    return shards_with([size for triple in sizes for size in triple])


def test_pairs_by_a_table():
    """Prompt 1 2, chosen 4, rejected 6 7; none, 10, 12; 14 15, 17, 19; an answer without tokens.
    Row 2i is the chosen and row 2i + 1 the rejected answer of a pair, with the prompt of both.
    """
    shards = triples_of((2, 1, 2), (0, 1, 1), (2, 1, 1), (1, 0, 1))
    packed = Packed(shards, 4, 0, "drop", form="pairs")
    assert packed.num_samples == 6
    assert packed.fit.empty == 1
    batch = packed.at(np.arange(6))
    names = ("inputs", "targets", "weights")
    rows = [tuple(batch[name][i].tolist() for name in names) for i in range(6)]
    assert sorted(zip(rows[::2], rows[1::2], strict=True)) == [
        (
            ([0, 10, 0, 0], [10, 0, 0, 0], [1, 1, 0, 0]),
            ([0, 12, 0, 0], [12, 0, 0, 0], [1, 1, 0, 0]),
        ),
        (
            ([1, 2, 4, 0], [2, 4, 0, 0], [0, 1, 1, 0]),
            ([1, 2, 6, 7], [2, 6, 7, 0], [0, 1, 1, 1]),
        ),
        (
            ([14, 15, 17, 0], [15, 17, 0, 0], [0, 1, 1, 0]),
            ([14, 15, 19, 0], [15, 19, 0, 0], [0, 1, 1, 0]),
        ),
    ]
    assert (batch["segment_ids"][:, 0] == 0).all()
    assert packed.num_learned == batch["weights"].sum() == 13
    # In every epoch the rows of a pair stay together, whatever part of it is asked for.
    later = packed.at(np.arange(6) + 6 * 5)
    assert {later["inputs"][i].tobytes() for i in range(0, 6, 2)} == {
        batch["inputs"][i].tobytes() for i in range(0, 6, 2)
    }
    alone = packed.at(np.arange(33, 34))
    assert alone["inputs"].tolist() == later["inputs"][3:4].tolist()


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("drop", []),
        # Prompt 1 2 3, chosen 5, rejected 7 8 9: both lose what the longer of them needs.
        ("cut_prompt_start", [[3, 5, 0, 0], [3, 7, 8, 9]]),
        ("cut_target_end", [[1, 2, 3, 5], [1, 2, 3, 7]]),
    ],
)
def test_a_pair_that_is_too_long_by_a_table(rule, expected):
    packed = Packed(triples_of((3, 1, 3), (1, 1, 1)), 4, 0, rule, form="pairs")
    rows = packed.at(np.arange(packed.num_samples))["inputs"].tolist()
    assert sorted(rows) == sorted([*expected, [11, 13, 0, 0], [11, 15, 0, 0]])
    assert packed.fit.too_long == 1


def test_a_pair_of_equal_answers_teaches_nothing():
    shards = triples_of((1, 2, 2), (1, 2, 2), (1, 1, 2), (1, 2, 2))
    tokens = shards.tokens[0]
    tokens[13:15] = tokens[10:12]  # of the second
    tokens[28] = tokens[25]  # of the last, the first token alone
    packed = Packed(shards, 8, 0, "drop", form="pairs")
    assert packed.num_samples == 6
    assert packed.fit.equal == 1
    assert packed.fit.empty == 0
    shards = triples_of((1, 1, 1))
    shards.tokens[0][:] = [5, 0, 6, 0, 6, 0]
    with pytest.raises(InputError, match=r"of the 1 in .* 0 have no target, 1 have equal answers"):
        Packed(shards, 8, 0, "drop", form="pairs")


def test_classes_by_a_table():
    """Prompts 1 2, none, 9 10 11 with targets of the classes 1, 0, 1: all of an example weighs, and
    its class stands where the first token of its target is predicted.
    """
    shards = shards_of((2, 1), (0, 2), (3, 1))
    shards.tokens[0][:] = [1, 2, 0, 50, 0, 0, 50, 51, 0, 9, 10, 11, 0, 50, 0]
    packed = Packed(shards, 9, 0, "drop", classes=((50, 51), (50,)))
    batch = packed.at(np.arange(2))
    rows = np.argsort(-batch["inputs"][:, 0])
    found = {name: batch[name][rows].tolist() for name in ("inputs", "labels", "weights")}
    assert found == {
        "inputs": [[9, 10, 11, 50, 1, 2, 50, 0, 0], [0, 50, 51, 0, 0, 0, 0, 0, 0]],
        "labels": [[-1, -1, 1, -1, -1, 1, -1, -1, -1], [0, -1, -1, -1, -1, -1, -1, -1, -1]],
        "weights": [[1, 1, 1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0, 0]],
    }
    assert batch["labels"].dtype == np.int32
    with pytest.raises(
        InputError, match=r"one of tune\.classes, and 1 of 3 in fake/train are none"
    ):
        Packed(shards, 9, 0, "drop", classes=((50,), (51,)))


def test_what_is_too_long_may_be_an_error():
    sizes = np.array([3, 9, 50]), np.array([1, 1, 2])
    with pytest.raises(InputError, match=r"of 8 tokens, and 2 of 3 do not; the longest has 52"):
        fit(*sizes, 8, "error")
    assert fit(*sizes, 52, "error").sizes.tolist() == [4, 10, 52]


@settings(deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=40),
    length=st.integers(2, 24),
    num_prefix=st.integers(0, 2),
    rule=st.sampled_from(RULES),
    seed=st.integers(0, 2**65),
)
def test_an_epoch_has_each_example_once_and_nothing_else(sizes, length, num_prefix, rule, seed):
    shards, prefix = shards_of(*sizes, split_at=(len(sizes),)), (5001, 5002)[:num_prefix]
    expected, fates = by_loop(shards, length, rule, prefix)
    if not expected:
        with pytest.raises(InputError, match="a split needs an example that fits"):
            Packed(shards, length, seed, rule, prefix)
        return
    packed = Packed(shards, length, seed, rule, prefix)
    for epoch in (0, 3):
        batch = packed.at(np.arange(packed.num_samples) + epoch * packed.num_samples)
        assert read_back(batch) == expected
    assert packed.fit.too_long == fates["too long"]
    assert packed.fit.too_long_left_out == fates["left out"]
    assert packed.fit.empty == fates["empty"]
    assert packed.num_learned == batch["weights"].sum()
    taken = sum(len(inputs) for inputs, *_ in expected)
    assert packed.padding == pytest.approx(1 - taken / batch["inputs"].size)


@settings(deadline=None)
@given(st.integers(1, 40).flatmap(lambda n: st.lists(st.integers(1, n), min_size=1, max_size=200)))
def test_packing_is_best_fit_decreasing(sizes):
    """As by a loop over examples and sequences: never overfull, and as full as there."""
    length = max(sizes)
    rooms = []
    for size in sorted(sizes, reverse=True):
        fitting = [i for i, room in enumerate(rooms) if room >= size]
        if not fitting:
            rooms.append(length)
            fitting = [len(rooms) - 1]
        rooms[min(fitting, key=rooms.__getitem__)] -= size
    first, members = pack(np.array(sizes), length, seed=7)
    assert sorted(members.tolist()) == [*range(len(sizes))]
    filled = np.add.reduceat(np.array(sizes)[members], first[:-1])
    assert sorted((length - filled).tolist()) == sorted(rooms)


def test_which_examples_meet_is_drawn_by_the_seed():
    """Examples of one size, two to a sequence: neighbours meet as often as any others do."""
    sizes = np.full(2000, 3)
    _, members = pack(sizes, 6, seed=1)
    apart = np.abs(np.diff(members.reshape(-1, 2), axis=1))
    assert abs(apart.mean() / 2000 - 1 / 3) < 0.03
    assert (members != pack(sizes, 6, seed=2)[1]).mean() > 0.9
    assert members.tolist() == pack(sizes, 6, seed=1)[1].tolist()


def test_a_sample_is_a_function_of_seed_and_index():
    rng = np.random.default_rng(0)
    shards = shards_of(*rng.integers(1, 9, (300, 2)).tolist())
    packed = Packed(shards, 16, 1, "drop")
    samples = np.arange(4 * packed.num_samples // 4 * 4).reshape(2, 2, -1)
    together = packed.at(samples)
    for place in [(0, 0, 0), (1, 0, 5), (1, 1, 9)]:
        alone = packed.at(samples[place].reshape(1))
        for name, x in alone.items():
            assert x[0].tolist() == together[name][place].tolist()
    first = packed.at(np.arange(packed.num_samples))["inputs"]
    second = packed.at(np.arange(packed.num_samples) + packed.num_samples)["inputs"]
    assert (first != second).any(axis=1).mean() > 0.9
    assert (first != Packed(shards, 16, 2, "drop").at(np.arange(len(first)))["inputs"]).any()


def test_separators_must_be_those_of_the_index():
    shards = shards_of((2, 1), (3, 2))
    shards.tokens[0][1] = 0
    with pytest.raises(InputError, match="fake/train has 5 where there are 4 of these: delete"):
        Packed(shards, 9, 0, "drop")


# ------------------------------------------------------------------------- from records on


@pytest.fixture
def of_pairs(experiment, tmp_path):
    """Make a Config over 60 sums, of which one has no target; and their (name, prompt, target)."""
    rows = [{"q": {"a": a, "b": 7 * a % 10}, "sum": str(8 * a % 10)} for a in range(60)]
    rows[9]["sum"] = ""
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = [
        (f"sums.jsonl:{i}", f"{row['q']['a']}+{row['q']['b']}=", row["sum"])
        for i, row in enumerate(rows, 1)
    ]

    def make(context_length=16, **data):
        fields = {"files": (str(path),), "prompt": "{q[a]}+{q[b]}=", "target": "{sum}"}
        return experiment(context_length=context_length, **(fields | data))

    return make, texts


def decoded(batch, tokenizer):
    """(what is read, what is learned) of each example, as text."""
    return [
        (
            tokenizer.decode(inputs[: weights.index(1) + 1]),
            tokenizer.decode(t for t, weight in zip(targets, weights, strict=True) if weight),
        )
        for inputs, targets, weights in read_back(batch, tokenizer.separator)
    ]


@pytest.mark.parametrize("tokenizer", ["bytes", "characters", "sentencepiece"])
def test_records_come_back_as_batches(of_pairs, tokenizer):
    make, texts = of_pairs
    vocab_size = {"vocab_size": 290} if tokenizer == "sentencepiece" else {}
    config = make(tokenizer=tokenizer, **vocab_size)
    corpus = prepare(config, lambda line: None)
    train, held = training_examples(corpus, config), held_out_examples(corpus, config)
    seen = []
    for packed, side in ((train, False), (held, True)):
        found = decoded(packed.at(np.arange(packed.num_samples)), corpus.tokenizer)
        named = {(prompt, target): name for name, prompt, target in texts}
        assert {is_held_out(named[pair], 0.3) for pair in found} == {side}
        seen += found
    assert sorted(seen) == sorted((prompt, target) for _, prompt, target in texts if target)
    assert train.fit.empty + held.fit.empty == 1
    assert corpus.validation["text"].index.documents == 2 * held.num_examples
    assert corpus.gzip_bits_per_byte == 0


def test_a_corpus_is_of_its_templates(of_pairs, monkeypatch):
    """And not of the length, nor of what becomes of long examples: that is how it is read."""
    make, _ = of_pairs
    monkeypatch.setattr("gpt_jax.data.sources.SETTLED_SECONDS", 0)  # known without being read
    folder = prepare(make(), lambda line: None).folder
    monkeypatch.setattr("gpt_jax.data.corpus._write", None)  # it is there already
    assert prepare(make(too_long="error", sequence_length=8), lambda line: None).folder == folder
    monkeypatch.undo()
    monkeypatch.setattr("gpt_jax.data.sources.SETTLED_SECONDS", 0)
    others = [
        make(prompt="{q[a]} + {q[b]}="),
        make(target=" {sum}"),
        make(prompt="", target="", jsonl_field="sum"),
    ]
    assert len({folder, *(prepare(other, lambda line: None).folder for other in others)}) == 4


def test_a_validation_has_each_example_once(of_pairs, with_train):
    make, texts = of_pairs
    config = make()
    corpus = prepare(config, lambda line: None)
    held = held_out_examples(corpus, config)
    batches = [*validation_batches(held, config, batch_rows=4)]
    assert len(batches) == -(-held.num_samples // 4) > 1
    assert {x.shape for batch in batches for x in batch.values()} == {(4, 16)}
    whole = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    real = whole["weights"].any(axis=1)
    assert real.sum() == held.num_samples < len(real)
    found = decoded({name: x[real] for name, x in whole.items()}, corpus.tokenizer)
    expected = [pair for name, *pair in texts if is_held_out(name, 0.3) and pair[1]]
    assert sorted(map(list, found)) == sorted(expected)
    assert validation_bytes(held, config, corpus.tokenizer.byte_lengths) == sum(
        len(target) for _, target in expected
    )
    for rows in (np.array([0]), np.array([1, 2, 3])):
        parts = validation_batches(held, config, 4, rows)
        for part, batch in zip(parts, batches, strict=True):
            assert all(np.array_equal(part[name], batch[name][rows]) for name in batch)
    few = with_train(config, eval_tokens=32)
    limited = [*validation_batches(held, few, batch_rows=4)]
    assert sum(batch["weights"].any(axis=1).sum() for batch in limited) == 2


def test_steps_take_the_samples_of_the_schedule(of_pairs, with_train):
    """With a ramp, whose rows to spare weigh nothing; the others weigh what the samples do."""
    make, _ = of_pairs
    ramp = {"ramp_start_tokens": 32, "ramp_tokens": 96, "batch_tokens": 64, "total_tokens": 320}
    config = with_train(make(), **ramp)
    schedule = BatchSchedule.of(config)
    packed = training_examples(prepare(config, lambda line: None), config)
    for step, batch in enumerate(train_batches(packed, schedule, micro_batch=2, num_micro=2)):
        assert batch["weights"].shape == batch["inputs"].shape == (2, 2, 16)
        samples = np.arange(4) + schedule.start(step)
        expected = packed.at(samples)
        expected["weights"][schedule.size(step) :] = 0
        for name, x in expected.items():
            assert np.array_equal(batch[name].reshape(4, 16), x)
    assert schedule.size(0) == 2


def test_what_is_learned_is_said(of_pairs):
    """By hand: prompts have 4 or 5 bytes, 5 from 10 on, so that 5 is too long for most."""
    make, texts = of_pairs
    config = make(5)
    corpus = prepare(config, lambda line: None)
    packed = training_examples(corpus, config)
    mine = [(p, t) for name, p, t in texts if not is_held_out(name, 0.3)]
    long = sum(len(p) + len(t) > 5 for p, t in mine)
    short = sum(len(p) + len(t) <= 5 and bool(t) for p, t in mine)
    lines = describe_examples(packed, corpus, config)
    assert lines[0].startswith(f"learn   {short} of {len(mine)} examples in {short} sequences; ")
    assert lines[1] == (
        f"        {long} of {len(mine)} ({long / len(mine):.2%}) are longer than 5 tokens, the "
        "longest has 6: left out (data.too_long=drop)"
    )
    assert f"        1 of {len(mine)} have no target: left out" in lines
    assert any(line.startswith("test  ") for line in lines)
    config = make(5, too_long="cut_prompt_start")
    lines = describe_examples(training_examples(corpus, config), corpus, config)
    assert lines[1].endswith(f"has 6: {long} cut, 0 left out (data.too_long=cut_prompt_start)")
