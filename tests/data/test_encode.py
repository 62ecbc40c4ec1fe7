"""Texts to tokens over processes: the same bytes, in order, whatever the number of processes."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from gpt_jax.config import InputError
from gpt_jax.data import corpus as corpus_module
from gpt_jax.data import encode as encode_module
from gpt_jax.data.corpus import prepare
from gpt_jax.data.encode import batches, encode, encode_in_order, processes_for
from gpt_jax.data.tokenizers import ByteTokenizer, train_sentencepiece

WORDS = ["def", "caf\u00e9", "return", "x", "\u2581", "\n", "  "]


def some_texts(count: int) -> list[str]:
    random = np.random.default_rng(0)
    return [" ".join(random.choice(WORDS, 1 + i % 40)) for i in range(count)]


def quiet(_: str) -> None:
    pass


def test_a_batch_is_the_documents_with_separators():
    batch = encode(["ab", "", "\u00e9"], ByteTokenizer())
    assert batch.tokens.dtype == np.uint16
    assert batch.tokens.tolist() == [97, 98, 256, 256, 0xC3, 0xA9, 256]
    assert batch.lengths.tolist() == [3, 1, 3]
    assert (batch.bytes, batch.token_bytes) == (4, 4)
    empty = encode([], ByteTokenizer())
    assert (empty.tokens.tolist(), empty.tokens.dtype) == ([], np.uint16)


def test_texts_of_a_label_are_batched_in_their_order(monkeypatch):
    monkeypatch.setattr(encode_module, "BATCH_CHARACTERS", 4)
    labelled = [("a", "123"), ("b", "1"), ("a", "4"), ("a", "5"), ("b", "234567"), ("a", "6")]
    assert [*batches(labelled)] == [
        ("a", ["123", "4"]),
        ("b", ["1", "234567"]),
        ("a", ["5", "6"]),
    ]


def test_little_text_and_cheap_tokenizers_need_no_other_process(monkeypatch):
    monkeypatch.setattr("gpt_jax.data.workers.num_cores", lambda: 3)
    learned = train_sentencepiece(some_texts(40), 280, 10_000)
    assert processes_for(learned, 1_000_000) == 1
    assert processes_for(learned, 1_000_000_000) == 3
    assert processes_for(ByteTokenizer(), 1_000_000_000) == 1


def test_processes_give_the_tokens_of_one_and_hold_few_batches(tmp_path):
    tokenizer = train_sentencepiece(some_texts(40), 280, 10_000)
    tokenizer.save(tmp_path)
    tasks = [(i, [text, text[::-1]]) for i, text in enumerate(some_texts(30))]
    drawn, most = 0, 0

    def counted():
        nonlocal drawn
        for task in tasks:
            drawn += 1
            yield task

    found = []
    for label, texts, batch in encode_in_order(counted(), tokenizer, tmp_path, 2):
        found.append((label, texts))
        most = max(most, drawn - len(found))
        alone = [[*tokenizer.encode(text), tokenizer.separator] for text in texts]
        assert batch.tokens.tolist() == [*itertools.chain(*alone)]
        assert batch.lengths.tolist() == [*map(len, alone)]
    assert found == tasks
    assert most < 2 * encode_module.AHEAD


def test_a_fault_in_another_process_is_told_as_in_this_one(tmp_path):
    ByteTokenizer().save(tmp_path)
    tasks = [(0, ["good"]), (1, ["bad\udc80"]), (2, ["good"])]
    told = []
    for processes in (1, 2):
        with pytest.raises(InputError, match="character 3 of this one is half") as error:
            list(encode_in_order(tasks, ByteTokenizer(), tmp_path, processes))
        told.append(str(error.value))
    assert told[0] == told[1]


def test_a_corpus_is_the_same_bytes_for_any_number_of_processes(experiment, tmp_path, monkeypatch):
    monkeypatch.setattr(encode_module, "BATCH_CHARACTERS", 300)
    contents = []
    for processes in (1, 3):
        monkeypatch.setattr(corpus_module, "processes_for", lambda *_, n=processes: n)
        config = experiment(
            tokenizer="sentencepiece",
            vocab_size=300,
            split="position",
            cache_dir=str(tmp_path / str(processes)),
        )
        folder = prepare(config, quiet).folder
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        contents.append({str(path.relative_to(folder)): path.read_bytes() for path in files})
    assert contents[0] == contents[1]
    assert len(contents[0]) == 6
