r"""A language model that tells whether a review is kind: IMDB, by words for the labels.

    gpt-jax train experiments/finetune/classification.py --init-from RUN
    gpt-jax train experiments/finetune/classification.py --init-from RUN --data.files reviews.jsonl

RUN is a run, here or in a bucket, or a folder in the Hugging Face format; model and tokenizer are
its own. A line of reviews.jsonl is {"text": "...", "label": "neg"} or "pos"; --data.labels
0=negative 1=positive takes numbers. SST-2: --data.files 'tfds:glue/sst2?split=train' --data.prompt
$'{sentence}\nSentiment:' --data.labels negative=negative positive=positive.

Of a review that is too long the beginning is cut off: the verdict is at its end. What is learned is
a word, so that the model that comes out is a language model still, and answers `gpt-jax generate`.
classification_head.py is GPT-1's way.

The dataset is 25,000 reviews of some 300 tokens, which TFDS downloads. With GPT-2 (124M) three
epochs are 23 M tokens, 1.7e16 FLOPs: minutes of one GPU, by arithmetic and not measured.
"""

from gpt_jax.config import Config, DataConfig
from gpt_jax.presets import fine_tuning


def get_config() -> Config:
    """The loss is of the label's word alone."""
    return fine_tuning(
        "classification",
        DataConfig(
            files=("tfds:imdb_reviews/plain_text?split=train",),
            prompt="{text}\nSentiment:",
            target=" {label}",
            labels=("neg=negative", "pos=positive"),
            too_long="cut_prompt_start",
        ),
    )
