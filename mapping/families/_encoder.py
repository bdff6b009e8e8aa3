"""The encoder of BERT and ALBERT, for layouts that name its pieces in their own way."""

from __future__ import annotations

from typing import NamedTuple

from ..rule import Rule
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
ONLY_LAYER = "albert.encoder.albert_layer_groups.0.albert_layers.0"
_SIZES = {"inner": (HIDDEN, "intermediate_size"), "outer": ("intermediate_size", HIDDEN)}


def layer(sources: Layer, target: str, names: Layer) -> tuple[Rule, ...]:
    """The rules for a layer, all of whose pieces are called alike on either side."""
    made: list[Rule] = []
    for piece, source, name in zip(Layer._fields, sources, names, strict=True):
        if piece.endswith("norm"):
            made += layer_norm("encoder", source, f"{target}.{name}", HIDDEN)
        else:
            inputs, outputs = _SIZES.get(piece, (HIDDEN, HIDDEN))
            made += dense("encoder", source, f"{target}.{name}", inputs, outputs)
    return tuple(made)


def embeddings(
    target: str, size: str, words: str, positions: str, segments: str, norm: str
) -> tuple[Rule, ...]:
    """The rules for three tables, by their variables, and the norm of their sum, by its scope."""
    tables = (
        (words, "word_embeddings", "vocab_size"),
        (positions, "position_embeddings", "max_position_embeddings"),
        (segments, "token_type_embeddings", "type_vocab_size"),
    )
    return (
        *(
            Rule((source,), (f"{target}.{name}.weight",), shape=(rows, size), part="encoder")
            for source, name, rows in tables
        ),
        *layer_norm("encoder", norm, f"{target}.LayerNorm", size),
    )
