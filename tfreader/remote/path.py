"""URLs with the part of pathlib.Path's interface that is used here."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from fnmatch import fnmatchcase
from glob import has_magic
from io import BufferedReader
from pathlib import Path
from typing import IO, BinaryIO

from ..errors import AccessDeniedError, CheckpointNotFoundError, CorruptCheckpointError, RemoteError
from ..protocols import Raw, SourceFile
from .file import STEP, RemoteFile, no_room
from .objects import RemoteObject

LARGEST_READ = 64 << 20  # bytes of a config, a vocabulary or rules
MOST_FOLDERS = 10_000  # of a web server that a pattern leads through


class RemotePath:
    """Its methods raise what a Path's do: FileNotFoundError where nothing is there.

    Beyond that, RemoteError when the server could not be asked. Making one raises MissingExtraError
    or UnsupportedError where nothing here can read such a URL.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._object = RemoteObject(url)

    def __str__(self) -> str:
        return self._url

    __fspath__ = __str__

    def __repr__(self) -> str:
        return f"RemotePath({self._url!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and self._url == other._url

    def __hash__(self) -> int:
        return hash(self._url)

    def __reduce__(self) -> tuple[type[RemotePath], tuple[str]]:
        return RemotePath, (self._url,)

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self._url.rstrip('/')}/{name}")

    @property
    def name(self) -> str:
        return self._object.name

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
        return self._object.is_web

    def is_file(self) -> bool:
        """Whether a file is there. Where access is denied there is none to be seen."""
        if self._url.endswith("/"):
            return False
        try:
            self.info()
        except (FileNotFoundError, AccessDeniedError):
            # Servers that do not let a stranger list deny access to whatever is not there.
            return False
        return True

    def is_dir(self) -> bool:
        if self.is_web:
            return self._url.endswith("/") and bool(self.entries())
        try:
            return self._object.is_folder()
        except (FileNotFoundError, AccessDeniedError):
            return False

    def info(self) -> SourceFile:
        """What the server tells of the file."""
        return self._object.info()

    def entries(self) -> list[tuple[str, bool]]:
        """The names in a folder, sorted, each with whether it is a folder; none if it is none."""
        try:
            return sorted(self._object.names().items())
        except (FileNotFoundError, AccessDeniedError):
            return []

    def iterdir(self) -> Iterator[RemotePath]:
        return (self / name for name, _ in self.entries())

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """The paths in this folder whose names match. `**` means no more than `*`."""
        return (path for path in self.iterdir() if fnmatchcase(path.name, pattern))

    def matching(self) -> list[str]:
        """The URLs of the files that this one matches as a pattern; `**` stands for any folders."""
        scheme, _, rest = self._url.partition("://")
        parts = rest.split("/")
        fixed = next((i for i, part in enumerate(parts) if has_magic(part)), len(parts) - 1)
        folder = RemotePath(f"{scheme}://{'/'.join(parts[:fixed])}/")
        if "**" in parts and not self.is_web:
            urls: Iterator[str] = iter(folder._object.files())
        else:
            urls = folder._walk(parts[fixed:])
        start = len(str(folder))
        return [url for url in urls if _fits(url[start:].split("/"), parts[fixed:])]

    def _walk(self, parts: Sequence[str]) -> Iterator[str]:
        """The URLs of the files below a folder, as deep as the parts of a pattern lead."""
        folders = [(self, parts)]
        for _ in range(MOST_FOLDERS):
            if not folders:
                return
            folder, (first, *rest) = folders.pop()
            for name, is_folder in folder.entries():
                if not is_folder:
                    yield str(folder / name)
                elif first == "**":
                    folders.append((folder / f"{name}/", parts))
                elif rest and fnmatchcase(name, first):
                    folders.append((folder / f"{name}/", rest))
        raise RemoteError(f"{self}: {MOST_FOLDERS:,} folders and more; name one of them")

    def size(self) -> int:
        return self.info().size

    def open(self, mode: str = "rb") -> BinaryIO:
        assert mode == "rb"
        return BufferedReader(Raw(self._file()), 1 << 16)

    def read_bytes(self) -> bytes:
        """All of a small file. Raises CorruptCheckpointError for one that is no such file."""
        with closing(self._file()) as file:
            if file.size > LARGEST_READ:
                raise CorruptCheckpointError(
                    f"{self}: {file.size} bytes, too large for what it should be"
                )
            return bytes(file.read(0, file.size))

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def _file(self) -> RemoteFile:
        try:
            return RemoteFile(self._url)
        except CheckpointNotFoundError as error:
            raise FileNotFoundError(*error.args) from None

    def download(self, copy: IO[bytes]) -> SourceFile:
        """Write the file's bytes to a local one in TMPDIR. Raises what RemoteFile does."""
        with closing(RemoteFile(self._url)) as file:
            for start in range(0, file.size, STEP):
                data = file.read(start, min(STEP, file.size - start))
                try:
                    copy.write(data)
                    copy.flush()
                except OSError as error:
                    raise no_room(self._url, error) from None
            file.check_unchanged()
            return file.source

    def put(self, path: Path) -> None:
        """Upload a local file to this place. Raises RemoteError."""
        self._object.put(path)

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the file."""
        try:
            self._object.delete()
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
