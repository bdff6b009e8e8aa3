"""What the datasets of an HDF5 file are: types, shapes, and where their values lie."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

from ..dtypes import DTYPES, DType
from .file import HDF5File

_BY_NUMPY = {
    dtype.numpy: dtype for dtype in DTYPES.values() if dtype.itemsize and not dtype.startswith("q")
}
_BY_NAME = {str(dtype): dtype for dtype in _BY_NUMPY.values()}
_OPAQUE = DType("opaque", 0)
_BFLOAT16 = DTYPES[14]
_STRING = DTYPES[7]


class Dataset(NamedTuple):
    """A dataset as its file declares it.

    `offset` is where its values lie, where they lie as in memory; else libhdf5 has to read them.
    A dtype without a numpy type stands for one that has no values to give, and says why.
    """

    path: str
    dtype: DType
    shape: tuple[int, ...]
    nbytes: int | None
    offset: int | None = None


def without_values(path: str, reason: str) -> Dataset:
    return Dataset(path, DType(reason, 0), (), None)


def describe(file: HDF5File, path: str, stored: Any) -> Dataset:
    """A dataset, but for what texts beside it tell; see `typed`."""
    h5py = file.h5py
    layout = stored.get_create_plist().get_layout()
    space = stored.get_space()
    if space.get_simple_extent_type() == h5py.h5s.NULL:
        return without_values(path, "null dataspace")
    shape = tuple(map(int, space.get_simple_extent_dims()))
    kind = stored.get_type()
    size: int | None = kind.get_size()
    dtype, is_plain = _dtype(h5py.h5t, kind)
    if kind.get_class() == h5py.h5t.STRING and kind.is_variable_str():
        size = None
    nbytes = None if size is None else prod(shape) * size
    is_plain &= layout == h5py.h5d.CONTIGUOUS and bool(nbytes)
    return Dataset(path, dtype, shape, nbytes, stored.get_offset() if is_plain else None)


def _dtype(h5t: Any, kind: Any) -> tuple[DType, bool]:
    """The type of a dataset's values, and whether they are stored as numpy has them."""
    if kind.get_class() == h5t.STRING:
        return _STRING, False
    if kind.get_class() == h5t.OPAQUE:
        return _OPAQUE, True
    try:
        dtype = kind.dtype
    except (TypeError, ValueError):
        return DType("unknown", 0), False
    found = _BY_NUMPY.get(dtype.newbyteorder("="))
    if found is None:
        is_reference = kind.get_class() == h5t.REFERENCE
        return DType("reference" if is_reference else str(dtype)[:80], 0), False
    return found, dtype.isnative and h5t.py_create(dtype).equal(kind)


def typed(file: HDF5File, dataset: Dataset) -> tuple[Dataset, bool]:
    """The dataset with its type, and whether that was assumed.

    Keras 3 stores values that HDF5 has no type for as bytes, named beside.
    """
    if dataset.dtype != _OPAQUE:
        return dataset, False
    stored = file.dataset(dataset.path)
    size = stored.get_type().get_size()
    dtype = _BY_NAME.get(file.text(stored, b"dtype"))
    is_assumed = dtype is None and size == 2
    if is_assumed:
        dtype = _BFLOAT16
    if dtype is not None and dtype.itemsize == size:
        return dataset._replace(dtype=dtype), is_assumed
    return dataset._replace(dtype=DType(f"opaque[{size}]", 0), offset=None), False
