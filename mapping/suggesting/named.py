"""Layers by what their names tell."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from .layers import Layer
from .names import Pieces, lettered, pieces, telling, words

_KIND = re.compile(r"(?i)[/._]?(?:conv(?:[123]d)?|dense|fc|bn|batch_?norm|norm|layer_?norm|ln)$")


@dataclass(frozen=True)
class Named:
    """A layer, and what its name tells: its words, its numbers, and their ranks among its like."""

    layer: Layer
    pieces: Pieces
    index: int  # in order
    alike: tuple[object, ...] = ()  # what those have in common that numbers tell apart
    slots: tuple[int, ...] = ()  # the places of numbers that are not the same in all of them
    numbers: tuple[int, ...] = ()  # these
    ranks: tuple[int, ...] = ()
    prefixes: tuple[str, ...] = ()  # what is before each of the numbers
    window: tuple[int, ...] = ()  # the size of a convolution's kernel

    @cached_property
    def words(self) -> frozenset[str]:
        return frozenset(words(self.layer.name))

    @cached_property
    def telling(self) -> frozenset[str]:
        return telling(self.layer.name)

    @cached_property
    def path(self) -> tuple[str, ...]:
        """All of its name, but for how its parts are joined."""
        return tuple(re.findall(r"[a-z]+|\d+", self.layer.name.lower()))

    @cached_property
    def stem(self) -> str:
        """The name without its end that says what kind of layer it is."""
        return _KIND.sub("", self.layer.scope)

    @cached_property
    def parent(self) -> str:
        name = self.layer.scope
        return name.rpartition("/")[0] or name.rpartition(".")[0]


def named(layers: Sequence[Layer], counted: frozenset[str], of_model: bool) -> list[Named]:
    """The layers in order, with what their names tell."""
    groups: dict[tuple[object, ...], list[Named]] = defaultdict(list)
    for index, layer in enumerate(layers):
        parts = pieces(layer.name if of_model else lettered(layer.name), counted)
        ranks = sorted({len(tensor.shape) for tensor in layer.parts.values()})
        is_thin = any(len(t.shape) > 2 and t.shape[1] == 1 for t in layer.parts.values())
        alike = (parts.skeleton, layer.kind, ranks[-1], is_thin and of_model)
        shape = max((tensor.shape for tensor in layer.parts.values()), key=len)
        window = shape[2:] if of_model else shape[:-2]
        groups[alike].append(Named(layer, parts, index, alike, window=window))
    found = []
    for group in groups.values():
        slots = [*zip(*(each.pieces.numbers for each in group), strict=True)]
        varying = [i for i, values in enumerate(slots) if len(set(values)) > 1]
        for each in group:
            own = tuple(each.pieces.numbers[i] for i in varying)
            prefixes = tuple(each.pieces.prefix(i) for i in varying)
            found.append(replace(each, slots=tuple(varying), numbers=own, prefixes=prefixes))
    return sorted(found, key=lambda each: each.index)


def ranked(layers: Sequence[Named]) -> list[Named]:
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


def owners(layers: Sequence[Named]) -> dict[int, int]:
    """Of norms the layer that they stand behind: the one in whose scope one lies, or its namesake.

    That is `conv3_conv` of `conv3_bn`.
    """
    kernels = [each for each in layers if each.layer.kind in ("kernel", "depthwise")]
    scopes = {each.layer.scope: each.index for each in kernels}
    namesakes = {each.stem: each.index for each in reversed(kernels)}
    found = {}
    for each in layers:
        if each.layer.kind not in ("batch_norm", "norm"):
            continue
        near = (scopes.get(each.parent), scopes.get(each.stem), namesakes.get(each.stem or "/"))
        owner = next((index for index in near if index is not None), None)
        if owner is not None:
            found[each.index] = owner
    return found


def shared_start(paths: Sequence[tuple[str, ...]]) -> int:
    """How many parts all of these begin with, 0 where they are all the same."""
    ends = zip(min(paths, default=()), max(paths, default=()), strict=False)
    return next((i for i, (a, b) in enumerate(ends) if a != b), 0)
