"""What a planning finds: all that does not fit, and what the user should know."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Problem:
    """Something that does not fit: `said` in one line, `items` each of what that line counts."""

    said: str
    items: tuple[str, ...] = ()


@dataclass
class Findings:
    """`problems` come causes before effects; `advice`, which may end in a file to copy, is last."""

    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    advice: str = ""

    def problem(self, said: str, items: Sequence[str] = ()) -> None:
        self.problems.append(Problem(one_line(said), tuple(map(one_line, items))))

    def cause(self, said: str) -> None:
        """A problem that others may come from."""
        self.problems.insert(0, Problem(one_line(said)))

    def listed(self) -> tuple[str, ...]:
        """Every problem in full."""
        return tuple(line for found in self.problems for line in found.items or (found.said,))

    def summary(self) -> str:
        """The first problems, and how many more there are."""
        shown, more = self.problems[:2], len(self.problems) - 2
        tail = f" (and {count(more, 'more problem')})" if more > 0 else ""
        return "\n".join(problem.said for problem in shown) + tail


def one_line(text: str) -> str:
    """Text with names in it, of which some may have a newline."""
    return text.replace("\n", "\\n")


def some(items: Sequence[Any], limit: int = 3) -> str:
    shown = one_line(", ".join(map(str, items[:limit])))
    return f"{shown} and {len(items) - limit} more" if len(items) > limit else shown


def count(items: Collection[Any] | int, noun: str) -> str:
    """How many items, or that number, with the noun in its right form."""
    number = items if isinstance(items, int) else len(items)
    return f"{number} {noun}{'s' if number != 1 else ''}"


def nearest(word: str, known: Iterable[str], least: float) -> str | None:
    """The known word that is spelled most alike, in any case; `least` is 1 for the same letters."""
    from difflib import get_close_matches

    plain = {other.lower(): other for other in known}
    close = get_close_matches(word[:100].lower(), plain, 1, least)
    return plain[close[0]] if close else None
