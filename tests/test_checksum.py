from __future__ import annotations

from itertools import pairwise
from unittest.mock import patch

from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from tfreader.checksum import Checksum, mask_crc, unmask_crc


@given(st.integers(0, 2**32 - 1))
def test_masks_are_taken_off(crc):
    assert unmask_crc(mask_crc(crc)) == crc


@given(st.binary(max_size=2000), st.data())
def test_pieces_in_any_order_give_the_checksum_of_the_whole(data, draw):
    cuts = draw.draw(st.lists(st.integers(0, len(data)), max_size=20).map(sorted))
    bounds = [0, *cuts, len(data)]
    pieces = draw.draw(st.permutations(list(pairwise(bounds))))
    checksum = Checksum(len(data))
    for start, end in pieces:
        checksum.add(start, data[start:end])
    assert checksum.value() == crc32c(data)


def test_nothing_is_said_of_bytes_that_are_missing_or_came_twice():
    for pieces in ([], [(0, 4)], [(0, 4), (5, 10)], [(0, 6), (4, 10)], [(0, 10), (0, 10)]):
        checksum = Checksum(10)
        for start, end in pieces:
            checksum.add(start, bytes(end - start))
        assert checksum.value() is None


def test_pieces_that_lie_too_scattered_are_given_up_and_take_no_more_memory():
    with patch("tfreader.checksum.MAX_RUNS", 100):
        checksum = Checksum(1000)
        for offset in range(0, 1000, 4):
            checksum.add(offset, b"ab")
        for offset in range(2, 1000, 4):
            checksum.add(offset, b"ab")
        assert checksum.value() is None
        scattered = Checksum(1000)
        for start in range(0, 100, 10):  # columns: each goes on from one that came before
            for row in range(0, 1000, 100):
                scattered.add(row + start, b"0123456789")
        assert scattered.value() == crc32c(b"0123456789" * 100)
