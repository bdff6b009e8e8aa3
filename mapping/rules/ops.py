"""The operations of a rule: a small closed set, each with shape inference and application.

All of them are exact: they move values and never change one; `pad` puts zeros beside them. (Casts
belong to the output, see `tfreader.mapping.execute`.) Any of them can make a part of its result
from a part of its input, so that tensors of any size go through in parts; the whole is the largest
part.

Axes are counted as numpy counts them: negative ones from the end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import product
from math import prod
from typing import Any, ClassVar

import numpy as np

from tfreader.checkpoint import Box
from tfreader.dtypes import Array

from .row_major import equal_groups, pieces_of

Shape = tuple[int, ...]

# More than any model has; what claims more is refused before it is made.
MAX_PIECES = 1 << 14  # tensors made of one variable
MAX_ELEMENTS = 1 << 40  # of a tensor that is not read but made


@dataclass(frozen=True)
class Op:
    """One operation of a rule, as data."""

    name: ClassVar[str]

    def resolve(self, dimension: Callable[[int | str], int]) -> Op:
        """The same operation with config keys replaced by their values."""
        return self

    def to_data(self) -> str | dict[str, Any]:
        """The operation as a rule file spells it."""
        arguments = {field.name: getattr(self, field.name) for field in fields(self)}
        arguments = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in arguments.items()
        }
        return {"op": self.name, **arguments} if arguments else self.name

    def __str__(self) -> str:
        arguments = ", ".join(
            f"{f.name}={getattr(self, f.name)}".replace(" ", "") for f in fields(self)
        )
        return f"{self.name}({arguments})" if arguments else self.name


Read = Callable[[Box], Array]
"""Gives a part of an operation's input."""


class Step(Op, ABC):
    """An operation on one array."""

    @abstractmethod
    def shape(self, shape: Shape) -> Shape:
        """The result's shape. Raises ValueError where the operation does not fit `shape`."""

    @abstractmethod
    def part(self, box: Box, shape: Shape, read: Read) -> Array:
        """A part of the result, of an input of that shape. A view of what is read where possible.

        It reads the part of the input that it needs, and no more where that is possible.
        """


@dataclass(frozen=True)
class Transpose(Step):
    """Reverse the axes; of a matrix, TensorFlow's [in, out] to PyTorch's [out, in]."""

    name = "transpose"

    def shape(self, shape: Shape) -> Shape:
        if len(shape) < 2:
            raise ValueError(f"transpose needs two axes or more, the shape is {list(shape)}")
        return shape[::-1]

    def part(self, box: Box, shape: Shape, read: Read) -> Array:
        return read(box[::-1]).T


@dataclass(frozen=True)
class Permute(Step):
    """Reorder the axes: axis i of the result is axis `axes[i]` of the input."""

    axes: tuple[int, ...]
    name = "permute"

    def shape(self, shape: Shape) -> Shape:
        rank = len(shape)
        if sorted(axis + rank * (axis < 0) for axis in self.axes) != list(range(rank)):
            raise ValueError(f"permute {list(self.axes)} does not fit the shape {list(shape)}")
        return tuple(shape[axis] for axis in self.axes)

    def part(self, box: Box, shape: Shape, read: Read) -> Array:
        axes = [axis % len(shape) for axis in self.axes]
        needed = tuple(box[axes.index(axis)] for axis in range(len(shape)))
        return read(needed).transpose(axes)


@dataclass(frozen=True)
class Reshape(Step):
    """Give the same values, in row-major order, another shape. Dimensions may be config keys."""

    to: tuple[int | str, ...]
    name = "reshape"

    def resolve(self, dimension: Callable[[int | str], int]) -> Reshape:
        return Reshape(tuple(dimension(size) for size in self.to))

    def shape(self, shape: Shape) -> Shape:
        to = tuple(int(size) for size in self.to)
        if to.count(-1) == 1:
            rest = prod(size for size in to if size != -1)
            if rest > 0 and prod(shape) % rest == 0:
                to = tuple(prod(shape) // rest if size == -1 else size for size in to)
        if prod(to) != prod(shape) or any(size < 0 for size in to):
            raise ValueError(f"shape {list(shape)} cannot be reshaped to {list(to)}")
        return to

    def part(self, box: Box, shape: Shape, read: Read) -> Array:
        to = self.shape(shape)
        if not prod(map(len, box)):
            some = read(tuple(range(min(size, 1)) for size in shape))
            return some.reshape(-1)[:0].reshape(tuple(map(len, box)))
        # Axes are joined and split in groups of one size on both sides. What the part has of each
        # lies in pieces of the input's axes, and every choice of one piece a group is read.
        groups = equal_groups(shape, to)
        pieces = [list(pieces_of(box[outs], to[outs], shape[ins])) for ins, outs in groups]
        sizes = [prod(map(len, box[outs])) for _, outs in groups]
        values: Array | None = None
        for choice in product(*pieces):
            piece = read(tuple(indices for each in choice for indices in each.box))
            piece = piece.reshape([prod(map(len, each.box)) for each in choice])
            for axis, each in enumerate(choice):
                if each.wanted is not None:
                    piece = np.take(piece, each.wanted, axis)
            if values is None:
                values = piece if list(piece.shape) == sizes else np.empty(sizes, piece.dtype)
            if values is not piece:
                values[tuple(each.place for each in choice)] = piece
        assert values is not None
        return values.reshape(tuple(map(len, box)))


@dataclass(frozen=True)
class Squeeze(Step):
    """Drop an axis of size 1."""

    axis: int
    name = "squeeze"

    def shape(self, shape: Shape) -> Shape:
        axis = _axis(self, shape)
        if shape[axis] != 1:
            raise ValueError(f"axis {self.axis} of the shape {list(shape)} is not of size 1")
        return shape[:axis] + shape[axis + 1 :]

    def part(self, box: Box, shape: Shape, read: Read) -> Array:
        axis = _axis(self, shape)
        return read((*box[:axis], range(1), *box[axis:])).squeeze(axis)


@dataclass(frozen=True)
class Repeat(Step):
    """The same values `times` over, along a new first axis. `times` may be a config key."""

    times: int | str
    name = "repeat"

    def resolve(self, dimension: Callable[[int | str], int]) -> Repeat:
        return Repeat(dimension(self.times))

    def shape(self, shape: Shape) -> Shape:
        times = int(self.times)
        if times < 0:
            raise ValueError(f"{self} is less than nothing")
        if times * prod(size or 1 for size in shape) > MAX_ELEMENTS:
            raise ValueError(f"{self} of the shape {list(shape)} is larger than any tensor")
        return times, *shape

    def part(self, box: Box, shape: Shape, read: Read) -> Array:
        return np.broadcast_to(read(box[1:]), tuple(map(len, box)))


@dataclass(frozen=True)
class Slice(Step):
    """Keep `start` to `stop` (exclusive) along an axis. Both may be config keys."""

    axis: int
    start: int | str
    stop: int | str
    name = "slice"

    def resolve(self, dimension: Callable[[int | str], int]) -> Slice:
        return Slice(self.axis, dimension(self.start), dimension(self.stop))

    def shape(self, shape: Shape) -> Shape:
        axis, start, stop = _axis(self, shape), int(self.start), int(self.stop)
        if not 0 <= start <= stop <= shape[axis]:
            raise ValueError(f"slice {start}:{stop} of axis {self.axis} leaves {list(shape)}")
        return (*shape[:axis], stop - start, *shape[axis + 1 :])

    def part(self, box: Box, shape: Shape, read: Read) -> Array:
        axis, start = _axis(self, shape), int(self.start)
        shifted = range(box[axis].start + start, box[axis].stop + start)
        return read((*box[:axis], shifted, *box[axis + 1 :]))


@dataclass(frozen=True)
class Pad(Step):
    """Zeros around the values: `before` them along an axis, and behind up to `size` in all.

    Both may be config keys.
    """

    axis: int
    before: int | str
    size: int | str
    name = "pad"

    def resolve(self, dimension: Callable[[int | str], int]) -> Pad:
        return Pad(self.axis, dimension(self.before), dimension(self.size))

    def shape(self, shape: Shape) -> Shape:
        axis, before, size = _axis(self, shape), int(self.before), int(self.size)
        if not 0 <= before <= size - shape[axis]:
            raise ValueError(f"{self} has no room for axis {self.axis} of the shape {list(shape)}")
        padded = (*shape[:axis], size, *shape[axis + 1 :])
        if prod(size or 1 for size in padded) > MAX_ELEMENTS:
            raise ValueError(f"{self} of the shape {list(shape)} is larger than any tensor")
        return padded

    def part(self, box: Box, shape: Shape, read: Read) -> Array:
        axis, first = _axis(self, shape), int(self.before)
        wanted = box[axis]
        start = min(max(wanted.start, first), first + shape[axis])
        own = range(start, max(start, min(wanted.stop, first + shape[axis])))
        inner = range(own.start - first, own.stop - first)
        found = read((*box[:axis], inner, *box[axis + 1 :]))
        if len(own) == len(wanted):
            return found
        values = np.zeros(tuple(map(len, box)), found.dtype)
        if own:
            place = slice(own.start - wanted.start, own.stop - wanted.start)
            values[(slice(None),) * axis + (place,)] = found
        return values


@dataclass(frozen=True)
class Split(Op):
    """Cut into as many equal parts along `axis` as the rule has targets."""

    axis: int
    name = "split"

    def pieces(self, shape: Shape, count: int) -> list[tuple[Step, ...]]:
        """What makes each of so many parts. Raises ValueError where they are not equal."""
        axis = _axis(self, shape)
        size, rest = divmod(shape[axis], count)
        if rest:
            raise ValueError(f"{list(shape)} cannot be split into {count} equal parts")
        return [(Slice(axis, i * size, (i + 1) * size),) for i in range(count)]


@dataclass(frozen=True)
class Unstack(Op):
    """One target for each index of `axis`, which is dropped; the target says `{index}`."""

    axis: int
    index: str
    name = "unstack"

    def pieces(self, shape: Shape) -> list[tuple[Step, ...]]:
        """What makes the tensor of each index. Raises ValueError where there are too many."""
        axis = _axis(self, shape)
        if shape[axis] > MAX_PIECES:
            raise ValueError(
                f"{self} of the shape {list(shape)} would make {shape[axis]} tensors, at most "
                f"{MAX_PIECES} are made of one variable"
            )
        return [(Slice(axis, i, i + 1), Squeeze(axis)) for i in range(shape[axis])]


class Join(Op, ABC):
    """An operation on all sources of a rule, in the order given."""

    @abstractmethod
    def join_shapes(self, shapes: Sequence[Shape]) -> Shape:
        """The result's shape. Raises ValueError where `shapes` do not fit together."""

    @abstractmethod
    def part(self, box: Box, shapes: Sequence[Shape], reads: Sequence[Read]) -> Array:
        """A part of the result, as `Step.part` gives it, of inputs of these shapes."""


@dataclass(frozen=True)
class Concat(Join):
    """Join the rule's sources along an axis that they have."""

    axis: int
    name = "concat"

    def join_shapes(self, shapes: Sequence[Shape]) -> Shape:
        axis, first = _axis(self, shapes[0]), shapes[0]
        if any(s[:axis] != first[:axis] or s[axis + 1 :] != first[axis + 1 :] for s in shapes):
            raise ValueError(f"shapes {[*map(list, shapes)]} cannot be joined on axis {self.axis}")
        return (*first[:axis], sum(s[axis] for s in shapes), *first[axis + 1 :])

    def part(self, box: Box, shapes: Sequence[Shape], reads: Sequence[Read]) -> Array:
        axis, start = _axis(self, shapes[0]), 0
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
        axis = _axis(self, (*first, len(shapes)))  # of the result, which has one more
        if any(shape != first for shape in shapes):
            raise ValueError(f"shapes {[*map(list, shapes)]} cannot be stacked")
        return (*first[:axis], len(shapes), *first[axis:])

    def part(self, box: Box, shapes: Sequence[Shape], reads: Sequence[Read]) -> Array:
        axis = _axis(self, (*shapes[0], len(shapes)))
        rest = (*box[:axis], *box[axis + 1 :])
        if not box[axis]:
            return np.stack([reads[0](rest)], axis)[(slice(None),) * axis + (slice(0),)]
        return np.stack([reads[i](rest) for i in box[axis]], axis)


def _axis(op: Squeeze | Slice | Pad | Split | Unstack | Concat | Stack, shape: Shape) -> int:
    """An operation's axis, counted from the front. Raises ValueError where there is none."""
    if not -len(shape) <= op.axis < len(shape):
        raise ValueError(f"{op} does not fit the shape {list(shape)}, it has no axis {op.axis}")
    return op.axis % len(shape)


OPS: dict[str, type[Op]] = {
    op.name: op
    for op in (
        *(Transpose, Permute, Reshape, Squeeze, Repeat, Slice, Pad),
        *(Split, Unstack, Concat, Stack),
    )
}
