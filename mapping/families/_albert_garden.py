"""ALBERT as the Model Garden's `AlbertEncoder` spells it; see _garden.py.

One layer is used again and again, so no variable tells how often. As in `BertEncoder`, layers are
known by their number alone, and only the variables' own names (`transformer/…`, where BERT has
`transformer/layer_0/…`) tell the two apart. TF-Hub's albert_en_* are exports of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..family import Beside, Config, Layout, Told, Variables
from ..rules.rule import Fill, RuleSet
from . import _garden_settings
from ._builders import dense, layer_norm
from ._garden import (
    ANY,
    ANY_LOGITS,
    BY_NAME,
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

SIZE = "embedding_size"
PROJECTION = f"{ANY}embedding_projection"
TO_PROJECTION = "albert.encoder.embedding_hidden_mapping_in"
TO_LAYER = Layer(
    "attention.{name}",
    "attention.dense",
    "attention.LayerNorm",
    "ffn",
    "ffn_output",
    "full_layer_layer_norm",
)
TO_HEADS = HeadTargets("albert.pooler", "classifier", "sop_classifier.classifier", "sop")
ANY_HEAD = (
    *dense("classifier", ANY_LOGITS, "classifier", HIDDEN, "num_labels"),
    *dense("squad", ANY_LOGITS, "qa_outputs", HIDDEN, "num_labels"),
    *dense("sop", ANY_LOGITS, "sop_classifier.classifier", HIDDEN, "num_labels"),
)


class Garden(Layout):
    """`AlbertEncoder` of the TensorFlow Model Garden, by its variables' own names.

    `base` has the ties and architectures to go with the rules.
    """

    name = "garden"
    evidence = (SHARED_QUERY,)

    def __init__(self, base: RuleSet) -> None:
        self.base = base

    def from_settings(self, beside: Beside, config: Config, variables: Variables) -> Told:
        classifier = lone_dense(self._known(variables, heads(variables)), variables)
        return _garden_settings.from_settings(beside, config, classifier, may_be_pre_norm=False)

    def describe(self, config: Config, variables: Variables) -> Config:
        shape = query_shape(variables)
        heads = {} if shape is None else {"num_attention_heads": shape[1]}
        return {**heads, "num_hidden_groups": 1, "inner_group_num": 1}

    def rules(self, config: Config, variables: Variables) -> RuleSet:
        chosen = chosen_heads(heads(variables), config.get("finetuning_task"))
        return with_classifier(self._known(variables, chosen), variables)

    def _known(self, variables: Variables, chosen: Sequence[Head]) -> RuleSet:
        is_projected = any(map(PROJECTED[0].patterns[0].fullmatch, variables))
        of_heads, drops = head_rules(heads(variables), chosen, TO_HEADS, f"{ANY}pooler_transform")
        return replace(
            self.base,
            counts={},
            rules=(
                *ENCODER,
                *(PROJECTED if is_projected or not variables else ()),
                *masked_lm("predictions.", SIZE),
                *of_heads,
                *ANY_HEAD,
            ),
            drops=(*UNUSED, *drops),
            fills=IDENTITY,
        )


_TO = "albert.embeddings"
ENCODER = (
    table(f"{ANY}word_embeddings/embeddings", f"{_TO}.word_embeddings", "vocab_size", SIZE),
    table(
        f"{ANY}position_embedding/embeddings",
        f"{_TO}.position_embeddings",
        "max_position_embeddings",
        SIZE,
    ),
    table(
        f"{ANY}type_embeddings/embeddings", f"{_TO}.token_type_embeddings", "type_vocab_size", SIZE
    ),
    *layer_norm("encoder", f"{ANY}embeddings/layer_norm", f"{_TO}.LayerNorm", SIZE),
    *layer_rules(
        f"{ANY}transformer",
        BY_NAME,
        "albert.encoder.albert_layer_groups.0.albert_layers.0",
        TO_LAYER,
    ),
)
PROJECTED = dense("encoder", PROJECTION, TO_PROJECTION, SIZE, HIDDEN)
_NONE = "no projection, since the embeddings have the hidden size"
IDENTITY = (
    Fill(f"{TO_PROJECTION}.weight", (HIDDEN, SIZE), "identity", _NONE, "encoder"),
    Fill(f"{TO_PROJECTION}.bias", (HIDDEN,), "zeros", _NONE, "encoder"),
)
