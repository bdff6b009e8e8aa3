"""Which layer of the checkpoint becomes which of the model.

Shapes say what is possible. Among what is possible words, numbers and order decide; what is likely
in one place tells more of the others.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import log

import numpy as np

from .assignment import best_pairs
from .images import contexts
from .layers import Layer
from .learned import Learned
from .named import Named, named, owners, ranked, shared_start
from .names import words
from .reading import Context, Reading
from .readings import readings

_MOST_ROUNDS = 4
_FEW = 3  # layers
_MOST_ALIGNED = 400_000  # pairs of kernels whose order is looked at
Signs = Callable[[str], bool | None]  # whether a variable has negative values, None if unknown
Read = Callable[[Layer, Layer, Context], Sequence[Reading]]


@dataclass
class Pair:
    """A layer of the checkpoint and one of the model. `doubts` are empty where it is certain."""

    source: Layer
    target: Layer
    reading: Reading
    doubts: list[str] = field(default_factory=list)
    why: tuple[str, ...] = ()
    is_shared: bool = False  # whether the same variable gives another tensor too


class Matcher:
    """Layers of both sides, and which of them fit together."""

    def __init__(
        self,
        sources: Sequence[Layer],
        targets: Sequence[Layer],
        counted: frozenset[str],
        is_negative: Signs,
        read: Read | None = None,
    ) -> None:
        self._is_negative = is_negative
        self.sources = named(sources, counted, False)
        self.targets = named(targets, frozenset(), True)
        self.owners = owners(self.sources)
        self._shared = shared_start([each.path for each in self.sources])
        self._by_shape: dict[object, list[Named]] = defaultdict(list)
        for each in self.sources:
            self._by_shape[each.layer.kind, each.layer.shapes].append(each)
        self._with_mean = {t.parent for t in self.targets if _is_statistic(t, "mean")}
        self._read = read or (lambda s, t, c: [*readings(s, t, c)])
        self._known: dict[tuple[object, object], bool] = {}
        self._plain = False
        self._plain = self._needs_plain()
        self._known.clear()
        self._contexts = contexts(targets, self._plain)
        self.homes = self._sure_homes()

    def is_namesake(self, source: Named, target: Named) -> bool:
        """Whether both names are the same but for what all of the checkpoint's begin with."""
        return source.path[self._shared :] == target.path

    def may_be_signed(self, source: Named, target: Named) -> bool | None:
        """Whether the values allow what is never below zero, a variance; None of anything else.

        It is called that and nothing else, beside a mean: not a log_var, nor the bias of an fc_var.
        """
        if {source.layer.kind, target.layer.kind} != {"value"}:
            return None
        if not _is_statistic(target, "var") or target.parent not in self._with_mean:
            return None
        is_negative = self._is_negative(source.layer.parts["value"].name)
        return None if is_negative is None else not is_negative

    def fits(self, source: Layer, target: Layer) -> bool:
        key = (source.kind, source.shapes), (target.kind, target.end, target.shapes)
        known = self._known.get(key)
        if known is None:
            known = bool(self._read(source, target, Context(plain=self._plain)))
            self._known[key] = known
        return known

    def read(self, source: Layer, target: Layer) -> list[Reading]:
        context = self._contexts.get(target.name, Context(plain=self._plain))
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

    def _sure_homes(self) -> dict[str, str]:
        """For modules: the only scope where there is something that fits each of their layers.

        Of one layer it would be its shape that tells, which an own scope is to add to. Few layers
        may as well be of scopes of their own, if each of them fits elsewhere too.
        """
        found: dict[str, set[str]] = {}
        sure: set[str] = set()
        for target in self.targets:
            parents = {
                s.parent
                for own in self._by_shape.values()
                if self.fits(own[0].layer, target.layer)
                for s in own
            }
            if len(parents) == 1:
                sure.add(target.parent)
            if parents:
                found[target.parent] = found.get(target.parent, parents) & parents
        layers = Counter(target.parent for target in self.targets)
        return {
            module: min(homes)
            for module, homes in found.items()
            if module and len(homes) == 1 and layers[module] > (1 if module in sure else _FEW)
        }

    def components(self) -> list[tuple[list[Named], list[Named]]]:
        """The layers in groups: none fits any of another group."""
        groups: list[tuple[set[object], list[Named]]] = []
        for target in self.targets:
            keys = {k for k, own in self._by_shape.items() if self.fits(own[0].layer, target.layer)}
            own = [target]
            if not keys:
                continue
            for group in [g for g in groups if g[0] & keys]:
                groups.remove(group)
                keys, own = keys | group[0], group[1] + own
            groups.append((keys, own))
        return [
            (
                sorted((s for k in keys for s in self._by_shape[k]), key=lambda each: each.index),
                sorted(own, key=lambda each: each.index),
            )
            for keys, own in groups
        ]

    def match(self) -> list[tuple[Named, Named]]:
        """The best pairs, by what is known of all names at first, then by what these tell."""
        components = self.components()
        aligned = self._aligned()
        learned = Learned([], self.owners)
        pairs: list[tuple[Named, Named]] = []
        for _ in range(_MOST_ROUNDS):
            before, pairs = pairs, []
            tells = []
            for sources, targets in components:
                found = self._assign(sources, targets, learned, aligned)
                pairs += found
                tells += [1 / (len(sources) * len(targets))] * len(found)
            if [(s.index, t.index) for s, t in pairs] == [(s.index, t.index) for s, t in before]:
                break
            learned = Learned(pairs, self.owners, tells)
        return pairs

    def _aligned(self) -> set[tuple[int, int]]:
        """Kernels of both sides in order, if nearly all of the model's fit as they follow."""
        own = [each for each in self.sources if each.layer.kind in ("kernel", "depthwise")]
        of = [each for each in self.targets if each.layer.kind == "kernel"]
        if len(own) * len(of) > _MOST_ALIGNED:
            return set()
        fits = [[self.fits(s.layer, t.layer) for t in of] for s in own]
        longest = [[0] * (len(of) + 1) for _ in range(len(own) + 1)]
        for i in reversed(range(len(own))):
            for j in reversed(range(len(of))):
                skipped = max(longest[i + 1][j], longest[i][j + 1])
                longest[i][j] = max(skipped, longest[i + 1][j + 1] + fits[i][j])
        if longest[0][0] < 0.9 * len(of):
            return set()
        found, i, j = set(), 0, 0
        while i < len(own) and j < len(of):
            if fits[i][j] and longest[i][j] == longest[i + 1][j + 1] + 1:
                found.add((own[i].index, of[j].index))
                i, j = i + 1, j + 1
            elif longest[i + 1][j] >= longest[i][j + 1]:
                i += 1
            else:
                j += 1
        return found

    def _assign(
        self,
        sources: list[Named],
        targets: list[Named],
        learned: Learned,
        aligned: set[tuple[int, int]],
    ) -> list[tuple[Named, Named]]:
        if len(sources) == 1 and len(targets) == 1:
            return [(sources[0], targets[0])]
        weight = _weights(sources, targets)
        sources, targets = ranked(sources), ranked(targets)
        scores = np.full((len(sources), len(targets)), -1e6)
        for i, source in enumerate(sources):
            for j, target in enumerate(targets):
                if self.fits(source.layer, target.layer):
                    place = abs(i / len(sources) - j / len(targets)) / 2
                    scores[i, j] = _likeness(source, target, weight) - place
                    scores[i, j] += learned.bonus(source, target)
                    scores[i, j] -= 4 * (self.may_be_signed(source, target) is False)
                    scores[i, j] += 0.8 * ((source.index, target.index) in aligned)
                    scores[i, j] += 4 * (self.homes.get(target.parent) == source.parent)
        return [(sources[i], targets[j]) for i, j in best_pairs(scores) if scores[i, j] > -1e5]


def _is_statistic(target: Named, word: str) -> bool:
    found = {*words(target.layer.name.rpartition(".")[2])}
    return word in found and found <= {word, "running", "moving", "sum"}


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
        score += _labelled(source, target)
        own = Counter(source.pieces.numbers) & Counter(target.pieces.numbers)
        score += 0.5 * sum(own.values()) / max(len(target.pieces.numbers), 1)
    return score


def _labelled(source: Named, target: Named) -> float:
    """How far the numbers behind the same word are the same, or of the same rank.

    Numbers of the model behind no such word are held against those between the same words.
    """
    own, of = source.pieces.labels, target.pieces.labels
    score, start = 0.0, 0
    unmatched: list[int] = []
    for j, other in enumerate(target.slots):
        found = [i for i in range(start, len(source.slots)) if own[source.slots[i]] == of[other]]
        if not of[other] or not found:
            unmatched.append(j)
            continue
        i = found[0]
        score += _between(source, target, range(start, i), unmatched)
        same = source.numbers[i] == target.numbers[j] or source.ranks[i] == target.ranks[j]
        score += 0.7 if same else -0.7
        start, unmatched = i + 1, []
    return score + _between(source, target, range(start, len(source.slots)), unmatched)


def _between(source: Named, target: Named, slots: range, unmatched: Sequence[int]) -> float:
    """How many numbers of the model have the rank of one of the checkpoint's, in these places."""
    sizes = source.pieces.sizes
    ranks = {source.ranks[i] for i in slots if source.slots[i] not in sizes}
    return sum(0.5 if target.ranks[j] in ranks else -0.5 for j in unmatched) if ranks else 0
