"""The command verify: a checkpoint, what was converted, or any model against its checkpoint."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from . import FAILED
from .guide import complete_file
from .look import open_any
from .options import MAKING, Command, debug_option, html_option, options
from .show import put, safe

if TYPE_CHECKING:
    from tfreader.statistics import Statistics


@click.command(cls=Command)
@click.argument("path", shell_complete=complete_file)
@click.option(
    "--against",
    metavar="CHECKPOINT",
    shell_complete=complete_file,
    help="Make the tensors of the model PATH, whoever converted it, again from its checkpoint, and "
    "compare. The options below say how, where that is to be told.",
)
@options(*MAKING)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@html_option
@debug_option
@click.pass_context
def verify(
    ctx: click.Context, /, path: str, against: str | None, as_json: bool, **options: Any
) -> None:
    """Check a checkpoint, or what was converted; any model against its checkpoint."""
    import tfreader

    from .page import page_text, put_page
    from .pages import put_failure
    from .show import failure_data, size

    default = click.core.ParameterSource.DEFAULT
    given = {name: options[name] for name in options if ctx.get_parameter_source(name) != default}
    if given and against is None:
        flag = next(each.opts[0] for each in ctx.command.params if each.name in given)
        raise click.UsageError(f"{flag} goes with --against")
    if against is not None:
        _compare(path, against, as_json, given)
        return
    try:
        if _is_converted(path):
            from tfreader.mapping.records.audit import verify_output

            report = verify_output(path)
            line = f"{path}: {report.tensors} tensors, {size(report.nbytes)}: as recorded"
        else:
            with open_any(path, salvage=True) as checkpoint:
                report = checkpoint.verify()
                found = f"{report.tensors} variables, {report.nbytes} bytes"
                line = f"{checkpoint.path}: {found}: {checkpoint.verified}"
    except tfreader.ChecksumError as error:
        put_failure(ctx, error)
        if as_json:
            put(failure_data(error, str(error)), [], True)
        else:
            for problem in error.problems:
                click.echo(safe(f"tfreader: {problem}"), err=True)
        sys.exit(FAILED)
    put_page(lambda: page_text("verify", path, ("good", line), {}, []))
    put({"ok": True, "problems": [], **report._asdict()}, [line], as_json)


def _compare(model: str, checkpoint: str, as_json: bool, given: dict[str, Any]) -> None:
    from tfreader.mapping.records.audit import compare_output

    from .page import has_page, put_page
    from .pages import verify_page
    from .show import comparison_lines

    values: dict[str, Statistics] | None = {} if has_page() else None
    found = compare_output(model, checkpoint, statistics=values, **given)
    put_page(lambda: verify_page(found.to_data(), values or {}))
    put(found.to_data(), comparison_lines(found), as_json)
    if not found.ok:
        sys.exit(FAILED)


def _is_converted(path: str) -> bool:
    from tfreader.mapping.places import find_record

    return find_record(path) is not None
