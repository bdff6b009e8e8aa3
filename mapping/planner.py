"""Planning: from names, shapes and dtypes alone, before any value is read.

A plan is total on both sides: each variable is used or left out for a stated reason, each tensor
that the model needs is filled once.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any, TypedDict

from tfreader.checkpoint import Checkpoint, TensorInfo
from tfreader.errors import ConfigError, PlanError

from .advice import advise
from .buffers import buffers
from .config import SourceConfig, finish_config, read_config
from .detect import detect, fitting, not_built_in, side_by_side, under_scopes
from .dimensions import Dimensions
from .entries import check_required, make_entries, make_fills
from .extension import bind_own, check_own, extended, own_of, replaced
from .family import Beside, Config, Family, Layout
from .findings import Findings, count, some
from .matching import Match, Matches, account, ignored, inside, match, report_unknown
from .model_class import model_class
from .plan import FLOATS, Entry, Plan
from .rule import Architecture, RuleSet, resolve_ties
from .rule_file import load_rules
from .variables import Chosen, Seen, choose, look


class PlanOptions(TypedDict, total=False):
    """The options of `make_plan` that `convert` and `load_state_dict` pass on to it."""

    architecture: str | None
    dtype: str
    overrides: Mapping[str, Any] | None
    scope: str
    ignore: Sequence[str]
    ignore_weights: Sequence[str]
    moving_averages: str
    finetuning_task_name: str | None


def make_plan(
    checkpoint: Checkpoint,
    model_type: str = "auto",
    *,
    config: str | PathLike[str] | Mapping[str, Any] | None = None,
    vocab: str | PathLike[str] | None = None,
    rules: str | PathLike[str] | RuleSet | None = None,
    architecture: str | None = None,
    dtype: str = "keep",
    overrides: Mapping[str, Any] | None = None,
    scope: str = "",
    ignore: Sequence[str] = (),
    ignore_weights: Sequence[str] = (),
    moving_averages: str = "drop",
    finetuning_task_name: str | None = None,
) -> Plan:
    """Plan the conversion of a checkpoint.

    `config` is the original config file, its folder, or its contents; by default the one in or
    beside the checkpoint. `vocab` is the vocabulary's file or folder, by default there too.
    `rules`, a rule set or the path of a rule file, replaces the family's, or adds to them where it
    extends a family. `architecture` overrides the model class that the heads found decide. `dtype`
    ("float16", "bfloat16", "float32" or "keep") is that of all floating-point tensors. `overrides`
    sets keys of the written config.

    Only variables below `scope` are mapped, by their names without it. Variables that fully match a
    regex of `ignore` are left out, unless they lie inside the model: those only where they match
    one of `ignore_weights`, as the model computes something else without them. `moving_averages`
    is "drop", or "use" to convert each variable's moving average in its place.

    Raises PlanError, whose `problems` lists all that does not fit; UnknownModelTypeError;
    ConfigError; RuleError.
    """
    if dtype != "keep" and dtype not in FLOATS:
        raise ConfigError(f"unknown dtype {dtype!r}; known: {', '.join(FLOATS)}, keep")
    if moving_averages not in ("drop", "use"):
        raise ConfigError(f"unknown choice of moving averages {moving_averages!r}: drop or use")
    given = load_rules(rules) if isinstance(rules, str | PathLike) else rules
    findings = Findings(notes=[*checkpoint.notes])

    seen = look(checkpoint, scope, findings)
    chosen = choose(seen, moving_averages, given, findings)
    family, layout, told = detect(seen, chosen, model_type, given)
    source = read_config(
        checkpoint,
        family,
        model_type,
        config,
        overrides or {},
        finetuning_task_name,
        given,
        vocab,
    )
    findings.notes = [*told, *findings.notes, *source.notes]
    sizes = dict(source.values)

    outside = ignored(ignore, "--ignore", seen, chosen, findings)
    weights = ignored(ignore_weights, "--ignore-weights", seen, chosen, findings)
    # With what is ignored, as a layout must not take an unused weight for one that is.
    known = {key: info for key, info in chosen.variables.items() if key not in weights}
    variables = {key: info for key, info in known.items() if key not in outside}
    spelled = spellings(known, seen)
    followed = _rules(seen.path, family, layout, given, sizes, spelled, source, findings)
    own = own_of(followed, given)

    matches = match(chosen, seen, followed)
    kind = model_class(
        checkpoint.path,
        followed,
        family.labels if family is not None else {},
        _present(matches, variables, outside, followed),
        architecture,
        findings,
    )
    parts = kind.all_parts if kind else followed.parts
    active, unknown = account(
        seen, variables, matches, parts, kind, followed, own.rules, chosen, findings
    )
    # What a family's model is made of is known; rules of one's own say it themselves.
    within = inside([*unknown, *outside], seen, active, kind) if family is not None else {}
    report_unknown(unknown, within, seen, findings)
    asked = kind if architecture is not None else None
    outer = {*unknown} - {*within} | (_taken(matches, parts, layout) if asked and layout else set())
    findings.advice = _advice(family, followed, sizes, spelled, seen, outer, asked)
    kept = [
        key
        for key in outside
        if (key in within or (family and _is_part(matches, key, parts)))
        and not replaced(matches[key], active, own.rules)
    ]
    _leave_out(outside, weights, kept, seen, chosen, findings)
    _tell_dropped(own, variables, matches, active, kind, seen, chosen, findings)

    dimensions = Dimensions(sizes, source)
    counts = dimensions.count_groups(followed.counts, active, findings)
    dimensions.bind(active, seen.shown, findings)
    strip, usual_rules = kind.strip if kind else "", _usual(family)
    entries = make_entries(
        active,
        own.rules,
        strip,
        dtype,
        dimensions,
        seen.shown,
        family is not None,
        chosen.dropped,
        findings,
    )
    bind_own(own, followed, usual_rules, matches, strip, entries, dimensions, findings)
    entries += make_fills(followed, parts, strip, entries, dimensions, findings)
    check_own(own, followed, usual_rules, matches, kind, entries, findings)
    usual = _usual_parts(family) if family is not None and followed is not given else ()
    names = [seen.shown[key] for key in unknown]
    check_required(followed, parts, kind, active, counts, entries, usual, names, findings)
    ties = _ties(followed, parts, counts, strip, entries, findings)

    finished: Config | None = None
    if family is not None and not findings.problems:
        finished = finish_config(family, sizes, source, kind, spelled, entries, ties, findings)
    plan = Plan(
        path=checkpoint.path,
        family=family,
        rules=followed,
        rules_given=given is not None,
        architecture=kind.name if kind else None,
        entries=tuple(entries),
        dropped=chosen.dropped,
        ties=ties,
        config=finished,
        original_config=source.original,
        config_path=source.path,
        beside=source.beside,
        notes=(
            *findings.notes,
            *(advise(entries, variables.values(), seen.names) if given else ()),
        ),
        shown=seen.shown,
    )
    if findings.problems:
        raise _error(plan, seen, chosen, findings)
    return plan


def rules_for(checkpoint: Checkpoint, model_type: str = "auto", scope: str = "") -> RuleSet:
    """The rules of a family as a checkpoint needs them. Raises what `make_plan` raises for them."""
    findings = Findings()
    seen = look(checkpoint, scope, findings)
    chosen = choose(seen, "drop", None, findings)
    family, layout, _ = detect(seen, chosen, model_type, None)
    source = read_config(checkpoint, family, model_type, None, {}, None)
    spelled = spellings(chosen.variables, seen)
    config = dict(source.values)
    rules = _rules(seen.path, family, layout, None, config, spelled, source, findings)
    if findings.problems:
        raise PlanError(f"{checkpoint.path}: {findings.summary()}", findings.listed())
    return rules


def spellings(variables: Mapping[str, TensorInfo], seen: Seen) -> dict[str, TensorInfo]:
    """The variables under all their names."""
    return {name: info for key, info in variables.items() for name in seen.names_of(key)}


def _rules(
    path: str,
    family: Family | None,
    layout: Layout | None,
    given: RuleSet | None,
    config: Config,
    spelled: Mapping[str, TensorInfo],
    source: SourceConfig,
    findings: Findings,
) -> RuleSet:
    """The rules given, else the layout's for what the config and the variables tell.

    What the vocabulary, other files beside it and the layout tell is put into the config.
    """
    findings.notes += given.remarks if given is not None else ()
    if layout is None and family is not None:
        layout = family.layouts[0]
    if layout is None:
        assert given is not None
        return given
    if family is not None:
        config.update({**family.from_vocabulary(source.beside, spelled), **config})
    told = layout.from_settings(Beside.of(path, source.path), dict(config), spelled)
    findings.notes += told.notes
    config.update({**told.config, **config})
    for key, value in layout.describe(dict(config), spelled).items():
        if config.setdefault(key, value) != value:
            findings.problem(
                f"{key} = {config[key]!r} in {source.origin(key)}, but the checkpoint's variables "
                f"tell {value!r}: this config belongs to another model"
            )
    if given is not None and not given.extends:
        return given
    try:
        rules = layout.rules(dict(config), spelled)
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from None
    rules = replace(rules, drops=(*rules.drops, *buffers(spelled)))
    findings.notes += rules.remarks
    return rules if given is None else extended(rules, given, _usual(family))


def _advice(
    family: Family | None,
    rules: RuleSet,
    config: Config,
    spelled: Mapping[str, TensorInfo],
    seen: Seen,
    unknown: Collection[str],
    asked: Architecture | None,
) -> str:
    """What the family knows of variables outside the model that no rule does."""
    if family is None or not unknown:
        return ""
    infos = {key: info for key, info in seen.infos.items() if key in unknown}
    others = under_scopes([seen.names_of(key) for key in infos])
    if others:
        return "\n".join(
            f"under {scope}/ lies another model, {fit}: --scope "
            f"{shlex.quote(f'{seen.scope}/{scope}'.strip('/'))} converts it, "
            f"--ignore {shlex.quote(f'{re.escape(scope)}/.*')} leaves it out"
            for scope, fit in others
        )
    return family.advice(rules, config, spelled, spellings(infos, seen), asked)


def _taken(matches: Matches, parts: Collection[str], layout: Layout) -> set[str]:
    """What was taken for the head of another class by its name, and may be that of this one."""
    fixed = layout.rules({}, {}).rules
    guessed = {
        key: [found for found in own if found.rule.part not in parts and found.rule not in fixed]
        for key, own in matches.items()
    }
    return {key for key, own in guessed.items() if own and len(own) == len(matches[key])}


def _present(
    matches: Matches, variables: Iterable[str], outside: Iterable[str], rules: RuleSet
) -> list[Match]:
    """What a model class has to have.

    To ignore a head asks for another class, to ignore what a class is made of does not.
    """
    heads = {head for kind in rules.architectures for head in kind.heads}
    ignored = [found for key in outside for found in matches[key] if found.rule.part not in heads]
    return [found for key in variables for found in matches[key]] + ignored


def _is_part(matches: Matches, key: str, parts: Iterable[str]) -> bool:
    return any(found.rule.part in parts for found in matches[key])


def _leave_out(
    outside: Collection[str],
    weights: Collection[str],
    kept: Sequence[str],
    seen: Seen,
    chosen: Chosen,
    findings: Findings,
) -> None:
    """Leave out what is ignored; not what lies inside the model, unless the user says just that."""
    for key in outside:
        chosen.dropped[seen.infos[key].name] = "ignored as asked (--ignore)"
    for key in weights:
        reason = "ignored though inside the model (--ignore-weights)"
        chosen.dropped[seen.infos[key].name] = reason
    kept = [seen.shown[key] for key in kept if key not in weights]
    if kept:
        findings.problem(
            f"{count(kept, 'variable')} inside the model cannot be ignored, since without them it "
            f"would compute something else: {some(kept)}; map them with --rules FILE, or leave "
            "them out all the same with --ignore-weights REGEX",
            [f"variable {name}: inside the model, cannot be ignored" for name in kept],
        )
    if weights:
        shown = some([seen.shown[key] for key in weights])
        findings.notes.append(
            f"{count(weights, 'variable')} inside the model left out as asked (--ignore-weights): "
            f"the result does not compute what the original does: {shown}"
        )


def _tell_dropped(
    own: RuleSet,
    variables: Mapping[str, TensorInfo],
    matches: Matches,
    active: Sequence[Match],
    kind: Architecture | None,
    seen: Seen,
    chosen: Chosen,
    findings: Findings,
) -> None:
    """Say what a file that extends a family drops of the model, and no rule of it replaces."""
    reasons = {drop.reason for drop in own.drops}
    lost = [key for key, info in variables.items() if chosen.dropped.get(info.name) in reasons]
    lost = [
        seen.shown[key]
        for key in inside(lost, seen, active, kind)
        if not replaced(matches[key], active, own.rules)
    ]
    if lost:
        findings.notes.append(
            f"{count(lost, 'variable')} inside the model left out by [[drop]]: where they are "
            f"weights, the result does not compute what the original does: {some(lost)}"
        )


def _usual(family: Family | None) -> RuleSet:
    """The rules of the family's usual layout."""
    return family.layouts[0].rules({}, {}) if family is not None else RuleSet(())


def _usual_parts(family: Family) -> set[str]:
    """The parts that the family's usual rules require."""
    return {rule.part for rule in _usual(family).rules if rule.required}


def _ties(
    rules: RuleSet,
    parts: Iterable[str],
    counts: Mapping[str, int],
    strip: str,
    entries: Iterable[Entry],
    findings: Findings,
) -> dict[str, str]:
    """The other names of tensors, but those to which a variable of its own gives a tensor."""
    tied = (names for tie in rules.ties if tie.part in parts for names in tie.names(counts))
    stripped = ((a.removeprefix(strip), t.removeprefix(strip)) for a, t in tied)
    ties, problems = resolve_ties(stripped, {entry.target for entry in entries})
    if problems and not findings.problems:  # else they are likely to come from those
        findings.problem(f"{count(problems, 'tie')} to no tensor: {some(problems)}", problems)
    return ties


def _error(plan: Plan, seen: Seen, chosen: Chosen, findings: Findings) -> PlanError:
    kind = plan.architecture or "the rules"
    tail = ""
    if plan.family is not None:
        names = [name for key in chosen.variables for name in seen.names_of(key)]
        likely = list(dict.fromkeys(fit.family.model_type for fit in fitting(names)))
        likely += not_built_in(names)
        if plan.family.model_type not in likely:
            said = " or ".join(likely) or "of no family known here"
            tail = f"\nThe variables are {said}: is --model_type {plan.family.model_type} right?"
        if several := side_by_side(seen, chosen):
            tail += f"\nThe checkpoint holds {several}"
    tail += f"\n{findings.advice}" if findings.advice else ""
    message = f"{plan.path} does not fit {kind}: {findings.summary()}{tail}"
    return PlanError(message, findings.listed(), plan)
