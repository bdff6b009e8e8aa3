"""Where libhdf5 is going to read, told ahead: what it wants lies scattered between the values.

From a server, one small answer after the other would take longer than the values themselves. So
the groups are followed here first, all of a level at once, as HDF5's specification lays them out
in files of its first version (superblock 0, which Keras and h5py write). Nothing counts on it: of
other files nothing is told, of damaged ones the wrong places.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator

MOST = 100_000  # places, of some 30,000 objects
MOST_CHILDREN = 64  # in a node; h5py's have up to 32
SUPERBLOCK = 96  # bytes; ends with the root's entry
_ENTRY = 40  # bytes: name, header, kind (4, and 4 reserved), tree and heap of a group
_TREE_HEADER = 24
_HEAP_HEADER = 32
_GROUP = 1


def follow(
    superblock: bytes | bytearray,
    fetch: Callable[[set[int]], None],
    read: Callable[[int, int], bytes | bytearray],
) -> None:
    """Have all addresses that belong to groups fetched, those of a level together.

    `read` gives some bytes at an address: less at the end of the file, none where not fetched.
    """
    if len(superblock) < SUPERBLOCK or superblock[8] != 0 or superblock[13:15] != b"\x08\x08":
        return
    level = set(_entry(superblock[SUPERBLOCK - _ENTRY :]))
    seen: set[int] = set()
    while level and len(seen) < MOST:
        seen |= level
        fetch(level)
        level = {there for place in level for there in _led_to(place, read)} - seen


def _led_to(place: int, read: Callable[[int, int], bytes | bytearray]) -> Iterable[int]:
    """The addresses in what lies at one."""
    head = read(place, _HEAP_HEADER)
    if len(head) < _HEAP_HEADER:
        return ()
    kind, count = head[:4], min(MOST_CHILDREN, int.from_bytes(head[6:8], "little"))
    if kind == b"TREE" and not head[4]:
        node = read(place + _TREE_HEADER, 16 * count)
        return (child for _, child in struct.iter_unpack("<QQ", node[: len(node) // 16 * 16]))
    if kind == b"HEAP":
        return struct.unpack_from("<Q", head, 24)
    if kind == b"SNOD":
        entries = read(place + 8, _ENTRY * count)
        starts = range(0, len(entries) - _ENTRY + 1, _ENTRY)
        return (there for start in starts for there in _entry(entries[start:]))
    return ()


def _entry(data: bytes | bytearray) -> Iterator[int]:
    """Where an object's header lies, and a group's tree and heap."""
    header, kind, tree, heap = struct.unpack_from("<8xQI4xQQ", data)
    yield header
    if kind == _GROUP:
        yield tree
        yield heap
