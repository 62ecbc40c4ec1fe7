"""The README's figure of evaluation: tokens per second of likelihoods beside the forward pass.

    python tests/evaluate/likelihood_speed.py

One model, the same rows of the same length: `LanguageModel.loglikelihoods`, texts and all, and the
validation step of training, in turns.
"""

import argparse
import statistics
import time

import jax
import numpy as np

from gpt_jax.config import Config, DataConfig, ModelConfig, TrainConfig
from gpt_jax.data.tokenizers import ByteTokenizer
from gpt_jax.evaluate.language_model import BATCH_TOKENS, LanguageModel
from gpt_jax.train.step import Program


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--length", type=int, default=256, help="tokens of a row: a power of two")
    parser.add_argument("--batches", type=int, default=3, help="of one turn")
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    length = options.length
    model = ModelConfig(
        vocab_size=options.vocab,
        context_length=length,
        num_layers=options.layers,
        embed_dim=options.width,
        num_heads=options.width // 64,
    )
    train = TrainConfig(batch_tokens=BATCH_TOKENS, total_tokens=10 * BATCH_TOKENS)
    config = Config(name="speed", model=model, train=train, data=DataConfig(tokenizer="bytes"))
    program = Program(config)
    params, rows = program.create_state().params, BATCH_TOKENS // length
    language_model = LanguageModel(model, ByteTokenizer(), program.mesh)
    language_model.params = params
    random = np.random.default_rng(0)
    letters = random.integers(97, 123, (options.batches * rows, length), np.uint8)
    pairs = [("", row.tobytes().decode()) for row in letters]
    tokens = random.integers(256, size=(rows, length), dtype=np.int32)
    batch = {"inputs": tokens, "targets": tokens, "weights": np.ones(tokens.shape, np.float32)}

    def likelihoods() -> None:
        assert language_model.loglikelihoods(pairs)[0].tokens == length

    def forward() -> None:
        jax.block_until_ready([program.eval_step(params, batch) for _ in range(options.batches)])

    likelihoods()
    forward()  # both are compiled
    seconds = [(timed(likelihoods), timed(forward)) for _ in range(options.turns)]
    count = options.batches * BATCH_TOKENS
    for name, of in zip(("likelihoods", "forward pass"), zip(*seconds, strict=True), strict=True):
        best, median = count / min(of), count / statistics.median(of)
        print(f"{name:<14}{best:>10,.0f} tokens/s at best, {median:,.0f} in the median")
    ratios = [theirs / ours for ours, theirs in seconds]
    best = min(theirs for _, theirs in seconds) / min(ours for ours, _ in seconds)
    print(f"{'ratio':<14}{best:>10.2f} of the best, {statistics.median(ratios):.2f} by turns")


def timed(call) -> float:
    """Seconds."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
