"""String and variant tensors, whose checksums run over decoded lengths and not over file bytes.

A string tensor is the lengths of its elements as varints, a masked checksum of those lengths, then
the elements. A variant tensor is, for each element, a varint length, that many bytes, and the
masked checksum of all so far. The entry's own checksum covers the inner ones as stored.
"""

from __future__ import annotations

from typing import Literal

from crc32c import crc32c

from .checksum import mask_crc
from .wire import read_varint


def decode_strings(data: memoryview, count: int, big_endian: bool) -> tuple[list[bytes], int]:
    """The `count` strings stored in `data`, and the tensor's CRC-32C (unmasked).

    Raises ValueError where the data are not `count` strings and nothing else.
    """
    order: Literal["big", "little"] = "big" if big_endian else "little"
    if count > len(data):
        raise ValueError(f"{count} strings cannot lie in {len(data)} bytes")
    lengths = []
    position = crc = 0
    for _ in range(count):
        length, position = read_varint(data, position, len(data))
        lengths.append(length)
        crc = crc32c(length.to_bytes(4 if length < 1 << 32 else 8, order), crc)
    stored = data[position : position + 4]
    position += 4
    if position + sum(lengths) != len(data):
        raise ValueError(
            f"strings of {sum(lengths)} bytes were announced, {len(data) - position} follow"
        )
    if int.from_bytes(stored, order) != mask_crc(crc):
        raise ValueError("the checksum of the string lengths does not match")
    strings = []
    for length in lengths:
        strings.append(bytes(data[position : position + length]))
        position += length
    return strings, crc32c(data[len(data) - sum(lengths) :], crc32c(stored, crc))


def variant_crc(data: memoryview, count: int) -> int:
    """The CRC-32C (unmasked) of a variant tensor of `count` elements.

    Raises ValueError where the data are not `count` elements and nothing else.
    """
    position = crc = 0
    if count > len(data):
        raise ValueError(f"{count} variants cannot lie in {len(data)} bytes")
    for number in range(count):
        length, position = read_varint(data, position, len(data))
        end = position + length
        if end + 4 > len(data):
            raise ValueError(f"variant {number} runs past the tensor's end")
        crc = crc32c(data[position:end], crc32c(length.to_bytes(8, "little"), crc))
        stored = data[end : end + 4]
        if int.from_bytes(stored, "little") != mask_crc(crc):
            raise ValueError(f"the checksum of variant {number} does not match")
        crc = crc32c(stored, crc)
        position = end + 4
    if position != len(data):
        raise ValueError(f"{len(data) - position} bytes follow the last variant")
    return crc
