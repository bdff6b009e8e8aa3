"""The keys of bigbird_pegasus's configs."""

from ._kinds import ConfigKeys, Foreign, keys
from ._shared import BIG_BIRD_FLAGS

KEYS = ConfigKeys(
    fields=keys(
        size="""
            vocab_size d_model max_position_embeddings encoder_ffn_dim encoder_attention_heads
            decoder_ffn_dim decoder_attention_heads block_size num_random_blocks
        """,
        layers="encoder_layers decoder_layers",
        token="decoder_start_token_id",
        text="activation_function attention_type",
        flag="use_bias scale_embedding",
        dropout="""
            encoder_layerdrop decoder_layerdrop dropout attention_dropout activation_dropout
            classifier_dropout
        """,
        amount="init_std",
    ),
    aliases={
        "attention_probs_dropout_prob": "attention_dropout",
        "hidden_act": "activation_function",
        "hidden_dropout_prob": "dropout",
        "hidden_size": "d_model",
        "initializer_range": "init_std",
        "intermediate_size": "encoder_ffn_dim",
        "num_attention_heads": "encoder_attention_heads",
        "num_decoder_layers": "decoder_layers",
        "num_hidden_layers": "encoder_layers",
        "num_rand_blocks": "num_random_blocks",
        "rescale_embedding": "scale_embedding",
    },
    original={**BIG_BIRD_FLAGS, **keys(size="type_vocab_size")},
    foreign={
        "couple_encoder_decoder": Foreign("one stack is both its encoder and its decoder"),
        "norm_type": Foreign(
            "its layer norms come behind the layers' parts, not before them", ("prenorm",)
        ),
    },
)
