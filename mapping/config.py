"""The model's config: found, read, translated and overridden."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from tfreader.errors import ConfigError

from .family import Config, Family


@dataclass(frozen=True)
class SourceConfig:
    """The config as given: translated `values`, their file, the keys that were overridden."""

    values: Config
    path: str | None = None
    overridden: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def origin(self, key: str) -> str:
        if key in self.overridden:
            return f"--set {key}"
        return self.path or "the config"


def read_config(
    prefix: str,
    family: Family | None,
    config: str | PathLike[str] | Mapping[str, Any] | None,
    overrides: Mapping[str, Any],
    finetuning_task_name: str | None,
) -> SourceConfig:
    """The config given, else the one beside the checkpoint, else none. Raises ConfigError."""
    path, notes = None, []
    if config is None and family is not None:
        beside = [Path(prefix).parent / name for name in family.config_files]
        config = next((str(file) for file in beside if file.is_file()), None)
        if config is not None:
            notes.append(f"config: {config}")
    if config is None:
        original: Mapping[str, Any] = {}
    elif isinstance(config, Mapping):
        original = config
    else:
        path = str(config)
        readable = family.read if family and not path.endswith(".json") else None
        original = readable(Path(path)) if readable else _read_json(path)
    try:
        values = family.translate(original) if family else dict(original)
    except ConfigError as error:
        raise ConfigError(f"{path or 'config'}: {error}") from None
    values |= overrides
    if finetuning_task_name is not None:
        values["finetuning_task"] = finetuning_task_name
    return SourceConfig(values, path, tuple(overrides), tuple(notes))


def _read_json(path: str) -> Mapping[str, Any]:
    try:
        data = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not a JSON file: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: not a JSON object of config keys")
    return data
