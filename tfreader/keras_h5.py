"""Keras' HDF5 files as checkpoints: weights, whole models, and Keras 3's archives (.keras)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from typing import Any, NamedTuple

from .checkpoint import (
    Checkpoint,
    TensorInfo,
    VariableReader,
    VerifyReport,
    reopen,
)
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
from .hdf5 import Dataset, HDF5File
from .keras_archive import Archive, is_archive
from .keras_names import layers_in, names_of
from .paths import absolute, is_url
from .protocols import Expected, File, SourceFile
from .runs import RunReader


class _Variable(NamedTuple):
    dataset: Dataset
    shard: int
    names: tuple[str, ...]


class KerasFile(Checkpoint):
    """The variables of an HDF5 file, or of several that share them out, all from Keras.

    A variable goes by its own name, where only one has it, or else by its dataset's path; see
    `names`. What the format has no place for is listed, with a dtype that says so, but cannot be
    read: links to other files, virtual datasets, references. Raises CheckpointNotFoundError,
    CorruptCheckpointError, UnsupportedError, RemoteError, MissingExtraError without h5py.
    """

    format = "h5"
    verified = "all could be read; the format has no checksums of them"

    def __init__(self, path: str, files: Sequence[str] = (), notes: tuple[str, ...] = ()) -> None:
        """`files` are all of the checkpoint, `path` itself where there are none."""
        self.path = path
        files = files or (path,)
        self._arguments = absolute(path), tuple(map(absolute, files)), notes
        self._files: list[File] = []
        self._hdf5: list[HDF5File] = []
        found: dict[str, tuple[Dataset, int]] = {}
        marks: set[str] = set()
        layers: dict[str, str] = {}
        said = list(notes)
        try:
            for shard, name in enumerate(files):
                file = open_file(name)
                self._files.append(file)
                if is_archive(file):
                    file = self._files[-1] = archive = Archive(file)
                    layers |= layers_in(archive.config)
                hdf5 = HDF5File(file)
                self._hdf5.append(hdf5)
                contents = hdf5.contents()
                for dataset in contents.datasets:
                    if dataset.path in found:
                        raise CorruptCheckpointError(
                            f"{name}: dataset {dataset.path!r} is also in "
                            f"{files[found[dataset.path][1]]}: not two parts of one checkpoint"
                        )
                    found[dataset.path] = dataset, shard
                marks |= contents.marks
                layers |= {
                    group.removesuffix("/vars"): own for group, own in contents.names.items()
                }
                said += contents.notes
        except BaseException:
            self.close()
            raise
        self.notes = tuple(said)
        names = names_of(list(found), marks, layers)
        keys = sorted(found, key=lambda path: names[path][0])
        self._variables = {names[path][0]: _Variable(*found[path], names[path]) for path in keys}
        self._others: dict[str, list[str]] = {}
        for key, variable in self._variables.items():
            for other in variable.names[1:]:
                self._others.setdefault(other, []).append(key)

    def info(self, name: str) -> TensorInfo:
        name = self._key(name)
        dataset, shard, _ = self._variables[name]
        return TensorInfo(name, dataset.dtype, dataset.shape, dataset.nbytes, shard, dataset.offset)

    def names(self, name: str) -> tuple[str, ...]:
        names: tuple[str, ...] = self._variables[name].names
        return names

    def _find(self, name: str) -> str | None:
        keys = self._others.get(name, ())
        return keys[0] if len(keys) == 1 else None

    def open_shard(self, piece: TensorInfo) -> File:
        assert piece.shard is not None and piece.offset is not None and piece.nbytes is not None
        file = self._files[piece.shard]
        end = piece.offset + piece.nbytes
        if piece.offset < 0 or end > file.size:
            raise CorruptCheckpointError(
                f"{file.path}: variable {self.shown(piece.name)!r} ends at byte {end}, the file "
                f"has {file.size}; {DAMAGED}"
            )
        return file

    def reader(self, name: str) -> VariableReader:
        info = self.info(name)
        return (
            VariableReader(self, info) if info.offset is None else RunReader(info, self.open_shard)
        )

    def check_shards(self, names: Sequence[str]) -> None:
        for name in names:
            self._check(self.info(name))

    def _check(self, info: TensorInfo) -> None:
        """Raise what reading it would raise, but for what its bytes tell."""
        if info.offset is not None:
            self.open_shard(info)
            return
        dataset, shard, _ = self._variables[info.name]
        if info.dtype.numpy is None:
            raise UnsupportedError(
                f"{self._files[shard].path}: {info.name!r} is of type {info.dtype}, which has no "
                "values that can be read"
            )
        self._hdf5[shard].check(dataset)

    def prefetch(self, names: Sequence[str]) -> None:
        if is_url(self.path):  # the system reads local files ahead by itself
            self._expect(map(self.info, names))

    def _expect(self, infos: Iterable[TensorInfo]) -> list[Expected]:
        ranges: dict[int, list[tuple[int, int]]] = {}
        for info in infos:
            if info.offset is not None:
                self.open_shard(info)
                ranges.setdefault(info.shard or 0, []).append((info.offset, info.nbytes or 0))
        return [self._files[shard].expect(wanted) for shard, wanted in ranges.items()]

    def check_unchanged(self) -> None:
        for file in self._files:
            file.check_unchanged()

    def verify(self) -> VerifyReport:
        """Read all values, once each, and check an archive's checksums; HDF5 has hardly any.

        Variables that share bytes are damage: Keras writes none.
        """
        problems: list[TFReaderError] = []
        nbytes = 0
        infos = sorted(self.infos, key=lambda info: (info.shard or 0, info.offset or 0))
        for window in windows(infos, lambda info: info.nbytes or 0):
            expected = list[Expected]()
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
            for each in expected:
                each.forget()
        problems += self._overlaps(infos)
        for file in self._files:
            if isinstance(file, Archive):
                problems += file.damage()
        self.check_unchanged()
        if problems:
            raise ChecksumError.of(self.path, problems)
        return VerifyReport(len(self), nbytes)

    def _verify(self, info: TensorInfo) -> int:
        self._check(info)
        if info.offset is None:
            return self._load(info, None).nbytes
        nbytes = info.nbytes or 0
        file = self.open_shard(info)
        buffer = memoryview(bytearray(min(CHUNK, nbytes)))
        for start in range(0, nbytes, CHUNK):
            file.read_into(info.offset + start, buffer[: nbytes - start])
        return nbytes

    def _overlaps(self, infos: Iterable[TensorInfo]) -> Iterator[TFReaderError]:
        """Of variables in the order of their bytes, those that begin within another."""
        last: TensorInfo | None = None
        for info in infos:
            if info.offset is None:
                continue
            if last is not None and last.shard == info.shard:
                assert last.offset is not None and last.nbytes is not None
                if last.offset == info.offset and last.nbytes == info.nbytes:
                    continue  # two links to one dataset
                if last.offset + last.nbytes > info.offset:
                    yield CorruptCheckpointError(
                        f"{self._files[info.shard or 0].path}: variables "
                        f"{self.shown(last.name)!r} and {self.shown(info.name)!r} share bytes; "
                        f"{DAMAGED}"
                    )
                    continue
            last = info

    def files(self) -> tuple[SourceFile, ...]:
        return tuple(file.source for file in self._files)

    def index_sha256(self) -> str:
        """Of what is said of the variables: paths, types, shapes and where they lie."""
        described = [(*info, self._variables[info.name].names) for info in self.infos]
        sizes = [file.size for file in self._files]
        return sha256(json.dumps([sizes, described]).encode()).hexdigest()

    def contents_checksum(self, kind: str) -> str | None:
        return contents_checksum(kind, self._files)

    def close(self) -> None:
        self._closed = True
        for hdf5 in self._hdf5:
            hdf5.close()
        for file in self._files:
            file.close()

    def __reduce__(self) -> Any:
        return reopen, (KerasFile, self._arguments, self.index_sha256())

    def _load(self, info: TensorInfo, rows: range | None) -> Array:
        if info.offset is None:
            self._check(info)
            dataset, shard, _ = self._variables[info.name]
            values: Array = self._hdf5[shard].read(dataset)
            return values if rows is None else values[rows.start : rows.stop]
        box = tuple(map(range, info.shape))
        if rows is not None:
            box = (rows, *box[1:])
        return RunReader(info, self.open_shard).read(box)
