"""`tfreader batch`: many conversions at once."""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from glob import glob
from itertools import takewhile
from math import inf
from os.path import commonprefix
from pathlib import Path
from signal import SIGINT, SIGTERM, default_int_handler, signal
from typing import TYPE_CHECKING, Any

import click

from tfreader.errors import ConfigError, TFReaderError
from tfreader.paths import absolute, as_path, is_dir, path_of, place, slashes
from tfreader.system import processors, quoted

from . import FAILED, INTERRUPTED
from .guide import complete_file, complete_folder
from .options import HOW, Command, debug_option, html_option, is_page, options

if TYPE_CHECKING:
    from tfreader.mapping.batch import Batch, Job, Outcome, Workers

LINES = 40  # of a summary that goes to no terminal
NOTES = 5  # on what patterns match and nobody wants


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


@click.command(
    cls=Command,
    exit_codes={
        "0": "all jobs are done, or were before",
        "1": "a job failed: the summary says which and why; the others are done",
        "2": "wrong usage, also in a row of JOBS: nothing was begun",
    },
)
@click.argument("sources", metavar="[FOLDER | JOBS]", nargs=-1, shell_complete=complete_file)
@click.option(
    "--glob",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="Convert every checkpoint that matches, in quotes. May be repeated.",
)
@click.option(
    "--output-root",
    metavar="DIR",
    shell_complete=complete_folder,
    help="Where the outputs of FOLDER or --glob go.",
)
@click.option(
    "--jobs",
    "-j",
    "count",
    type=click.IntRange(1),
    default=processors,
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
    type=click.Path(dir_okay=False, writable=True),
    metavar="FILE",
    help="Write every job's outcome to this JSON file, or URL, as the run goes; a page if x.html.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the same document on stdout.")
@click.option("--log-json", is_flag=True, help="Log one JSON object a line on stderr.")
@click.option("--quiet", is_flag=True, help="Print failures alone.")
@html_option
@options(*HOW)
@debug_option
@click.pass_context
def batch(
    ctx: click.Context,
    /,
    sources: tuple[str, ...],
    patterns: tuple[str, ...],
    output_root: str | None,
    count: int,
    memory_limit: str | None,
    dry_run: bool,
    force: bool,
    retries: int,
    dask: str | None,
    resources: dict[str, float],
    report_file: str | None,
    as_json: bool,
    log_json: bool,
    quiet: bool,
    **_: Any,
) -> None:
    """Convert many checkpoints.

    FOLDER is searched for checkpoints of every kind. JOBS is a .jsonl, .toml or .csv file, a job a
    row: its keys are the flags of `tfreader convert`, its relative paths are relative to the file.
    Flags given here hold for the rows that do not say otherwise. An output that is there already,
    made of the same contents by the same rules and options, is left alone: start the command again
    to go on after an interruption.
    """
    from tfreader.mapping.batch import LINK, Batch

    from .batch_page import batch_page
    from .page import put_page
    from .progress import reporter, summary_lines
    from .report import BatchReport, kept, now

    if log_json:
        ctx.with_resource(_without_warnings())
    _check_report(report_file, sources)
    passed_over: list[Outcome] = []
    jobs, root = _jobs(ctx, sources, patterns, output_root, passed_over.append)
    _tell_passed_over(passed_over if log_json or patterns else (), log_json)
    passed_over = [outcome for outcome in passed_over if outcome.code != LINK]
    try:
        workers, share = _workers(jobs, count, memory_limit, dask, resources, retries, log_json)
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
    command = quoted("tfreader", "batch", *ctx.meta["arguments"])
    report = BatchReport(command, root, len(jobs) + len(passed_over))
    for outcome in passed_over:
        report.add(outcome)
    is_paged = report_file is not None and is_page(report_file)
    text = (lambda: batch_page(report.to_data())) if is_paged else report.to_json
    unwritten = None
    try:
        with kept(report_file, text) as changed:
            with _stopped_by_signals(run), reporter(run, report, log_json, quiet) as tell:
                for outcome in run.run():
                    report.add(outcome)
                    changed()
                    tell(outcome)
            report.interrupted = run.is_stopped
            report.end = now()
        put_page(lambda: batch_page(report.to_data()))
    except TFReaderError as error:  # the jobs are done all the same, which the summary tells
        if report.end is None:
            raise
        unwritten = error
    if as_json:
        click.echo(report.to_json(), nl=False)
    elif not log_json:
        width, height = shutil.get_terminal_size()
        for line in summary_lines(report, width, height if sys.stdout.isatty() else LINES):
            click.echo(line)
    if unwritten is not None:
        _tell_unwritten(unwritten, log_json)
        ctx.exit(FAILED)
    if run.is_stopped:
        ctx.exit(INTERRUPTED)
    if report.counts()["failed"]:
        ctx.exit(FAILED)


def _tell_passed_over(outcomes: Sequence[Outcome], log_json: bool) -> None:
    """Say what no job was made of; of patterns, whose author may correct them, the first."""
    from .progress import log_event
    from .show import printable

    if log_json:
        for outcome in outcomes:
            log_event("passed over", **outcome.to_data())
        return
    said = [printable(f"{one.job.tf_checkpoint}: {one.error}") for one in outcomes[:NOTES]]
    if len(outcomes) > NOTES:
        said.append(f"{len(outcomes) - NOTES} more, which --report FILE names")
    for line in said:
        click.echo(f"note: passed over: {line}", err=True)


def _tell_unwritten(error: TFReaderError, log_json: bool) -> None:
    from .progress import log_event
    from .show import printable

    if log_json:
        name = type(error).__name__
        log_event("failed", error=str(error), error_type=name, code=error.code)
    else:
        click.echo(f"tfreader: {printable(str(error))}", err=True)


def _jobs(
    ctx: click.Context,
    sources: tuple[str, ...],
    patterns: tuple[str, ...],
    output_root: str | None,
    pass_over: Callable[[Outcome], None],
) -> tuple[list[Job], str]:
    """The jobs, and the folder in which all their checkpoints lie."""
    from .jobs import READERS, from_file, from_folder, from_glob, given_flags

    if len(sources) > 1 or (sources and patterns):
        raise click.UsageError(_unquoted([*patterns, *sources]))
    source = sources[0] if sources else None
    is_folder = source is not None and is_dir(source)
    if source is not None and output_root and not is_folder:
        if os.path.splitext(source)[1] in READERS:
            raise click.UsageError(
                f"{source}: the jobs say where their outputs go (pytorch_dump_output); leave out "
                "--output-root, which is of a folder or --glob"
            )
        raise click.UsageError(
            f"{source}: no folder there; for what a path matches: --glob {quoted(source)}"
        )
    if bool(source) == bool(patterns) or (is_folder or bool(patterns)) != bool(output_root):
        raise click.UsageError(
            "give a file of jobs, or a folder or --glob 'PATTERN' with --output-root"
        )
    given = given_flags(ctx)
    if source is None:
        jobs = from_glob(patterns, str(output_root), given, pass_over)
    elif is_folder:
        folder = slashes(absolute(path_of(source))).rstrip("/")
        return from_folder(folder, str(output_root), given, pass_over), folder
    else:
        jobs = from_file(source, given)
    return jobs, _common([job.tf_checkpoint for job in jobs])


def _common(paths: Sequence[str]) -> str:
    """The innermost folder in which all of these lie; empty where there is none."""
    folders = zip(*(path.split("/")[:-1] for path in paths), strict=False)
    return "/".join(parts[0] for parts in takewhile(lambda parts: len({*parts}) == 1, folders))


@contextmanager
def _without_warnings() -> Iterator[None]:
    """No warning of a library gets among the lines of a log, of a process of the pool neither."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sys.warnoptions.append("ignore")  # which new processes are given
        try:
            yield
        finally:
            sys.warnoptions.remove("ignore")


def _unquoted(names: Sequence[str]) -> str:
    """What to say where a shell has put the names of files in the place of a pattern."""
    parts = [slashes(name).split("/") for name in names]
    same_depth = len({*map(len, parts)}) == 1
    guess = "/".join(map(_starred, zip(*parts, strict=True))) if same_depth else "*"
    pattern = quoted(guess) if sorted(glob(guess)) == sorted(names) else "'PATTERN'"
    return (
        f"{len(names)} names where one is taken: the shell has put them in the place of a pattern; "
        f"quote it: --glob {pattern}"
    )


def _starred(names: Sequence[str]) -> str:
    """What these names begin and end with, around a * for what differs."""
    if len({*names}) == 1:
        return names[0]
    start = commonprefix(names)  # noqa: RUF071 - of letters
    end = commonprefix([name[len(start) :][::-1] for name in names])[::-1]  # noqa: RUF071
    return f"{start}*{end}"


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


def _check_report(file: str | None, sources: Sequence[str]) -> None:
    """Raise click.UsageError where a report can never be written, or is what is to be read."""
    if file is None:
        return
    path = as_path(file)
    if place(file) in map(place, sources):
        raise click.UsageError(f"--report {file}: is the file of jobs, and would be overwritten")
    if isinstance(path, Path) and not os.access(path.parent, os.W_OK):
        why = "cannot be written to" if path.parent.exists() else "is not there"
        raise click.UsageError(f"--report {file}: its folder {why}")
    if not isinstance(path, Path) and path.is_web:
        raise click.UsageError(f"--report {file}: cannot be written to; name a file, or s3://…")


def _workers(
    jobs: Sequence[Job],
    count: int,
    memory_limit: str | None,
    dask: str | None,
    resources: Mapping[str, float],
    retries: int,
    log_json: bool,
) -> tuple[Workers, int]:
    """Where the jobs run, and the memory that each has for tensors."""
    from tfreader.mapping.batch import Cluster, Pool, needs_torch, shares
    from tfreader.mapping.execute import MEMORY_LIMIT
    from tfreader.mapping.writers.safetensors import parse_size

    limit = None if memory_limit is None else parse_size(memory_limit, "--memory-limit")
    if dask is not None:
        return Cluster(dask, resources, retries), limit or MEMORY_LIMIT
    if resources:
        raise click.UsageError("--resource is for the workers of --dask")
    count = min(count, len(jobs))
    if limit is None:
        return Pool(count, log_json), MEMORY_LIMIT
    count, share = shares(limit, count, any(map(needs_torch, jobs)))
    return Pool(count, log_json), share
