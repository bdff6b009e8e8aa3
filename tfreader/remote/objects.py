"""One file as its server has it: what is known of it, its bytes, its neighbours."""

from __future__ import annotations

import asyncio
import errno
import re
from collections.abc import Callable, Coroutine
from http.client import HTTPException
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.error import HTTPError
from urllib.parse import urljoin
from urllib.request import urlopen

from ..errors import RemoteError, UnsupportedError
from ..protocols import SourceFile
from . import calls, stores

if TYPE_CHECKING:
    from obstore import Bytes, GetOptions, ObjectMeta

T = TypeVar("T")

BLOCK = 4 << 20  # bytes of one request
PART = 8 << 20  # bytes of one request of an upload, of which S3 takes 10,000
PARTS = 4  # of an upload at a time, which are in memory
PAGE = 1000  # names of one request for them
MOST_PAGES = 1000  # of one listing
LARGEST_INDEX_PAGE = 16 << 20  # bytes of a web page that lists files


class ShortBodyError(calls.TransientError):
    """Fewer bytes came than were asked for."""


class RemoteObject:
    """A file or folder behind a URL. Making one raises what `stores.connect` does.

    Its methods raise FileNotFoundError where nothing is there, RemoteError, AccessDeniedError.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._store, self._key = stores.connect(url)

    @property
    def name(self) -> str:
        return self.url.partition("://")[2].rstrip("/").rpartition("/")[2]

    @property
    def is_web(self) -> bool:
        """Whether it is behind HTTP, which knows no folders: an index page may list files."""
        return self.url.lower().startswith(("http://", "https://"))

    def info(self) -> SourceFile:
        """Size and version of the file."""
        import obstore

        async def head() -> SourceFile:
            if not (self._key or self.is_web):
                raise FileNotFoundError(errno.ENOENT, "a bucket, not a file", self.url)
            try:
                return self._source(await obstore.head_async(self._store, self._key))
            except Exception as error:
                # Signed URLs are for GET alone, and some servers know nothing else.
                if not self.is_web or calls.status_of(error) not in (403, 405, 501):
                    raise
            options: GetOptions = {"range": (0, 1)}
            return self._source((await self._get(options)).meta)

        return self._ask(head)

    def _source(self, meta: ObjectMeta) -> SourceFile:
        time = meta["last_modified"]  # 1970 where the server tells none
        modified = time.isoformat() if time.timestamp() else None
        return SourceFile(self.name, meta["size"], modified, meta["e_tag"])

    async def _get(self, options: GetOptions) -> Any:
        import obstore

        # An answer that is an error is read before it is given, however long it is.
        async with asyncio.timeout(stores.IDLE_TIMEOUT):
            return await obstore.get_async(self._store, self._key, options=options)

    async def fetch(self, start: int, end: int, source: SourceFile) -> Bytes:
        """The bytes in that range, at least one, of the file that it was when opened.

        obstore has the answer's range compared with the one that was asked for.
        """
        from obstore.exceptions import NotSupportedError

        try:
            answer = await self._get({"range": (start, end)})
        except NotSupportedError:
            if (start, end) != (0, source.size):
                raise UnsupportedError(
                    f"{self.url}: its server does not serve byte ranges; download the checkpoint "
                    "first"
                ) from None
            answer = await self._get({})
        self.check_same(source, self._source(answer.meta))
        size = end - start
        if answer.range != (start, end):
            raise RemoteError(f"{self.url}: bytes {answer.range} came in place of {(start, end)}")
        came = 0
        async for data in answer.stream(min_chunk_size=size):  # at once, or there is too much
            came = len(data)
            if came == size:
                whole: Bytes = data
                return whole
            del data  # which the error would keep
            break
        if came > size:
            raise RemoteError(f"{self.url}: more than the {size} bytes came that were asked for")
        raise ShortBodyError(f"{came} of {size} bytes came")

    def check_same(self, then: SourceFile, now: SourceFile) -> None:
        """Raise RemoteError where a file is another one than it was, as far as can be told."""
        versions = (
            (then.etag, now.etag) if then.etag and now.etag else (then.modified, now.modified)
        )
        if then.size != now.size or (all(versions) and len({*versions}) > 1):
            raise RemoteError(
                f"{self.url}: changed while it was being read: it was {_version(then)}, it is "
                f"{_version(now)}; start again once nothing writes to it"
            )

    def is_folder(self) -> bool:
        """Whether files lie under this name."""

        async def first() -> bool:
            return bool(await self._page(1, None))

        return self._ask(first)

    async def _page(self, size: int, after: str | None) -> list[str]:
        """So many keys below this one, sorted, of those behind the key `after`."""
        import obstore

        stream = obstore.list(self._store, self._key or None, offset=after, chunk_size=size)
        async for found in stream:
            return [meta["path"] for meta in found]
        return []

    def names(self) -> dict[str, bool]:
        """The names in a folder, each with whether it is a folder."""
        if self.is_web:
            return self._links()
        names: dict[str, bool] = {}

        def jump(key: str) -> str:
            """Behind which key to go on: not through all that lies in a folder."""
            name, slash, _ = self._below(key).partition("/")
            names[name] = names.get(name, False) or bool(slash)
            return key[: -len(self._below(key))] + name + "0" if slash else key  # "0" follows "/"

        self._list(jump)
        return {name: is_folder for name, is_folder in names.items() if name}

    def files(self) -> list[str]:
        """The URLs of all files below a folder of a store, however deep."""
        found: list[str] = []

        def note(key: str) -> str:
            found.append(f"{self.url.rstrip('/')}/{self._below(key)}")
            return key

        self._list(note)
        return found

    def _list(self, note: Callable[[str], str]) -> None:
        """Go through the keys below this one, behind the one that `note` gives for the last."""
        after: str | None = None
        for _ in range(MOST_PAGES):
            page = self._ask(lambda after=after: self._page(PAGE, after))  # type: ignore[misc]
            for key in page:
                if key != self._key:  # an object that stands for an empty folder
                    after = max(after or "", note(key))
            if len(page) < PAGE:
                return
        raise RemoteError(
            f"{self.url}: holds more than {PAGE * MOST_PAGES:,} files; name a folder in it"
        )

    def _below(self, key: str) -> str:
        return key.removeprefix(f"{self._key}/") if self._key else key

    def _links(self) -> dict[str, bool]:
        """The names that a web page links to in its own folder; none where there is no page."""
        own = f"{self.url.rstrip('/')}/"
        page = self._ask(lambda: asyncio.to_thread(self._web_page, own))
        links = (urljoin(own, link) for link in re.findall(r"""href=["']([^"'?#]+)""", page))
        names = {link.removeprefix(own) for link in links if link.startswith(own)}
        direct = (name for name in names if name and "/" not in name[:-1])
        return {name.rstrip("/"): name.endswith("/") for name in direct}

    def _web_page(self, url: str) -> str:
        """A page as text, of any length: obstore takes none whose length is not announced."""
        end = monotonic() + calls.CALL_TIMEOUT
        page = b""
        try:
            with urlopen(url, timeout=min(stores.IDLE_TIMEOUT, calls.CALL_TIMEOUT)) as answer:
                while (part := answer.read1(1 << 16)) and monotonic() < end:
                    page += part
                    if len(page) > LARGEST_INDEX_PAGE:
                        raise RemoteError(f"{url}: its list of files does not end")
        except HTTPError as error:
            if error.code >= 500 or error.code in (408, 429):
                raise calls.TransientError(f"status code: {error.code} {error.reason}") from None
            return ""  # a web server may answer anything where it lists no files
        except HTTPException:
            return ""
        return page.decode("utf-8", "replace")

    def put(self, path: Path) -> None:
        """Upload a local file to this place: whole or, as far as that can be told, not at all."""
        import obstore

        size = path.stat().st_size
        part = max(PART, size // 9999)
        store, key = stores.connect(self.url, writing=True)
        slowest = calls.PATIENCE + calls.BLOCK_TIMEOUT * (1 + size / (PARTS * part))

        async def upload() -> None:
            await obstore.put_async(store, key, path, chunk_size=part, max_concurrency=PARTS)

        self._ask(upload, slowest)
        found = self.info().size
        if found != size:
            raise RemoteError(
                f"{self.url}: {size} bytes were uploaded, {found} are there; try again"
            )

    def delete(self) -> None:
        import obstore

        self._ask(lambda: obstore.delete_async(self._store, self._key))

    def _ask(self, call: Callable[[], Coroutine[Any, Any, T]], timeout: float | None = None) -> T:
        return calls.ask(self.url, call, timeout)


def _version(source: SourceFile) -> str:
    """What tells a file from a later one under its name."""
    return f"{source.etag or source.modified or 'of no known version'}, {source.size} bytes"
