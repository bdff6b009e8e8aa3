"""Partitioned tensors: where each slice lies in the whole, and the key that it is stored under.

A slice key is the OrderedCode of 0, the tensor's name, its rank, and per dimension the start and
the length, where an absent length (the whole dimension) is coded as -1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from .dtypes import Array


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
    starts = np.array([piece.start for piece in slices], np.int64)
    ends = starts + np.array([piece.length for piece in slices], np.int64)
    # A sweep along the axis that is cut most often: few slices are open at a time.
    axis = max(range(len(shape)), key=lambda i: len(np.unique(starts[:, i])))
    open_slices = np.empty(0, np.intp)
    for i in np.argsort(starts[:, axis], kind="stable"):
        open_slices = open_slices[ends[open_slices, axis] > starts[i, axis]]
        meets = (starts[open_slices] < ends[i]) & (starts[i] < ends[open_slices])
        clash = open_slices[meets.all(axis=1)]
        if clash.size:
            raise ValueError(f"slices at {slices[clash[0]].start} and {slices[i].start} overlap")
        open_slices = np.append(open_slices, i)
    covered = sum(prod(piece.length) for piece in slices)
    if covered != prod(shape):
        raise ValueError(f"the slices hold {covered} of the tensor's {prod(shape)} elements")


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
