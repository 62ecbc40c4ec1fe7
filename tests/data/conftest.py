"""Small corpora and token shards for the tests of the data room."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from gpt_jax.config import Config, DataConfig, ModelConfig, TrainConfig
from gpt_jax.data.shards import ShardIndex, TokenShards


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A folder of 40 short text files."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(40):
        (folder / f"{i:02d}.txt").write_text(f"Document {i}.\n" + "word \u2581 caf\u00e9\t\r\n" * i)
    return folder


@pytest.fixture
def experiment(tmp_path: Path, texts: Path):
    """Make a Config over `texts` with bytes as tokens; keyword arguments change its data part."""

    def make(vocab_size: int = 0, context_length: int = 8, **data) -> Config:
        defaults = {
            "files": (str(texts / "*.txt"),),
            "tokenizer": "bytes",
            "validation_fraction": 0.3,
            "cache_dir": str(tmp_path / "cache"),
        }
        return Config(
            model=ModelConfig(vocab_size=vocab_size, context_length=context_length),
            data=DataConfig(**(defaults | data)),
            train=TrainConfig(batch_tokens=context_length * 4),
        )

    return make


@pytest.fixture
def fake_shards():
    """Make shards of the token ids 1, 2, 3, ... with the given lengths; 0 is the separator."""

    def make(*lengths: int, separators: tuple[int, ...] = ()) -> TokenShards:
        ids = np.arange(1, sum(lengths) + 1, dtype=np.uint16)
        ids[list(separators)] = 0
        parts = tuple(np.split(ids, np.cumsum(lengths)[:-1]))
        index = ShardIndex(1, 1, len(ids), 0, "uint16", 0, 1 << 16, "", "", 0.0, ())
        return TokenShards(Path("fake"), index, parts)

    return make


@pytest.fixture
def with_train():
    """`with_train(config, total_tokens=...)`: the config with fields of its train part changed."""
    return lambda config, **train: dataclasses.replace(
        config, train=dataclasses.replace(config.train, **train)
    )
