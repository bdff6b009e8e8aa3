"""The V2 checkpoint as a Checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from ..checkpoint import Checkpoint, TensorInfo, VariableReader, VerifyReport, reopen
from ..dtypes import Array
from ..errors import (
    ChangedError,
    CheckpointNotFoundError,
    ChecksumError,
    CorruptCheckpointError,
    RemoteError,
    TFReaderError,
)
from ..files import open_file, sha256_of, windows
from ..paths import absolute, is_url
from ..protocols import Expected, SourceFile
from ..slices import assemble, rows_in
from .index import Index, Piece
from .parts import PartsReader
from .shards import Shards
from .values import read_piece, verify_piece

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
        self._arguments = absolute(prefix), notes, salvage
        self._infos: dict[str, TensorInfo] = {}  # by the names that were asked for
        self._file = open_file(prefix + ".index")
        try:
            self._index = Index(self._file, salvage)
        except BaseException:
            self._file.close()
            raise
        self._variables = self._index.variables
        self._shards = Shards(prefix, self._index.num_shards, self._index.big_endian)

    def info(self, name: str) -> TensorInfo:
        found = self._infos.get(name)
        if found is None:
            key = self._key(name)
            try:
                found = self._infos[name] = self._index.info(key)
            except ValueError as error:
                raise self._corrupt(key, error) from None
        return found

    def _pieces(self, info: TensorInfo) -> list[Piece]:
        try:
            return self._index.pieces(info, self.shown(info.name))
        except ValueError as error:
            raise self._corrupt(info.name, error) from None

    def _stored(self, name: str) -> list[Piece]:
        return self._pieces(self.info(name))

    def _corrupt(self, name: str, problem: ValueError) -> CorruptCheckpointError:
        return CorruptCheckpointError(
            f"{self._file.path}: variable {self.shown(name)!r}: {problem}"
        )

    def _load(self, info: TensorInfo, rows: range | None) -> Array:
        pieces = self._pieces(info)
        if not info.slices:
            return read_piece(self._shards, pieces[0], rows)
        assert info.dtype.numpy is not None
        rows = range(info.shape[0]) if rows is None else rows
        for piece in pieces:  # before allocating the whole
            if rows_in(piece.place, rows):
                self._shards.open(piece)
        return assemble(
            [piece.place for piece in pieces],
            info.shape,
            info.dtype.numpy,
            rows,
            lambda i, part: read_piece(self._shards, pieces[i], part),
        )

    def reader(self, name: str) -> VariableReader:
        info = self.info(name)
        return PartsReader(self._shards, info, self._pieces(info))

    def check_shards(self, names: Sequence[str]) -> None:
        last: dict[int | None, TensorInfo] = {}  # of each shard; where it lies, others do too
        for info in map(self.info, names):
            if info.slices:
                for piece in self._pieces(info):
                    self._shards.open(piece)
            elif info.shard not in last or _end(info) > _end(last[info.shard]):
                last[info.shard] = info
        for info in last.values():
            for piece in self._pieces(info):
                self._shards.open(piece)

    def prefetch(self, names: Sequence[str]) -> None:
        if is_url(self.path):  # the system reads local files ahead by itself
            self._shards.expect(piece for name in names for piece in self._stored(name))

    def verify(self) -> VerifyReport:
        with suppress(TFReaderError):
            _ = self.object_graph  # so that messages have readable names
        problems: list[TFReaderError] = [*self._index.problems]
        lost: dict[int, list[Piece]] = {}  # by the shard that is missing

        def attempt(function: Callable[[A], R], argument: A) -> R | None:
            try:
                return function(argument)
            except (RemoteError, ChangedError):  # say nothing about the file's bytes
                raise
            except TFReaderError as error:
                if isinstance(error, CheckpointNotFoundError) and isinstance(argument, Piece):
                    lost.setdefault(argument.shard, []).append(argument)
                else:
                    problems.append(error)
                return None

        nbytes = 0
        check = partial(verify_piece, self._shards)
        stored = (piece for name in self._variables for piece in attempt(self._stored, name) or ())
        for window in windows(stored, lambda piece: piece.size):
            pieces, expected = window, list[Expected]()
            if is_url(self.path):
                pieces = [piece for piece in window if attempt(self._shards.open, piece)]
                expected = self._shards.expect(pieces)
            nbytes += sum(attempt(check, piece) or 0 for piece in pieces)
            for each in expected:
                each.forget()
        self.check_unchanged()
        problems[:0] = [
            self._shards.missing(first, len(others)) for first, *others in lost.values()
        ]
        if problems:
            # A file that may not be read says the same of all that is in it.
            raise ChecksumError.of(self.path, list(dict.fromkeys(map(str, problems))))
        return VerifyReport(len(self), nbytes)

    def check_unchanged(self) -> None:
        self._file.check_unchanged()
        self._shards.check_unchanged()

    def files(self) -> tuple[SourceFile, ...]:
        return self._file.source, *filter(None, map(self._shards.source, self._index.shards()))

    def index_sha256(self) -> str:
        return sha256_of(self._file)

    def close(self) -> None:
        self._closed = True
        self._file.close()
        self._shards.close()

    def __reduce__(self) -> Any:
        return reopen, (Bundle, self._arguments, self.index_sha256())


def _end(info: TensorInfo) -> int:
    return (info.offset or 0) + (info.nbytes or 0)
