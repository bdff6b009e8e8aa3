"""CRC-32C: masked as files store it, and of bytes that are read in any order.

What is recorded of bytes is that or their SHA-256: `HASHES` has both by name.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from crc32c import crc32c

from .dtypes import Array

POLYNOMIAL = 0x82F63B78  # Castagnoli's, reflected
MAX_RUNS = 1 << 16  # some 15 MB of memory


def mask_crc(crc: int) -> int:
    """The form in which a CRC-32C is stored beside the data that it covers."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def unmask_crc(masked: int) -> int:
    rotated = (masked - 0xA282EAD8) & 0xFFFFFFFF
    return ((rotated >> 17) | (rotated << 15)) & 0xFFFFFFFF


class Hash(Protocol):
    """What hashlib's hashes have."""

    def update(self, data: Any, /) -> None: ...
    def hexdigest(self) -> str: ...


class Crc32c:
    """A CRC-32C as a `Hash`: 8 hexadecimal digits."""

    def __init__(self) -> None:
        self._crc = 0

    def update(self, data: Any, /) -> None:
        self._crc = crc32c(data, self._crc)

    def hexdigest(self) -> str:
        return f"{self._crc:08x}"


HashName: TypeAlias = Literal["crc32c", "sha256"]
HASHES: dict[str, Callable[[], Hash]] = {"crc32c": Crc32c, "sha256": sha256}
"""By the names that records have for them. The first finds accidents, the second deceit too."""


class Checksum:
    """The CRC-32C of `size` bytes that come in pieces, in any order."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0
        self._runs: dict[int, tuple[int, int]] = {}  # by where it ends: its start and checksum

    def add(self, offset: int, data: Any) -> None:
        """Take in the bytes at `offset`. It costs least where they go on from others."""
        if self._taken > self._size:
            return
        start, crc = self._runs.pop(offset, (offset, 0))
        self._runs[offset + len(data)] = start, crc32c(data, crc)
        self._taken += len(data)
        if len(self._runs) > MAX_RUNS:
            self.give_up()

    def give_up(self) -> None:
        """There is no telling the checksum: bytes are left out, or come too scattered to note."""
        self._runs.clear()
        self._taken = self._size + 1

    def value(self) -> int | None:
        """The checksum of the whole, None unless each byte has come once."""
        runs = sorted((start, end, crc) for end, (start, crc) in self._runs.items() if start < end)
        bounds = [0, *(end for _, end, _ in runs)]
        tiled = [start for start, _, _ in runs] == bounds[:-1] and bounds[-1] == self._size
        if not tiled or self._taken != self._size:
            return None
        if len(runs) < 2:
            return runs[0][2] if runs else 0
        crcs = np.array([crc for _, _, crc in runs], np.uint32)
        behind = np.array([self._size - end for _, end, _ in runs], np.int64)
        return int(np.bitwise_xor.reduce(_shifted(crcs, behind)))


def _shifted(crcs: Array, counts: Array) -> Array:
    """What each checksum adds to that of the whole, with `counts` more bytes behind its own.

    A checksum is linear over GF(2) in the register that it starts from: a zero byte applies a
    matrix to it, 2^n of them that matrix's power, and the parts' shares add up by xor.
    """
    matrix: Array = np.array([1 << bit for bit in range(32)], np.uint32)
    for _ in range(8):
        matrix = (matrix >> 1) ^ np.where(matrix & 1, np.uint32(POLYNOMIAL), np.uint32(0))
    while counts.any():
        crcs = np.where(counts & 1, _apply(matrix, crcs), crcs)
        matrix = _apply(matrix, matrix)
        counts = counts >> 1
    return crcs


def _apply(matrix: Array, vectors: Array) -> Array:
    """The product with each vector of 32 bits; the matrix is given by its columns."""
    result = np.zeros_like(vectors)
    for bit, column in enumerate(matrix):
        result ^= np.where(vectors >> np.uint32(bit) & np.uint32(1), column, np.uint32(0))
    return result
