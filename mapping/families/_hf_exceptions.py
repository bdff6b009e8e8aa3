"""Where the rules of names and values do not hold, by model type: all of them, as data.

Found by comparing the outputs of 270 classes of transformers 4.57 with those of PyTorch's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..rules.ops import Op, Permute, Reshape, Squeeze


@dataclass(frozen=True)
class Change:
    """What is otherwise with the tensors whose names `name` matches.

    They are called `to` (with the groups of `name`), made by `ops`, or left out for the reason
    `drop`, unless the config has the values of `unless`, and only where it has such of `only`.
    Where there is a `path`, of several variables of one name that whose key has it is meant.
    """

    name: str
    to: str = ""
    ops: tuple[Op, ...] = ()
    drop: str = ""
    unless: tuple[tuple[str, str], ...] = ()
    only: tuple[tuple[str, tuple[float | None, ...]], ...] = ()
    path: str = ""

    def applies(self, config: Mapping[str, object]) -> bool:
        return all(config.get(key) != value for key, value in self.unless) and all(
            config.get(key) in values for key, values in self.only
        )

    def fits(self, name: str, key: str, is_single: bool) -> bool:
        if self.path and (is_single or self.path not in key):
            return False
        return re.fullmatch(self.name, name) is not None

    def renamed(self, name: str) -> str:
        return re.sub(self.name, self.to, name) if self.to else name


_SPEECH = (
    Change(
        r"(.*pos_conv_embed\.conv)\.weight_g",
        to=r"\1.parametrizations.weight.original0",
        ops=(Permute((1, 2, 0)),),
    ),
    Change(r"(.*pos_conv_embed\.conv)\.weight_v", to=r"\1.parametrizations.weight.original1"),
    Change(
        r"(?:.*\.)?masked_spec_embed",
        drop="not used: nothing is masked in training",
        only=(("mask_time_prob", (0,)), ("mask_feature_prob", (0, None))),
    ),
)
# The layer has no name of its own in TensorFlow, so Keras numbers it.
_EMBED_PROJ = Change(r"(.*embeddings)\.dense(?:_\d+)?\.weight", to=r"\1.embed_proj.weight")
_SCALAR = (Change(r"(?:.*\.)?logit_scale", ops=(Squeeze(0),)),)

CHANGES: Mapping[str, tuple[Change, ...]] = {
    "albert": (
        Change(r"predictions\.decoder\.bias", to="predictions.bias"),
        Change(r"predictions\.bias", drop="never used: predictions/decoder/bias is"),
    ),
    "clip": _SCALAR,
    "convbert": (Change(r".*\.key_conv_attn_layer\.bias", ops=(Reshape((-1, 1)),)),),
    "deberta": (_EMBED_PROJ,),
    "deberta-v2": (
        _EMBED_PROJ,
        Change(r"(.*)\.pos_proj\.(\w+)", to=r"\1.pos_key_proj.\2"),
        Change(r"(.*)\.pos_q_proj\.(\w+)", to=r"\1.pos_query_proj.\2"),
    ),
    "esm": (
        Change(
            r"(?:esm\.)?embeddings\.position_embeddings\.weight",
            drop="not used: its positions are not absolute",
            unless=(("position_embedding_type", "absolute"),),
        ),
        # The output layer has a variable of the same name, where it is not the same one.
        Change(
            r"esm\.embeddings\.word_embeddings\.weight", to="lm_head.decoder.weight", path="lm_head"
        ),
    ),
    "groupvit": _SCALAR,
    "hubert": _SPEECH,
    "rag": (Change("final_logits_bias", to="rag.generator.final_logits_bias"),),
    "swiftformer": (Change(r".*layer_scale\w*", ops=(Reshape((-1, 1, 1)),)),),
    "vision-text-dual-encoder": _SCALAR,
    "wav2vec2": _SPEECH,
}

# What older releases stored, and the class has not.
LEGACY: Mapping[str, str] = {
    r"(?:.*\.)?pooler\..*": "a pooler, which the class has not",
    r"(?:.*\.)?EncDecAttention\.relative_attention_bias\..*": "positions that nothing uses",
    r"(?:.*\.)?embed_positions\.weights": "sinusoids, which the class makes by itself",
}

# Models made of others, which PyTorch holds without the name that TensorFlow's base classes put
# around theirs: `encoder.bert.embeddings` is `encoder.embeddings`, unless it is one of these.
COMPOSED: Mapping[str, tuple[str, ...]] = {
    "encoder-decoder": ("encoder.",),
    "vision-encoder-decoder": ("encoder.",),
    "vision-text-dual-encoder": ("text_model.", "vision_model."),
}
OWN_LEVELS = {"embeddings", "encoder", "layernorm", "pooler", "vision_model"}

# What TensorFlow itself does not store in its own format: a weight of the class that hides a layer
# of the same name.
LOST = re.compile(r"(?:transformer\.)?embeddings\.weight")
LOSERS = ("flaubert", "xlm")

# By tensor, the config's key for its first size: those that are most often another model's.
SIZES: Mapping[str, str] = {
    r"(?:.*\.)?embeddings\.word_embeddings\.weight": "vocab_size",
    r"(?:.*\.)?(?:shared|wte|tokens_embed)\.weight": "vocab_size",
}
# Heads with a row for each label, in classes of these names.
LABELED = r".*For(?:Sequence|Token|Image)Classification"
LABELS = (
    r"(?:classifier|score|logits_proj|classification_head)(?:\.(?:out_proj|linear_out|1))?\.weight"
)
