"""The types of a config's values, and what a family's module here says of its keys."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

MAX_SIZE = 1 << 31
MAX_NUMBER = 1 << 1000  # of whole numbers that stand for others, which have to fit a float
MAX_LAYERS = 10_000  # each becomes tensors of its own; the deepest models released have some 100


@dataclass(frozen=True)
class Kind:
    """A type of values, and the words for it.

    `written` gives a value as transformers' classes take it, which since version 5 tell 1 from true
    and from 1.0.
    """

    words: str
    fits: Callable[[Any], bool]
    written: Callable[[Any], Any] = lambda value: value
    may_be_null: bool = False


def _is_whole(value: Any, start: int, end: int) -> bool:
    return type(value) is int and start <= value <= end


def _is_number(value: Any) -> bool:
    return _is_whole(value, -MAX_NUMBER, MAX_NUMBER) or (
        type(value) is float and math.isfinite(value)
    )


def _is_list(value: Any, *types: type) -> bool:
    return isinstance(value, list | tuple) and all(type(item) in types for item in value)


def _one_of(names: str) -> Kind:
    known = names.split()
    return Kind(f"one of {', '.join(known)}", lambda v: isinstance(v, str) and v in known)


ATTENTIONS = ("eager", "sdpa", "flex_attention", *(f"flash_attention_{i}" for i in (2, 3, 4)))


def _is_attention(value: Any) -> bool:
    """Whether it is one of transformers' own, or of the Hub's kernels, or for each part one."""
    if isinstance(value, Mapping):
        return all(map(_is_attention, value.values()))
    return isinstance(value, str) and (value in ATTENTIONS or "/" in value or "|" in value)


KINDS = {
    "size": Kind("a whole number from 0 on", lambda v: _is_whole(v, 0, MAX_SIZE)),
    "layers": Kind(f"a whole number up to {MAX_LAYERS}", lambda v: _is_whole(v, 0, MAX_LAYERS)),
    "whole": Kind("a whole number", lambda v: _is_whole(v, -MAX_SIZE, MAX_SIZE)),
    "token": Kind("the number of a token", lambda v: _is_whole(v, -1, MAX_SIZE)),
    "tokens": Kind(
        "the number of a token, or a list of them",
        lambda v: _is_whole(v, -1, MAX_SIZE) or _is_list(v, int),
    ),
    "float_type": _one_of("bfloat16 float16 float32 float64 auto"),
    # Of transformers.activations.ACT2FN those without parameters of their own.
    "activation": _one_of(
        """
        gelu gelu_10 gelu_fast gelu_new gelu_python gelu_pytorch_tanh gelu_python_tanh gelu_accurate
        hardswish laplace leaky_relu linear mish quick_gelu relu relu2 relu6 sigmoid silu
        sqrtsoftplus swish tanh
        """
    ),
    "gpt_activation": _one_of("gelu relu silu swish"),  # ACT_FNS of modeling_openai.py
    "problem": _one_of("regression single_label_classification multi_label_classification"),
    "attention": Kind("an implementation, as sdpa or eager", _is_attention),
    "number": Kind("a number", _is_number, float),
    "amount": Kind("a number from 0 on", lambda v: _is_number(v) and v >= 0, float),
    "dropout": Kind("a number from 0 to 1", lambda v: _is_number(v) and 0 <= v <= 1, float),
    "ratio": Kind("a number above 0", lambda v: _is_number(v) and v > 0, float),
    "flag": Kind("true or false", lambda v: type(v) in (bool, int) and v in (0, 1), bool),
    "text": Kind("text", lambda v: isinstance(v, str)),
    "sizes": Kind("a list of whole numbers", lambda v: _is_list(v, int)),
    "flags": Kind("a list of true and false", lambda v: _is_list(v, bool, int)),
    "texts": Kind("a list of names", lambda v: _is_list(v, str)),
    "labels": Kind("a list of names, or an object with them", lambda v: isinstance(v, list | dict)),
    "numbered": Kind(
        "an object of names by their numbers",
        lambda v: isinstance(v, Mapping) and all(str(key).isdecimal() for key in v),
    ),
    "table": Kind("an object", lambda v: isinstance(v, Mapping)),
    "any": Kind("a value", lambda _: True, may_be_null=True),
}


def keys(**by_kind: str) -> dict[str, Kind]:
    """Keys by the name of their kind. A `?` after a key says that it may be null."""
    return {
        key.rstrip("?"): replace(KINDS[kind], may_be_null=True)
        if key.endswith("?")
        else KINDS[kind]
        for kind, names in by_kind.items()
        for key in names.split()
    }


@dataclass(frozen=True)
class Foreign:
    """A key of a model with other arithmetic behind the same variables.

    `harmless` are the values with which nothing changes.
    """

    what: str
    harmless: tuple[Any, ...] = (False, None)


@dataclass(frozen=True)
class ConfigKeys:
    """The keys of a family's configs.

    `fields` are those of transformers' config class, `aliases` other names of some, in the
    original's files or in transformers' own code (`attribute_map`). `original` are keys of the
    original's files that nothing reads, or that only their training does; `foreign` those of other
    models whose variables have the same names.
    """

    fields: Mapping[str, Kind]
    aliases: Mapping[str, str] = field(default_factory=dict)
    original: Mapping[str, Kind] = field(default_factory=dict)
    foreign: Mapping[str, Foreign] = field(default_factory=dict)
