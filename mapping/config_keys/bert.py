"""The keys of bert's configs."""

from ._kinds import ConfigKeys, keys
from ._shared import BERT, BERT_FILES, BERT_KIN

KEYS = ConfigKeys(
    fields={**BERT, **keys(dropout="classifier_dropout?")},
    original=BERT_FILES,
    foreign=BERT_KIN,
)
