"""Names that differ in numbers alone as one, such as layer_{0...11}, which says no more than they.

Several braces in a name stand for all combinations of their numbers. Those of another name in the
same row go with them in the same order, as in layer_{1...12} -> layers.{0...11}. Names for which
that would not be true are not folded. A name that has such braces itself is given as `literal`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import pairwise
from math import prod
from typing import NamedTuple, TypeVar

T = TypeVar("T")
Row = tuple[str, ...]

_NUMBER = re.compile("[0-9]+")
_SPLIT = re.compile("([0-9]+)")
_MOST_NUMBERS = 64  # of a row that is folded
_MOST_AXES = 6  # stage, block, branch, expert: what has more counts nothing
_LONGEST = 18  # digits of a number that is counted on from
_LIKE_FOLDED = re.compile(r"\{([0-9]+(?:(?:\.\.\.|,)[0-9]+)+)\}")


class Folded(NamedTuple):
    """A row that stands for the rows with these indices."""

    row: Row
    members: list[int]


def literal(name: str) -> str:
    """The name, with its own braces escaped where they look like those of several names.

    >>> literal("layer_{0...1}/a{b}")
    'layer_\\\\{0...1\\\\}/a{b}'
    """
    return _LIKE_FOLDED.sub(r"\\{\1\\}", name)


def without_numbers(name: str) -> str:
    """What names have in common that differ in numbers alone."""
    return _NUMBER.sub("#", name)


def fold(names: Iterable[str]) -> str:
    """The names, folded.

    >>> fold(["layer_0/a", "layer_1/a", "layer_5/a", "b"])
    'layer_{0...1,5}/a, b'
    """
    return ", ".join(folded.row[0] for folded in fold_rows([(name,) for name in names]))


def fold_rows(rows: Sequence[Row], kinds: Sequence[Hashable] = ()) -> list[Folded]:
    """Rows of names, folded, in the order of the first that each stands for.

    Those of different `kinds`, where given for each row, are kept apart.
    """

    def key(index: int) -> Hashable:
        return tuple(map(without_numbers, rows[index])), kinds[index] if kinds else None

    found = [folded for alike in _by(range(len(rows)), key) for folded in _fold(rows, alike)]
    return sorted(found, key=lambda folded: folded.members[0])


def fold_sentences(sentences: Sequence[str]) -> list[tuple[str, int]]:
    """Sentences with names in them, folded, each with the index of the first it stands for."""
    rows = [tuple(sentence.split(" ")) for sentence in sentences]
    return [(" ".join(folded.row), folded.members[0]) for folded in fold_rows(rows)]


def _fold(rows: Sequence[Row], members: list[int]) -> Iterator[Folded]:
    """Fold rows that differ in numbers alone."""
    numbers = {index: _NUMBER.findall("\0".join(rows[index])) for index in members}
    columns = [sorted(set(column), key=_order) for column in zip(*numbers.values(), strict=True)]
    is_plain = len(members) == 1 or len(columns) > _MOST_NUMBERS
    if is_plain or len(set(map(tuple, numbers.values()))) < len(members):
        yield from (Folded(rows[index], [index]) for index in members)
        return
    leaders = _leaders(columns, list(numbers.values()))
    axes = sorted({leader for leader in leaders if leader is not None})
    if len(axes) > _MOST_AXES:
        parts = [[index] for index in members]
    elif not _is_in_order(rows[members[0]], leaders):
        parts = _by(members, lambda index: numbers[index][axes[0]])
    elif prod(len(columns[axis]) for axis in axes) == len(members):
        yield Folded(_spelled(rows[members[0]], columns), members)
        return
    else:
        cuts = (_cut(numbers, axes, axis) for axis in axes)
        parts = min((cut for cut in cuts if len(cut) > 1), key=len)
    for part in parts:
        yield from _fold(rows, part)


def _leaders(columns: Sequence[Sequence[str]], rows: Sequence[Sequence[str]]) -> list[int | None]:
    """Of each column the first that it changes with, in the same order; None where it is constant.

    A column that leads itself is an axis.
    """
    places = [{value: place for place, value in enumerate(column)} for column in columns]
    found: list[int | None] = []
    for column, values in enumerate(columns):
        axes = (axis for axis, leader in enumerate(found) if axis == leader)
        same = (
            axis
            for axis in axes
            if len(columns[axis]) == len(values)
            and all(places[axis][row[axis]] == places[column][row[column]] for row in rows)
        )
        found.append(None if len(values) == 1 else next(same, column))
    return found


def _is_in_order(row: Row, leaders: Sequence[int | None]) -> bool:
    """Whether each name has each axis at most once, all in the same order."""
    remaining = iter(leaders)
    for name in row:
        places = zip(_NUMBER.findall(name), remaining, strict=False)
        axes = [axis for _, axis in places if axis is not None]
        if any(after <= before for before, after in pairwise(axes)):
            return False
    return True


def _cut(numbers: dict[int, list[str]], axes: Sequence[int], axis: int) -> list[list[int]]:
    """The rows, those together whose numbers of one axis go with the same numbers of the others."""
    others: dict[str, set[Row]] = defaultdict(set)
    for row in numbers.values():
        others[row[axis]].add(tuple(row[other] for other in axes if other != axis))
    alike = {value: frozenset(found) for value, found in others.items()}
    return _by(numbers, lambda index: alike[numbers[index][axis]])


def _by(items: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    groups: dict[Hashable, list[T]] = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return list(groups.values())


def _order(number: str) -> tuple[int, str, str]:
    digits = number.lstrip("0")  # int() takes no more than 4300 of them
    return len(digits), digits, number


def _spelled(row: Row, columns: Iterable[Sequence[str]]) -> Row:
    spellings = map(spell, columns)
    return tuple(_NUMBER.sub(lambda _: next(spellings), name) for name in row)


def spell(numbers: Sequence[str]) -> str:
    """Ascending numbers, as they are written in names.

    >>> spell(["0", "1", "2", "5", "11"])
    '{0...2,5,11}'
    """
    runs: list[list[str]] = [[numbers[0]]]
    for before, after in pairwise(numbers):
        if _follows(before, after):
            runs[-1].append(after)
        else:
            runs.append([after])
    said = ",".join(run[0] if len(run) == 1 else f"{run[0]}...{run[-1]}" for run in runs)
    return said if len(numbers) == 1 else f"{{{said}}}"


def _follows(before: str, after: str) -> bool:
    """Whether counting goes from one to the other, in their spelling: 09, 10 and 9, 10."""
    is_spelled_alike = len(before) == len(after) or "0" not in (before[0], after[0])
    return is_spelled_alike and len(after) <= _LONGEST and int(after) == int(before) + 1


def natural(name: str) -> tuple[object, ...]:
    """What to sort names by, so that layer_2 comes before layer_10."""
    return tuple(
        _order(part) if place % 2 else part for place, part in enumerate(_SPLIT.split(name))
    )
