"""From a prefix, a file or a pattern to the files of a TensorFlow checkpoint, V1 or V2."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Callable
from itertools import takewhile
from typing import NamedTuple

from .errors import CheckpointNotFoundError
from .files import is_table
from .kinds import LOOKED_AT, Kind
from .paths import entries, is_file, is_url, join

_V2_FILE = re.compile(r"(?P<prefix>.*)\.(?:index|meta|data-\d{5,}-of-\d{5,})", re.DOTALL)
V1_SHARD = re.compile(
    r"(?P<prefix>.+)(?<!\.data)-(?P<shard>\d{5,})-of-(?P<count>\d{5,})", re.DOTALL
)
_V1_PATTERN = re.compile(r"(?P<prefix>.+)-\?{5,}-of-(?P<count>\d{5,})", re.DOTALL)
_SHOWN = 5  # candidates that a message lists


class Located(NamedTuple):
    """A checkpoint's prefix, the files of a V1 checkpoint (none for V2), and what was assumed.

    Of a `kind`, it is no TensorFlow checkpoint but a file, whose path is the prefix.
    """

    prefix: str
    files: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    kind: Kind | None = None


def exact(path: str) -> Located | None:
    """The checkpoint with that prefix, file or pattern of shards, where all its names are clear."""
    for prefix in (path, prefix_of(path)):
        if is_file(prefix + ".index"):
            return Located(prefix)
    if shard := V1_SHARD.fullmatch(path) or _V1_PATTERN.fullmatch(path):
        return _shards(shard["prefix"], shard["count"])
    if is_file(path):
        return Located(path, (path,)) if is_table(path) else None
    folder, name = os.path.split(path)
    counts = {
        match["count"]
        for match in map(V1_SHARD.fullmatch, files_in(folder))
        if match and match["prefix"] == name
    }
    complete = [count for count in sorted(counts) if _shards(path, count, check=False)]
    if len(complete) > 1:
        raise CheckpointNotFoundError(
            f"{path}: saved twice, in {' and '.join(str(int(count)) for count in complete)} "
            f"shards; pass one of its files, such as {path}-00000-of-{complete[0]}",
            code="several-checkpoints",
        )
    return _shards(path, (complete or sorted(counts))[0]) if counts else None


def prefix_of(path: str) -> str:
    match = _V2_FILE.fullmatch(path)
    return match["prefix"] if match else path


def _shards(prefix: str, count: str, check: bool = True) -> Located | None:
    """The V1 checkpoint in `count` shards; None if there is none."""
    folder, name = os.path.split(prefix)
    present = {
        file
        for file in files_in(folder)
        if (match := V1_SHARD.fullmatch(file))
        and (match["prefix"], match["count"]) == (name, count)
    }
    total = int(count)
    names = (f"{name}-{i:05d}-of-{count}" for i in range(total))
    if not present and is_url(folder):  # not all servers list what they have
        present = set(takewhile(lambda file: is_file(join(folder, file)), names))
    if not present:
        return None
    missing = total - len(present)
    if not missing:
        expected = [f"{name}-{i:05d}-of-{count}" for i in range(total)]
        if present == set(expected):
            return Located(prefix, tuple(join(folder, file) for file in expected))
    if not check:
        return None
    absent = next(
        file
        for file in (f"{prefix}-{i:05d}-of-{count}" for i in range(total + 1))
        if os.path.basename(file) not in present
    )
    raise CheckpointNotFoundError(
        f"{absent}: missing, one of the {total} shards of a V1 checkpoint; {len(present)} are "
        "there",
        code="missing-shard",
    )


def by_pattern(path: str, find: Callable[[str], Located | None]) -> Located | None:
    """The one model, which `find` gives for a file, whose files match `path` as a pattern."""
    if not glob.has_magic(path) or is_file(path):
        return None
    found = {
        located.prefix: located
        for file in _matching(path)
        if is_file(file) and (located := find(file)) is not None
    }
    if len(found) > 1:
        raise CheckpointNotFoundError(
            f"{path}: matches several; {pass_one_of(sorted(found))}", code="several-checkpoints"
        )
    return next(iter(found.values()), None)


def _matching(pattern: str) -> list[str]:
    """The files that match; behind a URL the pattern is of names in one folder."""
    if not is_url(pattern):
        return sorted(glob.glob(pattern))
    folder, name = os.path.split(pattern)
    return [join(folder, file) for file in fnmatch.filter(files_in(folder), name)]


def prefixes(folder: str) -> list[str]:
    """The base names of the checkpoints in a folder, sorted: V2 ones, or else V1 ones."""
    files = files_in(folder)
    found = {file.removesuffix(".index") for file in files if file.endswith(".index")}
    if not found:
        looked_at = files[:LOOKED_AT] if is_url(folder) else files
        tables = (file for file in looked_at if is_table(join(folder, file)))
        shards = ((V1_SHARD.fullmatch(file), file) for file in tables)
        found = {match["prefix"] if match else file for match, file in shards}
    return sorted(found)


def files_in(folder: str) -> list[str]:
    return [name for name, is_folder in entries(folder) if not is_folder]


def pass_one_of(paths: list[str]) -> str:
    more = f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else ""
    return f"pass one of: {', '.join(paths[:_SHOWN])}{more}"
