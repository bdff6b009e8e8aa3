"""Rule files: rule sets as TOML.

What a file may hold is checked in one place, before rules are made of it; an error names the table
by its number, as in "[[rule]] 3".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from os import PathLike
from typing import Any, NamedTuple

from tfreader.errors import RemoteError, RuleError
from tfreader.files import read_small
from tfreader.paths import as_path

from . import schema
from .ops import OPS, Op
from .rule import Architecture, Drop, Fill, Rule, RuleSet, Tie

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def load_rules(path: str | PathLike[str]) -> RuleSet:
    """Read a rule file (TOML), by path or URL.

    Raises RuleError, which names the file and the rule, RemoteError where a server cannot be asked.
    """
    try:
        text = read_small(as_path(path)).decode("utf-8-sig")
    except RemoteError:
        raise
    except OSError as error:
        raise RuleError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise RuleError(f"{path}: not a TOML file, which is UTF-8: {error}") from None
    return parse_rules(text, str(path))


def parse_rules(text: str, name: str) -> RuleSet:
    """The rule set of a rule file's text. Raises RuleError, which names the file and the rule."""
    import tomllib

    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        hint = ""
        if "\\" in str(error):
            hint = "; write what has backslashes in single quotes, as in 'layer_(\\d+)/kernel'"
        raise RuleError(f"{name}: not a TOML file: {error}{hint}") from None
    except RecursionError:
        raise RuleError(f"{name}: no rule file: too many brackets in each other") from None
    except ValueError:  # what Python says of it would lead nowhere
        raise RuleError(f"{name}: no rule file: a number in it is too long") from None
    try:
        return rules_from_data(data, name)
    except RuleError as error:
        raise RuleError(f"{name}: {error}") from None


# What an argument of an operation may be, by its declared type, with an example.
_ARGUMENTS: dict[str, tuple[schema.Check, str]] = {
    "int": (schema.integer, "0"),
    "int | str": (schema.dimension, "1"),
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
    if isinstance(data, list):
        raise RuleError(
            f"operation {name!r} with its arguments is no list but a table: write "
            + _as_table(name, {key: example for key, (_, example) in kinds.items()}, data[1:])
        )
    try:
        found = schema.table(
            arguments,
            {key: check for key, (check, _) in kinds.items()},
            {key: example for key, (_, example) in kinds.items()},
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


class _Table(NamedTuple):
    """One of a file's [[tables]]: what is made of it, its keys, examples of those it must have."""

    make: Callable[..., Any]
    keys: Mapping[str, schema.Check]
    required: Mapping[str, str]


def _ops(value: Any) -> tuple[Op, ...]:
    if isinstance(value, str):
        raise ValueError(f'expected a list: write ["{value[:60]}"]')
    if isinstance(value, Mapping):
        raise ValueError("expected a list: put [ and ] around the operation")
    found: tuple[Op, ...] = schema.list_of(op_from_data)(value)
    return found


_FIELDS = {"source": "sources", "target": "targets"}


def _rule(**values: Any) -> Rule:
    rule = Rule(**{_FIELDS.get(key, key): value for key, value in values.items()})
    _ = rule.patterns  # which are refused here, not when a variable is matched
    return rule


_TABLES = {
    "rule": _Table(
        _rule,
        {
            "source": schema.one_or_more(schema.text),
            "target": schema.one_or_more(schema.text),
            "ops": _ops,
            "shape": schema.list_of(schema.any_size),
            "part": schema.text,
            "required": schema.boolean,
            "dtype": schema.text,
        },
        {"source": '"dense/kernel"', "target": '"fc.weight"'},
    ),
    "drop": _Table(
        Drop,
        {"source": schema.text, "reason": schema.text},
        {"source": '"Variable"', "reason": '"the learning rate"'},
    ),
    "tie": _Table(
        Tie,
        {"alias": schema.text, "target": schema.text, "part": schema.text},
        {"alias": '"lm_head.weight"', "target": '"embedding.weight"'},
    ),
    "fill": _Table(
        Fill,
        {
            "target": schema.text,
            "shape": schema.list_of(schema.size),
            "value": schema.text,
            "reason": schema.text,
            "part": schema.text,
            "dtype": schema.text,
        },
        {
            "target": '"lstm.bias_hh_l0"',
            "shape": "[48]",
            "value": '"zeros"',
            "reason": '"TensorFlow has one bias"',
        },
    ),
    "architecture": _Table(
        Architecture,
        {
            "name": schema.text,
            "parts": schema.list_of(schema.text),
            "heads": schema.list_of(schema.text),
            "strip": schema.string,
            "beside": schema.list_of(schema.text),
        },
        {"name": '"BertModel"', "parts": '["encoder"]'},
    ),
}
_KEYS = ("family", "extends", "remarks", "needs", "counts", "config", *_TABLES)


def rules_from_data(data: Mapping[str, Any], name: str) -> RuleSet:
    """The rule set that a parsed rule file describes. Raises RuleError, which names the rule."""
    for key in data:
        if key not in _KEYS:
            below = [f"[[{kind}]]" for kind, table in _TABLES.items() if key in table.keys]
            hint = f"; it belongs below {' or '.join(below)}" if below else ""
            raise RuleError(f"unknown key {schema.shown(key)}{hint or schema.meant(key, _KEYS)}")
    made = {kind: tuple(_made(kind, data.get(kind, []))) for kind in _TABLES}
    family, extends = (_checked(key, schema.text, data.get(key)) for key in ("family", "extends"))
    if not made["rule"] and extends is None:
        raise RuleError("no [[rule]] in it")
    return RuleSet(
        rules=made["rule"],
        counts=_checked("counts", _counts, data.get("counts", {})),
        architectures=made["architecture"],
        drops=made["drop"],
        ties=made["tie"],
        fills=made["fill"],
        family=family,
        name=name,
        extends=extends,
        remarks=_checked("remarks", schema.list_of(schema.text), data.get("remarks", [])),
        needs=_checked("needs", schema.list_of(schema.text), data.get("needs", [])),
        config=_checked("config", _config, data.get("config", {})),
    )


def _made(kind: str, value: Any) -> Iterator[Any]:
    """What is made of all the [[tables]] of a kind."""
    if isinstance(value, Mapping):
        raise RuleError(f"[{kind}] is one of several: write it with two brackets, [[{kind}]]")
    if not isinstance(value, list | tuple):
        raise RuleError(f"{kind}: expected [[{kind}]] tables, found {schema.shown(value)}")
    make, keys, required = _TABLES[kind]
    for number, item in enumerate(value, 1):
        try:
            yield make(**schema.table(item, keys, required))
        except ValueError as error:  # RuleErrors are such, too
            raise RuleError(f"[[{kind}]] {number}: {error}") from None


def _counts(value: Any) -> dict[str, str]:
    if isinstance(value, list):
        raise ValueError("there is one table of counts: write it with one bracket, [counts]")
    if not isinstance(value, Mapping):
        raise ValueError(
            f'expected groups and config keys, as in layer = "num_layers"; found '
            f"{schema.shown(value)}"
        )
    checks: dict[str, schema.Check] = dict.fromkeys(
        map(schema.group_name, value), schema.config_key
    )
    return schema.table(value, checks, {})


def _config(value: Any) -> dict[str, Any]:
    if isinstance(value, list):
        raise ValueError("there is one table of config keys: write it with one bracket, [config]")
    if not isinstance(value, Mapping):
        raise ValueError(f"expected keys and values, found {schema.shown(value)}")
    checks: dict[str, schema.Check] = dict.fromkeys(
        map(schema.config_key, value), schema.json_value
    )
    return schema.table(value, checks, {})


def _checked(key: str, check: schema.Check, value: Any) -> Any:
    try:
        return None if value is None else check(value)
    except ValueError as error:
        raise RuleError(f"{key}: {error}") from None


def dump_rules(rules: RuleSet) -> str:
    """The rule set as a rule file; `load_rules` gives it back.

    Raises RuleError where it holds half of a surrogate pair, which no TOML file can.
    """
    text = "\n".join(_dump_lines(rules)) + "\n"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RuleError(f"{rules.name or 'rules'}: no TOML file can hold {error}") from None
    return text


def _dump_lines(rules: RuleSet) -> Iterator[str]:
    if rules.family is not None:
        yield f"family = {_toml(rules.family)}"
    if rules.extends is not None:
        yield f"extends = {_toml(rules.extends)}"
    if rules.remarks:
        yield f"remarks = {_toml(rules.remarks)}"
    if rules.needs:
        yield f"needs = {_toml(rules.needs)}"
    if rules.config:
        yield from ("", "# What config.json says of these tensors.", "[config]")
        yield from (f"{_key(name)} = {_toml(value)}" for name, value in rules.config.items())
    if rules.counts:
        yield from ("", "# How often a named group must occur: the config key that says it.")
        yield "[counts]"
        yield from (f"{_key(name)} = {_toml(key)}" for name, key in rules.counts.items())
    for architecture in rules.architectures:
        yield from ("", "[[architecture]]", f"name = {_toml(architecture.name)}")
        yield f"parts = {_toml(architecture.parts)}"
        if architecture.heads:
            yield f"heads = {_toml(architecture.heads)}"
        if architecture.strip:
            yield f"strip = {_toml(architecture.strip)}"
        if architecture.beside:
            yield f"beside = {_toml(architecture.beside)}"
    for rule in rules.rules:
        yield from ("", "[[rule]]", f"part = {_toml(rule.part)}")
        yield f"source = {_toml(rule.sources if len(rule.sources) > 1 else rule.sources[0])}"
        yield f"target = {_toml(rule.targets if len(rule.targets) > 1 else rule.targets[0])}"
        if rule.ops:
            yield f"ops = {_toml([op.to_data() for op in rule.ops])}"
        if rule.shape is not None:
            yield f"shape = {_toml(rule.shape)}"
        if not rule.required:
            yield "required = false"
        if rule.dtype is not None:
            yield f"dtype = {_toml(rule.dtype)}"
    for drop in rules.drops:
        yield from ("", "[[drop]]", f"source = {_toml(drop.source)}")
        yield f"reason = {_toml(drop.reason)}"
    for tie in rules.ties:
        yield from ("", "[[tie]]", f"alias = {_toml(tie.alias)}", f"target = {_toml(tie.target)}")
        yield f"part = {_toml(tie.part)}"
    for fill in rules.fills:
        yield from ("", "[[fill]]", f"target = {_toml(fill.target)}", f"part = {_toml(fill.part)}")
        yield f"shape = {_toml(fill.shape)}"
        yield f"value = {_toml(fill.value)}"
        yield f"reason = {_toml(fill.reason)}"
        if fill.dtype is not None:
            yield f"dtype = {_toml(fill.dtype)}"


def _toml(value: Any) -> str:
    if isinstance(value, str):
        if ("\\" in value or '"' in value) and "'" not in value and not _CONTROL.search(value):
            return f"'{value}'"
        # JSON's escapes are TOML's, which has one more character to escape.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(k)} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return str(value)


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else _toml(name)
