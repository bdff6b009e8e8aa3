"""The keys of canine's configs."""

from ._kinds import ConfigKeys, keys
from ._shared import BERT, BERT_KIN

KEYS = ConfigKeys(
    fields={
        **{key: kind for key, kind in BERT.items() if key != "vocab_size"},
        **keys(
            size="""
                downsampling_rate upsampling_kernel_size num_hash_functions num_hash_buckets
                local_transformer_stride
            """
        ),
    },
    aliases={"max_positions": "max_position_embeddings"},
    original=keys(any="downsampling_kernel_size"),  # which nothing reads: it is downsampling_rate
    foreign=BERT_KIN,
)
