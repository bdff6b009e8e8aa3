"""BERT as the Model Garden's encoders spell it; see _garden.py.

Until 2.3 (`TransformerEncoder`), and in `BertEncoder` since, layers are known by their number in
the model alone, in `BertEncoderV2` by attributes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from tfreader.errors import ConfigError

from ..family import Beside, Config, Layout, Told, Variables
from ..rules.rule import Rule, RuleSet
from . import _garden_settings
from ._builders import dense, layer_norm
from ._garden import (
    ANY,
    ANY_LOGITS,
    BY_PATH,
    HIDDEN,
    SHARED_QUERY,
    UNUSED,
    Head,
    HeadTargets,
    Layer,
    chosen_heads,
    head_rules,
    heads,
    layer_rules,
    lone_dense,
    masked_lm,
    query_shape,
    table,
    with_classifier,
)

NUMBERED = "layer_with_weights-"
QUERY = re.compile(
    r"(?:.*/)?(?P<base>layer_with_weights-|[^/]+/)(?P<number>\d+)/_attention_layer/_query_dense/kernel"
)
TO_LAYER = Layer(
    "attention.self.{name}",
    "attention.output.dense",
    "attention.output.LayerNorm",
    "intermediate.dense",
    "output.dense",
    "output.LayerNorm",
)
BIG_BIRD = rf"{ANY}big_bird_attention(?:_\d+)?/.*"
TO_HEADS = HeadTargets("bert.pooler.dense", "classifier", "cls.seq_relationship", "nsp")
ANY_HEAD = (
    *dense("classifier", ANY_LOGITS, "classifier", HIDDEN, "num_labels"),
    *dense("squad", ANY_LOGITS, "qa_outputs", HIDDEN, "num_labels"),
    *dense("nsp", ANY_LOGITS, "cls.seq_relationship", HIDDEN, "num_labels"),
)
PROJECTION = re.compile(r"(?:.*/)?_?embedding_projection/kernel")
# Other encoders of the Garden, whose variables differ in their own names alone.
OTHERS = re.compile(
    r"(?:.*/)?(?:(?:(funnel)_transformer_encoder|(reuse)_transformer)(?:_\d+)?|(kernel)_attention)/.*"
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


def layers(variables: Variables) -> Layers | None:
    """The layers that the variables tell; None where they are not the Garden's."""
    matches = [match for match in map(QUERY.fullmatch, variables) if match]
    if not matches:
        return None
    base = matches[0]["base"]
    numbers = [int(match["number"]) for match in matches if match["base"] == base]
    # A missing first layer cannot be told from the embeddings where all share one numbering.
    first = min(numbers) if base == NUMBERED else 0
    return Layers(base, first, max(numbers) - first + 1)


class Garden(Layout):
    """The encoders of the TensorFlow Model Garden, by the paths of their objects.

    `base` has the ties and architectures to go with the rules.
    """

    name = "garden"
    evidence = (
        rf".*/embeddings|{ANY}masked_lm/embedding_table",
        r".*/_attention_layer/_query_dense/kernel",
    )
    absent = (SHARED_QUERY, BIG_BIRD)

    def __init__(self, base: RuleSet) -> None:
        self.base = base

    def from_settings(self, beside: Beside, config: Config, variables: Variables) -> Told:
        if other := next(filter(None, map(OTHERS.fullmatch, variables)), None):
            kind = other[1] or other[2] or other[3]
            raise ConfigError(f"{other[0]}: of an encoder with {kind} attention, no BERT")
        if kernel := next(filter(PROJECTION.fullmatch, variables), None):
            sizes = " to ".join(map(str, variables[kernel].shape))
            raise ConfigError(
                f"{kernel}: a layer from {sizes} between embeddings and layers (embedding_size is "
                "not hidden_size), which no BERT of transformers has, so no conversion is right"
            )
        classifier = lone_dense(self._known(variables, heads(variables)), variables)
        return _garden_settings.from_settings(beside, config, classifier, may_be_pre_norm=True)

    def describe(self, config: Config, variables: Variables) -> Config:
        """Layers and heads, which these checkpoints tell and the original's do not."""
        found, shape = layers(variables), query_shape(variables)
        if found is None or shape is None:
            return {}
        return {"num_hidden_layers": found.number, "num_attention_heads": shape[1]}

    def rules(self, config: Config, variables: Variables) -> RuleSet:
        chosen = chosen_heads(heads(variables), config.get("finetuning_task"))
        return with_classifier(self._known(variables, chosen), variables)

    def _known(self, variables: Variables, chosen: Sequence[Head]) -> RuleSet:
        """Rules for what the Garden itself has; by default for the newest form, of one layer."""
        found = layers(variables) or Layers("_transformer_layers/", 0, 1)
        pooler = found.scope(found.number) if found.is_numbered else f"{ANY}_pooler_layer"
        of_heads, drops = head_rules(heads(variables), chosen, TO_HEADS, pooler)
        encoder = (
            made
            for i in range(found.number)
            for made in layer_rules(found.scope(i), BY_PATH, f"bert.encoder.layer.{i}", TO_LAYER)
        )
        return replace(
            self.base,
            rules=(
                *(_numbered(found) if found.is_numbered else NAMED),
                *encoder,
                *masked_lm("cls.predictions.", HIDDEN),
                *of_heads,
                *ANY_HEAD,
            ),
            drops=(*UNUSED, *drops),
        )


def _embeddings(words: str, positions: str, types: str, scale: str) -> tuple[Rule, ...]:
    to = "bert.embeddings"
    return (
        table(words, f"{to}.word_embeddings", "vocab_size", HIDDEN),
        table(positions, f"{to}.position_embeddings", "max_position_embeddings", HIDDEN),
        table(types, f"{to}.token_type_embeddings", "type_vocab_size", HIDDEN),
        *layer_norm("encoder", scale, f"{to}.LayerNorm", HIDDEN),
    )


def _numbered(found: Layers) -> tuple[Rule, ...]:
    """Embeddings before the layers, in one numbering with them and with the pooler behind."""
    words, positions, types, scale = (found.scope(i) for i in (-4, -3, -2, -1))
    return _embeddings(
        f"(?:{words}/embeddings|{ANY}embedding_table)",
        f"{positions}/embeddings",
        f"{types}/embeddings",
        scale,
    )


NAMED = _embeddings(
    f"{ANY}(?:masked_lm/embedding_table|_embedding_layer/embeddings)",
    f"{ANY}_position_embedding_layer/embeddings",
    f"{ANY}_type_embedding_layer/embeddings",
    f"{ANY}_embedding_norm_layer",
)
