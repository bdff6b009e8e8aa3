"""State dicts of torch tensors, in memory and in .bin, .pt and .pth files.

A file of torch.save is a zip archive: a pickle that describes the tensors, and a stored record for
the bytes of each, which the pickle names. torch writes it here without those bytes, which are then
put into their place.
"""

from __future__ import annotations

import os
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from tfreader.errors import MissingExtraError, UnsupportedError
from tfreader.system import allocate, write_at

from ..plan import Entry

if TYPE_CHECKING:
    import torch

# https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, sections 4.3.7, 4.3.9 and 4.3.12
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_DESCRIPTOR, _CENTRAL_HEADER = b"PK\x07\x08", b"PK\x01\x02"
_CENTRAL_SIZE, _CENTRAL_CRC = 46, 16
_HAS_DESCRIPTOR = 1 << 3  # of the general purpose flags, section 4.4.4

_NAMED_ALONE = re.compile("u?int[1-7]")  # types that torch has names for, but no storage


def check_torch(entries: Iterable[Entry]) -> None:
    """Raise now what writing would raise: MissingExtraError, UnsupportedError."""
    try:
        import torch
    except ImportError:
        raise MissingExtraError("writing torch tensors", "torch") from None
    if not hasattr(torch.serialization, "skip_data"):
        raise UnsupportedError(f"torch {torch.__version__} is too old; pip install 'torch>=2.6'")
    for entry in entries:
        dtype = str(entry.dtype)
        is_known = isinstance(getattr(torch, dtype, None), torch.dtype)
        if not is_known or _NAMED_ALONE.fullmatch(dtype):
            raise UnsupportedError(
                f"tensor {entry.target!r}: torch saves no values of type {dtype}; leave its "
                "variable out with --ignore, or write a .safetensors file"
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
    """A tensor for each entry, by name; the system gives them memory once it is written to.

    Raises UnsupportedError where there is not even room for their addresses.
    """
    import torch

    tensors = {}
    for entry in sorted(entries, key=lambda entry: entry.target):
        try:
            tensors[entry.target] = torch.empty(entry.shape, dtype=getattr(torch, str(entry.dtype)))
        except RuntimeError as error:
            raise UnsupportedError(
                f"{entry.target} {list(entry.shape)}: torch has no memory for its {entry.nbytes} "
                f"bytes ({str(error).partition(chr(10))[0][:100]})"
            ) from None
    return tensors


def _with_ties(
    tensors: dict[str, torch.Tensor], ties: Mapping[str, str]
) -> dict[str, torch.Tensor]:
    return tensors | {alias: tensors[target] for alias, target in ties.items()}


class TorchFile:
    """A file of torch.save being written. `write` must be given every byte of every tensor.

    Different tensors may come from different threads. Raises OSError when writing fails,
    UnsupportedError where torch has laid the file out in a way that is not known here.
    """

    def __init__(
        self, path: str | os.PathLike[str], entries: Sequence[Entry], ties: Mapping[str, str]
    ) -> None:
        import torch

        tensors = _empty_tensors(entries)
        self._file = open(path, "w+b", buffering=0)  # noqa: SIM115 - closed by close
        try:
            # Given a path, torch would write its name into the file, but for one that is not ASCII.
            try:
                with torch.serialization.skip_data():
                    torch.save(_with_ties(tensors, ties), self._file)
            except RuntimeError as error:  # torch's zip writer reports a full disk so
                raise OSError(str(error).partition("\n")[0]) from error
            with zipfile.ZipFile(self._file) as archive:
                self._directory = archive.start_dir
                self._records = _records(archive, entries, ties)
            self._starts = {
                name: _start_of_data(self._file, record) for name, record in self._records.items()
            }
            self._crcs = dict.fromkeys(tensors, 0)
            fd = self._file.fileno()
            allocate(fd, os.fstat(fd).st_size)
        except BaseException:
            self._file.close()
            raise

    def write(self, entry: Entry, offset: int, data: memoryview) -> None:
        self._crcs[entry.target] = zlib.crc32(data, self._crcs[entry.target])
        write_at(self._file.fileno(), data, self._starts[entry.target] + offset)

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
            if record.flag_bits & _HAS_DESCRIPTOR:
                write_at(self._file.fileno(), crcs[record.filename.encode()], end + 4)
        position = 0
        while directory.startswith(_CENTRAL_HEADER, position):
            lengths = struct.unpack_from("<HHH", directory, position + 28)
            name_start = position + _CENTRAL_SIZE
            filename = bytes(directory[name_start : name_start + lengths[0]])
            if filename in crcs:
                crc = crcs.pop(filename)
                directory[position + _CENTRAL_CRC : position + _CENTRAL_CRC + 4] = crc
            position = name_start + sum(lengths)
        if crcs:
            raise _unknown_layout(f"{next(iter(crcs))!r} is not in its directory")
        write_at(self._file.fileno(), directory, self._directory)


class _Keys(pickle.Unpickler):
    """Reads the pickle that torch has just written: of each tensor the name of its record."""

    def persistent_load(self, saved: Any) -> Any:
        return saved[2]  # "storage", its type, its key, its device, its length

    def find_class(self, module: str, name: str) -> Any:
        return lambda *values: values[0] if values else None  # of a tensor's parts, its storage


def _records(
    archive: zipfile.ZipFile, entries: Sequence[Entry], ties: Mapping[str, str]
) -> dict[str, zipfile.ZipInfo]:
    """The record for the bytes of each tensor, as the archive's pickle names it.

    torch 2.6 orders the records by their names as strings, later ones as numbers: their order tells
    nothing. Raises UnsupportedError unless every tensor has one record, just large enough, of its
    own and its ties', whose checksum can be put into its place.
    """
    records = {record.filename: record for record in archive.infolist()}
    try:
        described = next(name for name in records if name.endswith("/data.pkl"))
        keys = _Keys(archive.open(described)).load()
        folder = described.removesuffix(".pkl")
        found = {entry.target: records.pop(f"{folder}/{keys[entry.target]}") for entry in entries}
        strays = [alias for alias, target in ties.items() if keys[alias] != keys[target]]
    except (StopIteration, LookupError, TypeError, pickle.UnpicklingError) as error:
        raise _unknown_layout(f"{type(error).__name__} {error}") from None
    strays += [entry.target for entry in entries if found[entry.target].file_size != entry.nbytes]
    if strays:
        raise _unknown_layout(f"no record of its own holds just the bytes of {strays[0]!r}")
    return found


def _start_of_data(file: BinaryIO, record: zipfile.ZipInfo) -> int:
    """Where a record's bytes begin. Raises UnsupportedError unless they can be put there."""

    def read(offset: int, size: int) -> bytes:
        file.seek(offset)
        return file.read(size)

    header = read(record.header_offset, _LOCAL_HEADER.size)
    _, name, extra = _LOCAL_HEADER.unpack(header)
    start = int(record.header_offset + len(header) + name + extra)
    # The local header holds the checksum, unless it says that a descriptor behind the data does.
    has_descriptor = bool(record.flag_bits & _HAS_DESCRIPTOR)
    if (
        record.compress_type != zipfile.ZIP_STORED
        or (record.file_size and not has_descriptor)
        or (has_descriptor and read(start + record.file_size, 4) != _DESCRIPTOR)
    ):
        raise _unknown_layout(f"record {record.filename!r} is not stored as it was until now")
    return start


def _unknown_layout(problem: str) -> UnsupportedError:
    import torch

    return UnsupportedError(
        f"torch {torch.__version__} lays out its files in a way that tfreader does not know "
        f"({problem}); write a .safetensors file, or use another release of torch"
    )
