"""Transformer-XL's keys, as of transformers 4.30."""

from ._kinds import ConfigKeys, Foreign, keys
from ._shared import POST_NORM_FAMILIES

KEYS = ConfigKeys(
    fields=keys(
        size="vocab_size d_model d_embed d_head d_inner n_head",
        layers="n_layer",
        whole="div_val mem_len clamp_len attn_type sample_softmax",
        sizes="cutoffs",
        flags="tie_projs",
        flag="pre_lnorm same_length adaptive untie_r proj_share_all_but_first",
        dropout="dropout dropatt",
        amount="init_range proj_init_std init_std layer_norm_epsilon",
        text="init",
    ),
    aliases={
        "hidden_size": "d_model",
        "n_token": "vocab_size",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
    original=keys(any="dataset"),
    foreign={
        **POST_NORM_FAMILIES,
        "attn_type": Foreign("its attention is of another form than the original's", (0,)),
    },
)
