"""`tfreader batch`: many conversions at once."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import inf
from pathlib import Path
from signal import SIGINT, SIGTERM, default_int_handler, signal
from typing import TYPE_CHECKING, Any

import click

from tfreader.errors import ConfigError, OutputError

from . import FAILED, INTERRUPTED
from .options import HOW, Command, debug_option, options

if TYPE_CHECKING:
    from tfreader.mapping.batch import Batch, Job, Workers


def _resources(_: Any, __: Any, values: tuple[str, ...]) -> dict[str, float]:
    """NAME=AMOUNT pairs, the amounts more than none."""
    found: dict[str, float] = {}
    for pair in values:
        name, _, amount = pair.partition("=")
        if name in found:
            raise click.BadParameter(f"{name} is claimed twice")
        try:
            found[name] = float(amount)
        except ValueError:
            found[name] = 0
        if not name or not 0 < found[name] < inf:
            raise click.BadParameter(f"{pair!r} is not NAME=AMOUNT")
    return found


@click.command(cls=Command)
@click.argument("jobs_file", metavar="[JOBS]", required=False)
@click.option(
    "--glob",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="Convert every checkpoint that matches. May be repeated.",
)
@click.option("--output-root", metavar="DIR", help="Where the outputs of --glob go.")
@click.option(
    "--jobs",
    "-j",
    "count",
    type=click.IntRange(1),
    default=lambda: len(os.sched_getaffinity(0)),
    show_default="one for each processor",
    help="How many conversions run at a time.",
)
@click.option(
    "--memory-limit",
    "--memory_limit",
    metavar="SIZE",
    help="Memory of all processes together; by default 192MiB of tensors a job.",
)
@click.option(
    "--dry-run", is_flag=True, help="Plan all jobs, print which would fail, write nothing."
)
@click.option("--force", is_flag=True, help="Do jobs again whose output is there already.")
@click.option(
    "--retries",
    type=click.IntRange(0),
    default=2,
    show_default=True,
    help="How often a job is tried again that failed for the network.",
)
@click.option("--dask", metavar="ADDRESS", help="Run on the Dask cluster of this scheduler.")
@click.option(
    "--resource",
    "resources",
    multiple=True,
    metavar="NAME=AMOUNT",
    callback=_resources,
    help="What a job claims of a Dask worker's resources. May be repeated.",
)
@click.option(
    "--report",
    "report_file",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    metavar="FILE",
    help="Write every job's outcome to this JSON file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the same document on stdout.")
@click.option("--log-json", is_flag=True, help="Log one JSON object a line on stderr.")
@click.option("--quiet", is_flag=True, help="Print failures alone.")
@options(*HOW)
@debug_option
@click.pass_context
def batch(
    ctx: click.Context,
    /,
    jobs_file: str | None,
    patterns: tuple[str, ...],
    output_root: str | None,
    count: int,
    memory_limit: str | None,
    dry_run: bool,
    force: bool,
    retries: int,
    dask: str | None,
    resources: dict[str, float],
    report_file: Path | None,
    as_json: bool,
    log_json: bool,
    quiet: bool,
    **_: Any,
) -> None:
    """Convert many checkpoints.

    JOBS is a .jsonl, .toml or .csv file, a job a row: its keys are the flags of `tfreader convert`,
    its relative paths are relative to the file. Flags given here hold for the rows that do not say
    otherwise. An output that is there already, made of the same files by the same rules and
    options, is left alone: start the command again to go on after an interruption.
    """
    from tfreader.mapping.batch import Batch

    from .jobs import from_file, from_glob, given_flags
    from .progress import reporter, summary_data, summary_lines

    if (jobs_file is not None) == bool(patterns) or bool(patterns) != bool(output_root):
        raise click.UsageError("give a file of jobs, or --glob with --output-root")
    if report_file is not None and not os.access(report_file.parent, os.W_OK):
        raise click.UsageError(f"--report {report_file}: its folder cannot be written to")
    given = given_flags(ctx)
    if jobs_file is not None:
        jobs = from_file(jobs_file, given)
    else:
        jobs = from_glob(patterns, str(output_root), given)
    try:
        workers, share = _workers(jobs, count, memory_limit, dask, resources, retries)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    run = Batch(
        jobs,
        workers,
        retries=0 if dask else retries,  # a cluster does that itself
        memory_limit=share,
        resume=not force,
        dry_run=dry_run,
    )
    outcomes = []
    with _stopped_by_signals(run), reporter(run, log_json, quiet) as report:
        for outcome in run.run():
            outcomes.append(outcome)
            report(outcome)
    data = summary_data(outcomes, run)
    document = json.dumps(data, indent=2)
    if report_file is not None:
        _write(report_file, document + "\n")
    if as_json:
        click.echo(document)
    elif not log_json:
        for line in summary_lines(outcomes, run):
            click.echo(line)
    if run.is_stopped:
        ctx.exit(INTERRUPTED)
    if data["failed"]:
        ctx.exit(FAILED)


@contextmanager
def _stopped_by_signals(run: Batch) -> Iterator[None]:
    """Ctrl-C, and what is sent to a container that is to end, stop a batch in good order."""

    def stop(*_: object) -> None:
        run.stop()
        signal(SIGINT, default_int_handler)  # a second time means at once

    before = {number: signal(number, stop) for number in (SIGINT, SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal(number, handler)


def _write(path: Path, text: str) -> None:
    """A file that appears whole; a device or a pipe is written to."""
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, "utf-8")
            return
        part = path.with_name(f".{path.name}.tmp")
        part.write_text(text, "utf-8")
        part.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from None


def _workers(
    jobs: Sequence[Job],
    count: int,
    memory_limit: str | None,
    dask: str | None,
    resources: Mapping[str, float],
    retries: int,
) -> tuple[Workers, int]:
    """Where the jobs run, and the memory that each has for tensors."""
    from tfreader.mapping.batch import Cluster, Pool, needs_torch, shares
    from tfreader.mapping.execute import MEMORY_LIMIT
    from tfreader.mapping.writers.safetensors import parse_size

    limit = None if memory_limit is None else parse_size(memory_limit)
    if dask is not None:
        return Cluster(dask, resources, retries), limit or MEMORY_LIMIT
    if resources:
        raise click.UsageError("--resource is for the workers of --dask")
    count = min(count, len(jobs))
    if limit is None:
        return Pool(count), MEMORY_LIMIT
    count, share = shares(limit, count, any(map(needs_torch, jobs)))
    return Pool(count), share
