"""The jobs of a batch: the rows of a file, or what a pattern matches."""

from __future__ import annotations

import csv
import io
import json
import os
import tomllib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from typing import Any
from unicodedata import normalize

import click
from click.core import ParameterSource

from tfreader.files import read_small
from tfreader.json_text import parse_json
from tfreader.kinds import USUAL, models_in
from tfreader.locate import STATE_FILE
from tfreader.mapping.batch import Job, Outcome, PassedOver, matching, root_of, scan
from tfreader.mapping.places import FILE_SUFFIXES
from tfreader.mapping.target import is_callable
from tfreader.paths import above, as_path, check_access, found_as, is_url, join, place, slashes
from tfreader.system import ignores_case

from .options import HOW, Command, options, pairs, paths

Row = Mapping[str, Any]
PassOver = Callable[[Outcome], None]
"""Told of what looks like a checkpoint and gets no job."""

_ARE_PATHS = {"tf_checkpoint", "pytorch_dump_output", "config", "vocab", "rules", "target"}
_ARE_LISTS = {"ignore", "ignore_weights", "set"}
LARGEST_FILE = 64 << 20  # bytes, of some 200,000 jobs


@click.command("job", cls=Command, add_help_option=False)
@options(*paths(required=True), *HOW)
def _job(**_: Any) -> None:
    """What a row is read by: the flags of `tfreader convert`."""


def given_flags(ctx: click.Context) -> Row:
    """Those of these flags that stand on the command line, as a row has them."""
    return {
        _key(parameter.opts[0]): ctx.params[parameter.name]
        for parameter in _job.params
        if parameter.name in ctx.params
        and ctx.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    }


def from_file(file: str, given: Row) -> list[Job]:
    """The jobs of a file; `given` are flags for the rows that do not have them.

    Raises click.UsageError, which names the row.
    """
    suffix = os.path.splitext(file)[1]
    if suffix not in READERS:
        raise click.UsageError(f"{file}: a file of jobs ends in {', '.join(READERS)}")
    try:
        text = read_small(as_path(file), LARGEST_FILE).decode("utf-8-sig")
        rows = list(READERS[suffix](text))
    except (OSError, ValueError, RecursionError) as error:
        hint = ""
        if "\\" in str(error):
            hint = "; write / in paths, which Windows takes too, or each \\ twice"
        raise click.UsageError(f"{file}: cannot be read: {error}{hint}") from None
    folder = os.path.dirname(file)
    return _jobs(file, ((f"{file}, {where}", _joined(folder, row)) for where, row in rows), given)


def from_folder(
    folder: str, output_root: str, given: Row, pass_over: PassOver = lambda _: None
) -> list[Job]:
    """A job for each checkpoint below a folder; outputs lie to each other as they do.

    Raises click.UsageError where there is none.
    """
    found = scan(folder, output_root)
    if not found.checkpoints:
        others = "".join(f"; {path}: {why}" for path, _, why in found.passed_over[:3])
        raise click.UsageError(f"{folder}: no checkpoint below it{others}")
    for left in found.passed_over:
        pass_over(Outcome.passed_over(*left))
    roots = dict.fromkeys(found.checkpoints, folder)
    usual: dict[str, list[str]] = {}
    for checkpoint in found.checkpoints:
        if os.path.basename(checkpoint) in USUAL:
            usual.setdefault(os.path.dirname(checkpoint), []).append(checkpoint)
    for checkpoints in usual.values():
        for other in {*checkpoints} - {*_of_one_folder(checkpoints, pass_over)}:
            del roots[other]
    return _into(output_root, roots, folder, given, pass_over)


def from_glob(
    patterns: Sequence[str], output_root: str, given: Row, pass_over: PassOver = lambda _: None
) -> list[Job]:
    """A job for each checkpoint of which a file matches; outputs lie to each other as they do.

    Raises click.UsageError where a pattern matches none, AccessDeniedError where this user may not
    look.
    """
    roots: dict[str, str] = {}  # by the checkpoint
    spelled: set[str] = set()
    left: dict[str, PassedOver] = {}
    for pattern in patterns:
        found, is_name = matching(pattern)
        left |= {one.path: one for one in found.passed_over if one.path not in left}
        if not found.checkpoints:
            if not is_url(pattern):
                check_access(root_of(pattern) or ".")
            braces = "; braces are no pattern here: repeat --glob" if "{" in pattern else ""
            others = "".join(f"; {path}: {why}" for path, _, why in [*left.values()][:3])
            raise click.UsageError(f"{pattern}: no jobs there{braces}{others}")
        for checkpoint in found.checkpoints:
            roots.setdefault(checkpoint, root_of(pattern))
        spelled.update(found.checkpoints if is_name else ())
    for state in [path for path in roots if os.path.basename(path) == STATE_FILE]:
        if any(path != state and os.path.dirname(path) == os.path.dirname(state) for path in roots):
            del roots[state]  # which names one of them
    for one in left.values():
        pass_over(Outcome.passed_over(*one))
    return _into(output_root, roots, " ".join(patterns), given, pass_over, spelled)


def _into(
    output_root: str,
    roots: Mapping[str, str],
    source: str,
    given: Row,
    pass_over: PassOver,
    spelled: Collection[str] = (),
) -> list[Job]:
    """Jobs for checkpoints, each of which lies below its root. `spelled` are no guesses."""
    names = {checkpoint: _name(checkpoint, root) for checkpoint, root in roots.items()}
    groups: dict[str, list[str]] = {}
    for checkpoint, name in names.items():
        groups.setdefault(name, []).append(checkpoint)
    taken = [
        checkpoint
        for checkpoints in groups.values()
        for checkpoint in _of_one_folder(checkpoints, pass_over)
    ]
    # Names that are short for people must not be those of several, nor lie in one another.
    counts = Counter(names[checkpoint] for checkpoint in taken)
    outer = {folder for name in counts for folder in above(name)}
    for checkpoint in taken:
        name = names[checkpoint]
        if counts[name] > 1 or name in outer or not name:
            names[checkpoint] = checkpoint.removeprefix(roots[checkpoint]).strip("/")
    outer = {folder for checkpoint in taken for folder in above(names[checkpoint])}
    for checkpoint in taken:
        while names[checkpoint] in outer:  # beside its files lies a folder that is called as it is
            names[checkpoint] += ".index"
    _tell_apart(names, taken, output_root)
    rows = {
        checkpoint: {
            "tf_checkpoint": checkpoint,
            "pytorch_dump_output": join(output_root, names[checkpoint]),
        }
        for checkpoint in taken
    }
    jobs = _jobs(source, rows.items(), given)
    return [
        replace(job, is_folder=True, is_guess=checkpoint not in spelled)
        for job, checkpoint in zip(jobs, rows, strict=True)
    ]


def _tell_apart(names: dict[str, str], taken: Sequence[str], output_root: str) -> None:
    """Give other names to outputs whose names would be one there: by case, or Unicode's forms."""

    def folded(name: str) -> str:
        return normalize("NFC", name).casefold()

    alike: Callable[[str], str] = found_as
    if is_url(output_root):
        return
    if len({folded(names[one]) for one in taken}) < len(taken) and ignores_case(output_root):
        alike = folded
    places: set[str] = set()
    for one in taken:
        name = names[one]
        for number in count(2):
            if alike(names[one]) not in places:
                break
            names[one] = f"{name}_{number}"
        places.add(alike(names[one]))


def _name(checkpoint: str, root: str) -> str:
    """What an output is called below all outputs: as its checkpoint is below its root."""
    name = checkpoint.removeprefix(root).strip("/")
    name = name.removesuffix("variables/variables").rstrip("/")
    folder, base = os.path.split(name)
    if base in USUAL or base.endswith(FILE_SUFFIXES):  # of an output that would be a file
        base = base.partition(".")[0] if base in USUAL else os.path.splitext(base)[0]
    return slashes(join(folder, base))


def _of_one_folder(checkpoints: list[str], pass_over: PassOver) -> list[str]:
    """Of several models that lie in a folder under usual names the one that would be found."""
    folder = os.path.dirname(checkpoints[0])
    names = [os.path.basename(checkpoint) for checkpoint in checkpoints]
    others = {folder} != {os.path.dirname(checkpoint) for checkpoint in checkpoints}
    if len(checkpoints) == 1 or others or not set(names) <= set(USUAL):
        return checkpoints
    first = next((model.name for model in models_in(folder, set(names))), min(names))
    for name in names:
        if name != first:
            why = f"passed over for {first} beside it"
            pass_over(Outcome.passed_over(join(folder, name), "same-model", why))
    return [join(folder, first)]


def _jobs(source: str, rows: Iterable[tuple[str, Row]], given: Row) -> list[Job]:
    jobs: list[Job] = []
    outputs: dict[str, str] = {}
    for where, row in rows:
        try:
            absolute = _joined(os.getcwd(), _merged(given, row))  # a worker may be elsewhere
            arguments = [flag for key, value in absolute.items() for flag in _flags(key, value)]
            options = _job.make_context("job", arguments).params
        except click.ClickException as error:
            raise click.UsageError(f"{where}: {error.format_message()}") from None
        checkpoint = slashes(options.pop("tf_checkpoint"))
        job = Job(checkpoint, options.pop("pytorch_dump_output"), options)
        other = outputs.setdefault(found_as(place(job.pytorch_dump_output)), where)
        if other is not where:
            raise click.UsageError(
                f"{where}: its output {job.pytorch_dump_output} is that of {other} too"
            )
        jobs.append(job)
    for output, where in outputs.items():
        outer = next((other for other in above(output) if other in outputs), None)
        if outer is not None:
            raise click.UsageError(f"{where}: its output lies in {outer}, that of {outputs[outer]}")
    if not jobs:
        raise click.UsageError(f"{source}: no jobs there")
    return jobs


def _joined(folder: str, row: Row) -> Row:
    """A row whose relative paths start from that folder."""
    return {
        key: join(folder, value)
        if key in _ARE_PATHS
        and isinstance(value, str)
        and not is_url(value)
        and not (key == "target" and is_callable(value))
        else value
        for key, value in row.items()
    }


def _key(written: str) -> str:
    return written.strip().lstrip("-").replace("-", "_")


def _named(row: Any, where: str) -> Row:
    """A row by keys with underscores, without those that have no value, as empty cells.

    Raises ValueError.
    """
    if not isinstance(row, Mapping):
        raise ValueError(f"{where}: not an object with flags as keys")
    named: dict[str, Any] = {}
    for written, value in row.items():
        if _key(written) in named:
            raise ValueError(f"{where}: {_key(written)} is given twice, once as {written!r}")
        named[_key(written)] = value
    return {key: value for key, value in named.items() if value not in (None, "")}


def _merged(given: Row, row: Row) -> Row:
    """A row with the flags given for all: its own go before, and go with those that may repeat.

    Raises click.UsageError.
    """
    both = {**given, **row}
    for key in ({"ignore", "ignore_weights"} & given.keys()) & row.keys():
        both[key] = [*given[key], *_listed(row[key])]
    if "set" in given and "set" in row:
        own = row["set"]
        both["set"] = {**given["set"], **(own if isinstance(own, Mapping) else pairs(_listed(own)))}
    return both


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _flags(key: str, value: Any) -> Iterator[str]:
    """A key and its value as arguments of the command line. Raises click.UsageError."""
    if isinstance(value, Mapping):  # as --set KEY=VALUE
        if key != "set" or any("=" in name for name in value):
            raise click.UsageError(f"{key} cannot be {json.dumps(value, default=str)}")
        value = [f"{name}={json.dumps(inner, default=str)}" for name, inner in value.items()]
    if isinstance(value, list | tuple) and key not in _ARE_LISTS:
        raise click.UsageError(f"{key} is given {len(value)} values, it takes one")
    for one in _listed(value):
        yield f"--{key}={one if isinstance(one, str) else json.dumps(one, default=str)}"


def _json_rows(text: str) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = parse_json(line)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
            yield f"line {number}", _named(row, f"line {number}")


def _toml_rows(text: str) -> Iterator[tuple[str, Row]]:
    data = tomllib.loads(text)
    rows = data.pop("job", None)
    if data or not isinstance(rows, list):
        raise ValueError("jobs are [[job]] tables, and nothing else stands beside them")
    for number, row in enumerate(rows, 1):
        yield f"job {number}", _named(row, f"job {number}")


def _csv_rows(text: str) -> Iterator[tuple[str, Row]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        header = reader.fieldnames or ()
        twice = next((name for name in header if header.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"line 1: two columns are called {twice!r}")
        for row in reader:
            where = f"line {reader.line_num}"
            if None in row or None in row.values():
                raise ValueError(f"{where}: not as many cells as the header has")
            yield where, _named({key: _cell(key, value) for key, value in row.items()}, where)
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from None


def _cell(key: str, text: str) -> Any:
    """A cell's value: several values, and keys to set, are written as in JSON."""
    if key.strip() in _ARE_LISTS:
        with suppress(ValueError):  # one regex, or one KEY=VALUE
            found = parse_json(text)
            return found if isinstance(found, list | dict) else text
    return text


READERS = {".jsonl": _json_rows, ".ndjson": _json_rows, ".toml": _toml_rows, ".csv": _csv_rows}
