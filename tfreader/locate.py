"""From what a user names to the prefix of a checkpoint."""

from __future__ import annotations

import os
import re

from .checkpoint_pb2 import CheckpointState
from .errors import CheckpointNotFoundError, CorruptCheckpointError, UnsupportedError
from .files import but_it_is, is_table

_SUFFIX = re.compile(r"\.(index|meta|data-\d{5,}-of-\d{5,})$")
STATE_FILE = "checkpoint"


def locate(path: str) -> tuple[str, tuple[str, ...]]:
    """The prefix of the V2 checkpoint that `path` names, and notes on what was assumed.

    `path` is a prefix, an `.index`, `.data-*` or `.meta` file, a folder, a SavedModel folder, or a
    `checkpoint` state file. Raises CheckpointNotFoundError, CorruptCheckpointError, and
    UnsupportedError for a V1 checkpoint.
    """
    if os.path.isdir(path):
        return _in_folder(path)
    prefix = _SUFFIX.sub("", path)
    if os.path.exists(prefix + ".index"):
        return prefix, ()
    folder, name = os.path.split(path)
    if name == STATE_FILE and os.path.isfile(path):
        return _in_folder(folder or ".")
    if prefix != path and os.path.isfile(path):
        raise CheckpointNotFoundError(
            f"{path}: its index file {prefix}.index is missing{but_it_is(path)}"
        )
    if os.path.isfile(path):
        if is_table(path):
            raise UnsupportedError(
                f"{path}: a V1 checkpoint (one file, as TensorFlow 0.x saved), which this release "
                "does not read; TensorFlow can save it again in the V2 format"
            )
        raise CorruptCheckpointError(
            f"{path}: not a checkpoint{but_it_is(path)}; {_candidates(folder or '.')}"
        )
    raise CheckpointNotFoundError(
        f"{path}: no checkpoint there ({prefix}.index does not exist); {_candidates(folder or '.')}"
    )


def _in_folder(folder: str) -> tuple[str, tuple[str, ...]]:
    variables = os.path.join(folder, "variables", "variables")
    if os.path.exists(variables + ".index"):
        return variables, ()
    here = prefixes(folder)
    state = os.path.join(folder, STATE_FILE)
    if not os.path.isfile(state):
        if len(here) == 1:
            return os.path.join(folder, here[0]), ()
        raise CheckpointNotFoundError(f"{folder}: which checkpoint? {_candidates(folder)}")

    # Strangers' state files hold the path of the machine that wrote them: a hint, no more.
    try:
        named = _latest(state)
    except ValueError as error:
        if len(here) != 1:
            raise CorruptCheckpointError(
                f"{state}: {error}{but_it_is(state)}; {_candidates(folder)}"
            ) from None
        note = f"{state} is unreadable ({error}), using the only checkpoint there, {here[0]}"
        return os.path.join(folder, here[0]), (note,)
    latest = os.path.join(folder, named)
    if os.path.exists(latest + ".index"):
        return latest, ()
    base = re.split(r"[/\\]", named)[-1]
    if base not in here:
        if len(here) != 1:
            raise CheckpointNotFoundError(
                f"{state}: it names {named!r}, which does not exist; {_candidates(folder)}"
            )
        base = here[0]
    return os.path.join(folder, base), (
        f"{state} names {named!r}, which does not exist, using {base} beside it",
    )


def prefixes(folder: str) -> list[str]:
    """The base names of the V2 checkpoints in a folder, sorted."""
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    return sorted(name[: -len(".index")] for name in names if name.endswith(".index"))


def _latest(state: str) -> str:
    """The latest checkpoint's path as the state file spells it; ValueError if there is none."""
    from google.protobuf import text_format

    with open(state, "rb") as file:
        text = file.read(1 << 24)
    try:
        message = text_format.Parse(
            text.decode("utf-8", "surrogateescape").encode("utf-8", "replace"),
            CheckpointState(),
            allow_unknown_field=True,
        )
    except text_format.ParseError as error:
        raise ValueError(f"not a checkpoint state file: {error}") from None
    if not message.model_checkpoint_path:
        raise ValueError("model_checkpoint_path is empty")
    return os.fsdecode(message.model_checkpoint_path)


def _candidates(folder: str) -> str:
    """The last clause of a message: what could be passed instead."""
    here = prefixes(folder)
    if not here:
        return f"{folder} holds no .index file"
    shown = ", ".join(os.path.join(folder, name) for name in here[:5])
    more = f" and {len(here) - 5} more" if len(here) > 5 else ""
    return f"pass one of: {shown}{more}"
