"""params.yaml, as the Model Garden's trainer writes it."""

from __future__ import annotations

from typing import Any

import yaml

from tfreader.errors import ConfigError, RemoteError
from tfreader.files import read_small
from tfreader.paths import AnyPath

MAX_PARAMS = 1 << 16  # bytes; the trainer's have some 5,000


class _Loader(yaml.SafeLoader):
    """Of values with tags of their own, such as Python's tuples, it makes None."""


_Loader.add_multi_constructor("", lambda *_: None)


def read_yaml(path: AnyPath) -> Any:
    try:
        return parse_yaml(read_small(path, MAX_PARAMS).decode("utf-8"))
    except RemoteError:
        raise
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (ConfigError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from None


def parse_yaml(text: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"not a YAML file: {error}") from None
