"""The shards of a V2 checkpoint: files of bytes, of which the index tells what they are."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress

from ..errors import (
    ChangedError,
    CheckpointNotFoundError,
    ChecksumError,
    ClosedError,
    CorruptCheckpointError,
)
from ..files import DAMAGED, Identity, LocalFile, but_it_is, open_file
from ..paths import is_file, is_url
from ..protocols import Expected, File, SourceFile
from .index import Piece

MAX_SEEN = 10_000  # shards; the header may claim any number of them


class Shards:
    """All shards of a checkpoint, each opened when it is needed.

    Which files they were at first is noted: one that was replaced before it was opened is refused.
    """

    def __init__(self, prefix: str, count: int, big_endian: bool) -> None:
        self.big_endian = big_endian
        self._prefix = prefix
        self._count = count
        self._files: dict[int, File] = {}
        self._is_closed = False
        self._seen = {} if is_url(prefix) else dict(self._identities())

    def _identities(self) -> Iterator[tuple[int, Identity]]:
        for shard in range(min(self._count, MAX_SEEN)):
            with suppress(OSError):
                yield shard, Identity.of(os.stat(self._path(shard)))

    def open(self, piece: Piece) -> File:
        """The shard of a piece, once it is known to hold all of it.

        Raises CheckpointNotFoundError, CorruptCheckpointError, ChangedError, ClosedError,
        RemoteError.
        """
        file = self._files.get(piece.shard)
        if file is None:
            file = self._files[piece.shard] = self._opened(piece)
        end = piece.offset + piece.size
        if end > file.size:
            raise CorruptCheckpointError(
                f"{file.path}: truncated: variable {piece.name!r} ends at byte {end}, the file has "
                f"{file.size}{but_it_is(file.path, DAMAGED)}"
            )
        return file

    def _opened(self, piece: Piece) -> File:
        if self._is_closed:
            raise ClosedError(f"{self._prefix}: was closed")
        try:
            file = open_file(self._path(piece.shard))
        except CheckpointNotFoundError:
            raise self.missing(piece) from None
        seen = self._seen.get(piece.shard)
        if isinstance(file, LocalFile) and seen not in (None, file.identity):
            file.close()
            raise ChangedError(
                f"{file.path}: replaced since {self._prefix}.index was read; open the checkpoint "
                "again"
            )
        return file

    def missing(self, piece: Piece, others: int = 0) -> CheckpointNotFoundError:
        """The error for a shard that is not there, though a piece and `others` lie in it."""
        path = self._path(piece.shard)
        lie = f"and {others} more lie" if others else "lies"
        return CheckpointNotFoundError(
            f"{path}: shard {piece.shard} of {self._count} is missing, "
            f"variable {piece.name!r} {lie} in it; {self._instead(piece, path)}",
            code="missing-shard",
        )

    def _instead(self, piece: Piece, path: str) -> str:
        """What to do about a missing shard: people rename the only one to the bare prefix."""
        if self._count == 1 and is_file(self._prefix):
            with closing(open_file(self._prefix)) as file:
                if file.size >= piece.offset + piece.size:
                    return f"{self._prefix} may be that file: rename it to {os.path.basename(path)}"
        return f"put the file beside {self._prefix}.index"

    def expect(self, pieces: Iterable[Piece]) -> list[Expected]:
        """Announce that these will be read, shard after shard. Raises what `open` raises."""
        ranges: dict[File, list[tuple[int, int]]] = {}
        for piece in pieces:
            ranges.setdefault(self.open(piece), []).append((piece.offset, piece.size))
        return [file.expect(wanted) for file, wanted in ranges.items()]

    def check_crc(self, piece: Piece, found: int) -> None:
        """Raise ChecksumError where the bytes of a piece, whose CRC-32C is `found`, are others."""
        if piece.crc32c != found:
            self.open(piece).check_unchanged()
            raise ChecksumError(
                f"{self.where(piece)}: checksum mismatch: {piece.crc32c:#010x} is stored, the "
                f"bytes give {found:#010x}{but_it_is(self._path(piece.shard), DAMAGED)}"
            )

    def check_unchanged(self) -> None:
        for file in self._files.values():
            file.check_unchanged()

    def source(self, shard: int) -> SourceFile | None:
        """The file of a shard, None if there is none."""
        if shard in self._files:
            return self._files[shard].source
        try:
            with closing(open_file(self._path(shard))) as file:
                return file.source
        except CheckpointNotFoundError:
            return None

    def where(self, piece: Piece) -> str:
        """What messages about the bytes of a piece start with."""
        return (
            f"{self._path(piece.shard)}: variable {piece.name!r} at offset {piece.offset} "
            f"({piece.size} bytes)"
        )

    def _path(self, shard: int) -> str:
        return f"{self._prefix}.data-{shard:05d}-of-{self._count:05d}"

    def close(self) -> None:
        self._is_closed = True
        for file in self._files.values():
            file.close()
        self._files.clear()
