"""Operations that move the values of one array, and never change one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np

from tfreader.checkpoint import Box
from tfreader.dtypes import Array

from .op import MAX_ELEMENTS, Chain, Read, Shape, Step, axis_of
from .row_major import equal_groups, pieces_of


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

    def inverse(self, shape: Shape) -> Step | None:
        return self


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

    def inverse(self, shape: Shape) -> Step | None:
        axes = [axis % len(shape) for axis in self.axes]
        return Permute(tuple(axes.index(axis) for axis in range(len(shape))))


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

    def inverse(self, shape: Shape) -> Step | None:
        return Reshape(shape)


@dataclass(frozen=True)
class Squeeze(Step):
    """Drop an axis of size 1."""

    axis: int
    name = "squeeze"

    def shape(self, shape: Shape) -> Shape:
        axis = axis_of(self, shape)
        if shape[axis] != 1:
            raise ValueError(f"axis {self.axis} of the shape {list(shape)} is not of size 1")
        return shape[:axis] + shape[axis + 1 :]

    def part(self, box: Box, shape: Shape, read: Read) -> Array:
        axis = axis_of(self, shape)
        return read((*box[:axis], range(1), *box[axis:])).squeeze(axis)

    def inverse(self, shape: Shape) -> Step | None:
        return Unsqueeze(axis_of(self, shape))


@dataclass(frozen=True)
class Unsqueeze(Step):
    """A new axis of size 1, which is axis `axis` of the result."""

    axis: int
    name = "unsqueeze"

    def shape(self, shape: Shape) -> Shape:
        axis = axis_of(self, (*shape, 1))
        return (*shape[:axis], 1, *shape[axis:])

    def part(self, box: Box, shape: Shape, read: Read) -> Array:
        axis = axis_of(self, (*shape, 1))
        values = np.expand_dims(read((*box[:axis], *box[axis + 1 :])), axis)
        return values[(slice(None),) * axis + (slice(len(box[axis])),)]

    def inverse(self, shape: Shape) -> Step | None:
        return Squeeze(axis_of(self, (*shape, 1)))


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

    def inverse(self, shape: Shape) -> Step | None:
        return Chain((Slice(0, 0, 1), Squeeze(0))) if self.times else None


@dataclass(frozen=True)
class Slice(Step):
    """Keep `start` to `stop` (exclusive) along an axis: from its first, to its last without one.

    Both may be config keys. Negative ones count from the end.
    """

    axis: int
    start: int | str | None = None
    stop: int | str | None = None
    name = "slice"

    def resolve(self, dimension: Callable[[int | str], int]) -> Slice:
        start, stop = (None if n is None else dimension(n) for n in (self.start, self.stop))
        return Slice(self.axis, start, stop)

    def _ends(self, shape: Shape) -> tuple[int, int]:
        size = shape[axis_of(self, shape)]
        start, stop = (
            default if n is None else int(n) + size * (int(n) < 0)
            for n, default in ((self.start, 0), (self.stop, size))
        )
        if not 0 <= start <= stop <= size:
            raise ValueError(f"slice {start}:{stop} of axis {self.axis} leaves {list(shape)}")
        return start, stop

    def shape(self, shape: Shape) -> Shape:
        axis, (start, stop) = axis_of(self, shape), self._ends(shape)
        return (*shape[:axis], stop - start, *shape[axis + 1 :])

    def part(self, box: Box, shape: Shape, read: Read) -> Array:
        axis, (start, _) = axis_of(self, shape), self._ends(shape)
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
        axis, before, size = axis_of(self, shape), int(self.before), int(self.size)
        if not 0 <= before <= size - shape[axis]:
            raise ValueError(f"{self} has no room for axis {self.axis} of the shape {list(shape)}")
        padded = (*shape[:axis], size, *shape[axis + 1 :])
        if prod(size or 1 for size in padded) > MAX_ELEMENTS:
            raise ValueError(f"{self} of the shape {list(shape)} is larger than any tensor")
        return padded

    def part(self, box: Box, shape: Shape, read: Read) -> Array:
        axis, first = axis_of(self, shape), int(self.before)
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

    def inverse(self, shape: Shape) -> Step | None:
        axis, before = axis_of(self, shape), int(self.before)
        return Slice(axis, before, before + shape[axis])


@dataclass(frozen=True)
class Reorder(Step):
    """Equal blocks of an axis in another order: block i of the result is block `blocks[i]`.

    The gates of a recurrent layer are such blocks.
    """

    axis: int
    blocks: tuple[int, ...]
    name = "reorder"

    def shape(self, shape: Shape) -> Shape:
        axis, count = axis_of(self, shape), len(self.blocks)
        if sorted(self.blocks) != list(range(count)) or not count:
            raise ValueError(f"{self}: blocks must be the numbers 0 to {max(count - 1, 0)}, once")
        if shape[axis] % count:
            raise ValueError(
                f"axis {self.axis} of {list(shape)} is not made of {count} equal blocks"
            )
        return shape

    def part(self, box: Box, shape: Shape, read: Read) -> Array:
        axis, wanted = axis_of(self, shape), box[axis_of(self, shape)]
        size = shape[axis] // len(self.blocks)
        parts: list[Array] = []
        for to, block in enumerate(self.blocks):
            start, stop = max(wanted.start, to * size), min(wanted.stop, (to + 1) * size)
            if start < stop or (not wanted and not parts):
                moved = range(start + (block - to) * size, stop + (block - to) * size)
                parts.append(read((*box[:axis], moved if wanted else wanted, *box[axis + 1 :])))
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis)

    def inverse(self, shape: Shape) -> Step | None:
        return Reorder(self.axis, tuple(map(self.blocks.index, range(len(self.blocks)))))


@dataclass(frozen=True)
class Flip(Step):
    """An axis the other way round."""

    axis: int
    name = "flip"

    def shape(self, shape: Shape) -> Shape:
        axis_of(self, shape)
        return shape

    def part(self, box: Box, shape: Shape, read: Read) -> Array:
        axis = axis_of(self, shape)
        mirrored = range(shape[axis] - box[axis].stop, shape[axis] - box[axis].start)
        return np.flip(read((*box[:axis], mirrored, *box[axis + 1 :])), axis)

    def inverse(self, shape: Shape) -> Step | None:
        return self
