"""Which model class a checkpoint becomes, as the heads in it tell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tfreader.errors import PlanError, UnknownModelTypeError

from ..findings import Findings, nearest
from ..rules.rule import Architecture, RuleSet
from .following import Followed
from .ignoring import Ignored
from .matching import Match, Matches


def model_class(
    matches: Matches,
    variables: Iterable[str],
    ignored: Ignored,
    followed: Followed,
    wanted: str | None,
    path: str,
    findings: Findings,
) -> Architecture:
    """The class asked for, or the one whose heads are among the parts of the variables to map.

    One without a name, of all parts, where the rules know no classes. Raises UnknownModelTypeError,
    PlanError.
    """
    rules = followed.rules
    if wanted is not None:
        asked = rules.architecture(wanted)
        refused = followed.family.refused if followed.family is not None else {}
        if asked is None and wanted in refused:
            raise PlanError(f"{path}: --architecture {wanted}: {refused[wanted]}")
        if asked is None and followed.family is not None and followed.family.any_type:
            (kind,) = (a.name for a in rules.architectures)
            then = f", and load its folder with {wanted}" if wanted.endswith("Model") else ""
            raise PlanError(
                f"{path}: --architecture {wanted}: its variables are those of {kind}; convert it "
                f"as that{then}"
            )
        if asked is None:
            known = [a.name for a in rules.architectures]
            meant = nearest(wanted, known, 0.9)
            raise UnknownModelTypeError(
                f"{path}: unknown architecture {wanted!r}"
                f"{f': is {meant!r} meant?' if meant else ''}; known: {', '.join(known) or 'none'}"
            )
        return asked
    if not rules.architectures:
        return Architecture("", tuple(rules.parts))
    if len(rules.architectures) == 1 and not rules.architectures[0].heads:
        return rules.architectures[0]
    found = _present(matches, variables, ignored, rules)
    present = {match.rule.part for match in found}
    heads = {part for part in present if any(part in a.heads for a in rules.architectures)}
    # Fine-tuning leaves the heads of pre-training behind; the first class is the one for those.
    left_over = {*rules.architectures[0].heads, *rules.architectures[0].beside}
    for used in (heads, heads - left_over):
        candidates = [a for a in rules.architectures if set(a.heads) == used - set(a.beside)]
        if candidates:
            break
    else:
        raise PlanError(
            f"{path}: no model class has just the heads that its variables may be "
            f"({', '.join(sorted(heads))})\nChoose one with --architecture: "
            + ", ".join(a.name for a in rules.architectures)
        )
    complete = [a for a in candidates if a.needed_parts & rules.parts <= present]
    chosen, *others = complete or candidates[:1]
    labels = followed.family.labels if followed.family is not None else {}
    number = _labels(found)
    others = [a for a in others if labels.get(a.name, number) == number and a.heads == chosen.heads]
    said = f"heads found: {', '.join(sorted(heads))}" if heads else "no head found"
    if unused := heads - set(chosen.heads):
        own = [a.name for a in rules.architectures if a.heads and {*a.heads} <= unused]
        said += f"; {', '.join(sorted(unused))} left out"
        said += f", which {' or '.join(own)} has" if own and chosen.beside else ""
    same = f"; the same variables fit {' and '.join(a.name for a in others)}" if others else ""
    findings.notes.append(f"{chosen.name} ({said}{same}; --architecture chooses another)")
    return chosen


def other_class(
    matches: Matches,
    variables: Iterable[str],
    ignored: Ignored,
    followed: Followed,
    asked: Architecture,
) -> str:
    """What to do where the class that was asked for has a head that is not there, or nothing."""
    there = {match.rule.part for match in _present(matches, variables, ignored, followed.rules)}
    if {*asked.heads} <= there:
        return ""
    try:
        own = model_class(matches, variables, ignored, followed, None, "", Findings())
    except PlanError:
        return ""
    return f"By its heads it is {own.name}, which it becomes without --architecture {asked.name}"


def _labels(found: Sequence[Match]) -> int | None:
    """How many rows the head has whose size the class leaves open."""
    sizes = (
        size
        for match in found
        for dimension, size in zip(match.rule.shape or (), match.info.shape, strict=False)
        if dimension == "num_labels"
    )
    return next(sizes, None)


def _present(
    matches: Matches, variables: Iterable[str], ignored: Ignored, rules: RuleSet
) -> list[Match]:
    """What a model class has to have.

    To ignore a head asks for another class, to ignore what a class is made of does not.
    """
    heads = {head for kind in rules.architectures for head in kind.heads}
    left_out = [match for key in ignored.asked for match in matches[key]]
    return [match for key in variables for match in matches[key]] + [
        match for match in left_out if match.rule.part not in heads
    ]
