"""Paths of this machine and URLs: strings that are joined and asked alike."""

from __future__ import annotations

import os
import posixpath
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from glob import escape
from glob import glob as local_glob
from pathlib import Path, PurePath, PureWindowsPath
from typing import TYPE_CHECKING, TypeAlias
from unicodedata import normalize
from urllib.parse import urlsplit

from .errors import AccessDeniedError, UnsupportedError
from .system import is_link

if TYPE_CHECKING:
    from .remote import RemotePath

AnyPath: TypeAlias = "Path | RemotePath"

_SCHEME = "[A-Za-z][A-Za-z0-9+.-]+"  # one letter is a drive of Windows
_URL = re.compile(f"(?:{_SCHEME}::)*{_SCHEME}://")
# https://learn.microsoft.com/windows/win32/fileio/naming-a-file
_NO_NAME_ON_WINDOWS = re.compile(
    r'.*[<>:"|?*\0-\x1f].*|.*[. ]|(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\..*)?',
    re.IGNORECASE | re.DOTALL,
)


def is_url(path: str) -> bool:
    return _URL.match(path) is not None


def path_of(path: str | os.PathLike[str]) -> str:
    """A path or URL as a string; that of a local file, where a file:// URL names one."""
    path = os.fspath(path)
    if not path.startswith("file://"):
        return path
    from urllib.request import url2pathname  # takes all that HTTP and TLS need with it

    _, host, path, *_ = urlsplit(path)
    if host in ("", "localhost"):
        return url2pathname(path)
    if os.name == "nt":
        return url2pathname(f"//{host}{path}")
    raise UnsupportedError(f"file://{host}{path}: a file of {host}; mount it, and pass its path")


def as_path(path: str | os.PathLike[str]) -> AnyPath:
    """A path or URL as an object. Raises MissingExtraError, UnsupportedError for such a URL."""
    path = path_of(path)
    if not is_url(path):
        return Path(as_there(path))
    from .remote import RemotePath

    return RemotePath(path)


def join(folder: str, *names: str) -> str:
    """Parts of a path or URL as one: `os.path.join` would put backslashes into URLs on Windows."""
    return posixpath.join(folder, *names) if is_url(folder) else os.path.join(folder, *names)


def slashes(path: str) -> str:
    """The path with slashes alone between its parts, as Windows takes them too."""
    return path if is_url(path) else path.replace(os.sep, "/")


def is_name(name: str) -> bool:
    """Whether this names a file in a folder, and nothing outside of it, on any system."""
    return name not in ("", ".", "..") and "\0" not in name and PureWindowsPath(name).name == name


def impossible_name(path: PurePath) -> str | None:
    """The part of a path that Windows keeps to itself or changes, where the path is one there."""
    if not isinstance(path, PureWindowsPath):
        return None
    parts = path.parts[bool(path.anchor) :]
    return next((p for p in parts if p != ".." and _NO_NAME_ON_WINDOWS.fullmatch(p)), None)


def place(path: str) -> str:
    """What is the same for any two spellings of a place, on systems to which case means nothing."""
    if is_url(path):
        return path.rstrip("/")
    path = os.path.normcase(os.path.realpath(path)) if "\0" not in path else path
    return normalize("NFC", path.casefold()) if sys.platform == "darwin" else path


def found_as(path: str) -> str:
    """What is the same for paths of which `as_there` finds one by the other's name."""
    return path if is_url(path) else normalize("NFC", path)


def as_there(path: str, is_prefix: bool = False) -> str:
    """The path as its folder spells it, or as it is where that has nothing alike.

    A letter with an accent is one code point (NFC, as it is typed) or two (NFD, as macOS gives it),
    and most systems tell names apart by that. A prefix may be the beginning of a file's path.
    """
    if path.isascii() or is_url(path) or "\0" in path or os.path.lexists(path):
        return path
    folder, name = os.path.split(path)
    if folder == path:  # a drive or a server that is not there
        return path
    folder = as_there(folder)
    wanted = normalize("NFC", name)
    found = sorted(entry for entry, _ in entries(folder))
    if is_prefix:
        if any(entry.startswith(name) for entry in found):
            return join(folder, name)
        longer = [entry for entry in found if normalize("NFC", entry).startswith(wanted)]
        found = [entry[:end] for entry in longer for end in range(1, len(entry) + 1)]
    return join(folder, next((n for n in found if normalize("NFC", n) == wanted), name))


def above(path: str) -> Iterator[str]:
    """The folders that a path lies in."""
    while (folder := os.path.dirname(path)) and folder != path:
        yield folder
        path = folder


def absolute(path: str) -> str:
    """The path as other processes can use it."""
    return path if is_url(path) else os.path.abspath(path)


def is_file(path: str) -> bool:
    return as_path(path).is_file() if is_url(path) else os.path.isfile(path)


def is_dir(path: str) -> bool:
    return as_path(path).is_dir() if is_url(path) else os.path.isdir(path)


def entries(folder: str) -> list[tuple[str, bool]]:
    """The names in a folder, each with whether it is a folder; none where there is no folder.

    What is neither a file nor a folder is left out.
    """
    if is_url(folder):
        from .remote import RemotePath

        return RemotePath(folder).entries()
    try:
        with os.scandir(folder or ".") as found:
            kinds = ((entry.name, _is_folder(entry)) for entry in found)
            return [(name, is_folder) for name, is_folder in kinds if is_folder is not None]
    except (OSError, ValueError):  # a NUL in the path is a ValueError
        return []


def size_of(path: AnyPath) -> int:
    """The size of a file in bytes."""
    return path.stat().st_size if isinstance(path, Path) else path.size()


def glob(pattern: str, passed_over: Callable[[str], None] = lambda _: None) -> list[str]:
    """The files and folders that match, sorted; `**` stands for any folders, hidden ones left out.

    Their parts have slashes between them on every system.

    As in a shell it does not follow links to folders, which may lead in circles, or to anywhere:
    `passed_over` is told of them. Raises RemoteError.
    """
    if not is_url(pattern):
        found = _local_glob(slashes(path_of(pattern)), passed_over)
        return sorted({slashes(path) for path in found})
    from .remote import RemotePath

    return sorted(RemotePath(pattern).matching())


def _local_glob(pattern: str, passed_over: Callable[[str], None]) -> Iterator[str]:
    parts = pattern.split("/")
    if "**" not in parts:
        yield from local_glob(pattern)
        return
    first = parts.index("**")
    below = "/".join(parts[first + 1 :]) or "*"
    for root in local_glob("/".join([*parts[:first], ""])) if first else [""]:
        for folder in _folders(root, passed_over):
            yield from _local_glob(escape(folder) + below, passed_over)


def _folders(root: str, passed_over: Callable[[str], None]) -> Iterator[str]:
    """A folder and all below it, each with a slash behind it."""
    folders = [root]
    while folders:
        folder = folders.pop()
        yield folder
        with suppress(OSError), os.scandir(folder or ".") as found:
            for entry in found:
                if entry.name.startswith(".") or not _is_folder(entry):
                    continue
                if is_link(entry.path):
                    passed_over(folder + entry.name)
                else:
                    folders.append(f"{folder}{entry.name}/")


def _is_folder(entry: os.DirEntry[str]) -> bool | None:
    """Whether an entry is a folder; None where it is neither that nor a file."""
    with suppress(OSError):  # a link in a circle
        return True if entry.is_dir() else False if entry.is_file() else None
    return None


def check_access(path: str) -> None:
    """Raise AccessDeniedError where a server keeps to itself whether that file is there.

    Locally, where this user may not look for it, or not look into it if it is a folder.
    """
    if is_url(path):
        from .remote import RemotePath

        with suppress(FileNotFoundError):
            RemotePath(path).info()
        return
    try:
        os.stat(path)
        if os.path.isdir(path):
            os.stat(os.path.join(path, "."))
            if not os.access(path, os.R_OK):
                raise AccessDeniedError(
                    f"{path} may not be listed by this user: pass the checkpoint's prefix"
                )
    except AccessDeniedError:
        raise
    except PermissionError as error:
        raise AccessDeniedError(f"{path}: not accessible to this user ({error.strerror})") from None
    except (OSError, ValueError):  # not there; a NUL in the path is a ValueError
        return
