"""The keys of mobilebert's configs."""

from ._kinds import ConfigKeys, keys
from ._shared import BERT, BERT_FILES, BERT_KIN

OWN = keys(
    size="embedding_size intra_bottleneck_size num_feedforward_networks true_hidden_size",
    text="normalization_type",
    flag="""
        trigram_input use_bottleneck use_bottleneck_attention key_query_shared_bottleneck
        classifier_activation
    """,
    dropout="classifier_dropout?",
)
KEYS = ConfigKeys(
    fields={**BERT, **OWN},
    original=BERT_FILES,
    foreign={key: foreign for key, foreign in BERT_KIN.items() if key not in OWN},
)
