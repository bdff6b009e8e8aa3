"""What becomes of every variable: it is used, left out for a reason, or refused."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tfreader.checkpoint import TensorInfo

from ..findings import Findings, count, some
from ..rules.patterns import compiled
from ..rules.rule import Architecture
from ..rules.schema import quoted
from .following import Followed
from .ignoring import Ignored
from .matching import Match, Matches
from .own_rules import replaced
from .variables import Seen

_GROUP = re.compile(r"\(\?P<\w+>")  # by whichever names: rules of one source may name them apart
_KERAS_LAYER = re.compile(r"layer(?:_with_weights)?-\d+")


@dataclass(frozen=True)
class Accounts:
    """The matches to carry out, and why variables are left out, by their stored names.

    `unknown` are the keys of those that no rule knows, `within` of those and of the ignored ones
    the ones inside the model.
    """

    active: Sequence[Match]
    dropped: Mapping[str, str]
    unknown: Sequence[str]
    within: Collection[str]


def account(
    variables: Mapping[str, TensorInfo],
    ignored: Ignored,
    matches: Matches,
    kind: Architecture,
    followed: Followed,
    seen: Seen,
    findings: Findings,
) -> Accounts:
    """What becomes of the `variables` to map and of the ignored ones."""
    active, unknown, dropped = _sort(variables, matches, kind, followed, seen, findings)
    # What a family's model is made of is known; rules of one's own say it themselves.
    keys = [*unknown, *ignored.asked] if followed.family is not None else []
    within = _inside(keys, active, kind)
    _report_unknown(unknown, within, variables, seen, findings)
    ignored_parts = _ignored_parts(ignored, within, matches, active, kind, followed)
    _report_ignored(ignored, ignored_parts, seen, findings)
    _tell_lost(variables, dropped, matches, active, kind, followed, seen, findings)
    return Accounts(active, {**dropped, **ignored.dropped}, unknown, within)


def _sort(
    variables: Mapping[str, TensorInfo],
    matches: Matches,
    kind: Architecture,
    followed: Followed,
    seen: Seen,
    findings: Findings,
) -> tuple[list[Match], list[str], dict[str, str]]:
    """The matches that count, the keys that no rule knows, and the reasons to drop the others.

    Rules of the user's own go before those of a family.
    """
    own, parts = followed.own.rules, kind.all_parts
    drops = [(compiled(drop.source, "drop"), drop.reason) for drop in followed.rules.drops]
    active: list[Match] = []
    unknown: list[str] = []
    dropped: dict[str, str] = {}
    clashes: list[str] = []
    for key, info in variables.items():
        names = seen.names_of(key)
        reason = next((why for drop, why in drops if any(map(drop.fullmatch, names))), None)
        mine = [match for match in matches[key] if match.rule.part in parts]
        mine = [match for match in mine if match.rule in own] or mine
        found = mine if len(mine) > 1 else ()
        sources = {_GROUP.sub("(", text): text for text in (m.pattern.pattern for m in found)}
        if len(sources) > 1:
            by = " and by ".join(map(quoted, sources.values()))
            clashes.append(f"{seen.name(key)} by {by}")
        if reason is not None and not any(match.rule in own for match in mine):
            dropped[info.name] = reason
        elif mine:
            active += mine
        elif matches[key]:
            dropped[info.name] = f"{matches[key][0].rule.part}: not in {kind.name}"
        elif followed.rules.rest is not None:
            dropped[info.name] = followed.rules.rest
        else:
            unknown.append(key)
    if clashes:
        findings.problem(
            f"{count(clashes, 'variable')} taken by two rules with different sources: "
            f"{some(clashes)}; narrow one of them, or give both the same source where each is to "
            "make a tensor of it",
            [f"variable taken by two rules: {clash}" for clash in clashes],
        )
    return active, unknown, dropped


def _inside(
    keys: Collection[str], active: Iterable[Match], kind: Architecture
) -> Mapping[str, None]:
    """Those variables that lie within the model, to judge by where they are stored: heads aside.

    The model's scope is the innermost that all its variables share. Where they share none, or have
    Keras' numbered layers right below it, beside which a head is one more, the model has the scopes
    below that.
    """
    if not keys:
        return {}
    folders = [_folder(match.info.name) for match in active if match.rule.part not in kind.heads]
    shared = posixpath.commonpath(folders) if folders and all(folders) else ""
    root = shared + "/" if shared else ""
    below = {folder.removeprefix(root).partition("/")[0] for folder in folders if folder != shared}
    is_split = not shared or any(map(_KERAS_LAYER.fullmatch, below))
    within = tuple(f"{root}{scope}/" for scope in below) if is_split else (root,)
    inner = (key for key in keys if f"{_folder(key)}/".startswith(within))
    return dict.fromkeys(inner)


def _folder(key: str) -> str:
    """Where a variable is stored, without its own name."""
    return key.partition("/.ATTRIBUTES/")[0].rpartition("/")[0]


def _report_unknown(
    unknown: Sequence[str],
    within: Collection[str],
    variables: Mapping[str, TensorInfo],
    seen: Seen,
    findings: Findings,
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
        described = [f"{seen.name(key)} {list(variables[key].shape)}" for key in keys]
        if keys:
            findings.problem(
                f"{count(keys, 'variable')}{where} that no rule knows: {some(described)}; {remedy}",
                [f"variable {one}{where}: no rule knows it" for one in described],
            )


def _ignored_parts(
    ignored: Ignored,
    within: Collection[str],
    matches: Matches,
    active: Sequence[Match],
    kind: Architecture,
    followed: Followed,
) -> list[str]:
    """The keys of what may not be ignored, as the model would compute something else without it."""
    is_part = {
        key
        for key in ignored.asked
        if followed.family is not None
        and any(match.rule.part in kind.all_parts for match in matches[key])
    }
    return [
        key
        for key in ignored.asked
        if (key in within or key in is_part)
        and key not in ignored.weights
        and not replaced(matches[key], active, followed.own.rules)
    ]


def _report_ignored(ignored: Ignored, kept: Sequence[str], seen: Seen, findings: Findings) -> None:
    """Refuse to ignore what lies inside the model, unless the user says just that."""
    names = [seen.name(key) for key in kept]
    if names:
        findings.problem(
            f"{count(names, 'variable')} inside the model cannot be ignored, since without them it "
            f"would compute something else: {some(names)}; map them with --rules FILE, or leave "
            "them out all the same with --ignore-weights REGEX",
            [f"variable {name}: inside the model, cannot be ignored" for name in names],
        )
    if ignored.weights:
        shown = some([seen.name(key) for key in ignored.weights])
        findings.notes.append(
            f"{count(ignored.weights, 'variable')} inside the model left out as asked "
            f"(--ignore-weights): the result does not compute what the original does: {shown}"
        )


def _tell_lost(
    variables: Mapping[str, TensorInfo],
    dropped: Mapping[str, str],
    matches: Matches,
    active: Sequence[Match],
    kind: Architecture,
    followed: Followed,
    seen: Seen,
    findings: Findings,
) -> None:
    """Say what a file that extends a family drops of the model, and no rule of it replaces."""
    reasons = {drop.reason for drop in followed.own.drops}
    keys = [key for key, info in variables.items() if dropped.get(info.name) in reasons]
    lost = [
        seen.name(key)
        for key in _inside(keys, active, kind)
        if not replaced(matches[key], active, followed.own.rules)
    ]
    if lost:
        findings.notes.append(
            f"{count(lost, 'variable')} inside the model left out by [[drop]]: where they are "
            f"weights, the result does not compute what the original does: {some(lost)}"
        )
