"""The keys of xlnet's configs."""

from ._kinds import ConfigKeys, keys
from ._shared import POST_NORM_FAMILIES

KEYS = ConfigKeys(
    fields=keys(
        size="d_model n_head d_inner d_head? start_n_top end_n_top",
        layers="n_layer",
        whole="vocab_size mem_len? reuse_len? clamp_len",
        text="ff_activation attn_type summary_type summary_activation",
        flag="untie_r use_mems_eval use_mems_train bi_data same_length summary_use_proj",
        dropout="dropout summary_last_dropout",
        amount="initializer_range layer_norm_eps",
    ),
    aliases={
        "hidden_size": "d_model",
        "n_token": "vocab_size",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
    foreign=POST_NORM_FAMILIES,
)
