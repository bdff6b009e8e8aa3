"""BERT whose layers are one, `layer_shared` (brightmart/albert_zh; bert-for-tf2 so configured).

transformers' BERT has no such form: every layer gets a copy. The word embeddings of albert_zh are
two factors, [words, size] and [size, hidden_size], and nothing between them. ALBERT projects the
sum of all embeddings after the norm, so that no class holds the factors; BERT could hold their
product, whose values depend on the order of summation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from tfreader.errors import ConfigError, PlanError

from ..family import Config, Variables
from ..rules.ops import Repeat, Unstack
from ..rules.rule import Rule

MAX_LAYERS = 1000
FACTOR = re.compile(r"(?:.*/)?word_embeddings(?:_2|_projector(?:_layer)?/projector)")


def for_all_layers(
    rules: Iterable[Rule], numbered: str, shared: str, config: Config, variables: Variables
) -> tuple[Rule, ...]:
    """The rules, those under the regex `numbered` for one layer `shared` that stands for all.

    Raises PlanError for word embeddings in factors, ConfigError without a number of layers, which
    no variable tells.
    """
    factor = next(filter(FACTOR.fullmatch, variables), None)
    if factor is not None:
        raise PlanError(
            f"{factor} {list(variables[factor].shape)}: the word embeddings are two factors, as in "
            "albert_zh (whose layers are one, layer_shared), and no class of transformers holds "
            "those. Put their product, computed by tf.matmul, in place of word_embeddings and "
            "leave this variable away: that is a BERT"
        )
    layers = config.get("num_hidden_layers")
    if variables and (type(layers) is not int or not 0 < layers <= MAX_LAYERS):
        raise ConfigError(
            f"num_hidden_layers = {layers!r}: one layer, layer_shared, stands for all, and no "
            f"variable tells how many there are (1 to {MAX_LAYERS}): pass the model's config or "
            "--set num_hidden_layers=N"
        )
    copies = (Repeat("num_hidden_layers"), Unstack(0, "layer"))
    return tuple(
        replace(
            rule, sources=(rule.sources[0].replace(numbered, shared),), ops=(*rule.ops, *copies)
        )
        if numbered in rule.sources[0]
        else rule
        for rule in rules
    )


REMARK = (
    "layer_shared: the layers share their weights; transformers' BERT has no such form, so every "
    "layer gets a copy (fine-tuning there unties them)"
)
