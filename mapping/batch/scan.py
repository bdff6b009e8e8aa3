"""All checkpoints below a folder, told by the names of files, and what looks like one and is none.

What a file really holds is for who opens it. Only files with any ending are looked at, as V1
checkpoints may have it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tfreader.files import but_it_is, is_table, open_regular
from tfreader.kinds import MODEL_ENDINGS, SAVED_MODEL, USUAL, jax_files, torch_files
from tfreader.locate import checkpoint_of, is_left_over
from tfreader.paths import entries, glob, is_url, join, slashes
from tfreader.prefixes import V1_SHARD, prefix_of
from tfreader.sharded import INDEX
from tfreader.system import is_link

from ..places import RECORD
from ..sources.npy import SHAPES_FILE

_PARTIAL = re.compile(
    r".+\.(tempstate\d+|part|partial|crdownload|download|incomplete|aria2|tmp)", re.DOTALL
)
PARAMS = re.compile(r"params_\d+\.npy")
INTERRUPTED = "partial-file", "left by a save that was interrupted"
# What PyTorch's trainers write beside the weights.
_TORCH_STATE = re.compile(
    r"(optimizer|scheduler|scaler|rng_state(_\d+)?|training_args)\.(pt|pth|bin)"
)


class PassedOver(NamedTuple):
    """A file or folder that is not converted: a code for the cause, and a clause."""

    path: str
    code: str
    why: str


@dataclass
class Found:
    """What lies below a folder, by the names of the folders."""

    checkpoints: list[str] = field(default_factory=list)
    passed_over: list[PassedOver] = field(default_factory=list)


def scan(root: str, outputs: str = "") -> Found:
    """The checkpoints of every kind below `root`, a folder here or behind a URL.

    Hidden folders and `outputs` are not looked into. A link to a folder is followed where it leads
    out of `root`, each folder once. Paths have slashes between their parts on every system.
    Raises RemoteError.
    """
    found = Found()
    root = slashes(root)
    folders = _remote(root, found) if is_url(root) else dict(_local(root, outputs, found))
    for folder, names in sorted(folders.items()):
        seen: set[str | tuple[str, str]] = set()
        for name in sorted(names):
            verdict = verdict_of(folder, name, folders)
            if verdict is None or verdict in seen:
                continue
            if isinstance(verdict, str) or verdict[0] == "lone-shard":  # one of several of a model
                seen.add(verdict)
            if isinstance(verdict, str):
                found.checkpoints.append(slashes(join(folder, verdict)))
            else:
                path = slashes(join(folder, name))
                found.passed_over.append(PassedOver(path, *verdict))
    return found


def verdict_of(
    folder: str, name: str, folders: Mapping[str, set[str]]
) -> str | tuple[str, str] | None:
    """The checkpoint that a file belongs to, why it is passed over, or None where it is no matter.

    `folders` has the names of all files by their folder.
    """
    beside = folders[folder]
    prefix = prefix_of(name)
    if name.endswith(".index"):
        copied = folder.removesuffix("/" + os.path.dirname(SAVED_MODEL))
        usual = sorted({*USUAL} & folders[copied]) if copied in folders.keys() - {folder} else []
        if not usual and _may_be_index(join(folder, name), beside):
            return prefix
        if not usual:
            return "not-a-checkpoint", "no index of a checkpoint, and no values beside it"
        return "same-model", f"save_pretrained wrote it beside {usual[0]}, which is converted"
    if name == SHAPES_FILE:
        return "params"
    if _PARTIAL.fullmatch(name):
        return "partial-file", "left by a download or a save that was interrupted"
    if name.endswith(".meta") and prefix != name:
        has_values = any(other.startswith(prefix) and other != name for other in beside)
        return None if has_values else ("graph-alone", "a graph without values")
    if prefix != name:  # values
        alone = f"values without {prefix}.index, which says what they are"
        return None if f"{prefix}.index" in beside else ("lone-shard", alone)
    if PARAMS.fullmatch(name):
        alone = f"values without {SHAPES_FILE}, which says what they are"
        return None if SHAPES_FILE in beside else ("lone-shard", alone)
    if name == "saved_model.pb":
        has_values = "variables.index" in folders.get(slashes(join(folder, "variables")), ())
        return None if has_values else ("graph-alone", "a SavedModel's graph without variables")
    if _TORCH_STATE.fullmatch(name):
        return "pytorch", "training state of PyTorch"
    if RECORD in beside and name.removesuffix(INDEX).endswith(".safetensors"):
        return "pytorch", "PyTorch weights, which tfreader wrote"
    if name.endswith((*MODEL_ENDINGS, *(ending + INDEX for ending in MODEL_ENDINGS), ".pth")):
        return checkpoint_of(name)
    if name.endswith(".pt") or torch_files({name}, ()):
        return "pytorch", "PyTorch weights, which need no conversion"
    if jax_files({name}):
        return "jax", "of JAX (Flax, T5X, Orbax), which is not read"
    shard = V1_SHARD.fullmatch(name)
    whole = shard["prefix"] if shard else name
    is_named = re.search(r"ckpt(-\d+)?$", whole) is not None
    if is_named or is_url(folder):
        return whole if is_named else None
    path = join(folder, name)
    if not os.path.exists(path):  # a link
        return None
    if not os.access(path, os.R_OK):
        return "access-denied", "not accessible to this user, so that nothing tells what it is"
    return whole if is_table(path) else None


def _may_be_index(path: str, beside: Set[str]) -> bool:
    """Whether a file may be an index, be it damaged: other programs call files so too."""
    values = prefix_of(os.path.basename(path)) + ".data-"
    if is_url(path) or any(name.startswith(values) for name in beside):
        return True
    try:
        with open(path, "rb", opener=open_regular) as file:
            head = file.read(2)
    except OSError:  # its job says why
        return True
    # The first key, of the header, is empty and shares nothing; a pointer or a page may be of one.
    return head == b"\0\0" or is_table(path) or but_it_is(path) != ""


def _local(root: str, outputs: str, found: Found) -> Iterator[tuple[str, set[str]]]:
    """The folders below one, each with the names of its files."""
    home = os.path.realpath(root)
    seen = {os.path.realpath(outputs)} - {home} if outputs else set()
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        place = os.path.realpath(folder)
        if place in seen:
            continue
        seen.add(place)
        if not os.access(folder, os.R_OK | os.X_OK):  # what lies there nobody knows: a job's error
            found.checkpoints.append(folder)
            continue
        here = entries(folder)
        # Of links that lead nowhere who opens them says what is missing.
        nowhere = _links(folder) - {name for name, _ in here}
        yield folder, {name for name, is_folder in here if not is_folder} | nowhere
        inner = {name for name, is_folder in here if is_folder and not name.startswith(".")}
        if "snapshots" in inner:  # the Hub's cache: links there lead to what lies in blobs
            inner.discard("blobs")
        for name in inner:
            path = slashes(join(folder, name))
            if is_left_over(name):
                found.passed_over.append(PassedOver(path, *INTERRUPTED))
            elif not is_link(path) or _leads_out(path, home):
                waiting.append(path)


def _links(folder: str) -> set[str]:
    with suppress(OSError):  # it may be gone by now
        return {name for name in os.listdir(folder) if is_link(join(folder, name))}
    return set()


def _leads_out(link: str, home: str) -> bool:
    """Whether a link leads to where the scan does not come by itself, nor round in a circle."""
    place = os.path.realpath(link)
    return not (Path(home).is_relative_to(place) or Path(place).is_relative_to(home))


def _remote(root: str, found: Found) -> dict[str, set[str]]:
    """The folders of a bucket or of a web server, each with the names of its files."""
    folders: dict[str, set[str]] = {}
    for file in glob(f"{root.rstrip('/')}/**"):
        folder, _, name = file.rpartition("/")
        folders.setdefault(folder, set()).add(name)
    for folder in [folder for folder in folders if any(map(is_left_over, folder.split("/")))]:
        del folders[folder]
        found.passed_over.append(PassedOver(folder, *INTERRUPTED))
    return folders
