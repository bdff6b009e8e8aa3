"""The checkpoints that a pattern matches, and what it matches of other things."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence, Set

from tfreader.errors import TFReaderError
from tfreader.files import but_it_is
from tfreader.kinds import SAVED_MODEL
from tfreader.locate import STATE_FILE, checkpoint_of, is_left_over
from tfreader.paths import above, entries, glob, is_url, join, path_of, slashes
from tfreader.prefixes import exact, prefix_of

from ..sources.npy import NAMES_FILE, SHAPES_FILE
from .scan import INTERRUPTED, PARAMS, Found, PassedOver, scan, verdict_of

LINK = "link"
_MAGIC = re.compile(r"[*?[]")


def root_of(pattern: str) -> str:
    """The folder in which all lies that a pattern can match."""
    return _MAGIC.split(slashes(path_of(pattern)))[0].rpartition("/")[0]


def matching(pattern: str) -> tuple[Found, bool]:
    """What matches a pattern, and whether that is a name, in which nothing was a wildcard.

    Raises RemoteError.
    """
    links: list[str] = []
    files = glob(pattern, links.append) or glob(f"{pattern}.index")  # for */bert_model.ckpt
    last = slashes(pattern).rstrip("/").rpartition("/")[2]
    if last == "**":
        files = [file for file in files if file not in links]
    is_name = not _MAGIC.search(pattern) or not (files or links)
    if is_name and not files and _is_there(pattern):  # as in a shell, what matches nothing is meant
        files = [pattern]
    found = Found()
    for link in {*links}.difference(files):
        found.passed_over.append(
            PassedOver(link, LINK, "a link to a folder, which ** does not follow")
        )
    is_spelled = is_name or not _MAGIC.search(last)  # be it below folders that a wildcard took
    for verdict in map(checkpoint_of, files) if is_spelled else _verdicts(files):
        if isinstance(verdict, str):
            found.checkpoints.append(verdict)
        else:
            found.passed_over.append(verdict)
    return found, is_name


def _is_there(path: str) -> bool:
    """Whether a file, a folder or a checkpoint is called so."""
    try:
        return os.path.lexists(path) or exact(path) is not None
    except TFReaderError:  # which the job says again
        return True


def _verdicts(files: Sequence[str]) -> Iterator[str | PassedOver]:
    """The checkpoints to which what a wildcard took belongs, and what is none."""
    names: dict[str, set[str]] = {}
    for file in filter(is_url, files):
        folder, _, name = file.rpartition("/")
        names.setdefault(folder, set()).add(name)
    folders: list[str] = []
    taken: set[str] = set()
    for file in files:
        is_folder = not is_url(file) and os.path.isdir(file)
        if any(map(is_left_over, file.split("/")[: None if is_folder else -1])):
            yield PassedOver(file, *INTERRUPTED)
        elif is_folder:
            folders.append(file.rstrip("/"))
        else:
            verdict = _judge(file, names)
            taken.update({verdict} if isinstance(verdict, str) else ())
            yield verdict
    outer = {folder for file in (*files, *folders) for folder in above(file)}
    for folder in folders:
        if folder not in outer or not _all_match(folder, {*files}):
            yield from _judge_folder(folder, taken.union(folders), folder in outer)


def _all_match(folder: str, files: Collection[str]) -> bool:
    """Whether all that lies in a folder, but what is hidden, matches by itself."""
    return all(f"{folder}/{name}" in files or name.startswith(".") for name, _ in entries(folder))


def _judge_folder(folder: str, taken: Set[str], is_outer: bool) -> Iterator[str | PassedOver]:
    """A folder that a wildcard took, unless the checkpoint in it was; `is_outer` if others match.

    `taken` are the checkpoints and folders that match.
    """
    inside = scan(folder)
    if inside.checkpoints or not os.access(folder, os.R_OK):
        here = folder, f"{folder}/variables"
        own = [path for path in inside.checkpoints if os.path.dirname(path) in here]
        below = {each for path in own or inside.checkpoints for each in (path, *above(path))}
        if taken.isdisjoint(below - {folder, *above(folder)}):
            yield folder
    elif not is_outer:  # else what matches in it is told of
        why = "".join(f"; {left.path}: {left.why}" for left in inside.passed_over[:3])
        code = inside.passed_over[0].code if inside.passed_over else "not-a-checkpoint"
        yield PassedOver(folder, code, f"holds no checkpoint{why}")


def _judge(file: str, folders: dict[str, set[str]]) -> str | PassedOver:
    """The checkpoint to which a file belongs that a wildcard took, or why it belongs to none.

    `folders` has the names in folders by now: of a server those that matched, of this machine all.
    """
    folder, name = os.path.split(file)
    whole = checkpoint_of(file)
    if is_url(file) and whole != file:  # what lies beside it may not have matched
        return whole
    copied = folder.removesuffix("/" + os.path.dirname(SAVED_MODEL))
    for near in () if is_url(file) else (folder, slashes(join(folder, "variables")), copied):
        if near not in folders:
            folders[near] = {name for name, is_folder in entries(near) if not is_folder}
    verdict = verdict_of(folder, name, folders)
    if isinstance(verdict, tuple):
        return PassedOver(file, *verdict)
    if name in ("saved_model.pb", "saved_model.pbtxt"):
        verdict = "variables/variables"
    elif name == STATE_FILE:
        verdict = name
    elif SHAPES_FILE in folders[folder] and (name == NAMES_FILE or PARAMS.fullmatch(name)):
        verdict = "params"
    elif verdict is None and prefix_of(name) != name:
        verdict = prefix_of(name)
    if verdict is None:
        it_is = "" if is_url(file) else but_it_is(file)
        return PassedOver(file, "not-a-checkpoint", f"no checkpoint{it_is}")
    return slashes(join(folder, verdict))
