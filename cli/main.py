"""The command line: its program, and convert, inspect, suggest."""

from __future__ import annotations

import errno
import gc
import io
import os
import re
import sys
from contextlib import suppress
from typing import Any

import click

from tfreader import __version__
from tfreader.errors import PlanError, TFReaderError, UnknownModelTypeError

from . import FAILED, INTERRUPTED, NOT_COMPARED, USAGE
from .batch import batch
from .guide import Examples, complete_file, completion, write_guide
from .look import LISTING, diff, filter_option, show
from .look import open_any as _open
from .options import (
    CHECKPOINT_HELP,
    HOW,
    Command,
    debug_option,
    html_option,
    named_once,
    options,
    paths,
)
from .rules import rules
from .show import fitted
from .show import put as _print
from .show import safe as _safe
from .verify import verify

# What printing may end in, where a device or a file is full that the output was sent to.
CANNOT_PRINT = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
if os.name == "nt":
    CANNOT_PRINT.add(errno.EINVAL)  # a pipe from which nobody reads any more


class Program(click.Group):
    """A group whose commands turn every error into a message and an exit code."""

    command_class = Command

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_guide(formatter, EXAMPLES)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TFReaderError as error:
            _print_failure(ctx, error, str(error))
            if "page" in ctx.meta:
                from .pages import put_failure

                put_failure(ctx, error)
            if ctx.params.get("debug"):
                raise
            _tell(ctx, error, str(error))
            ctx.exit(USAGE if isinstance(error, UnknownModelTypeError) else _failed(ctx))
        except KeyboardInterrupt:
            _tell(ctx, KeyboardInterrupt(), "Aborted!")
            ctx.exit(INTERRUPTED)
        except Exception as error:
            is_click = isinstance(error, click.ClickException | click.exceptions.Exit | click.Abort)
            if isinstance(error, click.ClickException):
                _print_failure(ctx, error, error.format_message())
                if ctx.params.get("log_json"):
                    _tell(ctx, error, error.format_message())
                    ctx.exit(error.exit_code)
            if ctx.params.get("debug") or is_click or isinstance(error, BrokenPipeError):
                raise
            if isinstance(error, OSError) and error.errno in CANNOT_PRINT and not error.filename:
                _tell(ctx, error, f"cannot print any more: {error.strerror}")
                ctx.exit(FAILED)
            said = f"unexpected {type(error).__name__}: {error}"
            _print_failure(ctx, error, said)
            _tell(
                ctx, error, f"{said}\nThis is a bug: please report it with the output of --debug."
            )
            ctx.exit(_failed(ctx))


def _failed(ctx: click.Context) -> int:
    return NOT_COMPARED if ctx.invoked_subcommand == "diff" else FAILED


def _tell(ctx: click.Context, error: BaseException, said: str) -> None:
    """Say on stderr what failed; in a log of JSON as a line of it."""
    if ctx.params.get("log_json"):
        from .progress import log_event

        code = error.code if isinstance(error, TFReaderError) else None
        log_event("failed", error=said, error_type=type(error).__name__, code=code)
    else:
        click.echo(_safe(f"tfreader: {said}"), err=True)


def _print_failure(ctx: click.Context, error: Exception, said: str) -> None:
    """With --json what failed is the one document."""
    if ctx.params.get("as_json"):
        from .show import failure_data

        _print(failure_data(error, said), [], True)


EXAMPLES: Examples = (
    ("tfreader convert bert/bert_model.ckpt out/bert", "a folder for from_pretrained"),
    ("tfreader convert bert/bert_model.ckpt --dry-run", "what would become of each variable"),
    ("tfreader inspect bert/bert_model.ckpt", "the variables, their types and shapes"),
    ("tfreader verify out/bert --against bert/bert_model.ckpt", "whether the tensors are the same"),
    (
        "tfreader batch --glob 'models/**/*.index' --output-root out",
        "every checkpoint below a folder",
    ),
)
CONVERSIONS: Examples = (
    ("tfreader convert bert/bert_model.ckpt out/bert", "a folder for from_pretrained"),
    ("tfreader convert hub/tf-model out/model.safetensors", "one file, of a tf_model.h5"),
    ("tfreader convert bert --dry-run", "the plan alone: which variable becomes which tensor"),
    ("tfreader convert bert out --dtype float16 --set hidden_act=gelu_new", "other types and keys"),
    ("tfreader convert bert out --architecture BertForTokenClassification", "of another class"),
    ("tfreader convert model.ckpt model.safetensors --rules rules.toml", "a model of your own"),
)


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__)
def main(debug: bool) -> None:
    """Turn TensorFlow checkpoints into PyTorch models, without TensorFlow."""


class ConvertCommand(Command):
    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_guide(formatter, CONVERSIONS)


@main.command(cls=ConvertCommand)
@click.argument("checkpoint", required=False, shell_complete=complete_file)
@click.argument("out", required=False, shell_complete=complete_file)
@options(*paths(required=False), *HOW)
@click.option(
    "--memory-limit",
    "--memory_limit",
    metavar="SIZE",
    default="192MiB",
    show_default=True,
    help="How much of the tensors may be in memory; larger ones go through in parts.",
)
@click.option("--dry-run", is_flag=True, help="Print the plan and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@html_option
@debug_option
def convert(
    checkpoint: str | None,
    out: str | None,
    tf_checkpoint: str | None,
    pytorch_dump_output: str | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Convert a TensorFlow checkpoint to PyTorch.

    CHECKPOINT is its prefix, any of its files, its folder or a SavedModel; OUT a .safetensors,
    .bin, .pt or .pth file, or a folder for from_pretrained. Both may be named by the flags of
    transformers-cli instead, --tf_checkpoint and --pytorch_dump_output. --dry-run needs no OUT.
    """
    from tfreader.mapping import convert as run

    from .page import put_page
    from .pages import convert_page
    from .show import failure_lines, plan_lines, progress_bar, report_lines

    if tf_checkpoint is not None and out is None and pytorch_dump_output is None:
        checkpoint, out = None, checkpoint  # the only one in its place, beside that flag
    path = named_once("CHECKPOINT", checkpoint, "--tf_checkpoint", tf_checkpoint, True)
    output = named_once("OUT", out, "--pytorch_dump_output", pytorch_dump_output, not dry_run)
    try:
        with progress_bar(quiet or dry_run) as progress:
            report = run(
                str(path),
                output,
                progress=progress,
                dry_run=dry_run,
                **options,
            )
    except PlanError as error:
        if dry_run and not as_json and error.plan is not None:
            _print({}, failure_lines(error), False, quiet)
        raise
    put_page(lambda: convert_page(report, dry_run))
    lines = plan_lines(report.plan, report.notes) if dry_run else report_lines(report)
    _print({"ok": True, **report.to_data()}, lines, as_json, quiet)


@main.command()
@click.argument("path", shell_complete=complete_file)
@filter_option
@click.option("--all", "show_all", is_flag=True, help="List slot variables on lines of their own.")
@options(*LISTING)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@html_option
@debug_option
def inspect(
    path: str, pattern: re.Pattern[str] | None, show_all: bool, as_json: bool, **how: Any
) -> None:
    """List a checkpoint's variables, on a terminal those of all layers on one line."""
    from .listing import Listing, inspect_data, inspect_lines
    from .page import has_page, put_page
    from .pages import inspect_page
    from .show import notes_on

    with _open(path) as checkpoint:
        listing = Listing(
            checkpoint, pattern, show_all or as_json, has_histograms=has_page(), **how
        )
        put_page(lambda: inspect_page(listing))
        if as_json:
            _print(inspect_data(listing), [], True)
        else:
            for note in notes_on(checkpoint):
                click.echo(fitted(f"note: {note}"), err=True)
            _print({}, inspect_lines(listing), False)
    for problem in listing.problems:
        click.echo(_safe(f"tfreader: {problem}"), err=True)
    if listing.problems:
        sys.exit(FAILED)


@main.command()
@click.argument("checkpoint", required=False, shell_complete=complete_file)
@click.option(
    "--tf_checkpoint",
    "--tf-checkpoint",
    metavar="PATH",
    help=CHECKPOINT_HELP,
    shell_complete=complete_file,
)
@click.option(
    "--target",
    metavar="T",
    shell_complete=complete_file,
    help="The PyTorch model: a .safetensors or torch file of it, a JSON file of names and shapes, "
    "or module:callable. Without one a skeleton is written.",
)
@click.option(
    "--output",
    required=True,
    metavar="FILE",
    help="The rule file to write.",
    shell_complete=complete_file,
)
@html_option
@debug_option
def suggest(
    checkpoint: str | None, tf_checkpoint: str | None, target: str | None, output: str
) -> None:
    """Write a rule file for a model that no family knows.

    CHECKPOINT may be named by --tf_checkpoint instead.
    """
    from tfreader.mapping import suggest as run

    from .page import put_page
    from .pages import suggest_page

    path = str(named_once("CHECKPOINT", checkpoint, "--tf_checkpoint", tf_checkpoint, True))
    suggestion = run(path, target)
    suggestion.write(output)
    put_page(lambda: suggest_page(suggestion, path, output))
    _print({}, [f"{output}: {suggestion.summary}"], False)


main.add_command(batch)
main.add_command(completion)
main.add_command(diff)
main.add_command(rules)
main.add_command(show)
main.add_command(verify)


def _open_standard_streams() -> None:
    """Where one was closed from the start, a file of ours would get its number, and its text."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names may have letters that its encoding lacks
            stream.reconfigure(errors="backslashreplace")


def run() -> None:
    """The program: it ends without taking down, object by object, what ends with it anyway.

    After torch that would take half a second. Nor does it look for garbage after every 700 objects,
    of which a plan has millions and hardly any in circles: that took a fifth of its time.
    """
    gc.set_threshold(50_000, 20, 100)
    _open_standard_streams()
    code: object = 0
    try:
        main(windows_expand_args=False)  # a pattern or a regex is not for click to expand
    except SystemExit as leaving:
        code = leaving.code
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads any more
            stream.flush()
    os._exit(code if isinstance(code, int) else FAILED)


if __name__ == "__main__":
    run()
