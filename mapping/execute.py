"""Carry a plan out: read each variable once, in the order it lies on disk, and apply its rules.

A few threads take one variable after the other and read, check, change and write it: system calls,
checksums and copies free the interpreter's lock, so one reads while another writes. None holds more
than its share of a bounded window; what is larger goes through in parts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby
from math import prod
from typing import Any

import ml_dtypes
import numpy as np

from tfreader.checkpoint import Checkpoint, VariableReader, boxes, part_of, whole
from tfreader.dtypes import Array, bytes_of
from tfreader.errors import UnsupportedError

from .plan import Entry, Plan
from .rules.ops import Changed, Composed, Join, Op, Pad, Read, Reorder, Reshape, within

Write = Callable[[Entry, int, memoryview], None]
"""Takes some bytes of a tensor, and their offset in it; called by several threads at once.

The bytes of one tensor come in order. The memory is used again when the call returns.
"""

WORKERS = 2
BLOCK = 1 << 21  # bytes that stay in a processor's cache from their reading to their writing
TILE = 256  # rows of a matrix that are transposed together
PADDING = 16  # see `_transpose`
LEAST = 8 << 20  # bytes of parts that operations are done on: in smaller ones nothing gets done
BATCH = 4 << 20  # small variables are handed out together
SMALL = 1 << 16  # bytes of variables that are read as a whole, with the least ado
MEMORY_LIMIT = 192 << 20  # with what Python and numpy take, less than 300 MB

CONVERTED = ("bool", "int4", "uint4", "int2", "uint2")  # values are not the bytes as stored

# Where all bits of the exponent are set, a value is infinite or not a number.
_EXPONENT: dict[np.dtype[Any], np.unsignedinteger[Any]] = {
    np.dtype(np.float16): np.uint16(0x7C00),
    np.dtype(ml_dtypes.bfloat16): np.uint16(0x7F80),
    np.dtype(np.float32): np.uint32(0x7F800000),
}


def stream(
    plan: Plan,
    checkpoint: Checkpoint,
    write: Write,
    progress: Callable[[int], None] = lambda _: None,
    memory_limit: int = MEMORY_LIMIT,
) -> None:
    """Give all tensors of the plan to `write`, in parts and from several threads.

    About `memory_limit` bytes of values are in memory at a time. `progress` is told of bytes
    written, by any of the threads. Raises what `Checkpoint.read` raises, and UnsupportedError where
    a cast would overflow; then what was written is worth nothing.
    """
    groups = list(_by_source(plan, checkpoint))
    checkpoint.prefetch([name for entries in groups for name in entries[0].sources])
    work = _Shared(_batches(groups))

    def loop() -> None:
        worker = _Worker(checkpoint, write, progress, memory_limit // WORKERS)
        try:
            while batch := work.take():
                for entries in batch:
                    worker.carry_out(entries)
                worker.report()
        except BaseException:
            work.stop()
            raise

    with ThreadPoolExecutor(WORKERS) as pool:
        try:
            for each in [pool.submit(loop) for _ in range(WORKERS)]:
                each.result()
        except KeyboardInterrupt:
            checkpoint.close()  # so that nobody waits for a server
            raise
        finally:
            work.stop()
    checkpoint.check_unchanged()


class _Shared:
    """Batches of work that several threads take from."""

    def __init__(self, batches: Iterator[list[list[Entry]]]) -> None:
        self._batches = batches
        self._lock = threading.Lock()

    def take(self) -> list[list[Entry]] | None:
        with self._lock:
            return next(self._batches, None)

    def stop(self) -> None:
        with self._lock:
            self._batches = iter(())


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


def _batches(groups: Iterable[list[Entry]]) -> Iterator[list[list[Entry]]]:
    batch: list[list[Entry]] = []
    size = 0
    for entries in groups:
        batch.append(entries)
        size += sum(entry.nbytes for entry in entries)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _Memory:
    """Memory that is used again and again: new memory costs a page fault every 4 KB."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = np.empty(0, np.uint8)
        self._used = 0

    def take(self, size: int) -> Array:
        start = -(-self._used // 64) * 64
        self._used = start + size
        if self._used > len(self._buffer):
            return np.empty(size, np.uint8)  # for once
        return self._buffer[start : self._used]

    def release(self) -> None:
        """All that was taken may be overwritten."""
        wanted = min(self._used, self._limit)
        if wanted > len(self._buffer):
            del self._buffer  # before there is another
            self._buffer = np.empty(wanted, np.uint8)
        self._used = 0


class _Worker:
    """One thread's memory, and its share of the window."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        write: Write,
        progress: Callable[[int], None],
        limit: int,
    ) -> None:
        self._checkpoint = checkpoint
        self._write = write
        self._progress = progress
        self._limit = limit
        self._memory = _Memory(max(limit, LEAST))
        self._block = np.empty(BLOCK, np.uint8)
        self._written = 0

    def carry_out(self, entries: list[Entry]) -> None:
        """Write the tensors that are made of the same variables."""
        infos = [self._checkpoint.info(name) for name in entries[0].sources]
        if infos and sum(info.nbytes or SMALL for info in infos) < SMALL:
            self._write_small(entries, [self._checkpoint.read(info.name) for info in infos])
            return
        readers = [self._checkpoint.reader(name) for name in entries[0].sources]
        self._memory.release()
        if self._is_held(entries, readers):
            self._write_parts(entries, readers, [self._hold(reader) for reader in readers], None)
        else:
            reads: list[Read] = [partial(r.read, allocate=self._memory.take) for r in readers]
            self._write_parts(entries, readers, reads, self._count(entries, readers))
        for reader in readers:
            reader.finish()

    def _write_small(self, entries: list[Entry], sources: list[Array]) -> None:
        for entry in entries:
            values = sources[0]
            if entry.ops:
                shapes = [values.shape for values in sources]
                reads: list[Read] = [partial(part_of, values) for values in sources]
                values = entry.part(whole(entry.shape), shapes, reads)
            self._write_values(entry, 0, values)

    def _is_held(self, entries: list[Entry], readers: list[VariableReader]) -> bool:
        """Whether the variables are read as a whole before anything is made of them."""
        if not all(reader.in_parts for reader in readers):
            return True
        if not any(entry.ops for entry in entries):
            return False
        size = sum(reader.info.nbytes or 0 for reader in readers)
        return size * (1 + self._copies(entries, readers)) <= self._limit

    def _count(self, entries: list[Entry], readers: list[VariableReader]) -> int:
        """How many elements a part may have."""
        itemsize = max(entry.source_dtype.itemsize for entry in entries)
        if not any(entry.ops for entry in entries):
            return BLOCK // itemsize
        memory = itemsize * (1 + self._copies(entries, readers))
        if any(isinstance(op, Reshape | Composed) for op in _ops(entries)):
            memory += 2 * np.dtype(np.int64).itemsize  # for indices
        return max(self._limit, LEAST) // memory

    def _copies(self, entries: list[Entry], readers: list[VariableReader]) -> int:
        """How often values may lie in memory beside those that are read from the file."""
        ops = _ops(entries)
        is_joined = any(isinstance(op, Join | Pad) for op in ops)
        is_reshaped = any(isinstance(op, Reshape | Composed | Reorder | Changed) for op in ops)
        is_sliced = any(reader.info.slices for reader in readers)
        is_converted = any(reader.info.dtype in CONVERTED for reader in readers)
        return is_joined + is_reshaped + is_sliced + 2 * is_converted

    def _hold(self, reader: VariableReader) -> Read:
        values = reader.read(whole(reader.info.shape), self._memory.take)
        return lambda box: part_of(values, box)

    def _write_parts(
        self,
        entries: list[Entry],
        readers: list[VariableReader],
        reads: list[Read],
        count: int | None,
    ) -> None:
        """Write tensors in parts of so many elements; None where their sources are held."""
        shapes = [reader.info.shape for reader in readers]
        for entry in entries:
            offset = 0
            most = prod(entry.shape) if count is None else count
            for box in boxes(entry.shape, max(most, 1)):
                if count is not None:
                    self._memory.release()
                values = entry.part(box, shapes, reads)
                self._write_values(entry, offset, values)
                offset += values.size * entry.dtype.itemsize
                del values  # before there are others
            if self._written >= BATCH:
                self.report()

    def _write_values(self, entry: Entry, offset: int, values: Array) -> None:
        """Write an array of any memory order in the entry's dtype, some rows at a time."""
        is_small = values.nbytes < SMALL
        if values.dtype == entry.dtype and (is_small or values.flags.c_contiguous):
            self._put(entry, offset, bytes_of(values))
            return
        values = values.reshape(1) if values.ndim == 0 else values
        if not values.size:
            return
        for box in boxes(values.shape, BLOCK // entry.dtype.itemsize):
            part = part_of(values, box)
            size = part.size * entry.dtype.itemsize
            block = self._block[:size].view(entry.dtype).reshape(part.shape)
            _copy(entry, part, block)
            self._put(entry, offset, block.reshape(-1).view(np.uint8))
            offset += size

    def _put(self, entry: Entry, offset: int, data: Array) -> None:
        if not len(data):
            return
        self._write(entry, offset, data.data)
        self._written += len(data)

    def report(self) -> None:
        self._progress(self._written)
        self._written = 0


def _ops(entries: Iterable[Entry]) -> list[Op]:
    return [op for entry in entries for op in within(entry.ops)]


def _transpose(values: Array, block: Array) -> None:
    """Copy a transposed matrix to a block in row-major order.

    The rows of kernels lie powers of two apart, in memory that competes for the same few lines of
    a cache. A copy with padded rows does not: three times as fast, though every value moves twice.
    """
    rows, columns = values.shape
    padded = np.empty((min(TILE, columns), rows + PADDING), block.dtype)
    for start in range(0, columns, TILE):
        part = values[:, start : start + TILE].T
        tile = padded[: len(part), :rows]
        np.copyto(tile, part, casting="unsafe")  # casts are fast along rows
        np.copyto(block[:, start : start + TILE], tile.T)


def _copy(entry: Entry, values: Array, block: Array) -> None:
    """Copy values to a contiguous block in its dtype; UnsupportedError where one overflows."""
    with np.errstate(over="ignore", invalid="ignore"):
        if values.ndim == 2 and values.strides[0] < values.strides[1]:
            _transpose(values, block)
        else:
            np.copyto(block, values, casting="unsafe")
    if values.dtype == block.dtype or block.dtype not in _EXPONENT:
        return  # what is no float is only ever given more room
    mask = _EXPONENT[block.dtype]
    if not ((block.view(mask.dtype) & mask) == mask).any():
        return
    overflowed = np.isfinite(values) & ~np.isfinite(block)
    if overflowed.any():
        raise UnsupportedError(
            f"variable {entry.sources[0]!r}: values such as {values[overflowed][0]:g} overflow "
            f"{entry.dtype}; use --dtype bfloat16 or keep"
        )
