"""Every rule of the config by example, and the config as JSON and back."""

import dataclasses
import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_jax.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    FeedbackConfig,
    InputError,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    Share,
    TrainConfig,
    TuneConfig,
    from_dict,
)


@pytest.mark.parametrize(
    ("cls", "fields", "rule"),
    [
        (ModelConfig, {"vocab_size": -1}, "vocab_size must not be negative: -1"),
        (ModelConfig, {"context_length": 0}, "context_length must be positive, and it is 0"),
        (ModelConfig, {"num_layers": 0}, "num_layers must be positive, and it is 0"),
        (ModelConfig, {"embed_dim": -8}, "embed_dim must be positive, and it is -8"),
        (ModelConfig, {"num_heads": 0}, "num_heads must be positive, and it is 0"),
        (ModelConfig, {"attention_window": 0}, "attention_window must be positive"),
        (ModelConfig, {"scan_unroll": 0}, "scan_unroll must be positive"),
        (
            ModelConfig,
            {"attention_dropout": 1.0},
            r"attention_dropout must be in \[0.0, 1.0\), and it is 1.0",
        ),
        (ModelConfig, {"residual_dropout": -0.1}, "residual_dropout must be in .* -0.1"),
        (
            ModelConfig,
            {"embed_dim": 768, "num_heads": 7},
            "num_heads must divide embed_dim, and 7 heads do not divide a width of 768",
        ),
        (ModelConfig, {"attention_pattern": ()}, "attention_pattern is empty"),
        (
            ModelConfig,
            {"num_layers": 5, "attention_pattern": ("dense", "banded")},
            "attention_pattern must repeat .* 2 kinds do not divide num_layers=5",
        ),
        (DataConfig, {"tokenizer_sample_bytes": 0}, "tokenizer_sample_bytes must be positive"),
        (DataConfig, {"sequence_length": -1}, "sequence_length must not be negative"),
        (DataConfig, {"validation_fraction": 0.0}, "validation_fraction must be .* 0.0"),
        (DataConfig, {"validation_fraction": 1.0}, "validation_fraction must be .* 1.0"),
        (DataConfig, {"tokenizer": "words"}, "tokenizer must be one of .* 'words'"),
        (DataConfig, {"corpus": "c", "files": ("a",)}, "both are given: c and a"),
        (DataConfig, {"corpus": "c", "tokenizer": "bytes"}, "own tokenizer, and .*'bytes' asks"),
        (DataConfig, {"mixture": ("web=1",)}, "and data.corpus names none"),
        (DataConfig, {"prompt": "{a}"}, "two templates .* they are '{a}' and ''"),
        (DataConfig, {"target": "{b}"}, "two templates .* they are '' and '{b}'"),
        (DataConfig, {"prompt": "a", "target": "b"}, "the target names a field"),
        (DataConfig, {"prompt": "{", "target": "{b}"}, r"in '\{' they are not \(Single"),
        (DataConfig, {"prompt": "{a!r}", "target": "{b}"}, "'{a!r}' has another: 'a'"),
        (DataConfig, {"prompt": "{a:>3}", "target": "{b}"}, "without a format"),
        (DataConfig, {"prompt": "{}", "target": "{b}"}, "'{}' has another: ''"),
        (DataConfig, {"prompt": "{a[}", "target": "{b}"}, "they are not"),
        (DataConfig, {"prompt": "{a[b].c}", "target": "{b}"}, "has another"),
        (DataConfig, {"too_long": "error"}, "'error' is of prompts and targets"),
        (DataConfig, {"rejected": "{c}"}, "a pair is a prompt, .* '', '' and '{c}'"),
        (
            DataConfig,
            {"prompt": "a", "target": "{b}", "rejected": "c"},
            "last two name a field in braces, and they are 'a', '{b}' and 'c'",
        ),
        (DataConfig, {"chat": "m", "prompt": "a", "target": "{b}"}, "chat='m'. or a prompt"),
        (DataConfig, {"chat": "m", "split": "position"}, "held out whole"),
        (DataConfig, {"chat": "m", "corpus": "c"}, "from a built corpus"),
        (DataConfig, {"labels": ("0=a",)}, "for the one field .* data.target='' names 0"),
        (
            DataConfig,
            {"prompt": "a", "target": "{b}{c}", "labels": ("0=a",)},
            "data.target='{b}{c}' names 2",
        ),
        *(
            (
                DataConfig,
                {"prompt": "a", "target": "{b}", "labels": entries},
                "VALUE=WORD, .* there",
            )
            for entries in (("0",), ("0=",), ("0=a", "0=b"), ("0=a", "1=a"))
        ),
        (
            DataConfig,
            {"prompt": "a", "target": "{b}", "split": "position"},
            "held out whole: .* nor by position",
        ),
        (DataConfig, {"prompt": "a", "target": "{b}", "corpus": "c"}, "from a built corpus"),
        *(
            (DataConfig, {"corpus": "c", "mixture": (entry,)}, f"there is {entry!r}")
            for entry in (
                "web",
                "web=",
                "=1",
                "web=-1",
                "web=nan",
                "web=1@",
                "web=1@1e9",
                "web=1@-5",
            )
        ),
        (
            DataConfig,
            {"corpus": "c", "mixture": ("web=1@9", "web=2")},
            "in the order of its token counts: web=1@9, web=2",
        ),
        (
            DataConfig,
            {"corpus": "c", "mixture": ("web=1", "web=2@0")},
            "a source once at a time, and here is one twice: web=1, web=2@0",
        ),
        (OptimizerConfig, {"learning_rate": 0.0}, "learning_rate must be positive"),
        (OptimizerConfig, {"learning_rate": float("nan")}, "learning_rate must be positive"),
        (OptimizerConfig, {"eps": 0.0}, "eps must be positive"),
        (OptimizerConfig, {"clip_norm": 0.0}, "clip_norm must be positive"),
        (OptimizerConfig, {"b1": 1.0}, r"b1 must be in \[0.0, 1.0\)"),
        (OptimizerConfig, {"b2": -0.5}, r"b2 must be in \[0.0, 1.0\)"),
        (OptimizerConfig, {"weight_decay": -0.1}, "weight_decay is negative: -0.1"),
        (OptimizerConfig, {"final_learning_rate_fraction": 1.5}, "final_learning_rate_.* 1.5"),
        (OptimizerConfig, {"warmup_tokens": -1}, "warmup_tokens and .* must not be negative"),
        (OptimizerConfig, {"decay_tokens": -1}, "and decay_tokens must not be negative"),
        (TrainConfig, {"total_tokens": 0}, "total_tokens must be positive"),
        (TrainConfig, {"batch_tokens": 0}, "batch_tokens must be positive"),
        (TrainConfig, {"max_skipped_in_row": 0}, "max_skipped_in_row must be positive"),
        (TrainConfig, {"log_every": 0}, "log_every must be positive"),
        (TrainConfig, {"eval_every": 0}, "eval_every must be positive"),
        (TrainConfig, {"label_smoothing": 1.0}, "label_smoothing must be in"),
        (TrainConfig, {"z_loss": -1e-4}, "z_loss is negative"),
        (TrainConfig, {"device_batch_tokens": -1}, "device_batch_tokens is negative"),
        (TrainConfig, {"eval_tokens": -1}, "eval_tokens is negative"),
        (TrainConfig, {"sample_tokens": -1}, "sample_tokens is negative"),
        (TrainConfig, {"seed": -1}, "seed is negative"),
        (TrainConfig, {"ramp_tokens": 1000}, "ramp_start_tokens and ramp_tokens.* 0 and 1000"),
        (TrainConfig, {"ramp_start_tokens": 64}, "ramp_start_tokens and ramp_tokens.* 64 and 0"),
        (
            TrainConfig,
            {"ramp_start_tokens": 8192, "ramp_tokens": 99, "batch_tokens": 4096},
            "ramp_start_tokens=8192 must not exceed batch_tokens=4096",
        ),
        (CheckpointConfig, {"every": 0}, "every must be positive"),
        (CheckpointConfig, {"keep_last": 0}, "keep_last must be positive"),
        (CheckpointConfig, {"keep_best": -1}, "keep_best is negative"),
        (MeshConfig, {"data": 0}, "mesh.data must be positive or -1: 0"),
        (MeshConfig, {"fsdp": -2}, "mesh.fsdp must be positive or -1: -2"),
        (MeshConfig, {"data": -1, "tensor": -1}, "only one mesh axis may be -1"),
    ],
)
def test_a_broken_rule_is_an_error_that_names_the_field(cls, fields, rule):
    """One example for each rule of each part, refused when it is built."""
    with pytest.raises(InputError, match=rule):
        cls(**fields)


EXAMPLES = DataConfig(prompt="{a}", target="{b}")
PAIRS = DataConfig(prompt="{a}", target="{b}", rejected="{c}")
DPO = FeedbackConfig(method="dpo")
REINFORCE = FeedbackConfig(method="reinforce", reward="length:9")


@pytest.mark.parametrize(
    ("parts", "rule"),
    [
        (
            {"data": DataConfig(sequence_length=512)},
            "data.sequence_length=512 is more than model.context_length=256",
        ),
        (
            {"train": TrainConfig(batch_tokens=1000)},
            "train.batch_tokens .* 1000 tokens .* sequences of 256: .* 768 and 1024",
        ),
        (
            {"train": TrainConfig(ramp_start_tokens=300, ramp_tokens=9000)},
            "train.ramp_start_tokens .* 300 tokens .* 256 and 512",
        ),
        (
            {"train": TrainConfig(device_batch_tokens=100)},
            "train.device_batch_tokens .* 100 tokens .* 0 and 256",
        ),
        (
            {"optimizer": OptimizerConfig(warmup_tokens=300, decay_tokens=200)},
            "warmup_tokens=300 is more than the 200 tokens of optimizer.decay_tokens",
        ),
        (
            {
                "optimizer": OptimizerConfig(warmup_tokens=10_000),
                "train": TrainConfig(total_tokens=9_999),
            },
            "warmup_tokens=10000 is more than the 9999 tokens of train.total_tokens",
        ),
        (
            {"feedback": DPO},
            "by feedback.method='dpo', .* data.rejected='' and the method is 'dpo'",
        ),
        (
            {"data": PAIRS},
            "by feedback.method='dpo', .* data.rejected='{c}' and the method is ''",
        ),
        (
            {"data": PAIRS, "feedback": REINFORCE},
            "by feedback.method='dpo', .* data.rejected='{c}' and the method is 'reinforce'",
        ),
        ({"feedback": REINFORCE}, "answers are drawn to data.prompt, and there is none"),
        (
            {
                "data": replace(EXAMPLES, sequence_length=64),
                "feedback": REINFORCE,
            },
            "feedback.max_new_tokens=64 leaves nothing of 64 tokens",
        ),
        (
            {
                "data": EXAMPLES,
                "feedback": REINFORCE,
                "tune": TuneConfig(classes=("a", "b")),
            },
            "a classifier is not learned from feedback",
        ),
    ],
)
def test_rules_between_the_parts(parts, rule):
    """What only the whole experiment can break, with both numbers."""
    with pytest.raises(InputError, match=rule):
        Config(**parts)


def test_values_at_the_limits_are_taken():
    """The neighbours of what is refused."""
    assert ModelConfig(residual_dropout=0.0, attention_window=1, scan_unroll=1, num_heads=1)
    assert ModelConfig(num_layers=6, attention_pattern=("dense", "banded", "banded"))
    assert OptimizerConfig(final_learning_rate_fraction=1.0, b1=0.0, weight_decay=0.0)
    assert DataConfig(tokenizer="folder/some.model")
    assert MeshConfig(data=1, fsdp=-1, tensor=2)
    assert TrainConfig(ramp_start_tokens=4096, ramp_tokens=1, batch_tokens=4096)
    assert Config(data=DataConfig(sequence_length=256))
    assert Config(optimizer=OptimizerConfig(warmup_tokens=10_000_000))


def test_a_config_is_frozen():
    """A field cannot be changed behind the checks; `replace` builds, and so checks, anew."""
    config = Config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.model.num_heads = 3
    with pytest.raises(InputError, match="num_heads"):
        replace(config.model, num_heads=3)


@pytest.mark.parametrize(
    ("vocab_size", "rows"), [(1, 128), (128, 128), (129, 256), (50257, 50304), (50304, 50304)]
)
def test_the_vocabulary_is_padded_to_a_multiple_of_128(vocab_size, rows):
    """GPT-2's 50,257 tokens become the well-known 50,304."""
    assert ModelConfig(vocab_size=vocab_size).padded_vocab_size == rows


def test_the_padding_of_an_open_vocabulary_is_not_known():
    """0 stands for the tokenizer's; an embedding of no rows would be a silent error."""
    with pytest.raises(InputError, match="vocab_size is not known"):
        _ = ModelConfig(vocab_size=0).padded_vocab_size


def test_what_follows_from_other_fields():
    """Lengths that are 0 fall back on the field that their docstring names."""
    model = ModelConfig(embed_dim=96, num_heads=4, context_length=64)
    assert (model.head_dim, model.mlp_dim) == (24, 384)
    assert Config(model=model).sequence_length == 64
    assert Config(model=model, data=DataConfig(sequence_length=32)).sequence_length == 32
    assert Config(train=TrainConfig(total_tokens=5)).decay_tokens == 5
    assert Config(optimizer=OptimizerConfig(decay_tokens=7)).decay_tokens == 7


@settings(deadline=None)  # a busy machine is no fault of the config
@given(
    name=st.text(),
    layers=st.integers(1, 50),
    pattern=st.lists(st.sampled_from(["dense", "banded"]), min_size=1, max_size=3),
    dtype=st.sampled_from(["float32", "bfloat16"]),
    rate=st.floats(1e-300, 1e300),
    isolate=st.booleans(),
    files=st.lists(st.text(), max_size=3),
    fsdp=st.sampled_from([-1, 1, 4]),
)
def test_json_and_back(name, layers, pattern, dtype, rate, isolate, files, fsdp):
    """Through real JSON, where tuples are lists: the same config, floats bit for bit."""
    config = Config(
        name=name,
        model=ModelConfig(
            num_layers=layers * len(pattern), attention_pattern=tuple(pattern), dtype=dtype
        ),
        data=DataConfig(files=tuple(files), isolate_documents=isolate),
        optimizer=OptimizerConfig(learning_rate=rate),
        mesh=MeshConfig(data=1, fsdp=fsdp),
    )
    assert from_dict(Config, json.loads(json.dumps(asdict(config)))) == config


def test_fields_left_out_keep_their_defaults():
    """A config.json of an earlier version, with fewer fields, can be read."""
    assert from_dict(Config, {}) == Config()
    assert from_dict(Config, {"model": {"num_layers": 6}}).model == ModelConfig(num_layers=6)


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"modle": {}}, "there is no field 'modle': did you mean 'model'?"),
        ({"model": {"num_layer": 4}}, "'model.num_layer': did you mean 'num_layers'?"),
        ({"train": {"xyzzy": 4}}, "'train.xyzzy': there are batch_tokens, "),
        ({"model": {"num_layers": "4"}}, "model.num_layers must be of type .*int.* '4'"),
        ({"model": {"num_layers": 4.0}}, "model.num_layers must be of type .*int.* 4.0"),
        ({"model": {"num_layers": True}}, "model.num_layers must be of type .*int.* True"),
        ({"model": {"num_layers": None}}, "model.num_layers must be of type .*int.* None"),
        (
            {"model": {"embedding_dropout": "0.1"}},
            "model.embedding_dropout must be of type .*float.* '0.1'",
        ),
        (
            {"model": {"embedding_dropout": False}},
            "model.embedding_dropout must be of type .*float.* False",
        ),
        ({"model": {"dtype": "float16"}}, "model.dtype must be one of 'float32', 'bfloat16'"),
        ({"model": {"attention_pattern": ["bandit"]}}, "attention_pattern .* 'bandit'"),
        ({"model": {"attention_pattern": "dense"}}, "attention_pattern must be .* 'dense'"),
        ({"data": {"files": ["a", 1]}}, "data.files must be of type .*str.* 1"),
        ({"data": {"isolate_documents": 1}}, "isolate_documents must be of type .*bool.* 1"),
        ({"name": 3}, "name must be of type .*str.* 3"),
        ({"model": 4}, "model must be an object: 4"),
        ([], "a config must be an object"),
        ({"model": {"num_heads": 7}}, "num_heads must divide embed_dim"),
    ],
)
def test_json_that_is_no_config_is_refused(values, rule):
    """Unknown fields name the nearest one, ill-typed ones the type; rules hold as ever."""
    with pytest.raises(InputError, match=rule):
        from_dict(Config, values)


def test_an_integer_serves_as_a_float():
    """JSON writes 1.0 as 1 in many hands; the field is a float all the same."""
    clip_norm = from_dict(Config, {"optimizer": {"clip_norm": 1}}).optimizer.clip_norm
    assert type(clip_norm) is float


def test_a_mixture_is_read_in_its_order():
    mixture = ("web=60", "my.books=.5@1_000_000", "web=0@1_000_000", "web=2.50@2000000")
    assert DataConfig(corpus="corpora/a", mixture=mixture).shares == (
        Share("web", 60.0, 0),
        Share("my.books", 0.5, 1_000_000),
        Share("web", 0.0, 1_000_000),
        Share("web", 2.5, 2_000_000),
    )
