"""Opening a built corpus: what is in it is read, and what is not as it was built is refused."""

import json
import shutil

import pytest
from bucket_server import BucketServer
from built_corpus import write_corpus

from gpt_jax.config import InputError
from gpt_jax.data import cache
from gpt_jax.data.built import open_built
from gpt_jax.data.tokenizers import CharacterTokenizer
from gpt_jax.paths import user_path

BUCKET = "bucket-of-tests"
SOURCES = {
    "web": (0.75, ["some words", "more of them"], ["held out", "so is this"]),
    "books": (0.25, ["a long story"], ["its end"]),
    "notes": (0.0, ["too few to hold any out"], []),
}


@pytest.fixture
def corpus(tmp_path):
    return write_corpus(tmp_path / "corpora" / "small", SOURCES)


@pytest.fixture
def of(experiment):
    """`of(folder)`: an experiment over the corpus there."""

    def make(folder, vocab_size=0, tokenizer="sentencepiece", **data):
        more = {"files": (), "tokenizer": tokenizer, "corpus": str(folder), **data}
        return experiment(vocab_size, **more)

    return make


def text_of(shards):
    """The bytes of a split, with a bar for the separator."""
    tokens = shards.read(0, shards.index.tokens).tolist()
    return b"".join(b"|" if token == 256 else bytes([token]) for token in tokens).decode()


def test_every_source_is_there_by_its_name(corpus, of):
    found = open_built(of(corpus))
    assert {name: text_of(shards) for name, shards in found.train.items()} == {
        "web": "some words|more of them|",
        "books": "a long story|",
        "notes": "too few to hold any out|",
    }
    assert {name: text_of(shards) for name, shards in found.validation.items()} == {
        "web": "held out|so is this|",
        "books": "its end|",
    }
    assert found.weights == {"web": 0.75, "books": 0.25, "notes": 0.0}
    assert (found.folder, found.tokenizer.vocab_size) == (corpus, 257)
    # gzip's own bits, of web's 18 bytes and books' 7.
    web, books = (split.index.gzip_bits_per_byte for split in found.validation.values())
    assert found.gzip_bits_per_byte == pytest.approx((18 * web + 7 * books) / 25)


def test_the_digest_tells_text_and_weights_and_not_the_place(corpus, of, tmp_path):
    digest = open_built(of(corpus)).digest
    moved = shutil.copytree(corpus, tmp_path / "elsewhere")
    assert open_built(of(moved)).digest == digest
    web, *others = SOURCES.items()
    more_weight = {**SOURCES, "web": (0.8, *SOURCES["web"][1:])}
    other_text = {**SOURCES, "books": (0.25, ["a long tale!"], ["its end"])}
    other_end = {**SOURCES, "books": (0.25, ["a long story"], ["the end"])}
    other_order = dict([*others, web])
    changed = {
        open_built(of(write_corpus(tmp_path / f"changed{i}", sources))).digest
        for i, sources in enumerate([more_weight, other_text, other_end, other_order])
    }
    assert len(changed | {digest}) == 5


def test_a_corpus_that_is_not_there_says_how_to_build_it(of, tmp_path):
    (tmp_path / "half").mkdir()
    for folder in (tmp_path / "nothing", tmp_path / "half"):
        command = f"gpt-jax data build experiments/data/{folder.name}.py --out {folder}"
        with pytest.raises(InputError, match=rf"{folder} is none .* {command}"):
            open_built(of(folder))


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ("{", "cannot be read"),
        ('{"format": 9, "name": "a", "digest": "b", "sources": []}', "its format is 9, and 1 is"),
        ('{"format": 1, "name": "a", "digest": "b", "sources": []}', "it has no sources"),
        ('{"format": 1, "name": "a", "digest": "b"}', "sources"),
    ],
)
def test_a_record_that_is_none_is_refused(corpus, of, content, rule):
    (corpus / "corpus.json").write_text(content)
    with pytest.raises(InputError, match=rf"corpus\.json must say .*{rule}"):
        open_built(of(corpus))


def test_what_is_damaged_is_named(corpus, of):
    path = corpus / "validation" / "books" / "00000.bin"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"\7")
    with pytest.raises(InputError, match=f"Delete it and {corpus}.work.* {path} has another"):
        open_built(of(corpus))
    path.write_bytes(content)
    shutil.rmtree(corpus / "train" / "web")
    with pytest.raises(InputError, match=r"is damaged.*train/web/index\.json cannot be read"):
        open_built(of(corpus))


def test_a_corpus_without_held_out_text_is_refused(of, tmp_path):
    folder = write_corpus(tmp_path / "corpus", {"web": (1.0, ["words"], [])})
    with pytest.raises(InputError, match="validation needs held-out text"):
        open_built(of(folder))


def test_its_tokenizer_is_the_one_asked_for(corpus, of, tmp_path):
    assert open_built(of(corpus, tokenizer=f"{corpus}/")).tokenizer.vocab_size == 257
    CharacterTokenizer("abc").save(tmp_path)
    with pytest.raises(InputError, match=f"{tmp_path}/ is another than that of {corpus}"):
        open_built(of(corpus, tokenizer=f"{tmp_path}/"))
    with pytest.raises(InputError, match=r"model\.vocab_size=256 is less than the tokenizer's 257"):
        open_built(of(corpus, vocab_size=256))
    CharacterTokenizer("abc").save(corpus)
    with pytest.raises(InputError, match="does not match the shards"):
        open_built(of(corpus))


def publish(server: BucketServer, corpus) -> str:
    cache.share(f"gs://{BUCKET}/corpora", corpus)
    return f"gs://{BUCKET}/corpora/{corpus.name}"


def test_a_corpus_in_a_bucket_is_copied_once(corpus, of, server):
    there = publish(server, corpus)
    local = open_built(of(corpus))
    first = open_built(of(there))
    assert first.digest == local.digest
    assert first.folder.parent == user_path(of(there).data.cache_dir)
    assert text_of(first.train["web"]) == text_of(local.train["web"])
    server.downloads.clear()
    assert open_built(of(there)).folder == first.folder
    assert set(server.downloads) == {"corpora/small/corpus.json"}


def test_another_corpus_of_the_same_name_is_copied_anew(corpus, of, server, tmp_path):
    there = publish(server, corpus)
    first = open_built(of(there))
    for name in server.names(BUCKET, "corpora/"):
        del server.objects[BUCKET, name]
    changed = {**SOURCES, "web": (1.0, ["other words"], ["held out"])}
    publish(server, write_corpus(tmp_path / "new" / "small", changed, digest="e" * 64))
    second = open_built(of(there))
    assert second.folder != first.folder
    assert text_of(second.train["web"]) == "other words|"


def test_a_bucket_that_is_not_whole_is_refused(corpus, of, server):
    with pytest.raises(InputError, match=r"gs://bucket-of-tests/corpora/none is none .*data build"):
        open_built(of(f"gs://{BUCKET}/corpora/none"))
    there = publish(server, corpus)
    del server.objects[BUCKET, "corpora/small/complete.json"]
    with pytest.raises(InputError, match=r"is whole when it holds complete\.json"):
        open_built(of(there))
    record = json.loads((corpus / "corpus.json").read_text())
    publish(server, corpus)
    changed = json.dumps(record | {"name": "tall"}).encode()
    server.put(BUCKET, "corpora/small/corpus.json", changed, {})
    with pytest.raises(InputError, match=r"these are not: corpus\.json"):
        open_built(of(there))
