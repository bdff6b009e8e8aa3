"""JSON as people mean it: no key twice in one object, and nothing nested beyond all use."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

MAX_DEPTH = 64  # what is read is written again, by code that calls itself for each level


def parse_json(text: str) -> Any:
    """The value of a JSON text. Raises ValueError, which says what is wrong with it."""
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError(f"nested more than {MAX_DEPTH} levels deep") from None
    inner, depth = [value], 0
    while inner := [part for outer in inner for part in _parts(outer)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
    return value


def _parts(value: Any) -> Sequence[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else ()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Python's own reader takes the last of several values and says nothing."""
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = next(key for key, count in counts.items() if count > 1)
        raise ValueError(f"the key {twice[:80]!r} stands twice in one object")
    return found
