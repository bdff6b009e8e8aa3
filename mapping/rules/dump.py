"""Rule sets as text: the form that `load_rules` reads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tfreader.errors import RuleError

from .op import Each, Op
from .rule import Fill, Rule, RuleSet

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


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
        yield f"family = {toml(rules.family)}"
    if rules.extends is not None:
        yield f"extends = {toml(rules.extends)}"
    if rules.rest is not None:
        yield f"rest = {toml(rules.rest)}"
    if rules.remarks:
        yield f"remarks = {toml(rules.remarks)}"
    if rules.needs:
        yield f"needs = {toml(rules.needs)}"
    if rules.config:
        yield from ("", "# What config.json says of these tensors.", "[config]")
        yield from (f"{_key(name)} = {toml(value)}" for name, value in rules.config.items())
    if rules.counts:
        yield from ("", "# How often a named group must occur: the config key that says it.")
        yield "[counts]"
        yield from (f"{_key(name)} = {toml(key)}" for name, key in rules.counts.items())
    for name, table in rules.tables.items():
        yield from ("", f"[table.{name}]")
        yield from (f"{_key(key)} = {toml(value)}" for key, value in table.items())
    for architecture in rules.architectures:
        yield from ("", "[[architecture]]", f"name = {toml(architecture.name)}")
        yield f"parts = {toml(architecture.parts)}"
        if architecture.heads:
            yield f"heads = {toml(architecture.heads)}"
        if architecture.strip:
            yield f"strip = {toml(architecture.strip)}"
        if architecture.beside:
            yield f"beside = {toml(architecture.beside)}"
    for rule in rules.rules:
        yield from _rule_lines(rule)
    for drop in rules.drops:
        yield from ("", "[[drop]]", f"source = {toml(drop.source)}")
        yield f"reason = {toml(drop.reason)}"
    for tie in rules.ties:
        yield from ("", "[[tie]]", f"alias = {toml(tie.alias)}", f"target = {toml(tie.target)}")
        yield f"part = {toml(tie.part)}"
    for fill in rules.fills:
        yield from _fill_lines(fill)


def _rule_lines(rule: Rule) -> Iterator[str]:
    yield from ("", "[[rule]]", f"part = {toml(rule.part)}")
    source, ops = _dumped(rule.sources, rule.ops)
    yield f"source = {toml(source)}"
    yield f"target = {toml(rule.targets if len(rule.targets) > 1 else rule.targets[0])}"
    if ops:
        yield f"ops = {toml(ops)}"
    if rule.shape is not None:
        yield f"shape = {toml(rule.shape)}"
    if not rule.required:
        yield "required = false"
    if rule.dtype is not None:
        yield f"dtype = {toml(rule.dtype)}"
    if rule.only is not None:
        only = {"rank": rule.only.rank, "shape": rule.only.shape}
        yield f"only = {toml({k: v for k, v in only.items() if v is not None})}"
    if rule.uncertain:
        yield "uncertain = true"


def _fill_lines(fill: Fill) -> Iterator[str]:
    yield from ("", "[[fill]]", f"target = {toml(fill.target)}", f"part = {toml(fill.part)}")
    if fill.like is not None:
        yield f"like = {toml(fill.like)}"
    if not fill.required:
        yield "required = false"
    if fill.shape is not None:
        yield f"shape = {toml(fill.shape)}"
    yield f"value = {toml(fill.value)}"
    yield f"reason = {toml(fill.reason)}"
    if fill.dtype is not None:
        yield f"dtype = {toml(fill.dtype)}"
    if fill.uncertain:
        yield "uncertain = true"


def _dumped(sources: Sequence[str], ops: Sequence[Op]) -> tuple[Any, list[Any]]:
    """The source and the operations as a rule file has them."""
    if not ops or not isinstance(ops[0], Each):
        return sources if len(sources) > 1 else sources[0], [op.to_data() for op in ops]
    found, start = [], 0
    for count, inner in ops[0].branches:
        source, own = _dumped(sources[start : start + count], inner)
        found.append({"source": source, "ops": own} if own else source)
        start += count
    return found, [op.to_data() for op in ops[1:]]


def toml(value: Any) -> str:
    """A value as TOML has it, on one line."""
    if isinstance(value, str):
        if ("\\" in value or '"' in value) and "'" not in value and not _CONTROL.search(value):
            return f"'{value}'"
        # JSON's escapes are TOML's, which has one more character to escape.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(k)} = {toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    return str(value)


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else toml(name)
