"""The sorted string table (LevelDB's table format) that holds a checkpoint's index.

Data blocks of prefix-compressed entries, a metaindex block, an index block, and a footer of 48
bytes; every block has a masked CRC-32C. See LevelDB's doc/table_format.md.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from crc32c import crc32c

from .checksum import unmask_crc
from .errors import ChecksumError, CorruptCheckpointError, MissingExtraError
from .files import DAMAGED, TABLE_MAGIC, but_it_is, windows
from .protocols import File
from .wire import Buffer, read_varint

FOOTER_SIZE = 48
TRAILER_SIZE = 5  # compression type and masked checksum
SNAPPY_EXPANSION = 22  # no Snappy element yields more than 64 bytes from 3
RECENT_SIZE = 1 << 20  # the largest block that is kept for the next look-up
# A key may repeat all of the one before it in three bytes: all keys together take no more than this
# and so many bytes per byte of the blocks. TensorFlow's longest names make two or three of one.
KEYS_SIZE = 16 << 20
KEYS_EXPANSION = 4
MAX_BLOCK_SIZE = 1 << 31  # a protobuf message, the largest thing a block can hold, is below 2 GiB


class Block(NamedTuple):
    """A data block: no key in it lies behind `bound`; `size` does not count the trailer."""

    bound: bytes
    offset: int
    size: int

    @property
    def range(self) -> tuple[int, int]:
        """Offset and size in the file."""
        return self.offset, self.size + TRAILER_SIZE


class Table:
    """A table file: all its entries in order, or one by its key.

    Opening reads the footer and the index block only. Raises CorruptCheckpointError on anything
    that the format does not allow, ChecksumError where a block's checksum does not match,
    MissingExtraError on Snappy-compressed blocks without cramjam.
    """

    def __init__(self, file: File) -> None:
        self._file = file
        self.path = file.path
        self.size = file.size
        if file.size < FOOTER_SIZE:
            raise CorruptCheckpointError(
                f"{file.path}: not a checkpoint index: {file.size} bytes, "
                f"a table has at least {FOOTER_SIZE}{but_it_is(file.path)}"
            )
        footer = file.read(file.size - FOOTER_SIZE, FOOTER_SIZE)
        magic = bytes(footer[40:])
        if magic != TABLE_MAGIC:
            raise CorruptCheckpointError(
                f"{file.path}: not a checkpoint index (bad magic number {magic.hex()} in the "
                f"footer){but_it_is(file.path)}"
            )
        try:
            meta_offset, meta_size, position = _read_handle(footer, 0)
            index_offset, index_size, _ = _read_handle(footer, position)
        except ValueError:
            raise CorruptCheckpointError(f"{file.path}: bad block handle in the footer") from None
        self._contents(meta_offset, meta_size)
        self.blocks: list[Block] = []
        self._recent: tuple[int, dict[bytes, memoryview]] | None = None
        end = 0
        for bound, handle in self._block(Block(b"", index_offset, index_size)):
            try:
                offset, size, _ = _read_handle(handle, 0)
            except ValueError:
                raise CorruptCheckpointError(
                    f"{file.path}: bad block handle in the index block at offset {index_offset}"
                ) from None
            # Each byte belongs to one block at most, so that no file takes more work than its size.
            if offset < end or (self.blocks and bound <= self.blocks[-1].bound):
                raise CorruptCheckpointError(
                    f"{file.path}: the index block at offset {index_offset} lists the block at "
                    f"offset {offset} out of order"
                )
            end = offset + size
            self.blocks.append(Block(bound, offset, size))

    def entries(
        self, problems: list[CorruptCheckpointError] | None = None
    ) -> Iterator[tuple[bytes, memoryview]]:
        """All (key, value) pairs in key order, one block in memory at a time.

        With `problems`, damaged blocks are added to it and passed over.
        """
        previous = None
        room = KEYS_SIZE
        for block in self._ahead():
            try:
                contents = self._contents(block.offset, block.size)
                room += KEYS_EXPANSION * len(contents)
                for key, value in self._entries(block, contents, room):
                    room -= len(key)
                    if previous is not None and key <= previous:
                        raise CorruptCheckpointError(
                            f"{self.path}: keys out of order in the block at offset "
                            f"{block.offset}: {key[:80]!r} after {previous[:80]!r}"
                        )
                    previous = key
                    yield key, value
                if previous is not None and block.bound < previous:
                    raise CorruptCheckpointError(
                        f"{self.path}: index key {block.bound[:80]!r} lies before the last key "
                        f"{previous[:80]!r} of its block at offset {block.offset}"
                    )
            except CorruptCheckpointError as error:
                if problems is None:
                    raise
                problems.append(error)

    def _ahead(self) -> Iterator[Block]:
        """All blocks, announced to the file some time before they are read."""
        for window in windows(self.blocks, lambda block: block.size):
            expected = self._file.expect(block.range for block in window)
            yield from window
            expected.forget()

    def expect(self, keys: Iterable[bytes]) -> None:
        """Announce that these keys will be asked for, in that order."""
        numbers = map(self._number, keys)
        self._file.expect(block.range for n in numbers for block in self.blocks[n : n + 1])

    def _number(self, key: bytes) -> int:
        """Which block could hold the key: one behind the last if none could."""
        return bisect_left(self.blocks, key, key=lambda block: block.bound)

    def get(self, key: bytes) -> memoryview | None:
        """The value of `key`, None if there is none; reads the one block that could hold it."""
        number = self._number(key)
        if number == len(self.blocks):
            return None
        recent = self._recent
        if recent is not None and recent[0] == number:
            return recent[1].get(key)
        self._recent = recent = None
        block = self.blocks[number]
        values = dict(self._block(block))
        if block.size <= RECENT_SIZE:
            self._recent = number, values
        return values.get(key)

    def _contents(self, offset: int, size: int) -> memoryview:
        """The uncompressed contents of the block at `offset`, checked against its checksum."""
        where = f"{self.path}: block at offset {offset}"
        limit = self.size - FOOTER_SIZE
        if offset + size + TRAILER_SIZE > limit:
            raise CorruptCheckpointError(
                f"{where}: its {size} bytes run past the end of the table at {limit}"
                f"{but_it_is(self.path, DAMAGED)}"
            )
        block = memoryview(self._file.read(offset, size + TRAILER_SIZE))
        kind = block[size]
        (stored,) = struct.unpack_from("<I", block, size + 1)
        found = crc32c(block[: size + 1])
        if unmask_crc(stored) != found:
            self._file.check_unchanged()
            raise ChecksumError(
                f"{where}: checksum mismatch: {unmask_crc(stored):#010x} is stored, the bytes give "
                f"{found:#010x}{but_it_is(self.path, DAMAGED)}"
            )
        if kind == 0:
            return block[:size]
        if kind == 1:
            return _uncompress(where, block[:size])
        raise CorruptCheckpointError(f"{where}: unknown compression type {kind}")

    def _block(self, place: Block) -> Iterator[tuple[bytes, memoryview]]:
        """The (key, value) pairs of a block."""
        contents = self._contents(place.offset, place.size)
        return self._entries(place, contents, KEYS_SIZE + KEYS_EXPANSION * len(contents))

    def _entries(
        self, place: Block, block: memoryview, room: int
    ) -> Iterator[tuple[bytes, memoryview]]:
        """The (key, value) pairs in the contents of a block, whose keys may take `room` bytes."""
        where = f"{self.path}: block at offset {place.offset}"
        size = len(block)
        restarts = struct.unpack_from("<I", block, size - 4)[0] if size >= 4 else 0
        limit = size - 4 - 4 * restarts
        if size < 4 or limit < 0 or (restarts == 0 and limit > 0):
            raise CorruptCheckpointError(f"{where}: {size} bytes cannot hold {restarts} restarts")
        if any(r > limit for r in struct.unpack_from(f"<{restarts}I", block, limit)):
            raise CorruptCheckpointError(f"{where}: a restart lies past the entries")
        key = b""
        position = 0
        try:
            while position < limit:
                shared, non_shared, value_size = block[position : position + 3]
                if shared | non_shared | value_size < 0x80:  # mostly: three one-byte varints
                    position += 3
                else:
                    shared, position = read_varint(block, position, min(limit, position + 5))
                    non_shared, position = read_varint(block, position, min(limit, position + 5))
                    value_size, position = read_varint(block, position, min(limit, position + 5))
                value_start = position + non_shared
                end = value_start + value_size
                if shared > len(key) or end > limit:
                    raise ValueError("entry runs past the block")
                room -= shared + non_shared
                if room < 0:
                    raise ValueError("its keys repeat each other without end")
                key = key[:shared] + bytes(block[position:value_start])
                yield key, block[value_start:end]
                position = end
        except ValueError as error:
            raise CorruptCheckpointError(
                f"{where}: malformed entry at {position} ({error})"
            ) from None


def _read_handle(data: Buffer, position: int) -> tuple[int, int, int]:
    offset, position = read_varint(data, position, len(data))
    size, position = read_varint(data, position, len(data))
    return offset, size, position


def _uncompress(where: str, data: memoryview) -> memoryview:
    try:
        import cramjam
    except ImportError:
        raise MissingExtraError(f"{where}: reading Snappy-compressed blocks", "snappy") from None
    try:
        size, _ = read_varint(data, 0, min(5, len(data)))
    except ValueError:
        raise CorruptCheckpointError(f"{where}: bad Snappy length") from None
    if size > min(SNAPPY_EXPANSION * len(data), MAX_BLOCK_SIZE):
        raise CorruptCheckpointError(
            f"{where}: Snappy length {size} is impossible for {len(data)} compressed bytes"
        )
    try:
        contents = memoryview(cramjam.snappy.decompress_raw(data))
    except cramjam.DecompressionError as error:
        raise CorruptCheckpointError(f"{where}: damaged Snappy data ({error})") from None
    if len(contents) != size:
        raise CorruptCheckpointError(
            f"{where}: Snappy data has {len(contents)} bytes, {size} were declared"
        )
    return contents
