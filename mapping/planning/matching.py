"""Which rules match which variables."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tfreader.checkpoint import TensorInfo
from tfreader.errors import RuleError

from ..rules.patterns import literal_tail
from ..rules.rule import Rule, RuleSet
from .variables import Chosen, Seen


class Match(NamedTuple):
    """A rule that matches a variable by one of its names, the values of the groups, the source."""

    rule: Rule
    source: int
    groups: Mapping[str, str]
    info: TensorInfo
    name: str

    @property
    def pattern(self) -> re.Pattern[str]:
        return self.rule.patterns[self.source]


Matches = Mapping[str, Sequence[Match]]
"""By the key of each variable, in the order of the rules."""


def match(chosen: Chosen, seen: Seen, rules: RuleSet) -> Matches:
    """The matches of all variables; the first of its names that any rule knows decides."""
    # Most rules end in plain text, by which the few that can match a name are found.
    sources: dict[str, list[tuple[int, Rule, int]]] = defaultdict(list)
    for position, rule in enumerate(rules.rules):
        for number, source in enumerate(rule.sources):
            sources[literal_tail(source)].append((position, rule, number))
    lengths = sorted({len(tail) for tail in sources})

    def matches(name: str, info: TensorInfo) -> list[Match]:
        found = []
        for end in [name[len(name) - length :] for length in lengths if length <= len(name)]:
            for position, rule, number in sources.get(end, ()):
                if rule.only is not None and not rule.only.fits(info.shape):
                    continue
                if match := rule.patterns[number].fullmatch(name):
                    groups = _groups(match, rules.counts)
                    found.append((position, Match(rule, number, groups, info, name)))
        if len(found) > 1:
            found.sort(key=lambda item: item[0])
        return [match for _, match in found]

    found = {
        key: next(filter(None, (matches(name, info) for name in seen.names_of(key))), [])
        for key, info in chosen.variables.items()
    }
    for key, patterns in chosen.explicit.items():
        if key in found:
            found[key] = [match for match in found[key] if match.pattern in patterns]
    return found


def _groups(match: re.Match[str], counts: Mapping[str, str]) -> dict[str, str]:
    """The values of a match's groups; counted ones as plain numbers, whatever their padding."""
    groups = match.groupdict("")
    for name in counts.keys() & groups.keys():
        try:
            groups[name] = str(int(groups[name]))
        except ValueError:
            raise RuleError(f"group {name!r} is counted, but it matched {groups[name]!r}") from None
    return groups
