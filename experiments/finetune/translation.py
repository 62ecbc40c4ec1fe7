"""A language model that translates: Romanian to English, WMT 2016, asked as GPT-3 is.

    gpt-jax train experiments/finetune/translation.py --init-from RUN
    gpt-jax train experiments/finetune/translation.py --init-from RUN --data.files pairs.jsonl

RUN is a run, here or in a bucket, or a folder in the Hugging Face format; model and tokenizer are
its own. A line of pairs.jsonl is {"ro": "Noroc.", "en": "Good day."}. Other languages: another
dataset, such as --data.files 'tfds:wmt14_translate/fr-en?split=train', and another --data.prompt.

The dataset is 610,000 pairs, which TFDS downloads; where it was prepared elsewhere, name the folder
(&data_dir=DIR). With GPT-2 (124M) three epochs are some 0.25 G tokens, 1.9e17 FLOPs: hours of one
GPU, weeks of two CPU cores, by arithmetic and not measured. For comparison, without any fine-tuning
GPT-3 has 19.9 BLEU in this direction with no example and 39.5 with 64 (Brown et al. 2020, table
3.4).
"""

from gpt_jax.config import Config, DataConfig
from gpt_jax.presets import fine_tuning


def get_config() -> Config:
    """The prompt of GPT-3's appendix G; the loss is of the translation alone."""
    return fine_tuning(
        "translation",
        DataConfig(
            files=("tfds:wmt16_translate/ro-en?split=train",),
            prompt="Q: What is the English translation of {ro}\nA:",
            target=" {en}",
        ),
    )
