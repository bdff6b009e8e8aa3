"""The model's config: found, read, translated and overridden."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

from tfreader.checkpoint import Checkpoint
from tfreader.errors import ConfigError, RemoteError
from tfreader.files import read_small
from tfreader.paths import as_path

from .family import Beside, Config, Family, Variables
from .findings import Findings
from .plan import CASTABLE, Entry
from .rule import Architecture

MAX_LABELS = 1_000_000


@dataclass(frozen=True)
class SourceConfig:
    """The config as given: translated `values`, their file, the keys that were overridden.

    `original` is what was translated, None where the checkpoint itself holds it.
    """

    values: Config
    original: Mapping[str, Any] | None = None
    path: str | None = None
    overridden: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def origin(self, key: str) -> str:
        if key in self.overridden:
            return f"--set {key}"
        return self.path or "the config"


def read_config(
    checkpoint: Checkpoint,
    family: Family | None,
    model_type: str,
    config: str | PathLike[str] | Mapping[str, Any] | None,
    overrides: Mapping[str, Any],
    finetuning_task_name: str | None,
) -> SourceConfig:
    """The config given, else the checkpoint's own, else the one beside it, else none.

    Raises ConfigError.
    """
    path, notes = None, []
    own = checkpoint.config if config is None else None
    config = own if config is None else config
    if config is None and family is not None:
        config = Beside.of(checkpoint.path).find(*family.config_files)
        if config is not None:
            notes.append(f"config: {config}")
    if config is None:
        original: Mapping[str, Any] = {}
    elif isinstance(config, Mapping):
        original = config
    else:
        path = str(config)
        original = _read(path, family)
    original = {key: value for key, value in original.items() if value is not None}
    stated = original.get("model_type")
    if family is not None and stated is not None and stated not in family.names:
        raise ConfigError(
            f"{path or 'config'}: model_type = {stated!r}: a config of another family than "
            f"{family.model_type}"
        )
    try:
        values = family.translate(original) if family else dict(original)
    except ConfigError as error:
        raise ConfigError(f"{path or 'config'}: {error}") from None
    values |= overrides
    if finetuning_task_name is not None:
        values["finetuning_task"] = finetuning_task_name
    if family is not None and model_type in family.variants:
        values.setdefault("model_type", model_type)
    kept = None if own is not None or not original else original
    return SourceConfig(values, kept, path, tuple(overrides), tuple(notes))


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
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not a JSON file: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: not a JSON object of config keys")
    return data


def finish_config(
    family: Family,
    config: Config,
    source: SourceConfig,
    architecture: Architecture | None,
    variables: Variables,
    entries: Iterable[Entry],
    ties: Collection[str],
    findings: Findings,
) -> Config:
    """The config to write: with what is assumed, the labels and the type.

    The class that it describes has the tensors of the plan, `ties` among them, and no others.
    Raises ConfigError.
    """
    finished: Config = {"model_type": family.model_type}
    if architecture:
        finished["architectures"] = [architecture.name]
    finished |= {**family.defaults, **config}
    for key, value in family.assume(finished, variables).items():
        if key not in finished:
            finished[key] = value
            findings.notes.append(
                f"{key} = {json.dumps(value)}: the original's usual value, since no config "
                f"file and no shape tells it; --set {key}=VALUE gives another"
            )
    labels = finished.pop("num_labels", None)
    if labels is not None and (type(labels) is not int or not 0 < labels <= MAX_LABELS):
        raise ConfigError(f"{source.origin('num_labels')}: num_labels = {labels!r}")
    named = finished.get("id2label")
    if named is not None and not isinstance(named, Mapping):
        raise ConfigError(f"{source.origin('id2label')}: id2label is no object of names")
    if labels is not None and named and len(named) != labels:
        raise ConfigError(
            f"{source.origin('id2label')}: id2label names {len(named)} labels, the "
            f"checkpoint's head has {labels}"
        )
    if labels is not None and not named:
        names = [f"LABEL_{i}" for i in range(labels)]
        finished["id2label"] = {str(i): name for i, name in enumerate(names)}
        finished["label2id"] = {name: i for i, name in enumerate(names)}
    _check_fixed(family, finished, source, ties, findings)
    floats = {str(entry.dtype) for entry in entries if entry.dtype in CASTABLE}
    if floats:  # a model is loaded in one type, which should hold them all
        widest = floats.pop() if len(floats) == 1 else "float32"
        finished.setdefault("dtype", widest)
    family.check(finished)
    findings.notes += family.remarks(finished)
    return finished


def _check_fixed(
    family: Family,
    config: Config,
    source: SourceConfig,
    ties: Collection[str],
    findings: Findings,
) -> None:
    """Refuse, or change and say so, what would give the class other tensors than there are."""
    for key, value in family.fixed.items():
        if config.get(key, value) != value:
            raise ConfigError(
                f"{source.origin(key)}: {key} = {json.dumps(config[key])}: that model has other "
                f"tensors than the checkpoint, or computes something else than the original; where "
                f"it does not belong there, --set {key}={json.dumps(value)}"
            )
    if family.output_weight in ties and config.get("tie_word_embeddings", True) is not True:
        said = f"tie_word_embeddings = {json.dumps(config['tie_word_embeddings'])}"
        reason = f"the checkpoint has no {family.output_weight} of its own"
        if "tie_word_embeddings" in source.overridden:
            raise ConfigError(f"--set {said}: {reason}")
        config["tie_word_embeddings"] = True
        findings.notes.append(
            f"tie_word_embeddings = true, in place of {said} in {source.path or 'the config'}, "
            f"since {reason}"
        )
