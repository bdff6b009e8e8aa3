"""The values of datasets that libhdf5 has to read, once it is known what that would take."""

from __future__ import annotations

import zlib
from math import prod
from typing import Any

import numpy as np

from ..dtypes import Array
from ..errors import CorruptCheckpointError, UnsupportedError
from ..files import DAMAGED
from .datasets import Dataset
from .file import HDF5File

PLAUSIBLE = 64 << 20  # bytes that a dataset may have, however few are stored
RATIO = 100  # how much larger others may be than what is stored; weights hardly shrink to a half
_REFERENCE = 16  # bytes of a reference to a string
_FILTERS = {1: "deflate", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}  # those within h5py
_PIPELINES = [
    [*shuffle, *compress, *check]
    for shuffle in ([], ["shuffle"])
    for compress in ([], ["deflate"], ["lzf"])
    for check in ([], ["fletcher32"])
]


def check_dataset(file: HDF5File, dataset: Dataset) -> None:
    """Raise what `read_dataset` raises, but for what only its values tell."""
    with file.guarded(f"variable {dataset.path!r}: "):
        _opened(file, dataset)


def read_dataset(file: HDF5File, dataset: Dataset) -> Array:
    """All values of a dataset that has a numpy dtype.

    Raises CorruptCheckpointError, UnsupportedError where it is stored in a way that is not
    read, or where it would become much larger than what is stored.
    """
    assert dataset.dtype.numpy is not None
    with file.guarded(f"variable {dataset.path!r}: "):
        stored = _opened(file, dataset)
        if dataset.dtype == "string":
            return _strings(file, dataset, stored)
        values = np.empty(dataset.shape, dataset.dtype.numpy)
        if not values.size:
            return values
        kind = stored.get_type()
        if kind.get_class() == file.h5py.h5t.OPAQUE:
            _read_all(file, stored, values.view(f"V{values.itemsize}"), kind)
        else:
            _read_all(file, stored, values)
        return values


def _read_all(file: HDF5File, stored: Any, values: Array, kind: Any = None) -> None:
    every = file.h5py.h5s.ALL
    stored.read(every, every, values, mtype=kind)


def _strings(file: HDF5File, dataset: Dataset, stored: Any) -> Array:
    values = np.empty(dataset.shape, object)
    if dataset.nbytes is not None:
        fixed = np.empty(dataset.shape, f"S{stored.get_type().get_size()}")
        if fixed.size:
            _read_all(file, stored, fixed)
        values[...] = fixed
        return values
    _check_lengths(file, dataset, stored)
    each = file.h5py.Dataset(stored)
    for index in np.ndindex(dataset.shape):
        values[index] = each[index]
    return values


def _check_lengths(file: HDF5File, dataset: Dataset, stored: Any) -> None:
    """Raise where strings are too long: libhdf5 takes memory for them before it looks.

    Each reference has a length of 4 bytes first; all may be to the same bytes.
    """
    count = prod(dataset.shape)
    if not count:
        return
    offset = stored.get_offset()
    if offset is None:
        raise UnsupportedError(
            f"{file.path}: variable {dataset.path!r} has strings in chunks, which are not "
            "read; `h5repack -f NONE -l CONTI` makes a plain file of it"
        )
    references = file.source.peek(offset, count * _REFERENCE)
    lengths = np.frombuffer(references, "<u4")[::4].astype(np.int64)
    total = int(lengths.sum())
    if lengths.max() > file.size or total > max(PLAUSIBLE, RATIO * file.size):
        raise _implausible(file, dataset, f"{total} bytes of strings", file.size)


def _opened(file: HDF5File, dataset: Dataset) -> Any:
    """The dataset, once it is known that reading it takes no more than it may."""
    h5d = file.h5py.h5d
    stored = file.dataset(dataset.path)
    how = stored.get_create_plist()
    width = _REFERENCE if dataset.nbytes is None else stored.get_type().get_size()
    size = prod(dataset.shape) * width
    if how.get_external_count():
        raise UnsupportedError(
            f"{file.path}: variable {dataset.path!r} has its values in other files (external "
            "storage), which are not opened; `h5repack -l CONTI` puts them into this one"
        )
    if how.get_layout() == h5d.CHUNKED:
        _check_chunks(file, dataset, stored, how, width)
    elif how.get_layout() == h5d.CONTIGUOUS and size:
        offset = stored.get_offset()
        if offset is None or stored.get_storage_size() != size:
            raise _unwritten(file, dataset, f"its {size} bytes")
        if not 0 <= offset <= file.size - size:
            raise CorruptCheckpointError(
                f"{file.path}: variable {dataset.path!r} ends at byte {offset + size}, the "
                f"file has {file.size}; {DAMAGED}"
            )
    return stored


def _check_chunks(file: HDF5File, dataset: Dataset, stored: Any, how: Any, width: int) -> None:
    filters = [how.get_filter(i)[0] for i in range(how.get_nfilters())]
    names = [_FILTERS.get(number, f"filter {number}") for number in filters]
    if names not in _PIPELINES:
        raise UnsupportedError(
            f"{file.path}: variable {dataset.path!r} is stored through {' and '.join(names)}, "
            "which is not read; `h5repack -f NONE -l CONTI` makes a plain file of it"
        )
    chunk = how.get_chunk()
    count = prod(-(-n // c) for n, c in zip(dataset.shape, chunk, strict=True))
    one = prod(chunk) * width
    if count * one > max(PLAUSIBLE, RATIO * stored.get_storage_size()):
        raise _implausible(file, dataset, f"{count * one} bytes", stored.get_storage_size())
    found: list[Any] = []

    def add(chunk: Any) -> None:
        found.append(chunk)

    if count:
        stored.chunk_iter(add)
    if len(found) < count:
        raise _unwritten(file, dataset, f"{count - len(found)} of {count} chunks")
    for each in found:
        _check_chunk(file, dataset, stored, each, names, one)


def _check_chunk(
    file: HDF5File, dataset: Dataset, stored: Any, chunk: Any, names: list[str], size: int
) -> None:
    """Raise unless a chunk has just the bytes that it should: libhdf5 would make them all."""
    if not 0 <= chunk.size <= file.size:
        raise CorruptCheckpointError(
            f"{file.path}: variable {dataset.path!r}: impossible chunk size; {DAMAGED}"
        )
    used = [name for i, name in enumerate(names) if not chunk.filter_mask >> i & 1]
    found = chunk.size - (4 if "fletcher32" in used else 0)
    if "deflate" in used:
        _, data = stored.read_direct_chunk(chunk.chunk_offset)
        inflated = zlib.decompressobj().decompress(data[:found], size + 1)
        found = len(inflated)
    if "lzf" not in used and found != size:
        raise CorruptCheckpointError(
            f"{file.path}: variable {dataset.path!r}: a chunk at {list(chunk.chunk_offset)} "
            f"has {'more' if found > size else 'less'} than {size} bytes; {DAMAGED}"
        )


def _implausible(file: HDF5File, dataset: Dataset, what: str, stored: int) -> UnsupportedError:
    return UnsupportedError(
        f"{file.path}: variable {dataset.path!r} would take {what}, {stored} are stored: more "
        f"than {RATIO} times as much is not read; if the file is your own, "
        "`h5repack -f NONE -l CONTI` makes a plain one of it"
    )


def _unwritten(file: HDF5File, dataset: Dataset, what: str) -> CorruptCheckpointError:
    return CorruptCheckpointError(
        f"{file.path}: variable {dataset.path!r}: {what} were never written; save it again"
    )
