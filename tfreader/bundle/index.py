"""The index of a V2 checkpoint: what each variable is, and where its bytes lie.

A table. Its first key is empty and has the header; each other one is a variable's name, or names a
slice of a variable that was saved in several.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from math import prod
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from ..checkpoint import TensorInfo
from ..checkpoint_pb2 import BundleEntry, BundleHeader
from ..checksum import unmask_crc
from ..dtypes import DType, dtype_of
from ..errors import ChecksumError, CorruptCheckpointError
from ..files import but_it_is
from ..protocols import File
from ..shapes import shape_of
from ..slices import Slice, check_cover, from_proto, slice_key
from ..table import FOOTER_SIZE, Table
from ..versions import check_version


class Piece(NamedTuple):
    """A tensor as it lies in a shard, row-major: a whole variable, or a slice of one.

    `name` is what messages call the variable, `place` the box of it that this is. `crc32c` is that
    of the `size` bytes at `offset`, as they are stored.
    """

    name: str
    dtype: DType
    place: Slice
    shard: int
    offset: int
    size: int
    crc32c: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.place.length


class Index:
    """The entries of an index file.

    They are kept as they are stored, a tenth of the memory that messages would take, and checked
    when they are asked for. One that makes no sense is a ValueError that says why, for the caller
    to name the variable; the others stay readable.

    `variables` has each variable's key by its name; `problems` are the damaged blocks.
    """

    def __init__(self, file: File, salvage: bool = False) -> None:
        """Read all of the file; `salvage` passes over damaged blocks.

        Raises CorruptCheckpointError, ChecksumError, UnsupportedError.
        """
        self.problems: list[CorruptCheckpointError] = []
        # All of it is needed, its end first: that tells whether it is an index.
        footer = max(0, file.size - FOOTER_SIZE)
        file.expect([(footer, FOOTER_SIZE), (0, footer)])
        entries = Table(file).entries(self.problems)
        first = next(entries, None)
        if first is not None and first[0] == b"":
            header = _header(file.path, bytes(first[1]))
            self.num_shards: int = header.num_shards
            self.big_endian = header.endianness == 1
        self._entries = {key: bytes(value) for key, value in entries}
        if self.problems and not salvage:
            raise ChecksumError.of(file.path, self.problems)
        if first is None or first[0] != b"":
            raise CorruptCheckpointError(
                f"{file.path}: no bundle header (the empty key) at the start of the table"
                f"{but_it_is(file.path)}"
            )
        # Each slice's key holds its variable's name: no more of them can be there.
        self._slice_room = sum(len(key) for key in self._entries if key.startswith(b"\0"))
        slices = set(self._slice_keys())
        self.variables = {
            key.decode("utf-8", "surrogateescape"): key
            for key in self._entries
            if key not in slices
        }

    def _slice_keys(self) -> Iterator[bytes]:
        """The keys of the entries that are slices of partitioned variables, and no variables."""
        room = self._slice_room
        for key, value in self._entries.items() if room else ():
            try:
                slices = BundleEntry.FromString(value).slices
            except DecodeError:
                continue
            room -= len(slices) * len(key)
            if room < 0:
                return
            yield from (slice_key(key, from_proto(piece)) for piece in slices)

    def info(self, name: str) -> TensorInfo:
        """The description of a variable."""
        return self._describe(name, self.variables[name])

    def pieces(self, info: TensorInfo, shown: str) -> list[Piece]:
        """What makes up a variable, which messages call `shown`: itself, or slices that fill it."""
        if not info.slices:
            return [_piece(info, shown, Slice((0,) * len(info.shape), info.shape))]
        places = [piece.resolve(info.shape) for piece in info.slices]
        check_cover(places, info.shape)
        pieces = []
        for piece, place in zip(info.slices, places, strict=True):
            key = slice_key(self.variables[info.name], piece)
            if key not in self._entries:
                raise ValueError(f"its slice at {list(piece.start)} is not in the index")
            found = self._describe(info.name, key)
            if found.slices or found.dtype != info.dtype or found.shape != place.length:
                raise ValueError(
                    f"its slice at {list(piece.start)} is no plain {info.dtype} tensor of shape "
                    f"{list(place.length)}"
                )
            pieces.append(_piece(found, shown, place))
        return pieces

    def shards(self) -> list[int]:
        """The numbers of the shards that something lies in."""
        found: set[int] = set()
        for value in self._entries.values():
            with suppress(DecodeError):  # raised when its variable is asked for
                found.add(BundleEntry.FromString(value).shard_id)
        return sorted(shard for shard in found if 0 <= shard < self.num_shards)

    def _entry(self, key: bytes) -> Any:
        try:
            return BundleEntry.FromString(self._entries[key])
        except DecodeError:
            raise ValueError("its index entry is not a protobuf message") from None

    def _describe(self, name: str, key: bytes) -> TensorInfo:
        """What the entry under `key` says, which is that of variable `name` or of a slice of it."""
        entry = self._entry(key)
        dtype, shape = dtype_of(entry.dtype), shape_of(entry.shape)
        if entry.slices:
            if len(entry.slices) * len(key) > self._slice_room:
                raise ValueError(
                    f"it has {len(entry.slices)} slices, which are not all in the index"
                )
            slices = tuple(map(from_proto, entry.slices))
            keys = {slice_key(key, piece) for piece in slices} & self._entries.keys()
            nbytes = sum(self._entry(piece).size for piece in keys)
            return TensorInfo(name, dtype, shape, nbytes, slices=slices)
        size, offset, shard = entry.size, entry.offset, entry.shard_id
        if size < 0 or offset < 0:
            raise ValueError(f"it has size {size} at offset {offset}")
        if not 0 <= shard < self.num_shards:
            raise ValueError(f"it lies in shard {shard} of {self.num_shards}")
        if dtype.itemsize is not None and prod(shape) * dtype.itemsize != size:
            expected = prod(shape) * dtype.itemsize
            raise ValueError(f"{dtype} {list(shape)} takes {expected} bytes, {size} are declared")
        return TensorInfo(name, dtype, shape, size, shard, offset, unmask_crc(entry.crc32c))


def _header(path: str, value: bytes) -> Any:
    """The BundleHeader, once it makes sense."""
    try:
        header = BundleHeader.FromString(value)
    except DecodeError:
        raise CorruptCheckpointError(
            f"{path}: the bundle header is not a protobuf message"
        ) from None
    check_version(path, header.version)
    if header.endianness not in (0, 1) or not 1 <= header.num_shards < 2**31:
        raise CorruptCheckpointError(
            f"{path}: impossible bundle header: {header.num_shards} shards, "
            f"endianness {header.endianness}"
        )
    return header


def _piece(info: TensorInfo, shown: str, place: Slice) -> Piece:
    """What is described by `info`, which has no slices and so lies in one place."""
    _, dtype, _, size, shard, offset, crc32c, _ = info
    assert size is not None and shard is not None and offset is not None and crc32c is not None
    return Piece(shown, dtype, place, shard, offset, size, crc32c)
