"""Keras' HDF5 files as checkpoints: weights, whole models, and Keras 3's archives (.keras)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from hashlib import sha256
from typing import Any, NamedTuple

from .checkpoint import Checkpoint, TensorInfo, VariableReader, VerifyReport, reopen, whole
from .dtypes import Array
from .errors import (
    ChangedError,
    ChecksumError,
    CorruptCheckpointError,
    RemoteError,
    TFReaderError,
    UnsupportedError,
)
from .files import CHUNK, DAMAGED, contents_checksum, open_file, windows
from .hdf5.contents import contents_of
from .hdf5.datasets import Dataset
from .hdf5.file import HDF5File
from .hdf5.values import check_dataset, read_dataset
from .keras_archive import Archive, is_archive
from .keras_names import layers_in, names_of
from .paths import absolute, is_url
from .protocols import Expected, File, SourceFile
from .runs import RunReader


class _Variable(NamedTuple):
    dataset: Dataset
    names: tuple[str, ...]


class KerasFile(Checkpoint):
    """The variables of an HDF5 file from Keras.

    A variable goes by its own name, where only one has it, or else by its dataset's path; see
    `names`. What the format has no place for is listed, with a dtype that says so, but cannot be
    read: links to other files, virtual datasets, references. Raises CheckpointNotFoundError,
    CorruptCheckpointError, UnsupportedError, RemoteError, MissingExtraError without h5py.
    """

    format = "h5"
    has_checksums = False
    verified = "all could be read; the format has no checksums of them"

    def __init__(self, path: str, notes: tuple[str, ...] = ()) -> None:
        self.path = path
        self._arguments = absolute(path), notes
        self._file, layers = _opened(path)
        with ExitStack() as undo:
            undo.callback(self._file.close)
            self._hdf5 = HDF5File(self._file)
            undo.callback(self._hdf5.close)
            contents = contents_of(self._hdf5)
            undo.pop_all()
        layers |= {group.removesuffix("/vars"): own for group, own in contents.names.items()}
        self.notes = (*notes, *contents.notes)
        names = names_of([dataset.path for dataset in contents.datasets], contents.marks, layers)
        variables = [_Variable(dataset, names[dataset.path]) for dataset in contents.datasets]
        variables.sort(key=lambda variable: variable.names[0])
        self._variables = {variable.names[0]: variable for variable in variables}
        self._others: dict[str, list[str]] = {}
        for key, variable in self._variables.items():
            for other in variable.names[1:]:
                self._others.setdefault(other, []).append(key)

    def info(self, name: str) -> TensorInfo:
        name = self._key(name)
        dataset: Dataset = self._variables[name].dataset
        _, dtype, shape, nbytes, offset = dataset
        return TensorInfo(name, dtype, shape, nbytes, shard=0, offset=offset)

    def names(self, name: str) -> tuple[str, ...]:
        names: tuple[str, ...] = self._variables[name].names
        return names

    def _find(self, name: str) -> str | None:
        keys = self._others.get(name, ())
        return keys[0] if len(keys) == 1 else None

    def _holder(self, info: TensorInfo) -> File:
        """The file, which must have all bytes of a variable with an offset."""
        assert info.offset is not None and info.nbytes is not None
        end = info.offset + info.nbytes
        if info.offset < 0 or end > self._file.size:
            raise CorruptCheckpointError(
                f"{self.path}: variable {self.shown(info.name)!r} ends at byte {end}, the file "
                f"has {self._file.size}; {DAMAGED}"
            )
        return self._file

    def reader(self, name: str) -> VariableReader:
        info = self.info(name)
        return VariableReader(self, info) if info.offset is None else RunReader(info, self._holder)

    def check_shards(self, names: Sequence[str]) -> None:
        for name in names:
            self._check(self.info(name))

    def _check(self, info: TensorInfo) -> None:
        """Raise what reading it would raise, but for what its bytes tell."""
        if info.offset is not None:
            self._holder(info)
            return
        if info.dtype.numpy is None:
            raise UnsupportedError(
                f"{self.path}: {info.name!r} is of type {info.dtype}, which has no values that can "
                "be read"
            )
        check_dataset(self._hdf5, self._variables[info.name].dataset)

    def prefetch(self, names: Sequence[str]) -> None:
        if is_url(self.path):  # the system reads local files ahead by itself
            self._expect(map(self.info, names))

    def _expect(self, infos: Iterable[TensorInfo]) -> Expected:
        plain = [info for info in infos if info.offset is not None]
        for info in plain:
            self._holder(info)
        return self._file.expect([(info.offset or 0, info.nbytes or 0) for info in plain])

    def check_unchanged(self) -> None:
        self._file.check_unchanged()

    def verify(self) -> VerifyReport:
        """Read all values, once each, and check an archive's checksums; HDF5 has hardly any.

        Variables that share bytes are damage: Keras writes none.
        """
        problems: list[TFReaderError] = []
        nbytes = 0
        infos = sorted(self.infos, key=lambda info: info.offset or 0)
        for window in windows(infos, lambda info: info.nbytes or 0):
            expected: Expected | None = None
            if is_url(self.path):
                with suppress(CorruptCheckpointError):
                    expected = self._expect(window)
            for info in window:
                try:
                    nbytes += self._verify(info)
                except (RemoteError, ChangedError):  # say nothing about the file's bytes
                    raise
                except UnsupportedError:
                    pass  # listed as what it is
                except TFReaderError as error:
                    problems.append(error)
            if expected is not None:
                expected.forget()
        problems += [
            CorruptCheckpointError(
                f"{self.path}: variables {self.shown(first)!r} and {self.shown(second)!r} share "
                f"bytes; {DAMAGED}"
            )
            for first, second in _overlapping(infos)
        ]
        if isinstance(self._file, Archive):
            problems += self._file.damage()
        self.check_unchanged()
        if problems:
            raise ChecksumError.of(self.path, problems)
        return VerifyReport(len(self), nbytes)

    def _verify(self, info: TensorInfo) -> int:
        self._check(info)
        if info.offset is None:
            return self._load(info, None).nbytes
        nbytes = info.nbytes or 0
        buffer = memoryview(bytearray(min(CHUNK, nbytes)))
        for start in range(0, nbytes, CHUNK):
            self._file.read_into(info.offset + start, buffer[: nbytes - start])
        return nbytes

    def files(self) -> tuple[SourceFile, ...]:
        return (self._file.source,)

    def index_sha256(self) -> str:
        """Of what is said of the variables: paths, types, shapes and where they lie."""
        described = [(*info, self._variables[info.name].names) for info in self.infos]
        return sha256(json.dumps([self._file.size, described]).encode()).hexdigest()

    def contents_checksum(self, kind: str) -> str | None:
        return contents_checksum(kind, [self._file])

    def close(self) -> None:
        self._closed = True
        self._hdf5.close()
        self._file.close()

    def __reduce__(self) -> Any:
        return reopen, (KerasFile, self._arguments, self.index_sha256())

    def _load(self, info: TensorInfo, rows: range | None) -> Array:
        if info.offset is None:
            self._check(info)
            values = read_dataset(self._hdf5, self._variables[info.name].dataset)
            return values if rows is None else values[rows.start : rows.stop]
        box = whole(info.shape)
        return RunReader(info, self._holder).read(box if rows is None else (rows, *box[1:]))


def _opened(path: str) -> tuple[File, dict[str, str]]:
    """The HDF5 file, also within an archive, whose config tells the names of layers by groups."""
    file = open_file(path)
    try:
        if not is_archive(file):
            return file, {}
        archive = Archive(file)
    except BaseException:
        file.close()
        raise
    return archive, dict(layers_in(archive.config))


def _overlapping(infos: Iterable[TensorInfo]) -> Iterator[tuple[str, str]]:
    """Of variables in the order of their bytes, those that begin within another, behind that one.

    Two links to one dataset are none.
    """
    last, begin, end = "", 0, 0
    for info in infos:
        if info.offset is None or info.nbytes is None:
            continue
        if (info.offset, info.offset + info.nbytes) == (begin, end):
            continue
        if info.offset < end:
            yield last, info.name
            continue
        last, begin, end = info.name, info.offset, info.offset + info.nbytes
