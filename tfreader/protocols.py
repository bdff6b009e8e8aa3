"""What a file of a checkpoint offers, wherever it lies."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol


class SourceFile(NamedTuple):
    """Which file was read: its base name, its size in bytes, and what tells it from a later one.

    `modified` is its time of last change (local files: ISO 8601 in UTC, to the nanosecond), `etag`
    the version that its server gives it; None where it has none.
    """

    name: str
    size: int
    modified: str | None = None
    etag: str | None = None


class Expected(Protocol):
    """Bytes of a remote file that are fetched ahead."""

    def forget(self) -> None:
        """Fetch no more of them, and keep them no longer."""


class File(Protocol):
    """A file read at given offsets. Reads may come from several threads at once."""

    path: str
    size: int
    source: SourceFile

    def read_into(self, offset: int, buffer: Any) -> None:
        """Fill the writable `buffer` (bytes-like, contiguous) from `offset` on."""

    def read(self, offset: int, size: int) -> bytearray:
        """The `size` bytes at `offset`. The caller bounds `size` by the file's size."""

    def expect(self, ranges: Iterable[tuple[int, int]]) -> Expected:
        """Announce (offset, size) ranges that will be read, in that order."""

    def check_unchanged(self) -> None:
        """Raise RemoteError, or ChangedError, where another file is in its place by now."""

    def close(self) -> None: ...


class Raw(io.RawIOBase):
    """A File as Python's own: position, seek and read. Closes the File that it `owns`."""

    def __init__(self, file: File, owns: bool = True) -> None:
        self._file = file
        self._owns = owns
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self._file.size)[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: max(0, self._file.size - self._position)]
        self._file.read_into(self._position, view)
        self._position += len(view)
        return len(view)

    def close(self) -> None:
        if self._owns:
            self._file.close()
        super().close()
