"""The keys of convbert's configs."""

from ._kinds import ConfigKeys, Foreign, keys
from ._shared import BERT, BERT_KIN, ELECTRA_FILES

KEYS = ConfigKeys(
    fields={
        **BERT,
        **keys(
            size="embedding_size head_ratio conv_kernel_size num_groups",
            dropout="classifier_dropout?",
        ),
    },
    aliases={"linear_groups": "num_groups"},
    original=ELECTRA_FILES,
    foreign={
        **BERT_KIN,
        "conv_type": Foreign("ConvBERT without its convolutions", ("sdconv", None)),
    },
)
