"""Values of V2 checkpoints: from the bytes of a piece to numpy arrays, and its checksum."""

from __future__ import annotations

from math import prod

import numpy as np
from crc32c import crc32c

from ..dtypes import Array, from_stored
from ..errors import CorruptCheckpointError
from ..files import CHUNK
from ..strings import decode_strings, variant_crc
from .index import Piece
from .shards import Shards


def read_piece(shards: Shards, piece: Piece, rows: range | None = None) -> Array:
    """The values of a piece, which has a numpy dtype: of all rows, or of consecutive ones.

    Some rows of anything but strings are read without the rest, and so are not checked. Raises what
    `Shards.open` raises, ChecksumError.
    """
    if piece.dtype == "string":
        strings, crc = _decode(shards, piece, _bytes(shards, piece, 0, piece.size))
        shards.check_crc(piece, crc)
        array = np.empty(len(strings), object)
        array[:] = strings
        array = array.reshape(piece.shape)
        return array if rows is None else array[rows.start : rows.stop]
    shape = piece.shape
    if rows is None or len(rows) == shape[0]:
        data = _bytes(shards, piece, 0, piece.size)
        shards.check_crc(piece, crc32c(data.data))
    else:
        width = piece.size // shape[0]
        data = _bytes(shards, piece, rows.start * width, len(rows) * width)
        shape = len(rows), *shape[1:]
    return from_stored(data, piece.dtype, shards.big_endian).reshape(shape)


def verify_piece(shards: Shards, piece: Piece) -> int:
    """Check the bytes of a piece of any dtype; returns how many there are.

    Raises what `Shards.open` raises, ChecksumError.
    """
    if piece.dtype in ("string", "variant"):
        _, crc = _decode(shards, piece, _bytes(shards, piece, 0, piece.size))
    else:
        file = shards.open(piece)
        buffer = np.empty(min(CHUNK, piece.size), np.uint8).data
        crc = 0
        for start in range(0, piece.size, CHUNK):
            chunk = buffer[: piece.size - start]
            file.read_into(piece.offset + start, chunk)
            crc = crc32c(chunk, crc)
    shards.check_crc(piece, crc)
    return piece.size


def _bytes(shards: Shards, piece: Piece, start: int, size: int) -> Array:
    file = shards.open(piece)
    data = np.empty(size, np.uint8)
    file.read_into(piece.offset + start, data)
    return data


def _decode(shards: Shards, piece: Piece, data: Array) -> tuple[list[bytes], int]:
    """The strings of a string tensor, none of a variant one, and its checksum."""
    count = prod(piece.shape)
    try:
        if piece.dtype == "variant":
            return [], variant_crc(data.data, count)
        return decode_strings(data.data, count, shards.big_endian)
    except ValueError as error:
        raise CorruptCheckpointError(f"{shards.where(piece)}: {error}") from None
