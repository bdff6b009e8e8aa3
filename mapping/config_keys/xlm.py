"""The keys of xlm's configs."""

from ._kinds import ConfigKeys, Foreign, keys
from ._shared import POST_NORM_FAMILIES, SUMMARY

KEYS = ConfigKeys(
    fields={
        **keys(
            size="vocab_size emb_dim n_heads n_langs max_position_embeddings start_n_top end_n_top",
            layers="n_layers",
            whole="lang_id",
            token="unk_index mask_index mask_token_id?",
            dropout="dropout attention_dropout",
            amount="layer_norm_eps embed_init_std init_std",
            flag="""
                gelu_activation sinusoidal_embeddings causal asm use_lang_emb is_encoder
            """,
            any="asm_cutoffs",  # in arguments of train.py as text
            ratio="asm_div_value",
            table="lang2id id2lang",
        ),
        **SUMMARY,
    },
    aliases={
        "bos_index": "bos_token_id",
        "eos_index": "eos_token_id",
        "hidden_size": "emb_dim",
        "n_words": "vocab_size",
        "num_attention_heads": "n_heads",
        "num_hidden_layers": "n_layers",
        "pad_index": "pad_token_id",
        "share_inout_emb": "tie_word_embeddings",
    },
    original=keys(any="ae_steps bt_steps clm_steps mlm_steps mt_steps pc_steps"),
    foreign={
        **POST_NORM_FAMILIES,
        "use_memory": Foreign("it has product-key memory layers"),
    },
)
