"""Writing at given offsets of a file."""

from __future__ import annotations

import os

from tfreader.files import has_room


def pwrite_all(fd: int, data: memoryview | bytes | bytearray, offset: int) -> None:
    """Write all of `data`; a call of the system may write less. Raises OSError."""
    rest = memoryview(data)
    while rest:
        count = os.pwrite(fd, rest, offset)
        rest, offset = rest[count:], offset + count


class OutputFile:
    """A new file that is written at given offsets, by several threads at once.

    It is kept open while there are descriptors for other files, or else opened for each write.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)

    def allocate(self, size: int) -> None:
        """Give it its size; a full disk shows at once where the system can tell."""
        if size and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._fd, 0, size)
        else:
            os.truncate(self._fd, size)
        if not has_room(self._fd):
            self.close()

    def write(self, data: memoryview | bytes, offset: int) -> None:
        """Raises OSError."""
        if self._fd >= 0:
            pwrite_all(self._fd, data, offset)
            return
        fd = os.open(self._path, os.O_WRONLY)
        try:
            pwrite_all(fd, data, offset)
        finally:
            os.close(fd)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
