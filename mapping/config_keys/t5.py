"""The keys of t5's configs."""

from ._kinds import ConfigKeys, keys

KEYS = ConfigKeys(
    fields=keys(
        size="vocab_size d_model d_kv d_ff num_heads",
        layers="num_layers num_decoder_layers?",
        whole="relative_attention_num_buckets relative_attention_max_distance",
        dropout="dropout_rate classifier_dropout",
        amount="layer_norm_epsilon initializer_factor",
        text="feed_forward_proj dense_act_fn",
        flag="is_gated_act scale_decoder_outputs",
    ),
    aliases={
        "head_dim": "d_kv",
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
    },
)
