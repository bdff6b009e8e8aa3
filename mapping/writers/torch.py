"""State dicts of torch tensors, in memory and in .bin, .pt and .pth files.

A file of torch.save is a zip archive: a pickle that describes the tensors, and a stored record for
the bytes of each. torch writes it here without those bytes, which are then put into their place.
"""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from tfreader.errors import MissingExtraError, UnsupportedError

from ..plan import Entry
from .files import pwrite_all

if TYPE_CHECKING:
    import torch

# https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, sections 4.3.7, 4.3.9 and 4.3.12
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_DESCRIPTOR, _CENTRAL_HEADER = b"PK\x07\x08", b"PK\x01\x02"
_CENTRAL_SIZE, _CENTRAL_CRC = 46, 16


def check_torch(entries: Iterable[Entry]) -> None:
    """Raise now what writing would raise: MissingExtraError, UnsupportedError."""
    try:
        import torch
    except ImportError:
        raise MissingExtraError("writing torch tensors", "torch") from None
    if not hasattr(torch.serialization, "skip_data"):
        raise UnsupportedError(f"torch {torch.__version__} is too old; pip install 'torch>=2.6'")
    for entry in entries:
        if not isinstance(getattr(torch, str(entry.dtype), None), torch.dtype):
            raise UnsupportedError(
                f"variable {entry.sources[0]!r}: torch has no type {entry.dtype}; "
                "leave it out with --ignore"
            )


class StateDict:
    """The tensors of a plan in memory, filled by `write`.

    `tensors` has tied names too: they share storage, as in `Module.state_dict`.
    """

    def __init__(self, entries: Sequence[Entry], ties: Mapping[str, str]) -> None:
        self.tensors = _with_ties(_empty_tensors(entries), ties)
        self._memory = {
            entry.target: self.tensors[entry.target].view(-1) for entry in entries if entry.nbytes
        }

    def write(self, entry: Entry, offset: int, data: memoryview) -> None:
        import torch

        memory = self._memory[entry.target].view(torch.uint8).numpy()
        memory[offset : offset + len(data)] = np.frombuffer(data, np.uint8)


def _empty_tensors(entries: Sequence[Entry]) -> dict[str, torch.Tensor]:
    """A tensor for each entry, by name; the system gives them memory once it is written to."""
    import torch

    return {
        entry.target: torch.empty(entry.shape, dtype=getattr(torch, str(entry.dtype)))
        for entry in sorted(entries, key=lambda entry: entry.target)
    }


def _with_ties(
    tensors: dict[str, torch.Tensor], ties: Mapping[str, str]
) -> dict[str, torch.Tensor]:
    return tensors | {alias: tensors[target] for alias, target in ties.items()}


class TorchFile:
    """A file of torch.save being written. `write` must be given every byte of every tensor.

    Different tensors may come from different threads. Raises OSError when writing fails.
    """

    def __init__(
        self, path: str | os.PathLike[str], entries: Sequence[Entry], ties: Mapping[str, str]
    ) -> None:
        import torch

        tensors = _empty_tensors(entries)
        try:
            with torch.serialization.skip_data():
                torch.save(_with_ties(tensors, ties), path)
        except RuntimeError as error:  # torch's zip writer reports a full disk so
            raise OSError(str(error).partition("\n")[0]) from error
        self._file = open(path, "r+b", buffering=0)  # noqa: SIM115 - closed by close
        with zipfile.ZipFile(self._file) as archive:
            self._directory = archive.start_dir
            records = archive.infolist()
        data = [record for record in records if "/data/" in record.filename]
        self._records = dict(zip(tensors, data, strict=True))  # in the order they were pickled
        self._starts = {
            name: _start_of_data(self._file, record) for name, record in self._records.items()
        }
        self._crcs = dict.fromkeys(tensors, 0)
        size = os.fstat(self._file.fileno()).st_size
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._file.fileno(), 0, size)  # a full disk shows at once

    def write(self, entry: Entry, offset: int, data: memoryview) -> None:
        self._crcs[entry.target] = zlib.crc32(data, self._crcs[entry.target])
        pwrite_all(self._file.fileno(), data, self._starts[entry.target] + offset)

    def close(self) -> None:
        self._file.close()

    def finish(self) -> None:
        """Put the checksums where torch could not know them: behind the data, and at the end."""
        self._file.seek(self._directory)
        directory = bytearray(self._file.read())
        crcs = {
            self._records[name].filename.encode(): struct.pack("<I", crc)
            for name, crc in self._crcs.items()
        }
        for name, record in self._records.items():
            end = self._starts[name] + record.file_size
            if os.pread(self._file.fileno(), 4, end) == _DESCRIPTOR:
                pwrite_all(self._file.fileno(), crcs[record.filename.encode()], end + 4)
        position = 0
        while directory.startswith(_CENTRAL_HEADER, position):
            lengths = struct.unpack_from("<HHH", directory, position + 28)
            name_start = position + _CENTRAL_SIZE
            filename = bytes(directory[name_start : name_start + lengths[0]])
            if filename in crcs:
                directory[position + _CENTRAL_CRC : position + _CENTRAL_CRC + 4] = crcs[filename]
            position = name_start + sum(lengths)
        pwrite_all(self._file.fileno(), directory, self._directory)


def _start_of_data(file: BinaryIO, record: zipfile.ZipInfo) -> int:
    file.seek(record.header_offset)
    _, name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    return int(record.header_offset + _LOCAL_HEADER.size + name + extra)
