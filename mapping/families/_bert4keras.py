"""BERT, ALBERT and RoFormer of bert4keras (bojone/bert4keras), as Keras' `save_weights` does.

Layers have names, the fully connected layers inside them none but the session's counter
(`Transformer-0-FeedForward/dense_37`). What one is for, its path in the object graph tells, which
spells the attributes (`layer_with_weights-6/o_dense`); without a graph the order, as a layer makes
them one after the other. `save_weights_as_checkpoint` writes the original's names.
"""

from __future__ import annotations

import re
from collections import defaultdict

from ..family import Config, Variables
from ..rules.rule import Rule
from ._builders import dense, layer_norm
from ._encoder import ALBERT, BERT, HIDDEN, ONLY_LAYER, Layer, embeddings, layer


def named(layer: str) -> str:
    """A regex of a layer's scope: TensorFlow 1 numbers the layers of a session's later models."""
    return rf"(?:.*/)?{layer}(?:_\d+)?"


WORDS = named("Embedding-Token") + "/embeddings"
SEGMENTS = named("Embedding-Segment") + "/embeddings"
POSITIONS = named("Embedding-Position") + "/embeddings"  # not of RoFormer, NEZHA
DISTANCES = named("Embedding-Relative-Position") + "/embeddings"  # of NEZHA
NORM = named("Embedding-Norm")  # not of GPT
NUMBERED = named(r"Transformer-\d+-MultiHeadSelfAttention")
SHARED = named("Transformer-MultiHeadSelfAttention")
# Of embeddings that have a size of their own: ELECTRA's, RoFormer's, ALBERT's.
MAPPING = named("Embedding-Mapping")

REMARK = (
    "bert4keras: an encoder is assumed; models built with application='lm' or 'unilm' have the "
    "same names, but hide later words from earlier ones, which nothing in the checkpoint tells"
)

_LAYER = re.compile(
    named(r"(?P<name>Transformer-(?:(?P<layer>\d{1,6})-)?(?:MultiHeadSelfAttention|FeedForward))")
    + r"/(?:dense(?:_(?P<number>\d{1,9}))?/)?[^/]+"
)
_PATH = re.compile(r"(?P<path>.+)/(?P<dense>[qkvo]_dense|i0_dense|dense_[12])/.*")
_ATTENTION = ("q_dense", "k_dense", "v_dense", "o_dense")
_FORWARD = ("i0_dense", "o_dense")
_OLDER = ("dense_1", "dense_2")  # until 0.9


def layers(variables: Variables) -> int:
    """The number of layers: no more than one beyond those found, however far the numbers go."""
    matches = filter(None, map(_LAYER.fullmatch, variables))
    numbers = {int(match["layer"]) for match in matches if match["layer"]}
    return min(max(numbers), len(numbers)) + 1 if numbers else 0


def bert(config: Config, variables: Variables) -> tuple[Rule, ...]:
    scopes = _scopes(variables)
    return (
        *_tables("bert.embeddings", HIDDEN),
        *(
            made
            for i in range(layers(variables))
            for made in layer(_layer(f"Transformer-{i}-", scopes), f"bert.encoder.layer.{i}", BERT)
        ),
        *dense("pooler", named("Pooler-Dense"), "bert.pooler.dense", HIDDEN, HIDDEN),
        *dense("nsp", named("NSP-Proba"), "cls.seq_relationship", HIDDEN, 2),
        *_predictions("cls.predictions", "transform.", HIDDEN),
    )


def roformer(variables: Variables) -> tuple[Rule, ...]:
    target, scopes = "roformer.encoder.layer", _scopes(variables)
    return (
        *_tables("roformer.embeddings", "embedding_size", ""),
        *dense("encoder", MAPPING, "roformer.embeddings_project", "embedding_size", HIDDEN),
        *(
            made
            for i in range(layers(variables))
            for made in layer(_layer(f"Transformer-{i}-", scopes), f"{target}.{i}", BERT)
        ),
        *_predictions("cls.predictions", "transform.", "embedding_size"),
    )


def albert(config: Config, variables: Variables) -> tuple[Rule, ...]:
    mapping = "albert.encoder.embedding_hidden_mapping_in"
    return (
        *_tables("albert.embeddings", "embedding_size"),
        *dense("encoder", MAPPING, mapping, "embedding_size", HIDDEN),
        *layer(_layer("Transformer-", _scopes(variables)), ONLY_LAYER, ALBERT),
        *dense("pooler", named("Pooler-Dense"), "albert.pooler", HIDDEN, HIDDEN),
        *dense("sop", named("NSP-Proba"), "sop_classifier.classifier", HIDDEN, 2),
        *_predictions("predictions", "", "embedding_size"),
    )


def _tables(target: str, size: str, positions: str = POSITIONS) -> tuple[Rule, ...]:
    return embeddings(target, size, WORDS, positions, SEGMENTS, NORM)


def _predictions(target: str, transform: str, size: str) -> tuple[Rule, ...]:
    bias = Rule(
        (named("MLM-Bias") + "/(?:beta|bias)",),  # bias in older releases
        (f"{target}.bias",),
        shape=("vocab_size",),
        part="mlm",
    )
    return (
        *dense("mlm", named("MLM-Dense"), f"{target}.{transform}dense", HIDDEN, size),
        *layer_norm("mlm", named("MLM-Norm"), f"{target}.{transform}LayerNorm", size),
        bias,
    )


def _layer(name: str, scopes: dict[str, list[str]]) -> Layer:
    """The pieces of a layer; those that are missing under the names that they should have."""
    attention, forward = f"{name}MultiHeadSelfAttention", f"{name}FeedForward"
    expected = {attention: _ATTENTION, forward: _FORWARD}
    found = {
        part: [re.escape(scope) for scope in scopes.get(part, ())]
        if len(scopes.get(part, ())) == len(attributes)
        else [f"{part}/{attribute}" for attribute in attributes]
        for part, attributes in expected.items()
    }
    (query, key, value, joined), (inner, outer) = found.values()
    norms = (named(f"{part}-Norm") for part in expected)
    return Layer(query, key, value, joined, next(norms), inner, outer, next(norms))


def _scopes(variables: Variables) -> dict[str, list[str]]:
    """Of each part of a layer, by its name, the scopes of its denses in the order of their making.

    `variables` has each variable under all its names.
    """
    spellings = defaultdict(list)
    for own, info in variables.items():
        spellings[info.name].append(own)
    by_path: dict[str, list[str]] = {}
    by_number: dict[str, dict[int, str]] = defaultdict(dict)
    for names in spellings.values():
        part = next(filter(None, map(_LAYER.fullmatch, names)), None)
        if part is None:
            continue
        paths = (_PATH.fullmatch(own) for own in names if not _LAYER.fullmatch(own))
        path = next(filter(None, paths), None)
        if path is None:
            by_number[part["name"]][int(part["number"] or 0)] = part[0].rpartition("/")[0]
            continue
        forward = _OLDER if path["dense"] in _OLDER else _FORWARD
        attributes = forward if part["name"].endswith("FeedForward") else _ATTENTION
        by_path[part["name"]] = [f"{path['path']}/{attribute}" for attribute in attributes]
    ordered = {name: [each[i] for i in sorted(each)] for name, each in by_number.items()}
    return ordered | by_path
