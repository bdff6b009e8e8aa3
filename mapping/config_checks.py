"""Whether keys and values can be those of a family's config, before anything is made of them."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from tfreader.errors import ConfigError
from tfreader.system import quoted

from .config_keys import COMMON, KINDS, class_keys, every_key, keys_of

MOST_COMPARED = 200  # unknown keys; a file that has more is not one misspelled


def check_keys(
    model_type: str, given: Mapping[str, Any], where: str, others: Collection[str] = ()
) -> list[str]:
    """The keys that nothing of that family knows; `others` are such that the rules name.

    Raises ConfigError for a key that tells of another model, and for one that is misspelled.
    """
    own = keys_of(model_type)
    if not own.fields:
        return []
    known, foreign = {*class_keys(model_type), *own.aliases, *own.original}, own.foreign
    for key in foreign.keys() & given.keys():
        if given[key] not in foreign[key].harmless:
            raise ConfigError(
                f"{where}: {key} = {shown(given[key])}: {foreign[key].what}. Its variables have "
                f"{model_type}'s names, but transformers' {model_type} computes something else, "
                "so no conversion is right; take the key out only where the model is known to have "
                "been trained without it"
            )
    known |= {*foreign, *others}
    unknown = [key for key in given if key not in known]
    meant = {key for key in known if COMMON.get(key) is not KINDS["any"]}
    for key in unknown[:MOST_COMPARED]:
        other = near(key, meant)
        if other is not None:
            raise ConfigError(
                f"{where}: no config of {model_type} has a key {key!r}: is {other!r} meant?"
            )
    return unknown


def check_values(model_type: str, values: Mapping[str, Any], origin: Mapping[str, str]) -> None:
    """Raise ConfigError for the first value of another type than its key's.

    `origin` says where a key is from.
    """
    for key, kind in class_keys(model_type).items():
        if key in values and not kind.fits(values[key]):
            raise ConfigError(
                f"{origin.get(key, 'the config')}: {key} = {shown(values[key])}, expected "
                f"{kind.words}"
            )


def as_written(model_type: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, which `check_values` took, of the types that transformers' class takes."""
    kinds = class_keys(model_type)
    return {
        key: kinds[key].written(value) if key in kinds and value is not None else value
        for key, value in values.items()
    }


def shown(value: Any) -> str:
    """A value as JSON, as much as fits a message."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def near(key: str, known: Iterable[str]) -> str | None:
    """The known key from which one differs by a letter or two, or by nothing but its spelling.

    Short keys differ by that much from each other, `amp` from `asm`; so do those of several
    families, `num_heads` from `num_beams`, but for an s at the end.
    """
    if not 5 <= len(key) <= 64:
        return None
    plain, most = key.lower().replace("-", "_"), 2 if len(key) >= 8 else 1
    found = [
        (distance(plain, other), other)
        for other in known
        if len(other) >= 5
        and abs(len(other) - len(key)) <= most
        and (key not in every_key() or other.rstrip("s") == key.rstrip("s"))
    ]
    steps, other = min(found, default=(most + 1, ""))
    return other if steps <= most else None


def distance(one: str, other: str) -> int:
    """How many letters to put in, take out, replace, or swap with the one beside it."""
    rows = [list(range(len(other) + 1))]
    for i, letter in enumerate(one, 1):
        row = [i]
        for j, own in enumerate(other, 1):
            steps = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (letter != own))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == own:
                steps = min(steps, rows[-2][j - 2] + 1)
            row.append(steps)
        rows.append(row)
    return rows[-1][-1]


def naming(labels: int) -> str:
    """The flags that name so many labels, one by one where they are few."""
    if labels > 10:
        return f"--set num_labels={labels} --set id2label=null"
    names = json.dumps([f"LABEL_{i}" for i in range(labels)])
    return f"--set {quoted(f'id2label={names}')}"
