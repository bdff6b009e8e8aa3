"""What the names of variables tell."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def told(
    names: Sequence[str], evidence: Iterable[str], absent: Iterable[str]
) -> tuple[str, ...] | None:
    """The first name that matches each regex of `evidence`, None without one, or with an `absent`.

    Each regex has to match the whole name.
    """
    found = [_first(regex, names) for regex in evidence]
    names_found = tuple(name for name in found if name is not None)
    is_it = len(names_found) == len(found) and not any(_first(r, names) for r in absent)
    return names_found if is_it else None


def _first(regex: str, names: Iterable[str]) -> str | None:
    return next(filter(re.compile(regex).fullmatch, names), None)
