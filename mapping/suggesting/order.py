"""What the order of layers tells: mostly a model makes them in the order in which it has them.

That is believed where everything that is certain in another way is in the same order on both sides,
and only of layers with something certain between them.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .named import Named, shared_start
from .names import lettered

_FEWEST = 4  # certain pairs, all in order: by chance once in 24
Place = tuple[int, int]


class Order:
    """The places of a checkpoint's layers among those that were made one after the other.

    That are all where the order of their making is known (`is_created`), else those that
    TensorFlow has numbered by itself, and those that are counted at the top: Mixed_3b, Mixed_4a.
    `inner` are the layers that norms stand behind, by their indices.
    """

    def __init__(
        self, sources: Sequence[Named], inner: Mapping[int, int], is_created: bool
    ) -> None:
        every = {
            each.index: (inner[each.index], 1) if each.index in inner else (each.index, 0)
            for each in sources
        }
        if is_created:
            self._chains = [_Chain(_FEWEST, every)]
            return
        self._chains = [_Chain(_FEWEST, places) for places in _numbered(sources)]
        for own in _families(sources):
            self._chains.append(
                _Chain(2 * _FEWEST, {each.index: every[each.index] for each in own})
            )

    def learn(self, certain: Sequence[tuple[Named, Named]]) -> None:
        """Take what is certain: `certain` are layers of the checkpoint and of the model."""
        for chain in self._chains:
            chain.learn(certain)

    def tells(self, s: Named, s2: Named, t: Named, t2: Named) -> bool:
        """Whether something certain lies between both, and both are in order with all of it."""
        return any(chain.tells(s, s2, t, t2) for chain in self._chains)


@dataclass
class _Chain:
    """Layers by their places, and the certain ones' places on both sides if they are in order."""

    fewest: int  # that have to be certain
    places: dict[int, Place]
    own: list[Place] = field(default_factory=list)
    of: list[int] = field(default_factory=list)

    def learn(self, certain: Sequence[tuple[Named, Named]]) -> None:
        found = sorted(
            (self.places[s.index], t.index) for s, t in certain if s.index in self.places
        )
        self.own, self.of = [place for place, _ in found], [index for _, index in found]
        if len(found) < self.fewest or self.of != sorted(self.of):
            self.own, self.of = [], []

    def tells(self, s: Named, s2: Named, t: Named, t2: Named) -> bool:
        place, place2 = self.places.get(s.index), self.places.get(s2.index)
        if not self.own or place is None or place2 is None:
            return False
        for at, target in ((place, t), (place2, t2)):
            if bisect_left(self.own, at) != bisect_left(self.of, target.index):
                return False
        first, last = sorted((t.index, t2.index))
        is_between = bisect_left(self.of, last) > bisect_right(self.of, first)
        return is_between and (place < place2) == (t.index < t2.index)


def _families(sources: Sequence[Named]) -> list[list[Named]]:
    """Those whose names begin with the same but for numbers, behind what all begin with."""
    paths = [tuple(each.layer.scope.split("/")) for each in sources]
    shared = shared_start(paths)
    groups: dict[str, list[Named]] = defaultdict(list)
    for each, path in zip(sources, paths, strict=True):
        first = lettered("/".join(path[shared : shared + 1]))
        groups[re.sub(r"[\d_]+$", "", first)].append(each)
    return list(groups.values())


def _numbered(sources: Sequence[Named]) -> list[dict[int, Place]]:
    """The places of `conv2d`, `conv2d_1`, …, and of the norms that are numbered as these are."""
    groups: dict[object, list[Named]] = defaultdict(list)
    for each in sources:
        if len(each.slots) == 1 and each.pieces.is_automatic(each.slots[0]):
            groups[each.alike].append(each)
    kernels = [own for own in groups.values() if own[0].layer.kind == "kernel"]
    chains = {id(own): {s.index: (s.numbers[0], 0) for s in own} for own in groups.values()}
    for own in groups.values():
        if own[0].layer.kind not in ("batch_norm", "norm"):
            continue
        following = [id(others) for others in kernels if _follow(own, others)]
        if len(following) == 1:
            chains[following[0]] |= {s.index: (s.numbers[0], 1) for s in own}
    return list(chains.values())


def _follow(norms: Sequence[Named], kernels: Sequence[Named]) -> bool:
    """Whether each norm has the channels of the layer of its number, in sizes that vary."""
    outputs = {each.numbers[0]: each.layer.parts["kernel"].shape[-1:] for each in kernels}
    sizes = {
        each.numbers[0]: max(tensor.shape for tensor in each.layer.parts.values()) for each in norms
    }
    return len({*sizes.values()}) > 2 and all(outputs.get(n) == sizes[n] for n in sizes)
