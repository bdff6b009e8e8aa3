"""A family: a model type with its rules, its config and its side files."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tfreader.errors import UnknownModelTypeError

from .rule import RuleSet

Config = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """All that is special to a model type. One module of `families/` each, as its `FAMILY`.

    `evidence` are full-match regexes of variable names by which the family is recognised.
    `translate` turns the original config file into Hugging Face's keys; keys that it leaves out are
    inferred from shapes. `defaults` are keys of the written config that neither of the two gives,
    `needs` those that a written config cannot do without. `side_files(folder, config)` gives the
    tokenizer files to write (name to contents) for the files lying beside the checkpoint.
    """

    model_type: str
    rules: RuleSet
    evidence: tuple[str, ...]
    config_files: tuple[str, ...]
    translate: Callable[[Mapping[str, Any]], Config]
    defaults: Mapping[str, Any]
    needs: tuple[str, ...]
    side_files: Callable[[Path, Mapping[str, Any]], SideFiles]
    remarks: Callable[[Mapping[str, Any]], tuple[str, ...]]
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class SideFiles:
    """Files to write beside the weights, and what to tell the user about them."""

    contents: Mapping[str, bytes]
    notes: tuple[str, ...] = ()


@cache
def families() -> dict[str, Family]:
    """All built-in families by model type."""
    from . import families as package

    found = {}
    for module in sorted(info.name for info in pkgutil.iter_modules(package.__path__)):
        family: Family = importlib.import_module(f"{package.__name__}.{module}").FAMILY
        found[family.model_type] = family
    return found


def get_family(model_type: str) -> Family:
    """The family of that model type or alias. Raises UnknownModelTypeError, listing those known."""
    for family in families().values():
        if model_type in (family.model_type, *family.aliases):
            return family
    raise UnknownModelTypeError(
        f"unknown model type {model_type!r}; known: auto, {', '.join(families())}. "
        "For a model of your own, write a rule file and pass it with --rules"
    )
