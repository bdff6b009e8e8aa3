"""Two checkpoints beside each other, variable by variable, in memory of bounded size."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from .checkpoint import Checkpoint, TensorInfo
from .dtypes import Array
from .errors import TFReaderError
from .object_graph import OBJECT_GRAPH
from .statistics import native, parts

ONLY_IN_A, ONLY_IN_B = "only in A", "only in B"


@dataclass
class Values:
    """How many of so many values differ, the largest difference, and at which index that is.

    It is infinite where one of both values is, or is not a number. Strings have none.
    """

    different: int = 0
    count: int = 0
    largest: float | None = None
    at: tuple[int, ...] = ()


class Compared(NamedTuple):
    """A variable of either checkpoint or of both.

    `values` is None where none were compared: where the shapes differ, or a type has no values.
    """

    name: str
    a: TensorInfo | None
    b: TensorInfo | None
    values: Values | None = None

    @property
    def kinds(self) -> list[str]:
        """What differs: ONLY_IN_A, ONLY_IN_B, or any of "shape", "dtype" and "values"."""
        if self.b is None:
            return [ONLY_IN_A]
        if self.a is None:
            return [ONLY_IN_B]
        differs = {
            "shape": self.a.shape != self.b.shape,
            "dtype": self.a.dtype != self.b.dtype,
            "values": self.values is not None and self.values.different > 0,
        }
        return [kind for kind, is_other in differs.items() if is_other]


def differences(
    a: Checkpoint,
    b: Checkpoint,
    pattern: re.Pattern[str] | None = None,
    *,
    names_only: bool = False,
    rtol: float = 0.0,
    atol: float = 0.0,
) -> Iterator[Compared]:
    """Every variable of both, those of one alone last.

    They belong together by their keys, or by any of their `names`. What is not a number is equal
    to itself, and zero to zero of either sign. Values are the same where
    abs(a - b) <= atol + rtol * abs(b), as in numpy.isclose; with `names_only` none are read. Raises
    what reading raises.
    """
    pairs = [
        (mine, other)
        for mine, other in _pairs(a, b)
        if pattern is None or _finds(pattern, a, mine) or _finds(pattern, b, other)
    ]
    if not names_only:
        a.prefetch([mine for mine, other in pairs if mine and other])
        b.prefetch([other for mine, other in pairs if mine and other])
    for mine, other in pairs:
        first = a.info(mine) if mine is not None else None
        second = b.info(other) if other is not None else None
        name = a.shown(mine) if mine is not None else b.shown(other or "")
        values = None
        if first and second and not names_only and _are_comparable(first, second):
            found = zip(parts(a, first.name), parts(b, second.name), strict=True)
            values = _compare(found, first.shape, rtol, atol)
        yield Compared(name, first, second, values)


def _pairs(a: Checkpoint, b: Checkpoint) -> Iterator[tuple[str | None, str | None]]:
    """The keys of what belongs together."""
    for checkpoint in (a, b):
        with suppress(TFReaderError):  # then there are keys alone
            _ = checkpoint.object_graph
    left = dict.fromkeys(key for key in b if key != OBJECT_GRAPH)
    alone = []
    for key in a:
        if key == OBJECT_GRAPH:
            continue
        found = (b.info(name).name for name in a.names(key) if name in b)
        other = next((each for each in found if each in left), None)
        if other is None:
            alone.append(key)
        else:
            del left[other]
            yield key, other
    yield from ((key, None) for key in alone)
    yield from ((None, key) for key in left)


def _finds(pattern: re.Pattern[str], checkpoint: Checkpoint, key: str | None) -> bool:
    return key is not None and any(map(pattern.search, checkpoint.names(key)))


def _are_comparable(a: TensorInfo, b: TensorInfo) -> bool:
    # numpy takes float64 for equal to None
    has_values = a.dtype.numpy is not None and b.dtype.numpy is not None
    return has_values and a.shape == b.shape and (a.dtype == "string") == (b.dtype == "string")


def _compare(
    found: Iterable[tuple[Array, Array]], shape: tuple[int, ...], rtol: float, atol: float
) -> Values:
    """What all parts tell, in row-major order."""
    total = Values()
    for a, b in found:
        part = _differing(native(a).reshape(-1), native(b).reshape(-1), rtol, atol)
        if part.largest is not None and part.largest > (total.largest or 0):
            at = np.unravel_index(total.count + part.at[0], shape)
            total.largest, total.at = part.largest, tuple(map(int, at))
        total.different += part.different
        total.count += part.count
    return total


def _differing(a: Array, b: Array, rtol: float, atol: float) -> Values:
    """Flat values that follow each other, of which the index counts."""
    same: Any = (a == b) & _is_exact(a, b) & _is_exact(b, a)
    if a.dtype.kind == "O" or same.all():
        return Values(int(np.count_nonzero(~same)), a.size)
    (places,) = np.nonzero(~same)
    wide = [_wide(values[places]) for values in (a, b)]
    with np.errstate(invalid="ignore", over="ignore"):
        distance = np.abs(wide[0] - wide[1])
        distance[distance == 0] = 1  # of long integers, whose difference a double may not have
        distance[np.isnan(distance)] = np.inf
        is_other = ~((distance <= atol + rtol * np.abs(wide[1])) & np.isfinite(distance))
        is_other &= ~(np.isnan(wide[0]) & np.isnan(wide[1]))
    places, distance = places[is_other], distance[is_other]
    if not places.size:
        return Values(0, a.size)
    most = int(np.argmax(distance))
    return Values(places.size, a.size, float(distance[most]), (int(places[most]),))


def _is_exact(whole: Array, others: Array) -> Any:
    """Whether integers are still themselves as the doubles that numpy compares with others."""
    if whole.dtype.kind not in "iu" or whole.itemsize < 8 or others.dtype.kind not in "fc":
        return True
    doubles = whole.astype(np.float64)
    fits = doubles < float(np.iinfo(whole.dtype).max)  # which is itself no double
    return fits & (np.where(fits, doubles, 0).astype(whole.dtype) == whole)


def _wide(values: Array) -> Array:
    """The values in a type that holds the differences between them."""
    if values.dtype.kind == "c":
        return values.astype(np.complex128)
    is_long = values.dtype.kind in "iu" and values.itemsize == 8
    return values.astype(np.longdouble if is_long else np.float64)
