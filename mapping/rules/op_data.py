"""Operations as rule files spell them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from tfreader.errors import RuleError

from . import schema
from .ops import OPS, Op

# What an argument of an operation may be, by its declared type, with an example.
_ARGUMENTS: dict[str, tuple[schema.Check, str]] = {
    "int": (schema.integer, "0"),
    "int | None": (schema.integer, "0"),
    "int | str": (schema.dimension, "1"),
    "int | str | None": (schema.dimension, "1"),
    "float | None": (schema.number, "1.0"),
    "tuple[float, ...] | None": (schema.list_of(schema.number), "[0, 1, 0, 0]"),
    "tuple[int | str, ...] | None": (schema.list_of(schema.dimension), "[7, 7, 512]"),
    "str": (schema.group_name, '"i"'),
    "tuple[int, ...]": (schema.list_of(schema.integer), "[1, 0]"),
    "tuple[int | str, ...]": (schema.list_of(schema.dimension), "[12, -1]"),
}


def op_from_data(data: Any) -> Op:
    """An operation as a rule file spells it: "transpose" or {op = "permute", axes = [2, 0, 1]}.

    Raises RuleError, which says how to write it.
    """
    name, arguments = data, {}
    if isinstance(data, Mapping):
        arguments = dict(data)
        name = arguments.pop("op", None)
    elif isinstance(data, list) and data:
        name = data[0]
    if not isinstance(name, str):
        raise RuleError(
            'an operation is a name such as "transpose", or a table such as '
            f'{{ op = "permute", axes = [2, 0, 1] }}; found {schema.shown(data)}'
            + (f" without op: {', '.join(map(str, data))}" if isinstance(data, Mapping) else "")
        )
    if name not in OPS:
        raise RuleError(f"unknown operation {schema.shown(name)}{schema.meant(name, OPS)}")
    kinds = {field.name: _ARGUMENTS[str(field.type)] for field in fields(OPS[name])}
    needed = {field.name for field in fields(OPS[name]) if field.default is MISSING}
    if isinstance(data, list):
        raise RuleError(
            f"operation {name!r} with its arguments is no list but a table: write "
            + _as_table(name, {k: example for k, (_, example) in kinds.items()}, data[1:])
        )
    try:
        found = schema.table(
            arguments,
            {key: check for key, (check, _) in kinds.items()},
            {key: example for key, (_, example) in kinds.items() if key in needed},
        )
    except ValueError as error:
        wanted = ", ".join(kinds) or "no arguments"
        raise RuleError(f"operation {name!r} takes {wanted}: {error}") from None
    return OPS[name](**found)


def _as_table(name: str, examples: Mapping[str, str], given: Sequence[Any]) -> str:
    """How to write an operation that was given as ["permute", 2, 0, 1]; examples where unclear."""
    arguments = dict(examples)
    if len(examples) == 1 and len(given) > 1:
        given = [given]
    for key, value in zip(examples, given, strict=False):
        numbers = value if isinstance(value, list) else [value]
        if all(type(number) is int for number in numbers):
            spelled = [schema.shown(number) for number in numbers]
            arguments[key] = f"[{', '.join(spelled)}]" if numbers is value else spelled[0]
    if not arguments:
        return f'"{name}"'
    return f'{{ op = "{name}", {", ".join(f"{key} = {a}" for key, a in arguments.items())} }}'


def ops_from_data(value: Any) -> tuple[Op, ...]:
    if isinstance(value, str):
        raise ValueError(f'expected a list: write ["{value[:60]}"]')
    if isinstance(value, Mapping):
        raise ValueError("expected a list: put [ and ] around the operation")
    found: tuple[Op, ...] = schema.list_of(op_from_data)(value)
    return found
