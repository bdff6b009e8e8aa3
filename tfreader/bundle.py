"""V2 checkpoints (tensor bundles): an index table and raw data shards."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
from crc32c import crc32c
from google.protobuf.message import DecodeError

from .checkpoint import Checkpoint, TensorInfo, VerifyReport
from .checkpoint_pb2 import BundleEntry, BundleHeader
from .dtypes import DTYPES, Array, dtype_of, from_stored
from .errors import (
    CheckpointNotFoundError,
    ChecksumError,
    CorruptCheckpointError,
    TFReaderError,
    UnsupportedError,
)
from .files import DAMAGED, LocalFile, but_it_is
from .slices import check_cover, from_proto, slice_key
from .strings import decode_strings, variant_crc
from .table import read_table, unmask_crc

FORMAT_VERSION = 1
MAX_RANK = 64  # numpy's limit
CHUNK = 1 << 20


class Bundle(Checkpoint):
    """The V2 checkpoint with the given prefix.

    Raises CheckpointNotFoundError and CorruptCheckpointError. A damaged entry of one variable is
    raised when that variable is asked for, and leaves the others readable.
    """

    format = "v2"

    def __init__(self, prefix: str, notes: tuple[str, ...] = ()) -> None:
        self.path = prefix
        self.notes = notes
        self.index_path = prefix + ".index"
        self._shards: dict[int, LocalFile] = {}
        self._entries: dict[bytes, Any] = {}
        self._damaged: dict[bytes, str] = {}
        index = LocalFile(self.index_path)
        try:
            table = read_table(index)
            self._read_header(next(table, (b"-", b"")))
            for key, value in table:
                try:
                    self._entries[key] = BundleEntry.FromString(value)
                except DecodeError:
                    self._damaged[key] = "its index entry is not a protobuf message"
        finally:
            index.close()
        # A partitioned tensor's slices have entries of their own, under keys that are no names.
        self._pieces = {
            slice_key(key, piece)
            for key, entry in self._entries.items()
            if entry.slices
            for piece in map(from_proto, entry.slices)
        }
        self._keys = {
            key.decode("utf-8", "surrogateescape"): key
            for key in sorted((*self._entries, *self._damaged))
            if key not in self._pieces
        }

    def _read_header(self, first: tuple[bytes, bytes]) -> None:
        key, value = first
        if key != b"":
            raise CorruptCheckpointError(
                f"{self.index_path}: no bundle header (the empty key) at the start of the table"
            )
        try:
            header = BundleHeader.FromString(value)
        except DecodeError:
            raise CorruptCheckpointError(
                f"{self.index_path}: the bundle header is not a protobuf message"
            ) from None
        version = header.version
        if version.min_consumer > FORMAT_VERSION or FORMAT_VERSION in version.bad_consumers:
            raise UnsupportedError(
                f"{self.index_path}: written for readers of format version "
                f"{version.min_consumer} and later; tfreader knows version {FORMAT_VERSION}"
            )
        if (
            version.producer < 0
            or header.endianness not in (0, 1)
            or not 1 <= header.num_shards < 2**31
        ):
            raise CorruptCheckpointError(
                f"{self.index_path}: impossible bundle header: {header.num_shards} shards, "
                f"endianness {header.endianness}, producer {version.producer}"
            )
        self.num_shards = header.num_shards
        self.big_endian = header.endianness == 1

    def shard_path(self, shard: int) -> str:
        return f"{self.path}.data-{shard:05d}-of-{self.num_shards:05d}"

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __contains__(self, name: object) -> bool:
        return name in self._keys

    def info(self, name: str) -> TensorInfo:
        key = self._keys.get(name)
        if key is None:
            raise self._unknown(name)
        entry = self._entry(name, key)
        dtype = dtype_of(entry.dtype)
        shape = self._shape(name, entry)
        if not entry.slices:
            crc = unmask_crc(entry.crc32c)
            return TensorInfo(name, dtype, shape, entry.size, entry.shard_id, entry.offset, crc)
        slices = tuple(map(from_proto, entry.slices))
        pieces = (self._entries.get(slice_key(key, piece)) for piece in slices)
        nbytes = sum(piece.size for piece in pieces if piece is not None)
        return TensorInfo(name, dtype, shape, nbytes, None, None, None, slices)

    def read(self, name: str) -> Array:
        info = self.info(name)
        key = self._keys[name]
        if info.dtype.numpy is None:
            raise UnsupportedError(
                f"{self.path}: variable {name!r} is of type {info.dtype}, which has no values "
                "that can be read"
            )
        if not info.slices:
            return self._read_plain(name, self._entries[key])
        return self._assemble(info, key)

    def check_shards(self, names: list[str]) -> None:
        for name in names:
            for entry in self._stored_entries(name):
                self._stored_size(name, entry)

    def verify(self) -> VerifyReport:
        problems: list[str] = []
        nbytes = 0
        buffer = memoryview(bytearray(CHUNK))
        for name in self._keys:
            try:
                for entry in self._stored_entries(name):
                    nbytes += self._verify_entry(name, entry, buffer)
            except TFReaderError as error:
                problems.append(str(error))
        if problems:
            raise ChecksumError(
                f"{self.path}: {len(problems)} of {len(self)} variables are damaged; "
                f"the first: {problems[0]}",
                tuple(problems),
            )
        return VerifyReport(len(self), nbytes)

    def close(self) -> None:
        for shard in self._shards.values():
            shard.close()
        self._shards.clear()

    def _entry(self, name: str, key: bytes) -> Any:
        if key in self._damaged:
            raise CorruptCheckpointError(
                f"{self.index_path}: variable {name!r}: {self._damaged[key]}"
            )
        return self._entries[key]

    def _shape(self, name: str, entry: Any) -> tuple[int, ...]:
        """The entry's shape, after every check that needs no data."""
        shape = tuple(dim.size for dim in entry.shape.dim)
        dtype = DTYPES.get(entry.dtype)
        wrong = None
        if entry.shape.unknown_rank or any(size < 0 for size in shape):
            wrong = f"its shape {list(shape)} is not fully known"
        elif len(shape) > MAX_RANK:
            wrong = f"its rank {len(shape)} is above {MAX_RANK}"
        elif not entry.slices and not (entry.size >= 0 and entry.offset >= 0):
            wrong = f"it has size {entry.size} at offset {entry.offset}"
        elif not entry.slices and not 0 <= entry.shard_id < self.num_shards:
            wrong = f"it lies in shard {entry.shard_id} of {self.num_shards}"
        elif dtype is not None and dtype.itemsize is not None and not entry.slices:
            expected = prod(shape) * dtype.itemsize
            if expected != entry.size:
                wrong = f"{dtype} {list(shape)} takes {expected} bytes, {entry.size} are declared"
        if wrong:
            raise CorruptCheckpointError(f"{self.index_path}: variable {name!r}: {wrong}")
        return shape

    def _stored_entries(self, name: str) -> list[Any]:
        """The entries that hold the variable's bytes: its own, or one a slice."""
        info = self.info(name)
        key = self._keys[name]
        if not info.slices:
            return [self._entries[key]]
        return [self._piece(info, slice_key(key, piece)) for piece in info.slices]

    def _piece(self, info: TensorInfo, key: bytes) -> Any:
        if key not in self._entries:
            raise CorruptCheckpointError(
                f"{self.index_path}: variable {info.name!r} is partitioned, "
                "but one of its slices is not in the index"
            )
        entry = self._entries[key]
        self._shape(info.name, entry)
        if entry.slices or entry.dtype != info.dtype.number:
            raise CorruptCheckpointError(
                f"{self.index_path}: variable {info.name!r}: a slice of it is not a plain "
                f"{info.dtype} tensor"
            )
        return entry

    def _assemble(self, info: TensorInfo, key: bytes) -> Array:
        try:
            resolved = [piece.resolve(info.shape) for piece in info.slices]
            check_cover(resolved, info.shape)
        except ValueError as error:
            raise CorruptCheckpointError(
                f"{self.index_path}: variable {info.name!r}: {error}"
            ) from None
        entries = self._stored_entries(info.name)
        for piece, entry in zip(resolved, entries, strict=True):
            if self._shape(info.name, entry) != piece.length:
                raise CorruptCheckpointError(
                    f"{self.index_path}: variable {info.name!r}: the slice at "
                    f"{list(piece.start)} has another shape than {list(piece.length)}"
                )
        self.check_shards([info.name])  # before allocating the whole
        whole = np.empty(info.shape, info.dtype.numpy)
        for piece, entry in zip(resolved, entries, strict=True):
            whole[piece.box] = self._read_plain(info.name, entry)
        return whole

    def _read_plain(self, name: str, entry: Any) -> Array:
        shape = tuple(dim.size for dim in entry.shape.dim)
        dtype = DTYPES[entry.dtype]
        data = self._stored_bytes(name, entry)
        if dtype == "string":
            strings, crc = self._decode(name, entry, data)
            self._check_crc(name, entry, crc)
            array = np.empty(len(strings), object)
            array[:] = strings
            return array.reshape(shape)
        self._check_crc(name, entry, crc32c(data.data))
        return from_stored(data, dtype, self.big_endian).reshape(shape)

    def _decode(self, name: str, entry: Any, data: Array) -> tuple[list[bytes], int]:
        """The strings of a string tensor, none of a variant one, and its checksum."""
        count = prod(dim.size for dim in entry.shape.dim)
        try:
            if DTYPES[entry.dtype] == "variant":
                return [], variant_crc(data.tobytes(), count)
            return decode_strings(data.tobytes(), count, self.big_endian)
        except ValueError as error:
            path = self.shard_path(entry.shard_id)
            raise CorruptCheckpointError(
                f"{path}: variable {name!r} at offset {entry.offset} ({entry.size} bytes): "
                f"{error}{but_it_is(path, DAMAGED)}"
            ) from None

    def _stored_size(self, name: str, entry: Any) -> int:
        """The entry's size in bytes, once its shard is known to hold them."""
        size: int = entry.size
        end, held = entry.offset + size, self._shard(name, entry.shard_id).size
        if end > held:
            path = self.shard_path(entry.shard_id)
            raise CorruptCheckpointError(
                f"{path}: truncated: variable {name!r} ends at byte {end}, the file has "
                f"{held}{but_it_is(path, DAMAGED)}"
            )
        return size

    def _stored_bytes(self, name: str, entry: Any) -> Array:
        data = np.empty(self._stored_size(name, entry), np.uint8)
        self._shard(name, entry.shard_id).read_into(entry.offset, data)
        return data

    def _verify_entry(self, name: str, entry: Any, buffer: memoryview) -> int:
        """Check the entry's bytes a chunk at a time; returns how many there were."""
        size = self._stored_size(name, entry)
        if DTYPES.get(entry.dtype) in ("string", "variant"):
            data = self._stored_bytes(name, entry)
            self._check_crc(name, entry, self._decode(name, entry, data)[1])
            return size
        shard = self._shard(name, entry.shard_id)
        crc = 0
        for start in range(0, size, CHUNK):
            chunk = buffer[: min(CHUNK, size - start)]
            shard.read_into(entry.offset + start, chunk)
            crc = crc32c(chunk, crc)
        self._check_crc(name, entry, crc)
        return size

    def _check_crc(self, name: str, entry: Any, found: int) -> None:
        stored = unmask_crc(entry.crc32c)
        if stored != found:
            path = self.shard_path(entry.shard_id)
            raise ChecksumError(
                f"{path}: variable {name!r} at offset {entry.offset} ({entry.size} bytes): "
                f"checksum mismatch: {stored:#010x} is stored, the bytes give {found:#010x}"
                f"{but_it_is(path, DAMAGED)}"
            )

    def _shard(self, name: str, shard: int) -> LocalFile:
        if shard not in self._shards:
            path = self.shard_path(shard)
            try:
                self._shards[shard] = LocalFile(path)
            except CheckpointNotFoundError:
                raise CheckpointNotFoundError(
                    f"{path}: shard {shard} of {self.num_shards} is missing, "
                    f"variable {name!r} lies in it; put the file beside {self.index_path}"
                ) from None
        return self._shards[shard]
