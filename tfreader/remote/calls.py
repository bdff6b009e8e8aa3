"""Calls of a server: from any thread, again while what hinders them may pass, never without end."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import re
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from itertools import count
from time import monotonic
from typing import Any, TypeVar

from ..errors import AccessDeniedError, RemoteError, TFReaderError

T = TypeVar("T")

ATTEMPTS = 5
BACKOFF = 0.5  # seconds; doubled with each attempt, and a random part of that is waited
LONGEST_BACKOFF = 8.0
PATIENCE = 45.0  # seconds after which nothing is tried again
CALL_TIMEOUT = 30.0  # seconds for a call that moves next to no data
BLOCK_TIMEOUT = 120.0  # seconds for a block, on a line of some 2 Mbit/s

_FORKED = (
    "this process was forked from one that had opened URLs, which its connections do not survive; "
    "start processes by `spawn`: multiprocessing.get_context('spawn'), or of a DataLoader "
    "multiprocessing_context='spawn'"
)
_METADATA = "169.254."  # where clouds tell their machines the credentials: the last place asked
_lock = threading.Lock()


class _Process:
    """What this process talks to servers with."""

    loop: asyncio.AbstractEventLoop | None = None
    forked = False


class TransientError(OSError):
    """What may go well another time, of answers that are not an error of their own."""


def _after_fork() -> None:
    _Process.forked = _Process.loop is not None


os.register_at_fork(after_in_child=_after_fork)


def check_process(url: str) -> None:
    """Raise RemoteError in a forked process: neither threads nor sockets are there any more."""
    if _Process.forked:
        raise RemoteError(f"{url}: {_FORKED}")


def start(url: str, call: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
    """Let the call be awaited in the one thread that talks to servers. Raises RemoteError."""
    check_process(url)
    with _lock:
        if (loop := _Process.loop) is None:
            loop = _Process.loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="tfreader-remote", daemon=True).start()
    return asyncio.run_coroutine_threadsafe(call(), loop)


def ask(url: str, call: Callable[[], Awaitable[T]], timeout: float | None = None) -> T:
    """What the call gives, which has so many seconds for each attempt: see `persist`."""
    future = start(url, lambda: persist(url, call, timeout))
    try:
        return future.result()
    except BaseException:
        future.cancel()  # of a KeyboardInterrupt: nothing goes on unseen
        raise


async def persist(url: str, call: Callable[[], Awaitable[T]], timeout: float | None = None) -> T:
    """What the call gives, tried again while what hinders it may pass.

    Raises FileNotFoundError where the server has no such file, AccessDeniedError, RemoteError.
    """
    begin = monotonic()
    for attempt in count(1):
        try:
            async with asyncio.timeout(timeout or CALL_TIMEOUT):
                return await call()
        except TFReaderError:
            raise
        except Exception as error:
            tried = re.search(r"after (\d+) retries", str(error))  # obstore did, of an upload
            attempts = int(tried[1]) + 1 if tried else attempt
            passes = _may_pass(error)
            if passes and attempts < ATTEMPTS and monotonic() - begin < PATIENCE:
                await asyncio.sleep(random.uniform(0, min(LONGEST_BACKOFF, BACKOFF * 2**attempt)))
                continue
            raise explained(url, error, attempts if passes else None) from error
    raise AssertionError


def explained(url: str, error: Exception, attempts: int | None = None) -> Exception:
    """The error of a library as one of ours, or Python's FileNotFoundError."""
    why, status = reason(error), status_of(error)
    if status in (404, 410) or (status is None and isinstance(error, FileNotFoundError)):
        return FileNotFoundError(errno.ENOENT, why, url)
    if _METADATA in str(error):
        return AccessDeniedError(f"{url}: there are no credentials; set them in the environment")
    if status in (401, 403):
        return AccessDeniedError(f"{url}: access denied ({why}); check the credentials")
    if attempts is not None:
        return RemoteError(
            f"{url}: failed {attempts} times ({why}); check the address and the network, then "
            "try again"
        )
    return RemoteError(
        f"{url}: {why}; check the address and the credentials, or download the file first"
    )


def _may_pass(error: Exception) -> bool:
    """Whether the same call may succeed later: time-outs, dropped connections, busy servers."""
    status = status_of(error)
    if status is not None:
        return status >= 500 or status in (408, 429)
    permanent = FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError
    if isinstance(error, permanent) or _METADATA in str(error):
        return False
    return isinstance(error, OSError) or "HttpError {" in str(error)


def status_of(error: BaseException | None) -> int | None:
    """The HTTP status that made an error. obstore has it in the text alone."""
    found = re.search(r"status code: (\d{3})", str(error))
    return int(found[1]) if found else None


def reason(error: Exception) -> str:
    """What an error says, in a few words.

    obstore's errors are long: a line that ends in the status and what the server wrote, then the
    errors below that one as Rust prints them, with the system's message in the innermost.
    """
    if isinstance(error, TimeoutError):
        return "no answer in time"
    text = str(error)
    told = re.search(r"<Message>(.*?)</Message>", text, re.DOTALL)
    system = re.search(r"(?:message|error): \"(.*?)\"", text) or re.search(
        r"(InvalidCertificate\(\s*\w+)", text
    )
    line = re.sub(r"^Generic \w+ error: ", "", text.partition("\n")[0])
    if told:
        line = told[1]
    elif status_of(error):
        line = line.partition("status code: ")[2]
    elif "kind: Timeout" in text:
        line = "no answer in time"
    elif "kind: Interrupted" in text:
        line = "the connection was dropped"
    elif system and "\n" in text:
        line = re.sub(r"\(\s*", ": ", system[1])
    return line.strip(": ")[:300] or type(error).__name__
