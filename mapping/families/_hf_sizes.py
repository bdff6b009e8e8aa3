"""Which config key is the size of which axis of a tensor, of Hugging Face's PyTorch classes.

hf_sizes.json.xz is read when it is first asked for; tests/make_hf_sizes.py makes it, from the
classes themselves: per class, per key's path, names with # for numbers, and an axis. It has those
axes alone whose length is the key's value whatever else a config says.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache, partial

from ._packed import packed

_data = partial(packed, "hf_sizes.json.xz")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)")


@cache
def _axes(class_name: str) -> Mapping[str, Sequence[tuple[int, str]]]:
    found: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for path, places in _data().get(class_name, {}).items():
        for place in places:
            name, _, axis = place.rpartition(":")
            found[name].append((int(axis), path))
    return found


def axes(class_name: str, base_model_prefix: str, target: str) -> Sequence[tuple[int, str]]:
    """The axes of a tensor whose size the config says, with the path of the key that does."""
    name = target.removeprefix(f"{base_model_prefix}.")
    return _axes(class_name).get(_NUMBER.sub("#", name), ())
