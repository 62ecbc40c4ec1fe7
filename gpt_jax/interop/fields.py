"""The keys of a config.json, each read once and none ignored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpt_jax.config import InputError, require

LARGEST = 1e12

# Keys that change nothing in a causal model's logits: names, tokens, generation, other heads and
# tasks, how weights were initialised or are kept.
_IRRELEVANT = """
_attn_implementation_autoset _commit_hash _name_or_path _num_labels architectures
bad_words_ids begin_suppress_tokens bos_token_id chunk_size_feed_forward classifier_dropout
decoder_start_token_id diversity_penalty do_sample dtype early_stopping
encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty finetuning_task
forced_bos_token_id forced_eos_token_id from_tf gradient_checkpointing id2label is_decoder
initializer_range init_std keys_to_ignore_at_inference label2id length_penalty max_length
min_length model_type n_ctx no_repeat_ngram_size num_beam_groups num_beams num_labels
num_return_sequences output_attentions output_hidden_states output_past output_projection
output_scores pad_token_id prefix problem_type pruned_heads remove_invalid_values
repetition_penalty return_dict return_dict_in_generate sep_token_id summary_activation
summary_first_dropout summary_proj_to_labels summary_type summary_use_proj suppress_tokens
task_specific_params temperature tf_legacy_loss tokenizer_class top_k top_p torch_dtype
torchscript transformers_version typical_p use_bfloat16 use_cache predict_special_tokens
"""

ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""transformers' names; gelu_fast is the tanh form with its constants rounded to float32."""


class Fields:
    """The keys of a config.json, each read once; what is left over at the end is refused."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values, self._read = values, {"model_type"}

    def take(self, key: str, default: Any) -> Any:
        """The value of a key, of the type of its default."""
        self._read.add(key)
        value = self._values.get(key, default)
        kinds = (int, float) if type(default) is float else (type(default),)
        require(
            type(value) in kinds,
            f"{key} in config.json must be of type {type(default).__name__}, and it is {value!r}.",
        )
        if type(default) in (int, float):
            require(
                abs(value) < LARGEST,  # which a number that is none is not
                f"{key} in config.json must be a number below {LARGEST}, and it is {value!r}.",
            )
        return float(value) if type(default) is float else value

    def size(self, key: str, default: int) -> int:
        """A width, or a count of layers or heads or tokens."""
        size = self.take(key, default)
        require(
            0 < size < 2**31,
            f"{key} in config.json must be positive and below 2^31, and it is {size}.",
        )
        return size

    def width(self, key: str, standard: int) -> int:
        """A width as ModelConfig has it: 0 where it is the standard one, or null."""
        self._read.add(key)
        null = self._values.get(key) is None
        size = standard if null else self.size(key, standard)
        return 0 if size == standard else size

    def nested(self, key: str) -> Fields:
        """The keys of an object within; of none where it is null or not there."""
        self._read.add(key)
        values = self._values.get(key) or {}
        require(
            isinstance(values, dict),
            f"{key} in config.json must be an object, and it is {values!r}.",
        )
        return Fields(values)

    def kinds(self, key: str, default: list[Any]) -> list[str]:
        """[[names, times], ...] written out: each of the names in turn, so many times."""
        self._read.add(key)
        value = self._values.get(key, default)
        try:
            return [kind for names, times in value for kind in [str(x) for x in names] * times]
        except (TypeError, ValueError):
            raise InputError(
                f"{key} in config.json must be like {default}, and it is {value!r}."
            ) from None

    def activation(self, key: str, default: str, known: Mapping[str, str] = ACTIVATIONS) -> Any:
        """Our name of an activation."""
        name = self.take(key, default)
        require(
            name in known,
            f"{key} in config.json must be one of {', '.join(known)}, and it is {name!r}: this "
            "activation is not done here.",
        )
        return known[name]

    def only(self, key: str, *allowed: Any) -> None:
        """Refuse any value but those; the first is the default."""
        self._read.add(key)
        value = self._values.get(key, allowed[0])
        require(
            value in allowed,
            f"{key} in config.json must be {' or '.join(map(repr, allowed))}, and it is {value!r}: "
            "this is not done here.",
        )

    def finish(self) -> None:
        """Refuse what was not read, unless it is known to change nothing, or is switched off."""
        unknown = {
            key: value
            for key, value in self._values.items()
            if key not in self._read | set(_IRRELEVANT.split())
            and value not in (None, False, {}, [])
        }
        require(
            not unknown,
            "every setting in config.json must be known here, and these are not: "
            f"{', '.join(f'{key}={value!r}' for key, value in unknown.items())}. If they do not "
            "change what the model computes, remove them from a copy of the file.",
        )
