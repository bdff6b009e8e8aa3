"""Keras' archives (.keras): a zip of config.json and the weights in an HDF5 file.

keras/src/saving/saving_lib.py stores them uncompressed, so the weights are read where they lie.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterable
from contextlib import closing
from io import BufferedReader
from typing import Any

from .errors import (
    CheckpointNotFoundError,
    CorruptCheckpointError,
    OutputError,
    TFReaderError,
    UnsupportedError,
)
from .files import CHUNK, DAMAGED, SMALL, LocalFile, open_file
from .hdf5.source import PLACES, SIGNATURE, place_of
from .paths import is_url
from .protocols import Expected, File, Raw
from .system import TemporaryFile

WEIGHTS = "model.weights.h5"
CONFIG = "config.json"
MAX_MEMBERS = 10_000  # assets, such as vocabularies, have one each
PLAUSIBLE = 64 << 20  # bytes that compressed weights may have, however small they are
RATIO = 100
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # ends with the lengths of the name and of the rest


def is_archive(file: File) -> bool:
    """Whether it begins as zip archives do."""
    return file.size > 4 and file.read(0, 4) == b"PK\3\4"


def is_keras_file(path: str) -> bool:
    """Whether it is an HDF5 file, or an archive with one that Keras calls so."""
    try:
        # A named pipe would be waited for, and so would some of /proc, whose files have no size.
        if not is_url(path) and not os.path.isfile(path):
            return False
        with closing(open_file(path)) as file:
            if is_archive(file):
                with zipfile.ZipFile(BufferedReader(Raw(file, owns=False))) as archive:
                    return WEIGHTS in archive.namelist()
            return place_of(file.read(0, min(file.size, PLACES[-1] + len(SIGNATURE)))) is not None
    except (CheckpointNotFoundError, CorruptCheckpointError):
        return False
    except TFReaderError:
        raise
    except Exception:  # zipfile lets whatever a damaged archive causes through
        return False  # who opens it next says what is wrong with it


class Archive:
    """The weights in an archive, as a File. Closes the File that it was made of.

    `config` is the model's, None where there is none that can be read. Compressed weights are
    unpacked to a temporary file. Raises CorruptCheckpointError, UnsupportedError, RemoteError.
    """

    def __init__(self, file: File) -> None:
        self._outer = file
        self.path = file.path
        self.source = file.source
        self._inner: File = file
        self._start = 0
        self._copy: TemporaryFile | None = None
        try:
            with zipfile.ZipFile(BufferedReader(Raw(file, owns=False))) as archive:
                self._open(archive)
                self.config = _config(archive)
        except TFReaderError:
            raise
        except Exception as error:  # zipfile lets whatever a damaged archive causes through
            reason = f"{type(error).__name__}: {error}"[:200]
            raise CorruptCheckpointError(
                f"{self.path}: a damaged zip archive ({reason}); {DAMAGED}"
            ) from None

    def _open(self, archive: zipfile.ZipFile) -> None:
        names = archive.namelist()
        if len(names) > MAX_MEMBERS or names.count(WEIGHTS) != 1:
            raise UnsupportedError(
                f"{self.path}: a zip archive of {len(names)} files, not Keras' with {WEIGHTS}"
            )
        info = archive.getinfo(WEIGHTS)
        self.size = info.file_size
        self._crc = info.CRC
        if info.flag_bits & 1:
            raise UnsupportedError(f"{self.path}: {WEIGHTS} in it is encrypted")
        if info.compress_type != zipfile.ZIP_STORED:
            self._unpack(archive, info)
            return
        header = self._outer.read(info.header_offset, _LOCAL_HEADER.size)
        signature, *lengths = _LOCAL_HEADER.unpack(header)
        self._start = info.header_offset + len(header) + sum(lengths)
        end = self._start + self.size
        if signature != b"PK\3\4" or info.compress_size != self.size or end > self._outer.size:
            raise CorruptCheckpointError(
                f"{self.path}: {WEIGHTS} ends at byte {end}, the file has {self._outer.size}; "
                f"{DAMAGED}"
            )

    def _unpack(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
        if self.size > max(PLAUSIBLE, RATIO * info.compress_size):
            raise UnsupportedError(
                f"{self.path}: {WEIGHTS} would take {self.size} bytes, {info.compress_size} are "
                "stored: unpack it, if the file is your own, and pass it"
            )
        self._copy = TemporaryFile(".h5")
        path = self._copy.path
        try:
            with archive.open(info) as packed, path.open("wb") as copy:
                shutil.copyfileobj(packed, copy, CHUNK)  # gives no more than `size` bytes
        except TFReaderError:
            raise
        except OSError as error:
            raise OutputError(
                f"{path}: {self.path} cannot be unpacked there ({error.strerror}); set "
                "TMPDIR to a place with room"
            ) from None
        self._inner = LocalFile(str(path))
        if self._inner.size != self.size:
            raise CorruptCheckpointError(f"{self.path}: {WEIGHTS} ends too early; {DAMAGED}")

    def read_into(self, offset: int, buffer: Any) -> None:
        size = memoryview(buffer).nbytes
        if offset + size > self.size:
            raise CorruptCheckpointError(
                f"{self.path}: {WEIGHTS} in it is truncated: bytes {offset} to {offset + size} are "
                f"needed, it has {self.size}; {DAMAGED}"
            )
        self._inner.read_into(self._start + offset, buffer)

    def read(self, offset: int, size: int) -> bytearray:
        buffer = bytearray(size)
        self.read_into(offset, buffer)
        return buffer

    def expect(self, ranges: Iterable[tuple[int, int]]) -> Expected:
        return self._inner.expect([(self._start + start, size) for start, size in ranges])

    def check_unchanged(self) -> None:
        self._outer.check_unchanged()

    def damage(self) -> list[TFReaderError]:
        """What the archive's own checksum of the weights says."""
        crc = 0
        buffer = memoryview(bytearray(min(CHUNK, self.size)))
        for start in range(0, self.size, CHUNK):
            part = buffer[: self.size - start]
            self.read_into(start, part)
            crc = zlib.crc32(part, crc)
        if crc == self._crc:
            return []
        return [
            CorruptCheckpointError(
                f"{self.path}: checksum mismatch: {self._crc:#010x} is stored for {WEIGHTS}, the "
                f"bytes give {crc:#010x}; {DAMAGED}"
            )
        ]

    def close(self) -> None:
        self._inner.close()
        self._outer.close()
        if self._copy is not None:
            self._copy.remove()


def _config(archive: zipfile.ZipFile) -> Any:
    if CONFIG not in archive.namelist() or archive.getinfo(CONFIG).file_size > SMALL:
        return None
    try:
        return json.loads(archive.read(CONFIG))
    except (ValueError, RecursionError):
        return None
