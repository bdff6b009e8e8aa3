"""From what a user names to the files of a checkpoint."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from itertools import takewhile
from typing import NamedTuple

from .checkpoint_pb2 import CheckpointState
from .errors import CheckpointNotFoundError, CorruptCheckpointError, RemoteError, TFReaderError
from .files import but_it_is, is_table, read_small
from .keras_archive import is_keras_file
from .paths import as_path, check_access, entries, is_dir, is_file, is_url

STATE_FILE = "checkpoint"
_STATE_SIZE = 1 << 20  # bytes, of some 10,000 checkpoints; parsing takes half a second
_V2_FILE = re.compile(r"(?P<prefix>.*)\.(?:index|meta|data-\d{5,}-of-\d{5,})", re.DOTALL)
_V1_SHARD = re.compile(
    r"(?P<prefix>.+)(?<!\.data)-(?P<shard>\d{5,})-of-(?P<count>\d{5,})", re.DOTALL
)
_V1_PATTERN = re.compile(r"(?P<prefix>.+)-\?{5,}-of-(?P<count>\d{5,})", re.DOTALL)
_SHOWN = 5  # candidates that a message lists
_LOOKED_AT = 16  # files and folders of a server's folder that are looked into for hints


class Located(NamedTuple):
    """A checkpoint's prefix, its files (none for V2), what was assumed, whether Keras made it."""

    prefix: str
    files: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    is_keras: bool = False


def locate(path: str) -> Located:
    """The checkpoint that `path` names.

    `path` is a prefix, any file of the checkpoint, a pattern such as `model.ckpt-?????-of-00002`, a
    folder, a SavedModel folder, a `checkpoint` state file, or a file of Keras. Raises
    CheckpointNotFoundError, CorruptCheckpointError where the file there is something else,
    AccessDeniedError.
    """
    if not is_url(path):
        check_access(path)
    if is_dir(path):
        return _in_folder(path)
    found = _exact(path)
    if found is not None:
        return found
    folder, name = os.path.split(path)
    if name in (STATE_FILE, "saved_model.pb", "saved_model.pbtxt") and is_file(path):
        return _in_folder(folder or ".")
    found = _by_pattern(path)
    if found is None:
        raise _nothing(path)
    return found


def _exact(path: str) -> Located | None:
    """The checkpoint with that prefix, file or pattern of shards, where all its names are clear."""
    for prefix in (path, prefix_of(path)):
        if is_file(prefix + ".index"):
            return Located(prefix)
    if shard := _V1_SHARD.fullmatch(path) or _V1_PATTERN.fullmatch(path):
        return _shards(shard["prefix"], shard["count"])
    if is_file(path):
        if is_table(path):
            return Located(path, (path,))
        return Located(path, (path,), is_keras=True) if is_keras_file(path) else None
    folder, name = os.path.split(path)
    counts = {
        match["count"]
        for match in map(_V1_SHARD.fullmatch, _files(folder))
        if match and match["prefix"] == name
    }
    complete = [count for count in sorted(counts) if _shards(path, count, check=False)]
    if len(complete) > 1:
        raise CheckpointNotFoundError(
            f"{path}: saved twice, in {' and '.join(str(int(count)) for count in complete)} "
            f"shards; pass one of its files, such as {path}-00000-of-{complete[0]}"
        )
    return _shards(path, (complete or sorted(counts))[0]) if counts else None


def prefix_of(path: str) -> str:
    match = _V2_FILE.fullmatch(path)
    return match["prefix"] if match else path


def is_left_over(folder: str) -> bool:
    """Whether a folder, to judge by its name, was left by a save that was interrupted."""
    return re.search(r"_temp(_[0-9a-f]+)?$", folder) is not None


def checkpoint_of(file: str) -> str:
    """What names the whole checkpoint that a file, to judge by its name, belongs to."""
    shard = _V1_SHARD.fullmatch(file)
    return shard["prefix"] if shard else prefix_of(file)


def _shards(prefix: str, count: str, check: bool = True) -> Located | None:
    """The V1 checkpoint in `count` shards; None if there is none."""
    folder, name = os.path.split(prefix)
    present = {
        file
        for file in _files(folder)
        if (match := _V1_SHARD.fullmatch(file))
        and (match["prefix"], match["count"]) == (name, count)
    }
    total = int(count)
    names = (f"{name}-{i:05d}-of-{count}" for i in range(total))
    if not present and is_url(folder):  # not all servers list what they have
        present = set(takewhile(lambda file: is_file(os.path.join(folder, file)), names))
    if not present:
        return None
    missing = total - len(present)
    if not missing:
        expected = [f"{name}-{i:05d}-of-{count}" for i in range(total)]
        if present == set(expected):
            return Located(prefix, tuple(os.path.join(folder, file) for file in expected))
    if not check:
        return None
    absent = next(
        file
        for file in (f"{prefix}-{i:05d}-of-{count}" for i in range(total + 1))
        if os.path.basename(file) not in present
    )
    raise CheckpointNotFoundError(
        f"{absent}: missing, one of the {total} shards of a V1 checkpoint; {len(present)} are there"
    )


def _by_pattern(path: str) -> Located | None:
    """The one checkpoint whose files match `path` as a glob pattern."""
    if not glob.has_magic(path) or is_file(path):
        return None
    found = {
        located.prefix: located
        for file in _matching(path)
        if is_file(file) and (located := _exact(file)) is not None
    }
    if len(found) > 1:
        raise CheckpointNotFoundError(f"{path}: matches several; {_pass_one_of(sorted(found))}")
    return next(iter(found.values()), None)


def _matching(pattern: str) -> list[str]:
    """The files that match; behind a URL the pattern is of names in one folder."""
    if not is_url(pattern):
        return sorted(glob.glob(pattern))
    folder, name = os.path.split(pattern)
    return [os.path.join(folder, file) for file in fnmatch.filter(_files(folder), name)]


def _nothing(path: str) -> TFReaderError:
    """The error for a path with no checkpoint: what is there, and what to pass instead."""
    prefix = prefix_of(path)
    check_access(prefix + ".index")
    folder = os.path.dirname(path) or "."
    if is_url(path) and not is_url(folder):  # a bucket
        folder = path
    if not is_file(path):
        return CheckpointNotFoundError(
            f"{path}: no checkpoint there ({prefix}.index does not exist); {_candidates(folder)}"
        )
    if path.endswith(".meta"):
        return CheckpointNotFoundError(
            f"{path}: the graph, without values; they are in {prefix}.index and {prefix}.data-*, "
            "which are missing"
        )
    if prefix != path:
        return CheckpointNotFoundError(
            f"{path}: its index file {prefix}.index is missing{but_it_is(path)}"
        )
    hint = "if it is a data shard, the .index file that was saved with it is needed too"
    return CorruptCheckpointError(
        f"{path}: not a checkpoint{but_it_is(path, hint)}; {_candidates(folder)}"
    )


def _in_folder(folder: str) -> Located:
    variables = os.path.join(folder, "variables", "variables")
    if is_file(variables + ".index"):
        return Located(variables)
    state = os.path.join(folder, STATE_FILE)
    if not is_file(state) or is_table(state):
        return _only(folder, f"{folder}: which checkpoint?", None)
    # Strangers' state files hold the path of the machine that wrote them: a hint, no more.
    try:
        named = _latest(state)
    except ValueError as error:
        note = f"{state} is unreadable ({error})"
        return _only(folder, f"{state}: {error}{but_it_is(state)};", note)
    beside = re.split(r"[/\\]", named)[-1]
    # An absolute name may be that of the place that the folder was copied from.
    for hint in (beside, named) if os.path.isabs(named) else (named, beside):
        prefix = os.path.join(folder, hint)
        found = _exact(prefix) if _is_below(folder, hint) else None
        if found is not None and prefix.endswith(named):
            return found
        if found is not None:
            note = f"{state} names {named!r}, using {beside!r} beside it"
            return found._replace(notes=(note,))
    elsewhere = os.path.join(folder, named)
    if not is_url(folder) and _exact(elsewhere) is not None:
        raise CheckpointNotFoundError(
            f"{state} names {named!r}, outside of its folder, where it is not followed; pass "
            f"{elsewhere} if that is the one"
        )
    note = f"{state} names {named!r}, which does not exist"
    return _only(folder, f"{note};", note)


def _is_below(folder: str, name: str) -> bool:
    """Whether what a file of the folder names lies in it or deeper, wherever links lead."""
    if is_url(folder):
        return not (is_url(name) or os.path.isabs(name) or ".." in name.split("/"))
    home = os.path.realpath(folder)
    inside = os.path.realpath(os.path.join(folder, os.path.dirname(name)))
    return os.path.commonpath([home, inside]) == home


def _only(folder: str, problem: str, note: str | None) -> Located:
    """The only checkpoint in a folder, with a note on why it was taken."""
    here = prefixes(folder)
    if len(here) != 1:
        raise CheckpointNotFoundError(f"{problem} {_candidates(folder)}")
    found = _exact(os.path.join(folder, here[0]))
    assert found is not None
    notes = () if note is None else (f"{note}, using the only checkpoint there, {here[0]!r}",)
    return found._replace(notes=notes)


def prefixes(folder: str) -> list[str]:
    """The base names of the checkpoints in a folder, sorted: V2, else V1 ones, else Keras files."""
    files = _files(folder)
    found = {file.removesuffix(".index") for file in files if file.endswith(".index")}
    if not found:
        looked_at = files[:_LOOKED_AT] if is_url(folder) else files
        tables = (file for file in looked_at if is_table(os.path.join(folder, file)))
        shards = ((_V1_SHARD.fullmatch(file), file) for file in tables)
        found = {match["prefix"] if match else file for match, file in shards}
    if not found:
        found = {file for file in looked_at if is_keras_file(os.path.join(folder, file))}
    return sorted(found)


def _files(folder: str) -> list[str]:
    return [name for name, is_folder in entries(folder) if not is_folder]


def _latest(state: str) -> str:
    """The latest checkpoint's path as the state file spells it; ValueError if there is none."""
    from google.protobuf import text_format

    try:
        text = read_small(as_path(state), _STATE_SIZE)
    except RemoteError:
        raise
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    try:
        message = text_format.Parse(
            text.decode("utf-8", "surrogateescape").encode("utf-8", "replace"),
            CheckpointState(),
            allow_unknown_field=True,
        )
    except (text_format.ParseError, RecursionError) as error:
        raise ValueError(f"not a checkpoint state file: {error}") from None
    path = os.fsdecode(message.model_checkpoint_path)
    if not path or "\0" in path:
        raise ValueError(f"model_checkpoint_path is {path!r}")
    return path


def _candidates(folder: str) -> str:
    """The last clause of a message: what could be passed instead."""
    here = [os.path.join(folder, name) for name in prefixes(folder)]
    if here:
        return _pass_one_of(here)
    inside, leftovers = [], []
    folders = _folders(folder)
    for child in folders[:_LOOKED_AT] if is_url(folder) else folders:
        below = os.path.join(folder, child)
        if is_left_over(child):
            leftovers.append(below)
        elif prefixes(below) or is_file(os.path.join(below, "variables", "variables.index")):
            inside.append(below)
    if inside:
        return _pass_one_of(inside)
    if leftovers:
        return (
            f"{folder} holds no checkpoint, only {leftovers[0]}, left by a save that was "
            "interrupted; pass one of the prefixes in it to read that part"
        )
    if not is_url(folder) and is_dir(folder) and not os.access(folder, os.R_OK):
        return f"{folder} may not be listed by this user: pass the checkpoint's prefix"
    if is_dir(folder):
        return f"{folder} holds no checkpoint"
    if folder.startswith(("http://", "https://")):
        return "web servers have no folders: pass the URL of the .index file"
    return f"{folder} does not exist"


def _folders(folder: str) -> list[str]:
    return sorted(name for name, is_folder in entries(folder) if is_folder)


def _pass_one_of(paths: list[str]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return f"pass one of: {', '.join(paths[:_SHOWN])}{more}"
