"""Partitioned tensors: where each slice lies in the whole, and the key that it is stored under.

A slice key is the OrderedCode of 0, the tensor's name, its rank, and per dimension the start and
the length, where an absent length (the whole dimension) is coded as -1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np

from .dtypes import Array

MAX_CORNERS = 1 << 22  # coordinates of slices' corners: 32 MB. TensorFlow cuts one axis, or two


class Slice(NamedTuple):
    """A box of a tensor: per dimension its start and its length, -1 for the whole dimension."""

    start: tuple[int, ...]
    length: tuple[int, ...]

    def resolve(self, shape: tuple[int, ...]) -> Slice:
        """The same slice with every length given; ValueError where it does not fit `shape`."""
        if len(self.start) != len(shape):
            raise ValueError(f"slice of rank {len(self.start)} in a tensor of rank {len(shape)}")
        lengths = tuple(
            size if length == -1 else length
            for length, size in zip(self.length, shape, strict=True)
        )
        for start, length, size in zip(self.start, lengths, shape, strict=True):
            if start < 0 or (length < 1 and length != size) or start + length > size:
                raise ValueError(f"slice {start}:{start + length} leaves a dimension of {size}")
        return Slice(self.start, lengths)

    @property
    def box(self) -> tuple[slice, ...]:
        """The slice as a numpy index (of a resolved slice)."""
        return tuple(
            slice(start, start + length)
            for start, length in zip(self.start, self.length, strict=True)
        )


def from_proto(message: Any) -> Slice:
    extents = message.extent
    return Slice(
        tuple(e.start for e in extents),
        tuple(e.length if e.HasField("length") else -1 for e in extents),
    )


def check_cover(slices: Sequence[Slice], shape: tuple[int, ...]) -> None:
    """ValueError unless the resolved slices fill `shape` exactly, without gap or overlap."""
    if not slices or not shape:
        raise ValueError("a scalar in slices" if slices else "it has no slices")
    covered = sum(prod(piece.length) for piece in slices)
    if covered < prod(shape):
        raise ValueError(f"the slices hold {covered} of the tensor's {prod(shape)} elements")
    starts = np.array([piece.start for piece in slices], np.int64)
    ends = starts + np.array([piece.length for piece in slices], np.int64)
    axes = np.flatnonzero(((starts != 0) | (ends != shape)).any(axis=0)).tolist()
    if len(axes) > 2 and len(slices) * len(axes) << len(axes) > MAX_CORNERS:
        raise ValueError(f"{len(slices)} slices that cut {len(axes)} axes are too many to check")
    clash = _uncovered_corner(starts[:, axes], ends[:, axes], np.array(shape, np.int64)[axes])
    if covered > prod(shape) or clash is not None:
        where = "" if clash is None else f" near {dict(zip(axes, clash, strict=True))} (by axis)"
        raise ValueError(f"the slices overlap{where}")


def _uncovered_corner(starts: Array, ends: Array, shape: Array) -> list[int] | None:
    """A corner at which the boxes do not add up to one that fills `shape`, None if there is none.

    How often each element is covered is told by its differences along all axes, which are nothing
    but at the boxes' corners, where they are 1 or -1. So boxes fill a shape once where the corners
    of theirs, added up, are those of the shape.
    """
    count, rank = starts.shape
    if not rank:
        return None
    starts = np.vstack([starts, np.zeros_like(shape)])
    ends = np.vstack([ends, shape])
    weights = np.append(np.ones(count, np.int64), -1)
    corners, signs = [], []
    for choice in product((0, 1), repeat=rank):
        corners.append(np.where(choice, ends, starts))
        signs.append(weights * (-1) ** sum(choice))
    points, values = np.vstack(corners), np.concatenate(signs)
    order = np.lexsort(points.T)
    points, values = points[order], values[order]
    first = np.flatnonzero(np.append(True, (points[1:] != points[:-1]).any(axis=1)))
    wrong = np.flatnonzero(np.add.reduceat(values, first))
    return points[first[wrong[0]]].tolist() if wrong.size else None


def assemble(
    slices: Sequence[Slice],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    rows: range,
    load: Callable[[int, range], Array],
) -> Array:
    """The given rows of the tensor that the resolved slices fill.

    `load(i, rows)` gives rows of slice `i`, counted from the slice's own start. A tensor of rank 0
    has no slices to assemble.
    """
    whole = np.empty((len(rows), *shape[1:]), dtype)
    for i, piece in enumerate(slices):
        part = rows_in(piece, rows)
        if part:
            shift = piece.start[0] - rows.start
            whole[slice(part.start + shift, part.stop + shift), *piece.box[1:]] = load(i, part)
    return whole


def rows_in(piece: Slice, rows: range) -> range:
    """Those of the whole tensor's `rows` that lie in the slice, counted from its own start."""
    start = piece.start[0]
    return range(max(rows.start - start, 0), min(rows.stop - start, piece.length[0]))


def slice_key(name: bytes, piece: Slice) -> bytes:
    """The key under which the slice of the tensor `name` is stored, as written, not resolved."""
    escaped = b"\x00\xff".join(part.replace(b"\xff", b"\xff\x00") for part in name.split(b"\x00"))
    parts = [_number(0), escaped, b"\x00\x01", _number(len(piece.start))]
    for start, length in zip(piece.start, piece.length, strict=True):
        parts += [_signed(start), _signed(length)]
    return b"".join(parts)


def _number(value: int) -> bytes:
    size = (value.bit_length() + 7) // 8
    return bytes([size]) + value.to_bytes(size, "big")


def _signed(value: int) -> bytes:
    """OrderedCode of a signed number: n bytes, the top n bits xored with ones."""
    size = 1
    while not -(1 << (7 * size - 1)) <= value < 1 << (7 * size - 1):
        size += 1
    bits = 8 * size
    header = ((1 << size) - 1) << (bits - size)
    return ((value & ((1 << bits) - 1)) ^ header).to_bytes(size, "big")
