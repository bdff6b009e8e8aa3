"""Rule files: rule sets as TOML.

What a file may hold is checked in one place, before rules are made of it; an error names the table
by its number, as in "[[rule]] 3".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from os import PathLike
from typing import Any, NamedTuple

from tfreader.errors import RemoteError, RuleError
from tfreader.files import read_small
from tfreader.paths import as_path

from . import schema
from .layers import layer_rules
from .op import Each, Op
from .op_data import ops_from_data
from .rule import Architecture, Drop, Fill, Only, Rule, RuleSet, Tie
from .templates import Tables


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


class _Table(NamedTuple):
    """One of a file's [[tables]]: what is made of it, its keys, examples of those it must have."""

    make: Callable[..., Any]
    keys: Mapping[str, schema.Check]
    required: Mapping[str, str]


_MOST_NESTED = 10
Source = tuple[tuple[str, ...], tuple[Op, ...]]  # the regexes, and what makes one array of them


def _source(value: Any, depth: int = 0) -> Source:
    """A source: a regex, a table of one or more and their operations, or a list of such."""
    if isinstance(value, str):
        return (schema.text(value),), ()
    if depth > _MOST_NESTED:
        raise ValueError("too many sources in each other")
    if isinstance(value, Mapping):
        checks = {"source": lambda inner: _source(inner, depth + 1), "ops": ops_from_data}
        found = schema.table(value, checks, {"source": '"dense/kernel"'})
        names, inner = found["source"]
        return names, (*inner, *found.get("ops", ()))
    if not isinstance(value, list | tuple):
        raise ValueError(f"expected a string, found {schema.shown(value)}")
    branches: tuple[Source, ...] = schema.list_of(lambda item: _source(item, depth + 1))(value)
    if not branches:
        raise ValueError("the list is empty")
    names = tuple(name for names, _ in branches for name in names)
    if any(ops for _, ops in branches):
        return names, (Each(tuple((len(names), ops) for names, ops in branches)),)
    return names, ()


def _only(value: Any) -> Only:
    known = {"rank": schema.integer, "shape": schema.list_of(schema.any_size)}
    if not isinstance(value, Mapping) or not value:
        raise ValueError("expected a table: write for example only = { rank = 4 }")
    return Only(**schema.table(value, known, {}))


def _rule(source: Source, target: tuple[str, ...], tables: Tables, **values: Any) -> Rule:
    names, before = source
    ops = (*before, *values.pop("ops", ()))
    rule = Rule(names, target, ops, tables=tables, **values)
    _ = rule.patterns  # which are refused here, not when a variable is matched
    return rule


def _fill(tables: Tables, **values: Any) -> Fill:
    return Fill(**{"shape": None, **values}, tables=tables)


def _value(value: Any) -> str | float:
    """What to fill a tensor with."""
    return schema.text(value) if isinstance(value, str) else schema.number(value)


_TABLES = {
    "rule": _Table(
        _rule,
        {
            "source": _source,
            "target": schema.one_or_more(schema.text),
            "ops": ops_from_data,
            "shape": schema.list_of(schema.any_size),
            "part": schema.text,
            "required": schema.boolean,
            "dtype": schema.text,
            "only": _only,
            "uncertain": schema.boolean,
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
        _fill,
        {
            "target": schema.text,
            "like": schema.text,
            "shape": schema.list_of(schema.size),
            "value": _value,
            "required": schema.boolean,
            "reason": schema.text,
            "part": schema.text,
            "dtype": schema.text,
            "uncertain": schema.boolean,
        },
        {
            "target": '"lstm.bias_hh_l0"',
            "value": '"zeros"',
            "reason": '"TensorFlow has one bias"',
        },
    ),
    "layer": _Table(
        layer_rules,
        {
            "kind": schema.text,
            "source": schema.text,
            "target": schema.text,
            "suffix": schema.string,
            "flatten": schema.list_of(schema.dimension),
            "unflatten": schema.list_of(schema.dimension),
            "forget_bias": schema.number,
            "gates": schema.text,
            "uncertain": schema.boolean,
        },
        {"kind": '"conv"', "source": '"block_1/conv"', "target": '"blocks.0.conv"'},
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
_KEYS = ("family", "extends", "rest", "remarks", "needs", "counts", "config", "table", *_TABLES)
_NAMED = ("rule", "fill", "layer")  # whose targets may name tables


def rules_from_data(data: Mapping[str, Any], name: str) -> RuleSet:
    """The rule set that a parsed rule file describes. Raises RuleError, which names the rule."""
    for key in data:
        if key not in _KEYS:
            below = [f"[[{kind}]]" for kind, table in _TABLES.items() if key in table.keys]
            hint = f"; it belongs below {' or '.join(below)}" if below else ""
            raise RuleError(f"unknown key {schema.shown(key)}{hint or schema.meant(key, _KEYS)}")
    tables = _checked("table", _name_tables, data.get("table", {}))
    made = {kind: tuple(_made(kind, data.get(kind, []), tables)) for kind in _TABLES}
    family, extends = (_checked(key, schema.text, data.get(key)) for key in ("family", "extends"))
    layers = [each for layer in made["layer"] for each in layer]
    made["rule"] += tuple(each for each in layers if isinstance(each, Rule))
    made["fill"] += tuple(each for each in layers if isinstance(each, Fill))
    if not made["rule"] and extends is None:
        raise RuleError("no [[rule]] and no [[layer]] in it")
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
        tables=tables,
        rest=_checked("rest", schema.text, data.get("rest")),
    )


def _made(kind: str, value: Any, tables: Tables) -> Iterator[Any]:
    """What is made of all the [[tables]] of a kind."""
    if isinstance(value, Mapping):
        raise RuleError(f"[{kind}] is one of several: write it with two brackets, [[{kind}]]")
    if not isinstance(value, list | tuple):
        raise RuleError(f"{kind}: expected [[{kind}]] tables, found {schema.shown(value)}")
    make, keys, required = _TABLES[kind]
    for number, item in enumerate(value, 1):
        try:
            own = {"tables": tables} if kind in _NAMED else {}
            yield make(**schema.table(item, keys, required), **own)
        except ValueError as error:  # RuleErrors are such, too
            raise RuleError(f"[[{kind}]] {number}: {error}") from None


def _name_tables(value: Any) -> dict[str, dict[str, str]]:
    example = 'write for example [table.bn] and below it gamma = "weight"'
    if not isinstance(value, Mapping):
        raise ValueError(f"expected tables of names, found {schema.shown(value)}; {example}")
    found: dict[str, dict[str, str]] = {}
    for name, table in value.items():
        if not isinstance(table, Mapping):
            raise ValueError(f"{name}: expected a table; {example}")
        entries = dict.fromkeys(table, schema.string)
        found[schema.group_name(name)] = schema.table(table, entries, {})
    return found


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
