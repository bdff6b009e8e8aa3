"""Calls of a server, from any thread, and what their errors mean."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from ..errors import AccessDeniedError, RemoteError, TFReaderError

T = TypeVar("T")

# obstore has what went wrong in the text alone: a line that ends in the status and what the server
# wrote, then the errors below that one as Rust prints them, the system's message innermost.
_REASONS = (
    (r"<Message>((?s:.*?))</Message>", r"\1"),
    (r"status code: (.*)", r"\1"),
    (r"kind: Timeout", "no answer in time"),
    (r"kind: Interrupted", "the connection was dropped"),
    (r"(?:message|error): \"(.*?)\"", r"\1"),
    (r"(InvalidCertificate)\(\s*(\w+)", r"\1: \2"),
    (r"(?:Generic \w+ error: )?(.+)", r"\1"),
)
_METADATA = "169.254."  # where clouds tell their machines the credentials: the last place asked
NO_CREDENTIALS = (
    "there are no credentials; set them in the environment, such as AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for a public bucket"
)

_lock = threading.Lock()
_started: list[tuple[int, asyncio.AbstractEventLoop]] = []  # in which process; one or none


def check_process(url: str) -> None:
    """Raise RemoteError in a forked process: neither threads nor sockets are there any more."""
    if _started and _started[0][0] != os.getpid():
        raise RemoteError(
            f"{url}: this process was forked from one that had opened URLs, which its connections "
            "do not survive; start processes by `spawn`: multiprocessing.get_context('spawn'), or "
            "of a DataLoader multiprocessing_context='spawn'"
        )


def start(url: str, call: Callable[..., Awaitable[T]], *args: Any, **options: Any) -> Future[T]:
    """Let the call be awaited in the one thread that talks to servers.

    Raises RemoteError; the future also FileNotFoundError, AccessDeniedError.
    """
    check_process(url)
    with _lock:
        if not _started:
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="tfreader-remote", daemon=True).start()
            _started.append((os.getpid(), loop))

    async def explaining() -> T:
        try:
            return await call(*args, **options)
        except TFReaderError:
            raise
        except Exception as error:
            raise explained(url, error) from error

    return asyncio.run_coroutine_threadsafe(explaining(), _started[0][1])


def ask(
    url: str,
    call: Callable[..., Awaitable[T]],
    *args: Any,
    patience: float | None = None,
    **options: Any,
) -> T:
    """What the call gives. Raises what the future does; TimeoutError after `patience` seconds."""
    future = start(url, call, *args, **options)
    try:
        return future.result(patience)
    finally:
        future.cancel()  # after a KeyboardInterrupt: nothing goes on unseen


def explained(url: str, error: Exception) -> Exception:
    """The error of a library as one of ours, or Python's FileNotFoundError."""
    text, why = str(error), reason(error)
    found = re.search(r"status code: (\d{3})", text)
    status = int(found[1]) if found else None
    if status in (404, 410) or (status is None and isinstance(error, FileNotFoundError)):
        return FileNotFoundError(errno.ENOENT, why, url)
    if _METADATA in text:
        return AccessDeniedError(f"{url}: {NO_CREDENTIALS}")
    if status in (401, 403):
        return AccessDeniedError(f"{url}: access denied ({why}); check the credentials")
    if status is None or status >= 500 or status in (408, 429):
        tried = re.search(r"\bretries: (\d+)", text)
        if tried or "HttpError {" in text or isinstance(error, OSError):
            times = f" {int(tried[1]) + 1} times" if tried else ""
            return RemoteError(
                f"{url}: failed{times} ({why}); check the address and the network, then try again"
            )
    return RemoteError(
        f"{url}: {why}; check the address and the credentials, or download the file first"
    )


def reason(error: Exception) -> str:
    """What an error says, in a few words."""
    told = (found.expand(words) for p, words in _REASONS if (found := re.search(p, str(error))))
    return next(told, type(error).__name__).strip(": ")[:300]
