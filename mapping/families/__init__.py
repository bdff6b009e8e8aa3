"""The families: one module for each model type. What they have in common begins with `_`."""

from __future__ import annotations

import importlib
import pkgutil
import re
from functools import cache
from os import PathLike
from pathlib import Path

import tfreader
from tfreader.checkpoint import Checkpoint
from tfreader.errors import (
    CheckpointNotFoundError,
    CorruptCheckpointError,
    UnknownModelTypeError,
)
from tfreader.paths import as_path, check_access

from ..family import Family
from ..findings import nearest
from ..left_out import LEFT_OUT, left_out

OF_ANY_TYPE = "hf-tf"
_DIGIT = re.compile("[0-9]")


@cache
def _modules() -> list[str]:
    names = (info.name for info in pkgutil.iter_modules(__path__))
    return sorted(name for name in names if not name.startswith("_"))


def _family_of(module: str) -> Family:
    family: Family = importlib.import_module(f"{__name__}.{module}").FAMILY
    return family


@cache
def families() -> dict[str, Family]:
    """All built-in families by model type."""
    return {family.model_type: family for family in map(_family_of, _modules())}


def find_family(model_type: str) -> Family | None:
    """The family of that model type or alias, spelled with `-` or with `_`.

    No other is loaded where its module has the name.
    """
    module = model_type.replace("-", "_")
    if module in _modules():
        return _family_of(module)
    return next((family for family in families().values() if model_type in family.names), None)


def get_family(model_type: str) -> Family:
    """The family of that model type or alias.

    Raises UnknownModelTypeError, listing those known, or saying why there is none of that name.
    """
    family = find_family(model_type)
    if family is not None:
        return family
    if (model := left_out(model_type)) is not None:
        raise UnknownModelTypeError(f"model type {model_type!r}: {model}")
    meant = _meant(model_type)
    if meant is not None and (model := left_out(meant)) is not None:
        raise UnknownModelTypeError(
            f"unknown model type {model_type!r}: is {meant!r} meant? {model}"
        )
    raise UnknownModelTypeError(
        f"unknown model type {model_type!r}{f': is {meant!r} meant?' if meant else ''}; known: "
        f"auto, {', '.join(families())}. For a model of your own, write a rule file, or let "
        "`tfreader suggest` write one, and pass it with --rules"
    )


def _meant(model_type: str) -> str | None:
    """The known name that this spells otherwise, as BERT does, or goes on from: bert-base."""
    own = {"auto": "auto"} | {_plain(n): n for family in families().values() for n in family.names}
    every = {name: name for model in LEFT_OUT for name in model.names} | own
    sought = _plain(model_type.rpartition("/")[2])
    same = (name for name in every if name.replace("-", "") == sought.replace("-", ""))
    longer = sorted((name for name in every if sought.startswith(f"{name}-")), key=len)
    if found := next(same, None) or (longer[-1] if longer else None):
        return every[found]
    near = nearest(sought, own, 0.75) or nearest(sought, every, 0.75) or ""
    # With another number it is another model: mobilenet_v3.
    return every.get(near) if _DIGIT.findall(near) == _DIGIT.findall(sought) else None


def _plain(model_type: str) -> str:
    return model_type.lower().replace("_", "-")


def open_source(path: str | PathLike[str], model_type: str = "auto") -> Checkpoint:
    """Open a checkpoint, of TensorFlow's formats or one that only a family knows.

    Raises what `tfreader.open` raises; UnknownModelTypeError where nothing can be opened and the
    model type is of those left out.
    """
    foreign = open_foreign(path, model_type)
    if foreign is not None:
        return foreign
    try:
        return tfreader.open(path)
    except (CheckpointNotFoundError, CorruptCheckpointError) as error:
        if find_family(model_type) is None and (model := left_out(model_type)) is not None:
            raise UnknownModelTypeError(f"{error}\nmodel type {model_type!r}: {model}") from error
        raise


def open_foreign(path: str | PathLike[str], model_type: str = "auto") -> Checkpoint | None:
    """Open what is no TensorFlow checkpoint and a family knows; None where none does."""
    path = as_path(path)
    if isinstance(path, Path):
        check_access(str(path))
    wanted = families().values() if model_type == "auto" else [find_family(model_type)]
    return next(filter(None, (family.open(path) for family in wanted if family)), None)
