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
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

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
        self.versions = True
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
            names = [f"{file.name}/" if file.is_dir() else file.name for file in path.iterdir()]
            links = "".join(f'<a href="{name}">{name}</a>' for name in names)
            self.answer(200, links.encode(), **{"Content-Type": "text/html"})
        elif not path.is_file():
            self.answer(404, b"nothing here")
        else:
            self.send_range(path.read_bytes(), path.stat().st_mtime_ns)

    do_HEAD = do_GET  # noqa: N815

    def send_range(self, data: bytes, version: int) -> None:
        headers = {"ETag": f'"{version:x}"', "Content-Type": "application/octet-stream"}
        headers["Last-Modified"] = formatdate(version // 10**9, usegmt=True)
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
        if not self.server.versions:
            headers.pop("ETag", None)
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
def serving(folder: Path, kind: type[FileServer] = FileServer) -> Iterator[FileServer]:
    with kind(folder) as server:
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
    start, end = map(int, re.findall(r"\d+", handler.headers["Range"]))
    file = handler.server.folder / handler.path.strip("/")
    data = file.read_bytes()
    about = {
        "Content-Range": f"bytes {start}-{end}/{len(data)}",
        "ETag": f'"{file.stat().st_mtime_ns:x}"',
    }
    handler.answer(206, data[start : end + 1], sent=10, **about)
    return True


def hang(handler: Handler) -> bool:
    """Never answer."""
    handler.server.hung.wait()
    handler.close_connection = True
    return True


class BlobServer(FileServer):
    """Serves a folder as Google's and Azure's storage do: objects that are listed, put, deleted."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.RequestHandlerClass = BlobHandler


class BlobHandler(Handler):
    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = dict(parse_qsl(url.query))
        if "list-type" in query or "list" in query.values():
            if not self.server.fault(self):
                self.list(url.path, query)
        elif (self.server.folder / unquote(url.path).strip("/")).is_dir():
            self.answer(404, b"")
        else:
            self.path = unquote(url.path)
            super().do_GET()

    do_HEAD = do_GET  # noqa: N815

    def list(self, container: str, query: dict[str, str]) -> None:
        home = self.server.folder / container.strip("/")
        files = {path.relative_to(home).as_posix(): path for path in home.rglob("*")}
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        names = {name for name in files if files[name].is_file() and name.startswith(prefix)}
        below = {name: name[len(prefix) :].partition("/") for name in names if delimiter}
        folders = {f"{prefix}{first}/" for first, slash, _ in below.values() if slash}
        names = {name for name in names if not (delimiter and below[name][1])}
        items = "".join(self.entry(name, files[name].stat()) for name in sorted(names))
        kind = "BlobPrefix><Name" if "restype" in query else "CommonPrefixes><Prefix"
        ends = "Name></BlobPrefix" if "restype" in query else "Prefix></CommonPrefixes"
        items += "".join(f"<{kind}>{name}</{ends}>" for name in sorted(folders))
        body = (
            f"<EnumerationResults><Blobs>{items}</Blobs></EnumerationResults>"
            if "restype" in query
            else f"<ListBucketResult><IsTruncated>false</IsTruncated>{items}</ListBucketResult>"
        )
        self.answer(200, body.encode())

    def entry(self, name: str, status: os.stat_result) -> str:
        """An object in a listing, as each of the two wants it."""
        if "x-ms-version" in self.headers:
            return (
                f"<Blob><Name>{name}</Name><Properties><Last-Modified>{self.time(status)}"
                f"</Last-Modified><Content-Length>{status.st_size}</Content-Length><Content-Type/>"
                f"<Etag>{status.st_mtime_ns:x}</Etag></Properties></Blob>"
            )
        return (
            f"<Contents><Key>{name}</Key><Size>{status.st_size}</Size><LastModified>"
            f"2024-01-01T00:00:00Z</LastModified><ETag>{status.st_mtime_ns:x}</ETag></Contents>"
        )

    def time(self, status: os.stat_result) -> str:
        return formatdate(status.st_mtime, usegmt=True)

    def do_PUT(self) -> None:
        path = self.server.folder / unquote(urlsplit(self.path).path).strip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.rfile.read(int(self.headers["Content-Length"])))
        self.answer(201, b"", ETag=f'"{path.stat().st_mtime_ns:x}"')

    def do_DELETE(self) -> None:
        self.answer(self.delete(urlsplit(self.path).path), b"")

    def do_POST(self) -> None:
        """Azure's way to delete: requests within a request."""
        asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
        parts = [
            f"--end\r\nContent-Type: application/http\r\nContent-ID: {number}\r\n\r\n"
            f"HTTP/1.1 {self.delete(urlsplit(path).path)} OK\r\n\r\n"
            for number, path in re.findall(r"Content-ID: (\d+)\s+DELETE (\S+)", asked)
        ]
        body = "".join(parts) + "--end--\r\n"
        self.answer(202, body.encode(), **{"Content-Type": "multipart/mixed; boundary=end"})

    def delete(self, path: str) -> int:
        file = self.server.folder / unquote(path).strip("/")
        if not file.is_file():
            return 404
        file.unlink()
        return 202


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
