"""The keys of funnel's configs."""

from ._kinds import ConfigKeys, keys

KEYS = ConfigKeys(
    fields=keys(
        size="vocab_size d_model n_head d_head d_inner",
        layers="num_decoder_layers",
        sizes="block_sizes block_repeats?",
        text="hidden_act pooling_type attention_type",
        dropout="hidden_dropout attention_dropout activation_dropout",
        amount="initializer_range initializer_std? layer_norm_eps",
        flag="separate_cls truncate_seq pool_q_only",
    ),
    aliases={"hidden_size": "d_model", "num_attention_heads": "n_head"},
    original=keys(
        any="""
            block_size d_embed decoder_size dropact dropatt dropout ff_activation init init_range
            init_std pooling_size rel_attn_type
        """
    ),
)
