"""What google-research/bigbird's encoder and its summarizer share: scopes, flags, sparse attention.

Names and defaults are those of the original's core/modeling.py, core/encoder.py, core/decoder.py
and core/flags.py. A run writes its flags beside its checkpoints, as JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tfreader.errors import ConfigError, PlanError

from ..config_keys import keys_of
from ..family import Config, Variables, same_keys
from ..rules.schema import shown
from . import _gelu

SCOPE = "(?:[^/]+/)*"  # a flag of its own
ENCODER_NORM = f"{SCOPE}encoder/LayerNorm/gamma"  # in BERT there is none
ATTENTION = r"encoder/layer_\d+/attention/self/(?:query|key|value)/kernel"

FULL, SPARSE = "original_full", "block_sparse"
# Up to this flag the original's attention is full, whatever it is told.
MOST_FULL = "max_encoder_length"
LONGEST_FULL = 512
_TYPES = {FULL: FULL, SPARSE: SPARSE, "simulated_sparse": SPARSE}  # the same attention, in full
_ACTIVATIONS = {"gelu": "gelu_new", "linear": "linear", "relu": "relu", "tanh": "tanh"}
# Flags that no config of transformers has, and what they are where a file leaves them out.
_TELLING = {"norm_type", "num_layers", "num_rand_blocks", "rescale_embedding", "scope", MOST_FULL}
_DEFAULTS = {
    "attention_type": SPARSE,
    "block_size": 16,
    "hidden_act": "gelu",
    "num_rand_blocks": 3,
    "rescale_embedding": False,
}
# What the original's scripts give for the sizes that were released, and so heads too.
RELEASED = {"block_size": 64, "num_random_blocks": 3}


def scope_of(variables: Variables, usual: str) -> str:
    """The scope of the model, a regex; the `usual` one without variables.

    Raises PlanError where there are several.
    """
    tail = "encoder/LayerNorm/gamma"
    found = (name for name in variables if f"/{name}".endswith(f"/{tail}"))
    scopes = {name.removesuffix(tail) for name in found}
    if len(scopes) > 1:
        several = ", ".join(sorted(scope.rstrip("/") for scope in scopes))
        raise PlanError(f"several models: {several}; choose with --scope")
    return re.escape(next(iter(scopes), f"{usual}/"))


def number_of(variables: Variables, regex: str) -> int:
    """How many values the first group has of a regex that matches a variable's start."""
    return len({match[1] for match in map(re.compile(regex).match, variables) if match})


def from_flags(model_type: str, original: Mapping[str, Any]) -> Config:
    """Hugging Face's keys from a run's flags, or from a config that has them already.

    Raises ConfigError for values that the original's code does not take.
    """
    keys = keys_of(model_type)
    if not _TELLING & original.keys():
        return same_keys(original, keys.aliases)
    flags = {**_DEFAULTS, **original}
    for key, known in (("attention_type", _TYPES), ("hidden_act", _ACTIVATIONS)):
        value = flags[key]
        name = value.lower() if key == "hidden_act" and isinstance(value, str) else value
        if not isinstance(name, str) or name not in known:
            raise ConfigError(f"{key} = {shown(value)}, known are {', '.join(known)}")
        flags[key] = known[name]
    longest = flags.get(MOST_FULL, LONGEST_FULL + 1)
    if type(longest) is not int:
        raise ConfigError(f"{MOST_FULL} = {shown(longest)}, expected a whole number")
    if longest <= LONGEST_FULL:
        flags["attention_type"] = FULL
    others = {*keys.original, *keys.foreign}
    kept = {key: value for key, value in flags.items() if key not in others}
    return same_keys(kept, keys.aliases)


def check_attention(config: Config) -> None:
    """Raise ConfigError for attention of no known type."""
    found = config.get("attention_type")
    if found not in (FULL, SPARSE):
        raise ConfigError(f"attention_type = {shown(found)}, known are {FULL}, {SPARSE}")


def lacking_blocks(config: Config) -> str:
    """What to say where sparse attention lacks its sizes; empty where it does not."""
    missing = [key for key in RELEASED if config.get(key) is None]
    if config.get("attention_type") != SPARSE or not missing:
        return ""
    return (
        f"config.json needs {' and '.join(missing)}, which no shape tells\nPass the run's flags "
        f"with --config, or {' '.join(f'--set {key}=N' for key in missing)}"
    )


def attention_remarks(config: Config, difference: str) -> Iterator[str]:
    """How far transformers' attention is from the original's; `difference` as measured."""
    if config["attention_type"] == FULL:
        yield (
            f"attention_type = {FULL}: the original's for {MOST_FULL} up to {LONGEST_FULL}, and "
            f"where it was told so; --set attention_type={SPARSE} for longer texts of a model that "
            "was trained so"
        )
        return
    if lacking_blocks(config):
        return
    size, blocks = config["block_size"], config["num_random_blocks"]
    most = (5 + 2 * blocks) * size
    yield (
        f"attention_type = {SPARSE}, block_size = {size}, num_random_blocks = {blocks}: in eval "
        "mode transformers takes the first block for each random one, which no conversion mends "
        f"(measured: {difference}); in train mode without dropout it equals the original. A text "
        f"of at most {most} tokens turns it to full attention for good, the original has that for "
        f"{MOST_FULL} up to {LONGEST_FULL}"
    )


def gelu_remarks(key: str, config: Config) -> Iterator[str]:
    """What to say of Hugging Face's gelu, which flags never become."""
    if config[key] == "gelu":
        yield _gelu.asked(key)
