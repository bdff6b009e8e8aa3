"""The error of a plan that does not fit, with what may help."""

from __future__ import annotations

import re
from collections.abc import Collection

from tfreader.errors import PlanError
from tfreader.system import quoted

from ..findings import Findings
from ..left_out import told_by
from ..plan import Plan
from ..rules.rule import Architecture
from .accounting import Accounts
from .detect import fitting, side_by_side, under_scopes
from .following import Followed
from .matching import Matches
from .variables import Chosen, Seen, spellings


def refusal(
    plan: Plan,
    seen: Seen,
    chosen: Chosen,
    followed: Followed,
    matches: Matches,
    accounts: Accounts,
    asked: Architecture | None,
    findings: Findings,
) -> PlanError:
    """The error for what was found. `asked` is the class that the user chose."""
    said = [f"{plan.path} does not fit {plan.architecture or 'the rules'}: {findings.summary()}"]
    if plan.family is not None and not plan.family.any_type:  # whose every layer looks like a model
        others, is_another = _other_families(plan.family.model_type, seen, chosen)
        said += others
        if not is_another:  # to which nothing else of this family's would apply
            said += [findings.advice] if findings.advice else []
            said += _advice(seen, chosen, followed, matches, accounts, asked)  # rules end a message
    model_type = plan.family.model_type if plan.family else None
    return PlanError("\n".join(said), findings.listed(), plan, model_type=model_type)


def _other_families(model_type: str, seen: Seen, chosen: Chosen) -> tuple[list[str], bool]:
    """Which other families the variables may be of, and whether they are of one of those alone."""
    said, is_another = [], False
    names = [name for key in chosen.variables for name in seen.names_of(key)]
    fits = fitting(names, trained=bool(seen.training))
    likely = list(dict.fromkeys(fit.family.model_type for fit in fits))
    if others := told_by(names):
        said.append(f"The variables are those of {others[0]}")
    elif model_type not in likely:
        kinds = " or ".join(likely) or "of no family known here"
        is_another = bool(likely)
        said.append(f"The variables are {kinds}: is --model_type {model_type} right?")
    if several := side_by_side(seen, chosen):
        said.append(f"The checkpoint holds {several}")
    return said, is_another


def _advice(
    seen: Seen,
    chosen: Chosen,
    followed: Followed,
    matches: Matches,
    accounts: Accounts,
    asked: Architecture | None,
) -> list[str]:
    """What the family knows of variables outside the model that no rule does."""
    assert followed.family is not None
    outer = {*accounts.unknown} - {*accounts.within}
    if asked is not None:
        outer |= _taken(matches, asked.all_parts, followed)
    infos = {key: info for key, info in chosen.variables.items() if key in outer}
    if not infos:
        return []
    if others := under_scopes([seen.names_of(key) for key in infos]):
        return [
            f"under {scope}/ lies another model, {fit}: --scope "
            f"{quoted(f'{seen.scope}/{scope}'.strip('/'))} converts it, "
            f"--ignore {quoted(f'{re.escape(scope)}/.*')} leaves it out"
            for scope, fit in others
        ]
    advice = followed.family.advice(
        followed.rules, followed.config, followed.spelled, spellings(infos, seen), asked
    )
    return [advice] if advice else []


def _taken(matches: Matches, parts: Collection[str], followed: Followed) -> set[str]:
    """What was taken for the head of another class by its name, and may be that of this one."""
    if followed.layout is None:
        return set()
    fixed = followed.layout.usual().rules
    guessed = {
        key: [found for found in own if found.rule.part not in parts and found.rule not in fixed]
        for key, own in matches.items()
    }
    return {key for key, own in guessed.items() if own and len(own) == len(matches[key])}
