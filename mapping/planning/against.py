"""Whether a plan gives what the PyTorch model at hand has, as its strict loading would judge."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..findings import Findings, count, some
from ..plan import Entry
from ..rules.ops import Conv, Dense, Depthwise, Shape, Step
from ..target import Tensors

_MOST_HINTS = 100  # names that near ones are looked for, and that are looked through
_LAYERS: tuple[Step, ...] = (Dense(), Conv(), Depthwise())
_COUNTER = "num_batches_tracked"


def hold_against(
    target: Tensors,
    entries: Sequence[Entry],
    ties: Mapping[str, str],
    shown: Mapping[str, str],
    findings: Findings,
) -> dict[str, str]:
    """Find what the model lacks, has beside, or has in another shape; the ties as the model has it.

    What the model knows under two names is given by either, and gets the other as a tie. A tie to
    no tensor of the model is none. torch starts the counters of batch normalization itself.
    """
    given = {entry.target: entry for entry in entries}
    known = {alias: end for alias, end in ties.items() if alias in target}
    ends = {**{name: name for name in given}, **known}
    alike = _alike(target)
    for name in target:
        end = next((ends[other] for other in alike.get(name, ()) if other in ends), None)
        if name not in ends and end is not None:
            known[name] = end
            findings.notes.append(f"{name} is tied to {end}: the target has them as one tensor")
    for alias in ties.keys() - known.keys():
        findings.notes.append(f"{alias} is no tensor of the target: not tied to {ties[alias]}")
    lacking = [
        name
        for name in target
        if name not in given and name not in known and not _starts_itself(name, target)
    ]
    aliased = {*known.values()}
    strange = [name for name in given if name not in target and name not in aliased]
    _report_strange(strange, lacking, target, given, shown, findings)
    _report_lacking(lacking, strange, target, findings)
    _report_shapes(given, known, target, shown, findings)
    _report_several(alike, given, shown, findings)
    return known


def _alike(target: Tensors) -> dict[str, list[str]]:
    """Of each tensor that the model knows under several names, all of them."""
    groups: dict[str, list[str]] = {}
    for name, tensor in target.items():
        if tensor.same_as is not None:
            groups.setdefault(tensor.same_as, [tensor.same_as]).append(name)
    return {name: names for names in groups.values() for name in names}


def _starts_itself(name: str, target: Tensors) -> bool:
    """Whether strict loading does without: torch.nn.modules.batchnorm, _load_from_state_dict."""
    layer = name.removesuffix(_COUNTER)
    return layer != name and f"{layer}running_mean" in target


def _made_of(entry: Entry, shown: Mapping[str, str]) -> str:
    if entry.fill is not None:
        return "a fill"
    return some([shown.get(name, name) for name in entry.sources])


def _report_strange(
    strange: Sequence[str],
    lacking: Sequence[str],
    target: Tensors,
    given: Mapping[str, Entry],
    shown: Mapping[str, str],
    findings: Findings,
) -> None:
    if not strange:
        return
    hints = _near(strange, lacking, {name: tensor.shape for name, tensor in target.items()}, given)
    items = [
        f"tensor {name} {list(given[name].shape)} of {_made_of(given[name], shown)}: the target "
        f"has none of this name{hint}"
        for name, hint in zip(strange, hints, strict=True)
    ]
    findings.problem(
        f"{count(strange, 'tensor')} that the target does not have: {some(strange)}"
        f"{next(filter(None, hints), '')}; leave out what is too much with [[drop]]",
        items,
    )


def _near(
    names: Sequence[str],
    others: Sequence[str],
    shapes: Mapping[str, Shape],
    given: Mapping[str, Entry],
) -> list[str]:
    """Of each name the nearest of the others as a hint, those of the same shape first."""
    from difflib import get_close_matches

    hints = []
    for number, name in enumerate(names):
        own = [other for other in others if shapes[other] == given[name].shape]
        close = (
            get_close_matches(name, own[:_MOST_HINTS], 1, 0.6)
            or get_close_matches(name, others[:_MOST_HINTS], 1, 0.8)
            if number < _MOST_HINTS
            else []
        )
        hints.append(f"; near {name} is {close[0]}, which nothing gives" if close else "")
    return hints


def _report_lacking(
    lacking: Sequence[str], strange: Sequence[str], target: Tensors, findings: Findings
) -> None:
    from difflib import get_close_matches

    if not lacking:
        return
    hints = []
    for number, name in enumerate(lacking):
        near = strange[:_MOST_HINTS] if number < _MOST_HINTS else ()
        close = get_close_matches(name, near, 1, 0.7)
        hints.append(f"; near it is {close[0]}, which it does not have" if close else "")
    described = [f"{name} {list(target[name].shape)}" for name in lacking]
    findings.problem(
        f"{count(lacking, 'tensor')} of the target that nothing gives: {some(described)}"
        f"{next(filter(None, hints), '')}",
        [
            f"tensor {one} of the target: nothing gives it{hint}"
            for one, hint in zip(described, hints, strict=True)
        ],
    )


def _report_shapes(
    given: Mapping[str, Entry],
    ties: Mapping[str, str],
    target: Tensors,
    shown: Mapping[str, str],
    findings: Findings,
) -> None:
    wrong = []
    for name, end in [*((name, name) for name in given), *ties.items()]:
        entry = given[end]
        if name in target and target[name].shape != entry.shape:
            wanted = target[name].shape
            wrong.append(
                f"{name} has the shape {list(entry.shape)}, in the target {list(wanted)}: "
                f"made of {_made_of(entry, shown)} by {entry.operation}{_fitting(entry, wanted)}"
            )
    if wrong:
        findings.problem(
            f"{count(wrong, 'tensor')} of another shape than in the target: {some(wrong, 1)}",
            [f"tensor {one}" for one in wrong],
        )


def _fitting(entry: Entry, wanted: Shape) -> str:
    """Which layers' operations give that shape, for a variable taken as it is."""
    if entry.ops or entry.fill is not None:
        return ""
    fitting = []
    for op in _LAYERS:
        try:
            if op.shape(entry.shape) == wanted:
                fitting.append(f'["{op.name}"]')
        except ValueError:
            continue
    if not fitting:
        return ""
    flat = ", and behind a flatten with its sizes" if '["dense"]' in fitting else ""
    return f"; of this shape make it ops = {' or '.join(fitting)}{flat}"


def _report_several(
    alike: Mapping[str, Sequence[str]],
    given: Mapping[str, Entry],
    shown: Mapping[str, str],
    findings: Findings,
) -> None:
    """What is one tensor in the model, but is made of different variables."""
    groups: Iterable[tuple[str, ...]] = dict.fromkeys(map(tuple, alike.values()))
    for names in groups:
        entries = [given[name] for name in names if name in given]
        if len({(entry.sources, entry.ops) for entry in entries}) > 1:
            made = " and ".join(f"{e.target} of {_made_of(e, shown)}" for e in entries)
            findings.problem(
                f"one tensor in the target, but made of several variables: {made}; the last would "
                "be loaded, so leave the others out with [[drop]]"
            )
