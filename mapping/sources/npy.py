"""The params_N.npy files of OpenAI's first GPT: one flat array, cut anywhere into numbered files.

params_shapes.json lists the shapes of the parameters in it (openai/finetune-transformer-lm,
train.py). The files have no checksums; their sizes must fit each other exactly.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from tfreader.checkpoint import Checkpoint, TensorInfo, VerifyReport
from tfreader.dtypes import DTYPES, Array
from tfreader.errors import CheckpointNotFoundError, CorruptCheckpointError

SHAPES_FILE = "params_shapes.json"
NAMES_FILE = "parameters_names.json"
_SHARD = re.compile(r"params_(0|[1-9][0-9]*)\.npy")
FLOAT32 = DTYPES[1]


def open_params(path: Path) -> Checkpoint | None:
    """The parameters in a folder, which may be named by any of its files."""
    folder = path if path.is_dir() else path.parent
    named = path.name in (SHAPES_FILE, NAMES_FILE, "params") or _SHARD.fullmatch(path.name)
    is_named = path.is_dir() or named
    return ParamsFiles(folder) if is_named and (folder / SHAPES_FILE).is_file() else None


class ParamsFiles(Checkpoint):
    """A folder of params_N.npy files. Raises CorruptCheckpointError unless they fit the shapes."""

    format = "npy"

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "params")
        shapes = _shapes(folder / SHAPES_FILE)
        self._shards = [_shard(path) for path in _shard_paths(folder)]
        self._starts = list(accumulate((len(shard) for shard in self._shards), initial=0))
        expected, found = sum(map(prod, shapes)), self._starts[-1]
        if expected != found:
            raise CorruptCheckpointError(
                f"{folder}: {SHAPES_FILE} lists {expected} values, the {len(self._shards)} "
                f"params_N.npy files hold {found}: one is truncated, missing or of another model"
            )
        starts = accumulate(map(prod, shapes), initial=0)
        names = _names(folder / NAMES_FILE, shapes)
        places = zip(shapes, starts, strict=False)  # the last start is the end of all
        self._variables = dict(sorted(zip(names, places, strict=True)))

    def info(self, name: str) -> TensorInfo:
        name = self._key(name)
        shape, start = self._variables[name]
        return TensorInfo(name, FLOAT32, shape, prod(shape) * 4, shard=0, offset=start * 4)

    def check_shards(self, names: Sequence[str]) -> None:
        """All shards are open."""

    def verify(self) -> VerifyReport:
        return VerifyReport(len(self), self._starts[-1] * 4)

    def close(self) -> None:
        self._shards.clear()

    def _load(self, info: TensorInfo, rows: range | None) -> Array:
        shape, start = self._variables[info.name]
        end = start + prod(shape)
        parts = [
            shard[max(start - first, 0) : max(end - first, 0)]
            for first, shard in zip(self._starts, self._shards, strict=False)
        ]
        whole = np.concatenate(parts).astype(np.float32).reshape(shape)
        return whole if rows is None else whole[rows.start : rows.stop]


def _shapes(path: Path) -> list[tuple[int, ...]]:
    shapes = _json(path)
    if not isinstance(shapes, list) or not all(
        isinstance(shape, list) and all(isinstance(n, int) and n >= 0 for n in shape)
        for shape in shapes
    ):
        raise CorruptCheckpointError(f"{path}: not a list of shapes")
    return [tuple(shape) for shape in shapes]


def _shard_paths(folder: Path) -> list[Path]:
    numbers = {
        int(match[1]): path
        for path in folder.iterdir()
        if (match := _SHARD.fullmatch(path.name)) is not None and path.is_file()
    }
    missing = next(i for i in range(len(numbers) + 1) if i not in numbers)
    if missing < len(numbers) or not numbers:
        raise CheckpointNotFoundError(f"{folder / f'params_{missing}.npy'}: no such file")
    return [numbers[i] for i in range(len(numbers))]


def _shard(path: Path) -> Array:
    try:
        shard = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # numpy lets whatever a damaged header causes through
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise CorruptCheckpointError(f"{path}: not a numpy file ({reason[:200]})") from None
    if shard.ndim != 1 or shard.dtype != np.float32:
        raise CorruptCheckpointError(
            f"{path}: a {shard.dtype} array of shape {list(shard.shape)}, expected flat float32"
        )
    surplus = path.stat().st_size - shard.offset - shard.nbytes
    if surplus:
        raise CorruptCheckpointError(f"{path}: {surplus} bytes after the array: not a numpy file")
    return shard


def _names(path: Path, shapes: Sequence[tuple[int, ...]]) -> list[str]:
    """A name for each shape: those of the file, or train.py's order where there is none.

    The first variable, model/we, is stored as its positions and then its tokens.
    """
    if path.is_file():
        listed = _json(path)
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


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptCheckpointError(f"{path}: cannot be read as JSON ({error})") from None
