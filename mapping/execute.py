"""Carry a plan out: read each variable once, in the order it lies on disk, and apply its rule."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tfreader.checkpoint import Checkpoint
from tfreader.dtypes import Array
from tfreader.errors import UnsupportedError

from .plan import Entry, Plan


def execute(plan: Plan, checkpoint: Checkpoint) -> Iterator[tuple[Entry, Array]]:
    """The plan's tensors one by one, in its dtypes; the arrays need not be contiguous.

    Raises what `Checkpoint.read` raises, and UnsupportedError where a cast would overflow.
    """
    last: tuple[str, Array] | None = None
    for entry in sorted(plan.entries, key=lambda entry: _position(checkpoint, entry)):
        if last is None or entry.sources != (last[0],):  # a filled tensor has no sources
            arrays = [checkpoint.read(name) for name in entry.sources]
            last = (entry.sources[0], arrays[0]) if len(arrays) == 1 else last
        else:
            arrays = [last[1]]  # several tensors cut from one variable
        yield entry, _cast(entry, entry.apply(arrays))


def _position(checkpoint: Checkpoint, entry: Entry) -> tuple[int, int]:
    if entry.fill is not None:
        return -1, 0
    info = checkpoint.info(entry.sources[0])
    return (-1, 0) if info.shard is None or info.offset is None else (info.shard, info.offset)


def _cast(entry: Entry, array: Array) -> Array:
    if array.dtype == entry.dtype:
        return array
    with np.errstate(over="ignore"):
        result = array.astype(entry.dtype)
    overflowed = np.isfinite(array) & ~np.isfinite(result)
    if overflowed.any():
        raise UnsupportedError(
            f"variable {entry.sources[0]!r}: values such as {array[overflowed][0]:g} overflow "
            f"{entry.dtype}; use --dtype bfloat16 or keep"
        )
    return result
