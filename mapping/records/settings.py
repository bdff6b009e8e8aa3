"""Whether a model's config.json computes what the plan's would, where no shape tells.

transformers writes the keys that differ from its classes' defaults, so one that is not there has
its default. Many an old converter left keys at those that the original does not have.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tfreader.errors import ConfigError, RemoteError
from tfreader.files import SMALL, read_small
from tfreader.json_text import parse_json
from tfreader.paths import AnyPath

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
        "rescale_embeddings": False,
    },
    "bigbird_pegasus": {
        **_PEGASUS,
        "activation_function": "gelu_new",
        "attention_type": "block_sparse",
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
_T5 = ("t5", "mt5", "umt5")  # each has checkpoints of T5's code
# Close enough to each other that which of them the original computed is often not known.
_GELUS = ("gelu", "gelu_new", "gelu_python", "gelu_fast", "gelu_pytorch_tanh")


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
    model_type: str, planned: Mapping[str, Any], found: Mapping[str, Any]
) -> Iterator[tuple[str, bool]]:
    """The keys that compute something else, as text, and whether that is wrong for sure."""
    if "attention_types" in planned:  # GPT-Neo's, of which its class writes what they come to
        layers = [kind for kinds, count in planned["attention_types"] for kind in kinds * count]
        planned = {**planned, "attention_layers": layers}
    for key in ("model_type", "attention_layers", *SIZES):
        ours, theirs = planned.get(key), found.get(key)
        if ours is not None and theirs is not None and ours != theirs:
            is_wrong = ours not in _T5 or theirs not in _T5
            what = f"{key} = {json.dumps(theirs)}"
            yield f"{what}; the checkpoint's is {json.dumps(ours)}", is_wrong
    for key, default in {**COMMON, **DEFAULTS.get(model_type, {})}.items():
        ours, theirs = planned.get(key, default), found.get(key, default)
        if ours == theirs:
            continue
        what = f"{key} = {json.dumps(theirs)}" if key in found else f"no {key}"
        means = "" if key in found else f", which means {json.dumps(theirs)}"
        is_wrong = not (ours in _GELUS and theirs in _GELUS)
        yield f"{what}{means}; the checkpoint's is {json.dumps(ours)}", is_wrong
