"""A checkpoint of transformers' TensorFlow classes, read as the tensors of a PyTorch class."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from tfreader.checkpoint import TensorInfo
from tfreader.errors import PlanError

from ..family import Config, Made, Variables
from ..rules.ops import Op
from ._hf_exceptions import CHANGES, COMPOSED, LEGACY, OWN_LEVELS
from ._hf_names import levels, operations, plain, torch_name
from ._hf_templates import Template, classes, templates_for


class Named(NamedTuple):
    """A variable, by its readable name, as a tensor of the class."""

    name: str
    info: TensorInfo
    target: str
    ops: tuple[Op, ...]

    @property
    def made(self) -> Made:
        return Made(self.info.name, self.ops)


@dataclass
class Reading:
    """The variables as tensors of a class; `template` is None where nothing tells what it has.

    `dropped` are variables that the class has no use for, with the reason; `unknown` such as it has
    not.
    """

    kind: str
    template: Template | None
    named: Sequence[Named]
    dropped: Mapping[str, str]
    unknown: Sequence[str]
    config: Config

    @cached_property
    def missing(self) -> list[str]:
        """The tensors that the class has, and no variable gives."""
        if self.template is None:
            return []
        return self.template.missing({one.target for one in self.named}, self.config)

    @property
    def surplus(self) -> Mapping[str, Mapping[str, Any]]:
        """The tensors that the class has not with this config, and keys with which it has."""
        if self.template is None:
            return {}
        return self.template.surplus({one.target for one in self.named}, self.config)

    @property
    def doubles(self) -> list[tuple[Named, Named]]:
        """Variables that are the same tensor as one before them, and that one."""
        first: dict[str, Named] = {}
        pairs = [(one, first.setdefault(one.target, one)) for one in self.named]
        return [(one, other) for one, other in pairs if other is not one]

    @property
    def tied(self) -> list[tuple[Named, Named]]:
        """The tensors that are others in a model whose config ties them, and these."""
        if self.template is None or self.config.get("tie_word_embeddings") is False:
            return []
        by_target = {one.target: one for one in reversed(self.named)}
        ends = [(one, self.template.tied_to(target)) for target, one in by_target.items()]
        return [(one, by_target[end]) for one, end in ends if end in by_target]

    def is_tied(self, name: str) -> bool:
        """Whether a tensor is another that is there, in a model whose config ties them."""
        end = self.template.tied_to(name) if self.template is not None else None
        return any(one.target == end for one in self.named)

    @property
    def misfits(self) -> int:
        """How much speaks against this reading."""
        return len(self.unknown) + len(self.missing)


def read(config: Config, variables: Variables) -> Reading:
    """What the variables are: of the classes and spellings possible the ones that fit best.

    Raises PlanError where nothing tells the class.
    """
    kinds = _kinds(config, variables)
    if not kinds:
        raise PlanError(
            "nothing tells which class of transformers this is: name it with --architecture, such "
            "as BertForSequenceClassification"
        )
    possible = (
        _reading(kind, template, is_scoped, config, variables)
        for kind in kinds
        for template in templates_for(kind, config) or (None,)
        for is_scoped in (True, False)
    )
    readings: list[Reading] = []
    for reading in possible:
        readings.append(reading)
        if not reading.misfits:  # none fits better
            break
    return min(readings, key=lambda reading: reading.misfits)


def _kinds(config: Config, variables: Variables) -> list[str]:
    """The PyTorch classes that the scopes and the config name; one that was asked for alone."""
    asked = config.get("architectures")
    named = [kind.removeprefix("TF") for kind in asked or () if isinstance(kind, str)][:1]
    return [*dict.fromkeys((*class_scopes(name for name, _ in variables.own).values(), *named))]


def class_scopes(names: Iterable[str]) -> dict[str, str]:
    """The outermost scopes that are named as a TensorFlow class is, and PyTorch's class."""
    known = {plain(f"TF{kind}"): kind for kind in classes()}
    scopes = dict.fromkeys(name.partition("/")[0] for name in names)
    return {scope: known[plain(scope)] for scope in scopes if plain(scope) in known}


def _reading(
    kind: str, template: Template | None, is_scoped: bool, config: Config, variables: Variables
) -> Reading:
    model_type = str(config.get("model_type") or (template.model_type if template else ""))
    own = [
        Named(name, info, torch_name(inner), operations(inner, info.shape))
        for name, info in variables.own
        for inner in [_within_model(name, is_scoped)]
    ]
    for prefix in COMPOSED.get(model_type, ()):
        own = _without_level(prefix, own)
    changes = [change for change in CHANGES.get(model_type, ()) if change.applies(config)]
    times = Counter(one.name for one in own)
    dropped: dict[str, str] = {}
    kept: list[Named] = []
    for one in own:
        change = next(
            (c for c in changes if c.fits(one.target, one.info.name, times[one.name] == 1)), None
        )
        if change is None:
            kept.append(one)
        elif change.drop:
            dropped[one.info.name] = change.drop
        else:
            kept.append(one._replace(target=change.renamed(one.target), ops=change.ops or one.ops))
    if _is_base(kind):
        kept = _as_base(kept, template)
    named: list[Named] = []
    unknown: list[str] = []
    for one in kept:
        if template is None or template.has(one.target):
            named.append(one)
        elif reason := next((why for r, why in LEGACY.items() if re.fullmatch(r, one.target)), ""):
            dropped[one.info.name] = reason
        else:
            unknown.append(one.name)
    return Reading(kind, template, named, dropped, unknown, config)


def _within_model(name: str, is_scoped: bool) -> list[str]:
    """A name's levels without the model's scope.

    Files of a kind that leaves the scope out keep it in names with `model.` in them, and a loose
    variable's name is that of its layer, too.
    """
    parts = levels(name)
    return parts[1:] if len(parts) > 1 and (is_scoped or "model." in name) else parts


def _without_level(prefix: str, own: Sequence[Named]) -> list[Named]:
    """The tensors, but for a level that all have after the prefix, around a model in a model."""
    inner = {
        one.target.removeprefix(prefix).partition(".")[0]
        for one in own
        if one.target.startswith(prefix)
    }
    if len(inner) != 1 or inner & OWN_LEVELS:
        return [*own]
    (level,) = inner
    around = f"{prefix}{level}."
    return [
        one._replace(target=prefix + one.target.removeprefix(around))
        if one.target.startswith(around)
        else one
        for one in own
    ]


def _is_base(kind: str) -> bool:
    """Whether a class is a model without a head, whose tensors do not say so in their names."""
    heads = ("LMHeadModel", "DoubleHeadsModel", "SamVisionModel")
    return kind.endswith("Model") and not kind.endswith(heads)


def _as_base(own: Sequence[Named], template: Template | None) -> list[Named]:
    """The tensors of a model without a head, which have no name for the whole model around theirs.

    That is the first level of all names, or where the class's are known, of those that it has not.
    """
    is_shared = len({one.target.partition(".")[0] for one in own}) == 1

    def target(name: str) -> str:
        inner = name.partition(".")[2]
        if template is None:
            return inner if is_shared and inner else name
        return inner if not template.has(name) and template.has(inner) else name

    return [one._replace(target=target(one.target)) for one in own]
