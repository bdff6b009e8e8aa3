"""Rule files that extend a family: its rules with others before them, for the same classes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property

from tfreader.errors import RuleError

from .rule import Rule, RuleSet
from .schema import quoted
from .templates import as_regex

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
        return [(as_regex(target), part) for target, part in self._parts.items()]

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
