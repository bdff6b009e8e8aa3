"""What numbers in names tell: which of those that are alike becomes which."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

from .matching import Matcher
from .named import Named

Key = tuple[object, object, tuple[int, ...]]


def numbers_tell(
    group: Sequence[tuple[Named, Named]], key: Key, elsewhere: set[int], matcher: Matcher
) -> bool:
    """Whether the numbers of a group tell which is which. `elsewhere` are sources of other ones."""
    source, target = group[0]
    own = varying([s for s, _ in group])
    of = varying([t for _, t in group])
    numbers = sorted((_at(s, own), _at(t, of)) for s, t in group)
    automatic = any(source.pieces.is_automatic(slot) for slot in own)
    if not automatic and all(a == b for a, b in numbers):
        return True
    if any(b > d for (_, b), (_, d) in pairwise(numbers)):
        return False
    sources = [s for s in _like(source, own, matcher.sources, key) if s.index not in elsewhere]
    if len(sources) != len(group):  # some are elsewhere: there may be another first one
        return False
    is_even = _is_even(numbers)
    is_whole = len(_like(target, of, matcher.targets, key)) == len(group)
    is_regular = is_even and len(group) > 2
    if is_whole and not automatic and (is_regular or _is_shifted(numbers)):
        first, start = numbers[0]
        if _is_first(first) or first[-1:] == start[-1:]:
            return True  # and not levels, 3 to 7, which a model may have from the top down
    ordered = sorted(group, key=lambda pair: _at(pair[0], own))
    reverse = zip((s for s, _ in ordered), (t for _, t in reversed(ordered)), strict=True)
    is_anchored = not all(matcher.fits(s.layer, t.layer) for s, t in reverse)
    shapes = {t.layer.shapes for _, t in group}
    return is_anchored and (len(shapes) > 2 or is_even)


def turned(certain: Sequence[tuple[Named, Named]]) -> set[str]:
    """The scopes where what is alike is counted the other way round than in the model."""
    groups: dict[object, list[tuple[Named, Named]]] = defaultdict(list)
    for s, t in certain:
        groups[s.alike, t.alike, s.parent, t.parent].append((s, t))
    return {
        group[0][0].parent
        for group in groups.values()
        if len(group) > 1 and _goes_down([(s.numbers, t.numbers) for s, t in group])
    }


def varying(group: Sequence[Named]) -> list[int]:
    """The places of the numbers that are not the same in all of these, which are alike."""
    columns = zip(*(each.pieces.numbers for each in group), strict=True)
    return [i for i, values in enumerate(columns) if len(set(values)) > 1]


def _at(each: Named, slots: Sequence[int]) -> tuple[int, ...]:
    return tuple(each.pieces.numbers[slot] for slot in slots)


def _like(first: Named, slots: Sequence[int], layers: Sequence[Named], key: Key) -> list[Named]:
    """Those that differ from the first by these numbers alone, with kernels of the key's size."""
    fixed = [i for i in range(len(first.pieces.numbers)) if i not in slots]
    return [
        each
        for each in layers
        if each.alike == first.alike
        and _at(each, fixed) == _at(first, fixed)
        and key[2] in ((), each.window)
    ]


def _is_first(numbers: tuple[int, ...]) -> bool:
    return numbers[-1:] in ((), (0,), (1,))


_Numbers = Sequence[tuple[tuple[int, ...], tuple[int, ...]]]


def _is_shifted(numbers: _Numbers) -> bool:
    """Whether all go up by the same on both sides: each number of the model's is one of these."""
    steps = {tuple(b - a for a, b in zip(*each, strict=False)) for each in numbers}
    return len(steps) == 1 and all(len(a) == len(b) for a, b in numbers)


def _goes_down(numbers: _Numbers) -> bool:
    """Whether the last numbers alone differ, and go up on one side and down on the other."""
    pairs = [*pairwise(sorted(numbers))]
    return all(a[:-1] == c[:-1] and a < c and b > d for (a, b), (c, d) in pairs)


def _is_even(numbers: _Numbers) -> bool:
    """Whether the last numbers go up by the same steps on both sides."""
    if not all(a and b for a, b in numbers):
        return False
    lasts = [(a[-1], b[-1]) for a, b in numbers]
    (first, start), (second, following) = lasts[:2]
    step, other = second - first, following - start
    return all((a - first) * other == (b - start) * step for a, b in lasts)
