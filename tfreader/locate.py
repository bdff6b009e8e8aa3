"""From what a user names to the files of a checkpoint."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Set
from pathlib import Path

from .checkpoint_pb2 import CheckpointState
from .errors import (
    CheckpointNotFoundError,
    CorruptCheckpointError,
    RemoteError,
    TFReaderError,
    code_of_file,
)
from .files import DAMAGED, but_it_is, is_table, read_small
from .kinds import (
    LOOKED_AT,
    MODEL_ENDINGS,
    USUAL,
    Model,
    jax_files,
    kind_of,
    models_in,
    names_in,
    torch_files,
)
from .paths import as_path, as_there, check_access, entries, is_dir, is_file, is_url, join
from .prefixes import (
    V1_SHARD,
    Located,
    by_pattern,
    exact,
    pass_one_of,
    prefix_of,
    prefixes,
)
from .sharded import INDEX, index_of

STATE_FILE = "checkpoint"
_STATE_SIZE = 1 << 20  # bytes, of some 10,000 checkpoints; parsing takes half a second


def locate(path: str) -> Located:
    """The checkpoint that `path` names.

    `path` is a prefix, any file of the checkpoint, a pattern such as `model.ckpt-?????-of-00002`, a
    folder, a SavedModel folder, or a `checkpoint` state file; or a file of another kind of those in
    `kinds`. Raises CheckpointNotFoundError, CorruptCheckpointError where the file there is
    something else, AccessDeniedError.
    """
    path = as_there(path, is_prefix=True)
    if not is_url(path):
        check_access(path)
    if is_dir(path):
        return _in_folder(path)
    found = _by_file(path)
    if found is not None:
        return found
    folder, name = os.path.split(path)
    if name in (STATE_FILE, "saved_model.pb", "saved_model.pbtxt") and is_file(path):
        return _in_folder(folder or ".")
    found = by_pattern(path, _by_file)
    if found is None and is_url(path) and not is_file(path):  # not all servers list a folder
        found = _model_in(path, names_in(path))
    if found is None:
        raise _nothing(path)
    return found


def _by_file(path: str) -> Located | None:
    """The checkpoint with that prefix or file."""
    found = exact(path)
    if found is not None:
        return found
    kind = kind_of(path)
    whole = index_of(path)
    if kind is None or whole is None:
        return None if kind is None else Located(path, kind=kind)
    _check_index(whole)
    return _by_file(whole)


def _check_index(path: str) -> None:
    if path.endswith(INDEX) and not is_file(path):
        raise CheckpointNotFoundError(
            f"{path}: missing, the index of shards; put it beside them", code="missing-index"
        )


def is_left_over(folder: str) -> bool:
    """Whether a folder, to judge by its name, was left by a save that was interrupted."""
    return re.search(r"_temp(_[0-9a-f]+)?$", folder) is not None


def checkpoint_of(file: str) -> str:
    """What names the whole checkpoint that a file, to judge by its name, belongs to."""
    shard = V1_SHARD.fullmatch(file)
    return shard["prefix"] if shard else index_of(file) or prefix_of(file)


def _nothing(path: str) -> TFReaderError:
    """The error for a path with no checkpoint: what is there, and what to pass instead."""
    if not path:  # a shell's variable that is not set
        return CheckpointNotFoundError(
            "the checkpoint is named by no letter; . is the current folder"
        )
    prefix = prefix_of(path)
    check_access(prefix + ".index")
    folder = os.path.dirname(path) or "."
    if is_url(path) and not is_url(folder):  # a bucket
        folder = path
    if not is_file(path):
        if any(index_of(join(folder, name)) == path for name in names_in(folder)):
            _check_index(path)
        link = next(filter(os.path.islink, (path, prefix + ".index")), None)
        if link is not None:  # as git-annex and the Hub's cache have of what was not fetched
            return CheckpointNotFoundError(
                f"{link}: a link to {os.readlink(link)}, which is not there: fetch it"
            )
        return CheckpointNotFoundError(
            f"{path}: no checkpoint there ({prefix}.index does not exist); {_candidates(folder)}",
            code="not-found",  # whatever else lies there
        )
    if path.endswith(".meta"):
        return CheckpointNotFoundError(
            f"{path}: the graph, without values; they are in {prefix}.index and {prefix}.data-*, "
            "which are missing",
            code="missing-index",
        )
    if prefix != path:
        return CheckpointNotFoundError(
            f"{path}: its index file {prefix}.index is missing{but_it_is(path)}",
            code="missing-index",
        )
    hint = "if it is a data shard, the .index file that was saved with it is needed too"
    said = but_it_is(path, DAMAGED if path.endswith(MODEL_ENDINGS) else hint)
    return CorruptCheckpointError(
        f"{path}: not a checkpoint{said}; {_candidates(folder, os.path.basename(path))}",
        code=code_of_file(said) or "corrupt",  # whatever else lies there
    )


def _in_folder(folder: str) -> Located:
    """The checkpoint in a folder, or else the model of another kind, and what else lies there."""
    names = names_in(folder)
    saved_model = is_file(join(folder, "variables", "variables.index"))
    if saved_model or STATE_FILE in names or prefixes(folder):
        try:
            found = _checkpoint_in(folder)
            notes = _also_there(folder, found.prefix, names, models_in(folder, names))
            return found._replace(notes=(*found.notes, *notes))
        except CheckpointNotFoundError:
            if prefixes(folder):
                raise
    return _model_in(folder, names) or _checkpoint_in(folder)  # which says what is wrong


def _model_in(folder: str, names: Set[str]) -> Located | None:
    """The first of the usual models among what lies in a folder, or else the only other one."""
    models = models_in(folder, names)
    if not models:
        return None
    first = models[0]
    path = join(folder, first.name)
    if not first.is_usual and len(models) > 1:
        several = [join(folder, model.name) for model in models]
        raise CheckpointNotFoundError(
            f"{folder}: which model? {pass_one_of(several)}", code="several-checkpoints"
        )
    _check_index(path)
    return Located(path, notes=_also_there(folder, path, names, models), kind=first.kind)


def _also_there(
    folder: str, taken: str, names: Set[str], models: Collection[Model]
) -> tuple[str, ...]:
    """Notes on what was not taken."""
    others = [model.name for model in models if join(folder, model.name) != taken]
    torch = torch_files(names, models)
    notes = []
    if others:
        notes.append(f"{taken} is read; {folder} also has {', '.join(others)}")
    if torch:
        notes.append(
            f"{folder} has PyTorch weights too ({', '.join(torch[:3])}), which need no conversion"
        )
    return tuple(notes)


def _checkpoint_in(folder: str) -> Located:
    variables = join(folder, "variables", "variables")
    if is_file(variables + ".index"):
        return Located(variables)
    state = join(folder, STATE_FILE)
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
        prefix = join(folder, hint)
        found = exact(as_there(prefix, is_prefix=True)) if _is_below(folder, hint) else None
        if found is not None and prefix.endswith(named):
            return found
        if found is not None:
            note = f"{state} names {named!r}, using {beside!r} beside it"
            return found._replace(notes=(note,))
    elsewhere = join(folder, named)
    if not is_url(folder) and exact(elsewhere) is not None:
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
    inside = os.path.realpath(join(folder, os.path.dirname(name)))
    return Path(inside).is_relative_to(os.path.realpath(folder))


def _only(folder: str, problem: str, note: str | None) -> Located:
    """The only checkpoint in a folder, with a note on why it was taken."""
    here = prefixes(folder)
    if len(here) != 1:
        code = "several-checkpoints" if here else None
        raise CheckpointNotFoundError(f"{problem} {_candidates(folder)}", code=code)
    found = exact(join(folder, here[0]))
    assert found is not None
    notes = () if note is None else (f"{note}, using the only checkpoint there, {here[0]!r}",)
    return found._replace(notes=notes)


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
            text.decode("utf-8-sig", "surrogateescape").encode("utf-8", "replace"),
            CheckpointState(),
            allow_unknown_field=True,
        )
    except (text_format.ParseError, RecursionError) as error:
        raise ValueError(f"not a checkpoint state file: {error}") from None
    path = os.fsdecode(message.model_checkpoint_path)
    if not path or "\0" in path:
        raise ValueError(f"model_checkpoint_path is {path!r}")
    return path


def _candidates(folder: str, told: str = "") -> str:
    """The last clause of a message: what could be passed instead of a file that was told of."""
    names = names_in(folder)
    models = [model.name for model in models_in(folder, names)]
    here = [join(folder, name) for name in (*prefixes(folder), *models)]
    if here:
        return pass_one_of(here)
    inside, leftovers = [], []
    folders = _folders(folder)
    if "snapshots" in folders:  # of the Hub's cache
        folders += [f"snapshots/{name}" for name in _folders(join(folder, "snapshots"))]
    for child in folders[:LOOKED_AT] if is_url(folder) else folders:
        below = join(folder, child)
        if is_left_over(child):
            leftovers.append(below)
        elif _has_any(below):
            inside.append(below)
    if inside:
        return pass_one_of(inside)
    if leftovers:
        return (
            f"{folder} holds no checkpoint, only {leftovers[0]}, left by a save that was "
            "interrupted; pass one of the prefixes in it to read that part"
        )
    known = sorted(name for name in names if name in USUAL or name.endswith(MODEL_ENDINGS))
    known = known or torch_files(names, ())
    if not known and (jax := jax_files(names)):
        return (
            f"{folder} holds no checkpoint of TensorFlow but one of JAX (Flax, T5X, Orbax: "
            f"{jax[0]}), which is not read: transformers 4 loads its own with from_flax=True, and "
            "has scripts for T5X (convert_*t5x_checkpoint_to_*.py)"
        )
    if known or is_dir(folder):
        clauses = (but_it_is(join(folder, name)) for name in known[:3] if name != told)
        return f"{folder} holds no checkpoint" + "".join(clauses)
    if folder.startswith(("http://", "https://")):
        return "web servers have no folders: pass the URL of the .index file, or of the weights"
    return f"{folder} does not exist"


def _has_any(folder: str) -> bool:
    saved_model = join(folder, "variables", "variables.index")
    return (
        bool(prefixes(folder)) or is_file(saved_model) or bool(models_in(folder, names_in(folder)))
    )


def _folders(folder: str) -> list[str]:
    return sorted(name for name, is_folder in entries(folder) if is_folder)
