"""Files behind URLs, through fsspec: found, read by byte ranges, and uploaded."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import sys
import tempfile
import threading
import weakref
from bisect import bisect_right, insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from datetime import datetime
from fnmatch import fnmatchcase
from functools import partial
from http import HTTPStatus
from itertools import islice, pairwise
from pathlib import Path
from typing import IO, Any, BinaryIO, TypeVar

from .errors import (
    AccessDeniedError,
    CheckpointNotFoundError,
    CorruptCheckpointError,
    MissingExtraError,
    RemoteError,
    TFReaderError,
    UnsupportedError,
)
from .files import Expected, SourceFile
from .sniff import but_it_is

T = TypeVar("T")

ATTEMPTS = 5
BACKOFF = 0.5  # seconds; doubled with each attempt, and a random part of that is waited
LONGEST_BACKOFF = 8.0
PATIENCE = 45.0  # seconds after which nothing is tried again
IDLE_TIMEOUT = 10.0  # seconds in which a server must answer, and go on answering
CALL_TIMEOUT = 30.0  # seconds for a call that moves next to no data
BLOCK_TIMEOUT = 120.0  # seconds for a block, on a line of some 2 Mbit/s

BLOCK = 4 << 20  # bytes of one request
PART = 16 << 20  # bytes of one request of an upload, of which S3 takes 10,000
CONNECTIONS = 8
WASTE = 0.01  # of the bytes that are needed: what may be fetched besides to save requests
LARGEST_GAP = 1 << 20  # bytes that are fetched besides in one place, at most

_ETAGS = ("generation", "ETag", "etag", "Content-MD5", "md5Hash", "checksum")
_TIMES = ("LastModified", "Last-Modified", "last_modified", "mtime", "updated", "created")
_IN_EXTRA = ("s3", "s3a", "gs", "gcs", "http", "https")  # protocols that the extra brings

_pool = ThreadPoolExecutor(CONNECTIONS, "tfreader-fetch")
_one_at_a_time = threading.Lock()  # for file systems of fsspec that are not made for threads


class RemotePath:
    """The part of pathlib.Path's interface that is used here, for a URL.

    Its methods raise what a Path's do: FileNotFoundError where nothing is there. Beyond that,
    RemoteError when the server could not be asked. Making one raises MissingExtraError or
    UnsupportedError where nothing here can read such a URL.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._fs, self._path = _connect(url)

    def __str__(self) -> str:
        return self._url

    __fspath__ = __str__

    def __repr__(self) -> str:
        return f"RemotePath({self._url!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and self._url == other._url

    def __hash__(self) -> int:
        return hash(self._url)

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self._url.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        return self._url.partition("://")[2].rstrip("/").rpartition("/")[2]

    @property
    def suffix(self) -> str:
        return os.path.splitext(self.name)[1]

    @property
    def parent(self) -> RemotePath:
        scheme, _, rest = self._url.partition("://")
        folder = rest.rstrip("/").rpartition("/")[0]
        return RemotePath(f"{scheme}://{folder or rest.rstrip('/')}")

    @property
    def is_web(self) -> bool:
        """Whether it is behind HTTP, which knows no folders: an index page may list files."""
        return "http" in _protocols(self._fs)

    def is_file(self) -> bool:
        """Whether a file is there. Where access is denied there is none to be seen."""
        return not self._url.endswith("/") and self._type() == "file"

    def is_dir(self) -> bool:
        if self.is_web:
            return self._url.endswith("/") and bool(self.entries())
        return self._type() == "directory"

    def _type(self) -> str | None:
        try:
            kind: str = self.info()["type"]
            return kind
        except (FileNotFoundError, AccessDeniedError):
            # Servers that do not let a stranger list deny access to whatever is not there.
            return None

    def info(self) -> dict[str, Any]:
        """What the server knows of it: `type`, `size` and more."""

        def ask() -> dict[str, Any]:
            try:
                found: dict[str, Any] = _run(self._fs, "info", self._path, timeout=CALL_TIMEOUT)
            except FileNotFoundError as error:
                # fsspec's http calls everything that.
                cause = error.__cause__
                status = _status(cause)
                if cause is None or status in (404, 410):
                    raise
                if status is None and not _may_pass(cause):
                    raise
                raise cause from None
            return found

        return _persist(self._url, ask)

    def entries(self) -> list[tuple[str, bool]]:
        """The names in a folder, sorted, each with whether it is a folder; none if it is none."""
        try:
            found = self._persist("ls", self._path, detail=True)
        except (FileNotFoundError, NotADirectoryError, AccessDeniedError):
            return []
        except RemoteError as error:
            # A web server may answer anything where it lists no files.
            if self.is_web and (_status(error.__cause__) or 500) < 500:
                return []
            raise
        own = self._path.rstrip("/")
        names = {
            item["name"].rstrip("/").rpartition("/")[2]: item["type"] == "directory"
            for item in found
            if item["name"].rstrip("/").rpartition("/")[0] == own
        }
        return sorted(names.items())

    def iterdir(self) -> Iterator[RemotePath]:
        return (self / name for name, _ in self.entries())

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """The paths in this folder whose names match. `**` means no more than `*`."""
        return (path for path in self.iterdir() if fnmatchcase(path.name, pattern))

    def matching(self) -> list[str]:
        """The URLs of the files that this one matches as a pattern; `**` stands for any folders."""
        found = self._persist("glob", self._path, timeout=None)
        return [self._fs.unstrip_protocol(path) for path in found]

    def size(self) -> int:
        size: int = self.info()["size"]
        return size

    def open(self, mode: str = "rb") -> BinaryIO:
        assert mode == "rb"
        return io.BufferedReader(_Raw(self._file()), 1 << 16)

    def read_bytes(self) -> bytes:
        with closing(self._file()) as file:
            return bytes(file.read(0, file.size))

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def _persist(
        self, method: str, *args: Any, timeout: float | None = CALL_TIMEOUT, **kwargs: Any
    ) -> Any:
        call = partial(_run, self._fs, method, *args, timeout=timeout, **kwargs)
        return _persist(self._url, call)

    def _file(self) -> RemoteFile:
        try:
            return RemoteFile(self._url)
        except CheckpointNotFoundError:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self._url) from None

    def fetch(self, start: int, end: int) -> bytes:
        """The bytes in that range, at least one. Raises RemoteError, FileNotFoundError."""

        def ask() -> bytes:
            if self.is_web:
                call = partial(_sync, self._fs, _web_range, self._fs, self._url, start, end)
            else:
                call = partial(_run, self._fs, "cat_file", self._path, start=start, end=end)
            data: bytes = call(timeout=BLOCK_TIMEOUT)
            if len(data) != end - start:
                raise _ShortBodyError(f"{len(data)} of {end - start} bytes came")
            return data

        return _persist(self._url, ask)

    def download(self, copy: IO[bytes]) -> SourceFile:
        """Write the file's bytes to a local one in TMPDIR. Raises what RemoteFile does."""
        step = BLOCK * CONNECTIONS
        with closing(RemoteFile(self._url)) as file:
            for start in range(0, file.size, step):
                data = file.read(start, min(step, file.size - start))
                try:
                    copy.write(data)
                    copy.flush()
                except OSError as error:
                    raise _no_room(self._url, error) from None
            file.check_unchanged()
            return file.source

    def put(self, path: Path) -> None:
        """Upload a local file to this place. Raises RemoteError."""
        size = path.stat().st_size
        # By itself s3fs takes ten times 50 MB of memory.
        part = {"chunksize": max(PART, size // 9999)} if "s3" in _protocols(self._fs) else {}
        slowest = CALL_TIMEOUT + BLOCK_TIMEOUT * size / (BLOCK * CONNECTIONS)
        self._persist("put_file", str(path), self._path, timeout=slowest, **part)
        found = self.size()
        if found != size:
            raise RemoteError(f"{self}: {size} bytes were uploaded, {found} are there; try again")

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the file."""
        try:
            self._persist("rm_file", self._path)
        except FileNotFoundError:
            if not missing_ok:
                raise


class RemoteFile:
    """A file behind a URL, read at given offsets. Reads may come from several threads at once.

    What was announced to `expect` is fetched ahead, once, into a temporary file (in TMPDIR); other
    reads ask the server. Raises CheckpointNotFoundError, RemoteError.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._remote = RemotePath(path)
        self._lock = threading.RLock()
        self._blocks: list[_Block] = []
        try:
            info = self._remote.info()
        except FileNotFoundError:
            raise CheckpointNotFoundError(f"{path}: no such file") from None
        if info["type"] != "file":
            raise CorruptCheckpointError(f"{path}: not a regular file")
        if info["size"] is None:
            raise UnsupportedError(
                f"{path}: the server does not tell its size; download the checkpoint first"
            )
        self.size: int = info["size"]
        self.source = _source(self._remote.name, info)

    def read_into(self, offset: int, buffer: Any) -> None:
        """Fill the writable `buffer` (bytes-like, contiguous) from `offset` on."""
        view = memoryview(buffer).cast("B")
        end = offset + len(view)
        if end > self.size:
            self.check_unchanged()
            raise CorruptCheckpointError(
                f"{self.path}: truncated: bytes {offset} to {end} are needed, "
                f"the file has {self.size}{but_it_is(self.path)}"
            )
        for start, stop, block in self._pieces(offset, end):
            part = view[start - offset : stop - offset]
            if block is not None:
                assert block.arrival is not None
                block.arrival.result()
                block.spool.read_into(start, part)
            elif len(part) <= BLOCK:
                part[:] = self._fetch(start, stop)
            else:
                self._fetch_large(start, part)

    def read(self, offset: int, size: int) -> bytearray:
        """The `size` bytes at `offset`. The caller bounds `size` by the file's size."""
        buffer = bytearray(size)
        self.read_into(offset, buffer)
        return buffer

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
                        found.arrival = _pool.submit(self._fill, found)
        return expected

    def forget(self, blocks: Iterable[_Block]) -> None:
        gone = set(blocks)
        with self._lock:
            self._blocks = [block for block in self._blocks if block not in gone]
        for block in gone:
            if block.arrival is not None:
                block.arrival.cancel()

    def check_unchanged(self) -> None:
        """Raise RemoteError where this is no longer the file that was opened."""
        try:
            now = _source(self.source.name, self._remote.info())
        except FileNotFoundError:
            raise RemoteError(f"{self.path}: removed while it was being read") from None
        if _version(now) != _version(self.source):
            raise RemoteError(
                f"{self.path}: changed while it was being read: it was {_version(self.source)}, it "
                f"is {_version(now)}; start again once nothing writes to it"
            )

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

    def _fetch_large(self, offset: int, view: memoryview) -> None:
        def fill(start: int) -> None:
            part = view[start : start + BLOCK]
            part[:] = self._fetch(offset + start, offset + start + len(part))

        futures = [_pool.submit(fill, start) for start in range(0, len(view), BLOCK)]
        try:
            for future in futures:
                future.result()
        finally:
            # The memory is the caller's again: nothing may still write to it.
            wait([future for future in futures if not future.cancel()])

    def _fetch(self, start: int, end: int) -> bytes:
        try:
            return self._remote.fetch(start, end)
        except FileNotFoundError:
            raise RemoteError(f"{self.path}: removed while it was being read") from None
        except RemoteError as error:
            cause = error.__cause__
            if (
                isinstance(cause, _ShortBodyError)
                or _status(cause) == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
            ):
                self.check_unchanged()
            raise

    def _fill(self, block: _Block) -> None:
        block.spool.write(block.start, self._fetch(block.start, block.end))


class _Spool:
    """A temporary file that has bytes of a remote one, at the same offsets."""

    def __init__(self, url: str) -> None:
        self._url = url
        try:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed at its end
        except OSError as error:
            raise _no_room(self._url, error) from None
        weakref.finalize(self, self._file.close)

    def write(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                count = os.pwrite(self._file.fileno(), view, offset)
                view, offset = view[count:], offset + count
        except OSError as error:
            raise _no_room(self._url, error) from None

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

    def add(self, start: int, end: int) -> None:
        self._spool = self._spool or _Spool(self._file.path)
        for at in range(start, end, BLOCK):
            self.blocks.append(_Block(at, min(at + BLOCK, end), self._spool))

    def forget(self) -> None:
        """Cancel what has not begun; the disk is free once nothing reads or writes there."""
        self._file.forget(self.blocks)
        self.blocks, self._spool = [], None


class _Raw(io.RawIOBase):
    """A remote file as Python's own: position, seek and read."""

    def __init__(self, file: RemoteFile) -> None:
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self._file.size)[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: max(0, self._file.size - self._position)]
        self._file.read_into(self._position, view)
        self._position += len(view)
        return len(view)

    def close(self) -> None:
        self._file.close()
        super().close()


def _no_room(url: str, error: OSError) -> RemoteError:
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


def _source(name: str, info: Mapping[str, Any]) -> SourceFile:
    def first(keys: Sequence[str]) -> str | None:
        found = next((info[key] for key in keys if info.get(key) is not None), None)
        return found.isoformat() if isinstance(found, datetime) else found and str(found)

    return SourceFile(name, info["size"], first(_TIMES), first(_ETAGS))


def _version(source: SourceFile) -> str:
    """What tells a file from a later one under its name."""
    return f"{source.etag or source.modified or 'of no known version'}, {source.size} bytes"


def _connect(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL, and what that calls the file."""
    try:
        import fsspec
        import tenacity  # noqa: F401 - `_persist` needs it
    except ImportError:
        raise MissingExtraError(f"reading {url}", "remote") from None
    outer, _, rest = url.partition("://")
    if "::" in rest:
        raise UnsupportedError(f"{url}: inside of an archive; unpack it and pass what is inside")
    for protocol in outer.split("::"):
        try:
            fsspec.get_filesystem_class(protocol)
        except ImportError as error:
            if protocol in _IN_EXTRA:
                raise MissingExtraError(f"reading {url}", "remote") from None
            raise UnsupportedError(f"{url}: {error}") from None
        except ValueError as error:
            raise UnsupportedError(f"{url}: {error}") from None
    # Listings must be new: a file that changed is to be noticed.
    fs, path = _persist(url, lambda: fsspec.url_to_fs(url, use_listings_cache=False))
    _bound(fs)
    return fs, path


def _protocols(fs: Any) -> tuple[str, ...]:
    return fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,)


def _bound(fs: Any) -> None:
    """Bound what the libraries below wait for and try again by themselves."""
    if "s3" in _protocols(fs):
        fs.retries = 1
        fs.max_concurrency = CONNECTIONS // 2  # of its uploads, whose parts are in memory
        fs.config_kwargs = {
            "connect_timeout": IDLE_TIMEOUT,
            "read_timeout": IDLE_TIMEOUT,
            # An upload is many requests: one that fails must not fail them all.
            "retries": {"total_max_attempts": 2, "mode": "standard"},
        } | fs.config_kwargs
    elif "http" in _protocols(fs):
        import aiohttp

        timeout = aiohttp.ClientTimeout(sock_connect=IDLE_TIMEOUT, sock_read=IDLE_TIMEOUT)
        fs.client_kwargs.setdefault("timeout", timeout)


def _run(fs: Any, method: str, *args: Any, timeout: float | None, **kwargs: Any) -> Any:
    """Call a method of a file system."""
    if fs.async_impl:
        return _sync(fs, getattr(fs, f"_{method}"), *args, timeout=timeout, **kwargs)
    with _one_at_a_time:
        return getattr(fs, method)(*args, **kwargs)


def _sync(fs: Any, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    from fsspec.asyn import sync

    return sync(fs.loop, function, *args, **kwargs)


async def _web_range(fs: Any, url: str, start: int, end: int) -> bytes:
    """What fsspec does for a range, but never with a whole file in place of it."""
    session = await fs.set_session()
    headers = {
        **fs.kwargs.get("headers", {}),
        "Range": f"bytes={start}-{end - 1}",
        "Accept-Encoding": "identity",
    }
    async with session.get(fs.encode_url(url), **{**fs.kwargs, "headers": headers}) as response:
        response.raise_for_status()
        is_whole = (start, end) == (0, response.content_length)
        if response.status != HTTPStatus.PARTIAL_CONTENT and not is_whole:
            raise UnsupportedError(
                f"{url}: its server does not serve byte ranges; download the checkpoint first"
            )
        try:
            data: bytes = await response.content.readexactly(end - start)
        except asyncio.IncompleteReadError as error:
            return error.partial
        return data


def _persist(url: str, function: Callable[[], T]) -> T:
    """What `function` gives, called again while what hinders it may pass."""
    import tenacity

    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(ATTEMPTS) | tenacity.stop_after_delay(PATIENCE),
        wait=tenacity.wait_random_exponential(BACKOFF, LONGEST_BACKOFF),
        retry=tenacity.retry_if_exception(_may_pass),
        reraise=True,
    )
    try:
        return retrying(function)
    except (TFReaderError, FileNotFoundError, NotADirectoryError):
        raise
    except Exception as error:  # of any library under fsspec
        status = _status(error)
        if status in (404, 410):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), url) from None
        text = f"{type(error).__name__}: {error}".partition("\n")[0].strip(": ")[:300]
        if isinstance(error, PermissionError) or status in (401, 403):
            raise AccessDeniedError(
                f"{url}: access denied ({text}); check the credentials"
            ) from error
        if _may_pass(error):
            count = retrying.statistics["attempt_number"]
            raise RemoteError(
                f"{url}: failed {count} times ({text}); check the address and the network, then "
                "try again"
            ) from error
        raise RemoteError(f"{url}: {text}; check the address and the credentials") from error


class _ShortBodyError(OSError):
    """Fewer bytes came than were asked for."""


def _may_pass(error: BaseException) -> bool:
    """Whether the same call may succeed later: time-outs, dropped connections, busy servers."""
    status = _status(error)
    if status is not None:
        return status >= 500 or status in (408, 429)
    permanent = FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError
    if isinstance(error, (TFReaderError, *permanent)):
        return False
    libraries = {"aiohttp": "ClientError", "botocore.exceptions": "HTTPClientError ConnectionError"}
    theirs = (
        getattr(sys.modules[module], name)
        for module, names in libraries.items()
        if module in sys.modules
        for name in names.split()
    )
    return isinstance(error, (OSError, EOFError, *theirs))


def _status(error: BaseException | None) -> int | None:
    """The HTTP status that an error stands for, wherever its library keeps it."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):  # botocore
            found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        else:  # aiohttp, requests, gcsfs
            where = ((error, "status"), (response, "status_code"), (error, "code"))
            found = next((n for at, name in where if (n := getattr(at, name, None))), None)
        if str(found).isdigit():
            return int(str(found))
        if type(error).__module__ != "builtins":
            return None
        # s3fs makes Python's own errors of botocore's.
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None
