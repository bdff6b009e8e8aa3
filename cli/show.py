"""What the commands print: tables, plans, reports and the progress bar."""

from __future__ import annotations

import json
import re
import shutil
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import click

from tfreader.errors import PlanError
from tfreader.folding import fold_rows, literal
from tfreader.system import quoted

if TYPE_CHECKING:
    from tfreader import Checkpoint
    from tfreader.mapping import Plan, Report
    from tfreader.mapping.records.compare import Comparison

_LONG = 200  # cells of a column in a pipe; what is longer moves the rest of its line
_WHOLE = 14  # cells of a column: numbers, types and most shapes
_BREAK = re.compile(r"(?<=[/, ])(?=[^ ])|(?<=\w\.)(?=[^\d.])")
_OWNED = re.compile(
    r"((?:slot variable \S+|moving average|copy)(?= of )|replaced by its moving average) .*"
)


def terminal_width() -> int | None:
    """Of the terminal that stdout is; None where it is none, and lines may be of any width."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def table(rows: Sequence[Sequence[str]], name_at: int = 0) -> Iterator[str]:
    """Rows as aligned columns, of any width, for grep.

    On a terminal they are no wider than that: where they would be, each row's name has a line of
    its own above the others, and these have more than one where numbers would have to be broken.
    """
    widths = [max(map(cells, column)) for column in zip(*rows, strict=True)]
    width = terminal_width()
    if width is None:
        for row in rows:
            yield _padded(row, [min(most, _LONG) for most in widths])
        return
    if sum(widths) + 2 * (len(widths) - 1) <= width:
        yield from _aligned(rows, widths)
        return
    del widths[name_at]
    whole = min(_WHOLE, max(1, width - 2))
    while sum(widths) + 2 * len(widths) > width and max(widths) > whole:
        widths[widths.index(max(widths))] -= 1
    lines = _fitting(widths, width)
    for row in rows:
        yield from broken(row[name_at], width)
        others = [*row[:name_at], *row[name_at + 1 :]]
        for line in lines:
            part = _aligned([others[line]], widths[line])
            yield from (f"  {cells}" for cells in part if cells)


def _fitting(widths: Sequence[int], width: int) -> list[slice]:
    """Columns that fit a line together, each two cells behind the one before or the edge."""
    lines, start = [], 0
    for end in range(1, len(widths) + 1):
        if end == len(widths) or sum(widths[start : end + 1]) + 2 * (end + 1 - start) > width:
            lines.append(slice(start, end))
            start = end
    return lines


def _aligned(rows: Iterable[Sequence[str]], widths: Sequence[int]) -> Iterator[str]:
    for row in rows:
        wrapped = [broken(cell, width) for cell, width in zip(row, widths, strict=True)]
        for line in zip_longest(*wrapped, fillvalue=""):
            yield _padded(line, widths)


def _padded(row: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell + " " * (width - cells(cell)) for cell, width in zip(row, widths, strict=True))
    return "  ".join(padded).rstrip()


def broken(text: str, width: int) -> list[str]:
    """Text in lines of so many cells, broken between words and parts of names where that can be."""
    if cells(text) <= width:
        return [text]
    lines = [""]
    for piece in _BREAK.split(text):
        if cells(lines[-1] + piece.rstrip()) <= width:
            lines[-1] += piece
            continue
        lines.append("")
        for letter in piece:
            if cells(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return [line.rstrip() for line in lines if line.strip()]


def cells(text: str) -> int:
    """How many cells of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(letter) else 1 + (unicodedata.east_asian_width(letter) in "WF")
        for letter in text
    )


def put(data: Any, lines: Iterable[str], as_json: bool, quiet: bool = False) -> None:
    """Print one JSON document, or lines that fit the terminal."""
    if as_json:
        click.echo(json.dumps(data, indent=2))
    elif not quiet:
        click.echo("\n".join(map(fitted, lines)))


def fitted(text: str) -> str:
    """Printable text, broken to fit the terminal where it has no command to copy."""
    text = safe(text)
    width = terminal_width()
    if width is None or "tfreader " in text:
        return text
    return "\n".join(part for line in text.split("\n") for part in broken(line, width))


def safe(text: str) -> str:
    """Text without what a hostile variable name could do to a terminal."""
    return "\n".join(map(printable, text.split("\n")))


def size(nbytes: int) -> str:
    """Bytes for people, in decimal units."""
    value = float(nbytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}" if unit != "B" else f"{nbytes} B"
        value /= 1000
    return f"{value:.3g} TB"


def shape(dimensions: Iterable[int]) -> str:
    return "[" + ", ".join(map(str, dimensions)) + "]"


def printable(text: str) -> str:
    """Text without what would break a line or do something to the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def notes_on(checkpoint: Checkpoint) -> list[str]:
    """What was assumed, and what to do where that is not plain."""
    notes = list(checkpoint.notes)
    if checkpoint.format.endswith("safetensors"):
        path = quoted(checkpoint.path)
        notes.append(
            "safetensors of TensorFlow (format tf): transformers 5 loads it without an error but "
            "with every weight random, and older releases need TensorFlow for it; convert it: "
            f"tfreader convert --tf_checkpoint {path} --pytorch_dump_output FOLDER"
        )
    return notes


def plan_lines(plan: Plan, notes: Sequence[str]) -> Iterator[str]:
    """The whole plan, variables that differ only in numbers folded into one line."""
    from tfreader.mapping.findings import count

    kind = plan.family.model_type if plan.family else "rule file"
    yield f"{plan.path} -> {plan.architecture or 'state dict'} ({kind})"
    yield from (f"note: {note}" for note in notes)
    rows = [tuple(map(printable, row)) for row in plan.folded()]
    yield from table([("variable", "tensor", "operation", "shape", "dtype"), *rows])
    for alias, target in plan.ties.items():
        yield f"tied: {alias} = {target}"
    yield from dropped_lines(plan)
    yield f"{count(plan.entries, 'tensor')}, {size(plan.nbytes)}"


def comparison_lines(found: Comparison) -> Iterator[str]:
    """A model against its checkpoint, tensors that differ only in numbers folded into one line."""
    from tfreader.mapping.findings import count

    kind = found.architecture or "state dict"
    yield f"{found.model} against {found.checkpoint}, as {kind}"
    yield from (f"note: {note}" for note in found.notes)
    wrong_first = sorted(found.rows, key=lambda row: row.ok)
    names = [(literal(row.tensor), *row.detail.split(" ")) for row in wrong_first]
    rows = [("", "tensor", "largest difference", "")]
    for (name, *detail), members in fold_rows(names, [(row.ok, row.status) for row in wrong_first]):
        alike = [wrong_first[member] for member in members]
        largest = max(row.largest_difference or 0 for row in alike)
        mark = alike[0].status if alike[0].ok else f"{alike[0].status} !"
        told = f"{largest:.3g}" if largest else ""
        rows.append((mark, printable(name), told, printable(" ".join(detail))))
    yield from table(rows, name_at=1)
    yield from (f"problem: {problem}" for problem in found.others)
    counts = ", ".join(f"{number} {status}" for status, number in found.counts.items() if number)
    verdict = "the model is" if found.ok else f"{count(found.problems, 'problem')}: it is not"
    yield (
        f"{count(found.rows, 'tensor')}, {size(found.nbytes)}: {counts}: {verdict} what the "
        "checkpoint gives"
    )


def failure_data(error: Exception, said: str) -> dict[str, Any]:
    """A failure as plain data: all that does not fit, and what of the plan could be made."""
    plan: Any = getattr(error, "plan", None)
    return {
        "ok": False,
        "error": said,
        "error_type": type(error).__name__,
        "code": getattr(error, "code", None),
        "problems": list(getattr(error, "problems", (said,))),
        **(plan.to_data() if plan is not None else {}),
    }


def failure_lines(error: PlanError) -> Iterator[str]:
    """What of a plan could be made, then everything that does not fit."""
    plan: Any = error.plan
    yield from plan_lines(plan, plan.notes)
    yield from (f"problem: {problem}" for problem in error.problems)


def dropped_lines(plan: Plan) -> Iterator[str]:
    """Left-out variables, one line a reason."""
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for key, reason in plan.dropped.items():
        name = plan.shown.get(key, key)
        kind = cause_of(reason)
        first.setdefault(kind, name)
        counts[kind] += 1
    for kind, count in counts.items():
        others = f" and {count - 1} more" if count > 1 else ""
        yield f"left out ({kind}): {printable(first[kind])}{others}"


def cause_of(reason: str) -> str:
    """Why a variable is left out, without the variable that it belongs to."""
    return _OWNED.sub(r"\1", reason)


def report_lines(report: Report) -> Iterator[str]:
    from tfreader.mapping.findings import count

    yield from (f"note: {note}" for note in report.notes)
    yield from dropped_lines(report.plan)
    kind = report.plan.architecture or "state dict"
    yield f"{kind}: {count(report.plan.entries, 'tensor')}, {size(report.plan.nbytes)}, written to"
    yield from (f"  {file}" for file in report.files)


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Callable[[Plan], Callable[[int], None]] | None]:
    """A bar with rate and time left on stderr, where that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:

        def start(plan: Plan) -> Callable[[int], None]:
            task = bar.add_task(plan.architecture or "converting", total=plan.nbytes)
            return lambda count: bar.update(task, advance=count)

        yield start
