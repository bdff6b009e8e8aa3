"""What a key means that a config.json lacks, of Hugging Face's config classes.

hf_defaults.json.xz is read when it is first asked for; tests/make_hf_defaults.py makes it, from the
classes themselves, of the newest transformers and of one that knows what that has no more.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from ._packed import packed

_data = partial(packed, "hf_defaults.json.xz")


def defaults(model_type: str) -> Mapping[str, Any]:
    """The defaults of a type's keys, but for those that transformers works out from others."""
    keys = _data().get(model_type, {}).get("keys", {})
    return {key: value[0] for key, value in keys.items() if value}


def other_names(model_type: str) -> Mapping[str, str]:
    """The keys that a type's config class takes for others, by which it goes."""
    names: Mapping[str, str] = _data().get(model_type, {}).get("names", {})
    return names
