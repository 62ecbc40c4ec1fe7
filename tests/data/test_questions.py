"""What a model is asked: which prompts, how often, in which order."""

import json

import numpy as np
import pytest

from gpt_jax.config import Config, DataConfig, FeedbackConfig, InputError, ModelConfig, TrainConfig
from gpt_jax.data.questions import Questions
from gpt_jax.data.sources import is_held_out
from gpt_jax.data.tokenizers import ByteTokenizer

RECORDS = [{"q": "é" * (1 + n % 4), "n": n, "deep": {"a": [n]}} for n in range(40)]


@pytest.fixture
def questions(tmp_path):
    """Made of `RECORDS`, of which a part is held out, with these options."""
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))

    def made(group=2, room=4, length=12, seed=0):
        config = Config(
            model=ModelConfig(context_length=length),
            data=DataConfig(
                files=(str(path),), prompt="{n}{q}?", target="{n}", validation_fraction=0.25
            ),
            feedback=FeedbackConfig(
                method="reinforce", reward="length:1", group=group, max_new_tokens=room
            ),
            train=TrainConfig(batch_tokens=length, seed=seed),
        )
        return Questions(config, ByteTokenizer())

    return made


def test_a_record_is_asked_whole(questions):
    """Each that is not held out and leaves room, with its name, prompt, bytes and all its fields:
    of 12 tokens 4 are left, and a prompt has one or two digits, é of two bytes each, and a ?.
    """
    found = questions()
    wanted, too_long = [], 0
    for line, record in enumerate(RECORDS, 1):
        name, prompt = f"x.jsonl:{line}", f"{record['n']}{record['q']}?"
        if is_held_out(name, 0.25):
            continue
        if len(prompt.encode()) > 8:
            too_long += 1
        else:
            wanted.append((name, prompt, list(prompt.encode()), record))
    assert [(*row[:2], row.ids.tolist(), row.record) for row in found.asked] == wanted
    assert found.too_long == too_long > 0
    assert found.num_samples == 2 * len(wanted)
    cut = f"; {too_long} are too long and left out"
    assert found.describe() == f"ask     {len(wanted)} prompts, each 2 times in a row{cut}"


def test_each_is_asked_in_a_row_and_once_an_epoch(questions):
    """In an order that is new in each epoch, that goes by the seed, and by the number alone."""
    found = questions(group=3)
    count = len(found.asked)
    batch = found.at(np.arange(3 * count * 2).reshape(2, -1))
    assert batch["sample"].tolist() == np.arange(6 * count).reshape(2, -1).tolist()
    groups = batch["asked"].reshape(2, count, 3)
    assert (groups == groups[..., :1]).all()
    first, second = groups[..., 0].tolist()
    assert sorted(first) == sorted(second) == [*range(count)]
    assert first != second
    assert questions(group=3, seed=1).at(np.arange(3 * count))["asked"][::3].tolist() != first
    alone = found.at(np.array([[3 * count + 7]]))
    assert alone["asked"].tolist() == [[second[2]]]


def test_there_must_be_room_for_an_answer(questions):
    with pytest.raises(InputError, match=r"max_new_tokens=10 in a sequence of 12 tokens, and none"):
        questions(room=10)
