"""Writing at given offsets of a file."""

from __future__ import annotations

import os


def pwrite_all(fd: int, data: memoryview | bytes | bytearray, offset: int) -> None:
    """Write all of `data`; a call of the system may write less. Raises OSError."""
    rest = memoryview(data)
    while rest:
        count = os.pwrite(fd, rest, offset)
        rest, offset = rest[count:], offset + count
