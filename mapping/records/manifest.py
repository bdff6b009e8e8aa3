"""The record of a conversion: what was made of what, how, and the checksum of every tensor.

It lies in an output folder as conversion.json, or beside an output file. What it says before the
first byte is read tells conversions apart: two that agree in it give the same bytes. As people
publish it, it has no path of this machine and no time, which would tell nobody else anything.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

from tfreader import __version__
from tfreader.checkpoint import Checkpoint
from tfreader.checksum import HASHES, HashName
from tfreader.errors import ConfigError, CorruptCheckpointError, RemoteError
from tfreader.files import read_small
from tfreader.paths import AnyPath, entries, is_name, is_url, size_of
from tfreader.protocols import SourceFile

from ..execute import Write
from ..family import SideFiles
from ..places import RECORD, is_torch_file, record_of
from ..plan import Entry, Plan
from ..rules.dump import dump_rules
from ..writers.safetensors import Layout

FORMAT_VERSION = 1
LARGEST = 128 << 20  # bytes of a record, of some 300,000 tensors
CHECKSUM: HashName = "crc32c"  # of tensors, unless another is asked for
LIBRARIES = ("numpy", "protobuf", "ml_dtypes", "crc32c")

Manifest = dict[str, Any]


def describe(
    plan: Plan,
    checkpoint: Checkpoint,
    options: Mapping[str, Any],
    weights: Mapping[str, Sequence[Entry]],
    layouts: Mapping[str, Layout],
    side: SideFiles,
    checksum: str,
    source_name: str | None = None,
) -> Manifest:
    """All that is known of a conversion before it is carried out, but for `add_contents`.

    `weights` gives the tensors of each file, `layouts` where they lie in those of safetensors,
    `checksum` is one of HASHES, `source_name` what the checkpoint is called, by default its URL, or
    its name without folders. Raises ConfigError where no JSON can hold it.
    """
    homes = {entry.target: name for name, entries in weights.items() for entry in entries}
    planned = plan.to_data()
    with_torch = checkpoint.format == "pth" or any(map(is_torch_file, weights))
    rules = dump_rules(plan.rules)
    given = {"text": rules} if plan.rules_given else {}
    known = {
        "format_version": FORMAT_VERSION,
        "checksum": checksum,
        "source": {
            "checkpoint": source_name or _public(plan.path),
            "format": checkpoint.format,
            "files": [_described(file, checkpoint) for file in checkpoint.files()],
            "index_sha256": checkpoint.index_sha256(),
        },
        "model_type": planned["model_type"],
        "architecture": plan.architecture,
        "rules": {"name": _base(plan.rules.name), "sha256": digest_of(rules.encode()), **given},
        "options": dict(options),
        "config": {"path": _base(plan.config_path or "") or None, "original": plan.original_config},
        "tensors": [{"file": homes[t["target"]], **t} for t in planned["tensors"]],
        "ties": planned["ties"],
        "dropped": planned["dropped"],
        "notes": [_without_folders(note, plan) for note in (*plan.notes, *side.notes)],
        "files": {
            **{name: _header(layouts.get(name)) for name in weights},
            **{name: {"sha256": digest_of(contents)} for name, contents in side.contents.items()},
        },
        "versions": {
            "tfreader": __version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in LIBRARIES},
            **({"torch": _version("torch")} if with_torch else {}),
        },
    }
    try:
        manifest: Manifest = json.loads(json.dumps(known))  # tuples become lists
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{RECORD}: no JSON can hold it: {error}") from None
    return manifest


def add_contents(manifest: Manifest, checkpoint: Checkpoint) -> None:
    """A checksum of the source's values, where nothing else tells whether they changed."""
    kind = manifest["checksum"]
    manifest["source"][f"contents_{kind}"] = checkpoint.contents_checksum(kind)


def checksum_kind(manifest: Manifest) -> str:
    """The one of HASHES that a record has of tensors; before there was a choice it was SHA-256."""
    kind: str = manifest.get("checksum", "sha256")
    return kind


def _header(layout: Layout | None) -> dict[str, str]:
    """The checksum of what a safetensors file begins with, which is more than its tensors."""
    return {} if layout is None else {"header_sha256": digest_of(layout.header)}


_version = cache(version)  # it reads a file each time


def complete(manifest: Manifest, sizes: Mapping[str, int], digests: Mapping[str, str]) -> bytes:
    """The finished record: with the size of each file and the checksum of each tensor."""
    head = {key: value for key, value in manifest.items() if key != "tensors"}
    head["files"] = {name: {"size": sizes[name], **file} for name, file in head["files"].items()}
    kind = manifest["checksum"]
    tensors = [{**tensor, kind: digests[tensor["target"]]} for tensor in manifest["tensors"]]
    text = json.dumps(head, indent=2).removesuffix("\n}")
    lines = ",\n    ".join(map(json.dumps, tensors))  # a line each, made for grep
    return f'{text},\n  "tensors": [\n    {lines}\n  ]\n}}\n'.encode()


def is_current(
    output: AnyPath,
    is_folder: bool,
    manifest: Manifest,
    checkpoint: Checkpoint,
    source_name: str | None = None,
) -> bool:
    """Whether the output is there and was made just as this record, not yet finished, says.

    It may have been recorded with a better checksum. What it calls the checkpoint is no matter
    unless that was asked for.
    """
    path = record_of(output, is_folder)
    try:
        found = load(path)
    except (CorruptCheckpointError, FileNotFoundError):
        return False
    kind = checksum_kind(found)
    return (
        kind in (manifest["checksum"], "sha256")
        and source_name in (None, found["source"].get("checkpoint"))
        and _identity(found, checkpoint) == _identity(manifest, checkpoint)
        and not wrong_sizes(path, found)
        and found["source"].get(f"contents_{kind}") == checkpoint.contents_checksum(kind)
    )


def _identity(manifest: Manifest, checkpoint: Checkpoint) -> Manifest:
    """The record without names and what tells of them, checksums of values, sizes, versions.

    A source that was moved, renamed or touched is the same by its checksums, or by what its server
    calls its version where it has none.
    """
    source = manifest["source"]
    etags = [] if checkpoint.has_checksums else [file.get("etag") for file in source["files"]]
    return {
        **manifest,
        "checksum": None,
        "source": {
            "format": source["format"],
            "index_sha256": source["index_sha256"],
            "files": sorted(file["size"] for file in source["files"]),
            "etags": etags,
        },
        "rules": {**manifest["rules"], "name": None},
        "config": manifest["config"]["original"],
        "notes": None,
        "files": {
            name: {key: value for key, value in file.items() if key != "size"}
            for name, file in manifest["files"].items()
        },
        "tensors": [
            {key: value for key, value in tensor.items() if key not in HASHES}
            for tensor in manifest["tensors"]
        ],
        "versions": None,
    }


def load(path: AnyPath) -> Manifest:
    """A finished record. Raises FileNotFoundError, CorruptCheckpointError, RemoteError."""
    try:
        manifest = json.loads(read_small(path, LARGEST).decode("utf-8"))
    except (FileNotFoundError, RemoteError):
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptCheckpointError(f"{path}: damaged: no JSON ({error})") from None
    if not _fits(manifest, _RECORD) or not _is_sound(manifest):
        raise CorruptCheckpointError(
            f"{path}: not the record of a conversion in format {FORMAT_VERSION}; convert again"
        )
    found: Manifest = manifest
    return found


# What is used of a record, by its types: a list has items of one kind, a mapping values.
_TEXT = (str,)
_TENSOR = dict.fromkeys(("file", "target", "dtype"), _TEXT) | {"shape": (list,)}
_RECORD = {
    "format_version": (int,),
    "source": {"index_sha256": _TEXT, "format": _TEXT, "files": [{"size": (int,)}]},
    "rules": {"name": _TEXT},
    "options": {"model_type": _TEXT, "max_shard_size": (int,)},
    "config": {"original": (dict, type(None))},
    "model_type": (str, type(None)),
    "architecture": (str, type(None)),
    "tensors": [_TENSOR],
    "ties": (dict,),
    "dropped": (dict,),
    "files": (dict,),
}
# And of the options that are given to `make_plan` again, where they are there.
OPTIONS = {
    "accept_uncertain": (bool,),
    "architecture": (str, type(None)),
    "dtype": _TEXT,
    "finetuning_task_name": (str, type(None)),
    "ignore": [_TEXT],
    "ignore_weights": [_TEXT],
    "moving_averages": _TEXT,
    "overrides": (dict, type(None)),
    "scope": _TEXT,
}


def _fits(data: Any, kind: Any) -> bool:
    if isinstance(kind, tuple):
        return isinstance(data, kind)
    if isinstance(kind, list):
        return isinstance(data, list) and all(_fits(item, kind[0]) for item in data)
    return isinstance(data, dict) and all(
        key in data and _fits(data[key], kind[key]) for key in kind
    )


def _is_sound(manifest: Manifest) -> bool:
    files, options, kind = manifest["files"], manifest["options"], checksum_kind(manifest)
    return (
        manifest["format_version"] == FORMAT_VERSION
        and isinstance(kind, str)
        and kind in HASHES
        and _fits(manifest["tensors"], [{kind: _TEXT}])
        and all(_fits(file, {"size": (int,)}) and is_name(name) for name, file in files.items())
        and all(tensor["file"] in files for tensor in manifest["tensors"])
        and all(isinstance(target, str) for target in manifest["ties"].values())
        and all(_fits(options[key], OPTIONS[key]) for key in OPTIONS.keys() & options.keys())
    )


class Hashed:
    """A `Write` that takes a checksum of each tensor on its way to another."""

    def __init__(self, entries: Sequence[Entry], write: Write, checksum: str) -> None:
        self._hashes = {entry.target: HASHES[checksum]() for entry in entries}
        self._write = write

    def __call__(self, entry: Entry, offset: int, data: memoryview) -> None:
        self._hashes[entry.target].update(data)  # the bytes of one tensor come in order
        self._write(entry, offset, data)

    def digests(self) -> dict[str, str]:
        return {name: found.hexdigest() for name, found in self._hashes.items()}


def wrong_sizes(path: AnyPath, manifest: Manifest) -> list[str]:
    """What is amiss with the files of the finished record at `path`, by their sizes."""
    problems = []
    for name, file in manifest["files"].items():
        found = path.parent / name
        if not found.is_file():
            problems.append(f"{found}: missing")
        elif (size := size_of(found)) != file["size"]:
            problems.append(f"{found}: {size} bytes, {file['size']} were written")
    return problems


def _public(path: str) -> str:
    """A checkpoint's name: what a URL says but for credentials, of this machine without folders."""
    if not is_url(path):
        return _base(path.removesuffix("/variables/variables"))
    return re.sub(r"(?<=://)[^/]*@|[?#].*", "", path)


def _base(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/"))[-1]


def _described(file: SourceFile, checkpoint: Checkpoint) -> dict[str, Any]:
    """A source file by name and size, and by its version where no checksum tells its values."""
    known = {"name": file.name, "size": file.size}
    return known if checkpoint.has_checksums or not file.etag else {**known, "etag": file.etag}


_FOLDERS = re.compile(r"""(?<![\w.:/\\~-])(?:[A-Za-z]:)?[/\\](?:[^/\\\s'",;:()]+[/\\])*""")


def _without_folders(note: str, plan: Plan) -> str:
    """A note with the names of files and folders, but not of where they lie."""
    folders = {os.path.dirname(plan.path), *map(str, plan.beside.folders)} - {"", "/"}
    for folder in sorted(folders, key=len, reverse=True):
        note = _without_folder(note, folder, _base(plan.path))
    return _FOLDERS.sub("", note)


def _without_folder(note: str, folder: str, prefix: str) -> str:
    """A note without this folder; a relative one may be called as the scope of a variable is."""
    is_relative = not (os.path.isabs(folder) or is_url(folder))

    def cut(below: re.Match[str]) -> str:
        rest = note[below.end() :]
        names = (prefix, *(name for name, _ in entries(folder))) if is_relative else (rest,)
        ends = (rest[len(name) :] for name in names if rest.startswith(name))
        return below[0] if all(re.match(r"[\w/\\-]", end) for end in ends) else ""

    start = rf"(?<![\w.:/\\~)'-])(?:\./)*{re.escape(folder)}"
    note = re.sub(rf"{start}[/\\]+", cut, note)
    own = _base(folder if is_url(folder) else os.path.abspath(folder))
    return re.sub(rf"{start}(?![\w/\\.-])", lambda _: own, note)


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
