"""Parts of V2 variables, read without the rest.

A part's bytes lie scattered over the file, as runs: how to read them is chosen by how long the runs
are, and how long the gaps between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from ..checkpoint import Allocate, Box, TensorInfo, VariableReader, new_memory, part_of
from ..checksum import Checksum
from ..dtypes import Array, from_stored
from ..files import CHUNK
from ..protocols import File
from ..slices import Slice
from .index import Piece
from .shards import Shards
from .values import verify_piece

GAP = 1 << 15  # bytes that are read in the time that another call takes
SHORT = 1 << 12  # bytes of runs whose checksums are not worth their memory


class PartsReader(VariableReader):
    """Reads the pieces that make up a variable, of each just what a part needs."""

    in_parts = True

    def __init__(self, shards: Shards, info: TensorInfo, pieces: Sequence[Piece]) -> None:
        self.info = info
        self._shards = shards
        self._pieces = [(piece, Checksum(piece.size)) for piece in pieces]

    def read(self, box: Box, allocate: Allocate = new_memory) -> Array:
        if not self.info.slices:
            ((piece, checksum),) = self._pieces
            return self._read(piece, box, checksum, allocate)
        assert self.info.dtype.numpy is not None
        needed = [(*each, _common(box, each[0].place)) for each in self._pieces]
        needed = [each for each in needed if all(each[2])]
        for piece, _, _ in needed:  # before allocating the whole
            self._shards.open(piece)
        shape = tuple(map(len, box))
        size = prod(shape) * self.info.dtype.numpy.itemsize
        values = allocate(size).view(self.info.dtype.numpy).reshape(shape)
        for piece, checksum, inside in needed:
            own = self._read(piece, _counted_from(piece.place.start, inside), checksum, allocate)
            part_of(values, _counted_from([i.start for i in box], inside))[...] = own
        return values

    def _read(self, piece: Piece, box: Box, checksum: Checksum, allocate: Allocate) -> Array:
        """A part of a piece."""
        assert piece.dtype.itemsize is not None
        file = self._shards.open(piece)  # before allocating what it may not hold
        shape = tuple(map(len, box))
        data = allocate(prod(shape) * piece.dtype.itemsize)
        if len(data):
            _Runs(file, piece, checksum).read(box, data)
        return from_stored(data, piece.dtype, self._shards.big_endian).reshape(shape)

    def finish(self) -> None:
        for piece, checksum in self._pieces:
            found = checksum.value()
            if found is None:  # a part was left out or came twice
                verify_piece(self._shards, piece)
            else:
                self._shards.check_crc(piece, found)


def _common(box: Box, place: Slice) -> Box:
    """What of a part lies in a place."""
    return tuple(
        range(max(i.start, start), min(i.stop, start + length))
        for i, start, length in zip(box, place.start, place.length, strict=True)
    )


def _counted_from(origin: Sequence[int], box: Box) -> Box:
    return tuple(range(i.start - at, i.stop - at) for i, at in zip(box, origin, strict=True))


class _Runs:
    """Reads the bytes of a part of a piece, whose elements all have one size.

    Those that follow each other in the file are read together, and so are those that gaps part
    which are cheaper to read than to leave out.
    """

    def __init__(self, file: File, piece: Piece, checksum: Checksum) -> None:
        assert piece.dtype.itemsize is not None
        self._file = file
        self._offset = piece.offset
        self._shape = piece.shape
        self._itemsize = piece.dtype.itemsize
        self._checksum = checksum

    def read(self, box: Box, data: Array, start: int = 0) -> None:
        """Fill `data` with the part `box` of the last axes, from byte `start` of the piece on."""
        while len(box) > 1 and len(box[0]) == 1:
            start += box[0].start * self._stride(len(box))
            box = box[1:]
        stride = self._stride(len(box))
        start += box[0].start * stride if box else 0
        shape = self._shape[len(self._shape) - len(box) :]
        lengths = tuple(map(len, box))
        if lengths[1:] == shape[1:]:
            self._read_run(data, start)
            return
        wanted = len(data) // lengths[0]  # bytes of an index of the first axis
        cut = max(i for i, (n, size) in enumerate(zip(lengths, shape, strict=True)) if n != size)
        if stride <= CHUNK and stride - wanted <= GAP * prod(lengths[1:cut]):
            self._read_with_gaps(box, data, start)
        elif cut == 1 and wanted < SHORT:
            first = start + box[1].start * self._stride(len(box) - 1)
            self._read_short_runs(data, first, lengths[0], stride)
        else:
            for i in range(lengths[0]):
                self.read(box[1:], data[i * wanted : (i + 1) * wanted], start + i * stride)

    def _stride(self, rank: int) -> int:
        """How many bytes an index of the first of the last `rank` axes has."""
        return prod(self._shape[len(self._shape) - rank + 1 :]) * self._itemsize

    def _read_run(self, data: Array, start: int) -> None:
        for position in range(0, len(data), CHUNK):  # small enough for a cache
            chunk = data[position : position + CHUNK].data
            self._file.read_into(self._offset + start + position, chunk)
            self._checksum.add(start + position, chunk)

    def _read_with_gaps(self, box: Box, data: Array, start: int) -> None:
        """Read all of the first axis' indices, as many at a time as a cache holds."""
        self._checksum.give_up()
        element = np.dtype((np.void, self._itemsize))
        values = data.view(element).reshape(tuple(map(len, box)))
        inner = tuple(slice(indices.start, indices.stop) for indices in box[1:])
        shape = self._shape[len(self._shape) - len(inner) :]
        stride = self._stride(len(box))
        count = max(1, CHUNK // stride)
        buffer = np.empty(min(count, len(values)) * stride, np.uint8)
        for first in range(0, len(values), count):
            part = values[first : first + count]
            read = buffer[: len(part) * stride]
            self._file.read_into(self._offset + start + first * stride, read.data)
            part[...] = read.view(element).reshape(len(part), *shape)[:, *inner]

    def _read_short_runs(self, data: Array, start: int, count: int, stride: int) -> None:
        """Read `count` runs, each `stride` bytes behind the one before."""
        self._checksum.give_up()
        size = len(data) // count
        for i in range(count):
            self._file.read_into(self._offset + start + i * stride, data[i * size : (i + 1) * size])
