"""The families: one module for each model type. What they have in common begins with `_`."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from os import PathLike
from pathlib import Path

import tfreader
from tfreader.checkpoint import Checkpoint
from tfreader.errors import UnknownModelTypeError
from tfreader.paths import as_path, check_access

from ..family import Family


@cache
def families() -> dict[str, Family]:
    """All built-in families by model type."""
    found = {}
    modules = sorted(info.name for info in pkgutil.iter_modules(__path__))
    for module in (name for name in modules if not name.startswith("_")):
        family: Family = importlib.import_module(f"{__name__}.{module}").FAMILY
        found[family.model_type] = family
    return found


def get_family(model_type: str) -> Family:
    """The family of that model type or alias. Raises UnknownModelTypeError, listing those known."""
    for family in families().values():
        if model_type in family.names:
            return family
    raise UnknownModelTypeError(
        f"unknown model type {model_type!r}; known: auto, {', '.join(families())}. "
        "For a model of your own, write a rule file and pass it with --rules"
    )


def open_source(path: str | PathLike[str], model_type: str = "auto") -> Checkpoint:
    """Open a checkpoint, of TensorFlow's formats or one that only a family knows.

    Raises what `tfreader.open` raises.
    """
    return open_foreign(path, model_type) or tfreader.open(path)


def open_foreign(path: str | PathLike[str], model_type: str = "auto") -> Checkpoint | None:
    """Open what is no TensorFlow checkpoint and a family knows; None where none does."""
    path = as_path(path)
    if isinstance(path, Path):
        check_access(str(path))
    wanted = [f for f in families().values() if model_type in ("auto", *f.names)]
    return next(filter(None, (family.open(path) for family in wanted)), None)
