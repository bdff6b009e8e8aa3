"""The classes that a model may be of, and the tensors that the checkpoint gives each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from typing import Any, NamedTuple

from tfreader.checkpoint import Checkpoint
from tfreader.errors import ConfigError, PlanError, TFReaderError, UnknownModelTypeError

from ..families._hf_templates import classes, templates_for
from ..plan import Plan
from ..planning.planner import PlanOptions, make_plan
from ..rules.ops import Shape
from ..rules.rule import RuleSet
from .pairing import Pairing, pair

_BASE = re.compile(r"(?!\w*(?:LMHead|DoubleHeads|MT)Model)\w+Model")
_PRE_TRAINED = re.compile(
    r"\w+(?:LMHeadModel|MTModel|For(?:PreTraining|MaskedLM|CausalLM|NextSentencePrediction"
    r"|ConditionalGeneration|MaskedImageModeling))"
)


class Making(NamedTuple):
    """How tensors are made of a checkpoint, as far as that is said: arguments of `make_plan`."""

    model_type: str
    config: str | PathLike[str] | Mapping[str, Any] | None
    rules: str | PathLike[str] | RuleSet | None
    options: PlanOptions

    def plan(self, source: Checkpoint, architecture: str | None) -> Plan:
        options: PlanOptions = {**self.options, "architecture": architecture}
        return make_plan(source, self.model_type, config=self.config, rules=self.rules, **options)


def candidates(
    source: Checkpoint,
    shapes: Mapping[str, Shape],
    settings: Mapping[str, Any] | None,
    making: Making,
) -> list[tuple[Plan, Pairing]]:
    """Plans of the classes that the model may have, up to one whose tensors are the model's.

    First comes the class that the checkpoint's heads tell, then those that the model's config
    names, which may have the same tensors, then the others of the family; one that is asked for
    stands alone. Raises what `make_plan` raises where no class can be planned.
    """
    planned: list[tuple[Plan, Pairing]] = []
    failed: TFReaderError | None = None
    asked = making.options.get("architecture")
    named = named_classes(settings)
    wanted = [asked] if asked is not None else [None, *named]
    is_found = False
    for kind in wanted:  # which grows as the family's classes are known
        if is_found and kind not in named:
            break
        if kind is not None and any(plan.architecture == kind for plan, _ in planned):
            continue
        try:
            plan = making.plan(source, kind)
        except (PlanError, ConfigError, UnknownModelTypeError) as error:
            failed = failed or error
            tried: Plan | None = getattr(error, "plan", None)
        else:
            tried, made = plan, pair(plan, shapes)
            planned.append((plan, made))
            is_found = is_found or not made.distance(plan, shapes)
        if asked is None and tried is not None:
            others = [kind.name for kind in tried.rules.architectures]
            wanted += [name for name in others if name not in (*wanted, tried.architecture)]
    whole = planned[0][0] if planned else _whole(source, making)
    for kind in [asked] if asked is not None else [*named, *_bases(whole)]:
        if not is_found and kind is not None and (part := _part(whole, kind)) is not None:
            planned.append((part, pair(part, shapes)))
    if not planned:
        assert failed is not None
        raise failed
    return planned


def named_classes(settings: Mapping[str, Any] | None) -> list[str]:
    """The classes that a config names."""
    named = (settings or {}).get("architectures")
    return [name for name in named if isinstance(name, str)] if isinstance(named, list) else []


def _whole(source: Checkpoint, making: Making) -> Plan | None:
    """The plan of the class that the checkpoint is of, where the one that is asked for has none."""
    try:
        return making.plan(source, None)
    except TFReaderError:
        return None


def _bases(plan: Plan | None) -> list[str]:
    """The classes without a head of a type that TensorFlow had too."""
    told = (plan.config or {}).get("model_type") if plan else None
    return [name for name in classes() if _BASE.fullmatch(name) and _type_of(name) == told]


def _part(plan: Plan | None, kind: str) -> Plan | None:
    """The plan of a class of the same type that TensorFlow had too, and has fewer tensors.

    None where it is of another type, or needs tensors that the plan has not.
    """
    if plan is None or plan.family is None or not plan.family.any_type or not plan.config:
        return None
    if kind == plan.architecture or _type_of(kind) != plan.config.get("model_type"):
        return None
    template = templates_for(kind)[0]
    prefix = f"{template.base_model_prefix}."
    own = {entry.target: entry.target.removeprefix(prefix) for entry in plan.entries}
    if not _BASE.fullmatch(kind):
        own = {target: target for target in own}
    own = {target: name for target, name in own.items() if template.has(name)}
    if not own or template.missing([*own.values()], plan.config):
        return None
    entries = tuple(entry for entry in plan.entries if entry.target in own)
    return replace(plan, entries=entries, architecture=kind)


def _type_of(kind: str) -> str | None:
    found = templates_for(kind)
    return found[0].model_type if len(found) == 1 else None


class Lost(NamedTuple):
    """What a model has not of its checkpoint's head."""

    name: str
    is_of_pre_training: bool


def lost_heads(whole: Plan, plan: Plan) -> Lost | None:
    """The head of a checkpoint's own class that the class of the plan has not."""
    if whole.family is not None and whole.family.any_type:
        is_usual = _PRE_TRAINED.fullmatch(whole.architecture or "") is not None
        is_less = len(plan.entries) < len(whole.entries)
        return Lost("head", is_usual) if is_less else None
    usual = whole.rules.architectures[:1]
    if not (gone := sorted(_heads(whole) - _heads(plan))):
        return None
    known = {head for kind in usual for head in (*kind.heads, *kind.beside)}
    return Lost(f"{' and '.join(gone)} head", {*gone} <= known)


def _heads(plan: Plan) -> set[str]:
    kind = plan.rules.architecture(plan.architecture or "")
    return set(kind.heads) if kind is not None else set()
