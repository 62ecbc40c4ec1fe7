r"""A language model that sums up the news: CNN and Daily Mail, asked as GPT-2 is.

    gpt-jax train experiments/finetune/summarisation.py --init-from RUN
    gpt-jax train experiments/finetune/summarisation.py --init-from RUN --data.files news.jsonl

RUN is a run, here or in a bucket, or a folder in the Hugging Face format; model and tokenizer are
its own. A line of news.jsonl is {"article": "...", "highlights": "..."}.

What matters of an article is at its beginning, so that one that does not fit is left out, and not
cut; how many these are is told at the start. Fields of another dataset: --data.files 'tfds:xsum'
--data.prompt $'{document}\nTL;DR:' --data.target ' {summary}'.

The dataset is 287,000 articles of some 900 tokens, which TFDS downloads. With GPT-2 (124M) three
epochs of those that fit 1,024 tokens are some 0.4 G tokens, 3e17 FLOPs: hours of one GPU, by
arithmetic and not measured. For comparison, GPT-2 (1.5B) has a ROUGE-L of 26.6 from the prompt
alone (Radford et al. 2019, table 4).
"""

from gpt_jax.config import Config, DataConfig
from gpt_jax.presets import fine_tuning


def get_config() -> Config:
    """GPT-2's prompt; the loss is of the summary alone."""
    return fine_tuning(
        "summarisation",
        DataConfig(
            files=("tfds:cnn_dailymail?split=train",),
            prompt="{article}\nTL;DR:",
            target=" {highlights}",
        ),
    )
