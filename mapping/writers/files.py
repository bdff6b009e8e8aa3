"""Writing at given offsets of a file."""

from __future__ import annotations

import os

from tfreader.files import has_room
from tfreader.system import BINARY, allocate, write_at


class OutputFile:
    """A new file that is written at given offsets, by several threads at once.

    It is kept open while there are descriptors for other files, or else opened for each write.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY, 0o666)

    def allocate(self, size: int) -> None:
        """Give it its size; a full disk shows at once where the system can tell."""
        allocate(self._fd, size)
        if not has_room(self._fd):
            self.close()

    def write(self, data: memoryview | bytes, offset: int) -> None:
        """Raises OSError."""
        if self._fd >= 0:
            write_at(self._fd, data, offset)
            return
        fd = os.open(self._path, os.O_WRONLY | BINARY)
        try:
            write_at(fd, data, offset)
        finally:
            os.close(fd)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
