"""Carry a plan out: read each variable once, in the order it lies on disk, and apply its rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby

import numpy as np

from tfreader.checkpoint import Checkpoint
from tfreader.dtypes import Array
from tfreader.errors import UnsupportedError

from .plan import Entry, Plan

Write = Callable[[Entry, int, memoryview], None]
"""Takes some bytes of a tensor, and their offset in it."""

WORKERS = 2  # one reads while the other writes; system calls, checksums and copies free the GIL
BLOCK = 1 << 20


def execute(plan: Plan, checkpoint: Checkpoint) -> Iterator[tuple[Entry, Array]]:
    """The plan's tensors one by one, in its dtypes; the arrays need not be contiguous.

    Raises what `Checkpoint.read` raises, and UnsupportedError where a cast would overflow.
    """
    for entries in _by_source(plan, checkpoint):
        arrays = [checkpoint.read(name) for name in entries[0].sources]
        for entry in entries:
            yield entry, _cast(entry, entry.apply(arrays))


def stream(
    plan: Plan,
    checkpoint: Checkpoint,
    write: Write,
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Give all tensors of the plan to `write`, in blocks and by several threads at once.

    What is copied or cast never lies in memory as a whole; what needs an operation does, one
    variable a thread. `progress` is told of bytes written. Raises what `execute` raises; then what
    was written is worth nothing.
    """
    with ThreadPoolExecutor(WORKERS) as pool:
        work = pool.map(partial(_write, checkpoint, write), _by_source(plan, checkpoint))
        for nbytes in work:
            progress(nbytes)


def _by_source(plan: Plan, checkpoint: Checkpoint) -> Iterator[list[Entry]]:
    """The plan's entries, those cut from the same variables together, in the order on disk."""

    def position(entry: Entry) -> tuple[int, int, tuple[str, ...]]:
        if entry.fill is not None:
            return -1, 0, ()
        info = checkpoint.info(entry.sources[0])
        if info.shard is None or info.offset is None:
            return -1, 0, entry.sources
        return info.shard, info.offset, entry.sources

    ordered = sorted(plan.entries, key=position)
    return (list(entries) for _, entries in groupby(ordered, key=lambda entry: entry.sources))


def _write(checkpoint: Checkpoint, write: Write, entries: list[Entry]) -> int:
    """Write the tensors that are made of the same variables; returns their bytes."""
    (first, *others) = entries
    in_order = not (others or first.ops or first.fill)
    chunks = checkpoint.chunks(first.sources[0], BLOCK) if in_order else None
    if chunks is not None:
        offset = 0
        for chunk in chunks:
            data = _cast(first, np.frombuffer(chunk, first.source_dtype)).view(np.uint8).data
            write(first, offset, data)
            offset += len(data)
        return offset
    arrays = [checkpoint.read(name) for name in first.sources]
    for entry in entries:
        _write_array(entry, entry.apply(arrays), write)
    return sum(entry.nbytes for entry in entries)


def _write_array(entry: Entry, array: Array, write: Write) -> None:
    """Write an array of any memory order in the entry's dtype, some rows at a time.

    A block that stays in the processor's cache makes transposing three times as fast.
    """
    array = array.reshape(1) if array.ndim == 0 else array
    row = entry.nbytes // len(array) if len(array) else 0
    count = max(1, BLOCK // max(row, 1))
    for start in range(0, len(array), count):
        rows = np.ascontiguousarray(_cast(entry, array[start : start + count]))
        write(entry, start * row, rows.reshape(-1).view(np.uint8).data)


def _cast(entry: Entry, array: Array) -> Array:
    if array.dtype == entry.dtype:
        return array
    with np.errstate(over="ignore"):
        result = array.astype(entry.dtype)
    if np.isfinite(result).all():
        return result
    overflowed = np.isfinite(array) & ~np.isfinite(result)
    if overflowed.any():
        raise UnsupportedError(
            f"variable {entry.sources[0]!r}: values such as {array[overflowed][0]:g} overflow "
            f"{entry.dtype}; use --dtype bfloat16 or keep"
        )
    return result
