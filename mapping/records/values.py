"""Whether the values of two tensors are the same, part by part."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations
from math import prod
from typing import Any

import ml_dtypes
import numpy as np

from tfreader.checkpoint import Box, Checkpoint, VariableReader, boxes, part_of, whole
from tfreader.dtypes import Array, bytes_of, name_of

from ..execute import BLOCK
from ..plan import Entry
from ..rules.ops import Changed, Elementwise, Read, Shape, within

HELD = 64 << 20  # bytes of a variable that is read as a whole where it is read again
MOST_AXES = 5  # of tensors that are tried in every order of their axes
SAMPLE = 1000  # values that are looked at before all are
ROUNDING = 1e-6  # of values that are computed: by how much of the largest they may differ
TABLES = ("frequencies", "sinusoids", "timing_signal")
NARROW = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))


@dataclass
class Difference:
    """How far a tensor of a model is from what the plan makes.

    `largest` is the largest difference, NaN where only one of both is a number; `count` how many
    values differ. `rounded` are the types to which the plan's values were rounded wherever they
    differ. `allowed` is how far values may differ that are computed.
    """

    allowed: float = 0.0
    count: int = 0
    largest: float = 0.0
    rounded: tuple[np.dtype[Any], ...] = NARROW
    scale: float = 0.0

    @property
    def is_equal(self) -> bool:
        return self.count == 0 or self.largest <= self.allowed * max(self.scale, 1.0)

    def add(self, planned: Array, found: Array) -> None:
        """Count a part of both, the plan's in the type in which it would be written."""
        made, found = map(np.atleast_1d, _comparable(planned, found))
        if np.array_equal(bytes_of(made), bytes_of(found)):
            return
        is_other = ~((made == found) | _nan(made) & _nan(found))
        count = int(np.count_nonzero(is_other))
        if not count:
            return
        self.count += count
        self.rounded = tuple(kind for kind in self.rounded if _is_rounded(made, found, kind))
        with np.errstate(over="ignore", invalid="ignore"):
            ours, theirs = _wide(made), _wide(found)
            gaps = np.abs(ours - theirs)
            gaps[~is_other] = 0  # also where both are infinite, or no numbers
            self.largest = float(np.maximum(self.largest, gaps.max()))
        if self.allowed:
            self.scale = max(self.scale, float(np.abs(ours).max()))


def _wide(values: Array) -> Array:
    """The values in a type in which differences are taken: single precision for what it holds."""
    if values.dtype.kind == "c":
        return values
    is_short = "float" in name_of(values.dtype) and values.dtype.itemsize <= 4
    return values.astype(np.float32 if is_short else np.float64, copy=False)


def _comparable(planned: Array, found: Array) -> tuple[Array, Array]:
    """Both in one type: the model's where both are floats, else one that holds either."""
    if planned.dtype == found.dtype:
        return planned, found
    with np.errstate(over="ignore", invalid="ignore"):
        if "float" in name_of(planned.dtype) and "float" in name_of(found.dtype):
            return planned.astype(found.dtype), found
        wide = np.complex128 if "c" in planned.dtype.kind + found.dtype.kind else np.float64
        return planned.astype(wide), found.astype(wide)


def _nan(values: Array) -> Any:
    return values != values  # noqa: PLR0124 - of any type, also those that numpy does not know


def _is_rounded(made: Array, found: Array, kind: np.dtype[Any]) -> bool:
    if made.dtype not in (np.float32, np.float64):
        return False
    first = made.reshape(-1)[:SAMPLE], found.reshape(-1)[:SAMPLE]
    with np.errstate(over="ignore", invalid="ignore"):
        return all(
            np.array_equal(ours.astype(kind).astype(made.dtype), theirs)
            for ours, theirs in (first, (made, found))
        )


def computed(entry: Entry) -> float:
    """How far its values may be from those of another who computes the same."""
    is_computed = entry.fill is not None and entry.fill.value in TABLES
    is_changed = any(isinstance(op, Changed | Elementwise) for op in within(entry.ops))
    return ROUNDING if is_computed or is_changed else 0.0


def box_at(shape: Shape, start: int, count: int) -> Box:
    """The part of a tensor that has these elements, which lie in one piece, as `stream` cuts it."""
    box: list[range] = []
    for axis, size in enumerate(shape):
        step = prod(shape[axis + 1 :])
        first, start = divmod(start, step) if step else (0, 0)
        if count > step:
            rows = count // step if step else size
            return (*box, range(first, first + rows), *whole(shape[axis + 1 :]))
        box.append(range(first, first + 1))
    return tuple(box)


def axes_between(
    entry: Entry, checkpoint: Checkpoint, found: VariableReader
) -> tuple[int, ...] | None:
    """The order of axes in which the model has the plan's very values, other than the plan's own.

    None where it has them in none. An order that is wrong shows with the first values.
    """
    rank = len(entry.shape)
    if not 2 <= rank <= MOST_AXES or entry.nbytes == 0:
        return None
    shapes = [checkpoint.info(name).shape for name in entry.sources]
    reads = [_read(checkpoint.reader(name)) for name in entry.sources]
    theirs = _read(found)
    for axes in permutations(range(rank)):
        there = tuple(entry.shape[axis] for axis in axes)
        if there != found.info.shape or axes == tuple(range(rank)):
            continue
        back = np.argsort(axes)
        if all(
            _is_same(
                entry.part(box, shapes, reads),
                theirs(tuple(box[axis] for axis in axes)).transpose(back),
                entry,
            )
            for box in boxes(entry.shape, BLOCK // entry.dtype.itemsize)
        ):
            return axes
    return None


def _is_same(planned: Array, found: Array, entry: Entry) -> bool:
    difference = Difference(computed(entry))
    difference.add(planned.astype(entry.dtype), found)
    return difference.is_equal


def _read(reader: VariableReader) -> Read:
    """Reads its parts, from memory where it is small or cannot be read in parts."""
    if reader.in_parts and (reader.info.nbytes or 0) > HELD:
        return reader.read
    values: list[Array] = []

    def read(box: Box) -> Array:
        if not values:
            values.append(reader.read(whole(reader.info.shape)))
        return part_of(values[0], box)

    return read
