"""Rules: which variable becomes which tensor, by which operations.

A rule is data. Its source is a regular expression that must match the whole variable name; its
named groups fill the `{placeholders}` of the target. A group whose body is a plain alternation of
words, or whose name is listed under `counts`, can be enumerated, so that "fires for every layer"
is checked.
"""

from __future__ import annotations

import itertools
import re
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tfreader.errors import RuleError

from .ops import Join, Op, Split, Unstack
from .schema import quoted

_GROUP = re.compile(r"\(\?P<(\w+)>([^()]*)\)")
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
# Of buffers; that of weights is chosen for all of them.
DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64")
_WORDS = re.compile(r"\w+(?:\|\w+)+")


def fill_in(template: str, groups: Mapping[str, object]) -> str:
    """The name that a template makes of the values of its groups.

    >>> fill_in("layer.{layer}.weight", {"layer": 3})
    'layer.3.weight'
    """
    return _PLACEHOLDER.sub(lambda match: str(groups[match[1]]), template)


def placeholders(template: str, what: str) -> set[str]:
    """The names in a template's braces. Raises RuleError where it is no template."""
    if re.search(r"\\[\w.]|\$\d", template):
        raise RuleError(
            f"{what} {quoted(template)}: it is no regular expression, backslashes and $ mean "
            "nothing in it: name a group in the source, (?P<n>...), and say {n} here"
        )
    if set("{}") & set(_PLACEHOLDER.sub("", template)):
        raise RuleError(f"{what} {quoted(template)}: braces go around a group's name")
    return set(_PLACEHOLDER.findall(template))


# Only these are warned of; what is shown is the whole process's, and takes its time to change.
_SET_OF_SETS = re.compile(r"\[.*(\[|--|&&|~~|\|\|)", re.DOTALL)


def compiled(source: str, what: str) -> re.Pattern[str]:
    """The regular expression of a source. Raises RuleError."""
    try:
        if not _SET_OF_SETS.search(source):
            return re.compile(source)
        with warnings.catch_warnings():  # of what [[ may mean in a Python to come
            warnings.filterwarnings("ignore", "Possible (nested )?set", FutureWarning)
            return re.compile(source)
    except (re.error, OverflowError, RecursionError) as error:
        hint = "; for any text write .*" if "nothing to repeat" in str(error) else ""
        raise RuleError(f"{what} {quoted(source)}: bad regular expression: {error}{hint}") from None


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
    part is wanted. `dtype` is a type of PyTorch that holds all values of the variable's, where it
    has to be another.

    What depends on the regexes is checked when they are first needed, by `patterns`: families have
    many more rules than one conversion uses.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    ops: tuple[Op, ...] = ()
    shape: tuple[int | str, ...] | None = None
    part: str = "model"
    required: bool = True
    dtype: str | None = None

    def __post_init__(self) -> None:
        if not self.sources or not self.targets:
            raise RuleError("a rule needs a source and a target")
        if self.part.endswith("?"):
            raise RuleError(
                f"{self._named}: part {quoted(self.part)}: only a class marks its parts by ?"
            )
        _check_dtype(self.dtype, self._named)
        self._check_ops()
        if len(set(self.targets)) != len(self.targets):
            raise RuleError(f"{self._named}: a target is named twice")

    @property
    def _named(self) -> str:
        return f"rule {', '.join(map(quoted, self.sources))}"

    @cached_property
    def patterns(self) -> tuple[re.Pattern[str], ...]:
        """The sources, compiled. Raises RuleError where one is no regex, or lacks a group."""
        patterns = tuple(compiled(source, "rule") for source in self.sources)
        groups = set(patterns[0].groupindex)
        if any(set(p.groupindex) != groups for p in patterns):
            raise RuleError(f"{self._named}: all sources need the same named groups")
        if self.unstack:
            self._check_index(self.unstack.index, groups)
            groups.add(self.unstack.index)
        for target in self.targets:
            unknown = placeholders(target, "rule target") - groups
            if unknown:
                raise RuleError(
                    f"rule target {quoted(target)}: the source has no group named "
                    f"{', '.join(sorted(unknown))}; (?P<name>...) names one"
                )
        return patterns

    def _check_index(self, index: str, groups: Collection[str]) -> None:
        if index in groups:
            raise RuleError(
                f"{self._named}: {quoted(index)} is a group of the source and the index of "
                "unstack, so one would overwrite the other; give the index another name"
            )
        if not all(index in _PLACEHOLDER.findall(target) for target in self.targets):
            raise RuleError(
                f"{self._named}: unstack makes a tensor for each index, so the target must have "
                f"{{{index}}} in it"
            )

    def _check_ops(self) -> None:
        kinds = [type(op) for op in self.ops]
        joins = sum(issubclass(kind, Join) for kind in kinds)
        if joins > 1 or (joins and len(self.sources) == 1):
            raise RuleError(f"{self._named}: concat and stack join all sources of a rule, once")
        if not joins and len(self.sources) > 1:
            raise RuleError(f"{self._named}: several sources need one concat or stack")
        if (Split in kinds) != (len(self.targets) > 1):
            raise RuleError(
                f"{self._named}: several targets need one split, and split several targets; for "
                "more tensors of one variable give it more rules"
            )
        if any(kind in (Split, Unstack) for kind in kinds[:-1]):
            raise RuleError(f"{self._named}: split and unstack must be the last operation")

    @property
    def unstack(self) -> Unstack | None:
        last = self.ops[-1] if self.ops else None
        return last if isinstance(last, Unstack) else None

    def domains(self, counts: Mapping[str, int]) -> Iterator[dict[str, str]] | None:
        """Every combination of group values that the rule must fire for, None if unbounded.

        There may be very many: whoever goes through them stops where none are found any more.
        """
        values: dict[str, list[str]] = {}
        for name, body in _GROUP.findall(self.sources[0]):
            if name in counts:
                values[name] = [str(i) for i in range(counts[name])]
            elif _WORDS.fullmatch(body):
                values[name] = body.split("|")
        if set(values) != set(self.patterns[0].groupindex):
            return None
        return (
            dict(zip(values, combination, strict=True))
            for combination in itertools.product(*values.values())
        )

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

    def __post_init__(self) -> None:
        compiled(self.source, "drop")


@dataclass(frozen=True)
class Tie:
    """`alias` is the same tensor as `target` in models that have `part`; a file holds it once.

    Counted groups in both, such as `{layer}`, take all their values. Where a variable gives `alias`
    a tensor of its own, there is no tie.
    """

    alias: str
    target: str
    part: str = "model"

    def __post_init__(self) -> None:
        aliases, targets = placeholders(self.alias, "tie"), placeholders(self.target, "tie")
        if targets - aliases:
            raise RuleError(f"tie {quoted(self.alias)}: its target has more groups than itself")

    def names(self, counts: Mapping[str, int]) -> Iterator[tuple[str, str]]:
        """Each alias and its target. Raises RuleError where a group is not counted."""
        groups = sorted(placeholders(self.alias, "tie"))
        if unknown := set(groups) - counts.keys():
            raise RuleError(f"tie {quoted(self.alias)}: no counted group named {sorted(unknown)}")
        return (
            (fill_in(self.alias, values), fill_in(self.target, values))
            for numbers in itertools.product(*(range(counts[group]) for group in groups))
            for values in [dict(zip(groups, numbers, strict=True))]
        )


def _check_dtype(dtype: str | None, named: str) -> None:
    if dtype is not None and dtype not in DTYPES:
        raise RuleError(f"{named}: dtype {quoted(dtype)}: there are {', '.join(DTYPES)}")


# The values of a fill, and how many axes each needs.
FILLS: dict[str, int | None] = {
    "zeros": None,
    "ones": None,
    "identity": 2,
    "frequencies": 1,
    "sinusoids": 2,
    "timing_signal": 2,
}


@dataclass(frozen=True)
class Fill:
    """A tensor that models with `part` have and no variable gives, and why.

    `value` is one of FILLS, `shape` in config keys and numbers, `dtype` that of the other tensors
    where it is none. A variable that gives the tensor after all goes before.
    """

    target: str
    shape: tuple[int | str, ...]
    value: str
    reason: str
    part: str = "model"
    dtype: str | None = None

    def __post_init__(self) -> None:
        _check_dtype(self.dtype, f"fill {quoted(self.target)}")
        if placeholders(self.target, "fill"):
            raise RuleError(
                f"fill {quoted(self.target)}: a fill makes one tensor, so its target has no "
                "groups; write one for each"
            )
        if self.value not in FILLS:
            raise RuleError(
                f"fill {quoted(self.target)}: {quoted(self.value)} is no value to fill with; there "
                f"are {', '.join(FILLS)}"
            )
        axes = FILLS[self.value]
        if axes is not None and len(self.shape) != axes:
            raise RuleError(
                f"fill {quoted(self.target)}: {self.value} needs a shape of {axes} axes, not of "
                f"{len(self.shape)}"
            )


def resolve_ties(
    ties: Iterable[tuple[str, str]], tensors: Collection[str]
) -> tuple[dict[str, str], list[str]]:
    """Which tensor each alias is, and what is wrong with those that are none.

    A tie may lead to another tie. An alias that is a tensor of its own is tied to nothing.
    """
    given = {alias: target for alias, target in ties if alias not in tensors}
    ends: dict[str, str] = {}  # where the ties of each alias lead in the end
    problems = []
    for alias, target in given.items():
        path = dict.fromkeys([alias])
        end = target
        while end in given and end not in path:
            path[end] = None
            end = ends.get(end, given[end])
        ends |= dict.fromkeys(path, end)
    for alias, target in given.items():
        end = ends[alias]
        if end in given:
            problems.append(f"{alias} is tied to {target}, which leads back to {end}: to no tensor")
        elif end not in tensors:
            problems.append(f"{alias} is tied to {end}, which no variable and no fill gives")
    found = {alias: end for alias, end in ends.items() if end in tensors}
    return found, problems


@dataclass(frozen=True)
class Architecture:
    """A model class: the parts that it is made of, and the heads by which it is recognised.

    A part that ends in "?" may be absent. `strip` is taken off the front of every target. Heads
    that lie `beside`, of another model in the same checkpoint, make it no other class. The first
    of a family is that of pre-training, whose heads give way to those of fine-tuning.
    """

    name: str
    parts: tuple[str, ...]
    heads: tuple[str, ...] = ()
    strip: str = ""
    beside: tuple[str, ...] = ()

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
    built-in family whose config and side files go with the rules, `extends` the one whose rules go
    with them too. `needs` are tensors that the class has, whichever rule gives them, `config` keys
    of the written config that follow from the rules. `remarks` are what the user should know who
    follows them.
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
    needs: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.family is not None and self.extends is not None:
            raise RuleError("either family or extends: extends takes the family's config too")
        filled = Counter(("fill", fill.target, fill.part) for fill in self.fills)
        tied = Counter(("tie", tie.alias, tie.part) for tie in self.ties)
        for (kind, name, _), times in (filled | tied).items():
            if times > 1:
                raise RuleError(f"{kind} {quoted(name)}: {times} of them for one tensor")

    def architecture(self, name: str) -> Architecture | None:
        return next((a for a in self.architectures if a.name == name), None)

    @property
    def parts(self) -> set[str]:
        return {rule.part for rule in self.rules}
