"""Operations that make several arrays of one, or one of several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from tfreader.checkpoint import Box
from tfreader.dtypes import Array

from .moves import Slice, Squeeze
from .op import Join, Op, Read, Shape, Step, axis_of

# Tensors made of one variable; more than any model has.
MAX_PIECES = 1 << 14


@dataclass(frozen=True)
class Split(Op):
    """Cut along `axis` into a part for each of the rule's targets: equal ones, or of these `sizes`.

    Sizes may be config keys, and one of them -1 for what the others leave.
    """

    axis: int
    sizes: tuple[int | str, ...] | None = None
    name = "split"

    def resolve(self, dimension: Callable[[int | str], int]) -> Split:
        return self if self.sizes is None else Split(self.axis, tuple(map(dimension, self.sizes)))

    def pieces(self, shape: Shape, count: int) -> list[tuple[Step, ...]]:
        """What makes each of so many parts. Raises ValueError where they are not to be had."""
        axis = axis_of(self, shape)
        if self.sizes is None:
            size, rest = divmod(shape[axis], count)
            if rest:
                raise ValueError(f"{list(shape)} cannot be split into {count} equal parts")
            sizes = [size] * count
        else:
            sizes = [int(size) for size in self.sizes]
            if sizes.count(-1) == 1:
                sizes[sizes.index(-1)] = shape[axis] - (sum(sizes) + 1)
            if len(sizes) != count or min(sizes) < 0 or sum(sizes) != shape[axis]:
                raise ValueError(
                    f"axis {self.axis} of {list(shape)} cannot be split into {count} parts of "
                    f"sizes {list(self.sizes)}"
                )
        ends = [*accumulate(sizes)]
        return [(Slice(axis, end - size, end),) for size, end in zip(sizes, ends, strict=True)]


@dataclass(frozen=True)
class Unstack(Op):
    """One target for each index of `axis`, which is dropped; the target says `{index}`."""

    axis: int
    index: str
    name = "unstack"

    def pieces(self, shape: Shape) -> list[tuple[Step, ...]]:
        """What makes the tensor of each index. Raises ValueError where there are too many."""
        axis = axis_of(self, shape)
        if shape[axis] > MAX_PIECES:
            raise ValueError(
                f"{self} of the shape {list(shape)} would make {shape[axis]} tensors, at most "
                f"{MAX_PIECES} are made of one variable"
            )
        return [(Slice(axis, i, i + 1), Squeeze(axis)) for i in range(shape[axis])]


@dataclass(frozen=True)
class Concat(Join):
    """Join the rule's sources along an axis that they have."""

    axis: int
    name = "concat"

    def join_shapes(self, shapes: Sequence[Shape]) -> Shape:
        axis, first = axis_of(self, shapes[0]), shapes[0]
        if any(s[:axis] != first[:axis] or s[axis + 1 :] != first[axis + 1 :] for s in shapes):
            raise ValueError(f"shapes {[*map(list, shapes)]} cannot be joined on axis {self.axis}")
        return (*first[:axis], sum(s[axis] for s in shapes), *first[axis + 1 :])

    def part(self, box: Box, shapes: Sequence[Shape], reads: Sequence[Read]) -> Array:
        axis, start = axis_of(self, shapes[0]), 0
        parts: list[Array] = []
        for shape, read in zip(shapes, reads, strict=True):
            end = start + shape[axis]
            own = range(max(box[axis].start, start) - start, min(box[axis].stop, end) - start)
            if own or not parts:
                parts.append(read((*box[:axis], own or range(0), *box[axis + 1 :])))
            start = end
        return np.concatenate(parts, axis)


@dataclass(frozen=True)
class Stack(Join):
    """Join the rule's sources along a new axis."""

    axis: int
    name = "stack"

    def join_shapes(self, shapes: Sequence[Shape]) -> Shape:
        first = shapes[0]
        axis = axis_of(self, (*first, len(shapes)))  # of the result, which has one more
        if any(shape != first for shape in shapes):
            raise ValueError(f"shapes {[*map(list, shapes)]} cannot be stacked")
        return (*first[:axis], len(shapes), *first[axis:])

    def part(self, box: Box, shapes: Sequence[Shape], reads: Sequence[Read]) -> Array:
        axis = axis_of(self, (*shapes[0], len(shapes)))
        rest = (*box[:axis], *box[axis + 1 :])
        if not box[axis]:
            return np.stack([reads[0](rest)], axis)[(slice(None),) * axis + (slice(0),)]
        return np.stack([reads[i](rest) for i in box[axis]], axis)
