"""What helps to type a command: what stands below the options of `--help`, and shell completion."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    get_completion_class,
)

EXIT_CODES = {
    "0": "done",
    "1": "this checkpoint, config or output failed: stderr says what to do; nothing was written",
    "2": "wrong usage: an unknown option, model type or model class",
    "130": "interrupted",
}
Examples = Sequence[tuple[str, str]]
"""Command lines, and what each does."""


FAMILIES = Path(__file__).parents[1] / "mapping" / "families"
MODEL_TYPE = re.compile(r'^    model_type = "(.+)"$', re.MULTILINE)


def model_types() -> list[str]:
    """`auto` and all families, which are read for it: to load all their rules takes longer."""
    texts = (file.read_text("utf-8") for file in sorted(FAMILIES.glob("[!_]*.py")))
    return ["auto", *(found[1] for found in map(MODEL_TYPE.search, texts) if found)]


def write_guide(formatter: click.HelpFormatter, examples: Examples) -> None:
    """Examples, model types and exit codes."""
    with formatter.section("Examples"):
        for command, what in examples:
            formatter.write(f"{'':{formatter.current_indent}}{command}\n")
            formatter.indent()
            formatter.write_text(what)
            formatter.dedent()
    with formatter.section("Model types (--model_type), which docs/families.md describes"):
        formatter.write_text(", ".join(model_types()))
    write_exit_codes(formatter)


def write_exit_codes(formatter: click.HelpFormatter, codes: Mapping[str, str] = EXIT_CODES) -> None:
    with formatter.section("Exit codes"):
        formatter.write_dl([*codes.items()])


def complete_file(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(incomplete, type="file")]


def complete_folder(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(incomplete, type="dir")]


def complete_model_type(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    return _beginning(incomplete, model_types())


def complete_rules(
    ctx: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Of an argument that is a family or a rule file; bash forgets what is told before files."""
    named = _beginning(incomplete, model_types()[1:])
    return [*complete_file(ctx, parameter, incomplete), *map(CompletionItem, named)]


def complete_class(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """The model classes of the family that was named before, or of all."""
    from tfreader.mapping.families import families, find_family

    model_type = ctx.params.get("model_type") or "auto"
    chosen = families().values() if model_type == "auto" else [find_family(model_type)]
    found = {name for family in chosen if family is not None for name in family.classes()}
    return _beginning(incomplete, sorted(found))


def _beginning(incomplete: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]


@add_completion_class
class Bash(BashComplete):
    """Bash makes three words of `--name=value`."""

    def get_completion_args(self) -> tuple[list[str], str]:
        words, incomplete = super().get_completion_args()
        return [word for word in words if word != "="], incomplete


class Whole(ShellComplete):
    """Zsh and fish put what they are told in place of the whole of `--name=value`."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        found = super().get_completions(args, incomplete)
        name, equals, _ = incomplete.partition("=")
        for item in found:
            if equals and name.startswith("--") and item.type == "plain":
                item.value = f"{name}={item.value}"
        return found


@add_completion_class
class Zsh(Whole, ZshComplete):
    pass


@add_completion_class
class Fish(Whole, FishComplete):
    pass


# Zsh looks for paths by all that was typed, but for what `compset` takes away.
ZSH_VALUES = """
_tfreader_values() {
    [[ $PREFIX == --*=* ]] && compset -P '*='
    _tfreader_completion "$@"
}
compdef _tfreader_values tfreader"""

FISH_PATHS = """complete -C "'' "(commandline -ct)"""


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what makes a shell complete paths, model types and classes.

    \b
    bash:  eval "$(tfreader completion bash)"
    zsh:   eval "$(tfreader completion zsh)"
    fish:  tfreader completion fish | source

    In ~/.bashrc, ~/.zshrc or ~/.config/fish/config.fish the line holds for every new shell that
    has tfreader on its PATH by then.
    """
    kind = get_completion_class(shell)
    assert kind is not None
    program = ctx.find_root()
    if shell == "zsh":  # which completes nothing before that, unless something has asked for it
        click.echo("(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }")
    script = kind(program.command, {}, "tfreader", "_TFREADER_COMPLETE").source()
    # Which fish 3 looks for as it stands, a ~ too.
    click.echo(script.replace("__fish_complete_path $metadata[2]", FISH_PATHS))
    if shell == "zsh":
        click.echo(ZSH_VALUES)
