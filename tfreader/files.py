"""Random access to the files of a checkpoint, and a look at what a file really is."""

from __future__ import annotations

import os
from typing import Any

from .errors import CheckpointNotFoundError, CorruptCheckpointError

TABLE_MAGIC = bytes.fromhex("57fb808b247547db")  # the last 8 bytes of a sorted string table

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: run `git lfs pull`"),
    (b"<!doctype html", "an HTML page: the download returned a web page, fetch the file again"),
    (b"<html", "an HTML page: the download returned a web page, fetch the file again"),
    (b"\x89hdf\r\n\x1a\n", "an HDF5 file (Keras .h5), not a TensorFlow checkpoint"),
    (b"pk\x03\x04", "a zip archive (unpack it; .keras, .npz and torch files are zips too)"),
    (b"\x1f\x8b", "a gzip archive: unpack it first"),
    (b"\x80\x02", "a Python pickle (an old torch file?), not a TensorFlow checkpoint"),
    (b"\x80\x03", "a Python pickle, not a TensorFlow checkpoint"),
    (b"\x80\x04", "a Python pickle, not a TensorFlow checkpoint"),
)


def sniff(path: str) -> str | None:
    """What the file at `path` is, where that is plainly no checkpoint file; else None."""
    try:
        with open(path, "rb") as file:
            head = file.read(512)
    except OSError:
        return None
    text = head.lstrip().lower()
    for signature, meaning in _SIGNATURES:
        if text.startswith(signature):
            return meaning
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < 100_000_000:
        return "a safetensors file: it needs no conversion"
    if not head:
        return "empty"
    return None


def is_table(path: str) -> bool:
    """Whether the file ends as a sorted string table does: an index, or a V1 checkpoint."""
    with open(path, "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - len(TABLE_MAGIC)))
        return file.read() == TABLE_MAGIC


def but_it_is(path: str, otherwise: str = "") -> str:
    """A clause for the end of an error message: what the file really is, or else `otherwise`."""
    meaning = sniff(path)
    if meaning:
        return f"; the file is {meaning}"
    return f"; {otherwise}" if otherwise else ""


DAMAGED = "it is damaged, fetch it again"


class LocalFile:
    """A file read at given offsets. Reads may come from several threads at once."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        except FileNotFoundError:
            raise CheckpointNotFoundError(f"{path}: no such file") from None
        except OSError as error:
            raise CorruptCheckpointError(f"{path}: cannot be opened ({error.strerror})") from None
        self.size = os.fstat(self._fd).st_size

    def read_into(self, offset: int, buffer: Any) -> None:
        """Fill the writable `buffer` (bytes-like, contiguous) from `offset` on."""
        view = memoryview(buffer).cast("B")
        done = 0
        try:
            while done < len(view):
                count = os.preadv(self._fd, [view[done:]], offset + done)
                if count == 0:
                    break
                done += count
        except OSError as error:
            raise CorruptCheckpointError(
                f"{self.path}: cannot be read at offset {offset + done} ({error.strerror})"
            ) from None
        if done < len(view):
            raise CorruptCheckpointError(
                f"{self.path}: truncated: bytes {offset} to {offset + len(view)} are needed, "
                f"the file has {self.size}{but_it_is(self.path)}"
            )

    def read(self, offset: int, size: int) -> bytearray:
        """The `size` bytes at `offset`. The caller bounds `size` by the file's size."""
        buffer = bytearray(size)
        self.read_into(offset, buffer)
        return buffer

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
