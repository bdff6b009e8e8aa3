"""The same elements, in row-major order, in two shapes: what a part of one is made of in the other.

Knows of shapes alone, of no values: `Reshape` reads by it.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import NamedTuple

import numpy as np

from tfreader.checkpoint import Box
from tfreader.dtypes import Array

LONG_RUN = 1 << 10  # elements that are read by themselves wherever they lie
SPAN = 1 << 14  # elements over which shorter runs are read together, with what lies between them


def equal_groups(shape: tuple[int, ...], to: tuple[int, ...]) -> list[tuple[slice, slice]]:
    """The shortest runs of axes on both sides that hold equally many elements. No size is 0."""
    groups = []
    i = j = 0
    while i < len(shape) and j < len(to):
        start = i, j
        left, right = shape[i], to[j]
        i, j = i + 1, j + 1
        while left != right:
            if left < right:
                left, i = left * shape[i], i + 1
            else:
                right, j = right * to[j], j + 1
        groups.append((slice(start[0], i), slice(start[1], j)))
    if not groups:
        return [(slice(0, len(shape)), slice(0, len(to)))]
    (inputs, outputs) = groups[-1]  # what is left are axes of size 1
    return [*groups[:-1], (slice(inputs.start, len(shape)), slice(outputs.start, len(to)))]


class Piece(NamedTuple):
    """A part of the input's axes, and what it gives to a part of the result's."""

    box: Box
    wanted: Array | None  # which of its elements in row-major order; None for all
    place: slice  # where they belong among those of the part


def pieces_of(box: Box, to: tuple[int, ...], shape: tuple[int, ...]) -> Iterator[Piece]:
    """What a part of the shape `to` is made of where the same elements have the shape `shape`."""
    starts, length = _runs(box, to)
    first = place = 0
    while first < len(starts):
        start = int(starts[first])
        last = first + 1
        if length < LONG_RUN:
            last = max(last, int(np.searchsorted(starts, start + SPAN)))
        wanted = None
        if last > first + 1:
            wanted = (starts[first:last, None] + np.arange(length)).reshape(-1)
        for at, part in _boxes(start, int(starts[last - 1]) + length, shape):
            size = prod(map(len, part))
            own = None
            if wanted is not None:
                own = wanted[slice(*np.searchsorted(wanted, (at, at + size)))] - at
                size = len(own)
            if size:
                yield Piece(part, own, slice(place, place + size))
            place += size
        first = last


def _runs(box: Box, shape: tuple[int, ...]) -> tuple[Array, int]:
    """Where the elements of a part lie in row-major order: where runs start, and their length."""
    axis, length = len(shape), 1
    while axis and length == prod(shape[axis:]):  # all of the axes behind: the run goes on
        axis -= 1
        length *= len(box[axis])
    starts = np.zeros(1, np.int64)
    for indices, size in zip(box[:axis], shape[:axis], strict=True):
        starts = (starts[:, None] * size + np.arange(indices.start, indices.stop)).reshape(-1)
    inner = prod(shape[axis:])
    offset = sum(i.start * prod(shape[n + 1 :]) for n, i in enumerate(box) if n >= axis)
    return starts * inner + offset, length


def _boxes(start: int, stop: int, shape: tuple[int, ...]) -> Iterator[tuple[int, Box]]:
    """The fewest parts that hold the elements from `start` to `stop` in row-major order.

    They come in that order, each with the place of its first element.
    """
    if len(shape) < 2:
        yield start, (range(start, stop),) * len(shape)
        return
    row = prod(shape[1:])
    first, last = -(-start // row), stop // row  # whole rows
    if last < first:  # all within one
        for at, box in _boxes(start - last * row, stop - last * row, shape[1:]):
            yield at + last * row, (range(last, last + 1), *box)
        return
    if start < first * row:
        for at, box in _boxes(start - (first - 1) * row, row, shape[1:]):
            yield at + (first - 1) * row, (range(first - 1, first), *box)
    if first < last:
        yield first * row, (range(first, last), *map(range, shape[1:]))
    if last * row < stop:
        for at, box in _boxes(0, stop - last * row, shape[1:]):
            yield at + last * row, (range(last, last + 1), *box)
