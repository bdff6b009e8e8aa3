"""The flags of `tfreader convert` that say what to convert and how: those of a batch's jobs too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from json import JSONDecodeError
from typing import Any

import click

from tfreader.json_text import parse_json

from .guide import (
    EXIT_CODES,
    complete_class,
    complete_file,
    complete_model_type,
    write_exit_codes,
)

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def settings(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    return pairs(values)


def pairs(values: Iterable[Any]) -> dict[str, Any]:
    """KEY=VALUE pairs; a value is JSON where it parses, else text. Raises click.BadParameter."""
    found: dict[str, Any] = {}
    for pair in values:
        key, equals, value = str(pair).partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{pair!r} is not KEY=VALUE")
        if key in found:
            raise click.BadParameter(f"{key} is set twice")
        found[key] = _value(key, value)
    return found


def _value(key: str, text: str) -> Any:
    try:
        return parse_json(text)
    except JSONDecodeError:
        return text
    except ValueError as error:  # it is JSON, but of no use
        raise click.BadParameter(f"{key}: {error}") from None


class Command(click.Command):
    """A command that takes a value once: click takes the last of several and says nothing.

    Nor is a value empty, as that of a shell's variable that is not set: as a path it would be the
    current folder.
    """

    def __init__(self, *args: Any, exit_codes: Mapping[str, str] | None = None, **how: Any) -> None:
        super().__init__(*args, **how)
        self.exit_codes = {**EXIT_CODES, **(exit_codes or {})}

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_exit_codes(formatter, self.exit_codes)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if ctx.parent is not None:  # which prints what fails, be it the arguments
            is_option = any(isinstance(p, click.Option) and "--json" in p.opts for p in self.params)
            ctx.parent.params["as_json"] = is_option and "--json" in args
            ctx.parent.params["log_json"] = ctx.command.name == "batch" and "--log-json" in args
        ctx.meta["arguments"] = list(args)
        values, _, order = self.make_parser(ctx).parse_args(args=list(args))
        for parameter, count in Counter(order).items():
            if not isinstance(parameter, click.Option):
                continue
            if count > 1 and not _may_repeat(parameter):
                raise click.UsageError(f"{parameter.opts[0]} is given {count} times", ctx)
            if _is_empty(parameter, values[parameter.name]):
                raise click.UsageError(f"{parameter.opts[0]} is given nothing: ''", ctx)
        return super().parse_args(ctx, args)


def _is_empty(option: click.Option, value: Any) -> bool:
    if option.multiple:
        return "" in value
    has_own_words = option.name in ("tf_checkpoint", "pytorch_dump_output")
    return value == "" and option.default != "" and not has_own_words


def _may_repeat(option: click.Option) -> bool:
    return option.multiple or option.is_flag or option.count


CHECKPOINT_HELP = "Prefix, .index file, folder or SavedModel of the checkpoint."


def paths(required: bool) -> tuple[Decorator, ...]:
    """What to convert and where to."""
    return (
        click.option(
            "--tf_checkpoint",
            "--tf-checkpoint",
            required=required,
            metavar="PATH",
            help=CHECKPOINT_HELP,
            shell_complete=complete_file,
        ),
        click.option(
            "--pytorch_dump_output",
            "--pytorch-dump-output",
            required=required,
            metavar="OUT",
            help="A .safetensors, .bin, .pt or .pth file, or a folder for from_pretrained.",
            shell_complete=complete_file,
        ),
    )


def named_once(
    argument: str, placed: str | None, flag: str, flagged: str | None, needed: bool
) -> str | None:
    """The value of an argument that may be given in its place or by its old flag.

    Raises click.UsageError where both are given, or neither though it is `needed`.
    """
    if placed is not None and flagged is not None:
        raise click.UsageError(
            f"{argument} is given twice, as {placed!r} in its place and as {flag} {flagged!r}; "
            "name it once"
        )
    if needed and placed is None and flagged is None:
        raise click.UsageError(f"Missing argument {argument!r}, which {flag} names too.")
    return flagged if placed is None else placed


_CONFIG = click.option(
    "--config",
    metavar="FILE",
    shell_complete=complete_file,
    help="The original config file, or its folder; by default the one beside the checkpoint.",
)
_TARGET = click.option(
    "--target",
    metavar="T",
    shell_complete=complete_file,
    help="The PyTorch model to fit: its weights, a JSON of names and shapes, module:callable.",
)
_IGNORE = click.option(
    "--ignore",
    multiple=True,
    metavar="REGEX",
    help="Leave out variables whose whole name matches. May be repeated.",
)
_IGNORE_WEIGHTS = click.option(
    "--ignore-weights",
    "--ignore_weights",
    multiple=True,
    metavar="REGEX",
    help="As --ignore, for variables inside the model: it then computes something else.",
)
_SCOPE = click.option(
    "--scope",
    default="",
    metavar="PREFIX",
    help="Convert only what lies under this prefix of names, such as student.",
)
_MOVING_AVERAGES = click.option(
    "--moving-averages",
    "--moving_averages",
    type=click.Choice(["drop", "use"]),
    default="drop",
    show_default=True,
    help="What to do with moving averages of variables.",
)
_SET = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    callback=settings,
    help="Set a key of the written config. May be repeated.",
)
_MODEL_TYPE = click.option(
    "--model_type",
    "--model-type",
    default="auto",
    show_default=True,
    metavar="TYPE",
    shell_complete=complete_model_type,
    help="The model's family, or auto to tell it from the variable names.",
)
_ARCHITECTURE = click.option(
    "--architecture",
    metavar="CLASS",
    shell_complete=complete_class,
    help="The model class to write, such as BertForMaskedLM; the heads found decide else.",
)
_RULES = click.option(
    "--rules",
    metavar="FILE",
    shell_complete=complete_file,
    help="A rule file (TOML), in place of the family's rules or extending them.",
)
_ACCEPT_UNCERTAIN = click.option(
    "--accept-uncertain",
    "--accept_uncertain",
    is_flag=True,
    help="Follow rules that are marked uncertain = true, as `tfreader suggest` marks them.",
)
_TASK = click.option(
    "--finetuning_task_name",
    "--finetuning-task-name",
    metavar="T",
    help="The task whose head is meant, of several; recorded in config.json.",
)
HOW: tuple[Decorator, ...] = (
    _MODEL_TYPE,
    _CONFIG,
    click.option(
        "--vocab",
        metavar="FILE",
        shell_complete=complete_file,
        help="The vocabulary's file, or its folder; by default the one beside the checkpoint.",
    ),
    _TASK,
    _ARCHITECTURE,
    _RULES,
    _ACCEPT_UNCERTAIN,
    _TARGET,
    _IGNORE,
    _IGNORE_WEIGHTS,
    _SCOPE,
    _MOVING_AVERAGES,
    _SET,
    click.option(
        "--dtype",
        type=click.Choice(["float16", "bfloat16", "float32", "keep"]),
        default="keep",
        show_default=True,
        help="Type of all floating-point tensors.",
    ),
    click.option(
        "--max-shard-size",
        "--max_shard_size",
        metavar="SIZE",
        default="50GB",
        show_default=True,
        help="Largest weights file of a folder.",
    ),
    click.option(
        "--checksum",
        type=click.Choice(["crc32c", "sha256"]),
        default="crc32c",
        show_default=True,
        help="What the record has of each tensor: crc32c finds accidents, sha256 deceit too.",
    ),
    click.option(
        "--source-name",
        "--source_name",
        metavar="NAME",
        help="What the record calls the checkpoint, as OWNER/NAME; by default its URL or name.",
    ),
)
# Those of them that decide whether a rule file fits.
FITTING = (_CONFIG, _TARGET, _IGNORE, _IGNORE_WEIGHTS, _SCOPE, _MOVING_AVERAGES, _SET)
# And those that decide which tensors a checkpoint gives.
MAKING = (
    *(_MODEL_TYPE, _CONFIG, _TASK, _ARCHITECTURE, _RULES, _ACCEPT_UNCERTAIN),
    *(_IGNORE, _IGNORE_WEIGHTS, _SCOPE, _MOVING_AVERAGES, _SET),
)


def is_page(path: str) -> bool:
    return path.lower().endswith((".html", ".htm"))


def _set_page(ctx: click.Context, _: click.Parameter, path: str | None) -> None:
    if path is None:
        return
    if not is_page(path):
        raise click.BadParameter(f"{path!r} does not end in .html")
    ctx.meta["page"], ctx.meta["page file"] = ctx, path


html_option = click.option(
    "--html",
    metavar="FILE",
    shell_complete=complete_file,
    expose_value=False,
    callback=_set_page,  # for `page.put_page`, and where failures are told
    help="Write what is found as a page to FILE (.html), which needs no network, also on failure.",
)


def options(*decorators: Decorator) -> Decorator:
    """Several options as one decorator."""
    return lambda command: reduce(lambda made, add: add(made), reversed(decorators), command)


def _set_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value and ctx.parent is not None:
        ctx.parent.params["debug"] = True


# After the command's name too, where people put it.
debug_option = click.option(
    "--debug", is_flag=True, expose_value=False, callback=_set_debug, help="Show tracebacks."
)
