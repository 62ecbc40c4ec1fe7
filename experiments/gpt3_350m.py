"""GPT-3 Medium: 350 M parameters, 24 layers of width 1,024, 300 B tokens (GPT-3, Table 2.1).

    gpt-jax train experiments/gpt3_350m.py --data.files 'my_corpus/*.jsonl.gz'

Needs accelerators; no run of it is on record here. Without --data.files the text is Python's
standard library, enough to try the program but not to train it.
"""

from gpt_jax.config import Config
from gpt_jax.presets import gpt3


def get_config() -> Config:
    """The paper's model, batch, learning rate and schedule, as `presets` reads them."""
    return gpt3("350m")
