"""Parts of tensors, read from files without the rest.

A part's bytes lie scattered over the file, as runs: how to read them is chosen by how long the runs
are, and how long the gaps between them.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from .checkpoint import Allocate, Box, TensorInfo, VariableReader, new_memory
from .checksum import Checksum
from .dtypes import Array, from_stored
from .files import CHUNK
from .protocols import File

GAP = 1 << 15  # bytes that are read in the time that another call takes
SHORT = 1 << 12  # bytes of runs whose checksums are not worth their memory


class Runs:
    """Reads the bytes of a part of a tensor that lies in a file row-major, from `offset` on.

    Those that follow each other in the file are read together, and so are those that gaps part
    which are cheaper to read than to leave out.
    """

    def __init__(
        self, file: File, offset: int, shape: tuple[int, ...], itemsize: int, checksum: Checksum
    ) -> None:
        self._file = file
        self._offset = offset
        self._shape = shape
        self._itemsize = itemsize
        self._checksum = checksum

    def read(self, box: Box, data: Array, start: int = 0) -> None:
        """Fill `data` with the part `box` of the last axes, from byte `start` of the tensor on."""
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


class RunReader(VariableReader):
    """Reads parts of a variable that has an offset and no checksum.

    `open_shard` gives its file, once that is known to hold all of it.
    """

    in_parts = True

    def __init__(self, info: TensorInfo, open_shard: Callable[[TensorInfo], File]) -> None:
        self.info = info
        self._open_shard = open_shard
        self._checksum = Checksum(0)
        self._checksum.give_up()

    def read(self, box: Box, allocate: Allocate = new_memory) -> Array:
        dtype, offset = self.info.dtype, self.info.offset
        assert offset is not None and dtype.itemsize is not None
        file = self._open_shard(self.info)  # before allocating what it may not hold
        shape = tuple(map(len, box))
        data = allocate(prod(shape) * dtype.itemsize)
        if len(data):
            Runs(file, offset, self.info.shape, dtype.itemsize, self._checksum).read(box, data)
        return from_stored(data, dtype, False).reshape(shape)
