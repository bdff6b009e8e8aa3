"""The keys of openai-gpt's configs."""

from ._kinds import ConfigKeys, keys
from ._shared import GPT, POST_NORM_FAMILIES

KEYS = ConfigKeys(
    fields={**GPT, **keys(gpt_activation="afn")},
    aliases={
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "n_ctx": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
    original=keys(size="n_special"),
    foreign=POST_NORM_FAMILIES,
)
