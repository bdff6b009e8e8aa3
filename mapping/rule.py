"""Rules: which variable becomes which tensor, by which operations.

A rule is data. Its source is a regular expression that must match the whole variable name; its
named groups fill the `{placeholders}` of the target. A group whose body is a plain alternation of
words, or whose name is listed under `counts`, can be enumerated, so that "fires for every layer"
is checked.
"""

from __future__ import annotations

import itertools
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

from tfreader.errors import RemoteError, RuleError
from tfreader.files import read_small
from tfreader.paths import as_path

from .ops import Join, Op, Split, Unstack, op_from_data

_GROUP = re.compile(r"\(\?P<(\w+)>([^()]*)\)")
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_WORDS = re.compile(r"\w+(?:\|\w+)+")


def literal_tail(pattern: str) -> str:
    """Plain text that everything the pattern matches ends with; empty where none is certain.

    >>> literal_tail(r"encoder/layer_(?P<layer>\\d+)/dense/kernel")
    '/dense/kernel'
    """
    depth = 0
    for symbol in re.sub(r"\\.|\[\^?\]?[^]]*\]", "", pattern):
        depth += (symbol == "(") - (symbol == ")")
        if symbol == "|" and depth == 0:
            return ""
    if re.search(r"\(\?[a-zA-Z-]+[:)]", pattern.replace("(?P", "")):  # flags change what text means
        return ""
    match = re.search(r"[\w/-]*\Z", pattern, re.ASCII)
    assert match is not None
    is_escaped = pattern[: match.start()].endswith("\\")
    return match[0][1:] if is_escaped else match[0]


@dataclass(frozen=True)
class Rule:
    r"""One line of a mapping.

    `sources` are full-match regexes (several only before a concat or stack), `targets` templates
    (several only after a split). `shape` gives the first source's dimensions: numbers, config keys,
    their products and quotients ("num_heads*head_dim"), "*" for any. `part` names the piece of the
    model that the rule belongs to. A rule with `required` must fill all its targets whenever its
    part is wanted.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    ops: tuple[Op, ...] = ()
    shape: tuple[int | str, ...] | None = None
    part: str = "model"
    required: bool = True
    patterns: tuple[re.Pattern[str], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            patterns = tuple(re.compile(source) for source in self.sources)
        except re.error as error:
            raise RuleError(f"rule {self.sources}: bad regular expression: {error}") from None
        object.__setattr__(self, "patterns", patterns)
        groups = set(patterns[0].groupindex) if patterns else set()
        if not patterns or any(set(p.groupindex) != groups for p in patterns):
            raise RuleError(f"rule {self.sources}: all sources need the same named groups")
        if self.unstack:
            groups.add(self.unstack.index)
        for target in self.targets:
            if set("{}") & set(_PLACEHOLDER.sub("", target)):
                raise RuleError(f"rule target {target!r}: braces go around a group's name")
            unknown = set(_PLACEHOLDER.findall(target)) - groups
            if unknown:
                raise RuleError(f"rule target {target!r}: no group named {sorted(unknown)}")
        kinds = [type(op) for op in self.ops]
        joins = sum(issubclass(kind, Join) for kind in kinds)
        if joins != (len(self.sources) > 1):
            raise RuleError(f"rule {self.sources}: several sources need one concat or stack")
        if (Split in kinds) != (len(self.targets) > 1) or not self.targets:
            raise RuleError(f"rule {self.sources}: several targets need one split")
        if any(kind in (Split, Unstack) for kind in kinds[:-1]):
            raise RuleError(f"rule {self.sources}: split and unstack must be the last operation")

    @property
    def unstack(self) -> Unstack | None:
        last = self.ops[-1] if self.ops else None
        return last if isinstance(last, Unstack) else None

    def domains(self, counts: Mapping[str, int]) -> list[dict[str, str]] | None:
        """Every combination of group values that the rule must fire for, None if unbounded."""
        values: dict[str, list[str]] = {}
        for name, body in _GROUP.findall(self.sources[0]):
            if name in counts:
                values[name] = [str(i) for i in range(counts[name])]
            elif _WORDS.fullmatch(body):
                values[name] = body.split("|")
        if set(values) != set(self.patterns[0].groupindex):
            return None
        return [
            dict(zip(values, combination, strict=True))
            for combination in itertools.product(*values.values())
        ]

    def example(self, groups: Mapping[str, str]) -> str:
        """The variable name that the first source would match with these group values."""
        name = _GROUP.sub(lambda match: groups.get(match[1], match[0]), self.sources[0])
        name = re.sub(r"\(\?:[^()]*\)\?", "", name)
        name = re.sub(r"\(\?:([^()|]*)[^()]*\)", r"\1", name)
        return re.sub(r"\\(.)", r"\1", name)


@dataclass(frozen=True)
class Drop:
    """Variables that are left out, and why."""

    source: str
    reason: str


@dataclass(frozen=True)
class Tie:
    """`alias` is the same tensor as `target` in models that have `part`; a file holds it once.

    Counted groups in both, such as `{layer}`, take all their values. Where a variable gives `alias`
    a tensor of its own, there is no tie.
    """

    alias: str
    target: str
    part: str = "model"

    def names(self, counts: Mapping[str, int]) -> list[tuple[str, str]]:
        """Each alias and its target."""
        groups = set(_PLACEHOLDER.findall(self.alias + self.target))
        if unknown := groups - counts.keys():
            raise RuleError(f"tie {self.alias!r}: no counted group named {sorted(unknown)}")
        return [
            (self.alias.format(**values), self.target.format(**values))
            for numbers in itertools.product(*(range(counts[group]) for group in groups))
            for values in [dict(zip(groups, numbers, strict=True))]
        ]


@dataclass(frozen=True)
class Fill:
    """A tensor that models with `part` have and no variable gives, and why.

    `value` is one of FILLS, `shape` in config keys and numbers. A variable that gives the tensor
    after all goes before.
    """

    target: str
    shape: tuple[int | str, ...]
    value: str
    reason: str
    part: str = "model"

    def __post_init__(self) -> None:
        if self.value not in FILLS or (self.value == "identity" and len(self.shape) != 2):
            raise RuleError(f"fill {self.target!r}: {self.value!r} of shape {list(self.shape)}")


FILLS = ("zeros", "ones", "identity", "frequencies")


@dataclass(frozen=True)
class Architecture:
    """A model class: the parts that it is made of, and the heads by which it is recognised.

    A part that ends in "?" may be absent. `strip` is taken off the front of every target. The first
    of a family is that of pre-training, whose heads give way to those of fine-tuning.
    """

    name: str
    parts: tuple[str, ...]
    heads: tuple[str, ...] = ()
    strip: str = ""

    @property
    def all_parts(self) -> set[str]:
        return {part.rstrip("?") for part in self.parts} | set(self.heads)

    @property
    def optional_parts(self) -> set[str]:
        return {part[:-1] for part in self.parts if part.endswith("?")}

    @property
    def needed_parts(self) -> set[str]:
        return self.all_parts - self.optional_parts


@dataclass(frozen=True)
class RuleSet:
    """All rules of one family, or of a rule file.

    `counts` maps a group name to the config key that says how many there are. `family` names the
    built-in family whose config and side files go with the rules. `remarks` are what the user
    should know who follows them.
    """

    rules: tuple[Rule, ...]
    counts: Mapping[str, str] = field(default_factory=dict)
    architectures: tuple[Architecture, ...] = ()
    drops: tuple[Drop, ...] = ()
    ties: tuple[Tie, ...] = ()
    fills: tuple[Fill, ...] = ()
    family: str | None = None
    name: str = ""
    extends: str | None = None
    remarks: tuple[str, ...] = ()

    def architecture(self, name: str) -> Architecture | None:
        return next((a for a in self.architectures if a.name == name), None)

    @property
    def parts(self) -> set[str]:
        return {rule.part for rule in self.rules}


def load_rules(path: str | PathLike[str]) -> RuleSet:
    """Read a rule file (TOML), by path or URL.

    Raises RuleError, which names the file and the rule, RemoteError where a server cannot be asked.
    """
    try:
        text = read_small(as_path(path)).decode("utf-8")
    except RemoteError:
        raise
    except OSError as error:
        raise RuleError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise RuleError(f"{path}: not a TOML file: {error}") from None
    return parse_rules(text, str(path))


def parse_rules(text: str, name: str) -> RuleSet:
    """The rule set of a rule file's text. Raises RuleError, which names the rule."""
    try:
        return rules_from_data(tomllib.loads(text), name)
    except tomllib.TOMLDecodeError as error:
        raise RuleError(f"{name}: not a TOML file: {error}") from None
    except (RuleError, TypeError, KeyError, AttributeError) as error:
        raise RuleError(f"{name}: {error}") from None


def rules_from_data(data: Mapping[str, Any], name: str) -> RuleSet:
    """The rule set that a parsed rule file describes. Raises RuleError."""
    unknown = set(data) - {"family", "counts", "architecture", "rule", "drop", "tie", "fill"}
    if unknown:
        raise RuleError(f"unknown keys {sorted(unknown)}")
    if not data.get("rule"):
        raise RuleError("no [[rule]] in it")
    return RuleSet(
        rules=tuple(_rule(rule) for rule in data["rule"]),
        counts=dict(data.get("counts", {})),
        architectures=tuple(
            Architecture(
                a["name"], tuple(a["parts"]), tuple(a.get("heads", ())), a.get("strip", "")
            )
            for a in data.get("architecture", ())
        ),
        drops=tuple(Drop(**drop) for drop in data.get("drop", ())),
        ties=tuple(Tie(**tie) for tie in data.get("tie", ())),
        fills=tuple(
            Fill(**(fill | {"shape": tuple(fill["shape"])})) for fill in data.get("fill", ())
        ),
        family=data.get("family"),
        name=name,
    )


def _rule(data: Mapping[str, Any]) -> Rule:
    unknown = set(data) - {"source", "target", "ops", "shape", "part", "required"}
    if unknown or not {"source", "target"} <= set(data):
        raise RuleError(
            f"rule {dict(data)}: needs source and target; may have ops, shape, part, required"
        )
    return Rule(
        sources=_tuple(data["source"]),
        targets=_tuple(data["target"]),
        ops=tuple(op_from_data(op) for op in data.get("ops", ())),
        shape=tuple(data["shape"]) if "shape" in data else None,
        part=data.get("part", "model"),
        required=data.get("required", True),
    )


def _tuple(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


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
    if rules.family:
        yield f"family = {_toml(rules.family)}"
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


def _toml(value: Any) -> str:
    if isinstance(value, str):
        if "'" not in value and not _UNPRINTABLE.search(value):
            return f"'{value}'" if "\\" in value or '"' in value else f'"{value}"'
        # JSON's escapes are TOML's too; beyond them TOML wants one for DEL.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(k)} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return str(value)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _toml(name)


_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")
