"""What may stand where in a rule file: each check gives the value as rules hold it.

A check raises ValueError that says what was expected and what was found; the caller says where.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from typing import Any

Check = Callable[[Any], Any]

NUMBER = re.compile(r"-?[0-9]{1,18}")
_CONFIG_KEY = re.compile(r"[\w.-]+")
MAX_FACTORS = 10  # so that no product takes long to compute or to print


def quoted(text: str) -> str:
    """A string as an error shows it: as it was written, in quotes, not too long."""
    text = text if len(text) <= 200 else text[:150] + "..." + text[-47:]
    return f"'{text}'" if text.isprintable() else ascii(text)


def shown(value: Any) -> str:
    """A value as an error names it: of any type, in few characters."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, int) and abs(value) >= 1 << 63:  # Python refuses to print the longest
        return "an integer of more than 64 bits"
    return str(value)


def integer(value: Any) -> int:
    if type(value) is not int or abs(value) >= 1 << 63:
        raise ValueError(f"expected an integer, found {shown(value)}")
    return value


def number(value: Any) -> float:
    if type(value) not in (int, float) or not isfinite(value) or abs(value) >= 1 << 63:
        raise ValueError(f"expected a number, found {shown(value)}")
    found: float = value
    return found


def boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, found {shown(value)}")
    return value


def string(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a string, found {shown(value)}")
    return value


def text(value: Any) -> str:
    """A string that is not empty."""
    if not string(value):
        raise ValueError("expected a string that is not empty")
    return string(value)


def group_name(value: Any) -> str:
    if not string(value).isidentifier():
        raise ValueError(f"expected a name of letters, digits and _, found {shown(value)}")
    return string(value)


def dimension(value: Any) -> int | str:
    """A number, a config key, or products, quotients, sums of them: "num_heads*head_dim+1"."""
    if not isinstance(value, str):
        return integer(value)
    factors = re.split("[*/+]", value)
    if len(factors) > MAX_FACTORS or not all(
        NUMBER.fullmatch(factor) or _is_config_key(factor) for factor in factors
    ):
        raise ValueError(
            'expected a number, a config key, or a few of them as in "heads*size+1", without '
            "spaces; "
            f"found {shown(value)}"
        )
    return value


def size(value: Any) -> int | str:
    """A dimension that is no negative number."""
    found = dimension(value)
    if isinstance(found, int) and found < 0:
        raise ValueError(f"expected a size, found {found}")
    return found


def any_size(value: Any) -> int | str:
    """A size, or "*" for any."""
    return "*" if value == "*" else size(value)


def config_key(value: Any) -> str:
    if not _is_config_key(string(value)):
        raise ValueError(f"expected a config key, found {shown(value)}")
    return string(value)


def _is_config_key(word: str) -> bool:
    return _CONFIG_KEY.fullmatch(word) is not None and word[0].isidentifier()


def json_value(value: Any) -> Any:
    """What a config.json can hold."""
    if isinstance(value, Mapping):
        return {string(key): _at(key, json_value, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [*list_of(json_value)(value)]
    if isinstance(value, bool | str) or (isinstance(value, float) and isfinite(value)):
        return value
    if type(value) is not int:
        raise ValueError(f"expected what JSON can hold, found {shown(value)}")
    return integer(value)


def list_of(check: Check) -> Check:
    def check_all(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise ValueError(f"expected a list, in [brackets], found {shown(value)}")
        return tuple(_at(f"item {i}", check, item) for i, item in enumerate(value, 1))

    return check_all


def one_or_more(check: Check) -> Check:
    """One value or a list of them, as a tuple."""

    def check_all(value: Any) -> tuple[Any, ...]:
        found: tuple[Any, ...] = (
            list_of(check)(value) if isinstance(value, list | tuple) else (check(value),)
        )
        if not found:
            raise ValueError("the list is empty")
        return found

    return check_all


def table(value: Any, checks: Mapping[str, Check], required: Mapping[str, str]) -> dict[str, Any]:
    """The checked values of a table. `required` gives an example of each key that it must have."""
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a table, found {shown(value)}")
    for key in value:
        if key not in checks:
            raise ValueError(f"unknown key {shown(key)}{meant(key, checks)}")
    for key, example in required.items():
        if key not in value:
            raise ValueError(f"{key} is missing; write for example {key} = {example}")
    return {key: _at(key, checks[key], item) for key, item in value.items()}


def meant(word: str, known: Iterable[str]) -> str:
    """What to add to "unknown WORD": the known one that it is close to, or all of them."""
    from difflib import get_close_matches

    known = list(known)
    close = get_close_matches(word[:60], known, 1)
    if close:
        return f"; {close[0]!r} is meant?"
    return f"; there are {', '.join(known)}" if known else "; there are none"


def _at(place: str, check: Check, value: Any) -> Any:
    try:
        return check(value)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
