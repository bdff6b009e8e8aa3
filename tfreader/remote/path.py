"""URLs with the part of pathlib.Path's interface that is used here."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fnmatch import fnmatchcase
from glob import has_magic
from http.client import HTTPException
from io import BufferedReader
from pathlib import Path
from time import monotonic
from typing import IO, BinaryIO
from urllib.error import HTTPError
from urllib.parse import urljoin
from urllib.request import urlopen

from ..errors import AccessDeniedError, CheckpointNotFoundError, RemoteError
from ..protocols import Raw, SourceFile
from . import calls, stores
from .file import STEP, RemoteFile, no_room, source_of

PART = 8 << 20  # bytes of one request of an upload, of which S3 takes 10,000
PARTS = 4  # of an upload at a time, which are in memory
LISTING = 120.0  # seconds for a list of names
LARGEST_PAGE = 16 << 20  # bytes of a web page that lists files
MOST_FOLDERS = 10_000  # that a pattern leads through


@dataclass(frozen=True)
class RemotePath:
    """Its methods raise what a Path's do: FileNotFoundError where nothing is there.

    Beyond that, RemoteError when the server could not be asked. Making one raises MissingExtraError
    or UnsupportedError where nothing here can read such a URL.
    """

    url: str

    def __post_init__(self) -> None:
        stores.connect(self.url)

    def __str__(self) -> str:
        return self.url

    __fspath__ = __str__

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self.url.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        return self.url.partition("://")[2].rstrip("/").rpartition("/")[2]

    @property
    def suffix(self) -> str:
        return os.path.splitext(self.name)[1]

    @property
    def parent(self) -> RemotePath:
        scheme, _, rest = self.url.partition("://")
        folder = rest.rstrip("/").rpartition("/")[0]
        return RemotePath(f"{scheme}://{folder or rest.rstrip('/')}")

    @property
    def is_web(self) -> bool:
        """Whether it is behind HTTP, which knows no folders: an index page may list files."""
        return stores.is_web(self.url)

    def is_file(self) -> bool:
        """Whether a file is there. Where access is denied there is none to be seen."""
        try:
            return not self.url.endswith("/") and bool(self.info())
        except (FileNotFoundError, AccessDeniedError):
            # Servers that do not let a stranger list deny access to whatever is not there.
            return False

    def is_dir(self) -> bool:
        return (self.url.endswith("/") or not self.is_web) and bool(self.entries())

    def info(self) -> SourceFile:
        """What the server tells of the file."""
        return source_of(self.url)

    def size(self) -> int:
        return self.info().size

    def entries(self) -> list[tuple[str, bool]]:
        """The names in a folder, sorted, each with whether it is a folder; none if it is none."""
        try:
            return sorted((_links if self.is_web else _names)(self.url).items())
        except (FileNotFoundError, AccessDeniedError):
            return []

    def iterdir(self) -> Iterator[RemotePath]:
        return (self / name for name, _ in self.entries())

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """The paths in this folder whose names match. `**` means no more than `*`."""
        return (path for path in self.iterdir() if fnmatchcase(path.name, pattern))

    def matching(self) -> list[str]:
        """The URLs of the files that this one matches as a pattern; `**` stands for any folders."""
        scheme, _, rest = self.url.partition("://")
        parts = rest.split("/")
        fixed = next((i for i, part in enumerate(parts) if has_magic(part)), len(parts) - 1)
        home = f"{scheme}://{'/'.join(parts[:fixed])}/"
        found: list[str] = []
        folders: list[tuple[str, Sequence[str]]] = [(home, parts[fixed:])]
        if "**" in parts and not self.is_web:
            found, folders = [home + path for path in _names(home, deep=True)], []
        for _ in range(MOST_FOLDERS):
            if not folders:
                return [url for url in found if _fits(url[len(home) :].split("/"), parts[fixed:])]
            folder, (first, *others) = folders.pop()
            for name, is_folder in RemotePath(folder).entries():
                if not is_folder:
                    found.append(folder + name)
                elif first == "**":
                    folders.append((f"{folder}{name}/", (first, *others)))
                elif others and fnmatchcase(name, first):
                    folders.append((f"{folder}{name}/", others))
        raise RemoteError(f"{home}: {MOST_FOLDERS:,} folders and more; name one of them")

    def open(self, mode: str = "rb") -> BinaryIO:
        assert mode == "rb"
        try:
            return BufferedReader(Raw(RemoteFile(self.url)), 1 << 16)
        except CheckpointNotFoundError as error:
            raise FileNotFoundError(*error.args) from None

    def download(self, copy: IO[bytes]) -> SourceFile:
        """Write the file's bytes to a local one in TMPDIR. Raises what RemoteFile does."""
        with closing(RemoteFile(self.url)) as file:
            for start in range(0, file.size, STEP):
                data = file.read(start, min(STEP, file.size - start))
                try:
                    copy.write(data)
                    copy.flush()
                except OSError as error:
                    raise no_room(self.url, error) from None
            file.check_unchanged()
            return file.source

    def put(self, path: Path) -> None:
        """Upload a local file to this place: whole or, as far as that can be told, not at all."""
        import obstore

        size = path.stat().st_size
        part = max(PART, size // 9999)
        store, key = stores.connect(self.url, writing=True)
        options = {"chunk_size": part, "max_concurrency": PARTS}
        calls.ask(self.url, obstore.put_async, store, key, path, **options)
        if (found := self.size()) != size:
            raise RemoteError(
                f"{self.url}: {size} bytes were uploaded, {found} are there; try again"
            )

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the file."""
        import obstore

        try:
            calls.ask(self.url, obstore.delete_async, *stores.connect(self.url))
        except FileNotFoundError:
            if not missing_ok:
                raise


def _fits(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether the names of a path are those of a pattern; `**` stands for any number of them."""
    if not parts:
        return not names
    if parts[0] == "**":
        return any(_fits(names[i:], parts[1:]) for i in range(len(names) + 1))
    return bool(names) and fnmatchcase(names[0], parts[0]) and _fits(names[1:], parts[1:])


def _names(url: str, deep: bool = False) -> dict[str, bool]:
    """The names in a folder of a store, each with whether it is a folder; or all paths below it."""
    import obstore

    store, home = stores.connect(url)

    async def listed() -> dict[str, bool]:
        if deep:
            pages = obstore.list(store, home or None, chunk_size=1000)
            return {meta["path"]: False async for page in pages for meta in page}
        found = await obstore.list_with_delimiter_async(store, home or None)
        # Before the folders: an object may have the name of one.
        names = {meta["path"]: False for meta in found["objects"]}
        return names | dict.fromkeys(found["common_prefixes"], True)

    try:
        paths = calls.ask(url, listed, patience=LISTING)
    except TimeoutError:
        raise RemoteError(
            f"{url}: holds too many files to be listed; name a folder in it"
        ) from None
    start = len(home) + bool(home)
    return {path[start:]: is_folder for path, is_folder in paths.items() if path[start:]}


def _links(url: str) -> dict[str, bool]:
    """The names that a web page links to in its own folder; none where there is no page."""
    own = f"{url.rstrip('/')}/"
    page, end = b"", monotonic() + LISTING
    try:  # not by obstore, which takes no answer whose length is not announced
        with urlopen(own, timeout=stores.IDLE_TIMEOUT) as answer:
            while part := answer.read1(1 << 16):
                page += part
                if len(page) > LARGEST_PAGE or monotonic() > end:
                    raise RemoteError(f"{url}: its list of files does not end")
    except RemoteError:
        raise
    except (HTTPException, OSError) as error:
        code = error.code if isinstance(error, HTTPError) else 500
        if isinstance(error, HTTPException) or (code < 500 and code not in (408, 429)):
            return {}  # a web server may answer anything where it lists no files
        raise calls.explained(url, error) from None
    links = (
        urljoin(own, link)
        for link in re.findall(r"""href=["']([^"'?#]+)""", page.decode("utf-8", "replace"))
    )
    names = {link.removeprefix(own) for link in links if link.startswith(own)}
    direct = (name for name in names if name and "/" not in name[:-1])
    return {name.rstrip("/"): name.endswith("/") for name in direct}
