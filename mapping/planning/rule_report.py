"""What the rules of a file make of a checkpoint's variables, rule by rule."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from typing import Any, NamedTuple, Unpack

from tfreader.checkpoint import Checkpoint
from tfreader.errors import PlanError

from ..findings import Findings, count
from ..plan import Entry, Plan
from ..rules.ops import Changed, Elementwise, Op, within
from ..rules.patterns import compiled
from ..rules.rule import Drop, Rule, RuleSet
from ..rules.schema import quoted
from ..rules.templates import as_regex
from .matching import Match, match
from .planner import PlanOptions, make_plan
from .variables import Seen, choose, look

_NUMBER = re.compile(r"\d+")
_MOST_COMPARED = 500  # names, those that differ in numbers alone counted once


class Use(NamedTuple):
    """What a rule of the file does.

    `variables` are the readable names of those that it takes, `entry` is a tensor that it makes.
    `why` says for a rule that takes none what is near.
    """

    rule: Rule
    variables: tuple[str, ...]
    entry: Entry | None
    why: str = ""


@dataclass(frozen=True)
class RuleReport:
    """What a rule file does to a checkpoint.

    `free` are the readable names of the variables that nothing takes, each with what is near,
    `idle` the [[drop]] tables that leave nothing out, `changed` the entries whose values are
    others than the variables'. `error` is what a conversion would raise.
    """

    plan: Plan
    uses: tuple[Use, ...]
    free: Mapping[str, str]
    idle: tuple[Drop, ...]
    changed: tuple[Entry, ...]
    error: PlanError | None

    def __repr__(self) -> str:
        holds = "would fail" if self.error is not None else count(self.plan.entries, "tensor")
        return f"<RuleReport {self.plan.rules.name!r}: {count(self.uses, 'rule')}, {holds}>"


def check_rules(
    checkpoint: Checkpoint,
    rules: RuleSet,
    *,
    config: Any = None,
    **options: Unpack[PlanOptions],
) -> RuleReport:
    """Follow a rule file as `make_plan` does, which gets the options, and say what becomes of it.

    Rules that are marked uncertain are followed: this is how to look at what they do.

    Raises what `make_plan` raises, but for a PlanError that comes with a plan.
    """
    error = None
    options.setdefault("accept_uncertain", True)
    try:
        plan = make_plan(checkpoint, config=config, rules=rules, **options)
    except PlanError as refused:
        if not isinstance(refused.plan, Plan):
            raise
        plan, error = refused.plan, refused
    findings = Findings()  # which the plan has told
    seen = look(checkpoint, options.get("scope", ""), findings)
    chosen = choose(seen, options.get("moving_averages", "drop"), rules, findings)
    matches = match(chosen, seen, plan.rules)
    taken = {name for entry in plan.entries for name in entry.sources}
    free = [
        key
        for key, info in chosen.variables.items()
        if info.name not in taken and info.name not in plan.dropped
    ]
    own = plan.rules.rules[: len(rules.rules)]  # which come first, before those of a family
    used: dict[int, list[Match]] = defaultdict(list)
    for found in matches.values():
        for each in found:
            if each.info.name in taken:
                used[id(each.rule)].append(each)
    entries: dict[str, list[Entry]] = defaultdict(list)
    for entry in plan.entries:
        for name in entry.sources:
            entries[name].append(entry)
    hints = _Hints(seen, free, plan.dropped)
    idle = [rule for rule in own if id(rule) not in used]
    return RuleReport(
        plan,
        tuple(_use(rule, used[id(rule)], entries, seen, hints) for rule in own),
        {seen.name(key): hints.on_variable(key, idle) for key in free},
        tuple(drop for drop in rules.drops if not _leaves_out(drop, seen)),
        tuple(e for e in plan.entries if any(map(_changes, within(e.ops)))),
        error,
    )


def _use(
    rule: Rule,
    found: Sequence[Match],
    entries: Mapping[str, Sequence[Entry]],
    seen: Seen,
    hints: _Hints,
) -> Use:
    if not found:
        return Use(rule, (), None, hints.on_rule(rule))
    targets = [as_regex(target) for target in rule.targets]
    made = (
        entry
        for match in found
        for entry in entries[match.info.name]
        if any(target.fullmatch(entry.target) for target in targets)
    )
    names = tuple(seen.name(match.info.name) for match in found)
    return Use(rule, tuple(dict.fromkeys(names)), next(made, None))


def _changes(op: Op) -> bool:
    return isinstance(op, Changed | Elementwise)


def _leaves_out(drop: Drop, seen: Seen) -> bool:
    pattern = compiled(drop.source, "drop")
    return any(pattern.fullmatch(name) for key in seen.infos for name in seen.names_of(key))


class _Hints:
    """What is near a rule that takes nothing, and near a variable that nothing takes."""

    def __init__(self, seen: Seen, free: Iterable[str], dropped: Mapping[str, str]) -> None:
        self._seen = seen
        self._dropped = dropped
        self._free = {name: key for key in free for name in seen.names_of(key)}
        alike = {_plain(name): name for name in self._free}  # those of all layers count once
        self._alike = dict(islice(alike.items(), _MOST_COMPARED))

    def on_rule(self, rule: Rule) -> str:
        for source, pattern in zip(rule.sources, rule.patterns, strict=True):
            matched = [
                key
                for key in self._seen.infos
                if any(map(pattern.fullmatch, self._seen.names_of(key)))
            ]
            if matched:
                return self._not_taken(rule, matched)
            if whole := next(filter(pattern.search, self._free), None):
                return f"it matches inside {whole}, but it must match the whole name"
            others = re.compile(pattern.pattern, pattern.flags | re.IGNORECASE)
            if other := next(filter(others.fullmatch, self._free), None):
                return f"but for upper and lower case it matches {other}"
            if close := get_close_matches(_plain(_without_regex(source)), self._alike, 1, 0.7):
                return f"near it is {self._alike[close[0]]}"
        return ""

    def _not_taken(self, rule: Rule, keys: Sequence[str]) -> str:
        """Why a rule does not take what its source matches."""
        info = self._seen.infos[keys[0]]
        shown = f"{self._seen.name(keys[0])} {list(info.shape)}"
        if rule.only is not None and not rule.only.fits(info.shape):
            return f"its source matches {shown}, which `only` does not let through"
        reason = self._dropped.get(info.name)
        return f"its source matches {shown}, " + (
            f"which is left out ({reason})" if reason else "which another rule takes, or none can"
        )

    def on_variable(self, key: str, idle: Iterable[Rule]) -> str:
        """The rule without variables that is nearest."""
        sources = {
            _plain(_without_regex(source)): source for rule in idle for source in rule.sources
        }
        for name in self._seen.names_of(key):
            if close := get_close_matches(_plain(name), sources, 1, 0.7):
                return f"near it is the rule {quoted(sources[close[0]])}"
        return ""


def _plain(name: str) -> str:
    return _NUMBER.sub("0", name)


def _without_regex(source: str) -> str:
    """A source about as the names that it is meant for, for comparing."""
    text = re.sub(r"\\d[+*]?", "0", re.sub(r"\(\?P<\w+>|\(\?:", "(", source))
    text = re.sub(r"\(([^()|]*)\|[^()]*\)\??", r"\1", text)
    return re.sub(r"\\w[+*]?|\.[+*]|[\\()?*+]", "", text)
