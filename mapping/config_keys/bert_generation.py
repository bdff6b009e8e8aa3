"""The keys of bert-generation's configs."""

from ._kinds import ConfigKeys
from ._shared import BERT, BERT_FILES, BERT_KIN

KEYS = ConfigKeys(
    fields={key: kind for key, kind in BERT.items() if key != "type_vocab_size"},
    original=BERT_FILES,
    foreign=BERT_KIN,
)
