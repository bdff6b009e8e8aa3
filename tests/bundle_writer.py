"""A small writer of V2 checkpoints, for tests that need a file TensorFlow would not write.

It shares no code with the reader: blocks, checksums and protobuf fields are put together here.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import cramjam
import numpy as np
from crc32c import crc32c

DTYPE_NUMBERS = {
    "float32": 1,
    "float64": 2,
    "int32": 3,
    "int64": 9,
    "bfloat16": 14,
    "float16": 19,
    "float8_e5m2": 24,
    "float8_e4m3fn": 25,
}


def varint(value: int) -> bytes:
    out = bytearray()
    value &= (1 << 64) - 1
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def masked(data: bytes | memoryview) -> int:
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def block(entries: list[tuple[bytes, bytes]], restart_interval: int) -> bytes:
    out, restarts, previous = bytearray(), [], b""
    for i, (key, value) in enumerate(entries):
        shared = 0
        if i % restart_interval == 0:
            restarts.append(len(out))
        else:
            while shared < min(len(key), len(previous)) and key[shared] == previous[shared]:
                shared += 1
        out += varint(shared) + varint(len(key) - shared) + varint(len(value))
        out += key[shared:] + value
        previous = key
    restarts = restarts or [0]
    return bytes(out) + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def table(
    entries: list[tuple[bytes, bytes]],
    block_size: int = 1 << 18,
    restart_interval: int = 16,
    snappy: bool = False,
) -> bytes:
    """A table of the entries, with a new data block after every `block_size` bytes of them."""
    out, index, pending, size = bytearray(), [], [], 0

    def append(contents: bytes) -> bytes:
        kind = b"\1" if snappy else b"\0"
        stored = bytes(cramjam.snappy.compress_raw(contents)) if snappy else contents
        handle = varint(len(out)) + varint(len(stored))
        out.extend(stored + kind + struct.pack("<I", masked(stored + kind)))
        return handle

    for i, (key, value) in enumerate(entries):
        pending.append((key, value))
        size += len(key) + len(value)
        if size >= block_size or i == len(entries) - 1:
            index.append((key, append(block(pending, restart_interval))))
            pending, size = [], 0
    meta = append(block([], 1))
    footer = meta + append(block(index, 1))
    return bytes(out) + footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def header(num_shards: int = 1, endianness: int = 0, producer: int = 1) -> bytes:
    version = field(3, field(1, producer))
    return field(1, num_shards) + (field(2, endianness) if endianness else b"") + version


def data_of(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def entry(array: np.ndarray, **overrides: int) -> bytes:
    shape = b"".join(field(2, field(1, size) if size else b"") for size in array.shape)
    values = {
        "dtype": DTYPE_NUMBERS[str(array.dtype)],
        "shard": 0,
        "offset": 0,
        "size": array.nbytes,
        "crc": masked(data_of(array)),
    } | overrides
    return (
        field(1, values["dtype"])
        + field(2, shape)
        + field(3, values["shard"])
        + field(4, values["offset"])
        + field(5, values["size"])
        + varint(6 << 3 | 5)
        + struct.pack("<I", values["crc"])
    )


def write_bundle(
    prefix: str | Path,
    tensors: Mapping[str, np.ndarray],
    *,
    num_shards: int = 1,
    block_size: int = 1 << 18,
    overrides: dict[str, dict[str, int]] | None = None,
    sliced: bool = False,
) -> str | Path:
    """Write `tensors` as a V2 checkpoint; `overrides` falsifies fields of single entries.

    Each tensor is asked for once, so that a mapping may make them as they are wanted. With `sliced`
    every matrix is stored in two slices of columns.
    """
    Path(f"{prefix}.index").parent.mkdir(parents=True, exist_ok=True)
    entries = [(b"", header(num_shards))]
    files = [Path(f"{prefix}.data-{i:05d}-of-{num_shards:05d}") for i in range(num_shards)]
    for file in files:
        file.write_bytes(b"")
    for i, name in enumerate(sorted(tensors)):
        array = np.asarray(tensors[name], order="C")
        with files[i % num_shards].open("ab") as shard:
            if sliced and array.ndim == 2 and array.shape[1] > 1:
                entries += in_slices(name, array, shard, i % num_shards)
                continue
            place = {"shard": i % num_shards, "offset": shard.tell()}
            changed = (overrides or {}).get(name, {})
            entries.append((name.encode(), entry(array, **(place | changed))))
            shard.write(data_of(array))
    Path(f"{prefix}.index").write_bytes(table(sorted(entries), block_size, 3))
    return prefix


def in_slices(
    name: str, array: np.ndarray, shard: BinaryIO, number: int
) -> list[tuple[bytes, bytes]]:
    """The entries of a matrix whose columns are stored in two slices."""
    cut, (rows, columns) = array.shape[1] // 2, array.shape
    shape = field(2, field(2, field(1, rows)) + field(2, field(1, columns)))
    whole = field(1, DTYPE_NUMBERS[str(array.dtype)]) + shape
    made = []
    for start, end in ((0, cut), (cut, columns)):
        extents = field(1, b"") + field(1, field(1, start) * (start > 0) + field(2, end - start))
        whole += field(7, extents)
        part = np.ascontiguousarray(array[:, start:end])
        made.append(
            (
                slice_key(name, start, end - start),
                entry(part, shard=number, offset=shard.tell()),
            )
        )
        shard.write(data_of(part))
    return [(name.encode(), whole), *made]


def slice_key(name: str, start: int, length: int) -> bytes:
    """The key of a slice of columns, all rows: numbers below 64 in OrderedCode take one byte."""
    numbers = bytes([0x80, 0x7F, 0x80 | start, 0x80 | length])
    return b"\0" + name.encode() + b"\0\1" + b"\1\2" + numbers
