"""The keys of roformer's configs."""

from ._kinds import ConfigKeys, Foreign, keys
from ._shared import BERT, BERT_FILES, BERT_KIN

KEYS = ConfigKeys(
    fields={**BERT, **keys(size="embedding_size?", flag="rotary_value")},
    # Arguments of bert4keras, which reads them from its config too.
    aliases={
        "attention_dropout_rate": "attention_probs_dropout_prob",
        "dropout_rate": "hidden_dropout_prob",
        "max_position": "max_position_embeddings",
        "segment_vocab_size": "type_vocab_size",
    },
    original={
        **BERT_FILES,
        **keys(
            size="attention_head_size? attention_key_size?",
            any="""
                autoresize_weights hierarchical_position ignore_invalid_weights sequence_length
                use_rotary_position with_mlm with_nsp with_pool
            """,
        ),
    },
    foreign={
        **{key: what for key, what in BERT_KIN.items() if key != "use_rotary_position"},
        "custom_position_ids": Foreign("its positions are given with each text"),
        "residual_attention_scores": Foreign(
            "RealFormer, which hands attention scores on from layer to layer"
        ),
        "shared_segment_embeddings": Foreign("its segments have words' embeddings"),
    },
)
