"""The keys of gpt2's configs."""

from ._kinds import ConfigKeys, keys
from ._shared import GPT

KEYS = ConfigKeys(
    fields={
        **GPT,
        **keys(
            size="n_inner?",
            activation="activation_function",
            flag="scale_attn_weights scale_attn_by_inverse_layer_idx reorder_and_upcast_attn",
        ),
    },
    aliases={
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "n_ctx": "n_positions",
        "n_vocab": "vocab_size",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
)
