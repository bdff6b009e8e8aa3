"""How sure it is which layer becomes which.

That is certain only where every other choice has the names against it: a pair is held against each
pair that it could be swapped with, and against each layer that is left over.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from ..findings import some
from .matching import Matcher, Named
from .names import AUTOMATIC


class Judge:
    """How certain pairs are."""

    def __init__(self, matcher: Matcher, pairs: Sequence[tuple[Named, Named]]) -> None:
        self._matcher = matcher
        self._pairs = pairs
        groups: dict[tuple[object, object], list[tuple[Named, Named]]] = defaultdict(list)
        for source, target in pairs:
            groups[source.alike, target.alike].append((source, target))
        self._groups = groups
        self._elsewhere: dict[object, set[int]] = defaultdict(set)
        self._numbered = {key: self._numbers_tell(key) for key in groups}
        used = {source.index for source, _ in pairs}
        filled = {target.index for _, target in pairs}
        self._unused = [each for each in matcher.sources if each.index not in used]
        self._unfilled = [each for each in matcher.targets if each.index not in filled]
        self._links: dict[str, set[str]] = {}
        self._certain: set[int] = set()  # the indices of the sources
        self._homes = self._sure_homes()

    def doubts(self) -> list[str]:
        """Why each pair is not certain, "" where it is; what is certain makes more certain."""
        found = [self._doubt(s, t) for s, t in self._pairs]
        while True:
            certain = [p for p, doubt in zip(self._pairs, found, strict=True) if not doubt]
            self._links = _links(certain)
            self._certain = {s.index for s, _ in certain}
            for s, t in certain:
                self._elsewhere[t.alike].add(s.index)
            self._numbered = {key: self._numbers_tell(key) for key in self._groups}
            better = [
                doubt and self._doubt(s, t)
                for doubt, (s, t) in zip(found, self._pairs, strict=True)
            ]
            if better == found:
                return found
            found = better

    def _doubt(self, source: Named, target: Named) -> str:
        """Why this pair is not certain, "" where it is."""
        fits = self._matcher.fits
        own, others = source.layer, []
        for s, t in self._pairs:
            if t is target or not (fits(s.layer, target.layer) and fits(own, t.layer)):
                continue
            if not self._told_apart(source, s, target, t):
                others.append(s)
        for s in self._unused:
            if fits(s.layer, target.layer) and not self._told_from_unused(source, s, target):
                others.append(s)
        missing = [
            t
            for t in self._unfilled
            if fits(own, t.layer) and not _words_tell(target.telling, t.telling, source.telling)
        ]
        if others:
            return "as likely by name and shape: " + some([s.layer.scope for s in others])
        if missing:
            return "as likely, and without a variable: " + some([t.layer.name for t in missing])
        return ""

    def _told_apart(self, s: Named, s2: Named, t: Named, t2: Named) -> bool:
        """Whether names tell that s is t and s2 is t2, and not the other way round.

        What speaks for the other pair alone does not tell: a third one may be t.
        """
        if s2.index in self._certain:
            return True
        a, b = s.telling - s2.telling, s2.telling - s.telling
        p, q = t.telling - t2.telling, t2.telling - t.telling
        if a & q or b & p:
            return False
        if a & p:
            return True
        key = s.alike, t.alike
        if key == (s2.alike, t2.alike) and self._numbered[key]:
            return True
        if self._linked(s, s2, t, t2):
            return True
        home, home2 = self._homes.get(t.parent), self._homes.get(t2.parent)
        return s.parent != s2.parent and (home == s.parent or home2 == s2.parent)

    def _linked(self, s: Named, s2: Named, t: Named, t2: Named) -> bool:
        """Whether what is certain near them tells that s is t and s2 is t2."""
        if s.parent == s2.parent or t.parent == t2.parent:
            return False
        here, there = self._links.get(s.parent), self._links.get(s2.parent)
        return here == {t.parent} or there == {t2.parent}

    def _told_from_unused(self, s: Named, unused: Named, t: Named) -> bool:
        if s.alike == unused.alike and s.numbers == t.numbers != unused.numbers:
            return not _is_automatic([(s, t), (unused, t)])
        if _words_tell(s.telling, unused.telling, t.telling):
            other = unused.telling - s.telling
            return not any(other <= x.telling and not other & y.telling for x, y in self._pairs)
        return s.parent != unused.parent and self._homes.get(t.parent) == s.parent

    def _numbers_tell(self, key: tuple[object, object]) -> bool:
        """Whether the numbers of this group tell which is which."""
        group = self._groups[key]
        if len(group) == 1:
            return False
        others = {i for alike, own in self._elsewhere.items() if alike != key[1] for i in own}
        sources = [s for s in self._matcher.sources if s.alike == key[0] and s.index not in others]
        automatic = _is_automatic(group)
        same = all(
            set(t.numbers) <= set(s.numbers)
            and len(s.numbers) == len(t.numbers)
            and s.numbers == t.numbers
            for s, t in group
        )
        if same and not automatic:
            return True
        by_source = sorted(group, key=lambda pair: pair[0].numbers)
        if [t.numbers for _, t in by_source] != sorted(t.numbers for _, t in group):
            return False
        if len(sources) != len(group):  # some are elsewhere: there may be another first one
            return False
        turned = zip((s for s, _ in by_source), (t for _, t in reversed(by_source)), strict=True)
        is_anchored = not all(self._matcher.fits(s.layer, t.layer) for s, t in turned)
        steps = {
            tuple(b - a for a, b in zip(s.numbers, t.numbers, strict=False)) for s, t in by_source
        }
        is_shifted = len(steps) == 1 and len(group[0][0].numbers) == len(group[0][1].numbers)
        whole = [t for t in self._matcher.targets if t.alike == key[1]]
        if is_shifted and not automatic and len(whole) == len(group):
            return True
        shapes = {t.layer.shapes for _, t in group}
        return is_anchored and (len(shapes) > 2 or _is_even(by_source))

    def _sure_homes(self) -> dict[str, str]:
        """For modules: the only scope where there is something that fits each of their layers."""
        fits = self._matcher.fits
        by_shape: dict[object, list[Named]] = defaultdict(list)
        for each in self._matcher.sources:
            by_shape[each.layer.kind, each.layer.shapes].append(each)
        found: dict[str, set[str]] = {}
        for target in self._matcher.targets:
            parents = {
                s.parent
                for own in by_shape.values()
                if fits(own[0].layer, target.layer)
                for s in own
            }
            if parents:
                found[target.parent] = found.get(target.parent, parents) & parents
        return {module: min(homes) for module, homes in found.items() if len(homes) == 1 and module}


def _links(certain: Sequence[tuple[Named, Named]]) -> dict[str, set[str]]:
    """In which modules the layers of a scope, and of the scope of a layer, are for certain."""
    links: dict[str, set[str]] = defaultdict(set)
    for source, target in certain:
        if target.parent:
            links[source.layer.scope].add(target.parent)
            links[source.parent].add(target.parent)
    return links


def _is_even(pairs: Sequence[tuple[Named, Named]]) -> bool:
    """Whether the last numbers go up by the same steps on both sides."""
    if not all(s.numbers and t.numbers for s, t in pairs):
        return False
    first, second = pairs[0], pairs[1]
    step = second[0].numbers[-1] - first[0].numbers[-1]
    other = second[1].numbers[-1] - first[1].numbers[-1]
    return all(
        (s.numbers[-1] - first[0].numbers[-1]) * other
        == (t.numbers[-1] - first[1].numbers[-1]) * step
        for s, t in pairs
    )


def _words_tell(own: frozenset[str], other: frozenset[str], wanted: frozenset[str]) -> bool:
    return bool((own - other) & wanted) and not (other - own) & wanted


def _is_automatic(group: Sequence[tuple[Named, Named]]) -> bool:
    """Whether the numbers that vary are those that TensorFlow gives by itself."""
    first = group[0][0]
    numbers = [s.pieces.numbers for s, _ in group]
    varying = [i for i, each in enumerate(zip(*numbers, strict=True)) if len(set(each)) > 1]
    for i in varying:
        text = first.pieces.texts[i].rpartition("/")[2]
        if i in first.pieces.optional or AUTOMATIC.fullmatch(text + "#"):
            return True
    return False
