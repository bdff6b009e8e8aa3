"""Varints, and protobuf's wire format for messages too large to be copied into objects.

See https://protobuf.dev/programming-guides/encoding/. Everything small goes through
`checkpoint_pb2`.
"""

from __future__ import annotations

from collections.abc import Iterator

Buffer = bytes | bytearray | memoryview
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_WIDTHS = {FIXED64: 8, FIXED32: 4}


def read_varint(data: Buffer, position: int, limit: int) -> tuple[int, int]:
    """A base-128 integer of at most 64 bits at `position`, and the position after it.

    Raises ValueError when it runs past `limit` or is too long.
    """
    value = shift = 0
    while position < limit:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, position
        shift += 7
        if shift > 63:
            break
    raise ValueError("bad varint")


def fields(message: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """The (number, wire type, payload) of each field, in stored order and without copying.

    The payload of a varint is its encoding: a packed field's payload and the payloads of the same
    field unpacked, joined, are the same bytes. Raises ValueError where the message is malformed.
    """
    position, size = 0, len(message)
    while position < size:
        tag, position = read_varint(message, position, size)
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            _, end = read_varint(message, position, size)
        elif kind == BYTES:
            length, position = read_varint(message, position, size)
            end = position + length
        elif kind in _WIDTHS:
            end = position + _WIDTHS[kind]
        else:
            raise ValueError(f"field {number} has wire type {kind}")
        if end > size:
            raise ValueError(f"field {number} runs past the end of its message")
        yield number, kind, message[position:end]
        position = end


def field(message: memoryview, number: int) -> memoryview:
    """The payload of the last such length-delimited field, empty where there is none."""
    found = memoryview(b"")
    for candidate, kind, payload in fields(message):
        if candidate == number and kind == BYTES:
            found = payload
    return found
