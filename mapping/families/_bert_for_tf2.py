"""BERT and ALBERT of bert-for-tf2 (kpe/bert-for-tf2): an encoder, without a pooler of its own.

By the paths of its objects, which spell attributes (`embeddings_layer/word_embeddings_layer`), or
by the full names, which are the original's with small changes (`bert/embeddings/word_embeddings`).
With `shared_layer` one layer stands for all, with `embedding_size` the embeddings are projected.
"""

from __future__ import annotations

from ..rules.ops import Transpose
from ..rules.rule import Fill, Rule
from ._encoder import ALBERT, BERT, HIDDEN, ONLY_LAYER, Layer, embeddings, layer

ANY = "(?:.*/)?"
EMBEDDINGS = ANY + "embeddings(?:_layer)?"
WORDS = ANY + "(?:embeddings_layer/word_embeddings_layer|embeddings/word_embeddings)/embeddings"
PROJECTOR = f"{EMBEDDINGS}/word_embeddings_projector(?:_layer)?"
NUMBERED = ANY + r"(?:encoders_layer/encoder_layers/|encoder/layer_)(?P<layer>\d+)"
SHARED = ANY + "(?:encoders_layer/shared_layer|encoder/layer_shared)"


def _tables(target: str, size: str) -> tuple[Rule, ...]:
    return embeddings(
        target,
        size,
        WORDS,
        f"{EMBEDDINGS}/position_embeddings(?:_layer)?/embeddings",
        f"{EMBEDDINGS}/token_type_embeddings(?:_layer)?/embeddings",
        f"{EMBEDDINGS}/(?:layer_norm_layer|LayerNorm)",
    )


def _layer(scope: str) -> Layer:
    inside = f"{scope}/(?:self_attention_layer/attention_layer|attention/self)"
    joined = f"{scope}/(?:self_attention_layer/attention_projector|attention/output)"
    output = f"{scope}/output(?:_projector)?"
    return Layer(
        f"{inside}/query(?:_layer)?",
        f"{inside}/key(?:_layer)?",
        f"{inside}/value(?:_layer)?",
        f"{joined}/dense",
        f"{joined}/(?:layer_norm|LayerNorm)",
        f"{scope}/intermediate(?:_layer)?",
        f"{output}/dense",
        f"{output}/(?:layer_norm|LayerNorm)",
    )


BERT_RULES = (
    *_tables("bert.embeddings", HIDDEN),
    *layer(_layer(NUMBERED), "bert.encoder.layer.{layer}", BERT),
)
BERT_FILLS = (
    Fill(
        "bert.embeddings.token_type_embeddings.weight",
        ("type_vocab_size", HIDDEN),
        "zeros",
        "the model was called with token ids alone, to which bert-for-tf2 adds no segments",
        "encoder",
    ),
)
ALBERT_RULES = (
    *_tables("albert.embeddings", "embedding_size"),
    Rule(
        (PROJECTOR + "/projector",),
        ("albert.encoder.embedding_hidden_mapping_in.weight",),
        (Transpose(),),
        ("embedding_size", HIDDEN),
        "encoder",
    ),
    Rule(
        (PROJECTOR + "/bias",),
        ("albert.encoder.embedding_hidden_mapping_in.bias",),
        shape=(HIDDEN,),
        part="encoder",
    ),
    *layer(_layer(SHARED), ONLY_LAYER, ALBERT),
)
ALBERT_FILLS = tuple(
    Fill(
        "albert" + fill.target.removeprefix("bert"),
        ("type_vocab_size", "embedding_size"),
        fill.value,
        fill.reason,
        fill.part,
    )
    for fill in BERT_FILLS
)
