"""What is in an HDF5 file: its groups, walked."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..errors import CorruptCheckpointError, UnsupportedError
from ..files import DAMAGED
from .datasets import Dataset, describe, typed, without_values
from .file import HDF5File
from .source import HeapError

LISTS = ("layer_names", "layer_names0")  # Keras 2's; the second where there are more than 64 KB
MAX_OBJECTS = 200_000  # groups, datasets and links
MAX_NAME = 2000  # bytes of a path


class Contents(NamedTuple):
    """What is in an HDF5 file.

    `names` are the attributes "name" of groups by their paths, `marks` the names of the root's
    groups, with a slash behind them, and those of LISTS that it has. `notes` tell what was assumed,
    and which links were not followed.
    """

    datasets: list[Dataset]
    names: dict[str, str]
    marks: set[str]
    notes: list[str]


def contents_of(file: HDF5File) -> Contents:
    """Everything that hard links lead to. Raises CorruptCheckpointError, UnsupportedError."""
    found = Contents([], {}, set(), [])
    with file.guarded():
        groups = _walk(file, found)
        file.source.guard.with_heaps = True  # no virtual dataset is opened from here on
        for path in groups:
            if own := file.text(file.group(path), b"name"):
                found.names[path] = own
        told = [typed(file, dataset) for dataset in found.datasets]
    found.datasets[:] = sorted(dataset for dataset, _ in told)
    if untyped := [dataset.path for dataset, is_assumed in told if is_assumed]:
        found.notes.append(
            "taken for bfloat16, as Keras 3 stores it, are 2 bytes a value, without a type: "
            f"{_some(untyped)}"
        )
    return found


def _walk(file: HDF5File, found: Contents) -> list[str]:
    """Find datasets, without what texts in heaps tell. Returns groups that may have a name."""
    h5a, h5d, h5g, h5l = file.h5py.h5a, file.h5py.h5d, file.h5py.h5g, file.h5py.h5l
    found.marks.update(name for name in LISTS if h5a.exists(file.root, name.encode()))
    groups = [("", file.root)]
    # h5o.get_info would add up all nodes of a group's tree, which may lead in a circle.
    seen = {h5g.get_objinfo(file.root, b".").objno[0]}
    skipped: dict[str, list[str]] = {}
    named: list[str] = []
    count = 0
    while groups:
        parent, group = groups.pop()
        links = _links(file.path, parent, group, MAX_OBJECTS - count)
        count += len(links)
        for name, kind, address in links:
            path = parent + name.decode("utf-8", "surrogateescape")
            if kind == h5l.TYPE_EXTERNAL:
                found.datasets.append(without_values(path, "external link"))
                continue
            if kind != h5l.TYPE_HARD:
                soft = "soft link" if kind == h5l.TYPE_SOFT else "link of a kind of its own"
                skipped.setdefault(soft, []).append(path)
                continue
            if address in seen:
                skipped.setdefault("second link to a group", []).append(path)
                continue
            item = _item(file, group, name)
            if item is None:
                found.datasets.append(without_values(path, "virtual dataset"))
            elif isinstance(item, h5d.DatasetID):
                found.datasets.append(describe(file, path, item))
            elif isinstance(item, h5g.GroupID):
                seen.add(address)
                groups.append((path + "/", item))
                if not parent:
                    found.marks.add(path + "/")
                if name == b"vars":
                    named.append(path)
    for kind_of, paths in skipped.items():
        found.notes.append(f"a {kind_of} was not followed: {_some(paths)}")
    return named


def _links(path: str, parent: str, group: Any, limit: int) -> list[tuple[bytes, int, int]]:
    """The names in a group, each with its kind of link, and where that leads to."""
    links: list[tuple[bytes, int, int]] = []

    def is_sound(name: bytes) -> bool:
        return 0 < len(name) <= MAX_NAME - len(parent) and name != b"." and b"/" not in name

    def add(name: bytes, link: Any) -> bool | None:
        links.append((name, link.type, link.u))
        return None if is_sound(name) and len(links) <= limit else True  # which ends it

    group.links.iterate(add, info=True)
    if len(links) > limit:
        raise UnsupportedError(f"{path}: more than {MAX_OBJECTS} groups and datasets")
    if links and not is_sound(links[-1][0]):
        raise CorruptCheckpointError(
            f"{path}: impossible name {links[-1][0][:100]!r} in group {parent[:100]!r}; {DAMAGED}"
        )
    return links


def _item(file: HDF5File, group: Any, name: bytes) -> Any:
    """What a hard link leads to; None for a virtual dataset.

    libhdf5 2.0 crashes on damaged ones when it opens them (H5Shyper.c): their heap is not read.
    """
    h5d = file.h5py.h5d
    try:
        item = file.h5py.h5o.open(group, name)
    except Exception:
        if not isinstance(file.source.failure, HeapError):
            raise
        file.source.failure = None
        return None
    # To ask for its shape would open the files that it is made of.
    is_virtual = isinstance(item, h5d.DatasetID) and (
        item.get_create_plist().get_layout() == h5d.VIRTUAL
    )
    return None if is_virtual else item


def _some(paths: list[str]) -> str:
    return repr(paths[0]) + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
