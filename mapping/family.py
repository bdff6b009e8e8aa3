"""A family: a model type with its rules, its config and its side files."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any

import tfreader
from tfreader.checkpoint import Checkpoint, TensorInfo
from tfreader.errors import UnknownModelTypeError

from .rule import RuleSet

Config = dict[str, Any]


@dataclass(frozen=True)
class SideFiles:
    """Files to write beside the weights, and what to tell the user about them."""

    contents: Mapping[str, bytes]
    notes: tuple[str, ...] = ()


# Keys of a Hugging Face config.json that describe that conversion, not this one.
FOREIGN_KEYS = {"architectures", "model_type", "dtype", "torch_dtype", "transformers_version"}


def same_keys(original: Mapping[str, Any]) -> Config:
    """The config of a family whose original file has Hugging Face's keys."""
    return {key: value for key, value in original.items() if key not in FOREIGN_KEYS}


@dataclass(frozen=True)
class Family:
    """All that is special to a model type. One module of `families/` each, as its `FAMILY`.

    In the order of use:

    `open(path)` opens what is no TensorFlow checkpoint, None where `path` is nothing of its kind.
    `evidence` are full-match regexes of variable names by which the family is recognised.
    `config_files` are looked for beside the checkpoint; `read` parses those that are not JSON.
    `translate` turns the original config into Hugging Face's keys; keys that it leaves out are
    inferred from the rules' shapes.
    `describe(config, variables)` gives the keys that only several variables together tell; a
    config that says otherwise is refused.
    `adapt(rules, config, variables)` makes the rules that depend on either.
    `defaults` are keys of the written config that nothing else gives, `assume(config)` such that
    the user should hear of, `needs` those that it cannot do without. `remarks(config)` is what
    else there is to know of it.
    `side_files(folder, config)` gives the tokenizer files to write (name to contents) for the
    files lying beside the checkpoint, `own_files(checkpoint, config)` those that the checkpoint
    itself holds.
    """

    model_type: str
    rules: RuleSet
    evidence: tuple[str, ...]
    config_files: tuple[str, ...] = ()
    translate: Callable[[Mapping[str, Any]], Config] = same_keys
    read: Callable[[Path], Mapping[str, Any]] | None = None
    describe: Callable[[Config, Mapping[str, TensorInfo]], Config] = lambda *_: {}
    adapt: Callable[[RuleSet, Config, Mapping[str, TensorInfo]], RuleSet] = lambda rules, *_: rules
    defaults: Mapping[str, Any] = field(default_factory=dict)
    assume: Callable[[Config], Config] = lambda _: {}
    needs: tuple[str, ...] = ()
    side_files: Callable[[Path, Mapping[str, Any]], SideFiles] = lambda *_: SideFiles({})
    own_files: Callable[[Checkpoint, Mapping[str, Any]], SideFiles] = lambda *_: SideFiles({})
    remarks: Callable[[Mapping[str, Any]], tuple[str, ...]] = lambda _: ()
    open: Callable[[Path], Checkpoint | None] = lambda _: None
    aliases: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return self.model_type, *self.aliases


@cache
def families() -> dict[str, Family]:
    """All built-in families by model type."""
    from . import families as package

    found = {}
    modules = sorted(info.name for info in pkgutil.iter_modules(package.__path__))
    for module in (name for name in modules if not name.startswith("_")):
        family: Family = importlib.import_module(f"{package.__name__}.{module}").FAMILY
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
    for family in families().values():
        if model_type in ("auto", *family.names):
            found = family.open(Path(path))
            if found is not None:
                return found
    return tfreader.open(path)
