from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
from bundle_writer import masked, varint, write_bundle
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

import tfreader
from tfreader.strings import decode_strings, variant_crc


def encode(strings: list[bytes], order: str) -> tuple[bytes, int]:
    """A string tensor as the format says, and its checksum."""
    lengths = b"".join(struct.pack(f"{order}I", len(string)) for string in strings)
    stored = struct.pack(f"{order}I", masked(lengths))
    text = b"".join(strings)
    data = b"".join(varint(len(string)) for string in strings) + stored + text
    return data, crc32c(lengths + stored + text)


@given(st.lists(st.binary(max_size=300)), st.booleans())
def test_any_strings_in_either_byte_order(strings, big_endian):
    data, crc = encode(strings, ">" if big_endian else "<")
    assert decode_strings(memoryview(data), len(strings), big_endian) == (strings, crc)


def test_the_published_bytes():
    assert decode_strings(memoryview(bytes.fromhex("05d9c69c4368656c6c6f")), 1, False)[0] == [
        b"hello"
    ]
    assert decode_strings(memoryview(bytes.fromhex("d8ea82a2")), 0, False)[0] == []


@given(st.binary(max_size=60), st.integers(0, 5))
def test_arbitrary_bytes_are_refused_with_a_value_error(data, count):
    for decode in (
        lambda: decode_strings(memoryview(data), count, False),
        lambda: variant_crc(memoryview(data), count),
    ):
        try:
            decode()
        except ValueError:
            continue
        assert count == 0 or len(data) >= 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data + b"x", "follow"),
        (lambda data: data[:-1], "follow"),
        (lambda data: data[:2] + b"\0" + data[3:], "checksum of the string lengths"),
        (lambda data: b"\xff" * 11, "varint"),
    ],
)
def test_damage_is_explained(change, message):
    data, _ = encode([b"foo", b"barbaz"], "<")
    with pytest.raises(ValueError, match=message):
        decode_strings(memoryview(change(data)), 2, False)


def test_an_impossible_count_takes_no_memory():
    with pytest.raises(ValueError, match="cannot lie"):
        decode_strings(memoryview(b"\0" * 13), 10**12, False)


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=5))
def test_variants(elements):
    data, covered = b"", b""
    for element in elements:
        covered += struct.pack("<Q", len(element)) + element
        stored = struct.pack("<I", masked(covered))
        covered += stored
        data += varint(len(element)) + element + stored
    assert variant_crc(memoryview(data), len(elements)) == crc32c(covered)
    with pytest.raises(ValueError, match="follow"):
        variant_crc(memoryview(data + b"x"), len(elements))


def test_an_object_graph_of_any_length(tmp_path):
    """A gigabyte that takes no room on disk: it is not read."""
    name, shard = "_CHECKPOINTABLE_OBJECT_GRAPH", tmp_path / "m.data-00000-of-00001"
    changed = {name: {"dtype": 7, "size": 1 << 30}}
    write_bundle(tmp_path / "m", {name: np.float32(0)}, overrides=changed)
    with open(shard, "ab") as file:
        file.truncate(1 << 30)
    tracemalloc.start()
    with (
        tfreader.open(tmp_path / "m") as checkpoint,
        pytest.raises(tfreader.CorruptCheckpointError, match="1073741824 bytes, no model has more"),
    ):
        _ = checkpoint.object_graph
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
