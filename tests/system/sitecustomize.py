"""Makes this Python like that of another system, as far as it can: see test_portable.py.

`SYSTEM` is macos or windows. Names that it does not have are taken away. Like Windows, it refuses
to rename or remove what a process of this session has open, opens no folders, flushes only what is
open for writing, and must be told of every file that it is no text.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from contextlib import suppress

# What must be bound before the names are gone.
import asyncio  # noqa: F401  isort: skip
import multiprocessing.util  # noqa: F401  isort: skip
import subprocess  # noqa: F401  isort: skip
import threading  # noqa: F401  isort: skip
import numpy

numpy.longdouble = numpy.float64  # as with Windows' and Apple's compilers

SYSTEM = os.environ["SYSTEM"]
LINUX = (
    *("sched_getaffinity", "sched_setaffinity", "posix_fallocate", "posix_fadvise", "preadv"),
    *("pwritev", "copy_file_range", "sendfile", "memfd_create", "O_DIRECT", "pidfd_open"),
)
POSIX = (
    *("pread", "pwrite", "readv", "writev", "getuid", "geteuid", "getgid", "getegid", "fchmod"),
    *("fchown", "chown", "lchown", "mkfifo", "fork", "fstatvfs", "uname", "getpgid"),
    *("setsid", "killpg", "getrusage", "O_NONBLOCK", "O_DIRECTORY", "O_NOFOLLOW", "O_CLOEXEC"),
    *("fdatasync", "lockf", "sysconf", "getloadavg", "wait", "wait3", "wait4"),
)
SIGNALS = ("SIGHUP", "SIGKILL", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGPIPE", "SIGCHLD")
MODULES = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog")
O_BINARY = 1 << 40  # no flag of this system

real_open, real_fsync = os.open, os.fsync


def windows_open(path, flags, mode=0o777, *, dir_fd=None):
    if flags & getattr(os, "O_TMPFILE", 0) != getattr(os, "O_TMPFILE", 0):
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", path)
        ours = os.path.basename(os.path.dirname(sys._getframe(1).f_code.co_filename))
        assert flags & O_BINARY or ours not in ("tfreader", "writers", "mapping"), f"{path} as text"
    return real_open(path, flags & ~O_BINARY, mode, dir_fd=dir_fd)


def windows_fsync(fd):
    if os.stat(fd).st_mode and not (fdinfo_flags(fd) & (os.O_WRONLY | os.O_RDWR)):
        raise OSError(9, "Bad file descriptor")
    real_fsync(fd)


def fdinfo_flags(fd):
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as file:
        return next(int(line.split()[1], 8) for line in file if line.startswith("flags"))


def in_use(path):
    """Whether a process of this session has a file there open, or mapped, or one below."""
    path = os.path.realpath(path)
    if os.path.basename(path).startswith("pym-"):  # multiprocessing's, which on Windows has no name
        return False
    return any(name == path or name.startswith(path + "/") for name in held())


def held():
    """The files that processes of this session have open or mapped."""
    for process in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):  # it has ended, or is another user's
            if os.getsid(int(process)) == os.getsid(0):
                for number in os.listdir(f"/proc/{process}/fd"):
                    with suppress(OSError):  # closed by now
                        yield os.readlink(f"/proc/{process}/fd/{number}")
                with open(f"/proc/{process}/maps", encoding="utf-8") as maps:
                    yield from [line[line.find("/") :].rstrip("\n") for line in maps]


def refusing(function, count):
    """The function, whose first `count` arguments are paths of which none may be in use."""

    def checked(*arguments, **named):
        for path in arguments[:count]:
            if not isinstance(path, int) and in_use(path):
                raise PermissionError(13, "The process cannot access the file", path)
        if count == 2 and os.path.isdir(arguments[1]):
            raise PermissionError(13, "Access is denied", arguments[1])
        return function(*arguments, **named)

    return checked


def like_windows():
    import filelock

    locking = sys.modules["fcntl"]

    class FileLock(filelock.BaseFileLock):
        """As WindowsFileLock: the file is open while the lock is held, and goes with it."""

        def _acquire(self):
            fd = real_open(self.lock_file, os.O_RDWR | os.O_CREAT)
            try:
                locking.flock(fd, locking.LOCK_EX | locking.LOCK_NB)
            except OSError:
                os.close(fd)
                return
            if os.fstat(fd).st_nlink:  # Windows would not have removed it while it was open here
                self._context.lock_file_fd = fd
            else:
                os.close(fd)

        def _release(self):
            fd, self._context.lock_file_fd = self._context.lock_file_fd, None
            with suppress(OSError):
                real_unlink(self.lock_file)
            os.close(fd)

    real_unlink = os.unlink
    filelock.FileLock = FileLock
    os.O_BINARY = O_BINARY
    os.open, os.fsync = windows_open, windows_fsync
    for name in ("unlink", "remove", "rmdir"):
        setattr(os, name, refusing(getattr(os, name), 1))
    for name in ("rename", "replace"):
        setattr(os, name, refusing(getattr(os, name), 2))
    shutil._use_fd_functions = False

    def no_second_opening(*_, **__):
        raise AssertionError("Windows opens no such file by its name")

    tempfile.NamedTemporaryFile = no_second_opening
    import click

    main = click.Group.main

    def expanding(self, args=None, *others, windows_expand_args=True, **named):
        """As on Windows, where click does what its shells do not."""
        if args is None and windows_expand_args:
            args = click.utils._expand_args(sys.argv[1:])
        return main(self, args, *others, **named)

    click.Group.main = expanding
    join = os.path.join

    def joined(first, *others):
        assert "://" not in str(first), f"{first} would get a backslash"
        return join(first, *others)

    os.path.join = joined


def take_away():
    names = LINUX if SYSTEM == "macos" else (*LINUX, *POSIX)
    if SYSTEM == "windows":
        like_windows()
        for name in SIGNALS:
            if hasattr(signal, name):
                delattr(signal, name)
        for name in MODULES:
            sys.modules[name] = None
    for name in names:
        if hasattr(os, name):
            delattr(os, name)


take_away()
