"""Models in several files with a JSON index, as transformers' save_pretrained shards them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from itertools import islice
from typing import Any

from .checkpoint import (
    Allocate,
    Box,
    Checkpoint,
    TensorInfo,
    VariableReader,
    VerifyReport,
    new_memory,
    reopen,
)
from .checksum import HASHES
from .dtypes import Array
from .errors import CheckpointNotFoundError, CorruptCheckpointError
from .files import SMALL, open_file
from .json_text import parse_json
from .paths import absolute, as_there, is_file, is_name, join
from .protocols import SourceFile

INDEX = ".index.json"
_SHARD = re.compile(r"(.*)-\d{5}-of-\d{5}(\.h5|\.safetensors)", re.DOTALL)

Open = Callable[[str], Checkpoint]
"""Opens one shard."""


def index_of(path: str) -> str | None:
    """The index of a shard, to judge by its name; None where that is no shard's."""
    shard = _SHARD.fullmatch(path)
    return f"{shard[1]}{shard[2]}{INDEX}" if shard else None


def read_index(contents: bytes) -> dict[str, str]:
    """The shard of each variable. Raises ValueError where it is no such index."""
    try:
        index = parse_json(contents.decode("utf-8"))
    except ValueError as error:
        raise ValueError(f"cannot be read as JSON ({error})") from None
    shards = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(shards, dict) or not shards:
        raise ValueError("no index of shards: it has no weight_map with variables")
    for name, file in shards.items():
        if not isinstance(file, str) or not is_name(file) or file[0] == ".":
            raise ValueError(f"{name[:80]!r} lies in {str(file)[:80]!r}, no file beside the index")
    return shards


def name_in_shard(name: str) -> str:
    """By which name a variable is stored in its shard: mostly without the model's scope.

    So does save_pretrained of TFPreTrainedModel (modeling_tf_utils.py), in both kinds of files.
    """
    rest = name.partition("/")[2]
    return name if not rest or "model." in name else rest


class ShardedFiles(Checkpoint):
    """A model whose index lists the variables, by their full names, and their files.

    `open_shard` opens a file as a checkpoint, the last of whose `names` is that in the file. Names
    lack `:0`. Raises CheckpointNotFoundError where
    a shard is missing, CorruptCheckpointError where index and shards do not fit.
    """

    has_checksums = False

    def __init__(self, path: str, open_shard: Open, notes: tuple[str, ...] = ()) -> None:
        self.path = path
        self._arguments = absolute(path), open_shard, notes
        self._index = open_file(path)
        self._shards: list[Checkpoint] = []
        try:
            places, files = self._places()
            self._open_all(files, open_shard)
            self._variables = dict(sorted(self._matched(places, files).items()))
        except BaseException:
            self.close()
            raise
        self.format = f"sharded {self._shards[0].format}"
        self.verified = self._shards[0].verified
        own = (note for shard in self._shards for note in shard.notes)
        self.notes = tuple(dict.fromkeys((*notes, *own)))

    def _places(self) -> tuple[Mapping[str, str], list[str]]:
        """The shard of each variable, and all shards."""
        if self._index.size > SMALL:
            raise self._corrupt(f"{self._index.size} bytes, at most {SMALL} are read")
        self._contents = bytes(self._index.read(0, self._index.size))
        try:
            places = read_index(self._contents)
        except ValueError as error:
            raise self._corrupt(str(error)) from None
        return places, sorted(set(places.values()))

    def _open_all(self, files: Sequence[str], open_shard: Open) -> None:
        folder = os.path.dirname(self.path)
        paths = [as_there(join(folder, file)) for file in files]
        # Two are enough to tell: an index may list any number of them, each of which costs a call.
        missing = list(islice((path for path in paths if not is_file(path)), 2))
        if missing:
            raise CheckpointNotFoundError(
                f"{missing[0]}: missing{', and others too' if len(missing) > 1 else ''}, of the "
                f"{len(files)} shards that {self.path} lists; put all of them beside it",
                code="missing-shard",
            )
        for path in paths:
            self._shards.append(open_shard(path))

    def _matched(
        self, places: Mapping[str, str], files: Sequence[str]
    ) -> Mapping[str, tuple[int, str]]:
        """By name, each variable's shard and its name there."""
        numbers = {file: number for number, file in enumerate(files)}
        left = [{shard.names(key)[-1]: key for key in shard} for shard in self._shards]
        found: dict[str, tuple[int, str]] = {}
        for name, file in places.items():
            stored = name_in_shard(name)
            number = numbers[file]
            if stored not in left[number]:
                raise self._corrupt(
                    f"it lists {name[:80]!r} in {file}, where {stored[:80]!r} is not, or is another"
                )
            found[name.removesuffix(":0")] = number, left[number].pop(stored)
        for file, names in zip(files, left, strict=True):
            if names:
                raise self._corrupt(f"{file} has {min(names)[:80]!r}, which it does not list")
        if len(found) < len(places):
            raise self._corrupt("a variable is there with `:0` behind its name and without")
        return found

    def info(self, name: str) -> TensorInfo:
        name = self._key(name)
        number, stored = self._place(name)
        return self._shards[number].info(stored)._replace(name=name, shard=number)

    def names(self, name: str) -> tuple[str, ...]:
        return name, f"{name}:0"

    def _find(self, name: str) -> str | None:
        key = name.removesuffix(":0")
        return key if key in self._variables else None

    def _place(self, name: str) -> tuple[int, str]:
        """A variable's shard, and its name there."""
        place: tuple[int, str] = self._variables[self._key(name)]
        return place

    def reader(self, name: str) -> VariableReader:
        number, stored = self._place(name)
        return _ShardReader(self._shards[number].reader(stored), self.info(name))

    def _by_shard(self, names: Sequence[str]) -> list[tuple[Checkpoint, list[str]]]:
        wanted: dict[int, list[str]] = {}
        for number, stored in map(self._place, names):
            wanted.setdefault(number, []).append(stored)
        return [(self._shards[number], stored) for number, stored in wanted.items()]

    def check_shards(self, names: Sequence[str]) -> None:
        for shard, stored in self._by_shard(names):
            shard.check_shards(stored)

    def prefetch(self, names: Sequence[str]) -> None:
        for shard, stored in self._by_shard(names):
            shard.prefetch(stored)

    def check_unchanged(self) -> None:
        self._index.check_unchanged()
        for shard in self._shards:
            shard.check_unchanged()

    def verify(self) -> VerifyReport:
        """What each shard can verify."""
        reports = [shard.verify() for shard in self._shards]
        nbytes = sum(report.nbytes for report in reports)
        return VerifyReport(len(self), nbytes)

    def files(self) -> tuple[SourceFile, ...]:
        return self._index.source, *(source for shard in self._shards for source in shard.files())

    def index_sha256(self) -> str:
        """Of the index and of what tells each shard from others."""
        digest = sha256(self._contents)
        for shard in self._shards:
            digest.update(shard.index_sha256().encode())
        return digest.hexdigest()

    def contents_checksum(self, kind: str) -> str | None:
        found = [shard.contents_checksum(kind) for shard in self._shards]
        if not any(found):
            return None
        digest = HASHES[kind]()
        digest.update("".join(map(str, found)).encode())
        return digest.hexdigest()

    def close(self) -> None:
        self._closed = True
        self._index.close()
        for shard in self._shards:
            shard.close()

    def __reduce__(self) -> Any:
        return reopen, (ShardedFiles, self._arguments, self.index_sha256())

    def _load(self, info: TensorInfo, rows: range | None) -> Array:
        number, stored = self._place(info.name)
        part = None if rows is None else slice(rows.start, rows.stop)
        return self._shards[number].read(stored, part)

    def _corrupt(self, problem: str) -> CorruptCheckpointError:
        return CorruptCheckpointError(f"{self.path}: {problem}; fetch the index and its shards")


class _ShardReader(VariableReader):
    """A shard's reader, of a variable by its full name."""

    def __init__(self, reader: VariableReader, info: TensorInfo) -> None:
        self.info = info
        self.in_parts = reader.in_parts
        self._reader = reader

    def read(self, box: Box, allocate: Allocate = new_memory) -> Array:
        return self._reader.read(box, allocate)

    def finish(self) -> None:
        self._reader.finish()
