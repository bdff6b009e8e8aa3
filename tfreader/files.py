"""Random access to the files of a checkpoint."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import numpy as np

from .checksum import HASHES
from .errors import (
    AccessDeniedError,
    ChangedError,
    CheckpointNotFoundError,
    ClosedError,
    CorruptCheckpointError,
    TFReaderError,
)
from .paths import AnyPath, as_path, is_url
from .protocols import Expected, File, Raw, SourceFile
from .sniff import clause
from .system import BINARY, most_descriptors, read_at

T = TypeVar("T")

CHUNK = 1 << 20
WINDOW = 256 << 20  # bytes of a file that are fetched ahead where all of it is read
MAX_ITEMS = 1000
SMALL = 16 << 20  # bytes; of the vocabularies known the largest, of 793,471 words, has half of that
DAMAGED = "it is damaged, fetch it again"
TABLE_MAGIC = bytes.fromhex("57fb808b247547db")  # the last 8 bytes of a sorted string table


def is_table(path: str) -> bool:
    """Whether the file ends as a sorted string table does: an index, or a V1 checkpoint."""
    try:
        # A named pipe would be waited for, and so would some of /proc, whose files have no size.
        if not is_url(path) and not os.path.isfile(path):
            return False
        with closing(open_file(path)) as file:
            start = file.size - len(TABLE_MAGIC)
            return start >= 0 and file.read(start, len(TABLE_MAGIC)) == TABLE_MAGIC
    except (CheckpointNotFoundError, CorruptCheckpointError):
        return False
    except AccessDeniedError:
        if is_url(path):
            raise
        return False


def open_regular(path: str, flags: int) -> int:
    """A descriptor of a regular file. Raises OSError, also for what is none.

    A pipe would be waited for, and a device may have no end.
    """
    if "\0" in path or not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "not a regular file", path)
    # By now it may be another, so that nothing waits: not the opening, not a read.
    return os.open(path, flags | BINARY | getattr(os, "O_NONBLOCK", 0))


def _open_regular(path: AnyPath) -> IO[bytes]:
    """A regular file of this machine, or what a URL names."""
    return open(path, "rb", opener=open_regular) if isinstance(path, Path) else path.open()


def read_small(path: AnyPath, limit: int = SMALL) -> bytes:
    """All of a small regular file: a config, a vocabulary, rules, a record.

    Raises OSError, whose `strerror` says why, also for what is no regular file or larger than
    `limit` bytes; RemoteError.
    """
    with _open_regular(path) as file:
        contents = file.read(limit + 1)
    if len(contents) > limit:
        raise OSError(errno.EFBIG, f"more than {limit} bytes, which are all that is read", path)
    return contents


def open_file(path: str) -> File:
    """Open a local file or one behind a URL.

    Raises CheckpointNotFoundError, CorruptCheckpointError where it cannot be read, RemoteError.
    """
    if not is_url(path):
        file = LocalFile(path)
        return file if has_room(file.fd) else BriefFile(file)
    from .remote import RemoteFile

    return RemoteFile(path)


def but_it_is(path: str, otherwise: str = "") -> str:
    """A clause for the end of an error message: what the file really is, or else `otherwise`."""
    at = as_path(path)
    try:
        with _open_regular(at) as file:
            found = clause(path, file)
    except OSError:
        found = ""
    return found or (f"; {otherwise}" if otherwise else "")


class Identity(NamedTuple):
    """What tells a local file from one that replaced it, or from what it was before."""

    device: int
    number: int
    size: int
    modified: int

    @classmethod
    def of(cls, status: os.stat_result) -> Identity:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def has_room(fd: int) -> bool:
    """Whether descriptors are left for other files, `fd` being the latest: the lowest free one."""
    return fd < most_descriptors() // 2


class LocalFile:
    """A file of this machine, as a File.

    Reading raises ChangedError where it is no longer what it was when opened, ClosedError.
    """

    _fd = -1

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._fd = open_regular(path, os.O_RDONLY)
        except FileNotFoundError:
            raise CheckpointNotFoundError(f"{path}: no such file") from None
        except PermissionError as error:
            raise AccessDeniedError(
                f"{path}: not accessible to this user ({error.strerror})"
            ) from None
        except OSError as error:
            raise CorruptCheckpointError(f"{path}: cannot be opened ({error.strerror})") from None
        status = os.fstat(self._fd)
        self.identity = Identity.of(status)
        self.size = status.st_size
        seconds, nanoseconds = divmod(status.st_mtime_ns, 10**9)
        # Of any year, where datetime has 9999 (on Windows none before 1970).
        modified = f"{np.datetime64(seconds, 's')}.{nanoseconds:09d}Z"
        self.source = SourceFile(os.path.basename(path), self.size, modified)

    @property
    def fd(self) -> int:
        return self._fd

    def read_into(self, offset: int, buffer: Any) -> None:
        """Fill the writable `buffer` (bytes-like, contiguous) from `offset` on."""
        view = memoryview(buffer).cast("B")
        done = 0
        fd = self._fd
        try:
            while done < len(view):
                count = read_at(fd, view[done:], offset + done)
                if count == 0:
                    break
                done += count
            status = os.fstat(fd)
        except OSError as error:
            raise self._closed() or CorruptCheckpointError(
                f"{self.path}: cannot be read at offset {offset + done} ({error.strerror})"
            ) from None
        # Once closed, its number may be another file's: what was read counts if it is open still.
        if closed := self._closed():
            raise closed
        if Identity.of(status) != self.identity:
            raise self._changed()
        if done < len(view):
            it_is = clause(self.path, BufferedReader(Raw(self, owns=False)))
            raise CorruptCheckpointError(
                f"{self.path}: truncated: bytes {offset} to {offset + len(view)} are needed, "
                f"the file has {self.size}{it_is}"
            )

    def read(self, offset: int, size: int) -> bytearray:
        """The `size` bytes at `offset`. The caller bounds `size` by the file's size."""
        buffer = bytearray(size)
        self.read_into(offset, buffer)
        return buffer

    def expect(self, ranges: Iterable[tuple[int, int]]) -> Expected:
        return self

    def forget(self) -> None:
        """Nothing is fetched ahead."""

    def check_unchanged(self) -> None:
        """Raise ChangedError where it was written to, or another file is at its path by now."""
        try:
            status = os.stat(self.path)
        except OSError:  # removed, but what was read is right
            return
        if Identity.of(status) != self.identity:
            raise self._changed()

    def _changed(self) -> TFReaderError:
        return ChangedError(
            f"{self.path}: changed while it was open; start again once nothing writes to it"
        )

    def _closed(self) -> TFReaderError | None:
        return ClosedError(f"{self.path}: was closed") if self._fd < 0 else None

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __reduce__(self) -> Any:
        raise TypeError(f"{self.path}: an open file cannot be copied or pickled")

    def __del__(self) -> None:
        self.close()


class BriefFile(LocalFile):
    """A LocalFile that takes no descriptor: opened for each read, and as `file` until now."""

    def __init__(self, file: LocalFile) -> None:
        self.path, self.size, self.source = file.path, file.size, file.source
        self.identity = file.identity
        self._is_open = True
        file.close()

    def read_into(self, offset: int, buffer: Any) -> None:
        """Fill the writable `buffer` (bytes-like, contiguous) from `offset` on."""
        with closing(LocalFile(self.path)) as file:
            if file.identity != self.identity:
                raise self._changed()
            file.read_into(offset, buffer)
        if closed := self._closed():
            raise closed

    def _closed(self) -> TFReaderError | None:
        return None if self._is_open else ClosedError(f"{self.path}: was closed")

    def close(self) -> None:
        self._is_open = False


def windows(items: Iterable[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    """The items in order, in lists of some WINDOW bytes, by their sizes."""
    window: list[T] = []
    total = 0
    for item in items:
        window.append(item)
        total += size(item)
        if total >= WINDOW or len(window) == MAX_ITEMS:
            yield window
            window, total = [], 0
    if window:
        yield window


def checksum_of(kind: str, file: File, start: int = 0, end: int | None = None) -> str:
    """One of HASHES (hexadecimal) of a file's bytes from `start` on, or up to `end`."""
    end = file.size if end is None else end
    digest = HASHES[kind]()
    buffer = memoryview(bytearray(max(0, min(CHUNK, end - start))))
    for offset in range(start, end, CHUNK):
        part = buffer[: end - offset]
        file.read_into(offset, part)
        digest.update(part)
    return digest.hexdigest()


sha256_of = partial(checksum_of, "sha256")


def contents_checksum(kind: str, files: Iterable[File]) -> str | None:
    """One of HASHES (hexadecimal) of whole files; None where servers vouch for their versions."""
    files = list(files)
    if all(file.source.etag for file in files):
        return None
    digest = HASHES[kind]()
    for file in files:
        file.expect([(0, file.size)])  # and kept, as it will be read again
        digest.update(checksum_of(kind, file).encode())
    return digest.hexdigest()
