"""BERT encoders of the TensorFlow Model Garden (tensorflow/models, official/nlp).

Names are paths in the object graph. Attention kernels have the heads as an axis: [hidden, heads,
size] into the heads and [heads, size, hidden] out of them. Until 2.3 (`TransformerEncoder`) layers
are known by their number in the model alone, later (`BertEncoderV2`) by attributes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from tfreader.checkpoint import TensorInfo

from ..family import Config
from ..ops import Reshape, Transpose
from ..rule import Rule

HIDDEN = "hidden_size"
QUERY = re.compile(r"(?:.*/)?(?P<scope>[^/]+(?:/\d+)?)/_attention_layer/_query_dense/kernel")
NUMBERED = re.compile(r"layer_with_weights-(?P<number>\d+)")
ANY = "(?:.*/)?"
SQUARE = (Reshape((HIDDEN, HIDDEN)), Transpose())


def rule(part: str, source: str, target: str, *shape: str) -> Rule:
    """A kernel is transposed where the target is a weight of two dimensions."""
    is_kernel = source.endswith("kernel")
    return Rule((source,), (target,), (Transpose(),) if is_kernel else (), shape, part=part)


def dense(part: str, source: str, target: str, inputs: str, outputs: str) -> tuple[Rule, ...]:
    return (
        rule(part, f"{source}/kernel", f"{target}.weight", inputs, outputs),
        rule(part, f"{source}/bias", f"{target}.bias", outputs),
    )


def norm(part: str, source: str, target: str) -> tuple[Rule, ...]:
    return (
        rule(part, f"{source}/gamma", f"{target}.weight", HIDDEN),
        rule(part, f"{source}/beta", f"{target}.bias", HIDDEN),
    )


def layer_rules(scope: str, target: str) -> tuple[Rule, ...]:
    heads = rf"{scope}/_attention_layer/_(?P<name>query|key|value)_dense"
    into, out = f"{target}.attention.self.{{name}}", f"{target}.attention.output"
    joined = f"{scope}/(?:_attention_layer/_output_dense|_attention_output_dense)"
    return (
        Rule((f"{heads}/kernel",), (f"{into}.weight",), SQUARE, part="encoder"),
        Rule((f"{heads}/bias",), (f"{into}.bias",), (Reshape((HIDDEN,)),), part="encoder"),
        Rule((f"{joined}/kernel",), (f"{out}.dense.weight",), SQUARE, part="encoder"),
        rule("encoder", f"{joined}/bias", f"{out}.dense.bias", HIDDEN),
        *norm("encoder", f"{scope}/_attention_layer_norm", f"{out}.LayerNorm"),
        *dense(
            "encoder",
            f"{scope}/_intermediate_dense",
            f"{target}.intermediate.dense",
            HIDDEN,
            "intermediate_size",
        ),
        *dense(
            "encoder",
            f"{scope}/_output_dense",
            f"{target}.output.dense",
            "intermediate_size",
            HIDDEN,
        ),
        *norm("encoder", f"{scope}/_output_layer_norm", f"{target}.output.LayerNorm"),
    )


def embeddings(words: str, positions: str, types: str, scale: str) -> tuple[Rule, ...]:
    to = "bert.embeddings"
    sizes = ("vocab_size", "max_position_embeddings", "type_vocab_size")
    kinds = ("word", "position", "token_type")
    return (
        *(
            rule("encoder", source, f"{to}.{kind}_embeddings.weight", rows, HIDDEN)
            for source, kind, rows in zip((words, positions, types), kinds, sizes, strict=True)
        ),
        *norm("encoder", scale, f"{to}.LayerNorm"),
    )


def layers(variables: Mapping[str, TensorInfo]) -> list[str]:
    """The scopes of the layers, in their order; empty for the original's checkpoints."""
    scopes = {match["scope"] for match in map(QUERY.fullmatch, variables) if match}
    return sorted(scopes, key=lambda scope: [int(number) for number in re.findall(r"\d+", scope)])


def describe(variables: Mapping[str, TensorInfo]) -> Config:
    """Layers and heads, which these checkpoints tell and the original's do not."""
    found = layers(variables)
    query = next((variables[name] for name in variables if QUERY.fullmatch(name)), None)
    if query is None or len(query.shape) != 3:
        return {}
    return {"num_hidden_layers": len(found), "num_attention_heads": query.shape[1]}


def rules(variables: Mapping[str, TensorInfo]) -> tuple[Rule, ...]:
    """The rules for the layout that the variables have."""
    target = "bert.encoder.layer.{}"
    scopes = layers(variables)
    each = tuple(
        made
        for i, scope in enumerate(scopes)
        for made in layer_rules(ANY + re.escape(scope), target.format(i))
    )
    if first := NUMBERED.fullmatch(scopes[0]):
        start = int(first["number"])
        words, positions, types, scale = (
            f"{ANY}layer_with_weights-{start - i}" for i in (4, 3, 2, 1)
        )
        pooler = f"{ANY}layer_with_weights-{start + len(scopes)}"
        return (
            *embeddings(
                f"{words}/embeddings", f"{positions}/embeddings", f"{types}/embeddings", scale
            ),
            *each,
            *dense("pooler", pooler, "bert.pooler.dense", HIDDEN, HIDDEN),
        )
    head = f"{ANY}masked_lm"
    return (
        *embeddings(
            f"{ANY}(?:masked_lm/embedding_table|_embedding_layer/embeddings)",
            f"{ANY}_position_embedding_layer/embeddings",
            f"{ANY}_type_embedding_layer/embeddings",
            f"{ANY}_embedding_norm_layer",
        ),
        *each,
        *dense("pooler", f"{ANY}_pooler_layer", "bert.pooler.dense", HIDDEN, HIDDEN),
        *dense("mlm", f"{head}/dense", "cls.predictions.transform.dense", HIDDEN, HIDDEN),
        *norm("mlm", f"{head}/layer_norm", "cls.predictions.transform.LayerNorm"),
        rule("mlm", f"{head}/output_bias/bias", "cls.predictions.bias", "vocab_size"),
    )
