"""The README's figure of greedy decoding: ours beside transformers' `generate`, in one process.

    python tests/interop/decode_speed.py

GPT-2 of 124M parameters with random weights, converted, on the CPU in float32 (needs the extra
`parity`). Both read the same prompts of 64 tokens and write 128 more, greedily, one after the
other, several times over; the figure is the ratio of the best times, and that of the medians.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from family import write_tokenizer

from gpt_jax.interop.load import load_hf
from gpt_jax.model.decode import decode_all
from gpt_jax.model.sampling import Sampling

PROMPT, NEW = 64, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--new", type=int, default=NEW, help="tokens to write")
    parser.add_argument("--turns", type=int, default=5, help="times that each is run")
    options = parser.parse_args()
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval()
    theirs.generation_config.eos_token_id = None
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        write_tokenizer(Path(folder), theirs.config.vocab_size)
        config, params, _ = load_hf(Path(folder))
    print(f"{theirs.num_parameters():,} parameters, {torch.get_num_threads()} threads of torch")
    print("| batch | gpt_jax, tokens/s | transformers, tokens/s | ratio | of medians |")
    print("|---|---|---|---|---|")
    for batch in options.batches:
        prompts = np.random.default_rng(batch).integers(50257, size=(batch, PROMPT))
        given = torch.tensor(prompts)

        def ours(prompts=prompts):
            how = Sampling(temperature=0)
            found = decode_all(
                config.model, params, list(prompts), options.new, how, vocab_size=50257
            )
            return np.asarray(found.tokens_BN)

        @torch.no_grad()
        def generated(given=given):
            mask = torch.ones_like(given)
            told = {"attention_mask": mask, "max_new_tokens": options.new, "do_sample": False}
            return theirs.generate(given, **told, pad_token_id=0)[:, PROMPT:].numpy()

        same = (ours() == generated()).mean()  # and both are warm
        seconds = [(timed(ours), timed(generated)) for _ in range(options.turns)]
        rates = [[batch * options.new / second for second in pair] for pair in seconds]
        (best, median), (their_best, their_median) = (
            (max(of), statistics.median(of)) for of in zip(*rates, strict=True)
        )
        print(
            f"| {batch} | {best:.1f} | {their_best:.1f} | {best / their_best:.2f} | "
            f"{median / their_median:.2f} |  {same:.1%} of the tokens are the same",
            flush=True,
        )


def timed(call) -> float:
    """Seconds."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
