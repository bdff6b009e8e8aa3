"""What every kind of checkpoint offers: names, descriptions, values, checksums."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import NamedTuple, Self

from .dtypes import Array, DType
from .errors import VariableNotFoundError
from .slices import Slice


class TensorInfo(NamedTuple):
    """Where and what a variable is, known without reading its values.

    `dtype` is a `str` (TensorFlow's name of the type) with the numpy dtype as its `.numpy`.
    `nbytes` counts stored bytes. `shard`, `offset` and `crc32c` (unmasked, of the stored bytes) are
    None for a partitioned variable, whose pieces `slices` lists.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    nbytes: int
    shard: int | None
    offset: int | None
    crc32c: int | None
    slices: tuple[Slice, ...] = ()


class VerifyReport(NamedTuple):
    """What `Checkpoint.verify` checked and found in order."""

    tensors: int
    nbytes: int


class Checkpoint(Mapping[str, Array]):
    """A read-only mapping from variable names to numpy arrays. Use it as a context manager.

    Strings come as object arrays of bytes; bfloat16, float8 and int4 with their ml_dtypes types.
    `path` is the prefix, `format` is "v2" and so on, `notes` says what was assumed to find it.
    """

    path: str
    format: str
    notes: tuple[str, ...] = ()

    @abstractmethod
    def info(self, name: str) -> TensorInfo:
        """The variable's description.

        Raises VariableNotFoundError for an unknown name, CorruptCheckpointError for a bad entry.
        """

    @abstractmethod
    def read(self, name: str) -> Array:
        """The variable's values, in an array of the caller's own. Every byte read is checked.

        Raises VariableNotFoundError, CorruptCheckpointError, ChecksumError where the bytes do not
        match their checksum, CheckpointNotFoundError where the shard is missing, UnsupportedError
        where the dtype has no values to give (variants).
        """

    @abstractmethod
    def check_shards(self, names: list[str]) -> None:
        """Raise what reading these variables would raise for missing or short files, at once."""

    @abstractmethod
    def verify(self) -> VerifyReport:
        """Check every checksum of every file.

        Raises ChecksumError, whose `problems` lists each damaged variable.
        """

    @abstractmethod
    def close(self) -> None: ...

    def __getitem__(self, name: str) -> Array:
        return self.read(name)

    @property
    def infos(self) -> Iterator[TensorInfo]:
        """The descriptions of all variables, in name order."""
        return map(self.info, self)

    def _unknown(self, name: str) -> VariableNotFoundError:
        from difflib import get_close_matches

        near = get_close_matches(name, list(self), 3) if len(self) < 10_000 else []
        hint = f"; near: {', '.join(near)}" if near else "; `tfreader inspect` lists the names"
        return VariableNotFoundError(f"{self.path}: no variable named {name!r}{hint}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.path!r}: {len(self)} variables, {self.format}>"
