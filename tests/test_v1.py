from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from bundle_writer import field, table, varint
from conftest import DATA
from hypothesis import given, settings
from hypothesis import strategies as st

import tfreader
from tfreader.slices import Slice, slice_key
from tfreader.tensor_values import varints

V1 = DATA / "v1"


def saved_meta(name: str, shape: list[int], dtype: int, slices: list[Slice]) -> bytes:
    dims = b"".join(field(2, field(1, size)) for size in shape)
    pieces = b"".join(field(4, proto(piece)) for piece in slices)
    return field(1, field(1, name.encode()) + field(2, dims) + field(3, dtype) + pieces)


def proto(piece: Slice) -> bytes:
    extents = zip(piece.start, piece.length, strict=True)
    return b"".join(
        field(1, field(1, start) + (field(2, length) if length >= 0 else b""))
        for start, length in extents
    )


def write_v1(
    path: Path,
    values: bytes,
    *,
    shape: tuple[int, ...] = (3,),
    dtype: int = 1,
    slices: tuple[Slice, ...] = (Slice((0,), (-1,)),),
    name: str = "x",
) -> Path:
    """A V1 file with one variable `x`; `values` is the TensorProto of each of its slices."""
    meta = field(1, saved_meta("x", list(shape), dtype, list(slices)))
    records = [
        (slice_key(b"x", piece), field(2, field(1, name.encode()) + field(3, values)))
        for piece in slices
    ]
    path.write_bytes(table([(b"", meta), *sorted(records)]))
    return path


def floats(*values: float) -> bytes:
    return field(5, struct.pack(f"<{len(values)}f", *values))


def test_every_dtype_has_the_values_that_tensorflow_saved():
    expected = np.load(V1 / "dtypes.npz")
    with tfreader.open(V1 / "dtypes") as checkpoint:
        assert checkpoint.format == "v1"
        assert set(checkpoint) == {*expected.files, "text"}
        for name in expected.files:
            value = checkpoint[name]
            assert value.dtype == expected[name].dtype
            assert value.shape == expected[name].shape == checkpoint.info(name).shape
            assert value.tobytes() == expected[name].tobytes()
            assert value.flags.writeable
        assert checkpoint["text"].tolist() == [b"not a number", b"", b"\xff\x00"]
        assert checkpoint.info("qint8").dtype == "qint8"
        assert checkpoint.info("float32").nbytes == 60
        assert checkpoint.info("text").nbytes is None
        assert checkpoint.verify().tensors == len(checkpoint)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "checkpoint",
        "model.ckpt",
        "model.ckpt-?????-of-00002",
        "model.ckpt-00001-of-00002",
        "model.ckpt*",
    ],
)
def test_shards_by_any_name(name):
    with tfreader.open(V1 / name) as checkpoint:
        assert list(checkpoint) == ["only/0", "only/1", "partitioned"]
        np.testing.assert_array_equal(
            checkpoint["partitioned"], np.arange(12, dtype=np.float32).reshape(4, 3)
        )
        assert checkpoint.info("partitioned").slices == (
            Slice((0, 0), (2, 3)),
            Slice((2, 0), (2, 3)),
        )
        assert checkpoint.info("only/1").shard == 1


def test_a_missing_shard_is_named(copy):
    folder = copy(V1)
    (folder / "model.ckpt-00000-of-00002").unlink()
    for name in ("model.ckpt", "", "model.ckpt-00001-of-00002"):
        with pytest.raises(FileNotFoundError, match="model.ckpt-00000-of-00002: missing"):
            tfreader.open(folder / name)


def test_two_saves_under_one_name(copy):
    folder = copy(V1)
    (folder / "model.ckpt-00000-of-00001").write_bytes((folder / "dtypes").read_bytes())
    with pytest.raises(FileNotFoundError, match="saved twice.*pass one of its files"):
        tfreader.open(folder / "model.ckpt")
    with tfreader.open(folder / "model.ckpt-00000-of-00001") as checkpoint:
        assert "text" in checkpoint


@pytest.mark.parametrize("rows", [slice(1, 3), slice(None, None, -1), slice(3, 0, -2), slice(2, 2)])
def test_rows_of_a_partitioned_variable(rows):
    whole = np.arange(12, dtype=np.float32).reshape(4, 3)
    with tfreader.open(V1 / "model.ckpt") as checkpoint:
        np.testing.assert_array_equal(checkpoint.read("partitioned", rows), whole[rows])


def test_packed_unpacked_and_mixed_values(tmp_path):
    def loose(value: float) -> bytes:
        return varint(5 << 3 | 5) + struct.pack("<f", value)

    for values in (
        floats(1, 2, 3),
        loose(1) + loose(2) + loose(3),
        floats(1) + loose(2) + floats(3),
        loose(1) + floats(2, 3),
    ):
        with tfreader.open(write_v1(tmp_path / "x", values)) as checkpoint:
            assert checkpoint["x"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("values", "options", "problem"),
    [
        (floats(1, 2), {}, "2 values in field 5, 3 are expected"),
        (floats(1, 2, 3, 4), {}, "4 values in field 5, 3 are expected"),
        (field(6, bytes(24)), {}, "0 values in field 5"),
        (field(5, bytes(11)), {}, "no multiple of 4"),
        (field(7, b"\x01\x02\xac\x02"), {"dtype": 6}, "do not fit int8"),
        (field(7, b"\x01\x02\x83"), {"dtype": 3}, "cut off"),
        (field(7, b"\x80" * 10 + b"\x01"), {"dtype": 3, "shape": (1,)}, "varint of 11 bytes"),
        (floats(1, 2, 3), {"name": "y"}, "its record is named 'y'"),
        (b"\x2b", {}, "wire type 3"),
    ],
)
def test_a_record_that_does_not_hold_the_variable(tmp_path, values, options, problem):
    with tfreader.open(write_v1(tmp_path / "x", values, **options)) as checkpoint:
        for read in (lambda: checkpoint["x"], checkpoint.verify):
            with pytest.raises(
                tfreader.CorruptCheckpointError, match=f"variable 'x': {problem}|{problem}"
            ):
                read()


@pytest.mark.parametrize(
    ("shape", "slices", "problem"),
    [
        ((3,), [Slice((0,), (2,)), Slice((1,), (2,))], "overlap"),
        ((4,), [Slice((0,), (2,)), Slice((3,), (1,))], "hold 3 of the tensor's 4"),
        ((3,), [Slice((2,), (2,))], "leaves a dimension of 3"),
        ((3,), [Slice((0, 0), (3, 1))], "rank 2"),
        ((3,), [], "no slices"),
        ((), [Slice((), ()), Slice((), ())], "scalar"),
        ((1 << 40, 1 << 40, 0), [Slice((0, 0, 0), (-1, -1, -1))], "overflows"),
    ],
)
def test_slices_that_do_not_fill_the_variable(tmp_path, shape, slices, problem):
    path = write_v1(tmp_path / "x", b"", shape=shape, slices=tuple(slices))
    with pytest.raises(tfreader.CorruptCheckpointError, match=f"variable 'x': .*{problem}"):
        tfreader.open(path)


def test_a_damaged_block_costs_only_the_variables_in_it(copy):
    folder = copy(V1)
    path = folder / "model.ckpt-00001-of-00002"
    data = bytearray(path.read_bytes())
    data[data.index(struct.pack("<f", 1.0) * 40)] ^= 1  # in the value of only/1
    path.write_bytes(data)
    # One block holds the whole shard, its list of tensors too.
    with pytest.raises(tfreader.ChecksumError, match="00001-of-00002: block at offset 0"):
        tfreader.open(folder / "model.ckpt")


def test_verify_names_every_damaged_block_and_what_was_in_it(tmp_path):
    slices = tuple(Slice((i,), (1,)) for i in range(3))
    meta = field(1, saved_meta("x", [3], 1, list(slices)))
    records = [(slice_key(b"x", s), field(2, field(1, b"x") + field(3, floats(7)))) for s in slices]
    path = tmp_path / "x"
    data = bytearray(table([(b"", meta), *records], block_size=1))
    value = struct.pack("<f", 7)
    data[data.index(value)] ^= 1
    data[data.rindex(value)] ^= 1
    path.write_bytes(data)
    with tfreader.open(path) as checkpoint, pytest.raises(tfreader.ChecksumError) as caught:
        checkpoint.verify()
    assert len([p for p in caught.value.problems if "checksum mismatch" in p]) == 2
    assert len([p for p in caught.value.problems if "lost with a damaged block" in p]) == 2


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1)))
def test_varints_come_back(values):
    assert varints(memoryview(b"".join(map(varint, values)))).tolist() == values
