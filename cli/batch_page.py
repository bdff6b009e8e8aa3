"""The page of a batch: checkpoints by status, and what failed by cause."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from .page import Section, cause_section, page_text, table_section
from .pages import without
from .show import size

_OUTCOMES = {
    "done": ("good", "done"),
    "skipped": ("kept", "done before"),
    "planned": ("info", "planned"),
    "failed": ("bad", "failed"),
    "passed_over": ("warn", "passed over"),
}


def batch_page(data: Mapping[str, Any]) -> str:
    """The page of the report of `batch`, also of one that is still running."""
    outcomes = sorted(data["outcomes"], key=lambda outcome: outcome["status"] != "failed")
    counts = Counter(outcome["status"] for outcome in outcomes)
    nbytes = sum(outcome["nbytes"] for outcome in outcomes if outcome["status"] == "done")
    said = [
        f"{counts[status]:,} {label}" for status, (_, label) in _OUTCOMES.items() if counts[status]
    ]
    if left := data["jobs"] - len(outcomes):
        said.append(f"{left:,} not done")
    verdict = f"{data['jobs']:,} jobs: {', '.join(said)}; {size(nbytes)} written"
    state = "bad" if counts["failed"] else "warn" if left or data["interrupted"] else "good"
    keys = ("start", "end", "host", "version", "command")
    columns = [("name", "Checkpoint"), ("tags", "Status"), ("note", "Class, or why not")]
    columns += [("number", "Tensors"), ("size", "Size"), ("number", "Seconds")]
    names = [_relative(outcome["tf_checkpoint"], data.get("root")) for outcome in outcomes]
    rows = [
        [
            name,
            [_OUTCOMES[outcome["status"]]],
            _said(outcome).partition("\n")[0] or outcome["architecture"] or "state dict",
            outcome["tensors"] or None,
            outcome["nbytes"] or None,
            outcome["seconds"],
        ]
        for name, outcome in zip(names, outcomes, strict=True)
    ]
    more = [
        {
            "facts": [
                ["output", outcome["pytorch_dump_output"] or None],
                ["error", _said(outcome) or None],
                ["files", "\n".join(outcome["files"]) or None],
                ["notes", "\n".join(outcome["notes"]) or None],
            ]
        }
        for outcome in outcomes
    ]
    sections = [
        _of_outcomes("Failed, by cause", "failed", outcomes, names),
        _of_outcomes("Passed over, by cause", "passed_over", outcomes, names),
        table_section("Checkpoints", columns, rows, dict(_OUTCOMES.values()), more),
    ]
    facts = {key: data.get(key) for key in keys}
    return page_text("batch", data.get("root") or "batch", (state, verdict), facts, sections)


def _of_outcomes(
    heading: str, status: str, outcomes: Iterable[Mapping[str, Any]], names: Iterable[str]
) -> Section | None:
    """The checkpoints of a status by cause, each with what was said of the first."""
    causes: dict[str, list[str]] = defaultdict(list)
    details: dict[str, list[str]] = defaultdict(list)
    for name, outcome in zip(names, outcomes, strict=True):
        if outcome["status"] == status:
            code = outcome.get("code") or outcome["error_type"]
            cause = f"{outcome['model_type']}: {code}" if outcome["model_type"] else code
            causes[cause].append(name)
            details[cause].append(_said(outcome))
    first = {
        cause: said[0] if set(said) == {said[0]} else f"e.g. {said[0]}"
        for cause, said in details.items()
    }
    return cause_section(heading, causes, first)


def _said(outcome: Mapping[str, Any]) -> str:
    path = outcome["tf_checkpoint"]
    said = without(outcome["error"] or "", path)
    folder = os.path.dirname(path)
    return said.replace(f"{folder}/", "") if folder.strip("/") else said


def _relative(path: str, root: str | None) -> str:
    return path.removeprefix(root.rstrip("/") + "/") if root else path
