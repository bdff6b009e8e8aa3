"""A file behind a URL, read at given offsets; what will be needed is fetched ahead."""

from __future__ import annotations

import asyncio
import errno
import re
import tempfile
import threading
import weakref
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from io import BufferedReader
from itertools import accumulate, islice, pairwise, takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import CheckpointNotFoundError, CorruptCheckpointError, RemoteError, UnsupportedError
from ..protocols import Expected, Raw, SourceFile
from ..sniff import clause
from ..system import read_at, write_at
from . import calls, stores

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult, ObjectMeta

BLOCK = 4 << 20  # bytes of one request
CHUNK = 1 << 20  # bytes of it that are in memory
CONNECTIONS = 8
ATTEMPTS = 5  # for a body that breaks off
STEP = BLOCK * CONNECTIONS  # bytes that are asked for at once
MOST_BLOCKS = 1 << 15  # fetched ahead: 128 GiB
WASTE = 0.01  # of the bytes that are needed: what may be fetched besides to save requests
LARGEST_GAP = 1 << 20  # bytes that are fetched besides in one place, at most

REMOVED = "removed while it was being read"
_NO_HEAD = re.compile("status code: (403|405|501)")
_SHRUNK = re.compile("status code: 416|kind: Interrupted")  # what may have changed while it came
_BROKEN = re.compile("kind: (Interrupted|Timeout)")
_gate = asyncio.Semaphore(CONNECTIONS)


class RemoteFile:
    """A file behind a URL, read at given offsets. Reads may come from several threads at once.

    What was announced to `expect` is fetched ahead, once, into a temporary file (in TMPDIR); other
    reads go the same way, and what they fetched is forgotten. A copy, by pickle too, opens the URL
    again. Raises CheckpointNotFoundError, RemoteError.
    """

    def __init__(self, path: str, source: SourceFile | None = None) -> None:
        self.path = path
        self._store, self._key = stores.connect(path)
        self._lock = threading.RLock()
        self._blocks: list[_Block] = []  # sorted
        if path.endswith("/"):
            raise CorruptCheckpointError(f"{path}: not a regular file")
        try:
            now = source_of(path)
        except FileNotFoundError:
            raise CheckpointNotFoundError(f"{path}: no such file") from None
        self.source = source or now
        self.size = self.source.size
        self._check_same(now)

    def __reduce__(self) -> tuple[type[RemoteFile], tuple[str, SourceFile]]:
        return RemoteFile, (self.path, self.source)

    def read_into(self, offset: int, buffer: Any) -> None:
        """Fill the writable `buffer` (bytes-like, contiguous) from `offset` on."""
        view = memoryview(buffer).cast("B")
        end = offset + len(view)
        if end > self.size:
            self.check_unchanged()
            it_is = clause(self.path, BufferedReader(Raw(self, owns=False)))
            raise CorruptCheckpointError(
                f"{self.path}: truncated: bytes {offset} to {end} are needed, the file has "
                f"{self.size}{it_is}"
            )
        for start in range(offset, end, STEP):
            stop = min(start + STEP, end)
            with self._lock:  # so that nobody forgets in between
                expected = self.expect([(start, stop - start)])
                blocks = self._overlapping(start, stop)
            try:
                for block in blocks:
                    self._wait(block)
                    first, last = max(block.start, start), min(block.end, stop)
                    block.spool.read_into(first, view[first - offset : last - offset])
            finally:
                expected.forget()

    def read(self, offset: int, size: int) -> bytearray:
        """The `size` bytes at `offset`. The caller bounds `size` by the file's size."""
        data = bytearray()  # that grows by what has come: servers may claim any size
        while len(data) < size:
            part = bytearray(min(STEP, size - len(data)))
            self.read_into(offset + len(data), part)
            data += part
        return data

    def expect(self, ranges: Iterable[tuple[int, int]]) -> Expected:
        """Begin to fetch (offset, size) ranges that will be read, in that order."""
        ends = ((start, min(start + size, self.size)) for start, size in ranges)
        wanted = [(start, end) for start, end in ends if start < end]
        blocks: list[_Block] = []
        with self._lock:
            runs = coalesce(gap for wish in wanted for gap in self._gaps(*wish))
            gaps = [gap for run in runs for gap in self._gaps(*run)]
            if gaps:
                spool = _Spool(self.path)
                cuts = (
                    (i, min(i + BLOCK, end))
                    for start, end in gaps
                    for i in range(start, end, BLOCK)
                )
                # What is beyond is fetched when it is read.
                blocks = [_Block(*cut, spool) for cut in islice(cuts, MOST_BLOCKS)]
                self._blocks = sorted([*self._blocks, *blocks], key=lambda block: block.start)
            for wish in wanted:
                for block in self._overlapping(*wish):
                    if block.arrival is None:
                        block.arrival = calls.start(self.path, self._fetch, block)
        return _Expected(self, blocks)

    def forget(self, blocks: Iterable[_Block]) -> None:
        """Cancel what has not come; the disk is free once nothing reads or writes there."""
        gone = set(blocks)
        with self._lock:
            self._blocks = [block for block in self._blocks if block not in gone]
        for block in gone:
            if block.arrival is not None:
                block.arrival.cancel()

    def check_unchanged(self) -> None:
        """Raise RemoteError where this is no longer the file that was opened."""
        try:
            now = source_of(self.path)
        except FileNotFoundError:
            raise RemoteError(f"{self.path}: {REMOVED}") from None
        self._check_same(now)

    def _check_same(self, now: SourceFile) -> None:
        """Raise RemoteError where a file is another one than it was, as far as can be told."""
        then = self.source
        versions = {then.etag, now.etag}
        if None in versions:
            versions = {then.modified, now.modified}
        if then.size != now.size or len(versions - {None}) > 1:
            was, it_is = (
                f"{s.etag or s.modified or 'of no known version'}, {s.size} bytes"
                for s in (then, now)
            )
            raise RemoteError(
                f"{self.path}: changed while it was being read: it was {was}, it is {it_is}; start "
                "again once nothing writes to it"
            )

    def close(self) -> None:
        self.forget(self._blocks)

    def _overlapping(self, start: int, end: int) -> list[_Block]:
        first = bisect_right(self._blocks, start, key=lambda block: block.end)
        return list(takewhile(lambda block: block.start < end, islice(self._blocks, first, None)))

    def _gaps(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The parts of a range that no block holds."""
        for block in self._overlapping(start, end):
            if start < block.start:
                yield start, block.start
            start = block.end
        if start < end:
            yield start, end

    async def _fetch(self, block: _Block) -> None:
        """Write the block to its spool, unless one for there has failed: then the rest does too."""
        async with _gate:
            if block.spool.failure is None:
                try:
                    await self._copy(block)
                except Exception as error:
                    block.spool.failure = error
            if block.spool.failure is not None:
                raise block.spool.failure

    async def _copy(self, block: _Block) -> None:
        """Write the block to its spool, of the file that this was when it was opened.

        Where a body breaks off, obstore goes on by itself if the server names versions.
        """
        from obstore.exceptions import BaseError

        at, end = block.start, block.end
        for attempt in range(1, ATTEMPTS + 1):
            answer = await self._answer(at, end)
            self._check_same(_source(self.path, answer.meta))
            try:
                async for data in answer.stream(min_chunk_size=CHUNK):
                    if at + len(data) > end:
                        raise RemoteError(
                            f"{self.path}: more than the bytes came that were asked for"
                        )
                    block.spool.write(at, data)
                    at += len(data)
                break
            except BaseError as error:
                goes_on = self.source.etag is None and _BROKEN.search(str(error))
                if attempt == ATTEMPTS or not goes_on:
                    raise
        if at < end:
            raise RemoteError(f"{self.path}: {end - at} bytes less came than were asked for")

    async def _answer(self, start: int, end: int) -> GetResult:
        """The answer, whose range obstore has compared with the one that was asked for."""
        import obstore
        from obstore.exceptions import NotSupportedError

        options: GetOptions = {"range": (start, end)}
        try:
            return await obstore.get_async(self._store, self._key, options=options)
        except NotSupportedError:
            if end - start < self.size:
                raise UnsupportedError(
                    f"{self.path}: its server does not serve byte ranges; download the checkpoint "
                    "first"
                ) from None
            return await obstore.get_async(self._store, self._key)

    def _wait(self, block: _Block) -> None:
        calls.check_process(self.path)
        assert block.arrival is not None
        try:
            block.arrival.result()
        except FileNotFoundError:
            raise RemoteError(f"{self.path}: {REMOVED}") from None
        except RemoteError as error:
            if _SHRUNK.search(str(error.__cause__)):
                self.check_unchanged()
            raise


def source_of(url: str) -> SourceFile:
    """What its server tells of a file. Raises FileNotFoundError, RemoteError."""
    import obstore

    store, key = stores.connect(url)
    if not (key or stores.is_web(url)):
        raise FileNotFoundError(errno.ENOENT, "a bucket, not a file", url)
    try:
        meta = calls.ask(url, obstore.head_async, store, key)
    except RemoteError as error:
        # Signed URLs are for GET alone, and some servers know nothing else.
        if not stores.is_web(url) or not _NO_HEAD.search(str(error.__cause__)):
            raise
        meta = calls.ask(url, obstore.get_async, store, key, options={"range": (0, 1)}).meta
    return _source(url, meta)


def _source(url: str, meta: ObjectMeta) -> SourceFile:
    time = meta["last_modified"]  # 1970 where the server tells none
    modified = time.isoformat() if time.timestamp() else None
    return SourceFile(url.rpartition("/")[2], meta["size"], modified, meta["e_tag"])


class _Spool:
    """A temporary file that has bytes of a remote one, at the same offsets."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.failure: Exception | None = None
        try:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed at its end
        except OSError as error:
            raise no_room(self._url, error) from None
        weakref.finalize(self, self._file.close)

    def write(self, offset: int, data: bytes) -> None:
        try:
            write_at(self._file.fileno(), data, offset)
        except OSError as error:
            raise no_room(self._url, error) from None

    def read_into(self, offset: int, view: memoryview) -> None:
        while view:
            count = read_at(self._file.fileno(), view, offset)
            assert count
            view, offset = view[count:], offset + count


@dataclass(eq=False)
class _Block:
    """Some bytes of a remote file: `arrival` ends when its spool has them."""

    start: int
    end: int
    spool: _Spool
    arrival: Future[None] | None = None


class _Expected(NamedTuple):
    """The blocks that one call of `expect` added."""

    file: RemoteFile
    blocks: list[_Block]

    def forget(self) -> None:
        self.file.forget(self.blocks)
        self.blocks.clear()


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
    budget = WASTE * sum(end - start for start, end in runs)
    totals = accumulate(gap for gap, _ in gaps)
    joined = {
        i
        for (g, i), total in zip(gaps, totals, strict=True)
        if total <= budget and g <= LARGEST_GAP
    }
    merged: list[tuple[int, int]] = []
    for i, (start, end) in enumerate(runs):
        merged.append((merged.pop()[0] if i in joined else start, end))
    return merged
