"""Partitioned tensors: where each slice lies in the whole, and the key that it is stored under.

A slice key is the OrderedCode of 0, the tensor's name, its rank, and per dimension the start and
the length, where an absent length (the whole dimension) is coded as -1.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any, NamedTuple


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
            if start < 0 or length < 1 or start + length > size:
                raise ValueError(f"slice {start}:{start + length} leaves a dimension of {size}")
        return Slice(self.start, lengths)

    @property
    def box(self) -> tuple[slice, ...]:
        """The slice as a numpy index (of a resolved slice)."""
        return tuple(
            slice(start, start + length)
            for start, length in zip(self.start, self.length, strict=True)
        )

    def overlaps(self, other: Slice) -> bool:
        return all(
            a < b + n and b < a + m
            for a, m, b, n in zip(self.start, self.length, other.start, other.length, strict=True)
        )


def from_proto(message: Any) -> Slice:
    extents = message.extent
    return Slice(
        tuple(e.start for e in extents),
        tuple(e.length if e.HasField("length") else -1 for e in extents),
    )


def check_cover(slices: Iterable[Slice], shape: tuple[int, ...]) -> None:
    """ValueError unless the resolved slices fill `shape` exactly, without gap or overlap."""
    ordered = sorted(slices)
    active: list[Slice] = []
    for current in ordered:
        # Sorted by first start: only slices that reach beyond it can still overlap.
        active = [s for s in active if not s.start or s.start[0] + s.length[0] > current.start[0]]
        for other in active:
            if current.overlaps(other):
                raise ValueError(f"slices at {other.start} and {current.start} overlap")
        active.append(current)
    covered = sum(prod(s.length) for s in ordered)
    if covered != prod(shape):
        raise ValueError(f"the slices hold {covered} of the tensor's {prod(shape)} elements")


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
