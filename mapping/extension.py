"""Rule files that extend a family: its rules with others before them, for the same classes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import replace
from functools import cached_property

from tfreader.errors import RuleError

from .dimensions import Dimensions
from .findings import Findings, count, some
from .matching import Match, Matches
from .ops import Shape, Step, Transpose
from .plan import Entry
from .rule import Architecture, Rule, RuleSet, fill_in
from .schema import quoted

_MOST_COMPARED = 1000


def extended(base: RuleSet, own: RuleSet, usual: RuleSet | None = None) -> RuleSet:
    """A family's rules with those of a rule file before them.

    `usual` are the rules of its usual layout, whose tensors the model's classes may have too. What
    names no part belongs to that of the rule whose tensor it gives. Raises RuleError where no class
    has such a tensor, unless the file has classes of its own.
    """
    where = f"{own.name}: " if own.name else ""
    tensors = Tensors(base, usual or base)
    parts = {part for kind in (*own.architectures, *base.architectures) for part in kind.all_parts}
    named = {*parts, *base.parts} - ({"model"} - base.parts)

    def part_of(what: str, target: str, part: str) -> str:
        found = tensors.part(target) if part == "model" and part not in base.parts else part
        if found is None or (found not in named and not own.architectures):
            raise RuleError(
                f"{where}{what} {quoted(target)}: no class of {base.family} has such a tensor"
                f"{tensors.near(target)}; where one has, name the part of the model that it "
                f'belongs to, part = "..." of {", ".join(sorted(named))}'
            )
        return found

    if not base.architectures:
        rules, fills, ties = own.rules, own.fills, own.ties
    else:
        rules = tuple(
            replace(rule, part=part_of("rule target", rule.targets[0], rule.part))
            for rule in own.rules
        )
        fills = tuple(
            replace(fill, part=part_of("fill", fill.target, fill.part)) for fill in own.fills
        )
        ties = tuple(replace(tie, part=part_of("tie", tie.alias, tie.part)) for tie in own.ties)
    groups = {name for rule in (*rules, *base.rules) for name in _groups(rule)}
    for group, key in own.counts.items():
        if group not in groups or base.counts.get(group, key) != key:
            known = f"counts {base.counts[group]}" if group in base.counts else "no rule has it"
            raise RuleError(
                f"{where}counts: {group} = {quoted(key)}: of {base.family}'s rules {known}"
            )
    filled = {fill.target for fill in own.fills}
    tied = {tie.alias for tie in own.ties}
    return replace(
        own,
        rules=(*rules, *(rule for rule in base.rules if rule not in rules)),
        counts={**base.counts, **own.counts},
        architectures=(*own.architectures, *base.architectures),
        drops=(*own.drops, *base.drops),
        ties=(*ties, *(tie for tie in base.ties if tie.alias not in tied)),
        fills=(*fills, *(fill for fill in base.fills if fill.target not in filled)),
        family=base.family,
        extends=None,
        remarks=(*own.remarks, *base.remarks),
    )


def _groups(rule: Rule) -> set[str]:
    return {*rule.patterns[0].groupindex, *([rule.unstack.index] if rule.unstack else [])}


def _as_regex(target: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{\w+\\\}", "[^.]+", re.escape(target)))


class Tensors:
    """What a family's classes are made of, as its rules say."""

    def __init__(self, *rule_sets: RuleSet) -> None:
        self._parts: dict[str, str] = {}
        for rules in rule_sets:
            given: Iterable[tuple[str, str]] = (
                *((target, rule.part) for rule in rules.rules for target in rule.targets),
                *((fill.target, fill.part) for fill in rules.fills),
                *((tie.alias, tie.part) for tie in rules.ties),
            )
            for target, part in given:
                self._parts.setdefault(target, part)

    @cached_property
    def _regexes(self) -> list[tuple[re.Pattern[str], str]]:
        """Groups go by whichever names."""
        return [(_as_regex(target), part) for target, part in self._parts.items()]

    def part(self, target: str) -> str | None:
        """The part of the model that a tensor belongs to; None for one of no class."""
        return next((part for regex, part in self._regexes if regex.fullmatch(target)), None)

    def near(self, target: str) -> str:
        """A tensor that is called nearly so, as a hint; empty without one."""
        from difflib import get_close_matches

        close = get_close_matches(target, [*self._parts][:_MOST_COMPARED], 1, 0.8)
        return f" ({quoted(close[0])} is near it)" if close else ""


def own_of(rules: RuleSet, given: RuleSet | None) -> RuleSet:
    """What of the rules followed is from a file that extends a family, with its parts."""
    if given is None or not given.extends:
        return RuleSet(())
    return replace(
        given,
        rules=rules.rules[: len(given.rules)],
        fills=rules.fills[: len(given.fills)],
        ties=rules.ties[: len(given.ties)],
    )


def bind_own(
    own: RuleSet,
    rules: RuleSet,
    usual: RuleSet,
    matches: Matches,
    strip: str,
    entries: Iterable[Entry],
    dimensions: Dimensions,
    findings: Findings,
) -> None:
    """Hold the tensors of a file's rules against what the family's rules would make.

    What the config leaves open, such as `num_labels`, they tell.
    """
    theirs = [
        (_as_regex(rule.targets[0]), rule)
        for rule in (*rules.rules[len(own.rules) :], *usual.rules)
        if rule.shape is not None and len(rule.targets) == 1 and not rule.unstack
    ]
    sources = _sources(own, matches)
    for entry in entries:
        if not sources.intersection(entry.sources):
            continue
        names = entry.target, strip + entry.target
        rule = next((r for regex, r in theirs if any(map(regex.fullmatch, names))), None)
        shape = _shape(rule, entry.shape, dimensions) if rule is not None else entry.shape
        if shape != entry.shape:
            findings.problem(
                f"{entry.target}: the rules make it of the shape {list(entry.shape)}, the model "
                f"has {list(shape)}; see the operations and their order"
            )


def _shape(rule: Rule, found: Shape, dimensions: Dimensions) -> Shape:
    """The shape that a rule would give its tensor; as found where that cannot be told."""
    assert rule.shape is not None
    dimensioned = rule.shape[::-1] if rule.ops == (Transpose(),) else rule.shape
    if rule.ops in ((), (Transpose(),)) and len(dimensioned) == len(found):
        for dimension, size in zip(dimensioned, found, strict=True):
            if isinstance(dimension, str) and dimension.isidentifier():
                dimensions.config.setdefault(dimension, size)
    try:
        shape = tuple(map(dimensions.value, rule.shape))
        for op in (op.resolve(dimensions.value) for op in rule.ops):
            if not isinstance(op, Step):
                return found
            shape = op.shape(shape)
    except ValueError:  # ConfigErrors are such, too
        return found
    return shape


def _sources(own: RuleSet, matches: Matches) -> set[str]:
    """The variables that a file's own rules take."""
    return {
        match.info.name for found in matches.values() for match in found if match.rule in own.rules
    }


def check_own(
    own: RuleSet,
    rules: RuleSet,
    usual: RuleSet,
    matches: Matches,
    kind: Architecture | None,
    entries: Iterable[Entry],
    findings: Findings,
) -> None:
    """What a file adds to a family must be of use, and no tensors but those of the class."""
    if kind is None:
        return
    theirs = replace(rules, rules=rules.rules[len(own.rules) :])
    tensors = Tensors(theirs, usual)
    used = {match.rule for found in matches.values() for match in found}
    for rule in own.rules:
        if rule.required and rule not in used:
            findings.problem(f"rule {quoted(rule.sources[0])} matches no variable to map")
    given = {entry.target: entry for entry in entries}
    for fill in own.fills:
        entry = given.get(fill.target.removeprefix(kind.strip))
        if fill.part not in kind.all_parts:
            findings.problem(
                f"fill {quoted(fill.target)}: {kind.name} has no {fill.part}; --architecture "
                "chooses another class"
            )
        elif entry is not None and entry.fill is None:
            findings.problem(
                f"{entry.target} is filled twice: by {entry.sources[0]} and by a [[fill]]; leave "
                "one of them out"
            )
    sources = _sources(own, matches)
    strange = [
        entry.target
        for entry in given.values()
        if not own.architectures
        and sources.intersection(entry.sources)
        and tensors.part(entry.target) is None
        and tensors.part(kind.strip + entry.target) is None
    ]
    if strange:
        findings.problem(
            f"{count(strange, 'tensor')} that {kind.name} does not have: {some(strange)}"
            f"{tensors.near(kind.strip + strange[0])}",
            [f"tensor {name}: {kind.name} has none of this name" for name in strange],
        )


def replaced(found: Iterable[Match], active: Iterable[Match], own: Collection[Rule]) -> bool:
    """Whether rules of the user's own give all tensors that a variable would be made into."""
    made = {
        fill_in(target, match.groups)
        for match in active
        if match.rule in own and not match.rule.unstack
        for target in match.rule.targets
    }
    theirs = [
        "" if match.rule.unstack else fill_in(target, match.groups)
        for match in found
        for target in match.rule.targets
    ]
    return bool(theirs) and made.issuperset(theirs)
