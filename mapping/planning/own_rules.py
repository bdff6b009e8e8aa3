"""Whether what a rule file adds to a family fits the model that the family has."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from ..findings import Findings, count, some
from ..plan import Entry
from ..rules.extension import Tensors
from ..rules.ops import Shape, Step, Transpose
from ..rules.rule import Architecture, Rule, RuleSet
from ..rules.schema import quoted
from ..rules.templates import as_regex
from .following import Followed
from .matching import Match, Matches
from .sizes import Sizes


def bind_own(
    followed: Followed,
    matches: Matches,
    kind: Architecture,
    entries: Iterable[Entry],
    sizes: Sizes,
    findings: Findings,
) -> Sizes:
    """Hold the tensors of a file's rules against what the family's rules would make.

    What the config leaves open, such as `num_labels`, they tell.
    """
    sources = _sources(followed.own, matches)
    if not sources:
        return sizes
    theirs = [
        (as_regex(rule.targets[0]), rule)
        for rule in (*_theirs(followed).rules, *followed.usual.rules)
        if rule.shape is not None and len(rule.targets) == 1 and not rule.unstack
    ]
    for entry in entries:
        if not sources.intersection(entry.sources):
            continue
        names = entry.target, kind.strip + entry.target
        rule = next((r for regex, r in theirs if any(map(regex.fullmatch, names))), None)
        if rule is None:
            continue
        sizes = _infer(rule, entry.shape, sizes)
        shape = _shape(rule, entry.shape, sizes)
        if shape != entry.shape:
            findings.problem(
                f"{entry.target}: the rules make it of the shape {list(entry.shape)}, the model "
                f"has {list(shape)}; see the operations and their order"
            )
    return sizes


def _theirs(followed: Followed) -> RuleSet:
    """The family's rules."""
    return replace(followed.rules, rules=followed.rules.rules[len(followed.own.rules) :])


def _infer(rule: Rule, found: Shape, sizes: Sizes) -> Sizes:
    """The sizes, and those that the shape of a tensor of this rule tells."""
    assert rule.shape is not None
    dimensioned = rule.shape[::-1] if rule.ops == (Transpose(),) else rule.shape
    if rule.ops not in ((), (Transpose(),)) or len(dimensioned) != len(found):
        return sizes
    told = zip(dimensioned, found, strict=True)
    return sizes.knowing({str(d): n for d, n in told if isinstance(d, str) and d.isidentifier()})


def _shape(rule: Rule, found: Shape, sizes: Sizes) -> Shape:
    """The shape that a rule would give its tensor; as found where that cannot be told."""
    assert rule.shape is not None
    try:
        shape = tuple(map(sizes.value, rule.shape))
        for op in (op.resolve(sizes.value) for op in rule.ops):
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
    followed: Followed,
    matches: Matches,
    kind: Architecture,
    entries: Iterable[Entry],
    findings: Findings,
) -> None:
    """What a file adds to a family must be of use, and no tensors but those of the class."""
    own = followed.own
    if not kind.name:
        return
    tensors = Tensors(_theirs(followed), followed.usual)
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
        name
        for match in active
        if match.rule in own and not match.rule.unstack
        for name in match.rule.names(match.groups)
    }
    theirs = [
        name
        for match in found
        for name in ([""] if match.rule.unstack else match.rule.names(match.groups))
    ]
    return bool(theirs) and made.issuperset(theirs)
