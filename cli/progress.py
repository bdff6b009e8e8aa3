"""What a person who leaves a batch running sees of it, and what a log of it holds."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from tfreader.mapping.batch import DONE, FAILED, PLANNED, SKIPPED

from .show import printable, size, table

if TYPE_CHECKING:
    from rich.table import Table

    from tfreader.mapping.batch import Batch, Outcome

SHOWN = 8  # running jobs that the live table names

Report = Callable[["Outcome"], None]


@contextmanager
def reporter(batch: Batch, log_json: bool, quiet: bool) -> Iterator[Report]:
    """What is told of each outcome: a live table on a terminal, else a line each."""
    if log_json:
        yield from _json_log(batch)
    elif quiet:
        yield lambda _: None
    elif sys.stderr.isatty():
        yield from _live_table(batch)
    else:
        yield _lines(batch)


def _json_log(batch: Batch) -> Iterator[Report]:
    def log(event: str, **found: Any) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        _say(json.dumps({"time": now, "event": event, **found}))

    log("batch started", jobs=batch.total)
    counts: Counter[str] = Counter()

    def report(outcome: Outcome) -> None:
        counts[outcome.status] += 1
        log("job finished", **outcome.to_data())

    yield report
    log("batch interrupted" if batch.is_stopped else "batch finished", **counts)


def _say(line: str) -> None:
    with suppress(OSError):  # nobody reads any more, which is no reason to stop the jobs
        click.echo(line, err=True)


def _lines(batch: Batch) -> Report:
    finished = 0

    def report(outcome: Outcome) -> None:
        nonlocal finished
        finished += 1
        _say(f"[{finished}/{batch.total}] {outcome_line(outcome)}")

    return report


def outcome_line(outcome: Outcome) -> str:
    job = outcome.job
    if outcome.status == FAILED:
        text = f"failed {job.tf_checkpoint}: {why(outcome)}"
    else:
        made = f"{outcome.architecture or 'state dict'}, {size(outcome.nbytes)}"
        text = f"{outcome.status} {job.tf_checkpoint} -> {job.pytorch_dump_output} ({made})"
    return "\n".join(map(printable, text.split("\n")))


def why(outcome: Outcome) -> str:
    """The error, without the checkpoint's name, which stands before it."""
    return str(outcome.error).removeprefix(f"{outcome.job.tf_checkpoint}: ")


def _live_table(batch: Batch) -> Iterator[Report]:
    from rich.console import Console
    from rich.live import Live

    counts: Counter[str] = Counter()
    start = time.monotonic()

    def report(outcome: Outcome) -> None:
        counts[outcome.status] += 1
        if outcome.status == FAILED:
            live.console.print(outcome_line(outcome), markup=False, highlight=False)

    def drawn() -> Table:
        return _table(batch, counts, time.monotonic() - start)

    console = Console(stderr=True)
    with Live(console=console, get_renderable=drawn, transient=True) as live:
        yield report


def _table(batch: Batch, counts: Counter[str], seconds: float) -> Table:
    from rich.table import Table

    running = batch.running
    finished = counts.total()
    left = batch.total - finished
    cells = {
        "running": str(len(running)),
        "waiting": str(left - len(running)),
        **{status: str(counts[status]) for status in dict.fromkeys((DONE, FAILED, *counts))},
        "written": size(batch.written),
        "rate": f"{size(int(batch.written / seconds))}/s" if seconds else "",
        "time left": str(timedelta(seconds=round(seconds / finished * left))) if finished else "",
    }
    live = Table(*cells)
    live.add_row(*cells.values())
    live.caption = "\n".join(printable(job.pytorch_dump_output) for job in running[:SHOWN])
    return live


def summary_data(outcomes: Sequence[Outcome], batch: Batch) -> dict[str, Any]:
    """Every job's outcome, for JSON."""
    return {
        "jobs": batch.total,
        "interrupted": batch.is_stopped,
        **_counts(outcomes),
        "outcomes": [outcome.to_data() for outcome in outcomes],
    }


def summary_lines(outcomes: Sequence[Outcome], batch: Batch) -> Iterator[str]:
    """A table of the jobs that failed, and how many did not."""
    failed = [outcome for outcome in outcomes if outcome.status == FAILED]
    rows = [(o.job.tf_checkpoint, o.error_type or "", why(o)) for o in failed]
    if rows:
        yield from table([("failed", "error", "why"), *(tuple(map(_cell, row)) for row in rows)])
    counts = [f"{count} {status}" for status, count in _counts(outcomes).items() if count]
    if left := batch.total - len(outcomes):
        counts.append(f"{left} not done (interrupted: start again to go on)")
    nbytes = sum(outcome.nbytes for outcome in outcomes if outcome.status == DONE)
    jobs = f"{batch.total} job{'s' * (batch.total != 1)}"
    yield f"{jobs}: {', '.join(counts)}, {size(nbytes)} written"


def _cell(text: str) -> str:
    """Text for a row of a table, the lines of an error one behind the other."""
    return printable("; ".join(filter(None, text.split("\n"))))


def _counts(outcomes: Sequence[Outcome]) -> dict[str, int]:
    counts = Counter(outcome.status for outcome in outcomes)
    return {status: counts[status] for status in (DONE, SKIPPED, PLANNED, FAILED)}
