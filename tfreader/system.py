"""What operating systems do in different ways: here, in one place, and nowhere else.

The fast call where the system has it, else what every system has. Windows has no calls that read
or write at an offset, translates line ends unless told not to, and opens no folders; macOS lacks
some of Linux' calls.
"""

from __future__ import annotations

import errno
import math
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from threading import Lock

BINARY: int = getattr(os, "O_BINARY", 0)  # without it Windows translates line ends
MOST_BYTES = 1 << 30  # of one call: macOS and Windows take less than 2 GiB
WINDOWS_DESCRIPTORS = 8192  # of its C runtime
PAUSES = (0.01, 0.03, 0.1, 0.3, 1.0)  # seconds in which a virus scanner lets go of a new file
_IN_USE = (5, 32)  # ERROR_ACCESS_DENIED, ERROR_SHARING_VIOLATION
_PLAIN = re.compile(r"[\w@+=:,./\\~-]+")  # words that no shell of Windows takes apart

# A descriptor has one position, so those without a call of their own take turns, by descriptor.
_turns = [Lock() for _ in range(64)]


def read_at(fd: int, view: memoryview, offset: int) -> int:
    """Read into `view` from `offset` on; the number of bytes, 0 at the file's end."""
    view = view[:MOST_BYTES]
    if hasattr(os, "preadv"):
        return os.preadv(fd, [view], offset)
    if hasattr(os, "pread"):
        data = os.pread(fd, len(view), offset)
        view[: len(data)] = data
        return len(data)
    with _turn(fd, offset):
        return FileIO(fd, closefd=False).readinto(view)


def write_at(fd: int, data: memoryview | bytes | bytearray, offset: int) -> None:
    """Write all of `data`; a call of the system may write less. Raises OSError."""
    rest = memoryview(data)
    while rest:
        if hasattr(os, "pwrite"):
            count = os.pwrite(fd, rest[:MOST_BYTES], offset)
        else:
            with _turn(fd, offset):
                count = os.write(fd, rest[:MOST_BYTES])
        rest, offset = rest[count:], offset + count


@contextmanager
def _turn(fd: int, offset: int) -> Iterator[None]:
    with _turns[fd % len(_turns)]:
        os.lseek(fd, offset, os.SEEK_SET)
        yield


def allocate(fd: int, size: int) -> None:
    """Give a file its size; a full disk shows at once where the system can tell."""
    if size and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(fd, 0, size)
            return
        except OSError as error:  # not every C library does it in another way
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
    os.ftruncate(fd, size)


def most_descriptors() -> float:
    """How many files a process may have open."""
    try:
        import resource
    except ImportError:
        return WINDOWS_DESCRIPTORS
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return math.inf if limit == resource.RLIM_INFINITY else limit


def ignores_case(folder: str) -> bool:
    """Whether names that differ by case are one in a folder, or in the one that it will lie in."""
    here = Path(folder).absolute()
    home = next(path for path in (here, *here.parents) if os.path.isdir(path))
    with suppress(OSError), tempfile.TemporaryDirectory(prefix=".tfreader.", dir=home) as probe:
        return os.path.exists(os.path.join(home, os.path.basename(probe).upper()))
    return False


def is_link(path: str) -> bool:
    """Whether a name stands for what lies elsewhere: a link, or one of Windows' junctions."""
    is_junction = getattr(os.path, "isjunction", lambda _: False)  # of Python 3.12
    return os.path.islink(path) or is_junction(path)


def quoted(*words: str) -> str:
    """Words as they are typed after each other in a command; Windows knows double quotes alone."""
    if os.name != "nt":
        return shlex.join(words)
    return " ".join(word if _PLAIN.fullmatch(word) else _in_quotes(word) for word in words)


def _in_quotes(word: str) -> str:
    # https://learn.microsoft.com/cpp/c-language/parsing-c-command-line-arguments
    return '"' + re.sub(r'(\\*)("|$)', lambda m: 2 * m[1] + ("\\" + m[2]) * bool(m[2]), word) + '"'


def processors() -> int:
    """How many this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def most_processes() -> int:
    """How many a pool may have: on Windows ProcessPoolExecutor refuses more than 61."""
    return 61 if os.name == "nt" else sys.maxsize


class TemporaryFile:
    """A file to be written at a `path` in TMPDIR, which goes by `remove`, or with this object.

    It may be opened by its path while it is open, as Windows refuses for those of `tempfile`.
    """

    def __init__(self, suffix: str) -> None:
        folder = tempfile.mkdtemp(prefix="tfreader.")
        self.path = Path(folder, f"copy{suffix}")
        self.remove = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)


def sync(path: Path) -> None:
    """Wait until a file's contents, or a folder's names, would outlive a power cut.

    Windows opens no folders: of their names it keeps a journal.
    """
    is_folder = path.is_dir()
    try:  # Windows flushes only what may be written to
        descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR | BINARY)
    except PermissionError:
        if is_folder:
            return
        raise
    try:
        _flush(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that cannot say
            raise
    finally:
        os.close(descriptor)


def _flush(fd: int) -> None:
    """`os.fsync`, which on macOS leaves what is written in the cache of the drive."""
    if sys.platform == "darwin":
        import fcntl

        with suppress(OSError):  # as of a network's file systems, which have fsync alone
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            return
    os.fsync(fd)


def replace(source: Path, target: Path) -> None:
    """`os.replace`; on Windows a virus scanner may have a new file open for a moment."""
    for pause in PAUSES:
        try:
            os.replace(source, target)
            return
        except PermissionError as error:
            if getattr(error, "winerror", None) not in _IN_USE:
                raise
            time.sleep(pause)
    os.replace(source, target)
