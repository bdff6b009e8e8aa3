"""The params_N.npy files of OpenAI's first GPT: one flat array, cut anywhere into numbered files.

params_shapes.json lists the shapes of the parameters in it (openai/finetune-transformer-lm,
train.py). The files have no checksums; their sizes must fit each other exactly.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import closing
from hashlib import sha256
from io import BytesIO
from itertools import accumulate, count, takewhile
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tfreader.checkpoint import Checkpoint, TensorInfo, VerifyReport
from tfreader.dtypes import DTYPES, Array
from tfreader.errors import CheckpointNotFoundError, CorruptCheckpointError
from tfreader.files import DAMAGED, SMALL, but_it_is, contents_checksum, open_file
from tfreader.paths import AnyPath
from tfreader.protocols import File, SourceFile

SHAPES_FILE = "params_shapes.json"
NAMES_FILE = "parameters_names.json"
_SHARD = re.compile(r"params_(0|[1-9][0-9]*)\.npy")
FLOAT32 = DTYPES[1]
MAX_HEADER = 1 << 14  # numpy's own limit is 10,000 characters
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def open_params(path: AnyPath) -> Checkpoint | None:
    """The parameters in a folder, which may be named by any of its files."""
    is_dir = path.is_dir()
    folder = path if is_dir else path.parent
    named = path.name in (SHAPES_FILE, NAMES_FILE, "params") or _SHARD.fullmatch(path.name)
    is_named = is_dir or named
    return ParamsFiles(folder) if is_named and (folder / SHAPES_FILE).is_file() else None


class _Shard(NamedTuple):
    """A file with `length` values, from `offset` on."""

    file: File
    offset: int
    length: int


class ParamsFiles(Checkpoint):
    """A folder of params_N.npy files. Raises CorruptCheckpointError unless they fit the shapes."""

    format = "npy"
    has_checksums = False

    def __init__(self, folder: AnyPath) -> None:
        self.path = str(folder / "params")
        self._described: list[tuple[SourceFile, bytes]] = []
        self._shards: list[_Shard] = []
        try:
            shapes = self._shapes(folder / SHAPES_FILE)
            for path in _shard_paths(folder):
                self._shards.append(_shard(path))
            starts = accumulate((shard.length for shard in self._shards), initial=0)
            self._starts = list(starts)
            expected, found = sum(map(prod, shapes)), self._starts[-1]
            if expected != found:
                raise CorruptCheckpointError(
                    f"{folder}: {SHAPES_FILE} lists {expected} values, the {len(self._shards)} "
                    f"params_N.npy files hold {found}: one is truncated, missing or of another "
                    "model"
                )
            starts = accumulate(map(prod, shapes), initial=0)
            names = self._names(folder / NAMES_FILE, shapes)
            places = zip(shapes, starts, strict=False)  # the last start is the end of all
            self._variables = dict(sorted(zip(names, places, strict=True)))
        except BaseException:
            self.close()
            raise

    def info(self, name: str) -> TensorInfo:
        name = self._key(name)
        shape, start = self._variables[name]
        return TensorInfo(name, FLOAT32, shape, prod(shape) * 4, shard=0, offset=start * 4)

    def check_shards(self, names: Sequence[str]) -> None:
        """All shards are open."""

    def prefetch(self, names: Sequence[str]) -> None:
        for shard in self._shards:
            shard.file.expect([(0, shard.file.size)])

    def check_unchanged(self) -> None:
        for shard in self._shards:
            shard.file.check_unchanged()

    def verify(self) -> VerifyReport:
        return VerifyReport(len(self), self._starts[-1] * 4)

    def files(self) -> tuple[SourceFile, ...]:
        described = (source for source, _ in self._described)
        return *described, *(shard.file.source for shard in self._shards)

    def index_sha256(self) -> str:
        """Of the file of shapes, and of that of names where there is one."""
        return sha256(b"".join(contents for _, contents in self._described)).hexdigest()

    def contents_checksum(self, kind: str) -> str | None:
        return contents_checksum(kind, (shard.file for shard in self._shards))

    def close(self) -> None:
        for shard in self._shards:
            shard.file.close()

    def _load(self, info: TensorInfo, rows: range | None) -> Array:
        shape, start = self._variables[info.name]
        if rows is not None:
            start += rows.start * prod(shape[1:])
            shape = (len(rows), *shape[1:])
        values = np.empty(prod(shape), np.float32)
        for first, shard in zip(self._starts, self._shards, strict=False):
            begin, end = max(start, first), min(start + len(values), first + shard.length)
            if begin < end:
                part = values[begin - start : end - start]
                shard.file.read_into(shard.offset + (begin - first) * 4, part)
        return values.reshape(shape)

    def _shapes(self, path: AnyPath) -> list[tuple[int, ...]]:
        shapes = self._json(path)
        if not isinstance(shapes, list) or not all(
            isinstance(shape, list) and all(isinstance(n, int) and n >= 0 for n in shape)
            for shape in shapes
        ):
            raise CorruptCheckpointError(f"{path}: not a list of shapes")
        return [tuple(shape) for shape in shapes]

    def _names(self, path: AnyPath, shapes: Sequence[tuple[int, ...]]) -> list[str]:
        """A name for each shape: those of the file, or train.py's order where there is none.

        The first variable, model/we, is stored as its positions and then its tokens.
        """
        if path.is_file():
            listed = self._json(path)
            if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
                raise CorruptCheckpointError(f"{path}: not a list of names")
            rest = [name.removesuffix(":0") for name in listed[1:]]
        else:
            layers = range(len(shapes) // len(_LAYER) + 1)
            rest = [f"model/h{i}/{name}" for i in layers for name in _LAYER]
        names = ["model/we/positions", "model/we/tokens", *rest][: len(shapes)]
        if len(names) != len(shapes) or len(set(names)) != len(names):
            raise CorruptCheckpointError(
                f"{path}: {len(names)} names for the {len(shapes)} shapes of {SHAPES_FILE}"
            )
        return names

    def _json(self, path: AnyPath) -> Any:
        with closing(open_file(str(path))) as file:
            if file.size > SMALL:
                raise CorruptCheckpointError(f"{path}: {file.size} bytes, at most {SMALL} are read")
            contents = bytes(file.read(0, file.size))
            self._described.append((file.source, contents))
        try:
            return json.loads(contents)
        except (ValueError, RecursionError) as error:
            raise CorruptCheckpointError(
                f"{path}: cannot be read as JSON ({error}){but_it_is(str(path))}"
            ) from None


def _shard_paths(folder: AnyPath) -> list[AnyPath]:
    if not isinstance(folder, Path):  # a web server may list nothing
        paths = (folder / f"params_{i}.npy" for i in count())
        return list(takewhile(lambda path: path.is_file(), paths))
    numbers = {
        int(match[1]): path
        for path in folder.iterdir()
        if (match := _SHARD.fullmatch(path.name)) is not None and path.is_file()
    }
    missing = next(i for i in range(len(numbers) + 1) if i not in numbers)
    if missing < len(numbers) or not numbers:
        raise CheckpointNotFoundError(
            f"{folder / f'params_{missing}.npy'}: no such file",
            code="missing-shard",
        )
    return [numbers[i] for i in range(len(numbers))]


def _shard(path: AnyPath) -> _Shard:
    file = open_file(str(path))
    head = BytesIO(file.read(0, min(file.size, MAX_HEADER)))
    try:
        shape, _, dtype = _HEADERS[np.lib.format.read_magic(head)](head)
    except Exception as error:  # numpy lets whatever a damaged header causes through
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise CorruptCheckpointError(
            f"{path}: not a numpy file ({reason[:200]}){but_it_is(str(path), DAMAGED)}"
        ) from None
    if len(shape) != 1 or dtype != np.float32:
        raise CorruptCheckpointError(
            f"{path}: a {dtype} array of shape {list(shape)}, expected flat float32"
        )
    surplus = file.size - head.tell() - shape[0] * 4
    if surplus:
        problem = f"{surplus} bytes after the array" if surplus > 0 else f"{-surplus} bytes missing"
        raise CorruptCheckpointError(f"{path}: {problem}: not a numpy file")
    return _Shard(file, head.tell(), shape[0])


_LAYER = tuple(
    f"{name}/{part}"
    for name, parts in (
        ("attn/c_attn", "wb"),
        ("attn/c_proj", "wb"),
        ("ln_1", "gb"),
        ("mlp/c_fc", "wb"),
        ("mlp/c_proj", "wb"),
        ("ln_2", "gb"),
    )
    for part in parts
)
