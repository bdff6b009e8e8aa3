"""Which model class a checkpoint becomes, as the heads in it tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tfreader.errors import PlanError, UnknownModelTypeError

from .findings import Findings
from .matching import Match
from .rule import Architecture, RuleSet


def model_class(
    path: str,
    rules: RuleSet,
    labels: Mapping[str, int],
    found: Sequence[Match],
    wanted: str | None,
    findings: Findings,
) -> Architecture | None:
    """The class asked for, or the one whose heads are among the parts of what was found.

    `labels` says of classes whose heads have a number of labels of their own how many.

    None where the rules know no classes. Raises UnknownModelTypeError, PlanError.
    """
    if wanted is not None:
        asked = rules.architecture(wanted)
        if asked is None:
            known = ", ".join(a.name for a in rules.architectures) or "none"
            raise UnknownModelTypeError(f"unknown architecture {wanted!r}; known: {known}")
        return asked
    if not rules.architectures:
        return None
    present = {match.rule.part for match in found}
    heads = {part for part in present if any(part in a.heads for a in rules.architectures)}
    # Fine-tuning leaves the heads of pre-training behind; the first class is the one for those.
    left_over = set(rules.architectures[0].heads)
    for used in (heads, heads - left_over):
        candidates = [a for a in rules.architectures if set(a.heads) == used]
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
    number = _labels(found)
    others = [a for a in others if labels.get(a.name, number) == number]
    said = f"heads found: {', '.join(sorted(heads))}" if heads else "no head found"
    if used != heads:
        said += f"; {', '.join(sorted(heads - used))} left out"
    same = f"; the same variables fit {' and '.join(a.name for a in others)}" if others else ""
    findings.notes.append(f"{chosen.name} ({said}{same}; --architecture chooses another)")
    return chosen


def _labels(found: Sequence[Match]) -> int | None:
    """How many rows the head has whose size the class leaves open."""
    sizes = (
        size
        for match in found
        for dimension, size in zip(match.rule.shape or (), match.info.shape, strict=False)
        if dimension == "num_labels"
    )
    return next(sizes, None)
