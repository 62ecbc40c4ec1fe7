"""A language model that answers questions on a text: SQuAD, asked as GPT-3 is.

    gpt-jax train experiments/finetune/question_answering.py --init-from RUN
    gpt-jax train experiments/finetune/question_answering.py --init-from RUN --data.files qa.jsonl

RUN is a run, here or in a bucket, or a folder in the Hugging Face format; model and tokenizer are
its own. A line of qa.jsonl is as in the Hugging Face version of the dataset: {"title": "...",
"context": "...", "question": "...", "answers": {"text": ["..."]}}.

The dataset is 88,000 questions with some 200 tokens each, which TFDS downloads. With GPT-2 (124M)
three epochs are 50 M tokens, 4e16 FLOPs: an hour of one GPU, by arithmetic and not measured. For
comparison, GPT-3 has an F1 of 69.8 on version 2 with 16 examples (Brown et al. 2020, table 3.7).
"""

from gpt_jax.config import Config, DataConfig
from gpt_jax.presets import fine_tuning


def get_config() -> Config:
    """The prompt of GPT-3's appendix G; the loss is of the first answer that is given."""
    return fine_tuning(
        "question_answering",
        DataConfig(
            files=("tfds:squad/v1.1?split=train",),
            prompt="Title: {title}\n\nBackground: {context}\n\nQ: {question}\n\nA:",
            target=" {answers[text][0]}",
        ),
    )
