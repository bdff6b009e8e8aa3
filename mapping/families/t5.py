"""T5, T5 v1.1, mT5 and ByT5 as Mesh TensorFlow saves them (tensorflow/mesh, google-research/t5).

Variable names are those of Mesh's transformer layers, with both spellings of its scopes; tensor
names those of transformers' modeling_t5.py. Every kernel is [in, out] and transposed; attention
kernels may have the heads as an axis of their own (`combine_dims = False`).
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from tfreader.checkpoint import Checkpoint, TensorInfo
from tfreader.errors import ConfigError
from tfreader.files import read_small

from ..config_keys import keys_of
from ..family import Beside, Config, Family, Layout, SideFiles, Variables, same_keys
from ..rules.ops import Op, Reshape, Transpose
from ..rules.rule import Architecture, Rule, RuleSet, Tie
from ._tokenizers import is_sentencepiece, sentencepieces, tokenizer_config, too_many

NORM = "(?:layer_norm|rms_norm)/scale"
FINAL_NORM = "(?:final_layer_norm|rms_norm)/scale"
LOGITS = "decoder/logits/kernel"
HEADS = "num_heads*d_kv"
QUERY = r"(en|de)coder/block_\d+/.*/SelfAttention/q"
MT5_VOCABULARY, BYT5_VOCABULARY = 250112, 384  # padded


def kernel(part: str, source: str, target: str, inputs: str, outputs: str) -> Rule:
    return Rule((source,), (f"{target}.weight",), (Transpose(),), (inputs, outputs), part)


def attention(part: str, scope: str, kind: str, target: str, heads_apart: bool) -> tuple[Rule, ...]:
    into, out = ("d_model", HEADS), (HEADS, "d_model")
    source, target_kind = f"{scope}/{kind}", f"{target}.{kind}"
    join: tuple[Op, ...] = (Reshape(into),) if heads_apart else ()
    join_out: tuple[Op, ...] = (Reshape(out),) if heads_apart else ()
    apart, apart_out = ("d_model", "num_heads", "d_kv"), ("num_heads", "d_kv", "d_model")
    return (
        Rule(
            (f"{source}/(?P<name>q|k|v)",),
            (f"{target_kind}.{{name}}.weight",),
            (*join, Transpose()),
            apart if heads_apart else into,
            part,
        ),
        Rule(
            (f"{source}/o",),
            (f"{target_kind}.o.weight",),
            (*join_out, Transpose()),
            apart_out if heads_apart else out,
            part,
        ),
        norm(part, f"{scope}/{NORM}", f"{target}.layer_norm"),
    )


def feed_forward(part: str, scope: str, target: str, gated: bool) -> tuple[Rule, ...]:
    """The gated form has wi_0 and wi_1 in place of wi."""
    source, target_dense = f"{scope}/DenseReluDense", f"{target}.DenseReluDense"
    wi, to_wi = ("wi_(?P<gate>0|1)", "wi_{gate}") if gated else ("wi", "wi")
    return (
        kernel(part, f"{source}/{wi}/kernel", f"{target_dense}.{to_wi}", "d_model", "d_ff"),
        kernel(part, f"{source}/wo/kernel", f"{target_dense}.wo", "d_ff", "d_model"),
        norm(part, f"{scope}/{NORM}", f"{target}.layer_norm"),
    )


def norm(part: str, source: str, target: str) -> Rule:
    return Rule((source,), (f"{target}.weight",), shape=("d_model",), part=part)


def relative_bias(part: str, scope: str, name: str) -> Rule:
    """Of the first block, which shares it with the others."""
    return kernel(
        part,
        f"{scope}/block_000/(?:layer_000|self_attention)/SelfAttention/relative_attention_bias",
        f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias",
        "num_heads",
        "relative_attention_num_buckets",
    )


def stack_rules(name: str, scope: str, gated: bool, heads_apart: bool) -> tuple[Rule, ...]:
    """One stack, from the variables in `scope`; a decoder's has cross-attention between the two."""
    group = "block" if name == "encoder" else "layer"
    block, target = rf"{scope}/block_(?P<{group}>\d+)", f"{name}.block.{{{group}}}.layer"
    first = f"{block}/(?:layer_000|self_attention)"
    cross = f"{block}/(?:layer_001|enc_dec_attention)"
    has_cross = name == "decoder"
    last = f"{block}/(?:layer_00{1 if scope == 'encoder' else 2}|dense_relu_dense)"
    return (
        relative_bias(name, scope, name),
        *attention(name, first, "SelfAttention", f"{target}.0", heads_apart),
        *(
            attention(name, cross, "EncDecAttention", f"{target}.1", heads_apart)
            if has_cross
            else ()
        ),
        *feed_forward(name, last, f"{target}.{2 if has_cross else 1}", gated),
        norm(name, f"{scope}/{FINAL_NORM}", f"{name}.final_layer_norm"),
    )


def all_rules(gated: bool, heads_apart: bool, shared_stack: bool, is_mt5: bool) -> RuleSet:
    """The whole model's. Where one stack serves as both (bi_v1_shared.gin), it is the decoder's."""
    encoder = "decoder" if shared_stack else "encoder"
    kind = "MT5" if is_mt5 else "T5"
    return RuleSet(
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
            *stack_rules("encoder", encoder, gated, heads_apart),
            *stack_rules("decoder", "decoder", gated, heads_apart),
            Rule(
                (LOGITS,),
                ("lm_head.weight",),
                (Transpose(),),
                ("d_model", "vocab_size"),
                "decoder",
                required=False,
            ),
        ),
        ties=(
            Tie("encoder.embed_tokens.weight", "shared.weight", "encoder"),
            Tie("decoder.embed_tokens.weight", "shared.weight", "decoder"),
            Tie("lm_head.weight", "shared.weight", "decoder"),
        ),
        architectures=(
            Architecture(f"{kind}ForConditionalGeneration", ("encoder",), ("decoder",)),
            Architecture(f"{kind}EncoderModel", ("encoder",)),
        ),
    )


def _has(variables: Variables, scope: str) -> bool:
    return any(name.startswith(scope) for name in variables)


def _is_gated(variables: Variables) -> bool:
    return _first(variables, r".*/DenseReluDense/wi_[01]/kernel") is not None


def _first(variables: Variables, regex: str) -> TensorInfo | None:
    return next((variables[name] for name in variables if re.fullmatch(regex, name)), None)


def _usual_activation(gated: bool) -> str:
    return "gated-gelu" if gated else "relu"


ACTIVATION = re.compile("(?:gated-)?(?:relu|gelu|gelu_new|silu|swish|sigmoid|tanh)")
# What transformers 5 writes for itself and works out anew.
DERIVED = ("dense_act_fn", "is_gated_act", "scale_decoder_outputs")


# Hugging Face's key: the gin parameters that say it, of which the first that is there counts.
GIN_KEYS = {
    "d_model": ("encoder/Unitransformer.d_model", "d_model"),
    "d_ff": ("encoder/DenseReluDense.hidden_size", "d_ff"),
    "d_kv": ("encoder/SelfAttention.key_value_size", "d_kv"),
    "num_heads": ("encoder/SelfAttention.num_heads", "num_heads"),
    "num_layers": ("encoder/make_layer_stack.num_layers", "num_layers"),
    "num_decoder_layers": ("decoder/make_layer_stack.num_layers", "num_layers"),
    "relative_attention_num_buckets": ("encoder/SelfAttention.relative_attention_num_buckets",),
    "layer_norm_epsilon": ("encoder/sublayer_rms_norm.epsilon", "encoder/LayerStack.norm_epsilon"),
    "tie_word_embeddings": ("decoder/Unitransformer.shared_embedding_and_softmax_weights",),
}
# Mesh's gelu is the tanh form, which Hugging Face calls gelu in the gated form alone.
PLAIN = {"gelu": "gelu_new", "swish": "silu"}
GATED = {"swish": "silu"}


def _gin_bindings(text: str) -> dict[tuple[str, str], str]:
    """The text of each value by its scope and parameter; macros have no scope and no dot.

    encoder/module.path.Name.parameter = value, which may go on in the next lines.
    """
    lines = re.sub(r"#[^\n]*", "", text).replace("\\\n", " ").splitlines()
    bindings: dict[tuple[str, str], str] = {}
    name = None
    for line in lines:
        start = re.match(r"([\w./]+)\s*=(.*)", line)
        if start:
            *scopes, parameter = start[1].split("/")
            name = (scopes[0] if scopes else "", ".".join(parameter.split(".")[-2:]))
            bindings[name] = start[2].strip()
        elif name is not None and line[:1].isspace() | line.startswith((")", "]", "}")):
            bindings[name] += " " + line.strip()
        elif line.strip():
            name = None
    return bindings


class Mesh(Layout):
    name = "mesh"
    evidence = (r"shared/embedding", r"(?:en|de)coder/block_\d+/.*/SelfAttention/q")

    def describe(self, config: Config, variables: Variables) -> Config:
        """Head size, gating, ties, which of the models it is."""
        told: Config = {}
        query = _first(variables, QUERY)
        bias = _first(variables, r"(en|de)coder/block_000/.*/relative_attention_bias")
        heads = bias.shape[0] if bias is not None and bias.shape else config.get("num_heads")
        if query is not None and len(query.shape) == 3:
            told |= {"num_heads": query.shape[1], "d_kv": query.shape[2]}
        elif (
            query is not None
            and len(query.shape) == 2
            and isinstance(heads, int)
            and heads > 0
            and query.shape[1] % heads == 0
        ):
            told["d_kv"] = query.shape[1] // heads
        gated = _is_gated(variables)
        activation = config.get("feed_forward_proj")
        if activation is not None and gated != str(activation).startswith("gated-"):
            told["feed_forward_proj"] = _usual_activation(gated)
        if _has(variables, "decoder/"):
            told["tie_word_embeddings"] = LOGITS not in variables
        words = variables.get("shared/embedding")
        if LOGITS in variables and words is not None and words.shape[:1] == (MT5_VOCABULARY,):
            told["model_type"] = "mt5"
        elif _has(variables, "decoder/") and LOGITS not in variables and "model_type" in config:
            told["model_type"] = "t5"  # transformers' MT5 does not scale tied logits
        return told

    def rules(self, config: Config, variables: Variables) -> RuleSet:
        """The rules for the form that the variables have."""
        query = _first(variables, QUERY)
        return all_rules(
            gated=_is_gated(variables),
            heads_apart=query is not None and len(query.shape) == 3,
            shared_stack=_has(variables, "decoder/") and not _has(variables, "encoder/"),
            is_mt5=config.get("model_type") == "mt5",
        )


class T5(Family):
    model_type = "t5"
    layouts = (Mesh(),)
    aliases = ("byt5", "google-t5/t5-small")
    variants = ("mt5",)
    config_files = ("config.json", "t5_config.json", "operative_config.gin")
    fixed: ClassVar = {"is_decoder": False}
    output_weight = "lm_head.weight"
    defaults: ClassVar = {
        "decoder_start_token_id": 0,
        "eos_token_id": 1,
        "is_encoder_decoder": True,
        "pad_token_id": 0,
    }
    needs = ("num_heads", "d_kv")
    pads = False

    def read(self, text: str) -> Mapping[str, Any]:
        """From an operative_config.gin, as Mesh writes it beside a checkpoint."""
        values = _gin_bindings(text)

        def value(name: str, depth: int = 8) -> Any:
            scope, _, parameter = name.rpartition("/")
            text = values.get((scope, parameter), values.get(("", parameter)))
            if text is None:
                return None
            if text.startswith("%"):
                return value(text[1:], depth - 1) if depth else None
            try:
                return ast.literal_eval(text)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                return None  # a reference to a function

        found = {
            key: next((value(name) for name in names if value(name) is not None), None)
            for key, names in GIN_KEYS.items()
        }
        match value("encoder/DenseReluDense.activation"):
            case [str(name), "linear"] if name != "linear":
                found["feed_forward_proj"] = f"gated-{GATED.get(name, name)}"
            case str(name) | [str(name)]:
                found["feed_forward_proj"] = PLAIN.get(name, name)
            case None:
                pass
            case other:
                raise ConfigError(
                    f"DenseReluDense.activation = {other!r}: Hugging Face's T5 has an activation, "
                    "or one and 'linear' behind it"
                )
        known = {key: value for key, value in found.items() if value is not None}
        if not known:
            raise ConfigError("neither JSON nor a gin file of a T5")
        return known

    def translate(self, original: Mapping[str, Any]) -> Config:
        """Hugging Face's config, from one of theirs or from what `read` makes of a gin file."""
        config = same_keys(original, keys_of(self.model_type).aliases)
        if "scale_decoder_outputs" in config:  # beside it, tie_word_embeddings is always true
            config["tie_word_embeddings"] = config["scale_decoder_outputs"]
        config = {key: value for key, value in config.items() if key not in DERIVED}
        kind = original.get("model_type")
        if kind == "mt5":
            config["model_type"] = "mt5"
        if kind == "t5":
            config.setdefault("feed_forward_proj", "relu")  # v1.0's configs leave it out
        return config

    def assume(self, config: Config, variables: Variables) -> Config:
        return {
            "feed_forward_proj": _usual_activation(_is_gated(variables)),
            "layer_norm_epsilon": 1e-6,
        }

    def check(self, config: Config) -> None:
        if not ACTIVATION.fullmatch(str(config["feed_forward_proj"])):
            raise ConfigError(
                f"feed_forward_proj = {config['feed_forward_proj']!r} is no known form"
            )
        # transformers makes these two of it, but takes them from a config that has them.
        form = config["feed_forward_proj"]
        gated, activation = form.startswith("gated-"), form.removeprefix("gated-")
        told = {
            "is_gated_act": gated,
            "dense_act_fn": "gelu_new" if form == "gated-gelu" else activation,
        }
        for key, value in told.items():
            if config.get(key, value) != value:
                raise ConfigError(
                    f"{key} = {config[key]!r}, but feed_forward_proj = {form!r}, with which it is "
                    f"{value!r}: correct the config, or --set {key}={json.dumps(value)}"
                )

    def side_files(self, checkpoint: Checkpoint, beside: Beside, config: Config) -> SideFiles:
        """spiece.model, which the released models share; ByT5 has no vocabulary but bytes."""
        if config["vocab_size"] == BYT5_VOCABULARY:
            note = f"tokenizer: ByT5Tokenizer, as {BYT5_VOCABULARY} rows are those of bytes"
            return SideFiles(tokenizer_config("ByT5Tokenizer"), (note,))
        path, found = beside.find_vocabulary(("spiece.model",), ("*.model",), is_sentencepiece)
        if path is None:
            return SideFiles({}, found)
        contents = read_small(path)
        extra = 0 if config.get("model_type") == "mt5" else 100
        count = len(sentencepieces(path, contents)) + extra
        length = config.get("n_positions", 512)
        files = tokenizer_config("T5Tokenizer", extra_ids=extra, model_max_length=length)
        notes = too_many(path, count, f"pieces with {extra} extra ids", config["vocab_size"])
        return SideFiles({"spiece.model": contents, **files}, (*found, *notes))


FAMILY = T5()
