"""Which layer of the checkpoint becomes which of the model.

Shapes say what is possible. Among what is possible words, numbers and order decide; what is likely
in one place tells more of the others.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import log

import numpy as np

from .layers import Layer
from .names import Pieces, pieces, telling, words
from .readings import Context, Reading, readings

_MOST_ROUNDS = 4
Read = Callable[[Layer, Layer, Context], Sequence[Reading]]


@dataclass
class Pair:
    """A layer of the checkpoint and one of the model. `doubts` are empty where it is certain."""

    source: Layer
    target: Layer
    reading: Reading
    doubts: list[str] = field(default_factory=list)
    why: str = ""
    is_shared: bool = False  # whether the same variable gives another tensor too


@dataclass(frozen=True)
class Named:
    """A layer, and what its name tells: its words, its numbers, and their ranks among its like."""

    layer: Layer
    pieces: Pieces
    index: int  # in order
    alike: tuple[object, ...] = ()  # what those have in common that numbers tell apart
    numbers: tuple[int, ...] = ()  # those that are not the same in all of them
    ranks: tuple[int, ...] = ()
    prefixes: tuple[str, ...] = ()  # what is before each of the numbers

    @cached_property
    def words(self) -> frozenset[str]:
        return frozenset(words(self.layer.name))

    @cached_property
    def telling(self) -> frozenset[str]:
        return telling(self.layer.name)

    @cached_property
    def parent(self) -> str:
        name = self.layer.scope
        return name.rpartition("/")[0] or name.rpartition(".")[0]


def named(layers: Sequence[Layer], counted: frozenset[str]) -> list[Named]:
    """The layers in order, with what their names tell."""
    groups: dict[tuple[object, ...], list[Named]] = defaultdict(list)
    for index, layer in enumerate(layers):
        parts = pieces(layer.name, counted)
        ranks = sorted({len(tensor.shape) for tensor in layer.parts.values()})
        is_thin = any(len(t.shape) > 2 and t.shape[1] == 1 for t in layer.parts.values())
        alike = (parts.skeleton, layer.kind, ranks[-1], is_thin and "." in layer.name)
        groups[alike].append(Named(layer, parts, index, alike))
    found = []
    for group in groups.values():
        slots = [*zip(*(each.pieces.numbers for each in group), strict=True)]
        varying = [i for i, values in enumerate(slots) if len(set(values)) > 1]
        for each in group:
            own = tuple(each.pieces.numbers[i] for i in varying)
            prefixes = tuple(each.pieces.prefix(i) for i in varying)
            found.append(replace(each, numbers=own, prefixes=prefixes))
    return sorted(found, key=lambda each: each.index)


def _ranked(layers: Sequence[Named]) -> list[Named]:
    """The same, with the ranks of their numbers among those of these that are alike."""
    groups: dict[object, list[Named]] = defaultdict(list)
    for each in layers:
        groups[each.alike].append(each)
    found = []
    for group in groups.values():
        columns = zip(*(each.numbers for each in group), strict=True)
        order = [{v: r for r, v in enumerate(sorted(set(values)))} for values in columns]
        for each in group:
            ranks = tuple(rank[v] for rank, v in zip(order, each.numbers, strict=True))
            found.append(replace(each, ranks=ranks))
    return sorted(found, key=lambda each: each.index)


class Matcher:
    """Layers of both sides, and which of them fit together."""

    def __init__(
        self,
        sources: Sequence[Layer],
        targets: Sequence[Layer],
        counted: frozenset[str],
        read: Read | None = None,
    ) -> None:
        self.sources = named(sources, counted)
        self.targets = named(targets, frozenset())
        self._read = read or (lambda s, t, c: [*readings(s, t, c)])
        self._known: dict[tuple[object, object], bool] = {}
        self._plain = False
        self._plain = self._needs_plain()
        self._known.clear()
        self._contexts = _contexts(targets, self._plain)

    def fits(self, source: Layer, target: Layer) -> bool:
        key = (source.kind, source.shapes), (target.kind, target.end, target.shapes)
        if key not in self._known:
            self._known[key] = bool(self._read(source, target, Context(plain=self._plain)))
        return self._known[key]

    def read(self, source: Layer, target: Layer) -> list[Reading]:
        context = self._contexts.get(target.scope, Context(plain=self._plain))
        return sorted(self._read(source, target, context), key=lambda reading: reading.cost)

    def _needs_plain(self) -> bool:
        """Whether a matrix with a bias is there that no kernel gives by being transposed."""
        matrices = [
            each.layer
            for each in self.targets
            if each.layer.kind == "kernel" and "bias" in each.layer.parts
        ]
        kernels = [each.layer for each in self.sources if "bias" in each.layer.parts]
        return not all(any(self.fits(source, t) for source in kernels) for t in matrices)

    def components(self) -> list[tuple[list[Named], list[Named]]]:
        """The layers in groups: none fits any of another group."""
        by_shape: dict[object, list[Named]] = defaultdict(list)
        for each in self.sources:
            by_shape[each.layer.kind, each.layer.shapes].append(each)
        groups: list[tuple[set[object], list[Named]]] = []
        for target in self.targets:
            keys = {k for k, own in by_shape.items() if self.fits(own[0].layer, target.layer)}
            own = [target]
            if not keys:
                continue
            for group in [g for g in groups if g[0] & keys]:
                groups.remove(group)
                keys, own = keys | group[0], group[1] + own
            groups.append((keys, own))
        return [
            (
                sorted((s for k in keys for s in by_shape[k]), key=lambda each: each.index),
                sorted(own, key=lambda each: each.index),
            )
            for keys, own in groups
        ]

    def match(self) -> list[tuple[Named, Named]]:
        """The best pairs, by what is known of all names at first, then by what these tell."""
        components = self.components()
        learned = _Learned([], self)
        pairs: list[tuple[Named, Named]] = []
        for _ in range(_MOST_ROUNDS):
            before, pairs = pairs, []
            tells = []
            for sources, targets in components:
                found = self._assign(sources, targets, learned)
                pairs += found
                tells += [1 / (len(sources) * len(targets))] * len(found)
            if [(s.index, t.index) for s, t in pairs] == [(s.index, t.index) for s, t in before]:
                break
            learned = _Learned(pairs, self, tells)
        return pairs

    def _assign(
        self, sources: list[Named], targets: list[Named], learned: _Learned
    ) -> list[tuple[Named, Named]]:
        if len(sources) == 1 and len(targets) == 1:
            return [(sources[0], targets[0])]
        weight = _weights(sources, targets)
        sources, targets = _ranked(sources), _ranked(targets)
        scores = np.full((len(sources), len(targets)), -1e6)
        for i, source in enumerate(sources):
            for j, target in enumerate(targets):
                if self.fits(source.layer, target.layer):
                    place = abs(i / len(sources) - j / len(targets)) / 2
                    scores[i, j] = _likeness(source, target, weight) - place
                    scores[i, j] += learned.bonus(source, target)
        return [(sources[i], targets[j]) for i, j in _best(scores) if scores[i, j] > -1e5]


def _contexts(targets: Sequence[Layer], plain: bool) -> dict[str, Context]:
    """Of the matrices that may stand behind a flatten: the channels of what is flattened.

    That is the convolution before, if its place among the tensors tells; in a file of tensors that
    are sorted by name none may be before.
    """
    layers = [layer for layer in targets if layer.kind in ("kernel", "recurrent")]
    shapes = {
        layer.scope: layer.parts["weight"].shape for layer in layers if "weight" in layer.parts
    }
    channels = [shape[0] for shape in shapes.values() if len(shape) > 2]
    found: dict[str, Context] = {}
    before: list[int] = []
    since: set[int] = set()  # the sizes of what other layers gave since the last convolution
    for layer in layers:
        if layer.scope not in shapes:
            since |= {t.shape[1] for role, t in layer.parts.items() if role == "weight_hh"}
            continue
        outputs, inputs, *rest = shapes[layer.scope]
        if rest:
            before.append(outputs)
            since = set()
            continue
        others = {s[0] for scope, s in shapes.items() if scope != layer.scope and len(s) == 2}
        if inputs not in since:
            likely = [c for c in (before or channels)[::-1] if inputs % c == 0]
            last = next((c for c in likely if c == before[-1]), 0) if before else 0
            if channel := last or (likely[0] if likely and inputs not in channels else 0):
                is_pooled = inputs in others | {*channels}
                found[layer.scope] = Context(channel, is_pooled, plain)
        since.add(outputs)
    return found


def _weights(sources: Sequence[Named], targets: Sequence[Named]) -> dict[str, float]:
    """How much a word tells among these layers: little if most have it."""
    count = Counter(word for each in (*sources, *targets) for word in each.words)
    total = len(sources) + len(targets)
    return {word: log(1.1 + total / n) for word, n in count.items()}


def _likeness(source: Named, target: Named, weight: dict[str, float]) -> float:
    common = source.words & target.words
    every = source.words | target.words
    score = 4 * sum(weight[w] for w in common) / max(sum(weight[w] for w in every), 0.1)
    if source.ranks and len(source.ranks) == len(target.ranks):
        same = [a == b for a, b in zip(source.ranks, target.ranks, strict=True)]
        score += 2 * sum(same) / len(same)
        equal = [a == b for a, b in zip(source.numbers, target.numbers, strict=True)]
        score += 0.5 * sum(equal) / len(equal)
    elif source.numbers and target.numbers:
        own = Counter(source.pieces.numbers) & Counter(target.pieces.numbers)
        score += 0.5 * sum(own.values()) / max(len(target.pieces.numbers), 1)
    return score


class _Learned:
    """What pairs tell of others: which skeletons and scopes go together."""

    def __init__(
        self,
        pairs: Sequence[tuple[Named, Named]],
        matcher: Matcher,
        tells: Sequence[float] = (),
    ) -> None:
        self._lines = _Lines()
        for (source, target), told in zip(pairs, tells, strict=True):
            self._lines.add(source, target, told)
        self._skeletons: Counter[tuple[object, object]] = Counter()
        self._parents: Counter[tuple[str, str]] = Counter()
        self._totals: Counter[object] = Counter()
        self._before: dict[int, int] = {s.index: t.index for s, t in pairs}
        self._owner = _owners(matcher.sources)
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
        before = self._before.get(self._owner[source.index])
        if before is not None and before in (target.index - 1, target.index - 2):
            score += 1 if before == target.index - 1 else 0.5
        return score


class _Lines:
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


def _owners(sources: Sequence[Named]) -> dict[int, int]:
    """Of each layer the one in whose scope it lies, or the one before."""
    scopes = {each.layer.scope: each.index for each in sources}
    return {each.index: scopes.get(each.parent, each.index - 1) for each in sources}


def _best(scores: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> list[tuple[int, int]]:
    """The assignment with the largest sum (by shortest augmenting paths)."""
    if scores.shape[0] > scores.shape[1]:
        return [(i, j) for j, i in _best(scores.T)]
    cost = -scores
    n, m = cost.shape
    u, v = np.zeros(n + 1), np.zeros(m + 1)
    owner = np.zeros(m + 1, int)
    for i in range(1, n + 1):
        owner[0], j = i, 0
        least = np.full(m + 1, np.inf)
        way = np.zeros(m + 1, int)
        used = np.zeros(m + 1, bool)
        while True:
            used[j] = True
            free = ~used[1:]
            reduced = cost[owner[j] - 1] - u[owner[j]] - v[1:]
            better = free & (reduced < least[1:])
            least[1:][better] = reduced[better]
            way[1:][better] = j
            candidates = np.where(free, least[1:], np.inf)
            following = int(candidates.argmin()) + 1
            delta = candidates[following - 1]
            u[owner[used]] += delta
            v[used] -= delta
            least[1:][free] -= delta
            j = following
            if owner[j] == 0:
                break
        while j:
            owner[j] = owner[way[j]]
            j = way[j]
    return [(owner[j] - 1, j - 1) for j in range(1, m + 1) if owner[j]]
