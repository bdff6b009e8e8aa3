"""What the model needs and no variable gives."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..findings import Findings, count, some
from ..plan import Entry
from ..rules.rule import Architecture, Rule
from .accounting import Accounts
from .following import Followed
from .variables import Seen

_MOST_MISSING = 1000  # tensors that are listed
_MOST_HINTS = 100  # tensors without a variable, and variables, that are compared
_MOST_NAMES = 2000

Missing = dict[str, tuple[str, Rule | None]]
"""By tensor: the variable that it would be made of, and the rule."""


def check_required(
    followed: Followed,
    kind: Architecture,
    accounts: Accounts,
    counts: Mapping[str, int],
    entries: Iterable[Entry],
    seen: Seen,
    findings: Findings,
) -> None:
    """Every required rule of a wanted part must have filled its targets, for every layer.

    Near misses are looked for among the variables that no rule took.
    """
    present = {match.rule.part for match in accounts.active}
    absent = kind.optional_parts - present
    filled = {entry.target for entry in entries}
    missing = _missing(followed, kind, absent, accounts, counts, filled)
    for target in followed.rules.needs:
        name = target.removeprefix(kind.strip)
        if name not in filled:
            missing.setdefault(name, ("no variable of the checkpoint", None))
    required = {rule.part for rule in followed.rules.rules if rule.required}
    for part in sorted((followed.required_parts - required) & kind.needed_parts):
        missing[f"all of {part}"] = "no variable of this checkpoint's layout", None
    for part in sorted(absent):
        findings.notes.append(
            f"the checkpoint has no {part}: the model is written without it, and a class of "
            "transformers that has one starts it at random"
        )
    if missing:  # what has a variable that does not do is told already
        tried = [match for match in accounts.active if not match.rule.unstack]
        for target in (name for match in tried for name in match.rule.names(match.groups)):
            missing.pop(target.removeprefix(kind.strip), None)
    if missing:
        _report(missing, [seen.name(key) for key in accounts.unknown], findings)


def _missing(
    followed: Followed,
    kind: Architecture,
    absent: set[str],
    accounts: Accounts,
    counts: Mapping[str, int],
    filled: set[str],
) -> Missing:
    """The tensors that required rules should have made, but for parts that may be absent."""
    fired = {id(match.rule) for match in accounts.active}
    missing: Missing = {}
    for rule in followed.rules.rules:
        if not rule.required or rule.part not in kind.all_parts - absent:
            continue
        domains = rule.domains(counts)
        if domains is None or rule.unstack is not None:
            if id(rule) not in fired:
                missing.setdefault(rule.targets[0], (rule.sources[0], rule))
            continue
        for groups in domains:
            if len(missing) >= _MOST_MISSING:
                break  # of several groups there may be very many combinations
            for target in rule.names(groups):
                name = target.removeprefix(kind.strip)
                if name not in filled:
                    missing.setdefault(name, (rule.example(groups), rule))
    return missing


def _report(missing: Missing, names: Sequence[str], findings: Findings) -> None:
    wanted = [f"{target} (from {source})" for target, (source, _) in missing.items()]
    hints = [
        _near_miss(source, rule, names) if i < _MOST_HINTS else ""
        for i, (source, rule) in enumerate(missing.values())
    ]
    findings.problem(
        f"{count(wanted, 'tensor')} that the model needs, but no variable fills: {some(wanted)}"
        + next(filter(None, hints), ""),
        [
            f"tensor {one}: no variable fills it{hint}"
            for one, hint in zip(wanted, hints, strict=True)
        ],
    )


def _near_miss(source: str, rule: Rule | None, names: Sequence[str]) -> str:
    """A variable that the rule nearly matches, as a hint; empty without one."""
    from difflib import get_close_matches

    if rule is None:
        return ""
    for name in names[:_MOST_NAMES]:
        if any(pattern.search(name) for pattern in rule.patterns):
            return f"; the rule matches inside {name}, but it must match the whole name"
    close = get_close_matches(source, names[:_MOST_HINTS], 1, 0.8)
    return f"; {close[0]} is near it" if close else ""
