"""The command line: convert, inspect, verify, rules."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tfreader import __version__
from tfreader.errors import TFReaderError, UnknownModelTypeError

if TYPE_CHECKING:
    from tfreader import Checkpoint

FAILED, USAGE = 1, 2


class Command(click.Group):
    """A group whose commands turn every error into a message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except TFReaderError as error:
            if ctx.params.get("debug"):
                raise
            click.echo(_safe(f"tfreader: {error}"), err=True)
            ctx.exit(USAGE if isinstance(error, UnknownModelTypeError) else FAILED)
        except Exception as error:
            is_click = isinstance(error, click.ClickException | click.exceptions.Exit | click.Abort)
            if ctx.params.get("debug") or is_click or isinstance(error, BrokenPipeError):
                raise
            click.echo(
                f"tfreader: unexpected {type(error).__name__}: {error}\n"
                "This is a bug: please report it with the output of --debug.",
                err=True,
            )
            ctx.exit(FAILED)


@click.group(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__)
def main(debug: bool) -> None:
    """Turn TensorFlow checkpoints into PyTorch models, without TensorFlow."""


def _debug_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """--debug after the command's name too, where people put it."""

    def set_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
        if value and ctx.parent is not None:
            ctx.parent.params["debug"] = True

    return click.option(
        "--debug", is_flag=True, expose_value=False, callback=set_debug, help="Show tracebacks."
    )(command)


def _settings(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    """KEY=VALUE pairs; a value is JSON where it parses, else a string."""
    settings = {}
    for pair in values:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{pair!r} is not KEY=VALUE")
        try:
            settings[key] = json.loads(value)
        except ValueError:
            settings[key] = value
    return settings


@main.command()
@click.option(
    "--model_type",
    "--model-type",
    default="auto",
    show_default=True,
    help="The model's family, or auto to tell it from the variable names.",
)
@click.option(
    "--tf_checkpoint",
    "--tf-checkpoint",
    required=True,
    metavar="PATH",
    help="Prefix, .index file, folder or SavedModel of the checkpoint.",
)
@click.option(
    "--config",
    metavar="FILE",
    help="The original config file; by default the one beside the checkpoint.",
)
@click.option(
    "--pytorch_dump_output",
    "--pytorch-dump-output",
    required=True,
    metavar="OUT",
    help="A .safetensors, .bin, .pt or .pth file, or a folder for from_pretrained.",
)
@click.option(
    "--finetuning_task_name",
    "--finetuning-task-name",
    metavar="T",
    help="Recorded in config.json as finetuning_task.",
)
@click.option(
    "--architecture",
    metavar="CLASS",
    help="The model class to write, such as BertForMaskedLM; by default the heads found decide.",
)
@click.option("--rules", metavar="FILE", help="A rule file (TOML) in place of the family's rules.")
@click.option(
    "--ignore",
    multiple=True,
    metavar="REGEX",
    help="Leave out variables whose whole name matches. May be repeated.",
)
@click.option(
    "--moving-averages",
    type=click.Choice(["drop", "use"]),
    default="drop",
    show_default=True,
    help="What to do with ExponentialMovingAverage copies.",
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_settings,
    help="Set a key of the written config. May be repeated.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float16", "bfloat16", "float32", "keep"]),
    default="keep",
    show_default=True,
    help="Type of all floating-point tensors.",
)
@click.option(
    "--max-shard-size",
    "--max_shard_size",
    default="50GB",
    show_default=True,
    help="Largest weights file of a folder.",
)
@click.option(
    "--memory-limit",
    "--memory_limit",
    default="192MiB",
    show_default=True,
    help="How much of the tensors may be in memory; larger ones go through in parts.",
)
@click.option("--dry-run", is_flag=True, help="Print the plan and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@_debug_option
def convert(
    tf_checkpoint: str,
    pytorch_dump_output: str,
    rules: str | None,
    max_shard_size: str,
    memory_limit: str,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Convert a TensorFlow checkpoint to PyTorch."""
    from tfreader.mapping import convert as run
    from tfreader.mapping import load_rules, make_plan
    from tfreader.mapping.convert import check_config, is_folder_output
    from tfreader.mapping.family import open_source

    from .show import plan_lines, progress_bar, report_lines

    options["rules"] = load_rules(rules) if rules else None
    if dry_run:
        with open_source(tf_checkpoint, options["model_type"]) as checkpoint:
            plan = make_plan(checkpoint, **options)
            if plan.family and is_folder_output(Path(pytorch_dump_output)):
                check_config(plan)
        _print(plan.to_data(), plan_lines(plan), as_json, quiet)
        return
    with progress_bar(quiet) as progress:
        report = run(
            tf_checkpoint,
            pytorch_dump_output,
            max_shard_size=max_shard_size,
            memory_limit=memory_limit,
            progress=progress,
            **options,
        )
    _print(report.to_data(), report_lines(report), as_json, quiet)


def _open(path: str, salvage: bool = False) -> Checkpoint:
    """Any checkpoint, also of a form that only its family knows."""
    import tfreader

    try:
        return tfreader.open(path, salvage=salvage)
    except tfreader.TFReaderError:
        from tfreader.mapping.family import open_foreign

        found = open_foreign(path)
        if found is None:
            raise
        return found


@main.command()
@click.argument("path")
@click.option("--filter", "regex", metavar="REGEX", help="Only variables whose name it finds.")
@click.option("--all", "show_all", is_flag=True, help="List slot variables on lines of their own.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@_debug_option
def inspect(path: str, regex: str | None, show_all: bool, as_json: bool) -> None:
    """List a checkpoint's variables."""
    from .show import inspect_data, inspect_lines

    try:
        pattern = re.compile(regex or "")
    except re.error as error:
        raise click.BadParameter(f"{regex!r}: {error}", param_hint="--filter") from None
    with _open(path) as checkpoint:
        if as_json:
            _print(inspect_data(checkpoint, pattern), [], True)
        else:
            for note in checkpoint.notes:
                click.echo(f"note: {note}", err=True)
            _print({}, inspect_lines(checkpoint, pattern, show_all), False)


@main.command()
@click.argument("path")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@_debug_option
def verify(path: str, as_json: bool) -> None:
    """Check every checksum of a checkpoint."""
    import tfreader

    with _open(path, salvage=True) as checkpoint:
        try:
            report = checkpoint.verify()
        except tfreader.ChecksumError as error:
            if as_json:
                _print({"ok": False, "problems": list(error.problems)}, [], True)
            else:
                for problem in error.problems:
                    click.echo(_safe(f"tfreader: {problem}"), err=True)
            sys.exit(FAILED)
        line = f"{checkpoint.path}: {report.tensors} variables, {report.nbytes} bytes: all in order"
        _print({"ok": True, "problems": [], **report._asdict()}, [line], as_json)


@main.command()
@click.argument("model_type")
@click.option(
    "--tf_checkpoint",
    "--tf-checkpoint",
    metavar="PATH",
    help="Print the rules as this checkpoint needs them, where they depend on it.",
)
@_debug_option
def rules(model_type: str, tf_checkpoint: str | None) -> None:
    """Print a family's rules as a rule file to edit."""
    from tfreader.mapping import dump_rules
    from tfreader.mapping.family import get_family, open_source
    from tfreader.mapping.planner import rules_for

    if tf_checkpoint is None:
        found = get_family(model_type).rules
    else:
        with open_source(tf_checkpoint, model_type) as checkpoint:
            found = rules_for(checkpoint, model_type)
    click.echo(dump_rules(found), nl=False)


def _print(data: Any, lines: Any, as_json: bool, quiet: bool = False) -> None:
    if as_json:
        click.echo(json.dumps(data, indent=2))
    elif not quiet:
        click.echo("\n".join(map(_safe, lines)))


def _safe(text: str) -> str:
    """Text without what a hostile variable name could do to a terminal."""
    from .show import printable

    return "\n".join(map(printable, text.split("\n")))


def run() -> None:
    """The program: it ends without taking down, object by object, what ends with it anyway.

    After torch that would take half a second.
    """
    code: object = 0
    try:
        main()
    except SystemExit as leaving:
        code = leaving.code
    with suppress(BrokenPipeError, ValueError):  # nobody reads any more
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code if isinstance(code, int) else FAILED)


if __name__ == "__main__":
    run()
