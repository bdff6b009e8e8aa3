"""The labels' names in a config: id2label by number, label2id the other way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from tfreader.errors import ConfigError
from tfreader.system import quoted

from ..family import Config

PAIR = ("id2label", "label2id")


def cleared_together(overrides: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is set, where one of both keys is cleared with the other too.

    No names at all, `{}` or `[]`, clear as null does. Where the other is set, it alone decides.
    """
    cleared = [key for key in PAIR if overrides.get(key, "") in (None, {}, [])]
    if not cleared:
        return overrides
    others = {key: value for key, value in overrides.items() if key not in cleared}
    return others if others.keys() & PAIR else {**others, **dict.fromkeys(PAIR)}


def set_labels(
    config: Config, overrides: Mapping[str, Any], origins: Mapping[str, str]
) -> list[str]:
    """Write both into the config where it has one, in Hugging Face's form; notes on what changed.

    A list of names will do. What was overridden decides, else id2label. `origins` says where a key
    is from. Raises ConfigError where they name no labels, or other ones.
    """
    if not config.get("id2label") and not config.get("label2id"):
        return []
    by_name = not config.get("id2label") or (
        "label2id" in overrides and "id2label" not in overrides
    )
    key, other = ("label2id", "id2label") if by_name else ("id2label", "label2id")
    names = _by_name(config[key]) if by_name else _by_number(config[key])
    if names is None:
        raise ConfigError(
            f"{origins[key]}: {key} must name the labels 0 to N - 1, each by a name of its own: a "
            'list of names, or {"0": "no", "1": "yes"}'
            + (" the other way round" if by_name else "")
        )
    before, is_asked = config.get(other), {key, other} <= overrides.keys()
    config["id2label"] = {str(i): name for i, name in enumerate(names)}
    config["label2id"] = {name: i for i, name in enumerate(names)}
    given = _by_number(before) if by_name else _by_name(before)
    if not before or given == names:
        return []
    if is_asked:
        raise ConfigError(f"--set {key} and --set {other} name different labels")
    if key in overrides:
        return [f"{other} follows the {key} that was set: nothing to do"]
    own = quoted(f"{other}={json.dumps(before)}")
    return [
        f"{other} was made of {key}, as that of {origins[other]} names other labels: nothing to do "
        f"where {key} is right" + (f", else add --set {own}" if given is not None else "")
    ]


def _by_number(names: Any) -> list[str] | None:
    """The names in order; None where they are not those of 0 to N - 1, each another."""
    if isinstance(names, Mapping):
        numbered = {str(key): name for key, name in names.items()}
        names = [numbered.get(str(i)) for i in range(len(names))]
    if not isinstance(names, list) or not all(type(name) in (str, int) for name in names):
        return None
    found = list(map(str, names))
    return found if found and len(set(found)) == len(found) else None


def _by_name(numbers: Any) -> list[str] | None:
    if not isinstance(numbers, Mapping):
        return _by_number(numbers)
    names = {str(number): name for name, number in numbers.items()}
    return _by_number(names) if len(names) == len(numbers) else None
