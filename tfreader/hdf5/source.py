"""What libhdf5 reads of a file, looked at first: damage in which it would go on for ever.

It follows trees and heaps wherever they lead (HDF5 2.0, H5B.c, H5HLcache.c, H5HGcache.c), which
takes no end where a node leads back to itself, and hours where many lead to the same one. Nothing
stops a call of it, so what it is about to follow is checked. It reads each node with one call, as
h5py's driver for Python's file objects lets it keep no other bytes.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from ..errors import CorruptCheckpointError, TFReaderError
from ..files import DAMAGED
from ..paths import is_url
from ..protocols import File, Raw
from .ahead import SUPERBLOCK, follow

PAGE = 1 << 16  # bytes that a server is asked for where libhdf5 wants a few
MAX_PAGES = 512  # 32 MB; T5-large has 341
SIGNATURE = b"\x89HDF\r\n\x1a\n"
PLACES = (0, 512, 1024, 2048, 4096)  # of the signature: behind what users put before it
_TREE_HEADER = 24  # signature, kind, level, count of children, siblings
_POINTER = 8  # bytes of an address; and of a key in the tree of a group
_CHUNKS = 64  # children that a node in the tree of a dataset's chunks has room for
_HEAP_HEADER = 16  # bytes; so have the objects in it
_NAMES_HEADER = 32  # signature, version, size, first free place, address of the names
_LAST_FREE = 1
_MOST_IN_HEAP = 1 << 16


def place_of(head: bytes | bytearray) -> int | None:
    """Where HDF5's part of a file begins, which offsets in it count from."""
    return next((place for place in PLACES if head.startswith(SIGNATURE, place)), None)


class HeapError(CorruptCheckpointError):
    """A heap was to be read, which nothing but texts and virtual datasets have."""


class Guard:
    """Checks what is read of a file. Raises CorruptCheckpointError, HeapError."""

    with_heaps = False  # whether any are to be read

    def __init__(self, path: str, size: int, read: Callable[[int, int], bytearray]) -> None:
        self._path = path
        self._size = size
        self._read = read
        self.base = place_of(read(0, min(size, PLACES[-1] + len(SIGNATURE)))) or 0
        self._parents: dict[int, int] = {}
        self._levels: dict[int, int] = {}  # of nodes that were read, or that others lead to

    def check(self, position: int, data: memoryview) -> None:
        if bytes(data[:4]) == b"GCOL" and len(data) >= _HEAP_HEADER:
            if not self.with_heaps:
                raise HeapError(f"{self._path}: no texts are expected at byte {position}")
            self._check_heap(position, int.from_bytes(data[8:_HEAP_HEADER], "little"))
        elif bytes(data[:4]) == b"HEAP" and len(data) >= _NAMES_HEADER:
            self._check_names(position, *struct.unpack_from("<QQQ", data, 8))
        elif bytes(data[:4]) == b"TREE" and len(data) > _TREE_HEADER:
            self._check_node(position, data)

    def _check_heap(self, position: int, size: int) -> None:
        """Objects of a heap, such as strings, follow each other; one of no size has no next."""
        if not _HEAP_HEADER <= size <= self._size - position:
            raise self._damaged(position)
        heap = self._read(position, size)
        start, count = _HEAP_HEADER, 0
        while start + _HEAP_HEADER <= size:
            number, length = struct.unpack_from("<H6xQ", heap, start)
            # That with number 0 is what is free, header and all.
            start += -(-length // 8) * 8 + _HEAP_HEADER if number else length
            count += 1
            if count > _MOST_IN_HEAP or start > size or (not number and length < _HEAP_HEADER):
                raise self._damaged(position)

    def _check_names(self, position: int, size: int, free: int, address: int) -> None:
        """Each free place among the names in a group leads to another one, and has 16 bytes."""
        for _ in range(min(size, self._size) // 16 + 1):
            start = self.base + address + free
            if free == _LAST_FREE or free > size - 16 or start > self._size - 16:
                return  # libhdf5 sees to the rest
            free = int.from_bytes(self._read(start, _POINTER), "little")
        raise self._damaged(position)

    def _check_node(self, position: int, node: memoryview) -> None:
        """Each node has one parent, a level above it."""
        kind, level, count = struct.unpack_from("<BBH", node, 4)
        key = _POINTER
        if kind:  # size, filters and place of a chunk, as many as it has axes
            key = (len(node) - _TREE_HEADER - _CHUNKS * _POINTER) // (_CHUNKS + 1)
        step = key + _POINTER
        is_known = not kind or len(node) == _TREE_HEADER + _CHUNKS * step + key
        if not is_known or _TREE_HEADER + count * step + key > len(node):
            raise self._damaged(position)
        address = position - self.base
        if self._levels.setdefault(address, level) != level:
            raise self._damaged(position)
        children = [
            int.from_bytes(node[start : start + _POINTER], "little")
            for start in range(_TREE_HEADER + key, _TREE_HEADER + count * step, step)
        ]
        for child in children:
            if self._parents.setdefault(child, address) != address or (
                level and self._levels.setdefault(child, level - 1) != level - 1
            ):
                raise self._damaged(position)
        if len(set(children)) < count:
            raise self._damaged(position)

    def _damaged(self, position: int) -> CorruptCheckpointError:
        return CorruptCheckpointError(
            f"{self._path}: damaged HDF5 file: what lies at byte {position} makes no sense; "
            f"{DAMAGED}"
        )


class Source(Raw):
    """A File as libhdf5 reads it, and why it could not be read."""

    def __init__(self, file: File) -> None:
        super().__init__(file, owns=False)
        self.failure: TFReaderError | None = None
        self._is_remote = is_url(file.path)
        self._pages: OrderedDict[int, bytearray] = OrderedDict()
        self.guard = Guard(file.path, file.size, self.peek)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        try:
            if self._position + len(view) > self._file.size:  # it would take what was in memory
                raise CorruptCheckpointError(
                    f"{self._file.path}: truncated, or damaged: bytes {self._position} to "
                    f"{self._position + len(view)} are needed, the file has {self._file.size}; "
                    f"{DAMAGED}"
                )
            self._fill(self._position, view)
            self.guard.check(self._position, view)
        except TFReaderError as error:
            self.failure = error
            raise
        self._position += len(view)
        return len(view)

    def peek(self, position: int, size: int) -> bytearray:
        buffer = bytearray(size)
        self._fill(position, memoryview(buffer))
        return buffer

    def read_ahead(self) -> None:
        """Have what belongs to groups fetched from a server, as much of it at a time as can be."""
        if self._is_remote:
            base = self.guard.base
            follow(
                self._held(base, SUPERBLOCK),
                lambda places: self._fetch({(base + place) // PAGE for place in places}),
                lambda place, size: self._held(base + place, size),
            )

    def _held(self, position: int, size: int) -> bytearray:
        """What there is of so many bytes, nothing where they begin in no page that is held."""
        if position // PAGE not in self._pages:
            return bytearray()
        return self.peek(position, max(0, min(size, self._file.size - position)))

    def _fetch(self, numbers: set[int]) -> None:
        """Fetch pages, as long as there is room for them."""
        there = range(-(-self._file.size // PAGE))
        wanted = sorted(n for n in numbers - self._pages.keys() if n in there)
        wanted = wanted[: MAX_PAGES - len(self._pages)]
        expected = self._file.expect([(number * PAGE, PAGE) for number in wanted])
        try:
            for number in wanted:
                self._page(number)
        finally:
            expected.forget()

    def _fill(self, position: int, view: memoryview) -> None:
        if not self._is_remote or len(view) > PAGE:
            self._file.read_into(position, view)
            return
        done = 0
        while done < len(view):
            number, start = divmod(position + done, PAGE)
            part = self._page(number)[start : start + len(view) - done]
            view[done : done + len(part)] = part
            done += len(part)

    def _page(self, number: int) -> bytearray:
        if number not in self._pages:
            size = min(PAGE, self._file.size - number * PAGE)
            self._pages[number] = self._file.read(number * PAGE, size)
        self._pages.move_to_end(number)
        if len(self._pages) > MAX_PAGES:
            self._pages.popitem(last=False)
        return self._pages[number]
