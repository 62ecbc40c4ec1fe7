"""A language model that tells whether a review is kind: IMDB, by a linear head, as GPT-1 does.

    gpt-jax train experiments/finetune/classification_head.py --init-from RUN
    gpt-jax train experiments/finetune/classification_head.py --init-from RUN --data.files x.jsonl

RUN and the records are those of classification.py. A linear layer reads the last token of the
prompt; the loss of the review's own tokens, half as heavy, is learned beside it (Radford et al.
2018, section 3.2). The share of held-out reviews that it gets right is `val_accuracy`, by which the
best step is chosen. The layer stays in the run, as `classifier`, and is no part of what
`gpt_jax.load` and `gpt-jax export` give.

The time is that of classification.py. For comparison, GPT-1 is right on 91.3 % of SST-2 (Radford et
al. 2018, table 4).
"""

import dataclasses

from gpt_jax.config import Config, DataConfig, TuneConfig
from gpt_jax.presets import fine_tuning


def get_config() -> Config:
    """The targets are the classes; that they are words plays no part."""
    base = fine_tuning(
        "classification_head",
        DataConfig(
            files=("tfds:imdb_reviews/plain_text?split=train",),
            prompt="{text}\nSentiment:",
            target=" {label}",
            labels=("neg=negative", "pos=positive"),
            too_long="cut_prompt_start",
        ),
    )
    return dataclasses.replace(
        base,
        tune=TuneConfig(classes=(" negative", " positive"), lm_weight=0.5),
        train=dataclasses.replace(base.train, best="val_accuracy"),
    )
