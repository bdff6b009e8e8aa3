"""The tensors of a plan: what the rules make of variables, what is filled, and what is missing."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from tfreader.errors import ConfigError

from .dimensions import Dimensions
from .findings import Findings, count, some
from .matching import Match
from .ops import MAX_ELEMENTS, Join, Shape, Split, Step, Unstack
from .plan import CASTABLE, FLOATS, Entry
from .rule import Architecture, Rule, RuleSet, fill_in

_DIFFER = (
    "where a rule takes several variables, a group such as (?P<n>...) in the source and {n} in the "
    "target tell their tensors apart; else narrow the source, or leave out what is too much with "
    "--ignore REGEX"
)
_MOST_BYTES = (1 << 63) - 1  # that numpy can address
_MOST_MISSING = 1000  # tensors that are listed
_MOST_HINTS = 100  # tensors without a variable, and variables, that are compared
_MOST_NAMES = 2000


def make_entries(
    active: Iterable[Match],
    own: Collection[Rule],
    strip: str,
    dtype: str,
    dimensions: Dimensions,
    shown: Mapping[str, str],
    only_floats: bool,
    dropped: dict[str, str],
    findings: Findings,
) -> list[Entry]:
    """The entries that the rules make. Where the user's `own` give a tensor, no other does."""
    grouped: dict[tuple[int, tuple[tuple[str, str], ...]], list[Match]] = defaultdict(list)
    for match in active:
        grouped[id(match.rule), tuple(match.groups.items())].append(match)
    entries: list[Entry] = []
    filled: dict[str, tuple[str, bool]] = {}
    for found in sorted(grouped.values(), key=lambda found: found[0].rule not in own):
        found.sort(key=lambda match: match.source)
        rule = found[0].rule
        if [match.source for match in found] != list(range(len(rule.sources))):
            names = some([shown[match.info.name] for match in found], 8)
            targets = ", ".join(fill_in(t, found[0].groups) for t in rule.targets)
            findings.problem(
                f"{targets} is made of {count(rule.sources, 'variable')}, found {names}; "
                + (_DIFFER if len(found) > len(rule.sources) else "the rule joins them all")
            )
            continue
        try:
            made = _apply(found, strip, dtype, dimensions, only_floats)
        except ValueError as error:
            if isinstance(error, ConfigError):
                raise
            findings.problem(f"variable {shown[found[0].info.name]}: {error}")
            continue
        for entry in made:
            name = shown[entry.sources[0]]
            other, is_own = filled.get(entry.target, ("", False))
            if is_own and rule not in own:
                dropped[entry.sources[0]] = f"{entry.target} is made of {other} instead"
                continue
            if other:
                findings.problem(
                    f"{entry.target} is filled twice: by {other} and by {name}; {_DIFFER}"
                )
            filled[entry.target] = name, rule in own
            entries.append(entry)
    return entries


def _apply(
    found: Sequence[Match], strip: str, dtype: str, dimensions: Dimensions, only_floats: bool
) -> list[Entry]:
    """The entries that one rule makes of its sources. ValueError where shapes do not fit."""
    rule = found[0].rule
    infos = [match.info for match in found]
    numpy = infos[0].dtype.numpy
    if numpy is None or any(info.dtype != infos[0].dtype for info in infos):
        kinds = ", ".join(info.dtype for info in infos)
        raise ValueError(f"values of type {kinds} cannot be converted")
    if only_floats and numpy not in CASTABLE:
        raise ValueError(f"values of type {infos[0].dtype}, where weights are of a float type")
    resolved = [op.resolve(dimensions.value) for op in rule.ops]
    ops = [op for op in resolved if isinstance(op, Step | Join)]  # the rest is in _outputs
    shapes = [info.shape for info in infos]
    for op in ops:
        if isinstance(op, Join):
            shapes = [op.join_shapes(shapes)]
        else:
            shapes = [op.shape(shape) for shape in shapes]
        if too_large := [s for s in shapes if _volume(s) * numpy.itemsize > _MOST_BYTES]:
            raise ValueError(f"{op} makes the shape {list(too_large[0])}, which no tensor can have")
    (shape,) = shapes
    output = FLOATS[dtype] if dtype != "keep" and numpy in CASTABLE else numpy

    entries = []
    for template, groups, last in _outputs(rule, found[0].groups, shape):
        final = shape
        for op in last:
            final = op.shape(final)
        entries.append(
            Entry(
                target=fill_in(template, groups).removeprefix(strip),
                sources=tuple(info.name for info in infos),
                ops=(*ops, *last),
                shape=final,
                dtype=output,
                source_dtype=numpy,
            )
        )
    return entries


def _volume(shape: Shape) -> int:
    """The elements of a shape, axes without any aside: numpy counts so what it can address."""
    return prod(size or 1 for size in shape)


def _outputs(
    rule: Rule, groups: Mapping[str, str], shape: Shape
) -> list[tuple[str, Mapping[str, str], tuple[Step, ...]]]:
    """Per tensor that a rule makes: its target template, group values and last operations."""
    last = rule.ops[-1] if rule.ops else None
    if isinstance(last, Unstack):
        return [
            (rule.targets[0], {**groups, last.index: str(i)}, ops)
            for i, ops in enumerate(last.pieces(shape))
        ]
    if isinstance(last, Split):
        pieces = last.pieces(shape, len(rule.targets))
        return [(target, groups, ops) for target, ops in zip(rule.targets, pieces, strict=True)]
    return [(rule.targets[0], groups, ())]


def make_fills(
    rules: RuleSet,
    parts: Collection[str],
    strip: str,
    entries: Sequence[Entry],
    dimensions: Dimensions,
    findings: Findings,
) -> list[Entry]:
    """Entries for the tensors that no variable gives."""
    given = {entry.target for entry in entries}
    floats = Counter(entry.dtype for entry in entries if entry.dtype in CASTABLE)
    usual = max(floats, key=floats.__getitem__, default=FLOATS["float32"])
    fills: dict[str, Entry] = {}
    for fill in rules.fills:
        target = fill.target.removeprefix(strip)
        if fill.part not in parts or target in given:
            continue
        if target in fills:
            findings.problem(f"{target} is filled twice, by two [[fill]] entries")
            continue
        try:
            shape = tuple(map(dimensions.value, fill.shape))
        except ConfigError as error:
            findings.problem(str(error))
            continue
        if min(shape, default=0) < 0 or _volume(shape) > MAX_ELEMENTS:
            findings.problem(f"{target}: a tensor cannot be of the shape {list(shape)}")
            continue
        if fill.value == "identity" and shape[0] != shape[1]:
            findings.problem(
                f"{target} {list(shape)}: no variable gives it, and an identity would have to be "
                "square"
            )
            continue
        # Positions times a rounded frequency would be far off.
        dtype: np.dtype[Any] = FLOATS["float32"] if fill.value == "frequencies" else usual
        fills[target] = Entry(target, (), (), shape, dtype, dtype, fill)
        findings.notes.append(f"{target}: filled with {fill.value}: {fill.reason}")
    return list(fills.values())


def check_required(
    rules: RuleSet,
    parts: Collection[str],
    architecture: Architecture | None,
    active: Collection[Match],
    counts: Mapping[str, int],
    entries: Iterable[Entry],
    family_parts: Collection[str],
    names: Sequence[str],
    findings: Findings,
) -> None:
    """Every required rule of a wanted part must have filled its targets, for every layer.

    `family_parts` are those that the family's usual rules require; `names` those of the variables
    that no rule took, among which near misses are looked for.
    """
    strip = architecture.strip if architecture else ""
    optional = architecture.optional_parts if architecture else set()
    filled = {entry.target for entry in entries}
    fired = {id(match.rule) for match in active}
    present = {match.rule.part for match in active}
    missing: dict[str, tuple[str, Rule | None]] = {}
    for rule in rules.rules:
        if not rule.required or rule.part not in parts:
            continue
        if rule.part in optional and rule.part not in present:
            continue
        domains = rule.domains(counts)
        if domains is None or rule.unstack is not None:
            if id(rule) not in fired:
                missing.setdefault(rule.targets[0], (rule.sources[0], rule))
            continue
        for groups in domains:
            if len(missing) >= _MOST_MISSING:
                break  # of several groups there may be very many combinations
            for target in rule.targets:
                name = fill_in(target, groups).removeprefix(strip)
                if name not in filled:
                    missing.setdefault(name, (rule.example(groups), rule))
    without = {*family_parts} - {rule.part for rule in rules.rules if rule.required}
    for part in sorted(without & {*parts} - optional):
        missing[f"all of {part}"] = "no variable of this checkpoint's layout", None
    for part in sorted(optional - present):
        findings.notes.append(
            f"the checkpoint has no {part}: the model is written without it, and a class of "
            "transformers that has one starts it at random"
        )
    if missing:  # what has a variable that does not do is told already
        tried = (fill_in(t, m.groups) for m in active if not m.rule.unstack for t in m.rule.targets)
        for target in tried:
            missing.pop(target.removeprefix(strip), None)
    if not missing:
        return
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
            for one, hint in zip(wanted, hints + [""] * len(wanted), strict=False)
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
