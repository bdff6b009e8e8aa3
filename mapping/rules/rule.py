"""Rules: which variable becomes which tensor, by which operations.

A rule is data. Its source is a regular expression that must match the whole variable name; its
named groups fill the `{placeholders}` of the target. A group whose body is a plain alternation of
words, or whose name is listed under `counts`, can be enumerated, so that "fires for every layer"
is checked.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tfreader.errors import RuleError

from .op import Each, Join, Op
from .patterns import compiled
from .schema import quoted
from .several import Split, Unstack
from .templates import Tables, fill_in, placeholders

_GROUP = re.compile(r"\(\?P<(\w+)>([^()]*)\)")
DTYPES = (
    *("bool", "uint8", "int8", "int16", "int32", "int64"),
    *("float16", "bfloat16", "float32", "float64"),
)
_WORDS = re.compile(r"\w+(?:\|\w+)+")


@dataclass(frozen=True)
class Only:
    """Which variables a rule takes of those that its source matches: of a rank, or a shape.

    "*" in a shape stands for any size.
    """

    rank: int | None = None
    shape: tuple[int | str, ...] | None = None

    def fits(self, shape: tuple[int, ...]) -> bool:
        if self.rank not in (None, len(shape)):
            return False
        return self.shape is None or (
            len(self.shape) == len(shape)
            and all(size in ("*", own) for size, own in zip(self.shape, shape, strict=True))
        )


@dataclass(frozen=True)
class Rule:
    r"""One line of a mapping.

    `sources` are full-match regexes (several only before a concat or stack), `targets` templates
    (several only after a split). `shape` gives the first source's dimensions: numbers, config keys,
    their products and quotients ("num_heads*head_dim"), "*" for any. `part` names the piece of the
    model that the rule belongs to. A rule with `required` must fill all its targets whenever its
    part is wanted. `dtype` is a type of PyTorch that the tensors have whatever is asked for all. Of
    variables that a source matches, `only` takes those of such a shape. One that is `uncertain` is
    not followed before somebody has looked at it. `tables` are those that the targets name.

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
    only: Only | None = None
    uncertain: bool = False
    tables: Tables = field(default_factory=dict, compare=False, repr=False)

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
            unknown = placeholders(target, "rule target", self.tables) - groups
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
        if not all(index in placeholders(t, "rule target", self.tables) for t in self.targets):
            raise RuleError(
                f"{self._named}: unstack makes a tensor for each index, so the target must have "
                f"{{{index}}} in it"
            )

    def _check_ops(self) -> None:
        self._check_joins(len(self.sources), self.ops)
        kinds = [type(op) for op in self.ops]
        if (Split in kinds) != (len(self.targets) > 1):
            raise RuleError(
                f"{self._named}: several targets need one split, and split several targets; for "
                "more tensors of one variable give it more rules"
            )
        if any(kind in (Split, Unstack) for kind in kinds[:-1]):
            raise RuleError(f"{self._named}: split and unstack must be the last operation")

    def _check_joins(self, sources: int, ops: Sequence[Op]) -> None:
        """Raise RuleError unless so many sources become one array."""
        for op in ops:
            for count, inner in op.branches if isinstance(op, Each) else ():
                self._check_joins(count, inner)
                if any(isinstance(each, Split | Unstack) for each in inner):
                    raise RuleError(f"{self._named}: split and unstack must be the last operation")
            if isinstance(op, Each):
                sources = len(op.branches)
        joins = sum(isinstance(op, Join) for op in ops)
        if joins > 1 or (joins and sources == 1):
            raise RuleError(f"{self._named}: concat and stack join all sources of a rule, once")
        if not joins and sources > 1:
            raise RuleError(f"{self._named}: several sources need one concat or stack")

    def names(self, groups: Mapping[str, object]) -> list[str]:
        """The targets with these values. Raises RuleError where they have no place in them."""
        return [fill_in(target, groups, self.tables) for target in self.targets]

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

    `value` is one of FILLS, or a number, `shape` in config keys and numbers, `dtype` that of the
    other tensors where it is none. A variable that gives the tensor after all goes before. `like`
    is a regex of the names of other tensors: there is one beside each, as large where no `shape` is
    given; unless it is `required` there may be none.
    """

    target: str
    shape: tuple[int | str, ...] | None
    value: str | float
    reason: str
    part: str = "model"
    dtype: str | None = None
    like: str | None = None
    required: bool = True
    uncertain: bool = False
    tables: Tables = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        named = f"fill {quoted(self.target)}"
        _check_dtype(self.dtype, named)
        groups = placeholders(self.target, "fill", self.tables)
        if self.like is None and groups:
            raise RuleError(
                f"{named}: a fill makes one tensor, so its target has no groups; write one for "
                "each, or give a regular expression of the tensors to put one beside: "
                r"like = '(?P<name>.*)\.bias'"
            )
        if self.like is not None and (lacking := groups - {*compiled(self.like, named).groupindex}):
            raise RuleError(f"{named}: like has no group named {', '.join(sorted(lacking))}")
        if self.like is None and self.shape is None:
            raise RuleError(f"{named}: shape is missing; write for example shape = [48]")
        axes = FILLS.get(self.value) if isinstance(self.value, str) else None
        if isinstance(self.value, str) and self.value not in FILLS:
            raise RuleError(
                f"{named}: {quoted(self.value)} is no value to fill with; there are "
                f"{', '.join(FILLS)}, and numbers"
            )
        if axes is not None and (self.shape is None or len(self.shape) != axes):
            raise RuleError(
                f"{named}: {self.value} needs a shape of {axes} axes"
                + (f", not of {len(self.shape)}" if self.shape is not None else "")
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
    follows them. What no rule takes is left out where `rest` gives a reason. `tables` are those
    that targets name.
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
    tables: Tables = field(default_factory=dict)
    rest: str | None = None

    def __post_init__(self) -> None:
        if self.rest is not None and self.extends is not None:
            raise RuleError("rest: what no rule of a family knows is left out by name, by [[drop]]")
        if self.family is not None and self.extends is not None:
            raise RuleError("either family or extends: extends takes the family's config too")
        filled = Counter(
            ("fill", fill.target, fill.part) for fill in self.fills if fill.like is None
        )
        tied = Counter(("tie", tie.alias, tie.part) for tie in self.ties)
        for (kind, name, _), times in (filled | tied).items():
            if times > 1:
                raise RuleError(f"{kind} {quoted(name)}: {times} of them for one tensor")

    def architecture(self, name: str) -> Architecture | None:
        return next((a for a in self.architectures if a.name == name), None)

    @property
    def parts(self) -> set[str]:
        return {rule.part for rule in self.rules}

    @property
    def uncertain(self) -> list[str]:
        """The names of the tensors that rules and fills make which are marked as uncertain."""
        rules = [target for rule in self.rules if rule.uncertain for target in rule.targets]
        return rules + [fill.target for fill in self.fills if fill.uncertain]
