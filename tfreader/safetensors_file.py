"""safetensors files, such as transformers' TensorFlow classes wrote.

Layout as the safetensors format says (huggingface/safetensors, README): the header's length (8
bytes, little-endian), the header (JSON), then all tensors without gaps. There are no checksums.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

from .checkpoint import Checkpoint, TensorInfo, VariableReader, VerifyReport, reopen, whole
from .dtypes import DTYPES, Array, DType
from .errors import CorruptCheckpointError
from .files import but_it_is, contents_checksum, open_file, sha256_of
from .json_text import parse_json
from .paths import absolute
from .protocols import SourceFile
from .runs import RunReader
from .shapes import MAX_ELEMENTS, MAX_RANK
from .sniff import is_safetensors, safetensors_format

DTYPE_NAMES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "uint32": "U32",
    "int32": "I32",
    "uint64": "U64",
    "int64": "I64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
}
"""What the format calls a dtype."""

_DTYPES = {DTYPE_NAMES[dtype]: dtype for dtype in DTYPES.values() if dtype in DTYPE_NAMES}
LARGEST_HEADER = 8 << 20  # bytes, of some 70,000 tensors; objects take twenty times as many
HEAD = 1 << 12  # bytes that tell what a file is


def is_tf_safetensors(head: bytes) -> bool:
    """Whether a file that starts so says that its tensors are TensorFlow's."""
    return safetensors_format(head) == "tf"


class _Stored(NamedTuple):
    name: str  # in the file
    dtype: DType
    shape: tuple[int, ...]
    start: int  # in the file
    end: int


class Safetensors(Checkpoint):
    """A safetensors file, whoever's tensors it has. Types that numpy does not have cannot be read.

    Raises CheckpointNotFoundError, CorruptCheckpointError.
    """

    format = "safetensors"
    has_checksums = False
    verified = "sizes and places in order; the format has no checksums of values"

    def __init__(self, path: str, notes: tuple[str, ...] = ()) -> None:
        self.path = path
        self.notes = notes
        self._arguments = absolute(path), notes
        self._file = open_file(path)
        try:
            self._check_kind(bytes(self._file.read(0, min(HEAD, self._file.size))))
            self._start = 8 + int.from_bytes(self._file.read(0, 8), "little")
            self._variables = self._tensors()
        except BaseException:
            self._file.close()
            raise

    def _check_kind(self, head: bytes) -> None:
        """Raise CorruptCheckpointError where a file that starts so is not of this class."""
        if not is_safetensors(head):
            raise CorruptCheckpointError(f"{self.path}: no safetensors file{but_it_is(self.path)}")

    def _tensors(self) -> Mapping[str, _Stored]:
        if self._start > min(LARGEST_HEADER, self._file.size):
            raise self._corrupt(
                f"its header ends at byte {self._start}, the file has {self._file.size} "
                f"and a header at most {LARGEST_HEADER} (truncated?)"
            )
        text = self._file.read(8, self._start - 8)
        try:
            header = parse_json(text.decode("utf-8"))
            header.pop("__metadata__", None)
            found = {name: self._stored(name, entry) for name, entry in header.items()}
            _check_layout(found, self._start, self._file.size)
        except ValueError as error:
            raise self._corrupt(str(error)[:300]) from None
        variables = {name.removesuffix(":0"): found[name] for name in sorted(found)}
        if len(variables) < len(found):
            raise self._corrupt("a variable is there with `:0` behind its name and without")
        return variables

    def names(self, name: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys((name, self._variables[name].name)))

    def _find(self, name: str) -> str | None:
        key = name.removesuffix(":0")
        return key if key in self._variables and name in self.names(key) else None

    def _stored(self, name: str, entry: Any) -> _Stored:
        """A tensor's entry in the header. Raises ValueError where it makes no sense."""
        where = f"tensor {name[:80]!r}"
        try:
            kind, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        except (TypeError, KeyError, ValueError):
            raise ValueError(f"{where} lacks dtype, shape or data_offsets") from None
        if type(kind) is not str or type(shape) is not list:
            raise ValueError(f"{where} has no dtype or shape that can be read")
        if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
            raise ValueError(f"{where} has a size or an offset that is no natural number")
        if len(shape) > MAX_RANK or prod(filter(None, shape)) > MAX_ELEMENTS:
            raise ValueError(f"{where} has an impossible shape")
        dtype = _DTYPES.get(kind) or DType(kind[:80], 0)
        nbytes = end - begin
        if dtype.itemsize is not None and prod(shape) * dtype.itemsize != nbytes:
            expected = prod(shape) * dtype.itemsize
            raise ValueError(f"{where}: {dtype} {shape} takes {expected} bytes, not {nbytes}")
        return _Stored(name, dtype, tuple(shape), self._start + begin, self._start + end)

    def info(self, name: str) -> TensorInfo:
        name = self._key(name)
        _, dtype, shape, start, end = self._variables[name]
        return TensorInfo(name, dtype, shape, end - start, shard=0, offset=start)

    def reader(self, name: str) -> VariableReader:
        return RunReader(self.info(name), lambda _: self._file)

    def check_shards(self, names: Sequence[str]) -> None:
        """The file is open and has what its header says."""

    def prefetch(self, names: Sequence[str]) -> None:
        infos = map(self.info, names)
        self._file.expect([(info.offset or 0, info.nbytes or 0) for info in infos])

    def check_unchanged(self) -> None:
        self._file.check_unchanged()

    def verify(self) -> VerifyReport:
        """Sizes and places were checked when it was opened; the values have no checksums."""
        self.check_unchanged()
        return VerifyReport(len(self), self._file.size - self._start)

    def files(self) -> tuple[SourceFile, ...]:
        return (self._file.source,)

    def index_sha256(self) -> str:
        """Of the header."""
        return sha256_of(self._file, 0, self._start)

    def contents_checksum(self, kind: str) -> str | None:
        return contents_checksum(kind, [self._file])

    def close(self) -> None:
        self._closed = True
        self._file.close()

    def __reduce__(self) -> Any:
        return reopen, (type(self), self._arguments, self.index_sha256())

    def _load(self, info: TensorInfo, rows: range | None) -> Array:
        box = whole(info.shape)
        return RunReader(info, lambda _: self._file).read(box if rows is None else (rows, *box[1:]))

    def _corrupt(self, problem: str) -> CorruptCheckpointError:
        return CorruptCheckpointError(
            f"{self.path}: damaged safetensors file: {problem}; fetch it again"
        )


class TFSafetensors(Safetensors):
    """One with metadata `format: tf`.

    Names are those of the TensorFlow variables without `:0`; transformers leaves their outermost
    scope out, except of those that contain `model.` (modeling_tf_utils.py,
    strip_model_name_and_prefix).
    """

    def _check_kind(self, head: bytes) -> None:
        if not is_tf_safetensors(head):
            raise CorruptCheckpointError(
                f"{self.path}: no safetensors file of TensorFlow (format tf){but_it_is(self.path)}"
            )


def _check_layout(tensors: Mapping[str, _Stored], start: int, size: int) -> None:
    """Raise ValueError unless the tensors fill the file, one behind the other."""
    position = start
    for name, stored in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if stored.start != position:
            how = "overlaps another" if stored.start < position else "lies behind a gap"
            raise ValueError(f"tensor {name[:80]!r} {how}, at byte {stored.start}")
        position = stored.end
    if position != size:
        raise ValueError(f"its tensors end at byte {position}, the file has {size} (truncated?)")
