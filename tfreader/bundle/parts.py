"""Parts of V2 variables, read without the rest."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from ..checkpoint import Allocate, Box, TensorInfo, VariableReader, new_memory, part_of
from ..checksum import Checksum
from ..dtypes import Array, from_stored
from ..runs import Runs
from ..slices import Slice
from .index import Piece
from .shards import Shards
from .values import verify_piece


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
            Runs(file, piece.offset, piece.shape, piece.dtype.itemsize, checksum).read(box, data)
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
