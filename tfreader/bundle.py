"""V2 checkpoints (tensor bundles): an index table and raw data shards."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from math import prod
from typing import Any, TypeVar

import numpy as np
from crc32c import crc32c
from google.protobuf.message import DecodeError

from .checkpoint import (
    Allocate,
    Box,
    Checkpoint,
    TensorInfo,
    VariableReader,
    VerifyReport,
    new_memory,
    reopen,
)
from .checkpoint_pb2 import BundleEntry, BundleHeader
from .checksum import Checksum, unmask_crc
from .dtypes import Array, dtype_of, from_stored
from .errors import (
    ChangedError,
    CheckpointNotFoundError,
    ChecksumError,
    ClosedError,
    CorruptCheckpointError,
    RemoteError,
    TFReaderError,
    UnsupportedError,
)
from .files import CHUNK, DAMAGED, Identity, LocalFile, but_it_is, open_file, sha256_of, windows
from .paths import absolute, is_file, is_url
from .protocols import Expected, File, SourceFile
from .shapes import shape_of
from .slices import Slice, assemble, check_cover, from_proto, rows_in, slice_key
from .strings import decode_strings, variant_crc
from .table import FOOTER_SIZE, Table

FORMAT_VERSION = 1
MAX_SEEN = 10_000  # shards; the header may claim any number of them
GAP = 1 << 15  # bytes that are read in the time that another call takes
SHORT = 1 << 12  # bytes of runs whose checksums are not worth their memory
A = TypeVar("A")
R = TypeVar("R")


class Bundle(Checkpoint):
    """The V2 checkpoint with the given prefix.

    A damaged entry of one variable is raised when that variable is asked for, and leaves the others
    readable. `salvage` passes over damaged blocks of the index: their variables are missing, and
    `verify` reports them. Raises CheckpointNotFoundError, CorruptCheckpointError, UnsupportedError.
    """

    format = "v2"

    def __init__(self, prefix: str, notes: tuple[str, ...] = (), salvage: bool = False) -> None:
        self.path = prefix
        self.notes = notes
        self.index_path = prefix + ".index"
        self._arguments = absolute(prefix), notes, salvage
        self._shards: dict[int, File] = {}
        self._problems: list[CorruptCheckpointError] = []
        self._index = open_file(self.index_path)
        try:
            # All of it is needed, its end first: that tells whether it is an index.
            footer = max(0, self._index.size - FOOTER_SIZE)
            self._index.expect([(footer, FOOTER_SIZE), (0, footer)])
            entries = Table(self._index).entries(self._problems)
            first = next(entries, None)
            if first is not None and first[0] == b"":
                self._read_header(bytes(first[1]))
            # Entries stay as they are stored: a tenth of the memory that messages would take.
            self._entries = {key: bytes(value) for key, value in entries}
            if self._problems and not salvage:
                raise ChecksumError.of(self.index_path, self._problems)
            if first is None or first[0] != b"":
                raise CorruptCheckpointError(
                    f"{self.index_path}: no bundle header (the empty key) at the start of the table"
                    f"{but_it_is(self.index_path)}"
                )
        except BaseException:
            self._index.close()
            raise
        # Shards are opened when they are needed: which files they were is to be known.
        self._seen = {} if is_url(prefix) else dict(self._identities())
        # Each slice's key holds its variable's name: no more of them can be there.
        self._slice_room = sum(len(key) for key in self._entries if key.startswith(b"\0"))
        pieces = set(self._slice_keys())
        self._variables = {
            key.decode("utf-8", "surrogateescape"): key
            for key in self._entries
            if key not in pieces
        }

    def _read_header(self, value: bytes) -> None:
        try:
            header = BundleHeader.FromString(value)
        except DecodeError:
            raise CorruptCheckpointError(
                f"{self.index_path}: the bundle header is not a protobuf message"
            ) from None
        check_version(self.index_path, header.version)
        if header.endianness not in (0, 1) or not 1 <= header.num_shards < 2**31:
            raise CorruptCheckpointError(
                f"{self.index_path}: impossible bundle header: {header.num_shards} shards, "
                f"endianness {header.endianness}"
            )
        self.num_shards: int = header.num_shards
        self.big_endian = header.endianness == 1

    def _identities(self) -> Iterator[tuple[int, Identity]]:
        for shard in range(min(self.num_shards, MAX_SEEN)):
            with suppress(OSError):
                yield shard, Identity.of(os.stat(self.shard_path(shard)))

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

    def shard_path(self, shard: int) -> str:
        return f"{self.path}.data-{shard:05d}-of-{self.num_shards:05d}"

    def info(self, name: str) -> TensorInfo:
        name = self._key(name)
        return self._describe(name, self._variables[name])

    def check_shards(self, names: Sequence[str]) -> None:
        for name in names:
            for piece in self.pieces(self.info(name)):
                self.open_shard(piece)

    def verify(self) -> VerifyReport:
        with suppress(TFReaderError):
            _ = self.object_graph  # so that messages have readable names
        problems: list[TFReaderError] = [*self._problems]
        lost: dict[int | None, list[TensorInfo]] = {}

        def attempt(function: Callable[[A], R], argument: A) -> R | None:
            try:
                return function(argument)
            except (RemoteError, ChangedError):  # say nothing about the file's bytes
                raise
            except TFReaderError as error:
                if isinstance(error, CheckpointNotFoundError) and isinstance(argument, TensorInfo):
                    lost.setdefault(argument.shard, []).append(argument)
                else:
                    problems.append(error)
                return None

        nbytes = 0
        stored = (piece for name in self._variables for piece in attempt(self._stored, name) or ())
        for window in windows(stored, lambda piece: piece.nbytes or 0):
            pieces, expected = window, list[Expected]()
            if is_url(self.path):
                pieces = [piece for piece in window if attempt(self.open_shard, piece)]
                expected = self._expect(pieces)
            nbytes += sum(attempt(self.verify_piece, piece) or 0 for piece in pieces)
            for each in expected:
                each.forget()
        self.check_unchanged()
        problems[:0] = [self._missing(first, len(others)) for first, *others in lost.values()]
        if problems:
            # A file that may not be read says the same of all that is in it.
            raise ChecksumError.of(self.path, list(dict.fromkeys(map(str, problems))))
        return VerifyReport(len(self), nbytes)

    def _stored(self, name: str) -> list[TensorInfo]:
        return self.pieces(self.info(name))

    def prefetch(self, names: Sequence[str]) -> None:
        if is_url(self.path):  # the system reads local files ahead by itself
            self._expect([piece for name in names for piece in self._stored(name)])

    def _expect(self, pieces: Sequence[TensorInfo]) -> list[Expected]:
        """Let each shard expect what it has of these, shard after shard."""
        shards: dict[File, list[tuple[int, int]]] = {}
        for piece in pieces:
            assert piece.offset is not None and piece.nbytes is not None
            ranges = shards.setdefault(self.open_shard(piece), [])
            ranges.append((piece.offset, piece.nbytes))
        return [shard.expect(ranges) for shard, ranges in shards.items()]

    def check_unchanged(self) -> None:
        for file in (self._index, *self._shards.values()):
            file.check_unchanged()

    def files(self) -> tuple[SourceFile, ...]:
        shards: set[int] = set()
        for value in self._entries.values():
            with suppress(DecodeError):  # raised when its variable is asked for
                shards.add(BundleEntry.FromString(value).shard_id)
        numbers = sorted(shard for shard in shards if 0 <= shard < self.num_shards)
        return self._index.source, *filter(None, map(self._source, numbers))

    def _source(self, shard: int) -> SourceFile | None:
        if shard in self._shards:
            return self._shards[shard].source
        try:
            with closing(open_file(self.shard_path(shard))) as file:
                return file.source
        except CheckpointNotFoundError:
            return None

    def index_sha256(self) -> str:
        return sha256_of(self._index)

    def __reduce__(self) -> Any:
        return reopen, (Bundle, self._arguments, self.index_sha256())

    def close(self) -> None:
        self._closed = True
        self._index.close()
        for shard in self._shards.values():
            shard.close()
        self._shards.clear()

    def _entry(self, name: str, key: bytes) -> Any:
        try:
            return BundleEntry.FromString(self._entries[key])
        except DecodeError:
            raise self._corrupt(name, "its index entry is not a protobuf message") from None

    def _describe(self, name: str, key: bytes) -> TensorInfo:
        """The entry under `key`, which is variable `name` or a slice of it, once it makes sense."""
        entry = self._entry(name, key)
        dtype = dtype_of(entry.dtype)
        try:
            shape = shape_of(entry.shape)
        except ValueError as error:
            raise self._corrupt(name, str(error)) from None
        if entry.slices:
            if len(entry.slices) * len(key) > self._slice_room:
                raise self._corrupt(
                    name, f"it has {len(entry.slices)} slices, which are not all in the index"
                )
            slices = tuple(map(from_proto, entry.slices))
            keys = {slice_key(key, piece) for piece in slices} & self._entries.keys()
            nbytes = sum(self._entry(name, piece).size for piece in keys)
            return TensorInfo(name, dtype, shape, nbytes, slices=slices)
        size, offset, shard = entry.size, entry.offset, entry.shard_id
        if size < 0 or offset < 0:
            raise self._corrupt(name, f"it has size {size} at offset {offset}")
        if not 0 <= shard < self.num_shards:
            raise self._corrupt(name, f"it lies in shard {shard} of {self.num_shards}")
        if dtype.itemsize is not None and prod(shape) * dtype.itemsize != size:
            expected = prod(shape) * dtype.itemsize
            raise self._corrupt(
                name, f"{dtype} {list(shape)} takes {expected} bytes, {size} are declared"
            )
        return TensorInfo(name, dtype, shape, size, shard, offset, unmask_crc(entry.crc32c))

    def pieces(self, info: TensorInfo) -> list[TensorInfo]:
        """The stored tensors that make up a variable: itself, or its slices, all checked."""
        if not info.slices:
            return [info]
        try:
            slices = [piece.resolve(info.shape) for piece in info.slices]
            check_cover(slices, info.shape)
        except ValueError as error:
            raise self._corrupt(info.name, str(error)) from None
        pieces = []
        for piece, resolved in zip(info.slices, slices, strict=True):
            key = slice_key(self._variables[info.name], piece)
            if key not in self._entries:
                raise self._corrupt(
                    info.name, f"its slice at {list(piece.start)} is not in the index"
                )
            stored = self._describe(info.name, key)
            if stored.slices or stored.dtype != info.dtype or stored.shape != resolved.length:
                raise self._corrupt(
                    info.name,
                    f"its slice at {list(piece.start)} is no plain {info.dtype} tensor of shape "
                    f"{list(resolved.length)}",
                )
            pieces.append(stored)
        return pieces

    def _load(self, info: TensorInfo, rows: range | None) -> Array:
        pieces = self.pieces(info)
        if not info.slices:
            return self._read(info, rows)
        assert info.dtype.numpy is not None
        slices = [piece.resolve(info.shape) for piece in info.slices]
        rows = range(info.shape[0]) if rows is None else rows
        for place, piece in zip(slices, pieces, strict=True):  # before allocating the whole
            if rows_in(place, rows):
                self.open_shard(piece)
        return assemble(
            slices,
            info.shape,
            info.dtype.numpy,
            rows,
            lambda i, part: self._read(pieces[i], part),
        )

    def _read(self, piece: TensorInfo, rows: range | None) -> Array:
        """All rows of a stored tensor, or consecutive ones."""
        if piece.dtype == "string":
            strings, crc = self._decode(piece, self._bytes(piece, 0, piece.nbytes))
            self.check_crc(piece, crc)
            array = np.empty(len(strings), object)
            array[:] = strings
            array = array.reshape(piece.shape)
            return array if rows is None else array[rows.start : rows.stop]
        shape = piece.shape
        if rows is None or len(rows) == shape[0]:
            data = self._bytes(piece, 0, piece.nbytes)
            self.check_crc(piece, crc32c(data.data))
        else:
            assert piece.nbytes is not None
            width = piece.nbytes // shape[0]
            data = self._bytes(piece, rows.start * width, len(rows) * width)
            shape = len(rows), *shape[1:]
        return from_stored(data, piece.dtype, self.big_endian).reshape(shape)

    def _decode(self, piece: TensorInfo, data: Array) -> tuple[list[bytes], int]:
        """The strings of a string tensor, none of a variant one, and its checksum."""
        count = prod(piece.shape)
        try:
            if piece.dtype == "variant":
                return [], variant_crc(data.data, count)
            return decode_strings(data.data, count, self.big_endian)
        except ValueError as error:
            raise CorruptCheckpointError(f"{self._where(piece)}: {error}") from None

    def _bytes(self, piece: TensorInfo, start: int, size: int | None) -> Array:
        shard = self.open_shard(piece)
        assert piece.offset is not None and size is not None
        data = np.empty(size, np.uint8)
        shard.read_into(piece.offset + start, data)
        return data

    def reader(self, name: str) -> VariableReader:
        return _BundleReader(self, self.info(name))

    def verify_piece(self, piece: TensorInfo) -> int:
        """Check a stored tensor's bytes; returns how many there are."""
        assert piece.offset is not None and piece.nbytes is not None
        if piece.dtype in ("string", "variant"):
            data = self._bytes(piece, 0, piece.nbytes)
            self.check_crc(piece, self._decode(piece, data)[1])
            return piece.nbytes
        shard = self.open_shard(piece)
        buffer = np.empty(min(CHUNK, piece.nbytes), np.uint8).data
        crc = 0
        for start in range(0, piece.nbytes, CHUNK):
            chunk = buffer[: piece.nbytes - start]
            shard.read_into(piece.offset + start, chunk)
            crc = crc32c(chunk, crc)
        self.check_crc(piece, crc)
        return piece.nbytes

    def check_crc(self, piece: TensorInfo, found: int) -> None:
        if piece.crc32c != found:
            self.open_shard(piece).check_unchanged()
            raise ChecksumError(
                f"{self._where(piece)}: checksum mismatch: {piece.crc32c:#010x} is stored, the "
                f"bytes give {found:#010x}{but_it_is(self._path_of(piece), DAMAGED)}"
            )

    def open_shard(self, piece: TensorInfo) -> File:
        """The shard of a stored tensor, once it is known to hold all of it."""
        assert piece.shard is not None and piece.offset is not None and piece.nbytes is not None
        path = self._path_of(piece)
        if piece.shard not in self._shards:
            if self._closed:
                raise ClosedError(f"{self.path}: was closed")
            try:
                self._shards[piece.shard] = self._checked(piece.shard, open_file(path))
            except CheckpointNotFoundError:
                raise self._missing(piece) from None
        shard = self._shards[piece.shard]
        end = piece.offset + piece.nbytes
        if end > shard.size:
            raise CorruptCheckpointError(
                f"{path}: truncated: variable {self.shown(piece.name)!r} ends at byte {end}, the "
                f"file has {shard.size}{but_it_is(path, DAMAGED)}"
            )
        return shard

    def _missing(self, piece: TensorInfo, others: int = 0) -> CheckpointNotFoundError:
        path = self._path_of(piece)
        lie = f"and {others} more lie" if others else "lies"
        return CheckpointNotFoundError(
            f"{path}: shard {piece.shard} of {self.num_shards} is missing, "
            f"variable {self.shown(piece.name)!r} {lie} in it; {self._instead(piece, path)}"
        )

    def _checked(self, shard: int, file: File) -> File:
        """The file, once it is known to be the one that was there when the index was read."""
        seen = self._seen.get(shard)
        if isinstance(file, LocalFile) and seen not in (None, file.identity):
            file.close()
            raise ChangedError(
                f"{file.path}: replaced since {self.index_path} was read; open the checkpoint again"
            )
        return file

    def _instead(self, piece: TensorInfo, path: str) -> str:
        """What to do about a missing shard: people rename the only one to the bare prefix."""
        assert piece.offset is not None and piece.nbytes is not None
        if self.num_shards == 1 and is_file(self.path):
            with closing(open_file(self.path)) as file:
                if file.size >= piece.offset + piece.nbytes:
                    return f"{self.path} may be that file: rename it to {os.path.basename(path)}"
        return f"put the file beside {self.index_path}"

    def _path_of(self, piece: TensorInfo) -> str:
        assert piece.shard is not None
        return self.shard_path(piece.shard)

    def _where(self, piece: TensorInfo) -> str:
        return (
            f"{self._path_of(piece)}: variable {self.shown(piece.name)!r} at offset {piece.offset} "
            f"({piece.nbytes} bytes)"
        )

    def _corrupt(self, name: str, problem: str) -> CorruptCheckpointError:
        return CorruptCheckpointError(
            f"{self.index_path}: variable {self.shown(name)!r}: {problem}"
        )


class _BundleReader(VariableReader):
    """Reads just the runs of bytes that a part is made of."""

    in_parts = True

    def __init__(self, bundle: Bundle, info: TensorInfo) -> None:
        self.info = info
        self._bundle = bundle
        pieces = bundle.pieces(info)
        places = [piece.resolve(info.shape) for piece in info.slices] or [
            Slice((0,) * len(info.shape), info.shape)
        ]
        self._pieces = [
            (place, piece, Checksum(piece.nbytes or 0))
            for place, piece in zip(places, pieces, strict=True)
        ]

    def read(self, box: Box, allocate: Allocate = new_memory) -> Array:
        if not self.info.slices:
            ((_, piece, checksum),) = self._pieces
            return self._read(piece, box, checksum, allocate)
        assert self.info.dtype.numpy is not None
        shape = tuple(map(len, box))
        size = prod(shape) * self.info.dtype.numpy.itemsize
        values = allocate(size).view(self.info.dtype.numpy).reshape(shape)
        for place, piece, checksum in self._pieces:
            inside = tuple(
                range(max(i.start, start), min(i.stop, start + length))
                for i, start, length in zip(box, place.start, place.length, strict=True)
            )
            if not all(inside):
                continue
            own = tuple(
                range(i.start - s, i.stop - s) for i, s in zip(inside, place.start, strict=True)
            )
            target = tuple(
                slice(i.start - o.start, i.stop - o.start) for i, o in zip(inside, box, strict=True)
            )
            values[target] = self._read(piece, own, checksum, allocate)
        return values

    def _read(self, piece: TensorInfo, box: Box, checksum: Checksum, allocate: Allocate) -> Array:
        """A part of a stored tensor."""
        assert piece.dtype.itemsize is not None
        shape = tuple(map(len, box))
        data = allocate(prod(shape) * piece.dtype.itemsize)
        if len(data):
            self._read_runs(piece, box, 0, data, checksum)
        return from_stored(data, piece.dtype, self._bundle.big_endian).reshape(shape)

    def _read_runs(
        self, piece: TensorInfo, box: Box, start: int, data: Array, checksum: Checksum
    ) -> None:
        """Fill `data` with a part of the last axes of a stored tensor, from byte `start` of it on.

        Bytes that follow each other in the file are read together, and so are those that gaps part
        which are cheaper to read than to leave out.
        """
        assert piece.offset is not None and piece.dtype.itemsize is not None
        while len(box) > 1 and len(box[0]) == 1:
            start += box[0].start * _size_of_an_index(piece, box)
            box = box[1:]
        shard = self._bundle.open_shard(piece)
        shape = piece.shape[len(piece.shape) - len(box) :]
        lengths = tuple(map(len, box))
        index = _size_of_an_index(piece, box)
        if lengths[1:] == shape[1:]:  # one run of bytes
            first = start + (box[0].start if box else 0) * index
            for position in range(0, len(data), CHUNK):  # small enough for a cache
                chunk = data[position : position + CHUNK].data
                shard.read_into(piece.offset + first + position, chunk)
                checksum.add(first + position, chunk)
            return
        wanted = len(data) // len(box[0])  # bytes of an index of the first axis
        cut = max(i for i, (n, size) in enumerate(zip(lengths, shape, strict=True)) if n != size)
        if index > CHUNK or index - wanted > GAP * prod(lengths[1:cut]):
            if cut == 1 and wanted < SHORT:  # the same as below, but for half the time
                checksum.give_up()
                offset = piece.offset + start + box[1].start * _size_of_an_index(piece, box[1:])
                for i, at in enumerate(box[0]):
                    shard.read_into(offset + at * index, data[i * wanted : (i + 1) * wanted])
                return
            for i, at in enumerate(box[0]):
                part = data[i * wanted : (i + 1) * wanted]
                self._read_runs(piece, box[1:], start + at * index, part, checksum)
            return
        checksum.give_up()
        element = np.dtype((np.void, piece.dtype.itemsize))
        values = data.view(element).reshape(lengths)
        inner = tuple(slice(indices.start, indices.stop) for indices in box[1:])
        rows = max(1, CHUNK // index)
        buffer = np.empty(min(rows, lengths[0]) * index, np.uint8)
        for first in range(0, lengths[0], rows):
            count = min(rows, lengths[0] - first)
            read = buffer[: count * index]
            shard.read_into(piece.offset + start + (box[0].start + first) * index, read.data)
            found = read.view(element).reshape(count, *shape[1:])
            values[first : first + count] = found[:, *inner]

    def finish(self) -> None:
        for _, piece, checksum in self._pieces:
            found = checksum.value()
            if found is None:  # a part was left out or came twice
                self._bundle.verify_piece(piece)
            else:
                self._bundle.check_crc(piece, found)


def _size_of_an_index(piece: TensorInfo, box: Box) -> int:
    """How many bytes an index of the first axis of `box` has; it is a part of the last axes."""
    assert piece.dtype.itemsize is not None
    return prod(piece.shape[len(piece.shape) - len(box) + 1 :]) * piece.dtype.itemsize


def check_version(path: str, version: Any) -> None:
    """Refuse a VersionDef that asks for a newer reader, in either format."""
    if version.min_consumer > FORMAT_VERSION or FORMAT_VERSION in version.bad_consumers:
        raise UnsupportedError(
            f"{path}: written for readers of format version {version.min_consumer} and later; "
            f"tfreader knows version {FORMAT_VERSION}"
        )
    if version.producer < 0:
        raise CorruptCheckpointError(f"{path}: impossible format version {version.producer}")
