"""TensorFlow's data types: enum number, name, and the numpy type that holds the values.

Numbers are those of TensorFlow's types.proto; every width is that of one element in a shard, where
types below one byte are stored unpacked, one element a byte.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import ml_dtypes
import numpy as np

Array = np.ndarray[Any, Any]


@cache
def name_of(dtype: np.dtype[Any]) -> str:
    """numpy's name of a dtype, which numpy would put together each time."""
    return str(dtype)


def bytes_of(values: Array) -> Array:
    """The bytes of values in row-major order, as a view where they lie so."""
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


class DType(str):
    """A TensorFlow dtype: its name as a `str`, and how its elements are stored.

    `numpy` is the numpy dtype of the values, or None (`variant`, unknown types).
    """

    __slots__ = ("number", "numpy")

    number: int
    numpy: np.dtype[Any] | None

    def __new__(cls, name: str, number: int, numpy: Any = None) -> DType:
        self = super().__new__(cls, name)
        self.number = number
        self.numpy = None if numpy is None else np.dtype(numpy)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return DType, (str(self), self.number, self.numpy)

    @property
    def itemsize(self) -> int | None:
        """Bytes per stored element, None where it varies."""
        return None if self.numpy is None or self.numpy.kind == "O" else self.numpy.itemsize


DTYPES: dict[int, DType] = {
    number: DType(name, number, numpy)
    for number, name, numpy in (
        (1, "float32", np.float32),
        (2, "float64", np.float64),
        (3, "int32", np.int32),
        (4, "uint8", np.uint8),
        (5, "int16", np.int16),
        (6, "int8", np.int8),
        (7, "string", np.object_),
        (8, "complex64", np.complex64),
        (9, "int64", np.int64),
        (10, "bool", np.bool_),
        (11, "qint8", np.int8),
        (12, "quint8", np.uint8),
        (13, "qint32", np.int32),
        (14, "bfloat16", ml_dtypes.bfloat16),
        (15, "qint16", np.int16),
        (16, "quint16", np.uint16),
        (17, "uint16", np.uint16),
        (18, "complex128", np.complex128),
        (19, "float16", np.float16),
        (20, "resource", None),
        (21, "variant", None),
        (22, "uint32", np.uint32),
        (23, "uint64", np.uint64),
        (24, "float8_e5m2", ml_dtypes.float8_e5m2),
        (25, "float8_e4m3fn", ml_dtypes.float8_e4m3fn),
        (26, "float8_e4m3fnuz", ml_dtypes.float8_e4m3fnuz),
        (27, "float8_e4m3b11fnuz", ml_dtypes.float8_e4m3b11fnuz),
        (28, "float8_e5m2fnuz", ml_dtypes.float8_e5m2fnuz),
        (29, "int4", ml_dtypes.int4),
        (30, "uint4", ml_dtypes.uint4),
        (31, "int2", ml_dtypes.int2),
        (32, "uint2", ml_dtypes.uint2),
        (33, "float4_e2m1fn", ml_dtypes.float4_e2m1fn),
    )
}


def dtype_of(number: int) -> DType:
    """The dtype with that enum number; an unknown number gives a dtype without a numpy type."""
    return DTYPES.get(number) or DType(f"unknown({number})", number)


def from_stored(data: Array, dtype: DType, big_endian: bool) -> Array:
    """Values of `dtype` from the stored bytes `data` (uint8, writable; may be changed in place)."""
    assert dtype.numpy is not None
    if big_endian and dtype.numpy.itemsize > 1:
        component = dtype.numpy.itemsize // (2 if dtype.numpy.kind == "c" else 1)
        if component > 1:
            data.view(f"V{component}").view(f"u{component}").byteswap(inplace=True)
    if dtype == "bool":
        return data.astype(np.bool_)
    if dtype in ("int4", "int2"):
        half = 8 if dtype == "int4" else 2
        return (((data & (2 * half - 1)) ^ half).astype(np.int8) - half).astype(dtype.numpy)
    if dtype in ("uint4", "uint2"):
        return (data & (15 if dtype == "uint4" else 3)).astype(dtype.numpy)
    if dtype == "float4_e2m1fn":
        return (data & 15).view(dtype.numpy)
    return data.view(dtype.numpy)
