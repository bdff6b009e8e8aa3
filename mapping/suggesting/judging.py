"""How sure it is which layer becomes which.

That is certain only where every other choice has the names against it: a pair is held against each
pair that it could be swapped with, and against each layer that is left over.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from ..findings import some
from .counting import Key, numbers_tell, turned, varying
from .matching import Matcher
from .named import Named
from .order import Order


class Verdict(NamedTuple):
    """Why a pair is not certain, "" where it is, and what tells it from others."""

    doubt: str
    why: tuple[str, ...]


class Judge:
    """How certain pairs are."""

    def __init__(
        self,
        matcher: Matcher,
        pairs: Sequence[tuple[Named, Named]],
        order: Order | None,
    ) -> None:
        self._matcher = matcher
        self._order = order
        self._pairs = pairs
        groups: dict[Key, list[tuple[Named, Named]]] = defaultdict(list)
        for source, target in pairs:
            for key in _keys(source, target):
                groups[key].append((source, target))
        self._groups = groups
        by_shape: dict[object, list[tuple[Named, Named]]] = defaultdict(list)
        for s, t in pairs:
            own, of = s.layer, t.layer
            by_shape[own.kind, own.shapes, of.kind, of.end, of.shapes].append((s, t))
        self._swappable = list(by_shape.values())  # what fits one of a group fits all of it
        self._elsewhere: dict[object, set[int]] = defaultdict(set)
        self._turned: set[str] = set()
        self._numbered = {key: self._numbers_tell(key) for key in groups}
        used = {source.index for source, _ in pairs}
        filled = {target.index for _, target in pairs}
        self._unused = [each for each in matcher.sources if each.index not in used]
        self._unfilled = [each for each in matcher.targets if each.index not in filled]
        self._links: dict[str, set[str]] = {}
        self._certain: set[int] = set()  # the indices of the sources
        self._owners = matcher.owners
        self._targets = {s.index: t for s, t in pairs}
        self._norms_follow = False

    def verdicts(self) -> list[Verdict]:
        """How certain each pair is; what is certain makes more certain."""
        found = [self._verdict(s, t) for s, t in self._pairs]
        certain = [p for p, own in zip(self._pairs, found, strict=True) if not own.doubt]
        self._turned = turned(certain)
        if self._turned:
            self._numbered = {key: self._numbers_tell(key) for key in self._groups}
            found = [self._verdict(s, t) for s, t in self._pairs]
        while True:
            certain = [p for p, own in zip(self._pairs, found, strict=True) if not own.doubt]
            self._links = _links(certain)
            self._certain = {s.index for s, _ in certain}
            for s, t in certain:
                self._elsewhere[t.alike].add(s.index)
            self._numbered = {key: self._numbers_tell(key) for key in self._groups}
            if self._order:
                self._order.learn(certain)
                self._norms_follow = self._all_follow(certain)
            better = [
                self._verdict(s, t) if own.doubt else own
                for own, (s, t) in zip(found, self._pairs, strict=True)
            ]
            if better == found:
                return found
            found = better

    def _verdict(self, source: Named, target: Named) -> Verdict:
        fits = self._matcher.fits
        own, others, why = source.layer, [], set()
        for group in self._swappable:
            (s, t), *_ = group
            if not (fits(s.layer, target.layer) and fits(own, t.layer)):
                continue
            for s, t in group:
                if t is target:
                    continue
                if told := self._told_apart(source, s, target, t):
                    why.add(told)
                else:
                    others.append(s)
        for s in self._unused:
            if fits(s.layer, target.layer):
                if told := self._told_from_unused(source, s, target):
                    why.add(told)
                else:
                    others.append(s)
        missing = [
            t
            for t in self._unfilled
            if fits(own, t.layer) and not _words_tell(target.telling, t.telling, source.telling)
        ]
        if others:
            doubt = "as likely by name and shape: " + some([s.layer.scope for s in others])
        elif missing:
            doubt = "as likely, and without a variable: " + some([t.layer.name for t in missing])
        else:
            doubt = ""
        return Verdict(doubt, tuple(sorted(why)) or (("shape",) if not doubt else ()))

    def _told_apart(self, s: Named, s2: Named, t: Named, t2: Named) -> str:
        """What tells that s is t and s2 is t2, and not the other way round; "" if nothing does.

        What speaks for the other pair alone does not tell: a third one may be t.
        """
        if s2.index in self._certain:
            return "what is certain of others"
        if self._signs_tell(s, s2, t) or self._signs_tell(s2, s, t2):
            return "the signs of values"
        if self._matcher.is_namesake(s, t) and not self._matcher.is_namesake(s2, t):
            return "name"
        if self._is_behind(s, t) and not self._is_behind(s2, t):
            return "the layer before"
        a, b = s.telling - s2.telling, s2.telling - s.telling
        p, q = t.telling - t2.telling, t2.telling - t.telling
        if a & q or b & p:
            return ""
        if a & p:
            return "name"
        common = set(_keys(s, t)) & set(_keys(s2, t2))
        if any(self._numbered[key] for key in common):
            return "number"
        if self._linked(s, s2, t, t2):
            return "place"
        if self._order and self._order.tells(s, s2, t, t2):
            return "order"
        home, home2 = self._matcher.homes.get(t.parent), self._matcher.homes.get(t2.parent)
        is_home = s.parent != s2.parent and (home == s.parent or home2 == s2.parent)
        return "place" if is_home else ""

    def _is_behind(self, s: Named, t: Named) -> bool:
        """Whether both are norms behind the same layer, which is certain."""
        owner = self._owners.get(s.index)
        return self._norms_follow and owner in self._certain and self._follows(owner, t)

    def _follows(self, owner: int, t: Named) -> bool:
        target = self._targets[owner]
        return target.index == t.index - 1 and target.parent == t.parent

    def _all_follow(self, certain: Sequence[tuple[Named, Named]]) -> bool:
        """Whether each norm that is certain stands behind its layer in the model's order too."""
        norms = [(self._owners[s.index], t) for s, t in certain if s.index in self._owners]
        known = [(owner, t) for owner, t in norms if owner in self._certain]
        return bool(known) and all(self._follows(owner, t) for owner, t in known)

    def _signs_tell(self, s: Named, s2: Named, t: Named) -> bool:
        """Whether s may be the variance t, and s2, which has negative values, cannot."""
        return self._matcher.may_be_signed(s, t) is True and (
            self._matcher.may_be_signed(s2, t) is False
        )

    def _linked(self, s: Named, s2: Named, t: Named, t2: Named) -> bool:
        """Whether what is certain near them tells that s is t and s2 is t2."""
        if s.parent == s2.parent or t.parent == t2.parent:
            return False
        here, there = self._links.get(s.parent), self._links.get(s2.parent)
        return here == {t.parent} or there == {t2.parent}

    def _told_from_unused(self, s: Named, unused: Named, t: Named) -> str:
        if self._signs_tell(s, unused, t):
            return "the signs of values"
        if self._is_behind(s, t):
            return "the layer before"
        if self._matcher.is_namesake(s, t):
            return "name"
        if s.parent != unused.parent and self._matcher.homes.get(t.parent) == s.parent:
            return "place"
        if s.alike == unused.alike and s.numbers == t.numbers != unused.numbers:
            is_automatic = any(s.pieces.is_automatic(slot) for slot in varying([s, unused]))
            return "" if is_automatic else "number"
        if not _words_tell(s.telling, unused.telling, t.telling):
            return ""
        other = unused.telling - s.telling
        is_likely = any(other <= x.telling and not other & y.telling for x, y in self._pairs)
        return "" if is_likely else "name"

    def _numbers_tell(self, key: Key) -> bool:
        """Whether the numbers of this group tell which is which: those that vary in it."""
        group = self._groups[key]
        if len(group) == 1 or any(s.parent in self._turned for s, _ in group):
            return False
        others = {i for alike, at in self._elsewhere.items() if alike != key[1] for i in at}
        return numbers_tell(group, key, others, self._matcher)


def _links(certain: Sequence[tuple[Named, Named]]) -> dict[str, set[str]]:
    """In which modules the layers of a scope, and of the scope of a layer, are for certain."""
    links: dict[str, set[str]] = defaultdict(set)
    for source, target in certain:
        if target.parent:
            links[source.layer.scope].add(target.parent)
            links[source.parent].add(target.parent)
    return links


def _keys(s: Named, t: Named) -> list[Key]:
    """The groups that a pair is of: all that are alike, and those with kernels of its size."""
    return list(dict.fromkeys([(s.alike, t.alike, ()), (s.alike, t.alike, t.window)]))


def _words_tell(own: frozenset[str], other: frozenset[str], wanted: frozenset[str]) -> bool:
    return bool((own - other) & wanted) and not (other - own) & wanted
