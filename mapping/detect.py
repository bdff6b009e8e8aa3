"""Which family a checkpoint is of, as the names of its variables tell."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from tfreader.errors import PlanError

from .family import Family, families, get_family
from .rule import RuleSet

# Models that people take for one of the families.
_NOT_BUILT_IN = {"electra": r"electra/embeddings/.*|(?:discriminator|generator)_predictions/.*"}


def choose_family(
    path: str,
    names: Mapping[str, tuple[str, ...]],
    model_type: str,
    rules: RuleSet | None,
) -> tuple[Family | None, list[str]]:
    """The family asked for, or the one that the variables tell, and by which of them."""
    if model_type != "auto":
        return get_family(model_type), []
    if rules is not None:
        return get_family(rules.family) if rules.family else None, []
    found = fitting(names.values())
    if len(found) == 1:
        ((family, evidence),) = found.items()
        return family, [f"model type {family.model_type}, told by {' and '.join(evidence)}"]
    if found:
        kinds = ", ".join(family.model_type for family in found)
        raise PlanError(f"{path}: could be any of {kinds}; choose with --model_type")
    likely = "".join(f"; it looks like {name}" for name in not_built_in(names.values()))
    shown = ", ".join(list(names)[:3])
    raise PlanError(
        f"{path}: no known family has variables like {shown}{likely}\n"
        f"Known: {', '.join(families())}. For another model, write a rule file and pass --rules."
    )


def fitting(names: Iterable[tuple[str, ...]]) -> dict[Family, list[str]]:
    """The families that recognise these variables, each by the first that fits its evidence."""
    spelled = [name for spellings in names for name in spellings]
    found = {}
    for family in families().values():
        patterns = [re.compile(regex) for regex in family.evidence]
        evidence = [next(filter(pattern.fullmatch, spelled), None) for pattern in patterns]
        if all(evidence):
            found[family] = [name for name in evidence if name]
    return found


def not_built_in(names: Iterable[tuple[str, ...]]) -> list[str]:
    """Well-known models that no family is for, as far as these variables tell."""
    spelled = [name for spellings in names for name in spellings]
    return [
        f"{name} (not built in)"
        for name, regex in _NOT_BUILT_IN.items()
        if any(map(re.compile(regex).fullmatch, spelled))
    ]
