from __future__ import annotations

import struct
import sys
import tempfile
import tracemalloc
from pathlib import Path

import pytest
from bundle_writer import block, masked, table, varint
from hypothesis import given, settings
from hypothesis import strategies as st

from tfreader.checksum import mask_crc, unmask_crc
from tfreader.errors import ChecksumError, CorruptCheckpointError, MissingExtraError
from tfreader.files import LocalFile
from tfreader.table import Table


def read(data: bytes) -> list[tuple[bytes, bytes]]:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        return [(key, bytes(value)) for key, value in Table(LocalFile(file.name)).entries()]


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.binary(max_size=200), st.binary(max_size=300), min_size=1),
    st.integers(1, 500),
    st.integers(1, 20),
)
def test_any_entries_survive_any_block_size(entries, block_size, restart_interval):
    items = sorted(entries.items())
    assert read(table(items, block_size, restart_interval)) == items


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_one_flipped_bit_is_never_read_as_something_else(data):
    items = [(f"key{i:03d}".encode(), b"value" * (i % 7)) for i in range(40)]
    good = table(items, 100)
    position = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[position] ^= 1 << data.draw(st.integers(0, 7))
    try:
        found = read(bytes(bad))
    except CorruptCheckpointError:
        return
    assert found == items  # only the footer's padding is free


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_arbitrary_blocks_with_good_checksums_are_read_or_refused(contents):
    out = contents + b"\0" + struct.pack("<I", masked(contents + b"\0"))
    index = table([(b"k", b"\x00" + bytes([len(contents) & 0x7F]))])
    for data in (out + index, out + b"\0" * 40 + struct.pack("<Q", 0xDB4775248B80FB57)):
        try:
            read(data)
        except CorruptCheckpointError:
            pass
        else:
            assert data.endswith(index)


def test_masking_matches_the_published_value():
    assert mask_crc(0xE3069283) == 0xC78AB0E5
    assert unmask_crc(0xC78AB0E5) == 0xE3069283


def test_snappy_blocks():
    items = [(f"key{i:03d}".encode(), b"value" * 20) for i in range(40)]
    data = table(items, 500, snappy=True)
    assert b"value" * 20 not in data
    assert read(data) == items


def test_a_snappy_length_is_bounded_before_anything_is_allocated():
    packed = varint(1 << 31) + b"\0x"
    data = packed + b"\1" + struct.pack("<I", masked(packed + b"\1"))
    footer = varint(0) + varint(len(packed))
    data += (footer + footer).ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    with pytest.raises(CorruptCheckpointError, match="Snappy length 2147483648 is impossible"):
        read(data)


def test_snappy_without_cramjam_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "cramjam", None)
    with pytest.raises(MissingExtraError, match=r"pip install .*\[snappy\]"):
        read(table([(b"a", b"b")], snappy=True))


def test_blocks_that_share_bytes_are_refused():
    """Or a small file could list one block a million times."""
    contents = block([(b"a", b"x")], 1)
    data = contents + b"\0" + struct.pack("<I", masked(contents + b"\0"))
    handle = varint(0) + varint(len(contents))
    index = block([(b"a", handle), (b"b", handle)], 1)
    place = varint(len(data)) + varint(len(index))
    data += index + b"\0" + struct.pack("<I", masked(index + b"\0"))
    data += (handle + place).ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    with pytest.raises(CorruptCheckpointError, match="lists the block at offset 0 out of order"):
        read(data)


def test_one_entry_by_its_key():
    items = [(f"key{i:03d}".encode(), b"value%d" % i) for i in range(40)]
    with tempfile.NamedTemporaryFile() as file:
        file.write(table(items, 100))
        file.flush()
        found = Table(LocalFile(file.name))
        assert [bytes(found.get(key)) for key, _ in items] == [value for _, value in items]
        assert found.get(b"key0005") is None
        assert found.get(b"zzz") is None


@pytest.mark.parametrize(
    ("start", "meaning"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>" + b" " * 100, "HTML page"),
        (b"", "empty"),
        (b"PK\3\4" + b"\0" * 60, "zip archive"),
    ],
)
def test_what_is_no_table_is_named(tmp_path: Path, start: bytes, meaning: str):
    path = tmp_path / "model.ckpt.index"
    path.write_bytes(start)
    with pytest.raises(CorruptCheckpointError, match=meaning) as caught:
        Table(LocalFile(str(path)))
    assert str(path) in str(caught.value)


def test_a_bad_block_is_named_with_both_checksums():
    data = bytearray(table([(b"a", b"b" * 50)]))
    data[20] ^= 1
    with pytest.raises(ChecksumError, match=r"block at offset 0: .* 0x\w{8} is stored.*0x\w{8}"):
        read(bytes(data))


def test_keys_that_repeat_each_other_take_no_more_memory_than_the_file_is_worth():
    grown = b"".join(varint(20_000) + b"\4\0" + i.to_bytes(4, "big") for i in range(60_000))
    contents = b"\0" + varint(20_000) + b"\0" + b"k" * 20_000 + grown
    contents += struct.pack("<II", 0, 1)
    data = contents + b"\0" + struct.pack("<I", masked(contents + b"\0"))
    index = block([(b"z", varint(0) + varint(len(contents)))], 1)
    place = varint(len(data)) + varint(len(index))
    data += index + b"\0" + struct.pack("<I", masked(index + b"\0"))
    data += (place + place).ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    tracemalloc.start()
    with pytest.raises(CorruptCheckpointError, match="keys repeat each other without end"):
        read(data)
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()
