"""The cache of tokenised corpora: right, reused, whole after a kill, and never mixed up."""

import dataclasses
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sentencepiece

from gpt_jax.config import DataConfig, InputError
from gpt_jax.data import corpus as corpus_module
from gpt_jax.data import shards as shards_module
from gpt_jax.data import sources
from gpt_jax.data.corpus import PLAIN, check_labels, open_corpus, prepare
from gpt_jax.data.sources import documents, held_out
from gpt_jax.data.tokenizers import ByteTokenizer


def sides(config):
    """The (training, validation) texts that have any, as the shards should hold them."""
    parts = [held_out(document, config.data) for document in documents(config.data)]
    return [[part[side] for part in parts if part[side]] for side in (0, 1)]


def texts_of(split, tokenizer):
    """The documents of a split, decoded."""
    flat = split.read(0, split.index.tokens).tolist()
    assert flat[-1] == tokenizer.separator
    found, document = [], []
    for token in flat:
        if token == tokenizer.separator:
            found.append(tokenizer.decode(document))
            document = []
        else:
            document.append(token)
    return found


def entries(config):
    """What the cache holds, beside the notes of what was read before."""
    return [path for path in Path(config.data.cache_dir).iterdir() if path.is_dir()]


@pytest.mark.parametrize("split", ["path", "position"])
@pytest.mark.parametrize("tokenizer", ["bytes", "characters", "sentencepiece"])
def test_the_shards_hold_the_split(experiment, split, tokenizer):
    config = experiment(
        vocab_size=300 if tokenizer == "sentencepiece" else 0, split=split, tokenizer=tokenizer
    )
    corpus = prepare(config, lambda line: None)
    train, validation = sides(config)
    splits = (corpus.train[PLAIN], train), (corpus.validation[PLAIN], validation)
    for shards, texts in splits:
        assert texts_of(shards, corpus.tokenizer) == texts
        tokens = shards.read(0, shards.index.tokens)
        size = sum(len(text.encode()) for text in texts)
        assert corpus.tokenizer.byte_lengths[tokens].sum() == shards.index.bytes == size
        assert shards.index.documents == len(texts)
    if split == "path":
        assert not set(train) & set(validation)
    everything = "".join(validation).encode()
    figure = 8 * len(gzip.compress(everything, 9)) / len(everything)
    assert corpus.validation[PLAIN].index.gzip_bits_per_byte == figure
    assert corpus.gzip_bits_per_byte == pytest.approx(figure)


def test_the_cache_is_reused_and_keyed_by_what_matters(experiment, texts, monkeypatch):
    first = prepare(experiment(), lambda line: None)
    with monkeypatch.context() as patch:
        patch.setattr(ByteTokenizer, "encode", None)
        said = []
        again = prepare(experiment(), said.append)
        assert again.folder == first.folder
        assert said == []
        assert prepare(experiment(isolate_documents=True), said.append).folder == first.folder
    others = [
        experiment(validation_fraction=0.4),
        experiment(split="position"),
        experiment(tokenizer="characters"),
        experiment(tokenizer="sentencepiece", vocab_size=300),
        experiment(tokenizer="sentencepiece", vocab_size=301),
        experiment(tokenizer="sentencepiece", vocab_size=300, tokenizer_sample_bytes=3000),
    ]
    folders = {prepare(config, lambda line: None).folder for config in others}
    (texts / "00.txt").write_text("Changed.")
    folders |= {first.folder, prepare(experiment(), lambda line: None).folder}
    assert len(folders) == len(others) + 2
    assert not list(first.folder.parent.glob(".*"))


def test_text_that_did_not_change_is_not_read_at_a_start(experiment, texts, monkeypatch):
    """Known by size, times and inode; a change that keeps size and time of change is seen too."""
    monkeypatch.setattr(sources, "SETTLED_SECONDS", 0)
    config = experiment(tokenizer="characters")
    first = prepare(config, lambda line: None)
    with monkeypatch.context() as patch:
        patch.setattr(corpus_module, "documents", None)
        patch.setattr(shards_module, "hashlib", None)
        assert prepare(config, lambda line: None).folder == first.folder
    path = texts / "07.txt"
    times, data = path.stat(), path.read_text()
    path.write_text(data.replace("7", "8"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert prepare(config, lambda line: None).folder != first.folder


def test_the_tokenizer_learns_from_training_text_only(experiment, texts):
    config = experiment(tokenizer="sentencepiece", vocab_size=300)
    before = prepare(config, lambda line: None).tokenizer.digest
    for document in documents(config.data):
        if held_out(document, config.data)[1]:
            (texts / document.name).write_text("entirely different " * 100)
    after = prepare(config, lambda line: None)
    assert after.tokenizer.digest == before


def test_a_given_model_is_copied_and_what_it_loses_is_said(experiment, texts, tmp_path):
    sentencepiece.SentencePieceTrainer.train(
        input=str(texts / "39.txt"),
        model_prefix=str(tmp_path / "given"),
        vocab_size=40,
        minloglevel=2,
        hard_vocab_limit=False,
    )
    said = []
    model = tmp_path / "given.model"
    corpus = prepare(experiment(tokenizer=str(model)), said.append)
    assert (corpus.folder / "tokenizer.model").read_bytes() == model.read_bytes()
    assert "not lossless" in said[-1]


BUILD = """
import json, sys, time
from gpt_jax.config import Config, from_dict
from gpt_jax.data.corpus import prepare

def progress(line):
    print(line, flush=True)
    time.sleep(float(sys.argv[2]))

prepare(from_dict(Config, json.loads(sys.argv[1])), progress)
"""


def build(config, pause: float) -> subprocess.Popen:
    """Another process that builds the corpus, and pauses when it has written the tokens."""
    arguments = [json.dumps(dataclasses.asdict(config)), str(pause)]
    return subprocess.Popen([sys.executable, "-c", BUILD, *arguments], stdout=subprocess.PIPE)


def wait_for_line(process: subprocess.Popen) -> None:
    assert process.stdout
    assert process.stdout.readline().startswith(b"tokenised")


def test_a_killed_build_leaves_nothing_that_is_read(experiment):
    config = experiment()
    with build(config, pause=60) as process:
        wait_for_line(process)
        process.send_signal(signal.SIGKILL)
    (partial,) = entries(config)
    assert partial.name.startswith(".partial-")
    corpus = prepare(config, lambda line: None)
    assert texts_of(corpus.train[PLAIN], corpus.tokenizer) == sides(config)[0]
    assert partial.exists()  # it could be another process at work
    long_ago = time.time() - 1e6
    os.utime(partial, (long_ago, long_ago))
    prepare(experiment(split="position"), lambda line: None)
    assert not partial.exists()


def test_two_builds_at_once_give_one_corpus(experiment):
    config = experiment()
    with build(config, pause=0.5) as first, build(config, pause=0.5) as second:
        wait_for_line(first)
        wait_for_line(second)
    assert (first.returncode, second.returncode) == (0, 0)
    (folder,) = entries(config)
    corpus = open_corpus(folder)
    assert texts_of(corpus.validation[PLAIN], corpus.tokenizer) == sides(config)[1]


def test_a_build_that_comes_second_keeps_the_first(experiment):
    config, folders = experiment(), []

    def overtake(line):
        folders.append(prepare(config, lambda line: None).folder)
        (folders[0] / "mark").touch()

    folders.append(prepare(config, overtake).folder)
    assert folders[0] == folders[1]
    assert (folders[0] / "mark").exists()
    assert entries(config) == [folders[0]]


def test_text_that_changes_meanwhile_is_refused(experiment, texts, monkeypatch):
    def survey(config, found=corpus_module._survey):
        result = found(config)
        (texts / "00.txt").write_text("Changed.")
        return result

    monkeypatch.setattr(corpus_module, "_survey", survey)
    with pytest.raises(InputError, match="must not change"):
        prepare(experiment(), lambda line: None)
    assert entries(experiment()) == []


def test_a_tokenizer_that_does_not_match_the_shards_is_refused(experiment):
    one = prepare(experiment(), lambda line: None)
    other = prepare(experiment(tokenizer="characters"), lambda line: None)
    other.tokenizer.save(one.folder)
    with pytest.raises(InputError, match="does not match the shards"):
        prepare(experiment(), lambda line: None)


def test_a_damaged_entry_is_named(experiment):
    corpus = prepare(experiment(), lambda line: None)
    path = corpus.validation[PLAIN].folder / "00000.bin"
    data = path.read_bytes()
    path.write_bytes(data[:-2])
    with pytest.raises(InputError, match=f"delete the folder {corpus.folder}"):
        prepare(experiment(), lambda line: None)
    path.write_bytes(b"\0" + data[1:])
    with pytest.raises(InputError, match="damaged"):
        prepare(experiment(), lambda line: None)


def test_vocabulary_sizes_are_checked(experiment):
    assert prepare(experiment(vocab_size=257), lambda line: None).tokenizer.vocab_size == 257
    with pytest.raises(InputError, match="vocab_size=256 is less than the tokenizer's 257"):
        prepare(experiment(vocab_size=256), lambda line: None)
    with pytest.raises(InputError, match=r"model\.vocab_size is 0: set it"):
        prepare(experiment(tokenizer="sentencepiece"), lambda line: None)


@pytest.mark.parametrize(
    ("fraction", "side"), [(1e-9, "validation"), (1 - 1e-9, "training")], ids=str
)
def test_an_empty_side_is_refused(experiment, fraction, side):
    with pytest.raises(InputError, match=f"none of the 40 documents is in the {side} split"):
        prepare(experiment(validation_fraction=fraction), lambda line: None)


def test_a_cache_that_cannot_be_written_is_named(experiment, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match=r"cannot be written .*--data\.cache-dir"):
        prepare(experiment(cache_dir=str(tmp_path / "file" / "cache")), lambda line: None)


class Lowering(ByteTokenizer):
    """One that loses something: capitals, and every x."""

    def _encode(self, text):
        return super()._encode(text.lower().replace("x", ""))


def test_labels_must_have_tokens_that_tell_them_apart():
    fields = {"prompt": "{t}", "target": "{y}"}
    same = DataConfig(**fields, labels=("0=no", "1=yes", "2=No"))
    check_labels(same, ByteTokenizer())
    with pytest.raises(InputError, match=r"'No', a target by data.labels, has those of 'no'"):
        check_labels(same, Lowering())
    none = DataConfig(**fields, labels=("0=no", "1=xX"))
    check_labels(none, ByteTokenizer())
    with pytest.raises(InputError, match="none for 'xX', a target by"):
        check_labels(none, Lowering())
    # With a space before it that word has tokens, if none of its own.
    check_labels(dataclasses.replace(none, target=" {y}"), Lowering())


def test_labels_are_checked_with_the_tokenizer_of_the_corpus(experiment, tmp_path, monkeypatch):
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps({"t": f"{i}", "y": i % 2}) + "\n" for i in range(40)))
    fields = {"prompt": "{t}", "target": "{y}", "labels": ("0=no", "1=No")}
    config = experiment(files=(str(path),), tokenizer="bytes", **fields)
    prepare(config, lambda line: None)
    monkeypatch.setattr("gpt_jax.data.corpus.load_tokenizer", lambda _: Lowering())
    with pytest.raises(InputError, match="'No', a target by"):
        prepare(config, lambda line: None)


def test_conversations_without_any_reply_are_refused(experiment, tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"m": ["Hi."]}\n' * 30)
    config = experiment(files=(str(path),), chat="m", tokenizer="bytes")
    with pytest.raises(InputError, match=r"in none of the 30 in .* does the assistant speak"):
        prepare(config, lambda line: None)
