"""What tells RoFormer of bert4keras from BERT, whose names it has: by what is not there.

`save_weights_as_checkpoint` writes the variables of the layers that it knows and nothing else: no
slots, no counters, no layer of anybody's own. So what has any of these is a BERT that lost its
positions.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..evidence import told

WORDS = "bert/embeddings/word_embeddings"
SEGMENTS = "bert/embeddings/token_type_embeddings"
NORM = "bert/embeddings/LayerNorm"
PROJECTION = "bert/encoder/embedding_hidden_mapping_in"
NAMES = (WORDS, r"bert/encoder/layer_\d+/attention/self/query/kernel")
OTHERS = (
    "bert/embeddings/position_embeddings",
    r"(?!bert/|cls/predictions/|cls/seq_relationship/).*",
)


def is_of_roformer(names: Sequence[str], trained: bool) -> bool:
    """Whether a checkpoint with BERT's names is of RoFormer, of either version."""
    return not trained and told(names, NAMES, OTHERS) is not None
