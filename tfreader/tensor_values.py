"""The values of a V1 slice: the typed, repeated fields of TensorFlow's TensorProto.

Each dtype has one field. Its values may be packed, unpacked or mixed, and must be as many as the
slice has elements: V1 files have no tensor_content and repeat no last value.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

import numpy as np

from .dtypes import Array, DType
from .wire import BYTES, FIXED32, FIXED64, VARINT, fields


class _Field(NamedTuple):
    """Where a dtype's values are: field number, wire type of one value, type and number of parts.

    Varints are decoded to `numpy`, as protobuf would, before they become the dtype.
    """

    number: int
    wire: int
    numpy: str
    parts: int = 1


_INT = _Field(7, VARINT, "<i4")
_FIELDS = {
    "float32": _Field(5, FIXED32, "<f4"),
    "float64": _Field(6, FIXED64, "<f8"),
    "int32": _INT,
    "int16": _INT,
    "int8": _INT,
    "uint8": _INT,
    "uint16": _INT,
    "qint8": _INT,
    "quint8": _INT,
    "qint32": _INT,
    "string": _Field(8, BYTES, "O"),
    "complex64": _Field(9, FIXED32, "<f4", 2),
    "int64": _Field(10, VARINT, "<i8"),
    "bool": _Field(11, VARINT, "?"),
    "complex128": _Field(12, FIXED64, "<f8", 2),
    "float16": _Field(13, VARINT, "<i4"),
}
DTYPES = frozenset(_FIELDS)  # what a V1 file can hold


def decode(tensor: memoryview, dtype: DType, shape: tuple[int, ...]) -> Array:
    """The values of the serialized TensorProto `tensor`, in an array of the caller's own.

    Raises ValueError where it does not hold exactly the values of a `dtype` array of that shape.
    """
    field = _FIELDS[dtype]
    count = prod(shape)
    if field.wire == BYTES:
        strings = [
            p for number, kind, p in fields(tensor) if (number, kind) == (field.number, BYTES)
        ]
        _check_count(len(strings), count, field)
        array = np.empty(count, object)
        array[:] = [bytes(string) for string in strings]
        return array.reshape(shape)
    stored = _stored(tensor, field)
    if field.wire == VARINT:
        values = varints(stored)
        _check_count(len(values), count, field)
        return _narrow(values.astype(field.numpy), dtype).reshape(shape)
    width = np.dtype(field.numpy).itemsize * field.parts
    if len(stored) % width:
        raise ValueError(f"field {field.number} holds {len(stored)} bytes, no multiple of {width}")
    _check_count(len(stored) // width, count, field)
    assert dtype.numpy is not None
    return np.frombuffer(stored, dtype.numpy.newbyteorder("<")).astype(dtype.numpy).reshape(shape)


def _check_count(found: int, expected: int, field: _Field) -> None:
    if found != expected:
        raise ValueError(f"{found} values in field {field.number}, {expected} are expected")


def _stored(tensor: memoryview, field: _Field) -> memoryview:
    """The field's values as if packed, not copied where they are one packed run."""
    runs: list[memoryview] = []
    loose = bytearray()
    for number, kind, payload in fields(tensor):
        if number != field.number or kind not in (BYTES, field.wire):
            continue
        if kind == BYTES and not loose and not runs:
            runs.append(payload)
        else:
            loose += payload
    if not loose:
        return runs[0] if runs else memoryview(b"")
    return memoryview(b"".join((*runs, loose)))


def varints(data: memoryview) -> Array:
    """The varints that fill `data`, as uint64, or as uint8 where none is longer than a byte.

    Raises ValueError where the last is cut off, or one is longer than 10 bytes.
    """
    raw = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(raw < 0x80)
    if len(ends) == len(raw):
        return raw
    if not len(ends) or ends[-1] != len(raw) - 1:
        raise ValueError("the last varint is cut off")
    lengths = np.diff(ends, prepend=-1)
    starts = ends + 1 - lengths
    longest = int(lengths.max())
    if longest > 10:
        raise ValueError(f"a varint of {longest} bytes")
    values = np.zeros(len(ends), np.uint64)
    for i in range(longest):
        longer = np.flatnonzero(lengths > i)
        septets = (raw[starts[longer] + i] & 0x7F).astype(np.uint64)
        values[longer] |= septets << np.uint64(7 * i)
    return values


def _narrow(values: Array, dtype: DType) -> Array:
    """Decoded varints as `dtype`; ValueError where one does not fit."""
    assert dtype.numpy is not None
    target = np.dtype(np.uint16) if dtype == "float16" else dtype.numpy
    if target.kind in "iu" and values.size:
        limits = np.iinfo(target)
        low, high = int(values.min()), int(values.max())
        if low < limits.min or high > limits.max:
            raise ValueError(f"values from {low} to {high} do not fit {dtype}")
    return values.astype(target).view(dtype.numpy)
