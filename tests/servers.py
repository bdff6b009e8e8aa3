"""Servers on loopback: of files over HTTP, which can be told to fail, and of buckets."""

from __future__ import annotations

import itertools
import os
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Fault = Callable[["Handler"], bool]
"""Is asked before each answer; True says that it has dealt with the request."""


class FileServer(ThreadingHTTPServer):
    """Serves a folder with ranges and ETags; counts the requests and the bytes of their bodies."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.fault: Fault = lambda _: False
        self.ranges = True
        self.listings = True
        self.hung = threading.Event()  # set at the end: lets hanging answers go
        self.lock = threading.Lock()
        self.requests: list[str] = []
        self.sent = 0

    def handle_error(self, *_: object) -> None:
        """A client that hung up."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: FileServer

    def do_GET(self) -> None:
        with self.server.lock:
            asked = self.command, self.path, self.headers.get("Range", "")
            self.server.requests.append(" ".join(asked).strip())
        if self.server.fault(self):
            return
        path = self.server.folder / self.path.strip("/")
        if path.is_dir() and not self.path.endswith("/"):
            self.answer(301, b"", Location=f"{self.path}/")
        elif path.is_dir() and self.server.listings:
            links = "".join(f'<a href="{name}">{name}</a>' for name in os.listdir(path))
            self.answer(200, links.encode(), **{"Content-Type": "text/html"})
        elif not path.is_file():
            self.answer(404, b"nothing here")
        else:
            self.send_range(path.read_bytes(), path.stat().st_mtime_ns)

    do_HEAD = do_GET  # noqa: N815

    def send_range(self, data: bytes, version: int) -> None:
        headers = {"ETag": f'"{version:x}"', "Content-Type": "application/octet-stream"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked is None or not self.server.ranges:
            self.answer(200, data, **headers)
            return
        start, end = int(asked[1]), min(int(asked[2]) + 1, len(data))
        if start >= end:
            self.answer(416, b"")
            return
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        self.answer(206, data[start:end], **headers)

    def answer(self, status: int, body: bytes, sent: int | None = None, **headers: str) -> None:
        """Send a body, or only so many bytes of it before the connection is dropped."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        with self.server.lock:
            self.server.sent += len(body[:sent])
        self.wfile.write(body[:sent])
        if sent is not None:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[FileServer]:
    with FileServer(folder) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.hung.set()
            server.shutdown()
            thread.join()


def first(count: int, fault: Fault) -> Fault:
    """The fault in the first so many ranges that are asked for, then none."""
    left = iter(range(count))
    lock = threading.Lock()

    def once_more(handler: Handler) -> bool:
        if "Range" not in handler.headers:
            return False
        with lock:
            again = next(left, None) is not None
        return again and fault(handler)

    return once_more


def status(code: int) -> Fault:
    def fault(handler: Handler) -> bool:
        handler.answer(code, b"no")
        return True

    return fault


def drop(handler: Handler) -> bool:
    """Hang up in the middle of the body."""
    if handler.command == "HEAD":
        return False
    handler.answer(206, bytes(1000), sent=10)
    return True


def hang(handler: Handler) -> bool:
    """Never answer."""
    handler.server.hung.wait()
    handler.close_connection = True
    return True


class Buckets:
    """An S3 server that counts the bytes of its answers' bodies, and can be told to fail."""

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Silent(WSGIRequestHandler):
            def log(self, *_: object) -> None:
                pass

        self._moto = DomainDispatcherApplication(create_backend_app)
        self.sent = 0
        self.requests: list[str] = []
        # Is asked before each answer: for a status to give in place of it, or to drop it.
        self.fault: Callable[[str], str | None] = lambda _: None
        self._server = make_server("127.0.0.1", 0, self, threaded=True, request_handler=Silent)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __call__(self, environ: Any, start_response: Any) -> Iterator[bytes]:
        request = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}"
        self.requests.append(request)
        fault = self.fault(request)
        if fault not in (None, DROP):
            start_response(fault, [("Content-Length", "0")])
            return
        for chunk in self._moto(environ, start_response):
            if fault == DROP:
                yield chunk[: len(chunk) // 2]
                raise ConnectionResetError
            self.sent += len(chunk)
            yield chunk

    @contextmanager
    def serving(self) -> Iterator[Buckets]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()


def closed_port() -> str:
    """The URL of a server that is not there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


DROP = "drop"


def refuse(
    fault: str, start: str, skip: int = 0, count: int = sys.maxsize
) -> Callable[[str], str | None]:
    """A fault of so many requests that begin like that, after some that go well."""
    numbers = itertools.count()

    def ask(request: str) -> str | None:
        hit = request.startswith(start) and skip <= next(numbers) < skip + count
        return fault if hit else None

    return ask


@contextmanager
def bucket_server() -> Iterator[str]:
    """The URL of an S3 server."""
    with Buckets().serving() as server:
        yield server.url
