"""The keys of big_bird's configs."""

from ._kinds import ConfigKeys, keys
from ._shared import BERT, BERT_KIN, BIG_BIRD_FLAGS

OF_BIG_BIRD = {"attention_type", "rescale_embedding", "rescale_embeddings"}

KEYS = ConfigKeys(
    fields={
        **BERT,
        **keys(
            size="block_size num_random_blocks",
            text="attention_type",
            flag="use_bias rescale_embeddings",
            dropout="classifier_dropout?",
        ),
    },
    aliases={
        "num_layers": "num_hidden_layers",  # of TriviaQA's
        "num_rand_blocks": "num_random_blocks",
        "rescale_embedding": "rescale_embeddings",
    },
    original=BIG_BIRD_FLAGS,
    foreign={key: told for key, told in BERT_KIN.items() if key not in OF_BIG_BIRD},
)
