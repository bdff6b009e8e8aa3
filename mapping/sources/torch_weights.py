"""The tensors of a file of `torch.save`, read where they lie: without torch, and running nothing.

The file's pickle is followed by an unpickler that knows the few names of which a state dict is made
and refuses all others. What it gives are descriptions: of which record a tensor's values are, and
by which strides. Both containers are known, the zip archive that torch writes since 1.6 and the one
before it (torch/serialization.py, `_save` and `_legacy_save`; torch/_utils.py, `_rebuild_*`).
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from io import BufferedReader, BytesIO
from math import prod
from typing import Any, NamedTuple

import numpy as np

from tfreader.checkpoint import (
    Allocate,
    Box,
    Checkpoint,
    TensorInfo,
    VariableReader,
    VerifyReport,
    new_memory,
    part_of,
    whole,
)
from tfreader.dtypes import DTYPES, Array, DType
from tfreader.errors import CorruptCheckpointError, TFReaderError, UnsupportedError
from tfreader.files import but_it_is, contents_checksum, open_file
from tfreader.protocols import File, Raw, SourceFile
from tfreader.runs import RunReader
from tfreader.shapes import MAX_ELEMENTS, MAX_RANK

from .pickle_cost import TooCostlyError, names_in
from .pth import LEGACY_PICKLES, MAX_PICKLE_SIZE, Inert, refused

MOST_REPEATED = 1 << 26  # bytes of a tensor of which fewer are stored
_LOCAL_HEADER = 30  # bytes before a record's name, the last four being two lengths
_DTYPES = {str(dtype): dtype for dtype in DTYPES.values()}
_STORAGES = {
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "CharStorage": "int8",
    "ShortStorage": "int16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}


class _Storage(NamedTuple):
    """Values that tensors share: the key of their record, and their type."""

    key: str
    dtype: DType


class _Tensor(NamedTuple):
    """A view of a storage: offset and strides count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Place(NamedTuple):
    """Where a tensor lies: `info` as it is asked for, `stored` as it lies row-major in the file.

    `order` are its axes in that order; None where it does not fill what it spans.
    """

    info: TensorInfo
    stored: TensorInfo
    order: tuple[int, ...] | None
    strides: tuple[int, ...]


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> _Tensor:
    """What `_rebuild_tensor_v2`, and v3 with its own dtype, would build."""
    own = next((value for value in rest if isinstance(value, DType)), None)
    if own is not None:
        storage = storage._replace(dtype=own)
    sizes = [*shape, *strides, offset]
    if not isinstance(storage, _Storage) or any(type(n) is not int or n < 0 for n in sizes):
        raise ValueError("a tensor without storage or sizes")
    if len(shape) != len(strides) or len(shape) > MAX_RANK or prod(shape) > MAX_ELEMENTS:
        raise ValueError(f"a tensor of shape {list(shape)}")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


_KNOWN: Mapping[str, Any] = {
    "collections OrderedDict": OrderedDict,
    "builtins set": set,
    "__builtin__ set": set,
    "torch._utils _rebuild_tensor": _tensor,
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_tensor_v3": _tensor,
    "torch._utils _rebuild_parameter": lambda tensor, *_: tensor,
    "torch Size": tuple,
    **{f"torch {name}": _DTYPES[kind] for name, kind in _STORAGES.items()},
    **{f"torch.storage {name}": _DTYPES[kind] for name, kind in _STORAGES.items()},
    **{f"torch {name}": dtype for name, dtype in _DTYPES.items()},
    # Plain data beside the tensors, none of which is looked at.
    "collections Counter": Inert,
    "builtins bytearray": Inert,
    "__builtin__ bytearray": Inert,
    "torch device": Inert,
    "numpy ndarray": Inert,
    "numpy dtype": Inert,
    "_codecs encode": Inert,  # of the bytes of numpy's scalars
    **{
        f"numpy.{core}.multiarray {name}": Inert
        for core in ("core", "_core")
        for name in ("_reconstruct", "scalar")
    },
}


class _Unpickler(pickle.Unpickler):
    """Builds descriptions, of the names that it knows alone."""

    def find_class(self, module: str, name: str) -> Any:
        return _KNOWN[f"{module} {name}"]  # the others were refused before

    def persistent_load(self, saved: Any) -> _Storage:
        kind, dtype, key, *_, views = (*saved, None)[:6]
        if kind != "storage" or not isinstance(dtype, DType) or not isinstance(key, str):
            raise pickle.UnpicklingError("it refers to something that is no storage")
        if views is not None:
            raise pickle.UnpicklingError("a storage that is a part of another (torch 0.3)")
        return _Storage(key, dtype)


class TorchWeights(Checkpoint):
    """The only state dict in a file of torch.save, in the order of its tensors there.

    `same` has, of each tensor that lies where one before it does, the first name there. Raises
    CheckpointNotFoundError, CorruptCheckpointError, UnsupportedError where its pickle asks for
    more than tensors and plain data, or holds no state dict, or several.
    """

    format = "torch"
    verified = "sizes and places in order; the checksums of its records were not read"

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = open_file(path)
        try:
            tensors, records = self._contents()
            places = {name: self._place(name, tensors[name], records) for name in tensors}
            self._variables: Mapping[str, _Place] = places
            self.same = _tied(places)
        except BaseException:
            self._file.close()
            raise

    def _contents(self) -> tuple[Mapping[str, _Tensor], Mapping[str, tuple[int, int]]]:
        """Its state dict, and each record's offset and size."""
        try:
            is_archive = zipfile.is_zipfile(Raw(self._file, owns=False))
            contents, records = self._of_archive() if is_archive else self._of_pickles()
            return self._state_dict(contents), records
        except TFReaderError:
            raise
        except TooCostlyError as error:
            raise UnsupportedError(
                f"{self.path}: refused, and nothing of it was run: {error}, which no model's does"
            ) from None
        except Exception as error:  # whatever a damaged pickle or archive leads to
            reason = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
            raise CorruptCheckpointError(
                f"{self.path}: damaged, or no file of torch.save ({reason}){but_it_is(self.path)}"
            ) from None

    def _of_archive(self) -> tuple[Any, Mapping[str, tuple[int, int]]]:
        with zipfile.ZipFile(Raw(self._file, owns=False)) as archive:
            records = {record.filename: record for record in archive.infolist()}
            named = [name for name in records if name.rpartition("/")[2] == "data.pkl"]
            if len(named) != 1:
                raise pickle.UnpicklingError("a zip archive without the pickle of torch.save")
            if records[named[0]].file_size > MAX_PICKLE_SIZE:
                raise pickle.UnpicklingError(f"a pickle of more than {MAX_PICKLE_SIZE} bytes")
            folder = named[0].removesuffix(".pkl")
            pickled = BytesIO(archive.read(named[0]))
            order = records.get(f"{folder.rpartition('/')[0]}/byteorder")
            if order is not None and order.file_size < 10 and archive.read(order) == b"big":
                raise UnsupportedError(f"{self.path}: big-endian values, which are not read")
        contents = self._unpickled(pickled)
        places = {
            name.removeprefix(f"{folder}/"): (self._start(record), record.file_size)
            for name, record in records.items()
            if name.startswith(f"{folder}/")
        }
        return contents, places

    def _start(self, record: zipfile.ZipInfo) -> int:
        if record.compress_type != zipfile.ZIP_STORED:
            raise pickle.UnpicklingError(f"record {record.filename!r} is compressed")
        header = self._file.read(record.header_offset, _LOCAL_HEADER)
        lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:], "little")
        return record.header_offset + _LOCAL_HEADER + lengths

    def _of_pickles(self) -> tuple[Any, Mapping[str, tuple[int, int]]]:
        """Of the older container: pickles, the last of which lists the storages behind it."""
        stream = BufferedReader(Raw(self._file, owns=False))
        _, _, _, contents, keys = (self._unpickled(stream) for _ in range(LEGACY_PICKLES))
        kinds = {tensor.storage.key: tensor.storage.dtype for tensor in _all_tensors(contents)}
        places, position = {}, stream.tell()
        for key in keys:
            if key not in kinds:
                raise pickle.UnpicklingError(f"storage {key!r:.80} belongs to no tensor")
            count = int.from_bytes(self._file.read(position, 8), "little")
            size = count * (kinds[key].itemsize or 0)
            places[key] = position + 8, size
            position += 8 + size
        return contents, places

    def _unpickled(self, stream: Any) -> Any:
        start = stream.tell()
        strange = next((name for name in sorted(names_in(stream)) if name not in _KNOWN), None)
        if strange is not None:
            raise refused(self.path, strange.replace(" ", "."))
        end = stream.tell()
        stream.seek(start)
        return _Unpickler(BytesIO(stream.read(end - start))).load()

    def _state_dict(self, contents: Any) -> Mapping[str, _Tensor]:
        """What the file holds if it is one, or else the only one in it, as of a training."""
        if own := _tensors_of(contents):
            return own
        inner = contents.items() if isinstance(contents, Mapping) else ()
        found = {str(key): tensors for key, value in inner if (tensors := _tensors_of(value))}
        if len(found) != 1:
            which = f"several: {', '.join(found)}" if found else "none"
            raise UnsupportedError(
                f"{self.path}: expected one state dict in it, found {which}; save it alone with "
                "torch.save(model.state_dict(), FILE)"
            )
        return next(iter(found.values()))

    def _place(self, name: str, tensor: _Tensor, records: Mapping[str, tuple[int, int]]) -> _Place:
        """Where it lies. Raises CorruptCheckpointError where that is not in its record."""
        (key, dtype), offset, shape, strides = tensor
        itemsize = dtype.itemsize or 0
        start, size = records.get(key, (0, -1))
        last = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        span = 0 if not prod(shape) else last + 1
        if (offset + span) * itemsize > size or start + size > self._file.size:
            raise CorruptCheckpointError(
                f"{self.path}: tensor {name[:80]!r} {list(shape)}: its values are not all in the "
                "file (truncated?); get it anew"
            )
        if prod(shape) * itemsize > max(size, MOST_REPEATED):
            # By strides of zero a few bytes can claim to be any number of values.
            raise CorruptCheckpointError(
                f"{self.path}: tensor {name[:80]!r} {list(shape)}: more values than are stored"
            )
        begin = start + offset * itemsize
        info = TensorInfo(name, dtype, shape, prod(shape) * itemsize, shard=0, offset=begin)
        order = tuple(sorted(range(len(shape)), key=lambda axis: (-strides[axis], axis)))
        lying = tuple(shape[axis] for axis in order)
        dense = [prod(lying[i + 1 :]) for i in range(len(lying))]
        is_dense = all(
            shape[axis] == 1 or strides[axis] == step
            for axis, step in zip(order, dense, strict=True)
        )
        if is_dense or not prod(shape):
            return _Place(info, info._replace(shape=lying), order, strides)
        spanned = info._replace(shape=(span,), nbytes=span * itemsize)
        return _Place(info, spanned, None, strides)

    def info(self, name: str) -> TensorInfo:
        return self._variables[self._key(name)].info

    def reader(self, name: str) -> VariableReader:
        return _Reader(self, self._variables[self._key(name)], self._file)

    def check_shards(self, names: Sequence[str]) -> None:
        """The file is open and has all that its pickle says."""

    def prefetch(self, names: Sequence[str]) -> None:
        stored = [self._variables[name].stored for name in names]
        self._file.expect([(info.offset or 0, info.nbytes or 0) for info in stored])

    def check_unchanged(self) -> None:
        self._file.check_unchanged()

    def verify(self) -> VerifyReport:
        """Sizes and places were checked when it was opened."""
        return VerifyReport(len(self), sum(info.nbytes or 0 for info in self.infos))

    def files(self) -> tuple[SourceFile, ...]:
        return (self._file.source,)

    def index_sha256(self) -> str:
        """Of all of it: nothing in it tells its values from others."""
        return contents_checksum("sha256", [self._file]) or ""

    def close(self) -> None:
        self._closed = True
        self._file.close()

    def _load(self, info: TensorInfo, rows: range | None) -> Array:
        box = whole(info.shape)
        return self.reader(info.name).read(box if rows is None else (rows, *box[1:]))


class _Reader(VariableReader):
    """Reads parts of a tensor by its strides; as a whole where it does not fill what it spans."""

    def __init__(self, checkpoint: Checkpoint, place: _Place, file: File) -> None:
        super().__init__(checkpoint, place.info)
        self.in_parts = place.order is not None
        self._place = place
        self._stored = RunReader(place.stored, lambda _: file)

    def read(self, box: Box, allocate: Allocate = new_memory) -> Array:
        order, stored = self._place.order, self._place.stored
        if order is None:
            flat = self._stored.read(whole(stored.shape), allocate)
            strides = [stride * flat.itemsize for stride in self._place.strides]
            values = np.lib.stride_tricks.as_strided(flat, self.info.shape, strides)
            return part_of(values, box).copy()
        found = self._stored.read(tuple(box[axis] for axis in order), allocate)
        return found.transpose([order.index(axis) for axis in range(len(order))])


def _tensors_of(value: Any) -> Mapping[str, _Tensor]:
    """The tensors of a state dict; none where it is none."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return {}
    found = {name: each for name, each in value.items() if isinstance(each, _Tensor)}
    others = [name for name in value if name not in found]
    return found if all(name.endswith("_extra_state") for name in others) else {}


def _tied(places: Mapping[str, _Place]) -> Mapping[str, str]:
    """Of each tensor that lies where another does, the first name there."""
    first: dict[tuple[Any, ...], str] = {}
    same = {}
    for name, (info, _, _, strides) in places.items():
        if info.nbytes:
            owner = first.setdefault((info.offset, info.shape, strides, info.dtype), name)
            if owner != name:
                same[name] = owner
    return same


def _all_tensors(contents: Any) -> Sequence[_Tensor]:
    """Every tensor within, however deep."""
    found, left, seen = [], [contents], set[int]()
    while left:
        value = left.pop()
        if isinstance(value, _Tensor):
            found.append(value)
        elif isinstance(value, Mapping | list | tuple | set) and id(value) not in seen:
            seen.add(id(value))
            left += value.values() if isinstance(value, Mapping) else value
    return found
