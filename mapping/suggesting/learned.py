"""What is likely of some layers tells more of the others: which names go together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from .named import Named


class Learned:
    """What pairs tell of others: which skeletons and scopes go together."""

    def __init__(
        self,
        pairs: Sequence[tuple[Named, Named]],
        owner: Mapping[int, int],
        tells: Sequence[float] = (),
    ) -> None:
        self._lines = Lines()
        for (source, target), told in zip(pairs, tells, strict=True):
            self._lines.add(source, target, told)
        self._skeletons: Counter[tuple[object, object]] = Counter()
        self._parents: Counter[tuple[str, str]] = Counter()
        self._totals: Counter[object] = Counter()
        self._before: dict[int, int] = {s.index: t.index for s, t in pairs}
        self._owner = owner
        for source, target in pairs:
            self._skeletons[source.alike, target.alike] += 1
            self._totals[source.alike] += 1
            for own in (source.layer.scope, source.parent):
                self._parents[own, target.parent] += 1
                self._totals[own] += 1

    def bonus(self, source: Named, target: Named) -> float:
        if not self._before:
            return 0.0
        score = self._skeletons[source.alike, target.alike] / max(self._totals[source.alike], 1)
        if self._totals[source.parent]:
            parents = self._parents[source.parent, target.parent]
            score += 1.5 * parents / self._totals[source.parent]
        score += 4 * self._lines.fit(source, target)
        owner = self._owner.get(source.index)
        before = self._before.get(source.index - 1 if owner is None else owner)
        if before is not None and before in (target.index - 1, target.index - 2):
            score += (1 if before == target.index - 1 else 0.5) * (1 if owner is None else 4)
        return score


class Lines:
    """Which numbers of both sides go together: target = factor * source + offset."""

    def __init__(self) -> None:
        self._votes: dict[tuple[str, str], Counter[tuple[int, int]]] = defaultdict(Counter)
        self._numbers: dict[tuple[str, str, tuple[int, int]], set[int]] = defaultdict(set)
        self._best: dict[tuple[str, str], tuple[int, int] | None] = {}

    def add(self, source: Named, target: Named, told: float) -> None:
        for prefix, number in zip(source.prefixes, source.numbers, strict=True):
            for other, of in zip(target.prefixes, target.numbers, strict=True):
                for factor in (1, 2, 3):
                    line = factor, of - factor * number
                    self._votes[prefix, other][line] += told  # type: ignore[assignment]
                    self._numbers[prefix, other, line].add(number)

    def fit(self, source: Named, target: Named) -> float:
        """How many of the target's numbers follow from the source's, of all that may."""
        found = []
        for other, of in zip(target.prefixes, target.numbers, strict=True):
            lines = [
                (line, number)
                for prefix, number in zip(source.prefixes, source.numbers, strict=True)
                if (line := self._line(prefix, other)) is not None
            ]
            if lines:
                found.append(any(of == f * number + o for (f, o), number in lines))
        return sum(found) / len(found) if found else 0.0

    def _line(self, prefix: str, other: str) -> tuple[int, int] | None:
        key = prefix, other
        if key not in self._best:
            votes = self._votes.get(key, Counter())
            total = sum(told for (factor, _), told in votes.items() if factor == 1)
            best = [
                line
                for line, told in votes.most_common(3)
                if told > 0.6 * total and len(self._numbers[*key, line]) > 1
            ]
            self._best[key] = best[0] if best else None
        return self._best[key]
