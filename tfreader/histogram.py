"""A histogram of values that come in parts, whose range nobody knows beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import frexp
from typing import Any, Self

import numpy as np

from .dtypes import Array

BINS = 64  # at most; at least half as many, unless there are so few values apart
_DIGITS = 53  # of a double; bins are no narrower than the step from one to the next
_LEAST = -1074  # exponent of the least double


class Histogram:
    """Counts of finite values in bins of one width, a power of two, that lie at its multiples.

    So the bins of twice the width are pairs of these, and where the range grows no value has to be
    looked at again. What is counted is the same in whatever parts and order values come.
    """

    def __init__(self) -> None:
        self._exponent = _LEAST  # of the width
        self._first = 0  # which multiple of the width the first bin begins at
        self._counts: Array = np.zeros(0, np.int64)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Self:
        """The histogram that gave these data."""
        found = cls()
        found._counts = np.array(data["counts"], np.int64)
        width = (Fraction(data["high"]) - Fraction(data["low"])) / found._counts.size  # exactly
        found._exponent = width.numerator.bit_length() - width.denominator.bit_length()
        found._first = int(np.ldexp(data["low"], -found._exponent))
        return found

    def add(self, values: Array) -> None:
        """Count real, finite values in."""
        if not values.size:
            return
        values = values.astype(np.float64, copy=False).reshape(-1)
        low, high = float(values.min()), float(values.max())
        other = type(self)()
        other._exponent = _finest(low, high)
        other._first = int(_bins(np.array(low), other._exponent))
        if int(_bins(np.array(high), other._exponent)) - other._first >= BINS:
            other._exponent += 1
            other._first >>= 1
        other._counts = np.bincount(_bins(values, other._exponent) - other._first)
        self.merge(other)

    def merge(self, other: Histogram) -> None:
        """Count in what another has counted."""
        both = [each for each in (self, other) if each._counts.size]
        if not both:
            return
        exponent = max(each._exponent for each in both)
        first = min(each._first >> exponent - each._exponent for each in both)
        last = max(each._last >> exponent - each._exponent for each in both)
        while last - first >= BINS:
            exponent, first, last = exponent + 1, first >> 1, last >> 1
        counts = np.zeros(last - first + 1, np.int64)
        for each in both:
            own = np.arange(each._first, each._last + 1) >> exponent - each._exponent
            np.add.at(counts, own - first, each._counts)
        self._exponent, self._first, self._counts = exponent, first, counts

    @property
    def _last(self) -> int:
        return self._first + self._counts.size - 1

    def to_data(self) -> dict[str, Any] | None:
        """The counts of equal bins from `low` to `high`; None without any value."""
        if not self._counts.size:
            return None
        ends = np.array([self._first, self._first + self._counts.size], np.float64)
        low, high = np.ldexp(ends, self._exponent).tolist()
        return {"low": low, "high": high, "counts": self._counts.tolist()}


def _finest(low: float, high: float) -> int:
    """The exponent of the narrowest bins for a range of values; a larger range has no less."""
    apart = high / 2 - low / 2  # the whole may be more than there is
    by_range = frexp(apart)[1] + 1 - BINS.bit_length() + 1 if apart else _LEAST
    largest = max(abs(low), abs(high))
    return max(_LEAST, by_range, frexp(largest)[1] - _DIGITS if largest else _LEAST)


def _bins(values: Array, exponent: int) -> Array:
    return np.floor(np.ldexp(values, -exponent)).astype(np.int64)
