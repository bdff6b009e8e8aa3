"""The encoder of BERT and its kin, however a layout names its pieces."""

from __future__ import annotations

from typing import NamedTuple

from ..rules.rule import Rule
from ._builders import dense, layer_norm

HIDDEN = "hidden_size"


class Layer(NamedTuple):
    """The names of a layer's pieces: those in a source as regexes, or those of a target."""

    query: str
    key: str
    value: str
    joined: str
    joined_norm: str
    inner: str
    outer: str
    outer_norm: str


BERT = Layer(
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
)
ALBERT = Layer(
    "attention.query",
    "attention.key",
    "attention.value",
    "attention.dense",
    "attention.LayerNorm",
    "ffn",
    "ffn_output",
    "full_layer_layer_norm",
)
# Later copies of google-research's code spell the scope in this way, some with a number.
NORM = r"(?:LayerNorm|layer_normalization(?:_\d+)?)"
ONLY_LAYER = "albert.encoder.albert_layer_groups.0.albert_layers.0"
_SIZES = {"inner": (HIDDEN, "intermediate_size"), "outer": ("intermediate_size", HIDDEN)}


def layer(sources: Layer, target: str, names: Layer, part: str = "encoder") -> tuple[Rule, ...]:
    """The rules for a layer, all of whose pieces are called alike on either side."""
    made: list[Rule] = []
    for piece, source, name in zip(Layer._fields, sources, names, strict=True):
        if piece.endswith("norm"):
            made += layer_norm(part, source, f"{target}.{name}", HIDDEN)
        else:
            inputs, outputs = _SIZES.get(piece, (HIDDEN, HIDDEN))
            made += dense(part, source, f"{target}.{name}", inputs, outputs)
    return tuple(made)


def embeddings(
    target: str,
    size: str,
    words: str,
    positions: str,
    segments: str,
    norm: str,
    part: str = "encoder",
) -> tuple[Rule, ...]:
    """The rules for three tables, by their variables, and the norm of their sum, by its scope.

    Of a table without a variable there is no rule.
    """
    tables = (
        (words, "word_embeddings", "vocab_size"),
        (positions, "position_embeddings", "max_position_embeddings"),
        (segments, "token_type_embeddings", "type_vocab_size"),
    )
    return (
        *(
            Rule((source,), (f"{target}.{name}.weight",), shape=(rows, size), part=part)
            for source, name, rows in tables
            if source
        ),
        *layer_norm(part, norm, f"{target}.LayerNorm", size),
    )


def original_layers(scope: str, target: str, part: str = "encoder") -> tuple[Rule, ...]:
    """The rules for `SCOPE/layer_N`, as google-research's BERT and what was made of it has them."""
    return original_layer(scope + r"/layer_(?P<layer>\d+)", target + ".layer.{layer}", part)


def original_layer(inner: str, target: str, part: str = "encoder") -> tuple[Rule, ...]:
    """The rules for a layer of that code, by its scope."""
    sources = Layer(
        f"{inner}/attention/self/query",
        f"{inner}/attention/self/key",
        f"{inner}/attention/self/value",
        f"{inner}/attention/output/dense",
        f"{inner}/attention/output/{NORM}",
        f"{inner}/intermediate/dense",
        f"{inner}/output/dense",
        f"{inner}/output/{NORM}",
    )
    return layer(sources, target, BERT, part)


def original_predictions(root: str, part: str) -> tuple[Rule, ...]:
    """The rules for that code's head of masked words, whose output weights are the embeddings."""
    scope, target = f"{root}cls/predictions", "cls.predictions"
    transform = f"{target}.transform"
    return (
        *dense(part, f"{scope}/transform/dense", f"{transform}.dense", HIDDEN, HIDDEN),
        *layer_norm(part, f"{scope}/transform/{NORM}", f"{transform}.LayerNorm", HIDDEN),
        Rule((f"{scope}/output_bias",), (f"{target}.bias",), shape=("vocab_size",), part=part),
    )


def original_embeddings(
    scope: str, target: str, size: str = HIDDEN, part: str = "encoder"
) -> tuple[Rule, ...]:
    """The rules for the three tables below a scope of that code, and the norm of their sum."""
    return embeddings(
        target,
        size,
        f"{scope}/word_embeddings",
        f"{scope}/position_embeddings",
        f"{scope}/token_type_embeddings",
        f"{scope}/{NORM}",
        part,
    )
