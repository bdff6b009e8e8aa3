"""A family: a model type with its layouts, its config and its side files."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from tfreader.checkpoint import Checkpoint, TensorInfo
from tfreader.errors import ConfigError, RemoteError, UnknownModelTypeError
from tfreader.files import SMALL, read_small
from tfreader.paths import AnyPath, as_path, check_access, size_of

from .config_checks import as_written
from .evidence import told
from .rules.ops import Op
from .rules.rule import Architecture, RuleSet

Config = dict[str, Any]
# Below the folder with params.yaml, the Model Garden's trainer keeps the best checkpoint.
BEST = "best_ckpt"


@dataclass(frozen=True)
class Beside:
    """The folders in which a checkpoint's config and vocabulary may lie.

    Files are found in `folders` by name. They may be links within `homes`, and lead nowhere else: a
    stranger's archive could have one to a file of the user's, which would get into the output.
    `vocab` is the vocabulary's file where it was named, `vocab_folder` its folder. `found` lists
    the files that were found.
    """

    folders: tuple[AnyPath, ...]
    homes: tuple[Path, ...]
    vocab: AnyPath | None = None
    vocab_folder: AnyPath | None = None
    found: list[AnyPath] = field(default_factory=list, compare=False)

    @classmethod
    def of(
        cls, prefix: str, config: str | None = None, vocab: str | PathLike[str] | None = None
    ) -> Beside:
        """The checkpoint's own folder, that of its config; of a SavedModel and BEST those above.

        Where a vocabulary is named, its folder, or what it is itself, comes first. Raises
        ConfigError where there is no such file.
        """
        folder = as_path(prefix).parent
        folders = [folder, *([as_path(config).parent] if config else [])]
        homes = list(folders)
        if folder.name == "variables":
            folders += [folder.parent, folder.parent / "assets"]
            homes[0] = folder.parent
            # transformers' save_pretrained puts it into saved_model/1 of the config's folder.
            if folder.parent.parent.name == "saved_model":
                folders.append(folder.parent.parent.parent)
                homes[0] = folder.parent.parent.parent
            elif folder.parent.name == "export":  # beside what trained and exported the model
                folders.append(folder.parent.parent)
                homes[0] = folder.parent.parent
        elif folder.name == BEST:
            folders.append(folder.parent)
            homes[0] = folder.parent
        named = None if vocab is None else as_path(vocab)
        if isinstance(named, Path):
            check_access(str(named))
        if named is not None and named.is_dir():
            return replace(cls.within([named]), vocab_folder=named)
        if named is not None:
            if not named.is_file():
                raise ConfigError(f"{vocab}: no such vocabulary: pass a file, or a folder with one")
            folders, homes = [named.parent, *folders], [named.parent, *homes]
        return cls.within(folders, homes, named)

    @classmethod
    def within(
        cls,
        folders: Sequence[AnyPath],
        homes: Sequence[AnyPath] | None = None,
        vocab: AnyPath | None = None,
    ) -> Beside:
        """These folders; their files may be links within them, or within `homes` where given."""
        here = [_real(home) for home in homes or folders if isinstance(home, Path)]
        # https://huggingface.co/docs/huggingface_hub/guides/manage-cache: what lies below
        # MODEL/snapshots/REVISION are links to MODEL/blobs.
        above = (path for home in here for path in (home, *home.parents))
        blobs = (path.parents[1] / "blobs" for path in above if path.parent.name == "snapshots")
        return cls(tuple(dict.fromkeys(folders)), (*here, *blobs), vocab)

    def find(self, *names: str) -> AnyPath | None:
        """The first file there is of these names, in the order of the names.

        Raises ConfigError for one that leads elsewhere, or is no regular file.
        """
        paths = (folder / name for name in names for folder in self.folders)
        return next((path for path in paths if self.takes(path)), None)

    def matching(self, pattern: str) -> list[AnyPath]:
        """The files whose names match, sorted. Raises what `find` raises."""
        paths = (path for folder in self.folders for path in folder.glob(pattern))
        return sorted((path for path in paths if self.takes(path)), key=str)

    def takes(self, path: AnyPath) -> bool:
        """Whether there is such a file. Raises what `find` raises."""
        if not isinstance(path, Path):
            is_there = path.is_file()
        elif is_there := os.path.lexists(path) and not os.path.isdir(path):
            real = _real(path)
            if not any(map(real.is_relative_to, self.homes)):
                raise ConfigError(
                    f"{path}: a link to {real}, which lies outside of {self} and may be private: "
                    "not read; put the file itself there if it belongs to the checkpoint"
                )
            if not os.path.isfile(path):
                raise ConfigError(f"{path}: not a regular file; move it away, or put one there")
        if is_there:
            self.found.append(path)
        return is_there

    def find_vocabulary(
        self, names: Sequence[str], patterns: Sequence[str], holds: Callable[[bytes], bool]
    ) -> tuple[AnyPath | None, tuple[str, ...]]:
        """The vocabulary named, else one of the usual `names`, else the only one of its kind.

        Such a file's name matches one of `patterns`, and its contents are what `holds` knows. The
        notes say what was taken, or why nothing was. Raises ConfigError where the one named is of
        another kind.
        """
        if self.vocab is not None and not holds(_contents(self.vocab)):
            raise ConfigError(
                f"{self.vocab}: not a vocabulary of this family, which has {' or '.join(names)}"
            )
        if self.vocab is not None:
            self.found.append(self.vocab)
        found = self.vocab or self.find(*names)
        if found is not None:
            return found, ()
        paths = {path for pattern in patterns for path in self.matching(pattern)}
        likely = [
            path
            for path in sorted(paths, key=str)
            if size_of(path) <= SMALL and holds(_contents(path))
        ]
        if len(likely) == 1:
            return likely[0], (f"vocabulary: {likely[0]}, the only one here",)
        if likely:
            which = ", ".join(path.name for path in likely)
            return None, (f"vocabulary: any of {which} could be it: choose with --vocab",)
        wanted = " or ".join(names)
        if self.vocab_folder is not None:
            raise ConfigError(f"{self.vocab_folder}: no {wanted} in it: --vocab FILE names another")
        return None, (f"no {wanted} in {self}: no tokenizer written; --vocab FILE names another",)

    def __str__(self) -> str:
        return " or ".join(map(str, self.folders))


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _contents(path: AnyPath) -> bytes:
    try:
        return read_small(path)
    except RemoteError:
        raise
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None


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


class Variables(dict[str, TensorInfo]):
    """The variables to map, under all their names; `own` has each once, by its readable name.

    Several may have the same readable name.
    """

    own: Sequence[tuple[str, TensorInfo]] = ()


class Made(NamedTuple):
    """A tensor as operations make it of a variable."""

    variable: str
    ops: tuple[Op, ...] = ()


class Layout(ABC):
    """How a source spells a family's model: by which names it is known, and its rules.

    `evidence` are full-match regexes of variable names, each of which some variable has to match;
    `absent` such as none may match. In `formats` of checkpoints there is no other layout.
    """

    name: ClassVar[str]
    evidence: ClassVar[tuple[str, ...]]
    absent: ClassVar[tuple[str, ...]] = ()
    formats: ClassVar[tuple[str, ...]] = ()

    def told_by(self, names: Sequence[str], trained: bool = False) -> tuple[str, ...] | None:
        """The names that tell this layout, None where they tell that it is none.

        `trained` says that the checkpoint has what training leaves too, such as slots and counters.
        """
        return told(names, self.evidence, self.absent)

    def from_settings(self, beside: Beside, config: Config, variables: Variables) -> Told:
        """What files beside the checkpoint, other than its config, say of the model.

        Raises ConfigError where they say that it is another.
        """
        return Told()

    def describe(self, config: Config, variables: Variables) -> Config:
        """The keys that only several variables together tell.

        A config that says otherwise is refused.
        """
        return {}

    def for_class(
        self, kind: Architecture, config: Config, asked: Collection[str], variables: Variables
    ) -> Told:
        """The keys that are others than the config's for this class, of several in a checkpoint.

        Those of them that the user `asked` for stay as they are. Raises PlanError where the
        checkpoint does not hold that class, though by its rules it may.
        """
        return Told()

    def copies(self, config: Config, variables: Variables) -> Sequence[tuple[Made, Made]]:
        """Tensors that may be second copies of others: left out where their values are equal."""
        return ()

    @abstractmethod
    def rules(self, config: Config, variables: Variables) -> RuleSet:
        """The rules for these variables; without any, those of the usual form."""

    def usual(self) -> RuleSet:
        """The rules of the usual form."""
        return self.rules({}, Variables())


class Family:
    """All that is special to a model type. One module of `families/` each, as its `FAMILY`.

    `layouts` are the ways in which its checkpoints are spelled, the original's first.
    `config_files` are looked for beside the checkpoint. `defaults` are keys of the written config
    that nothing else gives, `needs` those that it cannot do without, `fixed` those with which, set
    otherwise, the class would have other tensors or compute something else. `output_weight` is the
    tensor of the output layer, which tie_word_embeddings makes one with the embeddings. `labels`
    says of classes whose head has a number of labels of its own how many. `aliases` are other names
    for the model type, `variants` such that are a model type of their own in the written config.
    `refused` are transformers' classes that no checkpoint can become, with the reason. `pads` says
    that the class is made with a row of the embeddings for padding, which has to be there. A family
    of `any_type` has models of all types; its configs are transformers' own, and kept.

    The methods stand in the order of their use.
    """

    model_type: ClassVar[str]
    layouts: ClassVar[tuple[Layout, ...]]
    config_files: ClassVar[tuple[str, ...]] = ()
    defaults: ClassVar[Mapping[str, Any]] = {}
    needs: ClassVar[tuple[str, ...]] = ()
    fixed: ClassVar[Mapping[str, Any]] = {}
    output_weight: ClassVar[str | None] = None
    labels: ClassVar[Mapping[str, int]] = {}
    aliases: ClassVar[tuple[str, ...]] = ()
    variants: ClassVar[tuple[str, ...]] = ()
    refused: ClassVar[Mapping[str, str]] = {}
    pads: ClassVar[bool] = True
    any_type: ClassVar[bool] = False

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

    def classes(self) -> tuple[str, ...]:
        """The model classes that can be written, for completion."""
        kinds = (kind for layout in self.layouts for kind in layout.usual().architectures)
        return tuple(dict.fromkeys(kind.name for kind in kinds))

    def open(self, path: AnyPath) -> Checkpoint | None:
        """Open what is no TensorFlow checkpoint, None where `path` is nothing of its kind."""
        return None

    def read(self, text: str) -> Mapping[str, Any] | None:
        """The keys of a config file that is not JSON, None where the family knows no such file."""
        return None

    def flat(self, original: Mapping[str, Any]) -> Mapping[str, Any]:
        """A config's keys with those that lie in an object of their own."""
        return original

    def translate(self, original: Mapping[str, Any]) -> Config:
        """Hugging Face's keys from the original config; what it leaves out the shapes tell."""
        return same_keys(original)

    def from_vocabulary(self, beside: Beside, variables: Variables) -> Config:
        """Keys that a vocabulary tells, where the config does not."""
        return {}

    def assume(self, config: Config, variables: Variables) -> Config:
        """Keys that nothing else gives, and of which the user should hear."""
        return {}

    def advice(
        self,
        rules: RuleSet,
        config: Config,
        variables: Variables,
        unknown: Variables,
        asked: Architecture | None,
    ) -> str:
        """What to do about those outside the model that no rule knows; empty where all is said.

        `asked` is the class that the user chose.
        """
        return ""

    def written(self, config: Config) -> Config:
        """The finished config with values of the types that transformers' class takes."""
        return as_written(self.model_type, config)

    def check(self, config: Config) -> None:
        """Raise ConfigError where the finished config makes no model."""

    def remarks(self, config: Config) -> tuple[str, ...]:
        """What else the user should know of the finished config."""
        return ()

    def lacking(self, config: Config) -> str:
        """What the finished config lacks of what only some models need, and what to pass."""
        return ""

    def side_files(self, checkpoint: Checkpoint, beside: Beside, config: Config) -> SideFiles:
        """The tokenizer's files, made of what lies beside the checkpoint or in it."""
        return SideFiles({})
