"""T5, T5 v1.1, mT5 and ByT5 as Mesh TensorFlow saves them (tensorflow/mesh, google-research/t5).

Variable names are those of Mesh's transformer layers, with both spellings of its scopes; tensor
names those of transformers' modeling_t5.py. Every kernel is [in, out] and transposed; attention
kernels may have the heads as an axis of their own (`combine_dims = False`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tfreader.checkpoint import TensorInfo

from ..family import Config, Family, SideFiles, same_keys
from ..ops import Reshape, Transpose
from ..rule import Architecture, Rule, RuleSet, Tie

NORM = "(?:layer_norm|rms_norm)/scale"
FINAL_NORM = "(?:final_layer_norm|rms_norm)/scale"
ENCODER = r"encoder/block_(?P<block>\d+)"
DECODER = r"decoder/block_(?P<layer>\d+)"
MT5_VOCABULARY = 250112
HEADS = "num_heads*d_kv"


def attention(part: str, scope: str, kind: str, target: str) -> tuple[Rule, ...]:
    into, out = Reshape(("d_model", HEADS)), Reshape((HEADS, "d_model"))
    return (
        Rule(
            (f"{scope}/{kind}/(?P<name>q|k|v)",),
            (f"{target}.{kind}.{{name}}.weight",),
            (into, Transpose()),
            part=part,
        ),
        Rule((f"{scope}/{kind}/o",), (f"{target}.{kind}.o.weight",), (out, Transpose()), part=part),
        norm(part, f"{scope}/{NORM}", f"{target}.layer_norm"),
    )


def feed_forward(part: str, scope: str, target: str) -> tuple[Rule, ...]:
    """The gated form has wi_0 and wi_1 in place of wi."""

    def kernel(name: str, shape: tuple[str, str], required: bool) -> Rule:
        return Rule(
            (f"{scope}/DenseReluDense/{name}/kernel",),
            (f"{target}.DenseReluDense.{'wi_{gate}' if 'gate' in name else name}.weight",),
            (Transpose(),),
            shape=shape,
            part=part,
            required=required,
        )

    return (
        kernel("wi", ("d_model", "d_ff"), False),
        kernel("wi_(?P<gate>0|1)", ("d_model", "d_ff"), False),
        kernel("wo", ("d_ff", "d_model"), True),
        norm(part, f"{scope}/{NORM}", f"{target}.layer_norm"),
    )


def norm(part: str, source: str, target: str) -> Rule:
    return Rule((source,), (f"{target}.weight",), shape=("d_model",), part=part)


def relative_bias(part: str, stack: str) -> Rule:
    name = "SelfAttention/relative_attention_bias"
    return Rule(
        (rf"{stack}/block_000/(?:layer_000|self_attention)/{name}",),
        (f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",),
        (Transpose(),),
        shape=("num_heads", "relative_attention_num_buckets"),
        part=part,
    )


def stack_rules(part: str, name: str, block: str, group: str, has_cross: bool) -> tuple[Rule, ...]:
    """One stack; the feed-forward layer comes third where there is cross-attention."""
    target = f"{name}.block.{{{group}}}.layer"
    cross = f"{block}/(?:layer_001|enc_dec_attention)"
    last = 2 if has_cross else 1
    return (
        relative_bias(part, name),
        *attention(part, f"{block}/(?:layer_000|self_attention)", "SelfAttention", f"{target}.0"),
        *(attention(part, cross, "EncDecAttention", f"{target}.1") if has_cross else ()),
        *feed_forward(part, f"{block}/(?:layer_00{last}|dense_relu_dense)", f"{target}.{last}"),
        norm(part, f"{name}/{FINAL_NORM}", f"{name}.final_layer_norm"),
    )


RULES = RuleSet(
    family="t5",
    name="t5",
    counts={"block": "num_layers", "layer": "num_decoder_layers"},
    rules=(
        Rule(
            ("shared/embedding",),
            ("shared.weight",),
            shape=("vocab_size", "d_model"),
            part="encoder",
        ),
        *stack_rules("encoder", "encoder", ENCODER, "block", False),
        *stack_rules("decoder", "decoder", DECODER, "layer", True),
        Rule(
            ("decoder/logits/kernel",),
            ("lm_head.weight",),
            (Transpose(),),
            shape=("d_model", "vocab_size"),
            part="decoder",
            required=False,
        ),
    ),
    ties=(
        Tie("encoder.embed_tokens.weight", "shared.weight", "encoder"),
        Tie("decoder.embed_tokens.weight", "shared.weight", "decoder"),
        Tie("lm_head.weight", "shared.weight", "decoder"),
    ),
    architectures=(
        Architecture("T5ForConditionalGeneration", ("encoder",), ("decoder",)),
        Architecture("T5EncoderModel", ("encoder",)),
    ),
)


def adapt(rules: RuleSet, _: Config, variables: Mapping[str, TensorInfo]) -> RuleSet:
    """Where one stack serves as both (bi_v1_shared.gin), the encoder is made of the decoder's."""
    if any(name.startswith("encoder/") for name in variables) or not _has_decoder(variables):
        return rules
    shared = [
        replace(rule, sources=(rule.sources[0].replace("encoder/", "decoder/", 1),))
        for rule in stack_rules("encoder", "encoder", ENCODER, "block", False)
        if "layer_001" not in rule.sources[0]
    ]
    shared += feed_forward(
        "encoder", r"decoder/block_(?P<block>\d+)/dense_relu_dense", "encoder.block.{block}.layer.1"
    )
    others = [rule for rule in rules.rules if not rule.targets[0].startswith("encoder.")]
    return replace(rules, rules=(*others, *shared))


def _has_decoder(variables: Mapping[str, TensorInfo]) -> bool:
    return any(name.startswith("decoder/") for name in variables)


def describe(config: Config, variables: Mapping[str, TensorInfo]) -> Config:
    """What several variables tell together: head size, gating, ties, which of the models it is."""
    told: Config = {}
    decoder = _has_decoder(variables)
    query = _first(variables, r"(en|de)coder/block_000/.*/SelfAttention/q")
    bias = _first(variables, r"(en|de)coder/block_000/.*/relative_attention_bias")
    heads = bias.shape[0] if bias is not None and bias.shape else config.get("num_heads")
    if query is not None and len(query.shape) == 3:
        told |= {"num_heads": query.shape[1], "d_kv": query.shape[2]}
    elif query is not None and len(query.shape) == 2 and heads and not query.shape[1] % heads:
        told["d_kv"] = query.shape[1] // heads
    gated = _first(variables, r".*/DenseReluDense/wi_0/kernel") is not None
    activation = config.get("feed_forward_proj")
    if activation is None or gated != str(activation).startswith("gated-"):
        told["feed_forward_proj"] = "gated-gelu" if gated else "relu"
    if decoder:
        told["tie_word_embeddings"] = "decoder/logits/kernel" not in variables
    words = variables.get("shared/embedding")
    is_mt5 = words is not None and words.shape[:1] == (MT5_VOCABULARY,) and gated
    if config.get("model_type") == "mt5" or is_mt5:
        kind = "MT5ForConditionalGeneration" if decoder else "MT5EncoderModel"
        told |= {"model_type": "mt5", "architectures": [kind]}
    return told


def _first(variables: Mapping[str, TensorInfo], regex: str) -> TensorInfo | None:
    return next((variables[name] for name in variables if re.fullmatch(regex, name)), None)


def translate(original: Mapping[str, Any]) -> Config:
    """Hugging Face's config, from one of theirs or from what `read` makes of a gin file."""
    config = same_keys(original)
    if original.get("model_type") == "mt5":
        config["model_type"] = "mt5"
    return config


GIN_KEYS = {  # Hugging Face's key: the gin parameters that say it, the first that is there counts
    "d_model": ("d_model", "encoder/Unitransformer.d_model"),
    "d_ff": ("d_ff", "encoder/DenseReluDense.hidden_size"),
    "d_kv": ("d_kv", "encoder/SelfAttention.key_value_size"),
    "num_heads": ("num_heads", "encoder/SelfAttention.num_heads"),
    "num_layers": ("encoder/make_layer_stack.num_layers", "num_layers"),
    "num_decoder_layers": ("decoder/make_layer_stack.num_layers", "num_layers"),
    "relative_attention_num_buckets": ("encoder/SelfAttention.relative_attention_num_buckets",),
    "layer_norm_epsilon": ("sublayer_rms_norm.epsilon", "encoder/LayerStack.norm_epsilon"),
}


def read(path: Path) -> Mapping[str, Any]:
    """Hugging Face's keys from an operative_config.gin, as Mesh writes it beside a checkpoint."""
    text = re.sub(r"#[^\n]*", "", path.read_text("utf-8", "replace")).replace("\\\n", " ")
    values = dict(re.findall(r"(?m)^([\w./]+)\s*=\s*(\S.*?)\s*$", text))

    def value(name: str) -> Any:
        text = values.get(name, "None")
        text = values.get(text[1:], "None") if text.startswith("%") else text
        try:
            return json.loads(text)
        except ValueError:
            return None

    found = {
        key: next((value(name) for name in names if value(name) is not None), None)
        for key, names in GIN_KEYS.items()
    }
    activation = re.findall(r"'(\w+)'", values.get("encoder/DenseReluDense.activation", ""))
    if len(activation) == 2 and "linear" in activation:
        activation.remove("linear")
        found["feed_forward_proj"] = f"gated-{activation[0]}"
    elif len(activation) == 1:
        found["feed_forward_proj"] = activation[0]
    return {key: value for key, value in found.items() if value is not None}


def side_files(folder: Path, config: Mapping[str, Any]) -> SideFiles:
    """spiece.model, which the released models share and which lies beside some copies."""
    model = folder / "spiece.model"
    if not model.is_file():
        return SideFiles({}, (f"no spiece.model in {folder}: no tokenizer written",))
    tokenizer = {
        "tokenizer_class": "T5Tokenizer",
        "extra_ids": 0 if config.get("model_type") == "mt5" else 100,
        "model_max_length": config.get("n_positions", 512),
    }
    text = json.dumps(tokenizer, indent=2) + "\n"
    return SideFiles({"spiece.model": model.read_bytes(), "tokenizer_config.json": text.encode()})


FAMILY = Family(
    model_type="t5",
    aliases=("mt5", "byt5", "google-t5/t5-small"),
    rules=RULES,
    evidence=(r"shared/embedding", r"(?:en|de)coder/block_\d+/.*/SelfAttention/q"),
    config_files=("config.json", "t5_config.json", "operative_config.gin"),
    translate=translate,
    read=read,
    describe=describe,
    adapt=adapt,
    defaults={
        "decoder_start_token_id": 0,
        "eos_token_id": 1,
        "is_encoder_decoder": True,
        "layer_norm_epsilon": 1e-6,
        "pad_token_id": 0,
    },
    needs=("num_heads", "d_kv"),
    side_files=side_files,
)
