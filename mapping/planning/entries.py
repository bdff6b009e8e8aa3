"""The tensors of a plan: what the rules make of variables, what is filled, what is tied."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from tfreader.checkpoint import TensorInfo
from tfreader.errors import ConfigError, RuleError

from ..findings import Findings, count, some
from ..plan import CASTABLE, FLOATS, Entry
from ..rules.ops import (
    MAX_ELEMENTS,
    Changed,
    Divide,
    Elementwise,
    Multiply,
    Op,
    Shape,
    Split,
    Step,
    Unstack,
    follow,
    within,
)
from ..rules.patterns import compiled
from ..rules.rule import Architecture, Fill, Rule, RuleSet, resolve_ties
from ..rules.schema import quoted
from ..rules.templates import fill_in
from .following import Followed
from .matching import Match
from .sizes import Sizes

_DIFFER = (
    "where a rule takes several variables, a group such as (?P<n>...) in the source and {n} in the "
    "target tell their tensors apart; else narrow the source, or leave out what is too much with "
    "--ignore REGEX"
)
_MOST_BYTES = (1 << 63) - 1  # that numpy can address


def make_entries(
    active: Iterable[Match],
    followed: Followed,
    kind: Architecture,
    dtype: str,
    sizes: Sizes,
    shown: Mapping[str, str],
    findings: Findings,
) -> tuple[list[Entry], dict[str, str]]:
    """The entries that the rules make, and the variables that give way, with the reason.

    Where rules of the user's own give a tensor, none of the family does.
    """
    own = followed.own.rules
    grouped: dict[tuple[int, tuple[tuple[str, str], ...]], list[Match]] = defaultdict(list)
    for match in active:
        grouped[id(match.rule), tuple(match.groups.items())].append(match)
    entries: list[Entry] = []
    dropped: dict[str, str] = {}
    filled: dict[str, tuple[str, bool]] = {}
    made_of: dict[tuple[Any, ...], _Made] = {}  # a rule's variables are alike in most models
    for found in sorted(grouped.values(), key=lambda found: found[0].rule not in own):
        if len(found) > 1:
            found.sort(key=lambda match: match.source)
        rule = found[0].rule
        if [match.source for match in found] != list(range(len(rule.sources))):
            names = some([shown[match.info.name] for match in found], 8)
            targets = ", ".join(rule.targets)
            findings.problem(
                f"{targets} is made of {count(rule.sources, 'variable')}, found {names}; "
                + (_DIFFER if len(found) > len(rule.sources) else "the rule joins them all")
            )
            continue
        infos = [match.info for match in found]
        alike = (id(rule), *((info.dtype, info.shape) for info in infos))
        try:
            made = made_of.get(alike)
            if made is None:
                only_floats = followed.family is not None
                made = made_of[alike] = _apply(rule, infos, dtype, sizes, only_floats=only_floats)
            given = list(made.entries(found, kind.strip))
        except ValueError as error:
            if isinstance(error, ConfigError):
                raise
            findings.problem(f"variable {shown[found[0].info.name]}: {error}")
            continue
        for entry in given:
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
    return entries, dropped


class _Output(NamedTuple):
    """A tensor that a rule makes: `groups` are those of its operations."""

    template: str
    groups: Mapping[str, str]
    ops: tuple[Op, ...]
    shape: Shape


class _Made(NamedTuple):
    """What a rule makes of sources of certain types and shapes."""

    rule: Rule
    dtype: np.dtype[Any]
    source_dtype: np.dtype[Any]
    outputs: Sequence[_Output]

    def entries(self, found: Sequence[Match], strip: str) -> Iterator[Entry]:
        groups, sources = found[0].groups, tuple(match.info.name for match in found)
        for template, own, ops, shape in self.outputs:
            values = {**groups, **own} if own else groups
            target = fill_in(template, values, self.rule.tables)
            yield Entry(
                target.removeprefix(strip), sources, ops, shape, self.dtype, self.source_dtype
            )


def _apply(
    rule: Rule, infos: Sequence[TensorInfo], dtype: str, sizes: Sizes, *, only_floats: bool
) -> _Made:
    """What one rule makes of its sources. ValueError where shapes do not fit."""
    numpy = infos[0].dtype.numpy
    is_computed = any(isinstance(op, Elementwise) for op in within(rule.ops))
    if numpy is None or not all(
        info.dtype == infos[0].dtype or (is_computed and _counts_as(info.dtype.numpy, numpy))
        for info in infos
    ):
        kinds = ", ".join(info.dtype for info in infos)
        raise ValueError(f"values of type {kinds} cannot be converted")
    output = FLOATS[dtype] if dtype != "keep" and numpy in CASTABLE else numpy
    if rule.dtype is not None:
        output = np.dtype(FLOATS.get(rule.dtype, rule.dtype))
        if not (np.can_cast(numpy, output, "safe") or {numpy, output} <= CASTABLE):
            raise ValueError(f"{rule.dtype} does not hold all values of type {infos[0].dtype}")
    if only_floats and rule.dtype is None and numpy not in CASTABLE:
        raise ValueError(f"values of type {infos[0].dtype}, where weights are of a float type")
    resolved = [op.resolve(sizes.value) for op in rule.ops]
    ops = [op for op in resolved if not isinstance(op, Split | Unstack)]  # which are in _outputs
    if numpy not in CASTABLE and any(isinstance(op, Multiply | Divide) for op in within(ops)):
        raise ValueError(f"values of type {infos[0].dtype}, which cannot be multiplied or divided")
    for op in within(ops):
        if isinstance(op, Changed):
            op.check(numpy)
    (shape,), _ = follow(ops, [info.shape for info in infos])
    if _volume(shape) * max(numpy.itemsize, output.itemsize) > _MOST_BYTES:
        raise ValueError(f"{rule.ops[-1]} makes the shape {list(shape)}, which no tensor can have")

    outputs = []
    for template, groups, last in _outputs(rule, shape):
        final = shape
        for op in last:
            final = op.shape(final)
        outputs.append(_Output(template, groups, (*ops, *last), final))
    return _Made(rule, output, numpy, outputs)


def _counts_as(other: np.dtype[Any] | None, numpy: np.dtype[Any]) -> bool:
    """Whether numbers of one type may be computed with as if they were of another."""
    return other is not None and np.can_cast(other, numpy, "same_kind")


def _volume(shape: Shape) -> int:
    """The elements of a shape, axes without any aside: numpy counts so what it can address."""
    return prod(size or 1 for size in shape)


def _outputs(rule: Rule, shape: Shape) -> list[tuple[str, Mapping[str, str], tuple[Step, ...]]]:
    """Per tensor that a rule makes: its target template, further groups and last operations."""
    last = rule.ops[-1] if rule.ops else None
    if isinstance(last, Unstack):
        return [
            (rule.targets[0], {last.index: str(i)}, ops) for i, ops in enumerate(last.pieces(shape))
        ]
    if isinstance(last, Split):
        pieces = last.pieces(shape, len(rule.targets))
        return [(target, {}, ops) for target, ops in zip(rule.targets, pieces, strict=True)]
    return [(rule.targets[0], {}, ())]


def make_fills(
    rules: RuleSet,
    kind: Architecture,
    entries: Sequence[Entry],
    sizes: Sizes,
    findings: Findings,
) -> list[Entry]:
    """Entries for the tensors that no variable gives."""
    given = {entry.target for entry in entries}
    floats = Counter(entry.dtype for entry in entries if entry.dtype in CASTABLE)
    usual = max(floats, key=floats.__getitem__, default=FLOATS["float32"])
    fills: dict[str, Entry] = {}
    for fill, name, beside in _fills(rules, entries, findings):
        target = name.removeprefix(kind.strip)
        if fill.part not in kind.all_parts or target in given:
            continue
        if target in fills and fill.like is not None and fills[target].shape == beside:
            continue  # two patterns that say the same
        if target in fills:
            findings.problem(f"{target} is filled twice, by two [[fill]] entries")
            continue
        try:
            shape = tuple(map(sizes.value, fill.shape)) if fill.shape is not None else beside
        except ConfigError as error:
            findings.problem(str(error))
            continue
        if problem := _unfit(fill, shape):
            findings.problem(f"{target} {list(shape)}: no variable gives it, and {problem}")
            continue
        # Positions times a rounded frequency would be far off.
        dtype: np.dtype[Any] = FLOATS["float32"] if fill.value == "frequencies" else usual
        if fill.dtype is not None:
            dtype = np.dtype(FLOATS.get(fill.dtype, fill.dtype))
        fills[target] = Entry(target, (), (), shape, dtype, dtype, fill)
    alike: dict[str, list[str]] = defaultdict(list)
    for target, entry in fills.items():
        assert entry.fill is not None
        alike[f"filled with {entry.fill.value}: {entry.fill.reason}"].append(target)
    findings.notes += (f"{some(targets)}: {said}" for said, targets in alike.items())
    return list(fills.values())


def _fills(
    rules: RuleSet, entries: Sequence[Entry], findings: Findings
) -> Iterator[tuple[Fill, str, Shape]]:
    """Each fill, with the name of its tensor, and the shape of the one that it is put beside."""
    for fill in rules.fills:
        if fill.like is None:
            yield fill, fill.target, ()
            continue
        pattern = compiled(fill.like, "fill")
        found = False
        for entry in entries:
            if match := pattern.fullmatch(entry.target):
                found = True
                try:
                    name = fill_in(fill.target, match.groupdict(""), fill.tables)
                except RuleError as error:
                    findings.problem(f"fill beside {entry.target}: {error}")
                    continue
                yield fill, name, entry.shape
        if not found and fill.required:
            findings.problem(f"fill like {quoted(fill.like)} matches no tensor")


def _unfit(fill: Fill, shape: Shape) -> str | None:
    """Why no fill can be of such a shape; None where it can."""
    if min(shape, default=0) < 0 or _volume(shape) > MAX_ELEMENTS:
        return "a tensor cannot be of such a shape"
    if fill.value == "identity" and shape[0] != shape[1]:
        return "an identity would have to be square"
    if fill.value in ("sinusoids", "timing_signal") and shape[1] % 2:
        return "a row of as many sines as cosines would have to be of an even size"
    return None


def find_ties(
    rules: RuleSet,
    kind: Architecture,
    counts: Mapping[str, int],
    entries: Iterable[Entry],
    findings: Findings,
) -> dict[str, str]:
    """The other names of tensors, but those to which a variable of its own gives a tensor."""
    tied = (
        names for tie in rules.ties if tie.part in kind.all_parts for names in tie.names(counts)
    )
    strip = kind.strip
    stripped = ((a.removeprefix(strip), t.removeprefix(strip)) for a, t in tied)
    ties, problems = resolve_ties(stripped, {entry.target for entry in entries})
    if problems and not findings.problems:  # else they are likely to come from those
        findings.problem(f"{count(problems, 'tie')} to no tensor: {some(problems)}", problems)
    return ties
