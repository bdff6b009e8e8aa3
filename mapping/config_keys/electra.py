"""The keys of electra's configs."""

from ._kinds import ConfigKeys, keys
from ._shared import BERT, BERT_KIN, ELECTRA_FILES

KEYS = ConfigKeys(
    fields={
        **BERT,
        **keys(
            size="embedding_size",
            text="summary_type summary_activation",
            flag="summary_use_proj",
            dropout="classifier_dropout? summary_last_dropout",
        ),
    },
    original=ELECTRA_FILES,
    foreign=BERT_KIN,
)
