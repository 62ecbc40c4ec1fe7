"""Near duplicates: found as plain sets find them, the better kept, in linear time."""

import tracemalloc
from collections import Counter

import numpy as np
import pytest

from gpt_jax.config import DataConfig, InputError
from gpt_jax.data.build import dedup as module
from gpt_jax.data.build.dedup import (
    REACH,
    SKETCH,
    Duplicates,
    Signatures,
    duplicates,
    least_similar,
    minhashes,
    sign,
)
from gpt_jax.data.ngrams import Ngrams, mix
from gpt_jax.data.recipe import Dedup
from gpt_jax.data.sources import documents

DEDUP = Dedup()


def compare(*sources: list[str], keep=None, dedup: Dedup = DEDUP, seed: int = 0) -> Duplicates:
    parts = [sign(texts, dedup, seed) for texts in sources]
    kept = np.ones(sum(map(len, sources)), bool) if keep is None else np.array(keep, bool)
    return duplicates(parts, kept, dedup.threshold)


def jaccards(texts: list[str], n: int = 13) -> dict[tuple[int, int], float]:
    """Similarity of each pair that shares an n-gram, with sets."""
    lists = [text.split() for text in texts]
    sets = [{tuple(some[i : i + n]) for i in range(len(some) - n + 1)} for some in lists]
    holders: dict[tuple, list[int]] = {}
    for number, grams in enumerate(sets):
        for gram in grams:
            holders.setdefault(gram, []).append(number)
    shared = Counter(
        (a, b) for some in holders.values() for i, b in enumerate(some) for a in some[:i]
    )
    return {(a, b): k / (len(sets[a]) + len(sets[b]) - k) for (a, b), k in shared.items()}


def plain(text: str, count: int) -> str:
    """The first words of a text, as `words` would have them."""
    found = ("".join(filter(str.isalnum, word)).lower() for word in text.split())
    return " ".join([word for word in found if word][:count])


def edited(text: str, edits: int, random: np.random.Generator) -> str:
    """The text with so many words changed, anywhere."""
    found = text.split()
    for place in random.choice(len(found), edits, replace=False):
        found[place] = f"edit{random.integers(1 << 40)}"
    return " ".join(found)


@pytest.fixture(scope="module")
def originals() -> list[str]:
    texts = (document.text for document in documents(DataConfig()) if document.text.isascii())
    found = [text for text in (plain(text, 600) for text in texts) if text.count(" ") == 599]
    assert len(found) > 200
    return found[:200]


def test_near_duplicates_are_found_as_brute_force_finds_them(originals):
    """Recall of 0.95 where the Jaccard index is 0.8 to 0.85, 0.99 above; nothing below 0.6 goes."""
    random = np.random.default_rng(0)
    planted = [edited(text, int(random.integers(1, 16)), random) for text in originals * 2]
    texts = originals + planted + originals[:50]
    best, pairs = np.zeros(len(texts)), jaccards(texts)
    for (_, later), similarity in pairs.items():
        best[later] = max(best[later], similarity)
    found = compare(originals, planted, originals[:50])
    gone = found.better_N >= 0
    assert (found.better_N < np.arange(len(texts))).all()
    near, nearer = (best >= 0.8) & (best < 0.85), best >= 0.85
    assert near.sum() > 50
    assert nearer.sum() > 150
    assert gone[near].mean() >= 0.95
    assert gone[nearer].mean() >= 0.99
    assert gone[-50:].all()
    assert (found.similarity_N[-50:] == 1).all()
    low = best < 0.6
    assert ((best > 0.4) & low).sum() > 50
    assert not gone[low].any()
    # What is said of how like two documents are is right within four standard deviations.
    for later in np.flatnonzero(gone):
        truth = pairs[int(found.better_N[later]), int(later)]
        assert abs(found.similarity_N[later] - truth) < 4 * np.sqrt(0.8 * 0.2 / SKETCH)


@pytest.mark.parametrize("bits", [2**64 - 1, 2**32 - 1, 2**64 - 2**32])
def test_a_share_of_agreeing_hashes_is_the_jaccard_index(bits):
    """Without bias, and as independent as draws, whatever bits the n-grams differ in."""
    grams = mix(np.arange(3000, dtype=np.uint64)) & np.uint64(bits)
    sets = [grams[:2000], grams[1000:]]
    joined = Ngrams(np.concatenate(sets), np.zeros(4000, np.int64), np.array([0, 2000, 4000]))
    shares = []
    for seed in range(100):
        least = minhashes(joined, SKETCH, seed)
        shares.append((least[:, 0] == least[:, 1]).mean())
    truth, deviation = 1 / 3, np.sqrt(1 / 3 * 2 / 3 / SKETCH)
    assert abs(np.mean(shares) - truth) < 4 * deviation / 10
    assert 0.75 * deviation < np.std(shares) < 1.25 * deviation


@pytest.mark.parametrize("rows", [1, 3, 6])
def test_a_band_is_the_same_with_the_probability_of_its_rows(rows):
    """At a Jaccard index of 0.8: 800 words of 1,000 are in both."""
    numbers = [str(i) for i in range(1000)]
    texts = [" ".join(numbers[:900]), " ".join(numbers[100:])]
    dedup = Dedup(ngram=1, bands=20, rows=rows)
    keys = [sign(texts, dedup, seed).keys_KN[1:] for seed in range(40)]
    same = np.mean([one[:, 0] == one[:, 1] for one in keys])
    truth = 0.8**rows
    assert abs(same - truth) < 4 * np.sqrt(truth * (1 - truth) / 800)


def test_the_better_source_keeps_the_document(originals):
    a, b, c = originals[:3]
    found = compare([a], [b, a, c], [c, a + " end"])
    assert found.better_N.tolist() == [-1, -1, 0, -1, 3, 0]
    assert found.similarity_N[[2, 4]].tolist() == [1, 1]
    assert 0.95 < found.similarity_N[5] < 1
    found = compare([c, a + " end"], [b, a, c], [a])
    assert found.better_N[[0, 1, 2, 4]].tolist() == [-1, -1, -1, 0]
    assert found.better_N[3] == 1
    assert found.better_N[5] in (1, 3)


def test_documents_that_went_before_do_not_count(originals):
    a, b = originals[:2]
    found = compare([a, b], [a, a + " end", b], keep=[False, True, True, True, False])
    assert found.better_N.tolist() == [-1, -1, -1, 2, -1]


def test_of_a_chain_only_the_first_stays(originals):
    """Each is like the one before it, and the last not at all like the first."""
    random = np.random.default_rng(1)
    chain = [originals[0]]
    for _ in range(12):
        chain.append(edited(chain[-1], 2, random))
    pairs = jaccards(chain)
    assert min(pairs[i, i + 1] for i in range(12)) > 0.85
    assert pairs[0, 12] < 0.5
    found = compare(chain)
    assert found.better_N[0] == -1
    assert (found.better_N[1:] >= 0).all()


@pytest.mark.parametrize("other", [Dedup(ngram=3), Dedup(bands=40, rows=7), Dedup(threshold=0.84)])
def test_other_settings_find_what_they_say(originals, other):
    random = np.random.default_rng(2)
    planted = [edited(text, 3, random) for text in originals[:100]]
    pairs = jaccards(originals[:100] + planted, other.ngram)
    truth = np.array([pairs[i, i + 100] for i in range(100)])
    gone = compare(originals[:100], planted, dedup=other).better_N[100:] >= 0
    assert (truth > other.threshold + 0.02).sum() > 30
    assert gone[truth > other.threshold + 0.02].mean() > 0.95
    assert not gone[truth < other.threshold - 0.15].any()


def test_short_texts_and_other_scripts():
    chinese = "".join(chr(0x4E00 + i * 37 % 5000) for i in range(400))
    texts = [
        "",
        "Short one.",
        "short, ONE",
        "short two",
        "---",
        chinese,
        chinese[:390] + "\u3002",
        "",
    ]
    found = compare(texts)
    assert found.better_N.tolist() == [-1, -1, 1, -1, 0, -1, 5, 0]
    assert compare([]).better_N.tolist() == []
    assert compare([], ["a"], []).better_N.tolist() == [-1]


def test_signatures_depend_on_text_and_seed_alone(originals, monkeypatch, tmp_path):
    whole = sign(originals[:20], DEDUP, 5)
    monkeypatch.setattr(module, "GROUP", 3000)
    monkeypatch.setattr(module, "BLOCK", 77)
    parts = [sign(originals[i : i + 7], DEDUP, 5) for i in (0, 7, 14)]
    keys = np.concatenate([part.keys_KN for part in parts], axis=1)
    assert np.array_equal(whole.keys_KN, keys[:, :20])
    sketch = np.concatenate([part.sketch_NS for part in parts])
    assert np.array_equal(whole.sketch_NS, sketch[:20])
    other = sign(originals[:20], DEDUP, 6)
    assert np.array_equal(other.keys_KN[0], whole.keys_KN[0])
    assert not (other.keys_KN[1:] == whole.keys_KN[1:]).any()
    whole.save(tmp_path / "a.npy")
    assert (tmp_path / "a.npy").stat().st_size == 128 + 8 + 20 * 424
    back = Signatures.open(tmp_path / "a.npy")
    assert np.array_equal(back.keys_KN, whole.keys_KN)
    assert np.array_equal(back.sketch_NS, whole.sketch_NS)
    sign([], DEDUP, 5).save(tmp_path / "none.npy")
    assert Signatures.open(tmp_path / "none.npy").sketch_NS.shape == (0, SKETCH)
    for content in (b"", b"not an array", (tmp_path / "a.npy").read_bytes()[:-8]):
        (tmp_path / "bad.npy").write_bytes(content)
        with pytest.raises(InputError, match=r"cannot be read from .*bad\.npy"):
            Signatures.open(tmp_path / "bad.npy")


def test_copies_are_compared_once():
    """Two pages unlike each other, of which there are 50 copies each, and one more page."""
    some = crowd(101, 101)
    some.keys_KN[0, :100] %= 2
    found = duplicates([some], np.ones(101, bool), 0.8)
    assert found.better_N.tolist() == [-1, -1] + [0, 1] * 49 + [-1]
    assert found.compared == 20 * 3


def test_only_the_same_words_are_like_each_other_by_1():
    """A sketch may agree throughout without that."""
    some = crowd(3, 1)
    some.keys_KN[0, 2] = 0
    some.sketch_NS[:] = 7
    found = duplicates([some], np.ones(3, bool), 0.8)
    assert found.better_N.tolist() == [-1, 0, 0]
    assert 0.99 < found.similarity_N[1] < 1
    assert found.similarity_N[2] == 1


def crowd(count: int, kinds: int) -> Signatures:
    """Documents in one bucket of every band, by turns of so many kinds unlike each other."""
    random = np.random.default_rng(0)
    keys = np.zeros((21, count), np.uint64)
    keys[0] = np.arange(count)  # none has the same words
    sketch = random.integers(0, 256, (kinds, SKETCH), np.uint8)[np.arange(count) % kinds]
    sketch[np.arange(count), random.integers(0, SKETCH, count)] += 1
    return Signatures(keys, sketch)


def test_a_million_versions_of_a_page_take_linear_time():
    """By the number of comparisons, with 5,000 of them."""
    count = 5_000
    found = duplicates([crowd(count, 1)], np.ones(count, bool), 0.8)
    assert (found.better_N[1:] == 0).all()
    assert found.compared < 1.01 * count
    found = duplicates([crowd(count, 3)], np.ones(count, bool), 0.8)
    assert found.better_N.tolist() == [-1] * 3 + [i % 3 for i in range(3, count)]
    found = duplicates([crowd(count, count)], np.ones(count, bool), 0.8)
    assert (found.better_N == -1).all()
    assert found.compared <= 20 * 2 * REACH * count


def test_a_bucket_is_compared_pair_by_pair_while_it_is_small():
    count = 2 * REACH + 1
    found = duplicates([crowd(count, count)], np.ones(count, bool), 0.8)
    assert found.compared == 20 * count * (count - 1) // 2


def test_memory_is_bounded_by_the_number_of_documents():
    count = 100_000
    random = np.random.default_rng(0)
    keys = random.integers(0, count, (21, count), np.uint64)
    part = Signatures(
        keys, np.zeros((count, SKETCH), np.uint8) + np.arange(count)[:, None].astype("B")
    )
    keep = np.ones(count, bool)
    tracemalloc.start()
    duplicates([part], keep, 0.8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50 * count + 3 * SKETCH * module.PAIRS


def test_recall_that_bands_cannot_give_is_refused():
    assert least_similar(0.8) == pytest.approx(0.75)
    assert least_similar(1.0) == 1.0
    with pytest.raises(InputError, match="take fewer rows or more bands"):
        Dedup(threshold=0.5)
    assert Dedup(threshold=0.5, rows=3, bands=30).threshold == 0.5
