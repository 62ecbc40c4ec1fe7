"""Tokenizers of the Hugging Face format: their ids, their text, and nothing silently else."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from gpt_jax.config import InputError
from gpt_jax.data.hf_tokenizers import HuggingFaceTokenizer, read_tokenizer_files
from gpt_jax.data.tokenizers import load_tokenizer

CHINESE = "今天天气很好，我们去公园散步。语言模型读完一个词，再猜下一个词。"  # noqa: RUF001
CORPUS = [Path(json.__file__).read_text(), Path(shutil.__file__).read_text(), CHINESE * 20]
AWKWARD = [
    "",
    " ",
    "  two  spaces ",
    "\n\n a\nb\r\n\tc\n",
    "the cafe\u0301 caf\u00e9 na\u00efve \u00c5ngstr\u00f6m",
    "\U0001f600\U0001f468\u200d\U0001f469 \u2581\ufffd\x00\x1f\x85",
    CHINESE,
    "don't do not, it's we've . ! ? a@@ @@ @@b ## ##a",
    "</w> <0x41> <0xFF>",
    "x" * 300,
    "Zebra zebra",
]
TEXT = st.lists(
    st.one_of(
        st.text(max_size=8),
        st.sampled_from(["the ", " return", "def ", "\n", "\n\n", "  ", "\u0301", ".", "'s", "@@"]),
        st.text(alphabet="abcdefth RT,.\n天气模型", max_size=12),
    ),
    max_size=8,
).map("".join)


def trained(model, trainer, pre_tokenizer, normalizer=None):
    """A tokenizer of the library, learned from the corpus."""
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def write(folder: Path, **files) -> Path:
    """Each file, JSON unless it is text; `vocab_json=` writes vocab.json."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / ".".join(name.rsplit("_", 1))
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_text(text, encoding="utf-8", newline="")
    return folder


def merges_of(tokenizer) -> list[list[str]]:
    return json.loads(tokenizer.to_str())["model"]["merges"]


def merges_text(merges) -> str:
    return "#version: 0.2\n" + "".join(f"{first} {second}\n" for first, second in merges)


def make_gpt2(folder: Path, **config) -> Path:
    learned = trained(
        models.BPE(),
        trainers.BpeTrainer(
            vocab_size=500,
            special_tokens=["<|endoftext|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    )
    return write(
        folder,
        vocab_json=learned.get_vocab(),
        merges_txt=merges_text(merges_of(learned)),
        tokenizer_config_json={"tokenizer_class": "GPT2Tokenizer", "model_max_length": 64} | config,
    )


def make_opt(folder: Path) -> Path:
    """GPT-2's kind, with other special tokens, and one before each text."""
    make_gpt2(folder)
    vocab = json.loads((folder / "vocab.json").read_text())
    names = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}
    vocab = names | {piece: i + 3 for piece, i in vocab.items() if piece != "<|endoftext|>"}
    named = {"content": "</s>", "lstrip": False, "normalized": True, "rstrip": False}
    roles = {"bos_token": named, "eos_token": named, "unk_token": named}
    return write(
        folder,
        vocab_json=vocab,
        tokenizer_config_json={
            "tokenizer_class": "GPT2Tokenizer",
            "add_bos_token": True,
            "add_prefix_space": False,
            "errors": "replace",
            "model_max_length": 10**30,
        },
        special_tokens_map_json=roles | {"pad_token": "<pad>"},
        added_tokens_json={"<extra>": len(vocab), "plain": len(vocab) + 1},
    )


def make_gpt1(folder: Path) -> Path:
    learned = trained(
        models.BPE(end_of_word_suffix="</w>", unk_token="<unk>"),
        trainers.BpeTrainer(
            vocab_size=600,
            special_tokens=["<unk>"],
            end_of_word_suffix="</w>",
            show_progress=False,
        ),
        pre_tokenizers.BertPreTokenizer(),
        normalizers.BertNormalizer(lowercase=True),
    )
    return write(
        folder,
        vocab_json=learned.get_vocab(),
        merges_txt=merges_text(merges_of(learned)),
        tokenizer_config_json={"tokenizer_class": "OpenAIGPTTokenizer", "model_max_length": 512},
    )


def make_ctrl(folder: Path) -> Path:
    """Some pieces that merges pass through are left out of the vocabulary, as fastBPE may."""
    split = pre_tokenizers.Split(tokenizers.Regex(r"\S+\n?"), "removed", invert=True)
    learned = trained(
        models.BPE(end_of_word_suffix="</w>"),
        trainers.BpeTrainer(vocab_size=700, end_of_word_suffix="</w>", show_progress=False),
        split,
    )
    # A piece with a line end cannot be in merges.txt.
    pieces = [piece for piece in learned.get_vocab() if piece not in ("re", "th")]
    marked = [p.removesuffix("</w>") if p.endswith("</w>") else f"{p}@@" for p in sorted(pieces)]
    merges = [pair for pair in merges_of(learned) if "\n" not in "".join(pair)]
    return write(
        folder,
        vocab_json={piece: i for i, piece in enumerate(["<unk>", *filter(None, marked)])},
        merges_txt=merges_text(merges),
        tokenizer_config_json={"tokenizer_class": "CTRLTokenizer"},
    )


def make_bert(folder: Path, **config) -> Path:
    lines = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(set(CHINESE)), "the", "def"]
    lines += ["caf\u00e9", "cafe", *"abcdefghijklmnopqrstuvwxyzRT.,!?'#@"]
    lines += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"] + ["##ing", "##\u0301"]
    return write(
        folder,
        vocab_txt="\n".join(dict.fromkeys(lines)) + "\n",
        # Found in the text as it is after lower case has been written.
        added_tokens_json={"Zebra": len(dict.fromkeys(lines))},
        tokenizer_config_json={"tokenizer_class": "BertTokenizer"} | config,
    )


def make_json(folder: Path, kind: str) -> Path:
    """A folder with tokenizer.json alone: byte fallback, or Metaspace with Unigram."""
    if kind == "fallback":
        special = ["<unk>", "<s>", "</s>"]
        trainer = trainers.BpeTrainer(
            vocab_size=700,
            special_tokens=[*special, *(f"<0x{value:02X}>" for value in range(256))],
            show_progress=False,
        )
        learned = trained(
            models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True),
            trainer,
            pre_tokenizers.Metaspace(),
        )
        state = json.loads(learned.to_str())
        state["added_tokens"] = [t for t in state["added_tokens"] if t["content"] in special]
        state["pre_tokenizer"] = None
        learned = tokenizers.Tokenizer.from_str(json.dumps(state))
        # Llama's.
        learned.normalizer = normalizers.Sequence(
            [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        )
        learned.decoder = decoders.Sequence(
            [
                decoders.Replace("\u2581", " "),
                decoders.ByteFallback(),
                decoders.Fuse(),
                decoders.Strip(" ", 1, 0),
            ]
        )
        learned.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
        roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    else:
        learned = trained(
            models.Unigram(),
            trainers.UnigramTrainer(
                vocab_size=400,
                special_tokens=["<unk>", "</s>"],
                unk_token="<unk>",
                show_progress=False,
            ),
            pre_tokenizers.Metaspace(),
            normalizers.NFKC(),
        )
        learned.decoder = decoders.Metaspace()
        roles = {"eos_token": "</s>", "unk_token": "<unk>"}
    return write(
        folder,
        tokenizer_json=learned.to_str(),
        tokenizer_config_json={"tokenizer_class": "PreTrainedTokenizerFast"} | roles,
    )


MAKERS = {
    "gpt2": make_gpt2,
    "gpt2_space": lambda folder: make_gpt2(folder, add_prefix_space=True),
    "gpt_neox": lambda folder: make_gpt2(folder, tokenizer_class="GPTNeoXTokenizer"),
    "opt": make_opt,
    "openai-gpt": make_gpt1,
    "ctrl": make_ctrl,
    "bert": make_bert,
    "bert_cased": lambda folder: make_bert(
        folder, do_lower_case=False, strip_accents=True, tokenize_chinese_chars=False
    ),
    "fallback": lambda folder: make_json(folder, "fallback"),
    "metaspace": lambda folder: make_json(folder, "metaspace"),
}
BYTEWISE = ("gpt2", "gpt2_space", "gpt_neox", "opt")


@pytest.fixture(scope="session", params=MAKERS)
def folder(request, tmp_path_factory) -> Path:
    return MAKERS[request.param](tmp_path_factory.mktemp("hf") / request.param)


@pytest.fixture(scope="session")
def ours(folder) -> HuggingFaceTokenizer:
    return read_tokenizer_files(folder)


@pytest.fixture(scope="session")
def theirs(folder):
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not installed, so its ids cannot be compared"
    )
    return transformers.AutoTokenizer.from_pretrained(folder)


def their_text(theirs, ids) -> str:
    return theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def streamed(tokenizer, ids) -> str:
    stream = tokenizer.stream()
    return "".join([*map(stream.push, ids), stream.flush()])


def same(ours, theirs, text):
    """Ids and text are the same; what is streamed is what is decoded."""
    expected = theirs(text, add_special_tokens=False).input_ids
    assert ours.encode(text, special_tokens=True).tolist() == expected
    if not any(name in text for name in ours.special_tokens):
        assert ours.encode(text).tolist() == expected
    assert ours.decode(expected) == their_text(theirs, expected)
    assert streamed(ours, expected) == ours.decode(expected)


@pytest.mark.parametrize("text", [*AWKWARD, *CORPUS[:1]], ids=lambda text: ascii(text[:12]))
def test_awkward_text_has_their_ids(ours, theirs, text):
    same(ours, theirs, text)


@settings(max_examples=60, deadline=None)
@given(text=TEXT)
def test_any_text_has_their_ids(ours, theirs, text):
    same(ours, theirs, text)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_ids_have_their_text(ours, theirs, data):
    known = [i for i in range(ours.vocab_size) if i in ours._pieces]
    ids = data.draw(st.lists(st.sampled_from(known), max_size=12))
    assert ours.decode(ids) == their_text(theirs, ids)
    assert streamed(ours, ids) == ours.decode(ids)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_stream_never_takes_back(ours, data):
    """With the marks of each kind more often than by chance."""
    bytes_of_words = [i for i, piece in ours._pieces.items() if piece.startswith("<0x")]
    sampled = st.integers(0, ours.vocab_size - 1)
    if bytes_of_words:
        sampled |= st.sampled_from(bytes_of_words)
    ids = data.draw(st.lists(sampled, max_size=20))
    assert streamed(ours, ids) == ours.decode(ids)
    stream, text = ours.stream(), ""
    for i, token in enumerate(ids):
        text += stream.push(token)
        assert ours.decode(ids[: i + 1]).startswith(text)


def test_a_batch_is_each_text(ours):
    for special in (False, True):
        batch = ours.encode_batch([*AWKWARD, *ours.special_tokens], special_tokens=special)
        assert len(batch) == len(AWKWARD) + len(ours.special_tokens)
        for text, ids in zip([*AWKWARD, *ours.special_tokens], batch, strict=True):
            assert ids.dtype == np.int32
            assert ids.tolist() == ours.encode(text, special_tokens=special).tolist()
    assert ours.encode_batch([]) == []


def test_names_of_special_tokens(ours):
    """Text by default; tokens where asked for; no text ever again when decoded."""
    unknown = {"<unk>", "[UNK]"}
    for name, token in ours.special_tokens.items():
        assert ours.encode(name, special_tokens=True).tolist() == [token]
        assert ours.table[token] == b""
        assert ours.decode([token]) == ""
        if name not in unknown:
            assert token not in ours.encode(f"a {name} b {name}{name}")
    assert ours.separator in ours.special_tokens.values()
    assert ours.byte_lengths.shape == (ours.vocab_size,)


def test_saved_and_loaded(ours, folder, tmp_path):
    ours.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert type(loaded) is HuggingFaceTokenizer
    for name in ("digest", "table", "separator", "special_tokens", "prefix", "max_length"):
        assert getattr(loaded, name) == getattr(ours, name)
    for text in AWKWARD:
        assert loaded.encode(text).tolist() == ours.encode(text).tolist()
    for path in folder.iterdir():
        assert (tmp_path / "files" / path.name).read_bytes() == path.read_bytes()
    assert {path.name for path in folder.iterdir()} == ours.files.keys()


def test_their_prefix(ours, theirs):
    """What they put before a text, but for BERT's token for classification."""
    expected = theirs("a").input_ids[: -len(theirs("a", add_special_tokens=False).input_ids)]
    assert list(ours.prefix) == [i for i in expected if i == theirs.bos_token_id]


def test_what_they_save_is_read(ours, theirs, tmp_path):
    """The files that transformers writes today, which are others than it was given."""
    theirs.add_special_tokens({"pad_token": "<|new|>"})
    theirs.add_tokens(["zqzq"])
    theirs.save_pretrained(tmp_path)
    read = read_tokenizer_files(tmp_path, "ctrl")
    for text in [*AWKWARD, "a zqzq b<|new|>", CORPUS[0]]:
        same(read, theirs, text)
    assert read.special_tokens["<|new|>"] == theirs.pad_token_id
    # GPT-1 and CTRL had nothing but the unknown token, and now have one for padding.
    unknown_alone = list(ours.special_tokens) == ["<unk>"]
    assert read.separator == (theirs.pad_token_id if unknown_alone else ours.separator)
    assert read.max_length == ours.max_length
    assert read.vocab_size == len(theirs)


@pytest.mark.parametrize("kind", BYTEWISE)
def test_byte_level_loses_nothing(tmp_path, kind):
    tokenizer = read_tokenizer_files(MAKERS[kind](tmp_path))
    for text in [*AWKWARD, *CORPUS]:
        ids = tokenizer.encode(text)
        data = b"".join(tokenizer.table[i] for i in ids)
        assert data == tokenizer.decode_bytes(ids)
        assert tokenizer.byte_lengths[ids].sum() == len(data)
        if kind in ("gpt2", "opt"):
            assert data == text.encode()


def test_what_the_files_say(tmp_path):
    gpt2 = read_tokenizer_files(make_gpt2(tmp_path / "gpt2"))
    assert (gpt2.separator, gpt2.prefix, gpt2.max_length, gpt2.vocab_size) == (0, (), 64, 500)
    assert gpt2.special_tokens == {"<|endoftext|>": 0}
    opt = read_tokenizer_files(make_opt(tmp_path / "opt"))
    assert (opt.separator, opt.prefix, opt.max_length) == (2, (2,), None)
    assert opt.special_tokens == {"</s>": 2, "<pad>": 1}
    plain = opt.encode("a plain <extra>").tolist()
    assert plain[1:] == [*opt.encode(" ").tolist(), 504, *opt.encode(" ").tolist(), 503]
    assert opt.decode(plain) == "a plain <extra>"
    bert = read_tokenizer_files(make_bert(tmp_path / "bert"), "gpt2")
    assert (bert.separator, bert.prefix) == (3, ())
    assert bert.table[bert.encode("the")[0]] == b"the"
    assert bert.table[bert.encode("theing")[1]] == b"ing"
    cased = {"tokenizer_config_json": {"bos_token": "[BOS]", "add_bos_token": True}}
    bert = read_tokenizer_files(write(tmp_path / "bert", **cased))
    assert bert.prefix == (bert.vocab_size - 1,) == (bert.special_tokens["[BOS]"],)
    fallback = read_tokenizer_files(make_json(tmp_path / "fallback", "fallback"))
    assert (fallback.separator, fallback.prefix) == (2, (1,))
    assert fallback.table[3 + 0xE4] == b"\xe4"


def test_the_digest_is_of_what_is_used(tmp_path):
    make_opt(tmp_path)
    files = read_tokenizer_files(tmp_path).files
    digests = [HuggingFaceTokenizer(files | {"spiece.model": b"unused"}).digest]
    digests.append(HuggingFaceTokenizer(files).digest)
    assert len(set(digests)) == 1
    digests.append(HuggingFaceTokenizer(files, "opt").digest)
    for name, content in files.items():
        digests.append(HuggingFaceTokenizer(files | {name: content + b"\n"}).digest)
    assert len(set(digests)) == 2 + len(files)


@pytest.mark.parametrize("kind", ["openai-gpt", "ctrl"])
def test_the_model_type_chooses(tmp_path, kind):
    """Where tokenizer_config.json does not say."""
    folder = MAKERS[kind](tmp_path)
    said = read_tokenizer_files(folder)
    (folder / "tokenizer_config.json").unlink()
    chosen = read_tokenizer_files(folder, kind)
    assert chosen.encode(CORPUS[0]).tolist() == said.encode(CORPUS[0]).tolist()
    assert chosen.separator == said.separator == chosen.special_tokens["<unk>"]
    assert said.digest != chosen.digest


def test_ctrl_words_and_their_text(tmp_path):
    pieces = ["<unk>", "a@@", "b", "ab", "ab\n", "c@@"]
    tokenizer = read_tokenizer_files(
        write(
            tmp_path,
            vocab_json={piece: i for i, piece in enumerate(pieces)},
            merges_txt="#version: 0.2\na b</w>\n@ @</w>\nc @@</w>\n",
        ),
        "ctrl",
    )
    assert tokenizer.encode("ab  cb zb").tolist() == [3, 5, 2, 0, 2]
    # A word that looks like a piece is taken for it.
    assert tokenizer.encode("c@@ @@").tolist() == [5, 0]
    assert tokenizer.decode([5, 2, 3, 4, 2, 1]) == "cb ab ab\n b a@@"
    stream = tokenizer.stream()
    assert [stream.push(i) for i in (5, 2, 3, 1)] == ["c", "b", " ab", " a"]
    assert stream.flush() == "@@"


def test_a_stream_holds_what_may_change(tmp_path):
    tokenizer = read_tokenizer_files(make_json(tmp_path, "fallback"))
    letter = tokenizer._library.token_to_id("a")
    ids = [letter, *(3 + byte for byte in "\u00e9".encode()), letter]
    stream = tokenizer.stream()
    assert [stream.push(i) for i in ids] == ["a", "", "", "\u00e9a"]


def test_holes_stand_for_nothing(tmp_path):
    vocab = {"<unk>": 0, "a</w>": 2, "b</w>": 7}
    tokenizer = read_tokenizer_files(
        write(tmp_path, vocab_json=vocab, merges_txt="#version: 0.2\n"), "openai-gpt"
    )
    assert tokenizer.vocab_size == 8
    assert tokenizer.encode("a b").tolist() == [2, 7]
    assert tokenizer.table == (b"", b"", b"a", b"", b"", b"", b"", b"b")
    assert tokenizer.decode([2, 1, 7, 6]) == streamed(tokenizer, [2, 1, 7, 6]) == "a b"


def test_a_lone_tokenizer_json(tmp_path):
    """Its separator is the special token of a usual name; a name spelt in a text is text."""
    tokenizer = tokenizers.Tokenizer(models.WordLevel({"a": 0, "</s>": 1, "<": 2, "/s>": 3}, "a"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["</s>"])
    ours = read_tokenizer_files(write(tmp_path, tokenizer_json=tokenizer.to_str()))
    assert ours.separator == 1
    assert ours.encode("a </s> a").tolist() == [0, 2, 3, 0]
    assert ours.encode("a </s> a", special_tokens=True).tolist() == [0, 1, 0]
    assert ours.decode([0, 1, 0]) == "a a"


def test_half_a_character_is_named(ours):
    with pytest.raises(InputError, match="character 1 of this one is half of a surrogate"):
        ours.encode("a\udc80")
