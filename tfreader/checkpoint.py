"""What every kind of checkpoint offers: names, descriptions, values, checksums."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import product
from math import prod
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from .dtypes import Array, DType
from .errors import (
    ChangedError,
    ClosedError,
    CorruptCheckpointError,
    TFReaderError,
    UnsupportedError,
    VariableNotFoundError,
)
from .folding import fold_rows, literal
from .notebook import table
from .object_graph import OBJECT_GRAPH, ObjectGraph
from .protocols import SourceFile
from .slices import Slice

LARGEST_GRAPH = 128 << 20  # bytes; an object takes some 100 of them


class TensorInfo(NamedTuple):
    """Where and what a variable is, known without reading its values.

    `dtype` is a `str` (TensorFlow's name of the type) with the numpy dtype as its `.numpy`.
    `nbytes` counts stored bytes (V1: bytes of the values, None for strings). `offset` and `crc32c`
    (unmasked, of the stored bytes) are known for V2 only. A partitioned variable has no shard,
    offset or checksum of its own: `slices` lists its pieces.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    nbytes: int | None
    shard: int | None = None
    offset: int | None = None
    crc32c: int | None = None
    slices: tuple[Slice, ...] = ()


LONGEST_NAME = 500  # in messages
MOST_COMPARED = 10_000  # names that are compared letter by letter


def shortened(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…"


Box = tuple[range, ...]
"""A part of a tensor: per axis the indices, one after the other."""

Allocate = Callable[[int], Array]
"""Gives memory for so many bytes, as an array of uint8."""


def new_memory(size: int) -> Array:
    return np.empty(size, np.uint8)


def whole(shape: Sequence[int]) -> Box:
    return tuple(map(range, shape))


def part_of(values: Array, box: Box) -> Array:
    """A part of values that lie in memory, as a view."""
    return values[tuple(slice(indices.start, indices.stop) for indices in box)]


def boxes(shape: tuple[int, ...], limit: int) -> Iterator[Box]:
    """Parts of at most `limit` elements that follow each other in row-major order."""
    axis = next((i for i in range(len(shape)) if prod(shape[i:]) <= limit), len(shape))
    if axis == 0:
        yield whole(shape)
        return
    axis -= 1  # the axis that is cut: what lies behind it fits
    rows = max(1, limit // prod(shape[axis + 1 :]))
    for outer in product(*map(range, shape[:axis])):
        for start in range(0, shape[axis], rows):
            cut = range(start, min(start + rows, shape[axis]))
            yield (*(range(i, i + 1) for i in outer), cut, *map(range, shape[axis + 1 :]))


class VariableReader:
    """Reads a variable in parts, in any order.

    What was made of a part counts only once `finish` has returned: it checks every byte. A variable
    that is not `in_parts` is read as a whole for each of them.
    """

    in_parts = False

    def __init__(self, checkpoint: Checkpoint, info: TensorInfo) -> None:
        self.info = info
        self._checkpoint = checkpoint

    def read(self, box: Box, allocate: Allocate = new_memory) -> Array:
        """The values in `box`, in memory that `allocate` gave or else new.

        Raises what `Checkpoint.read` raises.
        """
        return part_of(self._checkpoint.read(self.info.name), box)

    def finish(self) -> None:
        """Raise ChecksumError where the bytes are not those that were written."""


class VerifyReport(NamedTuple):
    """What `Checkpoint.verify` checked and found in order."""

    tensors: int
    nbytes: int


class Checkpoint(Mapping[str, Array]):
    """A read-only mapping from variable names to numpy arrays. Use it as a context manager.

    Strings come as object arrays of bytes; bfloat16, float8 and int4 with their ml_dtypes types.
    `path` is the prefix, `format` is "v1", "v2" or "h5", `notes` says what was assumed to find it,
    `config` is the model's original config where the checkpoint itself holds it.
    A variable may be asked for by any of its `names`, such as those that `object_graph` knows.
    Threads may read at the same time, and so may forked children (not of URLs). A copy, or what
    comes out of a pickle, opens the files again by their paths (absolute ones, of local files).
    """

    path: str
    format: str
    notes: tuple[str, ...] = ()
    config: Mapping[str, Any] | None = None
    verified = "all in order"  # what it means that `verify` raised nothing
    has_checksums = True  # whether the index has a checksum of each value
    _closed = False
    _variables: Mapping[str, Any]  # what each class keeps about a variable, by name, in name order

    @abstractmethod
    def info(self, name: str) -> TensorInfo:
        """The variable's description.

        Raises VariableNotFoundError for an unknown name, CorruptCheckpointError for a bad entry.
        """

    def read(self, name: str, rows: slice | None = None) -> Array:
        """The variable's values, in an array of the caller's own.

        `rows`, a slice of the first axis, reads only what those rows need. Every byte is checked,
        but for a part of a V2 variable: its checksum covers the whole.

        Raises VariableNotFoundError, CorruptCheckpointError, ChecksumError where the bytes do not
        match their checksum, CheckpointNotFoundError where the shard is missing, ChangedError where
        a file was written to meanwhile, ClosedError, UnsupportedError where the dtype has no values
        to give (variants) or `rows` is asked of a scalar.
        """
        if self._closed:
            raise ClosedError(f"{self.path}: was closed")
        info = self.info(name)
        if info.dtype.numpy is None:
            raise UnsupportedError(
                f"{self.path}: variable {self.shown(info.name)!r} is of type {info.dtype}, which "
                "has no values that can be read"
            )
        if rows is None:
            return self._load(info, None)
        if not info.shape:
            raise UnsupportedError(
                f"{self.path}: variable {self.shown(info.name)!r} is a scalar, without rows"
            )
        picked = range(info.shape[0])[rows]
        ordered = picked if picked.step > 0 else picked[::-1]
        array = self._load(info, range(ordered[0], ordered[-1] + 1) if ordered else range(0))
        return array[:: abs(picked.step)][:: 1 if picked.step > 0 else -1]

    def reader(self, name: str) -> VariableReader:
        """For reading a variable, which must have a numpy dtype, in parts.

        Raises what `info` raises, and CorruptCheckpointError where slices do not fit together.
        """
        return VariableReader(self, self.info(name))

    @abstractmethod
    def check_shards(self, names: Sequence[str]) -> None:
        """Raise what reading these variables would raise for missing or short files, at once."""

    def prefetch(self, names: Sequence[str]) -> None:
        """Announce that these variables will be read, in that order: a server's are fetched ahead.

        Raises what `check_shards` raises.
        """

    def check_unchanged(self) -> None:
        """Raise RemoteError, ChangedError where the files are no longer those that were opened."""

    @abstractmethod
    def verify(self) -> VerifyReport:
        """Check every checksum of every file.

        Raises ChecksumError, whose `problems` lists each damaged block and variable.
        """

    @abstractmethod
    def files(self) -> tuple[SourceFile, ...]:
        """The index, and the files with values that are there, each as it was when opened."""

    @abstractmethod
    def index_sha256(self) -> str:
        """A SHA-256 (hexadecimal) that tells this checkpoint from others, made of few bytes.

        V2: of the .index file, which holds every tensor's checksum. V1: of what each file has
        behind its last data block, and of its list of tensors. Else: see the class.
        """

    def contents_checksum(self, kind: str) -> str | None:
        """A checksum (hexadecimal, "crc32c" or "sha256") of all values, which are read for it.

        None where the index has checksums of them, or a server tells the version of each file.
        """
        return None

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def _load(self, info: TensorInfo, rows: range | None) -> Array:
        """The values of all rows, or of consecutive ones."""

    @cached_property
    def object_graph(self) -> ObjectGraph | None:
        """The objects that own the variables, None if the checkpoint is not object-based.

        Raises CorruptCheckpointError where it is damaged.
        """
        return _read_graph(self, self._variables) if OBJECT_GRAPH in self._variables else None

    def __len__(self) -> int:
        return len(self._variables)

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)

    def __contains__(self, name: object) -> bool:
        return name in self._variables or (isinstance(name, str) and self._find(name) is not None)

    def __getitem__(self, name: str) -> Array:
        return self.read(name)

    @property
    def infos(self) -> Iterator[TensorInfo]:
        """The descriptions of all variables, in name order."""
        return map(self.info, self)

    def _find(self, name: str) -> str | None:
        """The key of another name."""
        return self.object_graph.find(name) if self.object_graph is not None else None

    def _key(self, name: str) -> str:
        """The stored name that `name` stands for."""
        if name in self._variables:
            return name
        key = self._find(name)
        if key is not None:
            return key
        near = _near(name, [self.shown(key) for key in self if key != OBJECT_GRAPH])
        shown = ", ".join(near).replace("\n", "\\n")
        hint = f"; near: {shown}" if near else "; `tfreader inspect` lists the names"
        raise VariableNotFoundError(f"{self.path}: no variable named {shortened(name)!r}{hint}")

    def shown(self, name: str) -> str:
        """What messages call a variable: its readable name, once the object graph is known."""
        graph: ObjectGraph | None = self.__dict__.get("object_graph")
        return shortened(graph.name(name) if graph is not None else name)

    def names(self, name: str) -> tuple[str, ...]:
        """All names of a stored variable, its own key first, once the object graph is known."""
        graph: ObjectGraph | None = self.__dict__.get("object_graph")
        if graph is None or name not in graph:
            return (name,)
        return tuple(dict.fromkeys((name, graph.name(name), *graph[name].names)))

    def __reduce__(self) -> Any:
        raise UnsupportedError(
            f"{self.path}: cannot be copied or pickled: open it where it is to be read"
        )

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

    def _repr_html_(self) -> str:
        """For notebooks: the variables, those of all layers in one row."""
        with suppress(TFReaderError):  # without it there are keys alone
            _ = self.object_graph
        infos = list(self.infos)
        kinds = [(info.dtype, str(list(info.shape))) for info in infos]
        folded = fold_rows([(literal(self.shown(info.name)),) for info in infos], kinds)
        rows = [(name, len(members), *kinds[members[0]]) for (name,), members in folded]
        return table(repr(self), ("variable", "count", "dtype", "shape"), rows)


def _near(name: str, known: list[str]) -> list[str]:
    """Up to three names that may be meant: which it is the end or a part of, or spelled alike."""
    from difflib import get_close_matches

    sought = name[:LONGEST_NAME].removesuffix(":0").strip("/")
    spelled = sought.replace(".", "/").lower()
    with_it = [other for other in known if spelled in other.replace(".", "/").lower()]
    with_it.sort(key=lambda other: (not other.lower().endswith(spelled), len(other)))
    if not sought:
        return []
    return with_it[:3] or get_close_matches(sought, known if len(known) < MOST_COMPARED else (), 3)


def _read_graph(checkpoint: Checkpoint, stored: Mapping[str, Any]) -> ObjectGraph:
    """The object graph of a checkpoint in which variables are `stored` under these keys."""

    def shape(key: str) -> tuple[int, ...] | None:  # of what is there: a graph may list more
        try:
            return checkpoint.info(key).shape if key in stored else None
        except CorruptCheckpointError:
            return None

    where = f"{checkpoint.path}: variable {OBJECT_GRAPH!r}: damaged object graph"
    size = checkpoint.info(OBJECT_GRAPH).nbytes or 0
    if size > LARGEST_GRAPH:
        raise CorruptCheckpointError(
            f"{where} ({size} bytes, no model has more than {LARGEST_GRAPH})"
        )
    serialized: object = checkpoint.read(OBJECT_GRAPH).tolist()
    try:
        if not isinstance(serialized, bytes):
            raise ValueError("not a scalar string")
        return ObjectGraph(serialized, stored.keys(), shape)
    except ValueError as error:
        raise CorruptCheckpointError(f"{where} ({error})") from None


def reopen(
    kind: Callable[..., Checkpoint], arguments: tuple[Any, ...], index_sha256: str
) -> Checkpoint:
    """The checkpoint that a pickled one was. Raises ChangedError where it is another one by now."""
    checkpoint = kind(*arguments)
    if checkpoint.index_sha256() != index_sha256:
        checkpoint.close()
        raise ChangedError(f"{checkpoint.path}: another checkpoint than when it was copied")
    return checkpoint
