"""BERT encoders of the TensorFlow Model Garden (tensorflow/models, official/nlp).

Names are paths in the object graph. Attention kernels have the heads as an axis: [hidden, heads,
size] into the heads and [heads, size, hidden] out of them. Until 2.3 (`TransformerEncoder`) layers
are known by their number in the model alone, later (`BertEncoderV2`) by attributes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from tfreader.checkpoint import TensorInfo

from ..family import Config
from ..ops import Reshape, Transpose
from ..rule import Drop, Rule

HIDDEN = "hidden_size"
QUERY = re.compile(
    r"(?:.*/)?(?P<base>layer_with_weights-|[^/]+/)(?P<number>\d+)/_attention_layer/_query_dense/kernel"
)
NUMBERED = "layer_with_weights-"
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


class Layers(NamedTuple):
    """The layers' scopes: a name, then a number from `first` on."""

    base: str
    first: int
    number: int

    @property
    def is_numbered(self) -> bool:
        return self.base == NUMBERED

    def scope(self, layer: int) -> str:
        return f"{ANY}{self.base}{self.first + layer}"


def layers(variables: Mapping[str, TensorInfo]) -> Layers | None:
    """The layers that the variables tell; None for the original's checkpoints."""
    matches = [match for match in map(QUERY.fullmatch, variables) if match]
    if not matches:
        return None
    base = matches[0]["base"]
    numbers = [int(match["number"]) for match in matches if match["base"] == base]
    # A missing first layer cannot be told from the embeddings where all share one numbering.
    first = min(numbers) if base == NUMBERED else 0
    return Layers(base, first, max(numbers) - first + 1)


def describe(variables: Mapping[str, TensorInfo]) -> Config:
    """Layers and heads, which these checkpoints tell and the original's do not."""
    found = layers(variables)
    query = next((variables[name] for name in variables if QUERY.fullmatch(name)), None)
    if found is None or query is None or len(query.shape) != 3:
        return {}
    return {"num_hidden_layers": found.number, "num_attention_heads": query.shape[1]}


def rules(found: Layers | None) -> tuple[Rule, ...]:
    """The rules for the form that the variables have; by default the newest, of one layer."""
    found = found or Layers("_transformer_layers/", 0, 1)
    each = tuple(
        made
        for i in range(found.number)
        for made in layer_rules(found.scope(i), f"bert.encoder.layer.{i}")
    )
    return (*(_numbered(found) if found.is_numbered else NAMED), *each, *HEADS)


def _numbered(found: Layers) -> tuple[Rule, ...]:
    """Embeddings before the layers and the pooler behind them, in one numbering."""
    words, positions, types, scale = (found.scope(i) for i in (-4, -3, -2, -1))
    return (
        *embeddings(
            f"(?:{words}/embeddings|{ANY}embedding_table)",
            f"{positions}/embeddings",
            f"{types}/embeddings",
            scale,
        ),
        *dense("pooler", found.scope(found.number), "bert.pooler.dense", HIDDEN, HIDDEN),
    )


NAMED = (
    *embeddings(
        f"{ANY}(?:masked_lm/embedding_table|_embedding_layer/embeddings)",
        f"{ANY}_position_embedding_layer/embeddings",
        f"{ANY}_type_embedding_layer/embeddings",
        f"{ANY}_embedding_norm_layer",
    ),
    *dense("pooler", f"{ANY}_pooler_layer", "bert.pooler.dense", HIDDEN, HIDDEN),
)
# By path or, in exported modules, by the variables' own names.
MLM = f"{ANY}(?:masked_lm|cls/predictions/transform)"
LOGITS = f"{ANY}predictions/transform/logits"
HEADS = (
    *dense("mlm", f"{MLM}/dense", "cls.predictions.transform.dense", HIDDEN, HIDDEN),
    *norm("mlm", f"{MLM}/(?:layer_norm|LayerNorm)", "cls.predictions.transform.LayerNorm"),
    rule(
        "mlm",
        f"{ANY}(?:masked_lm|cls/predictions)/output_bias/bias",
        "cls.predictions.bias",
        "vocab_size",
    ),
    *dense("classifier", f"{ANY}sentence_prediction/logits", "classifier", HIDDEN, "num_labels"),
    # One name for three kinds of head: which it is has to be said (--architecture).
    *dense("classifier", LOGITS, "classifier", HIDDEN, "num_labels"),
    *dense("squad", LOGITS, "qa_outputs", HIDDEN, "num_labels"),
    *dense("nsp", LOGITS, "cls.seq_relationship", HIDDEN, "num_labels"),
)
DROPS = (
    Drop(f"{ANY}do_lower_case", "the tokenizer's setting"),
    Drop(
        r"(?:.*/)?next_sentence\..*|.*/next_sentence/pooler_dense/.*",
        "pooler in the next-sentence head",
    ),
)
