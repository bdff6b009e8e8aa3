"""The keys of rembert's configs."""

from ._kinds import ConfigKeys, keys
from ._shared import BERT, BERT_FILES, BERT_KIN

KEYS = ConfigKeys(
    fields={
        **BERT,
        **keys(
            size="input_embedding_size output_embedding_size",
            dropout="classifier_dropout_prob",
        ),
    },
    original=BERT_FILES,
    foreign=BERT_KIN,
)
