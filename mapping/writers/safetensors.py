"""safetensors files, written tensor by tensor at offsets that are known beforehand.

Layout as the safetensors format says: the header's length (8 bytes, little-endian), the header
(JSON, padded with spaces to a multiple of 8), then all tensors without gaps.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from tfreader.dtypes import name_of
from tfreader.errors import ConfigError, CorruptCheckpointError, PlanError, UnsupportedError
from tfreader.protocols import File
from tfreader.safetensors_file import DTYPE_NAMES

from ..plan import Entry
from .files import OutputFile

_FROM_NAME = {stored: name for name, stored in DTYPE_NAMES.items()}
METADATA = {"format": "pt"}
MAX_HEADER_SIZE = 100_000_000  # the safetensors library refuses longer ones


class Layout(NamedTuple):
    """A file's first bytes, each tensor's offset in the file, and the file's size."""

    header: bytes
    offsets: dict[str, int]
    size: int


class SafetensorsFile:
    """One file being written. `write` must be given every byte of every tensor announced.

    It may be called in any order and from several threads. Raises OSError when writing fails.
    """

    def __init__(self, path: str | os.PathLike[str], laid_out: Layout) -> None:
        self._offsets = laid_out.offsets
        self._file = OutputFile(path)
        try:
            self._file.write(laid_out.header, 0)
            self._file.allocate(laid_out.size)
        except BaseException:
            self._file.close()
            raise

    def write(self, entry: Entry, offset: int, data: memoryview) -> None:
        self._file.write(data, self._offsets[entry.target] + offset)

    def finish(self) -> None:
        """All that was said at the start is true once every tensor is written."""

    def close(self) -> None:
        self._file.close()


def layout(entries: Iterable[Entry]) -> Layout:
    """Where everything comes to lie in a file of these tensors.

    They lie in the order of descending dtype width, then of name, as the library writes them,
    so that every one is aligned. Raises PlanError for two tensors of one name, UnsupportedError for
    a dtype that the format does not have.
    """
    entries = list(entries)
    _check_unique(entries)
    header: dict[str, Any] = {"__metadata__": METADATA}
    position = 0
    for entry in sorted(entries, key=lambda e: (-e.dtype.itemsize, e.target)):
        if not entry.target.isascii() and "\\udc" in ascii(entry.target):
            raise UnsupportedError(f"tensor {entry.target!r}: safetensors names must be UTF-8")
        end = position + entry.nbytes
        header[entry.target] = {
            "dtype": dtype_name(entry),
            "shape": list(entry.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_SIZE:
        raise UnsupportedError(
            f"the safetensors header would take {len(text)} bytes, {MAX_HEADER_SIZE} are allowed; "
            "write several files with --max-shard-size"
        )
    start = 8 + len(text)
    offsets = {
        name: start + tensor["data_offsets"][0]
        for name, tensor in header.items()
        if name != "__metadata__"
    }
    return Layout(len(text).to_bytes(8, "little") + text, offsets, start + position)


def _check_unique(entries: Sequence[Entry]) -> None:
    """No library opens a file with a name that stands twice, or is that of the metadata."""
    seen = {"__metadata__"}
    for entry in entries:
        if entry.target in seen:
            what = "no name for a tensor" if entry.target == "__metadata__" else "filled twice"
            raise PlanError(f"tensor {entry.target!r}: {what}; correct the rules")
        seen.add(entry.target)


def header_size(file: File) -> int:
    """How many bytes of a file stand before its tensors; no more than it has."""
    length = int.from_bytes(file.read(0, min(8, file.size)), "little")
    return min(8 + length, file.size, 8 + MAX_HEADER_SIZE)


def read_header(file: File) -> dict[str, dict[str, Any]]:
    """The tensors of a file by name: dtype, shape and data_offsets, these counted in the file.

    Raises CorruptCheckpointError where the file is not one of safetensors, or is truncated.
    """
    try:
        size = header_size(file)
        header = json.loads(file.read(8, max(0, size - 8)))
        header.pop("__metadata__", None)
        for tensor in header.values():
            start, end = (size + offset for offset in tensor["data_offsets"])
            if (
                not size <= start <= end <= file.size
                or tensor["dtype"] not in _FROM_NAME
                or not isinstance(tensor["shape"], list)
            ):
                raise ValueError(f"a tensor {tensor} in a file of {file.size} bytes")
            tensor["data_offsets"] = [start, end]
            tensor["dtype"] = _FROM_NAME[tensor["dtype"]]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CorruptCheckpointError(
            f"{file.path}: damaged, or no safetensors file ({str(error)[:200]}); convert again"
        ) from None
    found: dict[str, dict[str, Any]] = header
    return found


def dtype_name(entry: Entry) -> str:
    name = DTYPE_NAMES.get(name_of(entry.dtype))
    if name is None:
        raise UnsupportedError(
            f"tensor {entry.target!r}: safetensors has no type {entry.dtype}; "
            "leave it out with --ignore"
        )
    return name


def shards(entries: Iterable[Entry], max_size: int) -> list[list[Entry]]:
    """Entries in files of at most `max_size` bytes of tensors, filled greedily in name order.

    A larger tensor gets a file of its own.
    """
    files: list[list[Entry]] = []
    room = 0
    for entry in sorted(entries, key=lambda entry: entry.target):
        if not files or entry.nbytes > room:
            files.append([])
            room = max_size
        files[-1].append(entry)
        room -= entry.nbytes
    return files


def shard_names(count: int, stem: str = "model") -> list[str]:
    """The file names that transformers gives to so many shards."""
    if count == 1:
        return [f"{stem}.safetensors"]
    return [f"{stem}-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]


def index_json(files: Sequence[Sequence[Entry]], names: Sequence[str]) -> bytes:
    """The index file that says which tensor lies in which shard."""
    entries = [entry for file in files for entry in file]
    _check_unique(entries)
    weight_map = {
        entry.target: name for file, name in zip(files, names, strict=True) for entry in file
    }
    index = {
        "metadata": {
            "total_parameters": sum(e.nbytes // e.dtype.itemsize for e in entries),
            "total_size": sum(e.nbytes for e in entries),
        },
        "weight_map": dict(sorted(weight_map.items())),
    }
    return (json.dumps(index, indent=2) + "\n").encode()


_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def parse_size(size: str | int, flag: str) -> int:
    """A number of bytes from "5GB" (decimal), "5GiB" (binary) or a plain number.

    Raises ConfigError, which names the flag.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Z]*)", str(size).strip().upper())
    if (
        not match
        or match[2] not in _UNITS
        or (value := int(float(match[1]) * _UNITS[match[2]])) < 1
    ):
        raise ConfigError(f"{flag} {size!r} is no size; write it as 5GB or 200MB")
    return value
