from __future__ import annotations

import struct
import tempfile
from pathlib import Path

import cramjam
import pytest
from bundle_writer import block, masked, table, varint
from hypothesis import given, settings
from hypothesis import strategies as st

from tfreader.errors import ChecksumError, CorruptCheckpointError
from tfreader.files import LocalFile
from tfreader.table import Table, mask_crc, unmask_crc


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
    plain = table(items, 1 << 20)
    contents = block(items, 16)
    packed = bytes(cramjam.snappy.compress_raw(contents))
    data = packed + b"\1" + struct.pack("<I", masked(packed + b"\1"))
    meta = block([], 1)
    meta_handle = varint(len(data)) + varint(len(meta))
    data += meta + b"\0" + struct.pack("<I", masked(meta + b"\0"))
    index = block([(items[-1][0], varint(0) + varint(len(packed)))], 1)
    footer = meta_handle + varint(len(data)) + varint(len(index))
    data += index + b"\0" + struct.pack("<I", masked(index + b"\0"))
    data += footer.ljust(40, b"\0") + plain[-8:]
    assert read(data) == items


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
