"""The config of a checkpoint: found, read, checked, translated and overridden."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

from tfreader.checkpoint import Checkpoint
from tfreader.errors import ConfigError, RemoteError
from tfreader.files import read_small
from tfreader.json_text import parse_json
from tfreader.paths import AnyPath, as_path, size_of

from ..config_checks import check_keys, check_values, near, shown
from ..config_keys import KINDS, class_keys, keys_of, own_keys
from ..families import families
from ..family import Beside, Config, Family
from ..left_out import left_out
from ..plan import FLOATS
from ..rules.rule import RuleSet
from .labels import cleared_together, set_labels

MAX_LABELS = 1_000_000

MAX_CONFIG_SIZE = 1 << 20  # of a file that is looked into only to see whether it is a config
MOST_CANDIDATES = 50
MOST_NAMED = 10
ACTIVATION_KEYS = ("hidden_act", "activation_function", "hidden_activation")
TELLING_KEYS = 3  # of the family's, from which on a JSON file is a config


@dataclass(frozen=True)
class SourceConfig:
    """The config as given: translated `values`, their file, the keys that were overridden.

    `original` is what was translated, None where the checkpoint itself holds it. `cleared` are the
    keys that are to be null. `beside` are the places for the other files that belong to the model.
    With `is_open` several files could be the config, and none was read.
    """

    values: Config
    beside: Beside
    original: Mapping[str, Any] | None = None
    path: str | None = None
    overridden: tuple[str, ...] = ()
    cleared: Mapping[str, None] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    is_open: bool = False

    def origin(self, key: str) -> str:
        if key in self.overridden:
            return f"--set {key}"
        return self.path or "the config"


@dataclass(frozen=True)
class Asked:
    """What the user says of the model: the options of `make_plan` of these names."""

    model_type: str = "auto"
    config: str | PathLike[str] | Mapping[str, Any] | None = None
    vocab: str | PathLike[str] | None = None
    rules: RuleSet | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    finetuning_task_name: str | None = None
    architecture: str | None = None


def read_config(checkpoint: Checkpoint, family: Family | None, asked: Asked) -> SourceConfig:
    """The config given, else the checkpoint's own, else the one beside it, else none.

    A folder given is looked through as the checkpoint's own is. Rules may name keys of their own.
    Raises ConfigError.
    """
    own = checkpoint.config if asked.config is None else None
    config = own if asked.config is None else asked.config
    path, original, notes, is_open = _find(checkpoint.path, family, config)
    beside = Beside.of(checkpoint.path, path, asked.vocab)
    where = path or "config"
    if family is not None:
        original = _flat(original, where, family)
    if family is None or not family.any_type:
        original = _without_nulls(original)
    overrides = cleared_together(asked.overrides)
    values: Config = {**original, **overrides}
    cleared: dict[str, None] = {}
    if family is not None:
        others = _dimensions(asked.rules)
        set_too = _of_original(family, overrides)
        told = {**original, **set_too}
        told = told if family.any_type else _without_nulls(told)
        translated = _translate(told, where, family, own is not None)
        if own is None:
            notes += _unknown(check_keys(family.model_type, original, where, others), where, family)
        overrides = _overrides(family, overrides)
        notes += _unknown(
            check_keys(family.model_type, overrides, "--set", others), "--set", family
        )
        values = {**translated, **overrides}
        if family.any_type:
            notes += _check_set(original, overrides)
        if family.any_type and asked.architecture is not None:
            values["architectures"] = [asked.architecture]
        nulls = values if family.any_type else overrides
        cleared = {k: None for k, v in nulls.items() if v is None and k not in set_too}
        values = _without_nulls(values)
        origins = dict.fromkeys(values, where) | dict.fromkeys(overrides, "--set")
        check_values(family.model_type, values, origins)
        notes += set_labels(values, overrides, origins)
    task = asked.finetuning_task_name
    if task is not None and overrides.get("finetuning_task", task) != task:
        raise ConfigError(
            f"--set finetuning_task: {shown(overrides['finetuning_task'])}, and "
            f"--finetuning_task_name is {shown(task)}: give one of them"
        )
    if task is not None:
        values["finetuning_task"] = task
    if family is not None and asked.model_type in family.variants:
        values.setdefault("model_type", asked.model_type)
    kept = None if own is not None or not original else original
    return SourceConfig(
        values, beside, kept, path, tuple(overrides), cleared, tuple(notes), is_open
    )


def _find(
    prefix: str,
    family: Family | None,
    config: str | PathLike[str] | Mapping[str, Any] | None,
) -> tuple[str | None, Mapping[str, Any], list[str], bool]:
    """The config's file, its keys, what to say of it, and whether several files could be it."""
    if isinstance(config, Mapping):
        return None, config, [], False
    if config is not None and not as_path(config).is_dir():
        return str(config), _read(str(config), family), [], False
    if family is None:
        if config is not None:
            raise ConfigError(f"{config}: is a folder: pass the config file itself")
        return None, {}, [], False
    places = Beside.of(prefix) if config is None else Beside.within([as_path(config)])
    found = places.find(*family.config_files)
    if found is not None:
        return str(found), _read(str(found), family), [f"config: {found}"], False
    likely = list(_likely(places, family))
    if len(likely) == 1:
        path = str(likely[0])
        note = f"config: {path}, by its keys the only one of a {family.model_type} here"
        return path, _read(path, family), [note], False
    names = ", ".join(path.name for path in likely)
    if config is not None:
        wanted = f"none of {', '.join(family.config_files)}" if family.config_files else "no config"
        which = f"several that could be the config ({names})" if likely else f"{wanted} in it"
        raise ConfigError(f"{config}: is a folder with {which}: pass the file itself")
    notes = [f"config: any of {names} could be it: choose with --config"] if likely else []
    return None, {}, notes, bool(likely)


def _likely(places: Beside, family: Family) -> Iterator[AnyPath]:
    """The JSON files that hold so many of a family's keys that they must be its configs."""
    usual = {name for other in families().values() for name in other.config_files}
    others = usual - {"config.json", *family.config_files}
    files = (path for folder in places.folders for path in folder.glob("*.json"))
    own = sorted((path for path in files if path.name not in others), key=str)
    for path in own[:MOST_CANDIDATES]:
        with suppress(ConfigError):
            if places.takes(path) and size_of(path) <= MAX_CONFIG_SIZE:
                keys = _without_nulls(_flat(_read(str(path), family), path.name, family))
                _translate(keys, path.name, family, False)
                if len(own_keys(family.model_type) & keys.keys()) >= TELLING_KEYS:
                    yield path


def _without_nulls(config: Mapping[str, Any]) -> Config:
    return {key: value for key, value in config.items() if value is not None}


def _flat(original: Mapping[str, Any], where: str, family: Family) -> Mapping[str, Any]:
    try:
        return family.flat(original)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _translate(original: Mapping[str, Any], where: str, family: Family, is_own: bool) -> Config:
    """Hugging Face's keys; the checkpoint's own may hold whatever its training was told.

    Raises ConfigError.
    """
    model_type = original.get("model_type")
    if model_type is not None and model_type not in family.names and not family.any_type:
        model = left_out(str(model_type))
        raise ConfigError(
            f"{where}: model_type = {model_type!r}: a config of another family than "
            f"{family.model_type}" + (f"\n{model}" if model is not None else "")
        )
    if not is_own:
        aliases = keys_of(family.model_type).aliases
        named = {aliases.get(key, key): value for key, value in original.items()}
        check_values(family.model_type, _without_nulls(named), dict.fromkeys(named, where))
    try:
        return family.translate(original)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _of_original(family: Family, overrides: Mapping[str, Any]) -> Config:
    """The keys to set that only the original's config has: what they come to is translated."""
    known = keys_of(family.model_type).original.keys() - class_keys(family.model_type).keys()
    return {key: value for key, value in overrides.items() if key in known}


def _overrides(family: Family, overrides: Mapping[str, Any]) -> Config:
    """The keys to set, by their usual names. Raises ConfigError for those that no user may set."""
    aliases = keys_of(family.model_type).aliases
    given: Config = {}
    for name, value in overrides.items():
        key = aliases.get(name, name)
        if key in given:
            raise ConfigError(f"--set {name}: is {key}, which is set too")
        given[key] = value
    known = class_keys(family.model_type)
    for key, value in given.items():
        if value is None and key in known and not known[key].may_be_null:
            raise ConfigError(f"--set {key}: null, expected {known[key].words}")
    if "architectures" in given:
        raise ConfigError("--set architectures: the model class is chosen with --architecture")
    if given.get("dtype", "float32") not in [*FLOATS]:
        raise ConfigError(
            f"--set dtype: {shown(given['dtype'])}, expected {', '.join(FLOATS)}; the type of the "
            "tensors is chosen with --dtype"
        )
    if given.get("model_type", family.model_type) not in family.names and not family.any_type:
        raise ConfigError("--set model_type: the family is chosen with --model_type")
    return given


def _check_set(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> list[str]:
    """Hold what is set against a config of any model type; a note on keys that it has not.

    Raises ConfigError for what cannot be meant, by what is known of that type and by the config.
    """
    known = class_keys(str(config.get("model_type")))
    for key, value in overrides.items():
        kind = KINDS["activation"] if key in ACTIVATION_KEYS else known.get(key)
        if kind is not None and not (kind.may_be_null if value is None else kind.fits(value)):
            raise ConfigError(f"--set {key}: {shown(value)}, expected {kind.words}")
    size, heads = config.get("hidden_size"), overrides.get("num_attention_heads")
    if type(size) is int and type(heads) is int and (heads < 1 or size % heads):
        raise ConfigError(
            f"--set num_attention_heads: {heads}, of which hidden_size = {size} is no multiple"
        )
    unknown = [key for key in overrides if key not in known and key not in config]
    for key in unknown if config else ():
        if (other := near(key, config)) is not None:
            raise ConfigError(f"--set: the config has no key {key!r}: is {other!r} meant?")
    named = ", ".join(map(shown, unknown[:MOST_NAMED]))
    return [
        f"--set: the config has no {named} so far; what transformers' class has not either changes "
        "nothing"
    ] * bool(unknown)


def _dimensions(rules: RuleSet | None) -> set[str]:
    """The keys that rules bind to shapes."""
    if rules is None:
        return set()
    shapes = [rule.shape or () for rule in rules.rules] + [fill.shape or () for fill in rules.fills]
    factors = {part for shape in shapes for size in shape for part in re.split("[*/+]", str(size))}
    return {*factors, *rules.counts.values()}


def _unknown(keys: list[str], where: str, family: Family) -> list[str]:
    if not keys:
        return []
    named = ", ".join(map(shown, keys[:MOST_NAMED]))
    more = f" and {len(keys) - MOST_NAMED} more" if len(keys) > MOST_NAMED else ""
    return [
        f"{where}: neither {family.model_type}'s original code nor transformers knows {named}"
        f"{more}; if that changes what the model computes, the result is wrong"
    ]


def _read(path: str, family: Family | None) -> Mapping[str, Any]:
    """The keys of a JSON file, or of one in a form that only its family knows."""
    try:
        text = read_small(as_path(path)).decode("utf-8-sig")
    except RemoteError:
        raise
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a config file, as it is not text") from None
    if family is not None and not text.lstrip().startswith("{"):
        try:
            found = family.read(text)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
        if found is not None:
            return found
    try:
        data = parse_json(text)
    except ValueError as error:
        raise ConfigError(f"{path}: not a JSON file: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: not a JSON object of config keys")
    return data
