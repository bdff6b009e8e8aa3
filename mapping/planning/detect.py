"""Which family a checkpoint is of, and how it spells it, as the names of its variables tell."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from tfreader.errors import PlanError, RuleError, UnknownModelTypeError
from tfreader.system import quoted

from ..families import OF_ANY_TYPE, families, get_family
from ..family import Family, Layout
from ..findings import some
from ..left_out import told_by
from ..rules.rule import RuleSet
from .variables import Chosen, Seen, averages_of

_MOST_SCOPES = 1000  # that are tried for a hint
_DEEPEST_SCOPE = 8


class Fit(NamedTuple):
    """A family and a layout whose evidence there is: for each regex the first name that matches."""

    family: Family
    layout: Layout
    evidence: tuple[str, ...]

    def __str__(self) -> str:
        several = len(self.family.layouts) > 1
        return self.family.model_type + (f" ({self.layout.name})" if several else "")


def detect(
    seen: Seen, chosen: Chosen, model_type: str, rules: RuleSet | None
) -> tuple[Family | None, Layout | None, list[str]]:
    """The family asked for, or that the variables tell; its layout; and what told them.

    Raises UnknownModelTypeError, PlanError where the variables are of none or of several.
    """
    if rules is not None and model_type == "auto":
        model_type = rules.extends or rules.family or ""
    names = [name for key in chosen.variables for name in seen.names_of(key)]
    if model_type != "auto":
        is_asked = model_type or rules is None
        family = _asked(model_type, rules, names, seen.format) if is_asked else None
        if family is None or (rules is not None and not rules.extends):
            return family, None, []
        fits = list(fitting(names, [family], seen.format, bool(seen.training)))
        if not fits:
            return family, family.layouts[0], []
    else:
        if others := told_by(names):
            raise PlanError(f"{seen.path}: {others[0]}", code="not-converted")
        fits = list(fitting(names, kind=seen.format, trained=bool(seen.training)))
    if len(fits) == 1:
        ((family, layout, evidence),) = fits
        return family, layout, [f"model type {fits[0]}, told by {' and '.join(evidence)}"]
    if fits:
        kinds = ", ".join(map(str, fits))
        hint = side_by_side(seen, chosen) or "choose with --model_type"
        raise PlanError(f"{seen.path}: could be any of {kinds}; {hint}", code="several-model-types")
    raise _unknown(seen, names)


def _asked(model_type: str, rules: RuleSet | None, names: Sequence[str], kind: str) -> Family:
    """The family of that name, or the one that has models of any type where these are of it."""
    of_any_type = get_family(OF_ANY_TYPE)
    if rules is None and next(fitting(names, [of_any_type], kind), None):
        return of_any_type
    try:
        return get_family(model_type)
    except UnknownModelTypeError as error:
        if rules is None or model_type not in (rules.extends, rules.family):
            raise
        raise RuleError(f"{rules.name}: {error}") from None


def fitting(
    names: Sequence[str],
    among: Iterable[Family] | None = None,
    kind: str = "",
    trained: bool = False,
) -> Iterator[Fit]:
    """The families and layouts, of all or of those `among` them, that recognise these variables.

    `kind` is the checkpoint's format, and `trained` says that it has what training leaves, where it
    is of the whole checkpoint.
    """
    for family in families().values() if among is None else among:
        for layout in family.layouts:
            if kind in layout.formats:
                yield Fit(family, layout, (f"the format {kind}",))
            elif (evidence := layout.told_by(names, trained)) is not None:
                yield Fit(family, layout, evidence)


def _unknown(seen: Seen, names: Sequence[str]) -> PlanError:
    """The error for a checkpoint of no known family, with what would help."""
    examples = seen.examples()
    said = f"{seen.path}: no known family has variables like {some(examples) or 'these'}"
    averages = {base: key for base, key in averages_of(seen, seen.training) if base is not None}
    bases = [name for base in averages for name in seen.names_of(base)]
    if averages and (fit := next(fitting(bases), None)):
        raw = "no raw values" if not averages.keys() & seen.infos.keys() else "few raw values"
        return PlanError(
            f"{seen.path}: {fit} by {len(averages)} moving averages, and {raw}: pass "
            "--moving-averages use",
            code="averages-alone",
            model_type=fit.family.model_type,
        )
    if not examples and not averages:
        return _nothing(seen)
    spelled = [seen.names_of(key) for key in seen.infos if key not in seen.training]
    averaged = [seen.names_of(base) for base in averages]
    outer = f"{seen.scope}/" if seen.scope else ""
    for found, more in ((spelled, ""), (averaged, " --moving-averages use")):
        scopes = [
            f"{fit} under --scope {quoted(outer + scope)}{more}"
            for scope, fit in under_scopes(found)
        ]
        if scopes:
            return PlanError(f"{said}\nIt is {' or '.join(scopes)}.", code="other-scope")
    if seen.scope and (whole := next(fitting([*seen.infos, *seen.shown.values()]), None)):
        return PlanError(
            f"{seen.path}: below {seen.scope}/ lies part of {whole}: leave out --scope",
            code="other-scope",
        )
    if seen.nameless:  # as those of TensorFlow 2 are stored there
        return PlanError(f"{seen.nameless}; it has the variables' names", code="missing-shard")
    return PlanError(
        f"{said}\nKnown: {', '.join(families())}. For another model, write a rule file, or let "
        "`tfreader suggest` write one, and pass it with --rules.",
        code="unknown-model",
    )


def _nothing(seen: Seen) -> PlanError:
    """The error for a checkpoint without a variable that could be a weight."""
    if not seen.infos:
        return PlanError(f"{seen.path}: holds no variables", code="no-variables")
    return PlanError(
        f"{seen.path}: holds no weights, only what training left beside them: "
        f"{some([seen.shown[key] for key in seen.infos])}; pass the checkpoint that has the model, "
        "or, if these are its weights, a rule file that names them by --rules",
        code="training-state-alone",
    )


def under_scopes(spellings: Sequence[Sequence[str]]) -> list[tuple[str, Fit]]:
    """The scopes under which lies a model of a known family, of variables under all their names."""
    names = [name for own in spellings for name in own]
    scopes: dict[str, None] = {}
    firsts = [
        re.compile(layout.evidence[0])
        for family in families().values()
        for layout in family.layouts
    ]
    for name in names:
        for slash in islice(re.finditer("/", name), _DEEPEST_SCOPE):
            scope, rest = name[: slash.start()], name[slash.end() :]
            if scope not in scopes and any(first.fullmatch(rest) for first in firsts):
                scopes[scope] = None
        if len(scopes) > _MOST_SCOPES:
            break
    found: list[tuple[str, Fit]] = []
    for scope in sorted(scopes, key=lambda scope: (len(scope), scope)):
        if any(scope.startswith(outer + "/") for outer, _ in found):
            continue
        inner: list[str] = []
        for own in spellings:
            below = [name[len(scope) + 1 :] for name in own if name.startswith(scope + "/")]
            inner += (*below, *own) if below else ()
        found += [(scope, fit) for fit in fitting(inner)]
    return found


def side_by_side(seen: Seen, chosen: Chosen) -> str:
    """The scopes of several models that share no variable, as a hint; empty where there are not."""
    spelled = {key: seen.names_of(key) for key in chosen.variables}
    outer = f"{seen.scope}/" if seen.scope else ""
    for _ in range(_DEEPEST_SCOPE):  # one scope around them all, and again
        found: dict[str, Fit] = {}
        taken: set[str] = set()
        for scope, fit in under_scopes([*spelled.values()]):
            start = f"{scope}/"
            inner = {key for key, own in spelled.items() if any(n.startswith(start) for n in own)}
            if not inner & taken:
                taken |= inner
                found[scope] = fit
        if len(found) != 1:
            break
        (scope,) = found
        spelled = {
            key: tuple(name.removeprefix(f"{scope}/") for name in own)
            for key, own in spelled.items()
            if key in taken
        }
        outer += f"{scope}/"
    kinds = [f"{fit} under --scope {quoted(outer + scope)}" for scope, fit in found.items()]
    return f"several models: {', '.join(kinds)}" if len(kinds) > 1 else ""
