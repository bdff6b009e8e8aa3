"""A file behind a URL, read at given offsets; what will be needed is fetched ahead."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
import weakref
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future
from functools import partial
from http import HTTPStatus
from io import BufferedReader
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import CheckpointNotFoundError, CorruptCheckpointError, RemoteError
from ..protocols import Expected, Raw, SourceFile
from ..sniff import clause
from . import calls
from .objects import BLOCK, RemoteObject, ShortBodyError

if TYPE_CHECKING:
    from obstore import Bytes

T = TypeVar("T")

CONNECTIONS = 8
STEP = BLOCK * CONNECTIONS  # bytes that are asked for at once
MOST_BLOCKS = 1 << 15  # fetched ahead: 128 GiB
WASTE = 0.01  # of the bytes that are needed: what may be fetched besides to save requests
NOT_SATISFIABLE = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
LARGEST_GAP = 1 << 20  # bytes that are fetched besides in one place, at most

_gate = asyncio.Semaphore(CONNECTIONS)


class RemoteFile:
    """A file behind a URL, read at given offsets. Reads may come from several threads at once.

    What was announced to `expect` is fetched ahead, once, into a temporary file (in TMPDIR); other
    reads ask the server. A copy, by pickle too, opens the URL again. Raises
    CheckpointNotFoundError, RemoteError.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._object = RemoteObject(path)
        self._lock = threading.RLock()
        self._blocks: list[_Block] = []
        if path.endswith("/"):
            raise CorruptCheckpointError(f"{path}: not a regular file")
        try:
            self.source = self._object.info()
        except FileNotFoundError:
            raise CheckpointNotFoundError(f"{path}: no such file") from None
        self.size = self.source.size

    def __reduce__(self) -> tuple[Callable[[str, SourceFile], RemoteFile], tuple[str, SourceFile]]:
        return _reopened, (self.path, self.source)

    def read_into(self, offset: int, buffer: Any) -> None:
        """Fill the writable `buffer` (bytes-like, contiguous) from `offset` on."""
        view = memoryview(buffer).cast("B")
        self._check_end(offset, len(view))
        for start, stop, block in self._pieces(offset, offset + len(view)):
            part = view[start - offset : stop - offset]
            if block is None:
                self._fetch_into(start, part)
            else:
                assert block.arrival is not None
                self._wait(block.arrival)
                block.spool.read_into(start, part)

    def read(self, offset: int, size: int) -> bytearray:
        """The `size` bytes at `offset`. The caller bounds `size` by the file's size."""
        self._check_end(offset, size)
        data = bytearray()  # that grows by what has come: servers may claim any size
        while len(data) < size:
            part = bytearray(min(STEP, size - len(data)))
            self.read_into(offset + len(data), part)
            data += part
        return data

    def _check_end(self, offset: int, size: int) -> None:
        if offset + size > self.size:
            self.check_unchanged()
            it_is = clause(self.path, BufferedReader(Raw(self, owns=False)))
            raise CorruptCheckpointError(
                f"{self.path}: truncated: bytes {offset} to {offset + size} are needed, the file "
                f"has {self.size}{it_is}"
            )

    def expect(self, ranges: Iterable[tuple[int, int]]) -> Expected:
        """Begin to fetch (offset, size) ranges that will be read, in that order."""
        ends = ((start, min(start + size, self.size)) for start, size in ranges)
        wanted = [(start, end) for start, end in ends if start < end]
        expected = _Expected(self)
        with self._lock:
            pieces = [piece for wish in wanted for piece in self._pieces(*wish)]
            for run in coalesce((start, end) for start, end, block in pieces if block is None):
                for start, end, present in self._pieces(*run):
                    if present is None:
                        expected.add(start, end)
            for block in expected.blocks:
                insort(self._blocks, block, key=lambda block: block.start)
            for wish in wanted:
                for *_, found in self._pieces(*wish):
                    if found is not None and found.arrival is None:
                        found.arrival = Future()
                        expected.queue.append(found)
        for _ in range(min(CONNECTIONS, len(expected.queue))):
            self._start(expected.work)
        return expected

    def forget(self, blocks: Iterable[_Block]) -> None:
        gone = set(blocks)
        with self._lock:
            self._blocks = [block for block in self._blocks if block not in gone]
        for block in gone:
            if block.arrival is not None:
                block.arrival.cancel()  # does nothing to one that is on its way

    def check_unchanged(self) -> None:
        """Raise RemoteError where this is no longer the file that was opened."""
        try:
            now = self._object.info()
        except FileNotFoundError:
            raise self._removed() from None
        self._object.check_same(self.source, now)

    def _removed(self) -> RemoteError:
        return RemoteError(f"{self.path}: removed while it was being read")

    def close(self) -> None:
        self.forget(self._blocks)

    def _pieces(self, start: int, end: int) -> list[tuple[int, int, _Block | None]]:
        """A range cut at the borders of blocks, each piece with the block that holds it."""
        pieces: list[tuple[int, int, _Block | None]] = []
        with self._lock:
            first = bisect_right(self._blocks, start, key=lambda block: block.end)
            for block in islice(self._blocks, first, None):
                if block.start >= end:
                    break
                if start < block.start:
                    pieces.append((start, block.start, None))
                    start = block.start
                stop = min(block.end, end)
                pieces.append((start, stop, block))
                start = stop
        if start < end:
            pieces.append((start, end, None))
        return pieces

    def _fetch_into(self, offset: int, view: memoryview) -> None:
        """Some blocks at a time, copied here: a call that was given up writes to nothing."""
        pending: deque[tuple[int, Future[Bytes]]] = deque()
        try:
            for start in range(0, len(view), BLOCK):
                if len(pending) == CONNECTIONS:
                    self._copy(view, *pending.popleft())
                end = min(start + BLOCK, len(view))
                pending.append((start, self._start(self.fetch, offset + start, offset + end)))
            while pending:
                self._copy(view, *pending.popleft())
        finally:
            for _, future in pending:
                future.cancel()

    def _copy(self, view: memoryview, start: int, future: Future[Bytes]) -> None:
        data = self._wait(future)
        view[start : start + len(data)] = memoryview(data)

    def _start(self, call: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> Future[T]:
        return calls.start(self.path, partial(call, *args))

    async def fetch(self, start: int, end: int) -> Bytes:
        fetch = partial(self._object.fetch, start, end, self.source)
        return await calls.persist(self.path, fetch, calls.BLOCK_TIMEOUT)

    def _wait(self, future: Future[T]) -> T:
        calls.check_process(self.path)
        try:
            return future.result()
        except FileNotFoundError:
            raise self._removed() from None
        except RemoteError as error:
            cause = error.__cause__
            if isinstance(cause, ShortBodyError) or calls.status_of(cause) == NOT_SATISFIABLE:
                self.check_unchanged()
            raise


def _reopened(path: str, source: SourceFile) -> RemoteFile:
    file = RemoteFile(path)
    file._object.check_same(source, file.source)
    return file


class _Spool:
    """A temporary file that has bytes of a remote one, at the same offsets."""

    def __init__(self, url: str) -> None:
        self._url = url
        try:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed at its end
        except OSError as error:
            raise no_room(self._url, error) from None
        weakref.finalize(self, self._file.close)

    def write(self, offset: int, data: Bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                count = os.pwrite(self._file.fileno(), view, offset)
                view, offset = view[count:], offset + count
        except OSError as error:
            raise no_room(self._url, error) from None

    def read_into(self, offset: int, view: memoryview) -> None:
        while view:
            count = os.preadv(self._file.fileno(), [view], offset)
            assert count
            view, offset = view[count:], offset + count


class _Block:
    """Some bytes of a remote file: `arrival` ends when its spool has them."""

    def __init__(self, start: int, end: int, spool: _Spool) -> None:
        self.start, self.end, self.spool = start, end, spool
        self.arrival: Future[None] | None = None


class _Expected:
    """The blocks that one call of `expect` added, with a spool of their own."""

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self._spool: _Spool | None = None
        self.blocks: list[_Block] = []
        self.queue: deque[_Block] = deque()  # in the order in which they will be read

    def add(self, start: int, end: int) -> None:
        self._spool = self._spool or _Spool(self._file.path)
        room = MOST_BLOCKS - len(self.blocks)  # what is beyond is fetched when it is read
        for at in islice(range(start, end, BLOCK), room):
            self.blocks.append(_Block(at, min(at + BLOCK, end), self._spool))

    async def work(self) -> None:
        """Fetch one block after the other, until one fails: the rest fails with it."""
        failed: Exception | None = None
        while self.queue:
            block = self.queue.popleft()
            assert block.arrival is not None
            if not block.arrival.set_running_or_notify_cancel():
                continue
            try:
                if failed is None:
                    async with _gate:
                        data = await self._file.fetch(block.start, block.end)
                        block.spool.write(block.start, data)
            except Exception as error:
                failed = error
            if failed is None:
                block.arrival.set_result(None)
            else:
                block.arrival.set_exception(failed)

    def forget(self) -> None:
        """Cancel what has not begun; the disk is free once nothing reads or writes there."""
        self._file.forget(self.blocks)
        self.queue.clear()
        self.blocks, self._spool = [], None


def no_room(url: str, error: OSError) -> RemoteError:
    return RemoteError(
        f"{url}: no room for what is fetched of it in {tempfile.gettempdir()} "
        f"({error.strerror or error}); set TMPDIR to a folder on a larger disk"
    )


def coalesce(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The (start, end) ranges in order, joined over the smallest of the gaps between them."""
    runs: list[tuple[int, int]] = []
    for start, end in sorted(ranges):
        if runs and start <= runs[-1][1]:
            runs[-1] = runs[-1][0], max(end, runs[-1][1])
        else:
            runs.append((start, end))
    gaps = sorted((after[0] - before[1], i) for i, (before, after) in enumerate(pairwise(runs), 1))
    budget = int(WASTE * sum(end - start for start, end in runs))
    joined = set()
    for gap, i in gaps:
        budget -= gap
        if budget < 0 or gap > LARGEST_GAP:
            break
        joined.add(i)
    merged: list[tuple[int, int]] = []
    for i, (start, end) in enumerate(runs):
        merged.append((merged.pop()[0] if i in joined else start, end))
    return merged
