"""One page that shows what a command found, without network or library: what `--html` writes.

A page is data (a verdict, facts and sections) that `page.js` draws with `page.css`; both stand in
the page, and its Content-Security-Policy lets nothing else run. What comes from a checkpoint is
data alone: JSON in which nothing can end the element that it stands in.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from string import Template
from typing import Any

import click

from tfreader import __version__
from tfreader.folding import fold_rows, literal
from tfreader.histogram import Histogram

from .show import printable

Section = dict[str, Any]
Details = Mapping[str, Any] | None
Causes = Mapping[str, Sequence[str]]
"""Causes, and the names of what each holds for."""


def page_text(
    command: str,
    subject: str,
    verdict: tuple[str, str],
    facts: Mapping[str, Any],
    sections: Iterable[Section | None],
) -> str:
    """The page. The verdict is good, warn or bad, and a sentence. What is empty is left out."""
    data = {
        "command": command,
        "subject": subject,
        "verdict": {"state": verdict[0], "text": verdict[1]},
        "facts": [[name, value] for name, value in facts.items() if value not in (None, "")],
        "sections": [section for section in sections if section is not None],
        "made": f"tfreader {__version__}",
    }
    template, style, script = (
        (files("tfreader.cli") / name).read_text("utf-8")
        for name in ("page.html", "page.css", "page.js")
    )
    text = json.dumps(_shown(data), separators=(",", ":"), allow_nan=False)
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; "
        f"style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    )
    return Template(template).substitute(
        policy=policy, style=style, script=script, data=text.replace("<", "\\u003c")
    )


def has_page() -> bool:
    """Whether the running command was given --html."""
    return "page" in click.get_current_context().meta


def put_page(make: Callable[[], str]) -> None:
    """Write the page that --html asks for, whole or not at all. Raises OutputError."""
    if has_page():
        write_page(click.get_current_context().meta["page file"], make())


def write_page(path: str, page: str) -> None:
    """Write a page, whole or not at all. Raises OutputError."""
    from tfreader.mapping.output import output_path, staged

    place = output_path(path)
    with staged(place, is_folder=False, durable=False) as stage:
        (stage / place.name).write_text(page, "utf-8", newline="\n")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _shown(value: Any) -> Any:
    """Data with strings that hide nothing, and numbers that JSON has."""
    if isinstance(value, str):
        return value if value.isprintable() else "\n".join(map(printable, value.split("\n")))
    if isinstance(value, Mapping):
        return {str(key): _shown(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_shown(inner) for inner in value]
    if isinstance(value, float) and not -float("inf") < value < float("inf"):
        return str(value)
    return value


def table_section(
    heading: str,
    columns: Sequence[tuple[str, str]],
    rows: Sequence[Sequence[Any]],
    kinds: Mapping[str, str],
    details: Sequence[Details] = (),
) -> Section:
    """Rows of cells, those folded that differ in the numbers of their names alone.

    A column is of a kind (name, tags, text, type, note, number, size, histogram), and has a label.
    Of tags, which are of `kinds` and say something, one can show those of a kind alone. A row may
    have details: `facts`, a list of pairs. A column in which nothing stands is left out.
    """
    filled = [
        at
        for at in range(len(columns))
        if not rows or any(cells[at] not in (None, "") for cells in rows)
    ]
    columns = [columns[at] for at in filled]
    rows = [[cells[at] for at in filled] for cells in rows]
    by_kind = {kind: [at for at, (k, _) in enumerate(columns) if k == kind] for kind, _ in columns}
    names = by_kind["name"]
    histograms = by_kind.get("histogram", [])
    own = {*names, *histograms}
    said = [tuple(literal(name) for at in names for name in _listed(cells[at])) for cells in rows]
    others = [
        json.dumps(
            [
                len(_listed(cell)) if at in names else None if at in own else cell
                for at, cell in enumerate(cells)
            ]
        )
        for cells in rows
    ]
    more = details or [None] * len(rows)
    groups: list[dict[str, Any]] = []
    for folded, members in fold_rows(said, others):
        alike = [_row(rows[i], more[i]) for i in members]
        if len(alike) == 1:
            groups += alike
            continue
        remaining = iter(folded)
        cells: list[Any] = [None if at in own else cell for at, cell in enumerate(rows[members[0]])]
        for at in names:
            cells[at] = [next(remaining) for _ in _listed(rows[members[0]][at])]
        for at in by_kind.get("size", ()):
            cells[at] = sum(rows[i][at] or 0 for i in members)
        for at in histograms:
            cells[at] = _merged(rows[i][at] for i in members)
        groups.append({"cells": cells, "rows": alike})
    return {
        "type": "table",
        "heading": heading,
        "columns": [{"kind": kind, "label": label} for kind, label in columns],
        "groups": groups,
        "kinds": kinds,
    }


def _row(cells: Sequence[Any], details: Details) -> dict[str, Any]:
    return {"cells": cells} if details is None else {"cells": cells, "details": details}


def _merged(found: Iterable[Mapping[str, Any] | None]) -> Mapping[str, Any] | None:
    merged = Histogram()
    for data in filter(None, found):
        merged.merge(Histogram.of(data))
    return merged.to_data()


def _listed(cell: str | list[str]) -> list[str]:
    return [cell] if isinstance(cell, str) else cell


def tree_section(
    heading: str, leaves: Iterable[Sequence[Any]], separator: str, remark: str = ""
) -> Section:
    """Scopes of leaves: a name, bytes, how many values, and whether it is of another kind."""
    return {
        "type": "tree",
        "heading": heading,
        "remark": remark,
        "leaves": list(leaves),
        "separator": separator,
    }


def cause_section(heading: str, causes: Causes, details: Mapping[str, str] = {}) -> Section | None:
    """What holds for how many things, most of them first; these are listed on demand."""
    most_first = sorted(causes.items(), key=lambda cause: -len(cause[1]))
    groups = [
        {"cause": cause, "items": items, "detail": details.get(cause)}
        for cause, items in most_first
    ]
    return {"type": "groups", "heading": heading, "groups": groups} if groups else None


def list_section(heading: str, items: Sequence[str]) -> Section | None:
    return {"type": "list", "heading": heading, "items": items} if items else None


def text_section(heading: str, text: str, is_closed: bool = False) -> Section:
    return {"type": "text", "heading": heading, "text": text, "isClosed": is_closed}


def by_likeness(problems: Iterable[str]) -> Causes:
    """Problems, those together that differ in numbers alone."""
    listed = list(problems)
    folded = fold_rows([(problem,) for problem in listed])
    return {row[0]: [listed[index] for index in members] for row, members in folded}
