"""The README's table of models: `python tests/interop/table.py`, with the extra 'parity' installed.

Every model is made small and random with transformers (see family.py), comes in through its files,
and is compared; every published size is counted from its preset. It takes some minutes.
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from family import MODELS, TOLERANCE, make_pair
from transformers import AutoModelForCausalLM

from gpt_jax.flops import num_params
from gpt_jax.interop.convert import convert, export
from gpt_jax.model.decode import generate_tokens
from gpt_jax.model.sampling import Sampling
from gpt_jax.presets import family

SEEDS = range(4)


def main() -> None:
    print("| model | published sizes (parameters) | compared | logits | layers | back | greedy |")
    print("|---|---|---|---|---|---|---|")
    for name, sizes in family().items():
        listed = ", ".join(f"{size} ({num_params(model):,})" for size, model in sizes.items())
        print(f"| {name} | {listed} | {checks(name)} |", flush=True)


def checks(name: str) -> str:
    """What was seen of all small models of a kind."""
    kinds = [kind for kind in MODELS if kind == name or kind.startswith((f"{name},", f"{name}-"))]
    kinds = [kind for kind in kinds if kind not in family() or kind == name]
    logits, layers, files, text = [], [], [], []
    for kind in kinds:
        for seed in SEEDS:
            with tempfile.TemporaryDirectory() as folder:
                pair = make_pair(kind, seed, Path(folder) / "hf")
                logits.append(pair.difference())
                layers.append(max(pair.layer_differences()))
                files.append(kind == "GPT-3" or bit_equal(pair, Path(folder)))
                text.append(same_text(pair))
    assert max(logits + layers) < TOLERANCE
    assert all(files + text)
    differences = f"{max(logits):.1e} | {max(layers):.1e}"
    back = "no such format" if name == "GPT-3" else "bit-equal"
    return f"{len(logits)} | {differences} | {back} | equal"


def bit_equal(pair, folder: Path) -> bool:
    """In, out, and into transformers again."""
    convert(pair.folder, folder / "run")
    export(folder / "run", folder / "back")
    back = AutoModelForCausalLM.from_pretrained(folder / "back").state_dict()
    before = pair.theirs.state_dict()
    return before.keys() == back.keys() and all(torch.equal(before[k], back[k]) for k in before)


def same_text(pair, length: int = 8, count: int = 16) -> bool:
    """Greedy tokens from the cache, and from transformers' generate."""
    prompt = pair.tokens[0, :length]
    how, size = Sampling(temperature=0.0), pair.config.vocab_size
    ours = generate_tokens(pair.config, pair.params, [prompt], count, how, vocab_size=size)
    pair.theirs.generation_config.eos_token_id = None
    given = torch.tensor(prompt)[None]
    theirs = pair.theirs.generate(given, max_new_tokens=count, do_sample=False)
    return np.concatenate(list(ours)).tolist() == theirs[0, length:].tolist()


if __name__ == "__main__":
    main()
