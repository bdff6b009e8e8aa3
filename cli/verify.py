"""The command verify: a checkpoint, what was converted, or any model against its checkpoint."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from tfreader.errors import CheckpointNotFoundError, TFReaderError
from tfreader.system import quoted

from . import FAILED
from .guide import complete_file
from .look import open_any
from .options import MAKING, Command, debug_option, html_option, options
from .show import put, safe

if TYPE_CHECKING:
    from tfreader.checkpoint import Checkpoint
    from tfreader.statistics import Statistics


@click.command(
    cls=Command,
    exit_codes={
        "0": "all is right",
        "1": "something is not, or could not be read: stdout or stderr says what",
    },
)
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
    from tfreader.mapping.findings import count

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
            found = f"{count(report.tensors, 'tensor')}, {size(report.nbytes)}"
            line = f"{path}: {found}: as recorded"
        else:
            with _opened(path) as checkpoint:
                report = checkpoint.verify()
                found = f"{count(report.tensors, 'variable')}, {report.nbytes} bytes"
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
    try:
        found = compare_output(model, checkpoint, statistics=values, **given)
    except TFReaderError as error:
        if told := _mistaken(model, checkpoint):
            raise CheckpointNotFoundError(told) from error
        raise
    put_page(lambda: verify_page(found, values or {}))
    put(found.to_data(), comparison_lines(found), as_json)
    if not found.ok:
        sys.exit(FAILED)


def _opened(path: str) -> Checkpoint:
    """A checkpoint to check; a model without a record says how it can be checked."""
    try:
        return open_any(path, salvage=True)
    except TFReaderError:
        if not _is_model(path):
            raise
        raise CheckpointNotFoundError(
            f"{path}: a PyTorch model without a record of its conversion, so that nothing tells "
            "what it should be but its checkpoint: "
            f"tfreader verify {quoted(path)} --against CHECKPOINT"
        ) from None


def _mistaken(model: str, checkpoint: str) -> str | None:
    """What is said where one of two paths is the other's kind; None where neither is."""
    is_checkpoint = _is_checkpoint(model)
    if _is_model(checkpoint) and not _is_checkpoint(checkpoint):
        if is_checkpoint:
            turned = f"tfreader verify {quoted(checkpoint)} --against {quoted(model)}"
            return f"{checkpoint}: a PyTorch model, which comes first: {turned}"
        return f"{checkpoint}: a PyTorch model, where --against takes a TensorFlow checkpoint"
    if is_checkpoint and not _is_model(model):
        return (
            f"{model}: no PyTorch weights in it, but a TensorFlow checkpoint; two of these "
            f"are compared by tfreader diff {quoted(model)} {quoted(checkpoint)}"
        )
    return None


def _is_model(path: str) -> bool:
    from tfreader.mapping.sources.weights import open_weights
    from tfreader.paths import as_path

    try:
        open_weights(as_path(path)).close()
    except TFReaderError:
        return False
    return True


def _is_checkpoint(path: str) -> bool:
    try:
        open_any(path).close()
    except TFReaderError:
        return False
    return True


def _is_converted(path: str) -> bool:
    from tfreader.mapping.places import find_record

    return find_record(path) is not None
