"""The keys that configs have: their types, their other names, and those of other models.

Per family the fields of transformers' config class, as of 5.24 (Transformer-XL's as of 4.30), and
what the original's config files hold beside them. A `?` after a key says that it may be null.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

MAX_SIZE = 1 << 31
MAX_NUMBER = 1 << 1000  # of whole numbers that stand for others, which have to fit a float
MAX_LAYERS = 10_000  # each becomes tensors of its own; the deepest models released have some 100


@dataclass(frozen=True)
class Kind:
    """A type of values, and the words for it.

    `written` gives a value as transformers' classes take it, which since version 5 tell 1 from true
    and from 1.0.
    """

    words: str
    fits: Callable[[Any], bool]
    written: Callable[[Any], Any] = lambda value: value
    may_be_null: bool = False


def _is_whole(value: Any, start: int, end: int) -> bool:
    return type(value) is int and start <= value <= end


def _is_number(value: Any) -> bool:
    return _is_whole(value, -MAX_NUMBER, MAX_NUMBER) or (
        type(value) is float and math.isfinite(value)
    )


def _is_list(value: Any, *types: type) -> bool:
    return isinstance(value, list | tuple) and all(type(item) in types for item in value)


FLOAT_TYPES = ("bfloat16", "float16", "float32", "float64", "auto")
KINDS = {
    "size": Kind("a whole number from 0 on", lambda v: _is_whole(v, 0, MAX_SIZE)),
    "layers": Kind(f"a whole number up to {MAX_LAYERS}", lambda v: _is_whole(v, 0, MAX_LAYERS)),
    "whole": Kind("a whole number", lambda v: _is_whole(v, -MAX_SIZE, MAX_SIZE)),
    "token": Kind("the number of a token", lambda v: _is_whole(v, -1, MAX_SIZE)),
    "tokens": Kind(
        "the number of a token, or a list of them",
        lambda v: _is_whole(v, -1, MAX_SIZE) or _is_list(v, int),
    ),
    "float_type": Kind(
        f"one of {', '.join(FLOAT_TYPES)}", lambda v: isinstance(v, str) and v in FLOAT_TYPES
    ),
    "number": Kind("a number", _is_number, float),
    "dropout": Kind("a number from 0 to 1", lambda v: _is_number(v) and 0 <= v <= 1, float),
    "ratio": Kind("a number above 0", lambda v: _is_number(v) and v > 0, float),
    "flag": Kind("true or false", lambda v: type(v) in (bool, int) and v in (0, 1), bool),
    "text": Kind("text", lambda v: isinstance(v, str)),
    "sizes": Kind("a list of whole numbers", lambda v: _is_list(v, int)),
    "flags": Kind("a list of true and false", lambda v: _is_list(v, bool, int)),
    "texts": Kind("a list of names", lambda v: _is_list(v, str)),
    "labels": Kind("a list of names, or an object with them", lambda v: isinstance(v, list | dict)),
    "table": Kind("an object", lambda v: isinstance(v, Mapping)),
    "any": Kind("a value", lambda _: True, may_be_null=True),
}


def _keys(**by_kind: str) -> dict[str, Kind]:
    return {
        key.rstrip("?"): replace(KINDS[kind], may_be_null=True)
        if key.endswith("?")
        else KINDS[kind]
        for kind, keys in by_kind.items()
        for key in keys.split()
    }


# What all of transformers' config classes take, those of version 4 too, and what this program
# itself asks a config for.
COMMON = _keys(
    token="bos_token_id? pad_token_id? sep_token_id?",
    tokens="eos_token_id? decoder_start_token_id?",
    flag="tie_word_embeddings is_decoder is_encoder_decoder add_cross_attention use_cache",
    labels="id2label? label2id?",
    texts="architectures",
    text="""
        model_type transformers_version finetuning_task? problem_type?
        tokenizer_class?
    """,
    float_type="dtype torch_dtype",
    any="""
        _name_or_path name_or_path _num_labels _commit_hash _attn_implementation attn_implementation
        _attn_implementation_autoset attn_implementation_internal _attn_implementation_internal
        auto_map bad_words_ids begin_suppress_tokens chunk_size_feed_forward
        cross_attention_hidden_size diversity_penalty do_sample early_stopping
        encoder_no_repeat_ngram_size exponential_decay_length_penalty forced_bos_token_id
        forced_eos_token_id gradient_checkpointing is_composition length_penalty max_length
        min_length no_repeat_ngram_size num_beam_groups num_beams num_return_sequences
        output_attentions output_hidden_states output_past output_scores prefix pruned_heads
        remove_invalid_values repetition_penalty return_dict return_dict_in_generate
        suppress_tokens task_specific_params temperature tf_legacy_loss tie_encoder_decoder top_k
        top_p torchscript typical_p use_bfloat16 xla_device
    """,
)
OWN = _keys(
    flag="do_lower_case strip_accents tokenize_chinese_chars keep_accents", size="num_labels"
)
_SUMMARY = _keys(
    text="summary_type summary_activation?",
    flag="summary_use_proj summary_proj_to_labels",
    dropout="summary_first_dropout",
)
_BERT = _keys(
    size="""
        vocab_size hidden_size num_attention_heads intermediate_size max_position_embeddings
        type_vocab_size
    """,
    layers="num_hidden_layers",
    text="hidden_act",
    dropout="hidden_dropout_prob attention_probs_dropout_prob",
    number="initializer_range layer_norm_eps",
)
_GPT = {
    **_keys(
        size="vocab_size n_positions n_embd n_head",
        layers="n_layer",
        dropout="resid_pdrop embd_pdrop attn_pdrop",
        number="layer_norm_epsilon initializer_range",
    ),
    **_SUMMARY,
}
CLASSES: dict[str, dict[str, Kind]] = {
    "albert": {
        **_BERT,
        **_keys(
            size="embedding_size",
            layers="num_hidden_groups inner_group_num",
            dropout="classifier_dropout_prob",
        ),
    },
    "bert": {**_BERT, **_keys(dropout="classifier_dropout?")},
    "electra": {
        **_BERT,
        **_keys(
            size="embedding_size",
            text="summary_type summary_activation?",
            flag="summary_use_proj",
            dropout="classifier_dropout? summary_last_dropout",
        ),
    },
    "gpt2": {
        **_GPT,
        **_keys(
            size="n_inner?",
            text="activation_function",
            flag="scale_attn_weights scale_attn_by_inverse_layer_idx reorder_and_upcast_attn",
        ),
    },
    "openai-gpt": {**_GPT, **_keys(text="afn")},
    "t5": _keys(
        size="vocab_size d_model d_kv d_ff num_heads",
        layers="num_layers num_decoder_layers?",
        whole="relative_attention_num_buckets relative_attention_max_distance",
        dropout="dropout_rate classifier_dropout",
        number="layer_norm_epsilon initializer_factor",
        text="feed_forward_proj dense_act_fn",
        flag="is_gated_act scale_decoder_outputs",
    ),
    "transfo-xl": _keys(
        size="vocab_size d_model d_embed d_head d_inner n_head",
        layers="n_layer",
        whole="div_val mem_len clamp_len attn_type sample_softmax",
        sizes="cutoffs",
        flags="tie_projs",
        flag="pre_lnorm same_length adaptive untie_r proj_share_all_but_first",
        dropout="dropout dropatt",
        number="init_range proj_init_std init_std layer_norm_epsilon",
        text="init",
    ),
    "xlm": {
        **_keys(
            size="vocab_size emb_dim n_heads n_langs max_position_embeddings start_n_top end_n_top",
            layers="n_layers",
            whole="lang_id",
            token="unk_index mask_index mask_token_id?",
            dropout="dropout attention_dropout",
            number="layer_norm_eps embed_init_std init_std",
            flag="""
                gelu_activation sinusoidal_embeddings causal asm use_lang_emb is_encoder
            """,
            any="asm_cutoffs",  # in arguments of train.py as text
            ratio="asm_div_value",
            table="lang2id id2lang",
        ),
        **_SUMMARY,
    },
    "xlnet": _keys(
        size="d_model n_head d_inner d_head? start_n_top end_n_top",
        layers="n_layer",
        whole="vocab_size mem_len? reuse_len? clamp_len",
        text="ff_activation attn_type summary_type summary_activation",
        flag="untie_r use_mems_eval use_mems_train bi_data same_length summary_use_proj",
        dropout="dropout summary_last_dropout",
        number="initializer_range layer_norm_eps",
    ),
}

# Other names of keys, in the original's files or in transformers' own code (`attribute_map`).
ALIASES: dict[str, dict[str, str]] = {
    "gpt2": {
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "n_ctx": "n_positions",
        "n_vocab": "vocab_size",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
    "openai-gpt": {
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "n_ctx": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
    "t5": {
        "head_dim": "d_kv",
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
    },
    "transfo-xl": {
        "hidden_size": "d_model",
        "n_token": "vocab_size",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
    "xlm": {
        "bos_index": "bos_token_id",
        "eos_index": "eos_token_id",
        "hidden_size": "emb_dim",
        "n_words": "vocab_size",
        "num_attention_heads": "n_heads",
        "num_hidden_layers": "n_layers",
        "pad_index": "pad_token_id",
        "share_inout_emb": "tie_word_embeddings",
    },
    "xlnet": {
        "hidden_size": "d_model",
        "n_token": "vocab_size",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
}

# Keys of the originals' files that nothing reads, or that only their training does.
_BERT_FILES = _keys(
    any="""
        directionality pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers
        pooler_size_per_head pooler_type
    """
)
ORIGINAL: dict[str, dict[str, Kind]] = {
    "albert": {
        **_BERT_FILES,
        **_keys(any="down_scale_factor gap_size net_structure_type num_memory_blocks"),
    },
    "bert": _BERT_FILES,
    "electra": _keys(
        text="model_size",
        table="model_hparam_overrides",
        flag="debug",
        any="""
            answerable_classifier answerable_uses_start_logits answerable_weight beam_size data_dir
            disallow_correct disc_weight do_eval do_train doc_stride double_unordered
            electra_objective electric_objective eval_batch_size gcp_project gen_weight
            generator_hidden_size generator_layers init_checkpoint iterations_per_loop
            joint_prediction keep_all_models layerwise_lr_decay learning_rate log_examples
            lr_decay_power mask_prob max_answer_length max_query_length max_seq_length model_dir
            model_name n_best_size n_writes_test num_eval_steps num_tpu_cores num_train_epochs
            num_train_steps num_trials num_warmup_steps predict_batch_size pretrain_tfrecords
            qa_na_threshold save_checkpoints_steps task_names temperature tpu_job_name tpu_name
            tpu_zone train_batch_size two_tower_generator uniform_generator untied_generator
            untied_generator_embeddings use_tfrecords_if_existing use_tpu vocab_file
            warmup_proportion weight_decay_rate write_test_outputs
        """,
    ),
    "openai-gpt": _keys(size="n_special"),
    "transfo-xl": _keys(any="dataset"),
    "xlm": _keys(any="ae_steps bt_steps clm_steps mlm_steps mt_steps pc_steps"),
}


@dataclass(frozen=True)
class Foreign:
    """A key of a model with other arithmetic behind the same variables.

    `harmless` are the values with which nothing changes.
    """

    what: str
    harmless: tuple[Any, ...] = (False, None)


_RELATIVE = "its attention adds relative positions"
_PRE_NORM = "its layer norms come before the layers' parts, not behind them"
_POST_NORM_FAMILIES = {
    "do_layer_norm_before": Foreign(_PRE_NORM),
    "layer_norm_first": Foreign(_PRE_NORM),
    "layernorm_positioning": Foreign(_PRE_NORM, ("post",)),
    "ln_type": Foreign(_PRE_NORM, ("postln", "post", "post_ln")),
    "norm_first": Foreign(_PRE_NORM),
    "norm_type": Foreign(_PRE_NORM, ("postnorm", "post", "layer_norm")),
    "normalize_before": Foreign(_PRE_NORM),
    "pre_ln": Foreign(_PRE_NORM),
    "pre_lnorm": Foreign(_PRE_NORM),
    "pre_norm": Foreign(_PRE_NORM),
    "prenorm": Foreign(_PRE_NORM),
    "encoder_normalize_before": Foreign(_PRE_NORM),
}
_BERT_KIN = {
    **_POST_NORM_FAMILIES,
    "attention_type": Foreign("BigBird, whose attention is sparse", ("original_full", "full")),
    "key_query_shared_bottleneck": Foreign("MobileBERT"),
    "normalization_type": Foreign("MobileBERT's kin", ("layer_norm",)),
    "num_feedforward_networks": Foreign("MobileBERT's kin", (1,)),
    "pos_att_type": Foreign(f"DeBERTa's kin: {_RELATIVE}", (None, "none", "")),
    "position_embedding_type": Foreign(_RELATIVE, ("absolute",)),
    "relative_attention": Foreign(f"DeBERTa's kin: {_RELATIVE}"),
    "rescale_embedding": Foreign("BigBird's kin, whose embeddings are scaled"),
    "rescale_embeddings": Foreign("BigBird's kin, whose embeddings are scaled"),
    "trigram_input": Foreign("MobileBERT"),
    "use_bottleneck": Foreign("MobileBERT"),
    "use_relative_position": Foreign(f"NEZHA's kin: {_RELATIVE}"),
    "use_relative_positions": Foreign(f"NEZHA's kin: {_RELATIVE}"),
    "use_rotary_position": Foreign("RoFormer's kin, whose positions are rotations"),
    "use_running_mean": Foreign(
        "RealFormer, which hands attention scores on from layer to layer", ()
    ),
}
FOREIGN: dict[str, dict[str, Foreign]] = {
    "albert": _BERT_KIN,
    "bert": _BERT_KIN,
    "electra": _BERT_KIN,
    "openai-gpt": _POST_NORM_FAMILIES,
    "transfo-xl": {
        **_POST_NORM_FAMILIES,
        "attn_type": Foreign("its attention is of another form than the original's", (0,)),
    },
    "xlm": {
        **_POST_NORM_FAMILIES,
        "use_memory": Foreign("it has product-key memory layers"),
    },
    "xlnet": _POST_NORM_FAMILIES,
}


def class_keys(model_type: str) -> dict[str, Kind]:
    """The keys that a family's config.json may have, and those that this program asks it for."""
    return {**COMMON, **OWN, **CLASSES.get(model_type, {})}


def own_keys(model_type: str) -> set[str]:
    """The keys that tell a family's config from other JSON files."""
    return {*CLASSES.get(model_type, {}), *ALIASES.get(model_type, {})}


@cache
def every_key() -> frozenset[str]:
    """The keys of any family."""
    tables: list[Mapping[str, Any]] = [*CLASSES.values(), *ALIASES.values(), *FOREIGN.values()]
    return frozenset(key for table in tables for key in table)
