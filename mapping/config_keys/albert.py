"""The keys of albert's configs."""

from ._kinds import ConfigKeys, keys
from ._shared import BERT, BERT_FILES, BERT_KIN

KEYS = ConfigKeys(
    fields={
        **BERT,
        **keys(
            size="embedding_size",
            layers="num_hidden_groups inner_group_num",
            dropout="classifier_dropout_prob",
        ),
    },
    original={
        **BERT_FILES,
        **keys(any="down_scale_factor gap_size net_structure_type num_memory_blocks"),
    },
    foreign=BERT_KIN,
)
