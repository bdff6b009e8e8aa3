"""A family: a model type with its layouts, its config and its side files."""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import tfreader
from tfreader.checkpoint import Checkpoint, TensorInfo
from tfreader.errors import ConfigError, UnknownModelTypeError
from tfreader.paths import AnyPath, as_path, check_access

from .rule import RuleSet

Config = dict[str, Any]


@dataclass(frozen=True)
class Beside:
    """The folders in which a checkpoint's config and vocabulary may lie."""

    folders: tuple[AnyPath, ...]

    @classmethod
    def of(cls, prefix: str, config: str | None = None) -> Beside:
        """The checkpoint's own folder, that of its config; of a SavedModel also those above it."""
        folder = as_path(prefix).parent
        folders = [folder, *([as_path(config).parent] if config else [])]
        if folder.name == "variables":
            folders += [folder.parent, folder.parent / "assets"]
        return cls(tuple(dict.fromkeys(folders)))

    def find(self, *names: str) -> AnyPath | None:
        """The first file there is of these names, in the order of the names."""
        paths = (folder / name for name in names for folder in self.folders)
        return next((path for path in paths if path.is_file()), None)

    def __str__(self) -> str:
        return " or ".join(map(str, self.folders))


@dataclass(frozen=True)
class SideFiles:
    """Files to write beside the weights, and what to tell the user about them."""

    contents: Mapping[str, bytes]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Told:
    """Config keys that files beside the checkpoint give, and what to tell the user."""

    config: Config = field(default_factory=dict)
    notes: tuple[str, ...] = ()


# Keys of a Hugging Face config.json that describe that conversion, not this one.
FOREIGN_KEYS = {"architectures", "model_type", "dtype", "torch_dtype", "transformers_version"}


def same_keys(original: Mapping[str, Any], aliases: Mapping[str, str] | None = None) -> Config:
    """The config of a family whose original file has Hugging Face's keys.

    `aliases` are other names of some, which Hugging Face's code takes too. Raises ConfigError where
    both are given and differ.
    """
    config = {key: value for key, value in original.items() if key not in FOREIGN_KEYS}
    for alias, key in (aliases or {}).items():
        if alias not in config:
            continue
        value = config.pop(alias)
        if config.setdefault(key, value) != value:
            raise ConfigError(
                f"{alias} = {value!r} and {key} = {config[key]!r} are two names of one size: "
                "correct the config, or pass the checkpoint's own"
            )
    return config


def check_heads(config: Mapping[str, Any], size: str, heads: str) -> None:
    """Raise ConfigError unless so many attention heads can share that size."""
    hidden, number = config.get(size), config.get(heads)
    if number is None:
        return  # the config file asks for it where there is one
    if not isinstance(hidden, int) or type(number) is not int or number < 1 or hidden % number:
        raise ConfigError(f"{size} = {hidden} is not a multiple of {heads} = {number!r}")


Variables = Mapping[str, TensorInfo]
"""The variables to map, under all their names."""


class Layout(ABC):
    """How a source spells a family's model: by which names it is known, and its rules.

    `evidence` are full-match regexes of variable names, each of which some variable has to match;
    `absent` such as none may match.
    """

    name: ClassVar[str]
    evidence: ClassVar[tuple[str, ...]]
    absent: ClassVar[tuple[str, ...]] = ()

    def told(self, beside: Beside, config: Config, variables: Variables) -> Told:
        """What files beside the checkpoint, other than its config, say of the model.

        Raises ConfigError where they say that it is another.
        """
        return Told()

    def describe(self, config: Config, variables: Variables) -> Config:
        """The keys that only several variables together tell.

        A config that says otherwise is refused.
        """
        return {}

    @abstractmethod
    def rules(self, config: Config, variables: Variables) -> RuleSet:
        """The rules for these variables; without any, those of the usual form."""


class Family:
    """All that is special to a model type. One module of `families/` each, as its `FAMILY`.

    `layouts` are the ways in which its checkpoints are spelled, the original's first.
    `config_files` are looked for beside the checkpoint. `defaults` are keys of the written config
    that nothing else gives, `needs` those that it cannot do without, `fixed` those with which, set
    otherwise, the class would have other tensors or compute something else. `output_weight` is the
    tensor of the output layer, which tie_word_embeddings makes one with the embeddings. `aliases`
    are other names for the model type, `variants` such that are a model type of their own in the
    written config.

    The methods stand in the order of their use.
    """

    model_type: ClassVar[str]
    layouts: ClassVar[tuple[Layout, ...]]
    config_files: ClassVar[tuple[str, ...]] = ()
    defaults: ClassVar[Mapping[str, Any]] = {}
    needs: ClassVar[tuple[str, ...]] = ()
    fixed: ClassVar[Mapping[str, Any]] = {}
    output_weight: ClassVar[str | None] = None
    aliases: ClassVar[tuple[str, ...]] = ()
    variants: ClassVar[tuple[str, ...]] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return self.model_type, *self.aliases, *self.variants

    def layout(self, name: str) -> Layout:
        """The layout of that name. Raises UnknownModelTypeError, listing those known."""
        for layout in self.layouts:
            if layout.name == name:
                return layout
        known = ", ".join(layout.name for layout in self.layouts)
        raise UnknownModelTypeError(f"{self.model_type} has no layout {name!r}; known: {known}")

    def open(self, path: AnyPath) -> Checkpoint | None:
        """Open what is no TensorFlow checkpoint, None where `path` is nothing of its kind."""
        return None

    def read(self, text: str) -> Mapping[str, Any] | None:
        """The keys of a config file that is not JSON, None where the family knows no such file."""
        return None

    def translate(self, original: Mapping[str, Any]) -> Config:
        """Hugging Face's keys from the original config; what it leaves out the shapes tell."""
        return same_keys(original)

    def assume(self, config: Config, variables: Variables) -> Config:
        """Keys that nothing else gives, and of which the user should hear."""
        return {}

    def check(self, config: Config) -> None:
        """Raise ConfigError where the finished config makes no model."""

    def remarks(self, config: Config) -> tuple[str, ...]:
        """What else the user should know of the finished config."""
        return ()

    def side_files(self, checkpoint: Checkpoint, beside: Beside, config: Config) -> SideFiles:
        """The tokenizer's files, made of what lies beside the checkpoint or in it."""
        return SideFiles({})


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
    return open_foreign(path, model_type) or tfreader.open(path)


def open_foreign(path: str | PathLike[str], model_type: str = "auto") -> Checkpoint | None:
    """Open what is no TensorFlow checkpoint and a family knows; None where none does."""
    path = as_path(path)
    if isinstance(path, Path):
        check_access(str(path))
    wanted = [f for f in families().values() if model_type in ("auto", *f.names)]
    return next(filter(None, (family.open(path) for family in wanted)), None)
