"""What looks at a checkpoint beside `inspect`: `tfreader show` and `tfreader diff`."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from tfreader.errors import CheckpointNotFoundError, RemoteError, RuleError, TFReaderError

from . import DIFFERENT
from .guide import complete_file
from .options import Command, debug_option
from .show import printable, put, safe

if TYPE_CHECKING:
    from tfreader import Checkpoint

LISTING = (
    click.option(
        "--sort",
        type=click.Choice(["name", "size", "offset", "dtype"]),
        help="Order by name (layer_2 before layer_10), size (the largest first), place on disk, "
        "type; else as stored.",
    ),
    click.option(
        "--fold/--no-fold",
        default=None,
        help="Show variables that differ in numbers alone, as those of layers, on one line. "
        "[default: on a terminal, and in a tree]",
    ),
    click.option("--tree", is_flag=True, help="Group by scope, with the parameters of each."),
    click.option(
        "--depth",
        type=click.IntRange(1),
        metavar="N",
        help="Show N levels of the tree.",
    ),
    click.option(
        "--stats",
        is_flag=True,
        help="Read all values: min, max, mean, standard deviation, NaN, infinities and zeros.",
    ),
)


def open_any(path: str, salvage: bool = False) -> Checkpoint:
    """Any checkpoint, also of a form that only its family knows."""
    import tfreader

    try:
        return tfreader.open(path, salvage=salvage)
    except tfreader.RemoteError:  # would come again
        raise
    except tfreader.TFReaderError:
        from tfreader.mapping.families import open_foreign

        found = open_foreign(path)
        if found is None:
            raise
        return found


def open_side(path: str) -> tuple[Checkpoint, bool]:
    """A checkpoint, or a PyTorch model's weights, and whether it is those.

    Beside a checkpoint that cannot be opened no weights are taken for it. Raises what opening it as
    a checkpoint raises, or where none is there, as weights.
    """
    from tfreader.mapping.sources.weights import open_weights
    from tfreader.paths import as_path, is_dir

    try:
        return open_any(path), False
    except RemoteError:
        raise
    except TFReaderError as error:
        if is_dir(path) and error.code not in ("pytorch", "not-found"):
            raise
        try:
            return open_weights(as_path(path)), True
        except TFReaderError as other:
            neither = isinstance(other, CheckpointNotFoundError)
            is_checkpoint = not isinstance(error, CheckpointNotFoundError)
            raise (error if neither or is_checkpoint else other) from None


def _filter(_: click.Context, __: click.Parameter, regex: str | None) -> re.Pattern[str] | None:
    from tfreader.mapping.rules.patterns import compiled

    try:
        return compiled(regex, "--filter") if regex else None
    except RuleError as error:
        raise click.UsageError(str(error)) from None


filter_option = click.option(
    "--filter",
    "pattern",
    metavar="REGEX",
    callback=_filter,
    help="Only variables whose name it finds.",
)


@click.command(cls=Command)
@click.argument("path", metavar="CHECKPOINT", shell_complete=complete_file)
@click.argument("name")
@click.option("--rows", metavar="A:B", help="Only these, counted as in Python: 0:5, -5:, or 7.")
@click.option(
    "--output",
    "-o",
    metavar="FILE",
    help="Save the values to FILE, a .npy file.",
    shell_complete=complete_file,
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@debug_option
def show(path: str, name: str, rows: str | None, output: str | None, as_json: bool) -> None:
    """Print a variable's values and what they are like, or save them.

    Of more than 1000 values, or 100,000 of --rows, those in the middle are not printed.
    """
    from .values import Chosen, rows_of, save, values_data, values_lines

    with open_any(path) as checkpoint:
        with suppress(TFReaderError):  # then there are keys alone
            _ = checkpoint.object_graph
        info = checkpoint.info(_as_stored(checkpoint, name))
        where = f"{checkpoint.path}: variable {checkpoint.shown(info.name)!r}"
        chosen = Chosen(checkpoint, info, None if rows is None else rows_of(rows, info, where))
        if output is not None:
            click.echo(safe(save(chosen, output)), err=as_json)
        if as_json:
            put({"ok": True, **values_data(chosen)}, [], True)
        elif output is None:
            put({}, values_lines(chosen), False)


def _as_stored(checkpoint: Checkpoint, name: str) -> str:
    """The name, also where it is spelled as the listing has to spell it."""
    from tfreader.folding import literal

    if name in checkpoint:
        return name
    spelled = ((printable(checkpoint.shown(key)), key) for key in checkpoint)
    keys = [key for text, key in spelled if name in (text, literal(text))]
    return keys[0] if len(keys) == 1 else name


@click.command(
    cls=Command,
    exit_codes={
        "0": "they are the same",
        "1": "they differ",
        "2": "they could not be compared: stderr says why; or wrong usage",
    },
)
@click.argument("first", metavar="A", shell_complete=complete_file)
@click.argument("second", metavar="B", shell_complete=complete_file)
@filter_option
@click.option(
    "--names-only", "--names_only", is_flag=True, help="Compare names, shapes and types alone."
)
@click.option(
    "--rtol",
    type=click.FloatRange(0),
    default=0.0,
    help="By which share of B's values A's may differ.",
)
@click.option(
    "--atol", type=click.FloatRange(0), default=0.0, help="By how much they may differ beside that."
)
@click.option(
    "--ignore-dtype", "--ignore_dtype", is_flag=True, help="Take other types for no difference."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing: the exit code tells.")
@debug_option
def diff(
    first: str,
    second: str,
    pattern: re.Pattern[str] | None,
    names_only: bool,
    rtol: float,
    atol: float,
    ignore_dtype: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compare two checkpoints, or two PyTorch models: names, shapes, types and values.

    A model and a checkpoint are compared as by `tfreader verify MODEL --against CHECKPOINT`.
    """
    from tfreader.differences import differences
    from tfreader.mapping.records.audit import compare_output

    from .comparison import Comparison, diff_data, diff_lines
    from .show import comparison_lines

    (a, a_is_model), (b, b_is_model) = map(open_side, (first, second))
    with a, b:
        if a_is_model == b_is_model:
            compared = list(differences(a, b, pattern, names_only=names_only, rtol=rtol, atol=atol))
            if pattern is not None and not compared:
                raise click.UsageError(f"--filter {pattern.pattern!r} finds no variable of A or B")
            found = Comparison(a.path, b.path, compared, names_only, ignore_dtype)
            put(diff_data(found), diff_lines(found), as_json, quiet)
            is_same = not found.different
    if a_is_model != b_is_model:
        if pattern is not None or names_only or rtol or atol or ignore_dtype:
            raise click.UsageError(
                "a PyTorch model and a checkpoint are compared as by `tfreader verify --against`, "
                "which knows no --filter, --names-only, --rtol, --atol or --ignore-dtype"
            )
        model, checkpoint = (first, second) if a_is_model else (second, first)
        made = compare_output(model, checkpoint)
        put(made.to_data(), comparison_lines(made), as_json, quiet)
        is_same = made.ok
    if not is_same:
        sys.exit(DIFFERENT)
