"""Planning: from names, shapes and dtypes alone, before any value is read.

A plan is total on both sides: each variable is used or left out for a stated reason, each tensor
that the model needs is filled once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from os import PathLike
from typing import Any, TypedDict

from tfreader.checkpoint import Checkpoint
from tfreader.errors import ConfigError, RuleError

from ..families import open_source
from ..findings import Findings, count, some
from ..plan import FLOATS, Dtype, MovingAverages, Plan
from ..rules.rule import RuleSet
from ..rules.rule_file import load_rules
from ..target import Target, Tensors, read_target
from .accounting import account
from .advice import advise
from .against import hold_against
from .config import Asked
from .entries import find_ties, make_entries, make_fills
from .following import follow, for_class
from .ignoring import ignored
from .matching import match
from .model_class import model_class, other_class
from .own_rules import bind_own, check_own
from .refusal import refusal
from .required import check_required
from .sizes import Sizes, bind, count_groups
from .variables import choose, look, without
from .written_config import finish_config


class PlanOptions(TypedDict, total=False):
    """The options of `make_plan` that `convert` and `load_state_dict` pass on to it."""

    architecture: str | None
    dtype: Dtype
    overrides: Mapping[str, Any] | None
    scope: str
    ignore: Sequence[str]
    ignore_weights: Sequence[str]
    moving_averages: MovingAverages
    finetuning_task_name: str | None
    target: Target | None
    accept_uncertain: bool


def make_plan(
    checkpoint: Checkpoint | str | PathLike[str],
    model_type: str = "auto",
    *,
    config: str | PathLike[str] | Mapping[str, Any] | None = None,
    vocab: str | PathLike[str] | None = None,
    rules: str | PathLike[str] | RuleSet | None = None,
    architecture: str | None = None,
    dtype: Dtype = "keep",
    overrides: Mapping[str, Any] | None = None,
    scope: str = "",
    ignore: Sequence[str] = (),
    ignore_weights: Sequence[str] = (),
    moving_averages: MovingAverages = "drop",
    finetuning_task_name: str | None = None,
    target: Target | None = None,
    accept_uncertain: bool = False,
) -> Plan:
    """Plan the conversion of a checkpoint, which is open or named by its path.

    `config` is the original config file, its folder, or its contents; by default the one in or
    beside the checkpoint. `vocab` is the vocabulary's file or folder, by default there too.
    `rules`, a rule set or the path of a rule file, replaces the family's, or adds to them where it
    extends a family. `architecture` overrides the model class that the heads found decide. `dtype`
    ("float16", "bfloat16", "float32" or "keep") is that of all floating-point tensors. `overrides`
    sets keys of the written config.

    Only variables below `scope` are mapped, by their names without it. Variables that fully match a
    regex of `ignore` are left out, unless they lie inside the model: those only where they match
    one of `ignore_weights`, as the model computes something else without them. `moving_averages`
    is "drop", or "use" to convert each variable's moving average in its place. `target` is what the
    result must fit: a torch.nn.Module, or what `read_target` reads. Rules that are marked as
    uncertain are refused, unless `accept_uncertain`.

    Raises PlanError, whose `problems` lists all that does not fit; UnknownModelTypeError;
    ConfigError; RuleError; of a path what `tfreader.open` raises.
    """
    if dtype != "keep" and dtype not in FLOATS:
        raise ConfigError(f"unknown dtype {dtype!r}; known: {', '.join(FLOATS)}, keep")
    if moving_averages not in ("drop", "use"):
        raise ConfigError(f"unknown choice of moving averages {moving_averages!r}: drop or use")
    wanted = read_target(target) if target is not None else None
    given = load_rules(rules) if isinstance(rules, str | PathLike) else rules
    if given is not None and not accept_uncertain:
        _check_certain(given)
    asked = Asked(
        model_type, config, vocab, given, overrides or {}, finetuning_task_name, architecture
    )
    with ExitStack() as stack:
        if not isinstance(checkpoint, Checkpoint):
            checkpoint = stack.enter_context(open_source(checkpoint, model_type))
        return _planned(
            checkpoint, asked, wanted, dtype, scope, ignore, ignore_weights, moving_averages
        )


def _planned(
    checkpoint: Checkpoint,
    asked: Asked,
    wanted: Tensors | None,
    dtype: Dtype,
    scope: str,
    ignore: Sequence[str],
    ignore_weights: Sequence[str],
    moving_averages: MovingAverages,
) -> Plan:
    """The plan, of tensors that are `wanted` where that is known. Raises what `make_plan` does."""
    findings = Findings(notes=[*checkpoint.notes])

    # What there is to map, but for what training left and what the user leaves out.
    seen = look(checkpoint, scope, findings)
    chosen = choose(seen, moving_averages, asked.rules, findings)
    left_out = ignored(ignore, ignore_weights, seen, chosen, findings)
    # A layout must not take a weight for used that is not, but may know one that is ignored.
    known = without(chosen.variables, left_out.weights)
    variables = without(known, left_out.asked)

    # By which rules, into which class, and what becomes of each variable.
    followed = follow(checkpoint, seen, chosen, known, asked, findings)
    matches = match(chosen, seen, followed.rules)
    kind = model_class(
        matches, variables, left_out, followed, asked.architecture, checkpoint.path, findings
    )
    followed = for_class(kind, followed, seen, findings)
    accounts = account(variables, left_out, matches, kind, followed, seen, findings)

    # Sizes, of layers and of axes, on which config and variables have to agree.
    sizes = Sizes(followed.config, followed.source)
    counts, sizes = count_groups(followed.rules.counts, accounts.active, sizes, findings)
    sizes = bind(accounts.active, sizes, seen.shown, findings)

    # The tensors, all that the class has, and the config that describes them.
    entries, replaced = make_entries(
        accounts.active, followed, kind, dtype, sizes, seen.shown, findings
    )
    sizes = bind_own(followed, matches, kind, entries, sizes, findings)
    entries += make_fills(followed.rules, kind, entries, sizes, findings)
    check_own(followed, matches, kind, entries, findings)
    check_required(followed, kind, accounts, counts, entries, seen, findings)
    ties = find_ties(followed.rules, kind, counts, entries, findings)
    if wanted is not None:
        ties = hold_against(wanted, entries, ties, seen.shown, findings)
    finished = finish_config(followed, sizes, kind, entries, ties, checkpoint.path, findings)
    if asked.rules is not None:
        findings.notes += advise(entries, variables.values(), seen.names)

    plan = Plan(
        path=checkpoint.path,
        family=followed.family,
        rules=followed.rules,
        rules_given=asked.rules is not None,
        architecture=kind.name or None,
        entries=tuple(entries),
        dropped={**chosen.dropped, **accounts.dropped, **replaced},
        ties=ties,
        config=finished,
        original_config=followed.source.original,
        config_path=followed.source.path,
        beside=followed.source.beside,
        notes=tuple(findings.notes),
        shown=seen.shown,
    )
    if findings.problems:
        chosen_class = kind if asked.architecture is not None else None
        if chosen_class is not None:
            findings.advice = other_class(matches, variables, left_out, followed, chosen_class)
        raise refusal(plan, seen, chosen, followed, matches, accounts, chosen_class, findings)
    return plan


def _check_certain(rules: RuleSet) -> None:
    """Raise RuleError where a rule is marked as uncertain."""
    if marked := rules.uncertain:
        raise RuleError(
            f"{rules.name or 'rules'}: {count(marked, 'rule')} marked uncertain = true, for "
            f"{some(marked)}; look at the comments there, correct what is wrong and take the marks "
            "away, or accept all as they are with --accept-uncertain"
        )
