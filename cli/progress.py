"""What a person who leaves a batch running sees of it, and what a log of it holds."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import click

from tfreader.mapping.batch import DONE, FAILED, PASSED_OVER, Outcome

from .report import BatchReport, now
from .show import printable, size

if TYPE_CHECKING:
    from rich.table import Table

    from tfreader.mapping.batch import Batch, Job

SHOWN = 8  # running jobs that the live table names

Log = Callable[["Outcome"], None]


@contextmanager
def reporter(batch: Batch, report: BatchReport, log_json: bool, quiet: bool) -> Iterator[Log]:
    """What is told of each outcome: a live table on a terminal, else a line each."""
    if log_json:
        yield from _json_log(batch, report)
    elif quiet:
        yield lambda _: None
    elif sys.stderr.isatty():
        yield from _live_table(batch, report)
    else:
        yield lambda outcome: _say(_line(outcome, report))


def log_event(event: str, **found: Any) -> None:
    """A line of a log that holds nothing but JSON."""
    _say(json.dumps({"time": now(), "event": event, **found}))


def _json_log(batch: Batch, report: BatchReport) -> Iterator[Log]:
    log_event("batch started", jobs=batch.total)
    yield lambda outcome: log_event("job finished", **outcome.to_data())
    counts = {status: count for status, count in report.counts().items() if count}
    log_event("batch interrupted" if batch.is_stopped else "batch finished", **counts)


def _say(line: str) -> None:
    with suppress(OSError):  # nobody reads any more, which is no reason to stop the jobs
        click.echo(line, err=True)


def _line(outcome: Outcome, report: BatchReport) -> str:
    if outcome.status in (FAILED, PASSED_OVER):
        text = f"{outcome.code}: {why(outcome)}"
    else:
        text = f"{outcome.architecture or 'state dict'}, {size(outcome.nbytes)}"
    status = outcome.status.replace("_", " ")
    return f"[{len(report.outcomes)}/{report.jobs}] {status} {_shown(outcome.job, report)}: {text}"


def _shown(job: Job, report: BatchReport) -> str:
    """The checkpoint's path, relative to the root of all."""
    path = job.tf_checkpoint
    return printable(path.removeprefix(f"{report.root}/") if report.root else path)


def why(outcome: Outcome) -> str:
    """The error in one line, without the paths that stand beside it."""
    path, output = outcome.job.tf_checkpoint, outcome.job.pytorch_dump_output
    folder = os.path.dirname(path)
    said = "; ".join(filter(None, str(outcome.error).split("\n")))
    said = said.removeprefix(f"{path}: ").removeprefix(f"{path} ")
    for long, short in ((output, "the output"), (f"{folder}/", ""), (folder, "its folder")):
        said = said.replace(long, short) if long.strip("/") else said
    return printable(said)


def _cut(text: str, width: int) -> str:
    """Text that takes no more than `width` cells of a terminal."""
    from rich.cells import cell_len, set_cell_size

    return text if cell_len(text) <= width else set_cell_size(text, width - 1).rstrip() + "…"


def _live_table(batch: Batch, report: BatchReport) -> Iterator[Log]:
    from rich.console import Console
    from rich.live import Live

    start = time.monotonic()

    def drawn() -> Table:
        return _table(batch, report, time.monotonic() - start, console.width)

    console = Console(stderr=True)
    with Live(console=console, get_renderable=drawn, transient=True):
        yield lambda _: None


def _table(batch: Batch, report: BatchReport, seconds: float, width: int) -> Table:
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    running = batch.running
    counts = report.counts()
    passed_over = report.jobs - batch.total  # by the scan, before anything was begun
    finished = len(report.outcomes) - passed_over
    left = batch.total - finished
    del counts[PASSED_OVER]
    shown = {status: n for status, n in counts.items() if n or status in (DONE, FAILED)}
    cells = {
        "running": str(len(running)),
        "waiting": str(left - len(running)),
        **{status: str(count) for status, count in shown.items()},
        "written": size(batch.written),
        "rate": f"{size(int(batch.written / seconds))}/s" if seconds else "",
        "time left": str(timedelta(seconds=round(seconds / finished * left))) if finished else "",
    }
    live = Table(*cells, box=SIMPLE, pad_edge=False)
    live.add_row(*cells.values())
    causes = ", ".join(f"{count} {code}" for code, count in report.causes().items())
    below = [f"failed: {causes}"] if causes else []
    below += [_shown(job, report) for job in running]
    live.caption = Text("\n".join(_cut(line, width) for line in below[:SHOWN]))
    return live


def summary_lines(report: BatchReport, width: int, height: int) -> Iterator[str]:
    """The jobs that failed, by cause, and how many did not: if it can be, within `height`."""
    groups = _by_cause(report)
    end = [*_left_over(report, width), *_wrapped(_counted(report), width)]
    names = [[_shown(outcome.job, report) for outcome in group] for group in groups]
    bodies = [_packed(paths, width) if len(paths) > 1 else [] for paths in names]
    for lines in (2, 1):
        heads = [_wrapped(_heading(group, report), width, lines) for group in groups]
        room = height - sum(map(len, heads)) - len(end) - 2  # the last is for the prompt
        if room >= 2 * sum(map(bool, bodies)):
            break
    if room < 2 * sum(map(bool, bodies)):
        yield from _briefly(groups, [head[0] for head in heads], end, report, width, height)
        return
    most = _most_lines([*map(len, bodies)], room)
    if groups and report.root:
        yield _cut(printable(f"failed, below {report.root}:"), width)
    for head, body in zip(heads, bodies, strict=True):
        yield from head
        yield from ("    " + "  ".join(line) for line in body[:most])
        if left := sum(map(len, body[most:])):
            yield f"    … and {left} more, which --report FILE names"
    yield from end


def _briefly(
    groups: Sequence[Sequence[Outcome]],
    heads: Sequence[str],
    end: Sequence[str],
    report: BatchReport,
    width: int,
    height: int,
) -> Iterator[str]:
    """A line a cause without paths, and where there is no room for that the rare ones together."""
    tail = _wrapped("--report FILE names each", width)
    room = height - len(end) - len(tail) - 2
    shown = len(heads)
    while True:
        rest = [f"{len(group)} {_cause(group[0])}" for group in groups[shown:]]
        others = _wrapped(", ".join(rest), width) if rest else []
        if shown + len(others) <= room or not shown:
            break
        shown -= 1
    if report.root:
        yield _cut(printable(f"failed, below {report.root}:"), width)
    yield from heads[:shown]
    yield from others
    yield from tail
    yield from end


def _cause(outcome: Outcome) -> str:
    return f"{outcome.model_type} {outcome.code}" if outcome.model_type else str(outcome.code)


def _by_cause(report: BatchReport) -> list[list[Outcome]]:
    """The failed outcomes, those of one cause and model type together, most of them first."""
    groups: dict[tuple[str | None, str | None], list[Outcome]] = {}
    for outcome in report.outcomes:
        if outcome.status == FAILED:
            groups.setdefault((outcome.code, outcome.model_type), []).append(outcome)
    for group in groups.values():
        group.sort(key=lambda outcome: outcome.job.tf_checkpoint)
    return sorted(groups.values(), key=lambda group: (-len(group), str(group[0].code)))


def _heading(group: Sequence[Outcome], report: BatchReport) -> str:
    """How many there are, of what, by which cause, and what was said of the first of them."""
    first = group[0]
    example = "e.g. " if len(set(map(why, group))) > 1 else ""
    path = f"{_shown(first.job, report)}: " if len(group) == 1 else ""
    return f"{len(group)} {_cause(first)}: {path}{example}{why(first)}"


def _left_over(report: BatchReport, width: int) -> list[str]:
    """What was passed over, by cause."""
    counts = Counter(o.code for o in report.outcomes if o.status == PASSED_OVER)
    listed = ", ".join(f"{count} {code}" for code, count in counts.most_common())
    return _wrapped(f"passed over, as nothing to convert: {listed}", width) if counts else []


def _counted(report: BatchReport) -> str:
    counts = [
        f"{count} {status.replace('_', ' ')}" for status, count in report.counts().items() if count
    ]
    if left := report.jobs - len(report.outcomes):
        counts.append(f"{left} not done (interrupted: start again to go on)")
    nbytes = sum(outcome.nbytes for outcome in report.outcomes if outcome.status == DONE)
    jobs = f"{report.jobs} job{'s' * (report.jobs != 1)}"
    return f"{jobs}: {', '.join(counts)}, {size(nbytes)} written"


def _wrapped(text: str, width: int, most: int | None = None) -> list[str]:
    """Text in lines of that width, cut after `most` of them."""
    lines = wrap(
        text,
        width,
        subsequent_indent="    ",
        max_lines=most,
        placeholder=" …",
        break_on_hyphens=False,
    )
    return [_cut(line, width) for line in lines]  # letters of East Asia take two cells


def _packed(paths: Sequence[str], width: int) -> list[list[str]]:
    """Paths in lines, as many in each as there is room for."""
    from rich.cells import cell_len

    lines: list[list[str]] = []
    room = 0
    for path in paths:
        shown = _cut(path, width - 4)
        if cell_len(shown) + 2 > room:
            lines.append([])
            room = width - 2
        lines[-1].append(shown)
        room -= cell_len(shown) + 2
    return lines


def _most_lines(lengths: Sequence[int], room: int) -> int:
    """How many lines each may have of these, so that all together have no more than `room`."""
    most = max(lengths, default=0)
    while most > 1 and sum(min(length, most) + (length > most) for length in lengths) > room:
        most -= 1
    return most
