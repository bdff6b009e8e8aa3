"""Servers that answer something else than was asked for, or without end; copies and forks."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import re
import resource
import shutil
import subprocess
import sys

import numpy as np
import pytest
from bundle_writer import write_bundle
from conftest import BERT
from servers import status

import tfreader
from tfreader.files import read_small
from tfreader.remote import RemoteFile, RemotePath, stores
from tfreader.remote import path as remote_path

URL_RANGE = re.compile(r"bytes=(\d+)-(\d+)")
ROWS = 1000


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(stores, "BACKOFF", 0.001)
    stores._store.cache_clear()  # of other tests' environment


@pytest.fixture
def rows(web):
    """A checkpoint of one variable, some rows of which have no checksum of their own."""
    values = np.arange(ROWS * 8, dtype="f4").reshape(ROWS, 8)
    write_bundle(web.folder / "m", {"table": values})
    return values


def lying(lie):
    """A fault of ranges of data files: `lie(handler, start, end, data)` answers."""

    def fault(handler):
        asked = URL_RANGE.fullmatch(handler.headers.get("Range", ""))
        if asked is None or ".data-" not in handler.path:
            return False
        data = (handler.server.folder / handler.path.strip("/")).read_bytes()
        lie(handler, int(asked[1]), int(asked[2]) + 1, data)
        return True

    return fault


def answer(handler, start, end, body, total, **headers):
    headers = {"Content-Range": f"bytes {start}-{end - 1}/{total}"} | headers
    handler.answer(206, body, **headers)


def shifted(handler, start, end, data):
    """The first bytes of the file, and honest about that."""
    answer(handler, 0, end - start, data[: end - start], len(data))


def halved(handler, start, end, data):
    middle = (start + end) // 2
    answer(handler, start, middle, data[start:middle], len(data))


def doubled(handler, start, end, data):
    answer(handler, start, end, data[start:end] * 2, len(data))


def of_another_file(handler, start, end, data):
    answer(handler, start, end, data[start:end], len(data) + 100)


def of_another_version(handler, start, end, data):
    answer(handler, start, end, data[start:end], len(data), ETag='"another"')


def whole(handler, start, end, data):
    handler.answer(200, data)


def unnamed(handler, start, end, data):
    handler.answer(206, data[start:end])


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        (shifted, "Requested .*, got .*download the file first"),
        (halved, "Requested .*, got .*download the file first"),
        (doubled, "more than the bytes came"),
        (of_another_file, "changed while it was being read"),
        (of_another_version, 'changed while it was being read.* it is "another"'),
        (whole, "does not serve byte ranges; download"),
        (unnamed, "Content-Range header not present"),
    ],
)
def test_an_answer_must_be_what_was_asked_for(web, rows, lie, message):
    with tfreader.open(f"{web.url}/m") as checkpoint:
        np.testing.assert_array_equal(checkpoint.read("table", slice(500, 510)), rows[500:510])
        web.fault = lying(lie)
        with pytest.raises((tfreader.RemoteError, tfreader.UnsupportedError), match=message):
            checkpoint.read("table", slice(500, 510))


def test_a_small_file_may_come_whole(web):
    """Of a server that knows no ranges, but not more of it than it has announced."""
    (web.folder / "config.json").write_bytes(b"{}")
    web.ranges = False
    assert read_small(RemotePath(f"{web.url}/config.json")) == b"{}"
    web.fault = lambda handler: handler.command == "GET" and not handler.answer(200, b"{} " * 9)
    with pytest.raises(tfreader.RemoteError, match="changed while it was being read"):
        read_small(RemotePath(f"{web.url}/config.json"))


def test_a_server_that_knows_no_head(web):
    (web.folder / "f").write_bytes(b"contents")
    web.fault = lambda handler: handler.command == "HEAD" and status(405)(handler)
    assert read_small(RemotePath(f"{web.url}/f")) == b"contents"
    assert not RemotePath(f"{web.url}/none").is_file()


HUGE = 1 << 50


def claims(handler, size, body=None):
    """A head that claims that size; without a body of its own zeros without end."""
    asked = URL_RANGE.fullmatch(handler.headers.get("Range", ""))
    handler.send_response(206 if asked else 200)
    if asked:
        handler.send_header("Content-Range", f"bytes {asked[1]}-{asked[2]}/{size}")
    if size is not None:
        handler.send_header("Content-Length", str(size))
    handler.end_headers()
    handler.close_connection = True
    try:
        while handler.command != "HEAD":
            handler.wfile.write(b'<a href="x">' * 10_000 if body is None else body)
    except OSError:  # the client has had enough
        pass
    return True


@pytest.mark.parametrize("size", [HUGE, None])
@pytest.mark.parametrize("name", ["m", "m.index", "f.pth", "f/", "f"])
def test_sizes_and_bodies_without_end(web, size, name):
    web.fault = lambda handler: claims(handler, size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(tfreader.TFReaderError):
        tfreader.open(f"{web.url}/{name}")
    with pytest.raises((tfreader.TFReaderError, OSError)):
        read_small(RemotePath(f"{web.url}/{name}"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KB


def test_a_file_that_is_claimed_to_be_huge(web):
    """Its bytes are there, as many as are asked for: memory and disk take what came, no more."""
    web.fault = lambda handler: handler.command == "HEAD" and claims(handler, HUGE)
    (web.folder / "m").write_bytes(bytes(1000))
    file = RemoteFile(f"{web.url}/m")
    assert file.size == HUGE
    file.expect([(0, HUGE)])
    with pytest.raises(tfreader.RemoteError, match="changed while it was being read"):
        file.read(0, HUGE // 2)
    file.close()


def test_lists_without_end(web, blobs, monkeypatch):
    (blobs.folder / "place").mkdir()
    web.fault = lambda handler: claims(handler, None)
    with pytest.raises(tfreader.RemoteError, match="list of files does not end"):
        RemotePath(f"{web.url}/x/").entries()
    monkeypatch.setattr(remote_path, "LISTING", 1.0)
    keys = "".join(f"<Contents><Key>f{i}</Key><Size>1</Size>{WHEN}</Contents>" for i in range(1000))
    page = f"<ListBucketResult>{keys}<IsTruncated>true</IsTruncated>{NEXT}</ListBucketResult>"
    blobs.fault = lambda handler: not handler.answer(200, page.encode())
    with pytest.raises(
        tfreader.RemoteError, match="holds too many files to be listed; name a folder"
    ):
        RemotePath("gs://place/x").entries()


WHEN = "<LastModified>2024-01-01T00:00:00Z</LastModified><ETag>x</ETag>"
NEXT = "<NextContinuationToken>more</NextContinuationToken>"


def test_folders_in_folders_without_end(web, monkeypatch):
    monkeypatch.setattr("tfreader.remote.path.MOST_FOLDERS", 50)
    page = b'<a href="more/">more</a>'
    web.fault = lambda handler: handler.path.endswith("/") and not handler.answer(200, page)
    with pytest.raises(tfreader.RemoteError, match="50 folders and more"):
        RemotePath(f"{web.url}/a/**/x.index").matching()


def test_copies_open_the_url_again(web, rows):
    file = RemoteFile(f"{web.url}/m.data-00000-of-00001")
    for same in (copy.copy(file), pickle.loads(pickle.dumps(file))):
        file.expect([(0, 100)])
        file.close()
        assert same.read(4, 8) == file.read(4, 8) == rows.tobytes()[4:12]
    with tfreader.open(f"{web.url}/m") as checkpoint:
        checkpoint.read("table")
        same = pickle.loads(pickle.dumps(checkpoint))
    np.testing.assert_array_equal(same["table"], rows)  # though the first one is closed
    os.utime(web.folder / "m.data-00000-of-00001", ns=(1, 1))
    with pytest.raises(tfreader.RemoteError, match="changed while it was being read"):
        copy.copy(file)


def first_row(url):
    with tfreader.open(url) as checkpoint:
        return checkpoint.read("table", slice(0, 1)).tolist()


def in_child(context, function, *arguments):
    """What a process of that kind gives or raises; it must not hang."""
    with multiprocessing.get_context(context).Pool(1) as pool:
        return pool.apply_async(function, arguments).get(60)


def test_forked_processes_say_that_they_cannot(web, rows):
    """Unless nothing was opened before: threads and connections do not survive a fork."""
    url = f"{web.url}/m"
    program = f"""
import multiprocessing, sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from test_remote_lies import first_row, in_child
import tfreader
print(in_child("fork", first_row, {url!r}))
print(first_row({url!r}))
try:
    in_child("fork", first_row, {url!r})
except tfreader.RemoteError as error:
    print(error)
print(in_child("spawn", first_row, {url!r}))
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    first, second, refused, spawned = done.stdout.splitlines()
    assert first == second == spawned == str(rows[:1].tolist())
    assert refused.startswith(url)
    assert "was forked from one that had opened URLs" in refused
    assert "start processes by `spawn`" in refused


def test_a_fork_in_the_middle(web):
    """The parent goes on, whatever its child tried."""
    shutil.copytree(BERT, web.folder / "bert")
    with tfreader.open(f"{web.url}/bert/bert_model.ckpt") as checkpoint:
        names = list(checkpoint)
        checkpoint.prefetch(names)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                checkpoint[names[0]]
            except tfreader.RemoteError:
                code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert checkpoint.verify().tensors == len(names)
