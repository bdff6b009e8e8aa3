"""Whether a model's config.json computes what the plan's would, where no shape tells.

A key that is not there has its class's default. Many an old converter left keys at those that the
original does not have.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tfreader.errors import ConfigError, RemoteError
from tfreader.files import SMALL, read_small
from tfreader.json_text import parse_json
from tfreader.paths import AnyPath

from ..config_keys._kinds import MAX_LAYERS

CONFIG = "config.json"
COMMON: Mapping[str, Any] = {
    "tie_word_embeddings": True,
    "is_decoder": False,
    "add_cross_attention": False,
    "position_embedding_type": "absolute",
}
"""What classes of all types have where config.json lacks a key."""
_BERT = {"num_attention_heads": 12, "hidden_act": "gelu", "layer_norm_eps": 1e-12}
_PEGASUS = {"encoder_attention_heads": 16, "decoder_attention_heads": 16}
_MOBILENET = {"hidden_act": "relu6", "tf_padding": True, "layer_norm_eps": 0.001}
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "albert": {
        **_BERT,
        "num_attention_heads": 64,
        "hidden_act": "gelu_new",
        "inner_group_num": 1,
    },
    "bert": _BERT,
    "bert-generation": {**_BERT, "num_attention_heads": 16},
    "big_bird": {
        **_BERT,
        "hidden_act": "gelu_new",
        "attention_type": "block_sparse",
        "block_size": 64,
        "num_random_blocks": 3,
        "rescale_embeddings": False,
    },
    "bigbird_pegasus": {
        **_PEGASUS,
        "activation_function": "gelu_new",
        "attention_type": "block_sparse",
        "block_size": 64,
        "num_random_blocks": 3,
        "scale_embedding": True,
    },
    "canine": {**_BERT, "downsampling_rate": 4, "local_transformer_stride": 128},
    "convbert": {**_BERT, "head_ratio": 2},
    "electra": {**_BERT, "num_attention_heads": 4},
    "funnel": {
        "n_head": 12,
        "d_head": 64,
        "hidden_act": "gelu_new",
        "pooling_type": "mean",
        "attention_type": "relative_shift",
        "layer_norm_eps": 1e-9,
        "separate_cls": True,
        "truncate_seq": True,
        "pool_q_only": True,
    },
    "gpt2": {
        "n_head": 12,
        "layer_norm_epsilon": 1e-5,
        "activation_function": "gelu_new",
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
    },
    "gpt_neo": {
        "num_heads": 16,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "window_size": 256,
    },
    "mobilebert": {
        **_BERT,
        "num_attention_heads": 4,
        "hidden_act": "relu",
        "normalization_type": "no_norm",
        "trigram_input": True,
        "key_query_shared_bottleneck": True,
    },
    "mobilenet_v1": _MOBILENET,
    "mobilenet_v2": {**_MOBILENET, "first_layer_is_expansion": True, "finegrained_output": True},
    "openai-gpt": {"n_head": 12, "layer_norm_epsilon": 1e-5, "afn": "gelu"},
    "pegasus": {**_PEGASUS, "activation_function": "gelu", "scale_embedding": False},
    "rembert": {**_BERT, "num_attention_heads": 18, "tie_word_embeddings": False},
    "roformer": {**_BERT, "rotary_value": False},
    "t5": {
        "num_heads": 8,
        "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": "relu",
        "relative_attention_max_distance": 128,
    },
    "tapas": {
        **_BERT,
        "average_logits_per_cell": False,
        "temperature": 1.0,
        "select_one_column": True,
        "allow_empty_column_selection": False,
        "reset_position_index_per_cell": True,
    },
    "transfo-xl": {"n_head": 16, "d_head": 64, "pre_lnorm": False, "same_length": True},
    "xlm": {
        "n_heads": 16,
        "layer_norm_eps": 1e-12,
        "gelu_activation": True,
        "sinusoidal_embeddings": False,
        "causal": False,
        "asm": False,
        "use_lang_emb": True,
        "is_encoder": True,
    },
    "xlnet": {
        "n_head": 16,
        "d_head": 64,
        "ff_activation": "gelu",
        "attn_type": "bi",
        "bi_data": False,
        "clamp_len": -1,
        "same_length": False,
        "layer_norm_eps": 1e-12,
    },
}
"""And those of each type, of keys that decide what is computed and that no shape tells."""
SIZES = (
    *("block_sizes", "conv_kernel_size", "cutoffs", "d_embed", "d_ff", "d_inner", "d_kv"),
    *("d_model", "decoder_ffn_dim", "decoder_layers", "div_val", "emb_dim", "embedding_size"),
    *("encoder_ffn_dim", "encoder_layers", "hidden_size", "input_embedding_size"),
    *("intermediate_size", "intra_bottleneck_size", "n_embd", "n_layer", "n_layers"),
    *("num_decoder_layers", "num_feedforward_networks", "num_groups", "num_hash_buckets"),
    *("num_hidden_groups", "num_hidden_layers", "num_layers", "output_embedding_size"),
    *("relative_attention_num_buckets", "type_vocab_size"),
)
"""Keys that decide which tensors a class has: from_pretrained drops others, or starts some anew."""
# Which no output depends on: training, generating, how a model is loaded and what else it returns.
_NO_MATTER = re.compile(
    r"""_name_or_path | _commit_hash | _\w+_implementation\w* | architectures | auto_map
    | transformers_version | (?:torch_)?dtype | use_bfloat16 | torchscript | tokenizer_class
    | finetuning_task | task_specific_params | task_\w+ | num_labels | label2id | problem_type
    | (?!token_)\w*drop\w* | \w*init(?:ializer)?_\w+ | init_\w+ | (?!\w*_tokens?$)\w*loss\w*
    | label_smoothing | ctc_\w+ | apply_spec_augment | mask_(?:time|feature|ratio)\w* | freeze_\w+
    | gradient_checkpointing | num_negatives | semantic_\w+ | aggregation_temperature
    | positive_label_weight | cell_selection_preference | use_answer_as_supervision | use_gumbel_\w+
    | average_approximation_function | output_(?:attentions|hidden_states|past|scores|retrieved)
    | return_dict\w* | use_cache | use_mems_\w+ | chunk_size_feed_forward | onnx_export
    | (?:max|min)_(?:new_)?(?:length|tokens) | num_beams | num_beam_groups | \w*no_repeat_ngram_size
    | early_stopping | do_sample | top_[kp] | typical_p | temperature | \w+_penalty
    | num_return_sequences | bad_words_ids | (?:begin_)?suppress_tokens | forced_\w+ | prefix
    | remove_invalid_values | out_(?:features|indices) | stage_names | directionality
    | pooler_(?:fc_size|num_\w+|size_per_head|type) | vocab_list | lang2id | id2lang | n_ctx
    | vocab_size | max_position_embeddings | n_positions | dataset\w* | index_\w+ | passages_path
    | use_dummy_dataset""",
    re.VERBOSE,
)
# Which tell of inputs and of what is generated, or what shapes tell too: worth a note.
_WORTH_A_NOTE = re.compile(
    r"\w+_token_id|\w+_index|lang_id|(?:start|end)_n_top|image_size|mem_len|reuse_len|"
    r"depth_multiplier|min_depth|depth_divisible_by"
)
_BY_PADDING = (
    "roberta",
    "xlm-roberta",
    "camembert",
    "roberta-prelayernorm",
    "longformer",
    "esm",
    "mpnet",
)
"""Types that count positions from the padding's number on."""
_HEADS = ("SequenceClassification", "MultipleChoice", "DoubleHeadsModel")
"""Classes with a head that goes by the keys summary_*."""
_VITAL = re.compile(r"\w*heads?|\w*act(?:ivation)?(?:_fn|_function)?|\w*(?:norm|eps)\w*")
"""Keys whose lack leaves a class with its default, whichever that is."""
_T5 = ("t5", "mt5", "umt5")  # each has checkpoints of T5's code
# Close enough to each other that which of them the original computed is often not known.
_GELUS = ("gelu", "gelu_python"), ("gelu_new", "gelu_fast", "gelu_pytorch_tanh")
_SAME = (*_GELUS, ("silu", "swish"))
_NEAR = sum(_GELUS, ())


def read_config(folder: AnyPath) -> Mapping[str, Any] | None:
    """A model's config.json; None where it has none. Raises ConfigError, RemoteError."""
    path = folder / CONFIG
    if folder.is_file() or not path.is_file():
        return None
    try:
        config = parse_json(read_small(path, SMALL).decode("utf-8"))
    except RemoteError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: not an object with keys")
    return config


def differences(
    planned: Mapping[str, Any],
    found: Mapping[str, Any],
    architecture: str | None = None,
    is_kept: bool = False,
    where: str = "",
) -> Iterator[tuple[str, bool]]:
    """The keys that compute something else, as text, and whether that is wrong for sure.

    Keys that both have are compared, but for those that no output depends on; of those that one of
    both lacks, the ones whose default is known. `is_kept` says that the planned config is the one
    that the model was trained with. `where` is the path of a part's config.
    """
    model_type = planned.get("model_type")
    defaults = {**({} if where else COMMON), **DEFAULTS.get(model_type or "", {})}
    planned, found = _spelled_out(planned), _spelled_out(found)
    for key in dict.fromkeys(("model_type", *planned, *defaults)):
        ours, theirs = planned.get(key, defaults.get(key)), found.get(key, defaults.get(key))
        if isinstance(ours, dict) and isinstance(theirs, dict) and key != "id2label":
            if "model_type" in ours or key.endswith("_config"):
                yield from differences(ours, theirs, None, is_kept, f"{where}{key}.")
        elif key == "id2label":
            yield from _of_labels(ours, theirs)
        elif not _are_same(ours, theirs) and not _is_passed_over(key, defaults, planned, found):
            is_known = key in found or key in defaults
            if not is_known and not (is_kept and _VITAL.fullmatch(key)):
                continue
            if is_known and None in (ours, theirs) and key not in defaults:
                continue  # which leaves it to the class
            what = f"{where}{key} = {json.dumps(theirs)}" if key in found else f"no {where}{key}"
            if key not in found:
                means = json.dumps(theirs) if key in defaults else "its class's default"
                what += f", which means {means}"
            yield (
                f"{what}; the checkpoint's is {json.dumps(ours)}",
                _is_wrong(key, ours, theirs, model_type, architecture, is_kept),
            )


def _is_wrong(
    key: str,
    ours: Any,
    theirs: Any,
    model_type: str | None,
    architecture: str | None,
    is_kept: bool,
) -> bool:
    """Whether a key that differs is wrong for sure."""
    if key == "model_type":
        return ours not in _T5 or theirs not in _T5
    if key == "pad_token_id":
        return model_type in _BY_PADDING
    if key.startswith("summary_"):
        return (architecture or "").endswith(_HEADS)
    if ours in _NEAR and theirs in _NEAR:
        return is_kept
    return not _WORTH_A_NOTE.fullmatch(key)


def _spelled_out(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A config with what its class works out from other keys."""
    made = dict(config)
    kinds = made.get("attention_types")  # GPT-Neo's, of which its class writes what they come to
    if isinstance(kinds, list) and all(map(_is_repeated, kinds)):
        made.setdefault("attention_layers", [kind for each, n in kinds for kind in each * n])
        del made["attention_types"]
    if made.get("model_type") in _T5:
        kind = str(made.get("feed_forward_proj", "relu"))
        made.setdefault("is_gated_act", kind.startswith("gated-"))
        inner = kind.removeprefix("gated-")
        made.setdefault("dense_act_fn", "gelu_new" if kind == "gated-gelu" else inner)
    if isinstance(made.get("rope_parameters"), dict):  # of transformers 5
        made.setdefault("rope_theta", made["rope_parameters"].get("rope_theta"))
    if "scale_decoder_outputs" in made:  # of T5, beside which transformers 5 writes true always
        made["tie_word_embeddings"] = made.pop("scale_decoder_outputs")
    return made


def _is_passed_over(
    key: str, defaults: Mapping[str, Any], planned: Mapping[str, Any], found: Mapping[str, Any]
) -> bool:
    """Whether a key decides nothing, or nothing of this model."""
    if key == "tie_word_embeddings":  # which these classes set whatever their tensors are
        is_new = str(found.get("transformers_version", "")).startswith("5.")
        kind = planned.get("model_type")
        return kind == "vision-encoder-decoder" or (kind == "mt5" and is_new)
    if key == "model_type":
        return not planned.get(key) or not found.get(key)
    if key in ("block_size", "num_random_blocks"):
        return planned.get("attention_type") == found.get("attention_type") == "original_full"
    return key not in defaults and _NO_MATTER.fullmatch(key) is not None


def _is_repeated(kind: Any) -> bool:
    """Whether it is a list of kinds, and how often they are repeated."""
    if not isinstance(kind, list) or len(kind) != 2:
        return False
    return isinstance(kind[0], list) and type(kind[1]) is int and kind[1] < MAX_LAYERS


def _are_same(ours: Any, theirs: Any) -> bool:
    return ours == theirs or any(ours in kinds and theirs in kinds for kinds in _SAME)


def _of_labels(ours: Any, theirs: Any) -> Iterator[tuple[str, bool]]:
    """Labels that have other names: those that a class makes up count for none."""
    named, others = map(_names, (ours, theirs))
    if named and others and named != others:
        yield f"id2label = {json.dumps(theirs)}; the checkpoint's is {json.dumps(ours)}", True
    elif named and not others:
        yield f"no id2label; the checkpoint's is {json.dumps(ours)}", False


def _names(labels: Any) -> Mapping[str, Any]:
    names = {str(key): name for key, name in labels.items()} if isinstance(labels, dict) else {}
    return {} if all(name == f"LABEL_{key}" for key, name in names.items()) else names
