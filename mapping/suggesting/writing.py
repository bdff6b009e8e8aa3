"""Rule files of what was found, with the evidence as comments."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from ..rules.dump import toml
from .generalise import General

WIDTH = 98


def table(name: str, keys: Sequence[tuple[str, object]], comments: Sequence[str] = ()) -> str:
    lines = [line for text in comments for line in comment(text)]
    lines.append(f"[[{name}]]")
    lines += [f"{key} = {toml(value)}" for key, value in keys]
    return "\n".join(lines) + "\n"


def comment(text: str) -> list[str]:
    return [f"# {line}" for line in textwrap.wrap(printable(text), WIDTH)] or ["#"]


def printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


def evidence(general: General) -> list[str]:
    """What tells it, and what else it may be."""
    told = sorted({why for item in general.items for why in item.why})
    doubts = list(dict.fromkeys(doubt for item in general.items for doubt in item.doubts))
    lines = [f"Told by {', '.join(told)}"] if told and not doubts else []
    lines += [f"UNCERTAIN: {doubt}" for doubt in doubts[:3]]
    if len(doubts) > 3:
        lines.append(f"UNCERTAIN: and {len(doubts) - 3} more of the kind")
    return lines
