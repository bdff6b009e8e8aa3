"""V1 checkpoints: tables whose values are the tensors themselves, as protobuf messages.

TensorFlow's Saver wrote them until 0.12 and still does with `write_version=V1`. Each file, or each
shard of several, is a table with its own list of tensors under the empty key; every slice of every
tensor, whole tensors too, is a record of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from math import prod
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from .checkpoint import Checkpoint, TensorInfo, VerifyReport, reopen, shortened
from .checkpoint_pb2 import SavedTensorSlices
from .dtypes import Array, DType, dtype_of
from .errors import ChecksumError, CorruptCheckpointError, TFReaderError, UnsupportedError
from .files import DAMAGED, but_it_is, contents_checksum, open_file, sha256_of
from .paths import absolute
from .protocols import File, SourceFile
from .shapes import shape_of
from .slices import Slice, assemble, check_cover, from_proto, rows_in, slice_key
from .table import KEYS_EXPANSION, KEYS_SIZE, Table
from .tensor_values import DTYPES, decode
from .versions import check_version
from .wire import VARINT, field, fields


class _Piece(NamedTuple):
    """A slice: the shard that holds it, its record's key, the resolved slice."""

    shard: int
    key: bytes
    place: Slice


class _Variable(NamedTuple):
    dtype: DType
    shape: tuple[int, ...]
    slices: list[Slice]  # as stored
    pieces: list[_Piece]

    @property
    def is_whole(self) -> bool:
        return len(self.pieces) == 1 and self.pieces[0].place.length == self.shape


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _add_listed(table: Table, shard: int, variables: dict[bytes, _Variable]) -> None:
    """Add what a shard lists to the variables: whole tensors, and slices of them.

    Raises CorruptCheckpointError, UnsupportedError.
    """
    # The key of a slice's record holds the name: so much can be in the table.
    room = KEYS_SIZE + KEYS_EXPANSION * table.size
    for message in _listed(table):
        try:
            found = dtype_of(message.type), shape_of(message.shape)
            variable = variables.setdefault(message.name, _Variable(*found, [], []))
            if found != (variable.dtype, variable.shape):
                raise ValueError(
                    f"it is {found[0]} {list(found[1])} here and {variable.dtype} "
                    f"{list(variable.shape)} in another shard"
                )
            room -= len(message.slice) * len(message.name)
            if room < 0:
                raise ValueError(f"{len(message.slice)} slices of that name cannot be in the file")
            for piece in map(from_proto, message.slice):
                place = piece.resolve(variable.shape)
                variable.slices.append(piece)
                variable.pieces.append(_Piece(shard, slice_key(message.name, piece), place))
        except ValueError as error:
            name = shortened(_text(message.name))
            raise CorruptCheckpointError(f"{table.path}: variable {name!r}: {error}") from None


def _listed(table: Table) -> Iterable[Any]:
    """A shard's own list of tensors, as messages."""
    value = table.get(b"")
    if value is None:
        raise CorruptCheckpointError(
            f"{table.path}: no list of tensors (the empty key) in this V1 checkpoint"
        )
    try:
        is_bundle = any((number, kind) == (1, VARINT) for number, kind, _ in fields(value))
        meta = SavedTensorSlices.FromString(bytes(value)).meta
    except (DecodeError, ValueError):
        raise CorruptCheckpointError(
            f"{table.path}: the list of tensors is not a protobuf message"
        ) from None
    if is_bundle:
        raise CorruptCheckpointError(
            f"{table.path}: this is the index of a V2 checkpoint under another name; rename it to "
            "end in .index, beside its .data-*-of-* files"
        )
    check_version(table.path, meta.versions)
    tensors: Iterable[Any] = meta.tensor
    return tensors


class SliceFiles(Checkpoint):
    """The V1 checkpoint in the given files, which are all of its shards in order.

    Raises CheckpointNotFoundError, CorruptCheckpointError, UnsupportedError.
    """

    format = "v1"
    has_checksums = False

    def __init__(self, path: str, files: Sequence[str], notes: tuple[str, ...] = ()) -> None:
        self.path = path
        self.notes = notes
        self._arguments = absolute(path), [absolute(file) for file in files], notes
        self._files: list[File] = []
        self._tables: list[Table] = []
        variables: dict[bytes, _Variable] = {}
        try:
            for shard, file in enumerate(files):
                self._files.append(open_file(file))
                self._tables.append(Table(self._files[shard]))
                _add_listed(self._tables[shard], shard, variables)
            self._variables = {_text(name): variables[name] for name in sorted(variables)}
            for name, variable in self._variables.items():
                self._check_slices(name, variable)
        except BaseException:
            self.close()
            raise

    def _check_slices(self, name: str, variable: _Variable) -> None:
        if variable.is_whole:
            return
        try:
            check_cover([piece.place for piece in variable.pieces], variable.shape)
        except ValueError as error:
            raise self._corrupt(self.path, name, str(error)) from None

    def info(self, name: str) -> TensorInfo:
        name = self._key(name)
        variable = self._variables[name]
        size = variable.dtype.itemsize
        nbytes = None if size is None else size * prod(variable.shape)
        if not variable.is_whole:
            return TensorInfo(
                name, variable.dtype, variable.shape, nbytes, slices=tuple(variable.slices)
            )
        return TensorInfo(
            name, variable.dtype, variable.shape, nbytes, shard=variable.pieces[0].shard
        )

    def check_shards(self, names: Sequence[str]) -> None:
        """All shards are open."""

    def prefetch(self, names: Sequence[str]) -> None:
        keys: list[list[bytes]] = [[] for _ in self._tables]
        for name in names:
            for piece in self._variables[self._key(name)].pieces:
                keys[piece.shard].append(piece.key)
        for table, wanted in zip(self._tables, keys, strict=True):
            table.expect(wanted)

    def check_unchanged(self) -> None:
        for file in self._files:
            file.check_unchanged()

    def verify(self) -> VerifyReport:
        problems: list[TFReaderError] = []
        nbytes = 0
        listed = {
            (piece.shard, piece.key): (name, piece)
            for name, variable in self._variables.items()
            for piece in variable.pieces
        }
        for shard, table in enumerate(self._tables):
            blocks: list[CorruptCheckpointError] = []
            for key, value in table.entries(blocks):
                nbytes += len(value)
                if (shard, key) in listed:
                    name, piece = listed.pop((shard, key))
                    try:
                        self._decode(name, piece, value)
                    except TFReaderError as error:
                        problems.append(error)
            problems += blocks
            reason = "lost with a damaged block" if blocks else "its record is missing"
            lost = [name for (place, _), (name, _) in listed.items() if place == shard]
            problems += [self._corrupt(table.path, name, reason) for name in lost]
        self.check_unchanged()
        if problems:
            raise ChecksumError.of(self.path, problems)
        return VerifyReport(len(self), nbytes)

    def files(self) -> tuple[SourceFile, ...]:
        return tuple(file.source for file in self._files)

    def index_sha256(self) -> str:
        digest = sha256()
        for file, table in zip(self._files, self._tables, strict=True):
            end = sum(table.blocks[-1].range)
            digest.update(sha256_of(file, end).encode())
            digest.update(sha256(table.get(b"") or b"").digest())
        return digest.hexdigest()

    def contents_checksum(self, kind: str) -> str | None:
        return contents_checksum(kind, self._files)

    def close(self) -> None:
        self._closed = True
        for file in self._files:
            file.close()

    def __reduce__(self) -> Any:
        return reopen, (SliceFiles, self._arguments, self.index_sha256())

    def _load(self, info: TensorInfo, rows: range | None) -> Array:
        variable = self._variables[info.name]
        if not info.slices:
            array = self._read(info.name, variable.pieces[0])
            return array if rows is None else array[rows.start : rows.stop]
        rows = range(info.shape[0]) if rows is None else rows
        places = [piece.place for piece in variable.pieces]
        # All are read before the whole is allocated: a record may hold less than it should.
        arrays = {
            i: self._read(info.name, piece)
            for i, piece in enumerate(variable.pieces)
            if rows_in(piece.place, rows)
        }
        assert info.dtype.numpy is not None
        return assemble(
            places,
            info.shape,
            info.dtype.numpy,
            rows,
            lambda i, part: arrays[i][part.start : part.stop],
        )

    def _read(self, name: str, piece: _Piece) -> Array:
        table = self._tables[piece.shard]
        try:
            value = table.get(piece.key)
        except CorruptCheckpointError as error:
            raise type(error)(f"{error}; variable {self.shown(name)!r} lies in it") from None
        if value is None:
            raise self._corrupt(table.path, name, "its record is missing")
        return self._decode(name, piece, value)

    def _decode(self, name: str, piece: _Piece, value: memoryview) -> Array:
        """The values of a record, a serialized SavedTensorSlices."""
        variable = self._variables[name]
        path = self._tables[piece.shard].path
        if variable.dtype not in DTYPES:
            raise UnsupportedError(
                f"{path}: variable {self.shown(name)!r}: V1 files hold no values of type "
                f"{variable.dtype}"
            )
        try:
            saved = field(value, 2)  # SavedSlice: name, slice, data
            stored = _text(bytes(field(saved, 1)))
            if stored != name:
                raise ValueError(f"its record is named {stored[:200]!r}")
            return decode(field(saved, 3), variable.dtype, piece.place.length)
        except ValueError as error:
            raise self._corrupt(path, name, f"{error}{but_it_is(path, DAMAGED)}") from None

    def _corrupt(self, path: str, name: str, problem: str) -> CorruptCheckpointError:
        return CorruptCheckpointError(f"{path}: variable {self.shown(name)!r}: {problem}")
