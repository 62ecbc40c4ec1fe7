"""What a run is trained on, and by which program: text, examples, pairs of answers, its own."""

from __future__ import annotations

from gpt_jax.config import Config
from gpt_jax.data.corpus import Corpus
from gpt_jax.data.mixture import Mixture, open_mixture
from gpt_jax.data.questions import Questions
from gpt_jax.data.supervised import Packed, training_examples
from gpt_jax.train.dpo import PreferenceProgram
from gpt_jax.train.reinforce import ReinforceProgram
from gpt_jax.train.step import Program

Source = Mixture | Packed | Questions
"""What is trained on."""


def source_of(config: Config, corpus: Corpus) -> Source:
    """What `config` trains on of a corpus."""
    if config.feedback.method == "reinforce":
        return Questions(config, corpus.tokenizer)
    if config.data.supervised:
        return training_examples(corpus, config)
    return open_mixture(corpus, config)


def program_of(config: Config, source: Source, corpus: Corpus) -> Program:
    """The program that trains on it."""
    if isinstance(source, Questions):
        return ReinforceProgram(config, source, corpus.tokenizer)
    return PreferenceProgram(config) if config.feedback.method == "dpo" else Program(config)
