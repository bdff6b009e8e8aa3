"""The pages of the commands: what each shows of what it found."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import click

from tfreader.errors import PlanError, RuleError, TFReaderError

from .listing import inspect_data
from .page import (
    Causes,
    Section,
    by_likeness,
    cause_section,
    list_section,
    page_text,
    put_page,
    table_section,
    text_section,
    tree_section,
)
from .show import cause_of, safe, shape, size

if TYPE_CHECKING:
    from tfreader.mapping import Comparison, Entry, Plan, Report
    from tfreader.mapping.suggesting.suggest import Suggestion
    from tfreader.statistics import Statistics

    from .listing import Listing

# What becomes of values on their way, by operation; those that are not here move them.
_OPERATIONS = {
    **dict.fromkeys(("slice", "split", "unstack", "concat", "stack", "pad", "repeat"), "part"),
    **dict.fromkeys(("add", "multiply", "sum", "product", "divide"), "changed"),
}
_CHANGES = {
    "kept": "copied",
    "moved": "moved (transpose, reshape…)",
    "part": "cut or joined",
    "changed": "values changed",
    "cast": "cast",
    "filled": "filled",
    "warn": "uncertain",
}
_USES = {"good": "weights", "kept": "no weights"}
_MOST_EXACT = 2**53 - 1  # of JavaScript's whole numbers
_SUBJECTS = ("path", "tf_checkpoint", "checkpoint")  # arguments that a page is about
_EQUALITY = {"bad": "not right", "good": "equal", "kept": "different, and right"}


def convert_page(report: Report, is_dry_run: bool) -> str:
    """The page of a conversion, or of what one would do."""
    plan = report.plan
    made = f"{plan.architecture or 'state dict'}: {_counted(plan.entries, 'tensor')}"
    made += f", {size(plan.nbytes)}"
    if report.missing is not None:
        verdict = ("warn", f"{made}, once the data are there: {report.missing}")
    elif is_dry_run:
        verdict = ("good", f"{made}: all fits, and nothing was written")
    else:
        verdict = ("good", f"{made}, written to {report.output}")
    sections = [*_plan_sections(plan, report.notes), list_section("Files", report.files)]
    command = "convert --dry-run" if is_dry_run else "convert"
    return page_text(command, plan.path, verdict, _plan_facts(plan), sections)


def suggest_page(suggestion: Suggestion, checkpoint: str, output: str) -> str:
    """The page of a suggested rule file: what it makes, and what of that is uncertain."""
    from tfreader.mapping import make_plan
    from tfreader.mapping.families import open_source
    from tfreader.mapping.rules.rule_file import parse_rules

    said = f"{output}: {suggestion.summary}"
    is_sure = bool(suggestion.tensors) and not suggestion.uncertain
    verdict = ("good", said) if is_sure else ("warn", f"{said}: look at what is marked")
    sections: list[Section | None] = [text_section("Rule file", suggestion.text)]
    facts: dict[str, Any] = {}
    try:
        with open_source(checkpoint, "auto") as source:
            rules = parse_rules(suggestion.text, output)
            plan = make_plan(source, rules=rules, accept_uncertain=True)
    except (PlanError, RuleError) as error:  # of a skeleton, which is yet to be completed
        sections.append(cause_section("What does not fit yet", by_likeness(_problems(error))))
    else:
        sections += _plan_sections(plan, plan.notes, uncertain=suggestion.uncertain)
        facts = _plan_facts(plan)
    return page_text("suggest", checkpoint, verdict, facts, sections)


def failure_page(command: str, arguments: Mapping[str, Any], error: TFReaderError) -> str:
    """The page of a failure: what does not fit, and what of a plan could be made."""
    plan: Plan | None = getattr(error, "plan", None)
    problems = _problems(error)
    sections: Iterable[Section | None] = ()
    if plan is not None:
        sections = _plan_sections(plan, plan.notes, problems)
    elif len(problems) > 1:
        sections = [cause_section("What is wrong", by_likeness(problems))]
    facts = {} if plan is None else _plan_facts(plan)
    subject = next((str(arguments[key]) for key in _SUBJECTS if arguments.get(key)), command)
    command += " --dry-run" * bool(arguments.get("dry_run"))
    return page_text(command, subject, ("bad", str(error)), facts, sections)


def _problems(error: TFReaderError) -> Sequence[str]:
    return getattr(error, "problems", (str(error),))


def inspect_page(listing: Listing) -> str:
    """The page of what `inspect --json` prints, with what the values that were read are like."""
    values, data = listing.statistics, inspect_data(listing)
    variables = data["variables"]
    weights = [variable for variable in variables if variable["training"] is None]
    others = {v["name"]: v["training"] for v in variables if v["training"] is not None}
    shown = {variable["name"]: _own_name(variable) for variable in variables}
    nbytes = size(sum(variable["nbytes"] or 0 for variable in variables))
    said = f"{_counted(weights, 'weight')} in {_counted(variables, 'variable')}, {nbytes}"
    facts = {
        "format": data["format"],
        "variables": f"{len(variables):,}",
        "weights": f"{len(weights):,}",
        "parameters": f"{listing.parameters(listing.found):,}",
        "size": nbytes,
    }
    if listing.pattern is not None:
        facts["filter"] = listing.pattern.pattern
        said = f"found {said}, of {_counted(listing.infos, 'variable')} in all"
    columns = [("name", "Variable"), ("tags", "Use"), ("text", "Shape"), ("type", "Type")]
    columns += [("size", "Size")]
    rows = [
        [
            shown[variable["name"]],
            [_use(variable["training"])],
            shape(variable["shape"]),
            variable["dtype"],
            variable["nbytes"] or 0,
        ]
        for variable in variables
    ]
    stats = [values.get(variable["name"]) for variable in variables]
    _add_histograms(columns, rows, stats)
    separator = "/" if any("/" in name for name in shown.values()) else "."
    leaves = (
        (shown[v["name"]], v["nbytes"] or 0, prod(v["shape"]), v["training"] is not None)
        for v in variables
    )
    sections = [
        cause_section("What is damaged", by_likeness(listing.problems)),
        list_section("Notes", data["notes"]),
        tree_section("Variables by scope", leaves, separator, "grey: no weights" if others else ""),
        table_section("Variables", columns, rows, _USES, [*map(_details, stats)]),
        cause_section("No weights", _by_cause(others, shown)),
    ]
    odd = sum(each.nan + each.inf > 0 for each in values.values())
    verdict = ("good" if variables else "warn", said)
    if odd:
        verdict = ("warn", f"{said}: NaN or infinity in {odd:,} of them")
    if listing.problems:
        verdict = ("bad", f"{said}: {listing.unread:,} of them cannot be read")
    return page_text("inspect", data["path"], verdict, facts, sections)


def _own_name(variable: Mapping[str, Any]) -> str:
    """The name that people know a variable by, as rules and the listing spell it."""
    names: Sequence[str] = variable["names"]
    return names[min(1, len(names) - 1)]


def _use(training: str | None) -> tuple[str, str]:
    if training is None:
        return "good", "weight"
    return "kept", cause_of(training).replace("slot variable", "slot")


def _add_histograms(
    columns: list[tuple[str, str]], rows: list[list[Any]], stats: Sequence[Statistics | None]
) -> None:
    """Add a column with what values look like, where any were read."""
    if any(stats):
        columns.append(("histogram", "Values"))
        for row, found in zip(rows, stats, strict=True):
            row.append(_histogram(found))


def _histogram(found: Statistics | None) -> dict[str, Any] | None:
    return found.histogram.to_data() if found and found.histogram else None


def _details(found: Statistics | None) -> dict[str, Any] | None:
    if found is None:
        return None
    exact = {
        key: str(value) if isinstance(value, int) and abs(value) > _MOST_EXACT else value
        for key, value in found.to_data().items()
    }
    return {"facts": [*exact.items()]}


def verify_page(found: Comparison, values: Mapping[str, Statistics]) -> str:
    """The page of what `verify --against` finds, and what the model's values are like."""
    data = found.to_data()
    table = sorted(data["table"], key=lambda row: row["ok"])
    columns = [("name", "Tensor"), ("tags", "Found"), ("note", "Remark")]
    columns += [("text", "Shape"), ("type", "Type"), ("number", "Off by")]
    rows = [
        [
            row["tensor"],
            [_equality(row)],
            row["detail"],
            shape(row["expected_shape"] if row["shape"] is None else row["shape"]),
            row["dtype"] or row["expected_dtype"],
            row["largest_difference"],
        ]
        for row in table
    ]
    stats = [values.get(row["found"]) for row in table]
    _add_histograms(columns, rows, stats)
    facts = {
        "checkpoint": data["checkpoint"],
        "model type": data["model_type"],
        "class": data["architecture"],
        "size": size(data["nbytes"]),
        **{status: f"{count:,}" for status, count in data["counts"].items()},
    }
    wrong: dict[str, list[str]] = defaultdict(list)
    for row in table:
        if not row["ok"]:
            wrong[row["status"]].append(row["tensor"])
    count = sum(map(len, wrong.values()))
    others = [without(said, found.model) for said in found.others]
    verdict = ("good", f"{_counted(table, 'tensor')}: the model is the checkpoint's")
    if wrong:
        also = f", and {_counted(others, 'other thing')}" if others else ""
        verdict = ("bad", f"{count:,} of {_counted(table, 'tensor')} not right{also}")
    elif not data["ok"]:
        verdict = ("bad", f"the tensors are right, {_counted(others, 'other thing')} not")
    sections = [
        cause_section("What is not right", by_likeness(others)),
        cause_section("Tensors that are not right", wrong),
        list_section("Notes", data["notes"]),
        table_section("Tensors", columns, rows, _EQUALITY, [*map(_details, stats)]),
    ]
    return page_text("verify --against", data["model"], verdict, facts, sections)


def _equality(row: Mapping[str, Any]) -> tuple[str, str]:
    kind = "bad" if not row["ok"] else "good" if row["status"] == "equal" else "kept"
    return kind, row["status"]


def without(said: str, path: str) -> str:
    """What is said of a path, and not of another that begins like it, where the path is shown."""
    rest = said.removeprefix(path)
    return rest.lstrip(": ") if rest.startswith((":", " ")) else said


def _plan_sections(
    plan: Plan,
    notes: Sequence[str],
    problems: Sequence[str] = (),
    uncertain: Iterable[str] = (),
) -> Iterator[Section | None]:
    """A plan: what does not fit, what was assumed, variables and tensors, what is left out."""
    yield cause_section("What does not fit", by_likeness(problems))
    yield list_section("Notes", notes)
    unsure = set(uncertain)
    columns = [("name", "Variable"), ("tags", "Change"), ("name", "Tensor"), ("text", "Shape")]
    columns += [("type", "Type"), ("size", "Size")]
    rows = [
        [
            [plan.shown.get(name, name) for name in entry.sources],
            [*_changes(entry), *[("warn", "uncertain")] * (entry.target in unsure)],
            entry.target,
            shape(entry.shape),
            str(entry.dtype),
            entry.nbytes,
        ]
        for entry in plan.entries
    ]
    reasons = [
        {"facts": [["filled because", entry.fill.reason]]} if entry.fill else None
        for entry in plan.entries
    ]
    yield table_section("Plan", columns, rows, _CHANGES, reasons)
    leaves = ((entry.target, entry.nbytes, prod(entry.shape)) for entry in plan.entries)
    yield tree_section("Tensors by scope", leaves, ".")
    yield cause_section("Left out", _by_cause(plan.dropped, plan.shown))
    yield list_section("Tied", [f"{alias} = {target}" for alias, target in plan.ties.items()])
    if plan.config is not None:
        text = json.dumps(dict(sorted(plan.config.items())), indent=2, default=str)
        yield text_section("config.json", text, is_closed=True)


def _plan_facts(plan: Plan) -> dict[str, Any]:
    return {
        "model type": plan.family.model_type if plan.family else "rule file",
        "class": plan.architecture or "state dict",
        "tensors": f"{len(plan.entries):,}",
        "parameters": f"{sum(prod(entry.shape) for entry in plan.entries):,}",
        "size": size(plan.nbytes),
        "variables left out": f"{len(plan.dropped):,}",
        "config": plan.config_path,
    }


def _changes(entry: Entry) -> list[tuple[str, str]]:
    if entry.fill is not None:
        return [("filled", entry.operation)]
    tags = [(_OPERATIONS.get(op.name, "moved"), str(op)) for op in entry.ops]
    if entry.dtype != entry.source_dtype:
        tags.append(("cast", f"{entry.source_dtype} → {entry.dtype}"))
    return tags or [("kept", "copy")]


def _by_cause(reasons: Mapping[str, str], shown: Mapping[str, str]) -> Causes:
    """Variables by why they are left out."""
    found: dict[str, list[str]] = defaultdict(list)
    for key, reason in reasons.items():
        found[cause_of(reason)].append(shown.get(key, key))
    return found


def _counted(items: Sequence[Any], noun: str) -> str:
    return f"{len(items):,} {noun}{'s' * (len(items) != 1)}"


def put_failure(ctx: click.Context, error: TFReaderError) -> None:
    """With --html what failed is a page, so that none is left that tells of an earlier run."""
    command: click.Context | None = ctx.meta.get("page")
    if command is None:
        return
    try:
        put_page(lambda: failure_page(str(command.info_name), command.params, error))
    except TFReaderError as another:
        if str(another) != str(error):
            click.echo(safe(f"tfreader: {another}"), err=True)
