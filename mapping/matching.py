"""Which rules match which variables, and what becomes of the variables that none does."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tfreader.checkpoint import TensorInfo
from tfreader.errors import RuleError

from .findings import Findings, count, some
from .rule import Architecture, Rule, RuleSet, compiled, literal_tail
from .schema import quoted
from .variables import Chosen, Seen, matching

_GROUP = re.compile(r"\(\?P<\w+>")  # by whichever names: rules of one source may name them apart


@dataclass(frozen=True)
class Match:
    """A rule that matches a variable by one of its names, the values of the groups, the source."""

    rule: Rule
    source: int
    groups: Mapping[str, str]
    info: TensorInfo
    name: str

    @property
    def pattern(self) -> re.Pattern[str]:
        return self.rule.patterns[self.source]


_KERAS_LAYER = re.compile(r"layer(?:_with_weights)?-\d+")

Matches = Mapping[str, Sequence[Match]]
"""By the key of each variable, in the order of the rules."""


def match(chosen: Chosen, seen: Seen, rules: RuleSet) -> Matches:
    """The matches of all variables; the first of its names that any rule knows decides."""
    # Most rules end in plain text, by which the few that can match a name are found.
    sources: dict[str, list[tuple[int, Rule, int, re.Pattern[str]]]] = defaultdict(list)
    for position, rule in enumerate(rules.rules):
        for number, pattern in enumerate(rule.patterns):
            sources[literal_tail(pattern.pattern)].append((position, rule, number, pattern))
    lengths = sorted({len(tail) for tail in sources})

    def matches(name: str, info: TensorInfo) -> list[Match]:
        ends = [name[len(name) - length :] for length in lengths if length <= len(name)]
        found = [
            (position, Match(rule, number, _groups(match, rules.counts), info, name))
            for end in ends
            for position, rule, number, pattern in sources.get(end, ())
            if (match := pattern.fullmatch(name))
        ]
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


def ignored(
    patterns: Sequence[str], option: str, seen: Seen, chosen: Chosen, findings: Findings
) -> Mapping[str, None]:
    """The keys of the variables to map that the user wants to leave out, in their order."""
    found: dict[str, None] = {}
    for pattern in patterns:
        keys = matching(compiled(pattern, option), seen)
        if not keys:
            findings.problem(f"{option} {quoted(pattern)} matches no variable")
        found |= dict.fromkeys(key for key in keys if key in chosen.variables)
    return found


def account(
    seen: Seen,
    variables: Mapping[str, TensorInfo],
    matches: Matches,
    parts: Collection[str],
    architecture: Architecture | None,
    rules: RuleSet,
    own: Collection[Rule],
    chosen: Chosen,
    findings: Findings,
) -> tuple[list[Match], list[str]]:
    """The matches that count, and the keys of the variables that no rule knows.

    All others are dropped with a reason. Rules of the user's `own` go before those of a family.
    """
    drops = [(compiled(drop.source, "drop"), drop.reason) for drop in rules.drops]
    active: list[Match] = []
    unknown: list[str] = []
    clashes: list[str] = []
    for key, info in variables.items():
        names = seen.names_of(key)
        reason = next((why for drop, why in drops if any(map(drop.fullmatch, names))), None)
        mine = [match for match in matches[key] if match.rule.part in parts]
        mine = [match for match in mine if match.rule in own] or mine
        sources = {_GROUP.sub("(", text): text for text in (m.pattern.pattern for m in mine)}
        if len(sources) > 1:
            by = " and by ".join(map(quoted, sources.values()))
            clashes.append(f"{seen.shown[key]} by {by}")
        if reason is not None and not any(match.rule in own for match in mine):
            chosen.dropped[info.name] = reason
        elif mine:
            active += mine
        elif matches[key]:
            kind = architecture.name if architecture else "this model"
            chosen.dropped[info.name] = f"{matches[key][0].rule.part}: not in {kind}"
        else:
            unknown.append(key)
    if clashes:
        findings.problem(
            f"{count(clashes, 'variable')} taken by two rules with different sources: "
            f"{some(clashes)}; narrow one of them, or give both the same source where each is to "
            "make a tensor of it",
            [f"variable taken by two rules: {clash}" for clash in clashes],
        )
    return active, unknown


def inside(
    keys: Iterable[str], seen: Seen, active: Iterable[Match], architecture: Architecture | None
) -> Mapping[str, None]:
    """Those variables that lie within the model, to judge by where they are stored: heads aside.

    The model's scope is the innermost that all its variables share. Where they share none, or have
    Keras' numbered layers right below it, beside which a head is one more, the model has the scopes
    below that.
    """
    heads = set(architecture.heads) if architecture else set()
    folders = [_folder(match.info.name) for match in active if match.rule.part not in heads]
    shared = os.path.commonpath(folders) if folders and all(folders) else ""
    root = shared + "/" if shared else ""
    below = {folder.removeprefix(root).partition("/")[0] for folder in folders if folder != shared}
    is_split = not shared or any(map(_KERAS_LAYER.fullmatch, below))
    within = tuple(f"{root}{scope}/" for scope in below) if is_split else (root,)
    inner = (key for key in keys if f"{_folder(seen.infos[key].name)}/".startswith(within))
    return dict.fromkeys(inner)


def _folder(key: str) -> str:
    """Where a variable is stored, without its own name."""
    return key.partition("/.ATTRIBUTES/")[0].rpartition("/")[0]


def report_unknown(
    unknown: Sequence[str], within: Collection[str], seen: Seen, findings: Findings
) -> None:
    """Say which variables no rule knows; only what lies outside the model may be ignored."""
    outside = [key for key in unknown if key not in within]
    for keys, where, remedy in (
        (
            [key for key in unknown if key in within],
            " inside the model",
            "without them it would compute something else; map them with --rules FILE, or leave "
            "them out all the same with --ignore-weights REGEX",
        ),
        (outside, "", "leave out with --ignore REGEX, or map with --rules FILE"),
    ):
        described = [f"{seen.shown[key]} {list(seen.infos[key].shape)}" for key in keys]
        if keys:
            findings.problem(
                f"{count(keys, 'variable')}{where} that no rule knows: {some(described)}; {remedy}",
                [f"variable {one}{where}: no rule knows it" for one in described],
            )
