"""The keys that configs have: their types, their other names, and those of other models.

A module for each family has the fields of transformers' config class, as of 5.24, and what the
original's config files hold beside them. The module's name is the model type's.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from ._kinds import KINDS, ConfigKeys, Kind, keys

__all__ = ["COMMON", "KINDS", "TOKENS", "Kind", "class_keys", "every_key", "keys_of", "own_keys"]
__all__ += ["tables"]

# What all of transformers' config classes take, those of version 4 too, and what this program
# itself asks a config for.
COMMON = keys(
    token="bos_token_id? pad_token_id? sep_token_id?",
    tokens="eos_token_id? forced_eos_token_id? decoder_start_token_id?",
    flag="tie_word_embeddings is_decoder is_encoder_decoder add_cross_attention use_cache",
    labels="id2label? label2id?",
    texts="architectures",
    text="""
        model_type transformers_version finetuning_task? tokenizer_class?
    """,
    problem="problem_type?",
    attention="_attn_implementation? attn_implementation?",
    float_type="dtype torch_dtype",
    any="""
        _name_or_path name_or_path _num_labels _commit_hash _attn_implementation_autoset
        attn_implementation_internal _attn_implementation_internal auto_map bad_words_ids
        begin_suppress_tokens chunk_size_feed_forward cls_token_id cross_attention_hidden_size
        diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size eos_token_ids
        exponential_decay_length_penalty forced_bos_token_id gradient_checkpointing is_composition
        length_penalty max_length min_length no_repeat_ngram_size num_beam_groups num_beams
        num_return_sequences output_attentions output_hidden_states output_past output_scores prefix
        pruned_heads remove_invalid_values repetition_penalty return_dict return_dict_in_generate
        suppress_tokens task_specific_params temperature tf_legacy_loss tie_encoder_decoder top_k
        top_p torchscript typical_p use_bfloat16 xla_device
    """,
)
TOKENS = [key for key, kind in COMMON.items() if kind.words.startswith(KINDS["token"].words)]
OWN = keys(
    flag="do_lower_case strip_accents tokenize_chinese_chars keep_accents", size="num_labels"
)


@cache
def tables() -> frozenset[str]:
    """The model types whose keys are known, with `_` for `-`."""
    names = (info.name for info in iter_modules(__path__))
    return frozenset(name for name in names if not name.startswith("_"))


def keys_of(model_type: str) -> ConfigKeys:
    """What is known of a family's keys; nothing of a family that keeps transformers' configs."""
    name = model_type.replace("-", "_")
    if name not in tables():
        return ConfigKeys({})
    known: ConfigKeys = import_module(f".{name}", __name__).KEYS
    return known


def class_keys(model_type: str) -> dict[str, Kind]:
    """The keys that a family's config.json may have, and those that this program asks it for."""
    return {**COMMON, **OWN, **keys_of(model_type).fields}


def own_keys(model_type: str) -> set[str]:
    """The keys that tell a family's config from other JSON files."""
    return {*keys_of(model_type).fields, *keys_of(model_type).aliases}


@cache
def every_key() -> frozenset[str]:
    """The keys of any family's configs."""
    known = map(keys_of, tables())
    return frozenset(key for t in known for key in (*t.fields, *t.aliases, *t.foreign))
