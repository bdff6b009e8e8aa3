"""What the values of a variable are like, read in parts of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .checkpoint import Checkpoint, boxes, part_of
from .dtypes import Array
from .histogram import Histogram

_LARGE = 1e150  # values whose squares double precision cannot add up
_LONG = 2**53  # from here on integers are not all doubles


def parts(
    checkpoint: Checkpoint, name: str, rows: range | None = None, count: int = 1 << 20
) -> Iterator[Array]:
    """The values of a variable or of consecutive rows of it, in row-major order.

    They come in parts of at most `count` elements. Strings and what cannot be read in parts (V1,
    compressed datasets) are read at once. Unless some rows alone are read, every byte has been
    checked once there is no more part. Raises what `Checkpoint.read` raises.
    """
    info = checkpoint.info(name)
    reader = checkpoint.reader(info.name) if info.dtype.itemsize is not None else None
    if reader is None or not reader.in_parts:
        values = checkpoint.read(info.name, None if rows is None else slice(rows.start, rows.stop))
        if values.size <= count:  # as a scalar is, which has no parts
            yield values
            return
        yield from (part_of(values, box) for box in boxes(values.shape, count))
        return
    shape = info.shape if rows is None else (len(rows), *info.shape[1:])
    for box in boxes(shape, count):
        if rows is None:
            yield reader.read(box)
        else:
            first = range(box[0].start + rows.start, box[0].stop + rows.start)
            yield reader.read((first, *box[1:]))
    if rows is None:
        reader.finish()


class Statistics:
    """Of some values: how many are zero, not a number or infinite, and of all others the least,
    the largest, their mean and standard deviation (of all, not of a sample).

    `of` says what the values are: those of the variable, of complex ones the "magnitudes", of
    strings the "lengths" in bytes. What is not known without finite values is None. A `histogram`
    of these is there if one is asked for.
    """

    def __init__(self, has_histogram: bool = False) -> None:
        self.histogram = Histogram() if has_histogram else None
        self.of = "values"
        self.count = 0
        self.nan = 0
        self.inf = 0
        self.zeros = 0
        self.min: float | int | None = None
        self.max: float | int | None = None
        self._mean = np.longdouble(0)
        self._squares = np.longdouble(0)  # sum of the squared distances from the mean

    @property
    def mean(self) -> float | None:
        return None if self.min is None else _finite(self._mean)

    @property
    def std(self) -> float | None:
        finite = self.count - self.nan - self.inf
        return None if self.min is None else _finite(np.sqrt(self._squares / finite))

    @np.errstate(over="ignore", invalid="ignore")  # Windows' long doubles are double ones
    def add(self, values: Array) -> None:
        """Count values in."""
        self.of, values = _numbers(values)
        if not values.size:
            return
        other = Statistics()
        other.count = values.size
        other.zeros = values.size - int(np.count_nonzero(values))
        if values.dtype.kind == "f" and not np.isfinite([values.min(), values.max()]).all():
            other.nan = int(np.count_nonzero(np.isnan(values)))
            finite = values[np.isfinite(values)]
            other.inf = values.size - other.nan - finite.size
            values = finite
        if values.size:
            other.min, other.max = values.min().item(), values.max().item()
            if self.histogram is not None:
                self.histogram.add(values)
            largest = max(abs(other.min), abs(other.max))
            shift = np.longdouble(0)
            if values.dtype.kind in "iu" and largest > _LONG:
                shift = np.longdouble(other.min)
                values = np.asarray(values - values.min()).view(np.uint64)  # also what wraps around
            is_large = values.dtype.kind == "f" and largest > _LARGE
            wide: Any = values.astype(np.longdouble if is_large else np.float64)
            mean = wide.mean()
            wide -= mean
            other._mean = shift + np.longdouble(mean)
            other._squares = np.longdouble(np.square(wide, out=wide).sum())
        self.merge(other)

    @np.errstate(over="ignore", invalid="ignore")
    def merge(self, other: Statistics) -> None:
        """Count in what another has counted (Chan, Golub and LeVeque 1979)."""
        mine, others = (each.count - each.nan - each.inf for each in (self, other))
        for key in ("count", "nan", "inf", "zeros"):
            setattr(self, key, getattr(self, key) + getattr(other, key))
        if other.min is None or other.max is None:
            return
        self.min = other.min if self.min is None else min(self.min, other.min)
        self.max = other.max if self.max is None else max(self.max, other.max)
        apart = other._mean - self._mean
        self._mean += apart * others / (mine + others)
        self._squares += other._squares + apart * apart * mine * others / (mine + others)

    def __repr__(self) -> str:
        return f"<Statistics {self.to_data()}>"

    def to_data(self) -> dict[str, Any]:
        """The statistics as plain data, for JSON."""
        keys = ("of", "count", "nan", "inf", "zeros", "min", "max", "mean", "std")
        return {key: getattr(self, key) for key in keys}


def statistics(checkpoint: Checkpoint, name: str, has_histogram: bool = False) -> Statistics:
    """The statistics of a variable, whose bytes are all checked. Raises what `read` raises."""
    found = Statistics(has_histogram)
    for part in parts(checkpoint, name):
        found.add(part)
    return found


def _numbers(values: Array) -> tuple[str, Array]:
    """What the numbers are, and the numbers in a type that numpy itself has."""
    if values.dtype.kind == "O":
        return "lengths", np.fromiter(map(len, values.flat), np.int64, values.size)
    if values.dtype.kind == "c":
        return "magnitudes", np.abs(values.astype(np.complex128))
    return "values", native(values)


def native(values: Array) -> Array:
    """The same values in a type that numpy itself computes with."""
    kind = values.dtype.kind
    if kind == "b":
        return values.view(np.uint8)
    if kind in "iucO" or (kind == "f" and values.itemsize > 2):
        return values
    is_whole = values.dtype.name.startswith(("int", "uint"))  # int4 of ml_dtypes and the like
    return values.astype(np.int16 if is_whole else np.float32)


def _finite(number: np.longdouble) -> float | None:
    found = float(number)
    return found if np.isfinite(found) else None
