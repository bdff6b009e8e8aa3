"""`tfreader rules`: a family's rules to edit, and what a rule file does."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from tfreader.errors import UnknownModelTypeError
from tfreader.folding import fold, fold_sentences, without_numbers
from tfreader.system import quoted

from . import FAILED
from .guide import complete_file, complete_rules
from .options import FITTING, Command, debug_option, options
from .show import dropped_lines, failure_data, fitted, put, safe, shape

if TYPE_CHECKING:
    from tfreader.mapping import Entry, RuleSet
    from tfreader.mapping.planning.rule_report import RuleReport, Use

_SAID = ParameterSource.COMMANDLINE


@click.command(cls=Command)
@click.argument("model_type", metavar="MODEL_TYPE|FILE", shell_complete=complete_rules)
@click.option(
    "--tf_checkpoint",
    "--tf-checkpoint",
    metavar="PATH",
    shell_complete=complete_file,
    help="Print the rules as this checkpoint needs them; check a rule FILE against it.",
)
@click.option("--layout", metavar="NAME", help="Print those for another spelling of the names.")
@click.option(
    "--finetuning_task_name",
    "--finetuning-task-name",
    metavar="T",
    help="The task whose head is meant, of several in the checkpoint.",
)
@options(*FITTING)
@click.option(
    "--json", "as_json", is_flag=True, help="Print what a check of a rule FILE finds as JSON."
)
@debug_option
def rules(
    model_type: str,
    tf_checkpoint: str | None,
    layout: str | None,
    finetuning_task_name: str | None,
    as_json: bool,
    **fitting: Any,
) -> None:
    """Print a family's rules as a rule file to edit, or the rules that the layers of a FILE are.

    With --tf_checkpoint a rule FILE is checked against it, and against a --target.
    """
    from tfreader.mapping import dump_rules, load_rules

    ctx = click.get_current_context()
    said = (p for p in ctx.command.params if p.name in fitting)
    given = [p.opts[0] for p in said if ctx.get_parameter_source(p.name or "") is _SAID]
    given += ["--json"] * as_json
    if _is_file(model_type):
        if layout is not None or finetuning_task_name is not None:
            raise click.UsageError("--layout and --finetuning_task_name are of families, not files")
        found = load_rules(model_type)
        if tf_checkpoint is not None:
            _check(found, tf_checkpoint, fitting, as_json)
            return
    elif not given:
        _check_named(model_type, tf_checkpoint)
        found = _of_family(model_type, tf_checkpoint, layout, finetuning_task_name)
    if given:
        raise click.UsageError(
            f"{given[0]} is for checking a rule file: give that FILE and a --tf_checkpoint"
        )
    click.echo(dump_rules(found), nl=False)


def _is_file(named: str) -> bool:
    """Whether this is a rule file, which may be called anything that no family is."""
    from tfreader.mapping.families import get_family
    from tfreader.paths import is_file, is_url

    try:
        get_family(named)
    except UnknownModelTypeError:
        return named.endswith(".toml") or is_url(named) or is_file(named)
    return False


def _check_named(named: str, tf_checkpoint: str | None) -> None:
    """Raise click.UsageError for a checkpoint in the place of a model type, or auto without one."""
    from tfreader.mapping.families import find_family
    from tfreader.paths import is_dir, is_file

    told = "tfreader rules auto --tf_checkpoint"
    if named == "auto" and tf_checkpoint is None:
        raise click.UsageError(f"auto is what a checkpoint tells: {told} CHECKPOINT")
    if find_family(named) is None and (is_dir(named) or is_file(f"{named}.index")):
        raise click.UsageError(
            f"{named}: no model type and no rule file; the rules for a checkpoint: "
            f"{told} {quoted(named)}"
        )


def _of_family(
    model_type: str, tf_checkpoint: str | None, layout: str | None, task: str | None
) -> RuleSet:
    from tfreader.mapping.families import get_family, open_source
    from tfreader.mapping.planning.config import Asked
    from tfreader.mapping.planning.following import rules_for

    if tf_checkpoint is None and task is not None:
        raise click.UsageError("--finetuning_task_name is of a --tf_checkpoint: give that too")
    if tf_checkpoint is None:
        family = get_family(model_type)
        found = (family.layout(layout) if layout else family.layouts[0]).usual()
        if not found.rules:
            raise click.UsageError(
                f"the rules of {family.model_type} depend on the checkpoint: name it with "
                "--tf_checkpoint"
            )
        return found
    if layout is not None:
        raise click.UsageError("--layout is what --tf_checkpoint tells: give one of them")
    with open_source(tf_checkpoint, model_type) as checkpoint:
        return rules_for(checkpoint, Asked(model_type, finetuning_task_name=task))


def _check(own: RuleSet, tf_checkpoint: str, fitting: dict[str, Any], as_json: bool) -> None:
    """Print what the rules do. Raises PlanError where a conversion would."""
    from tfreader.mapping.families import open_source
    from tfreader.mapping.planning.rule_report import check_rules

    with open_source(tf_checkpoint, "auto") as checkpoint:
        report = check_rules(checkpoint, own, **fitting)
    if not as_json:
        for line in _lines(report, fitting["target"]):
            click.echo(fitted(line))
        if report.error is not None:
            raise report.error
        return
    put(_data(report), [], True)
    if report.error is not None:
        click.echo(safe(f"tfreader: {report.error}"), err=True)
        click.get_current_context().exit(FAILED)


def _data(report: RuleReport) -> dict[str, Any]:
    """What the lines say, as plain data; where the rules do not fit, with what a failure says."""
    failed = failure_data(report.error, str(report.error)) if report.error is not None else {}
    return {
        "ok": True,
        **report.plan.to_data(),
        **failed,
        "rules": [
            {
                "sources": [*use.rule.sources],
                "targets": [*use.rule.targets],
                "variables": [*use.variables],
                "hint": use.why,
                "uncertain": use.rule.uncertain,
            }
            for use in report.uses
        ],
        "free": dict(report.free),
        "idle": [drop.source for drop in report.idle],
        "changed": [entry.target for entry in report.changed],
    }


def _lines(report: RuleReport, target: str | None) -> Iterator[str]:
    from tfreader.mapping.findings import count, some

    plan = report.plan
    yield f"{plan.rules.name}: {count(report.uses, 'rule')} for {plan.path}"
    yield from (f"note: {note}" for note in plan.notes)
    for use in report.uses:
        yield f"rule {', '.join(use.rule.sources)}"
        yield f"  {_does(use)}"
    yield from (f"leaves nothing out: [[drop]] {drop.source}" for drop in report.idle)
    for (operation, _), targets in _grouped(report.changed).items():
        yield f"values change: {fold(targets)}: {operation}"
    yield from (f"tied: {alias} = {end}" for alias, end in plan.ties.items())
    yield from dropped_lines(plan)
    free = list(report.free)
    for name, first in fold_sentences(free):
        hint = report.free[free[first]]
        yield f"nothing takes: {name}" + (f"; {hint}" if hint else "")
    problems = report.error.problems if report.error is not None else ()
    told = tuple(f"variable {name} " for name in report.free)
    others = [problem for problem in problems if not problem.startswith(told or "\0")]
    yield from (f"problem: {problem}" for problem, _ in fold_sentences(others))
    if unsure := plan.rules.uncertain:
        yield (
            f"marked uncertain: {some(unsure)}: `tfreader convert` takes the file when these marks "
            "are gone, or with --accept-uncertain"
        )
    if not problems:
        fits = f", as {target} has them" if target is not None else ""
        yield f"{count(plan.entries, 'tensor')}{fits}"


def _does(use: Use) -> str:
    """What a rule takes, with an example."""
    entry = use.entry
    if not use.variables:
        if not use.rule.required:
            return "takes nothing, as it need not"
        return f"takes nothing; {use.why or 'nothing is near'}"
    made = f"{entry.target} {shape(entry.shape)}" if entry else ", ".join(use.rule.targets)
    how = f" by {entry.operation}" if entry else ""
    count = len(use.variables)
    return f"takes {count} variable{'s' if count != 1 else ''}: {use.variables[0]} -> {made}{how}"


def _grouped(entries: Iterable[Entry]) -> dict[tuple[str, str], list[str]]:
    """The tensors of which the same is to say, by their operation."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for entry in entries:
        groups[entry.operation, without_numbers(entry.target)].append(entry.target)
    return groups
