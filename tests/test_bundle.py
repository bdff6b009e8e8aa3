from __future__ import annotations

import json
import pickle
import time
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from bundle_writer import field, header, table, write_bundle
from conftest import BERT, DATA
from hypothesis import given, settings
from hypothesis import strategies as st

import tfreader
from tfreader.checkpoint_pb2 import TensorShape
from tfreader.shapes import MAX_RANK, shape_of
from tfreader.slices import Slice, check_cover, slice_key

READER = DATA / "reader"


def test_every_dtype_has_the_values_that_tensorflow_reads():
    expected = np.load(READER / "dtypes.npz")
    with tfreader.open(READER / "dtypes") as checkpoint:
        assert set(checkpoint) == {*expected.files, "text"}
        for name in expected.files:
            value = checkpoint[name]
            bits = value.view(np.uint16) if name == "bfloat16" else value
            assert bits.dtype == expected[name].dtype
            assert bits.shape == expected[name].shape == checkpoint.info(name).shape
            assert bits.tobytes() == expected[name].tobytes()
            assert value.flags.writeable
        assert checkpoint["bfloat16"].dtype == ml_dtypes.bfloat16
        assert checkpoint.info("bfloat16").dtype == "bfloat16"
        assert checkpoint.info("text").dtype == "string"
        assert checkpoint["text"].tolist() == [b"not a number"]


def test_three_shards_and_a_partitioned_variable():
    with tfreader.open(READER / "sharded") as checkpoint:
        assert len(checkpoint) == 401
        for i in range(400):
            np.testing.assert_array_equal(checkpoint[f"block/{i:03d}/weights"], [i, i])
        np.testing.assert_array_equal(
            checkpoint["partitioned"], np.arange(12, dtype=np.float32).reshape(4, 3)
        )
        info = checkpoint.info("partitioned")
        assert info.slices == (Slice((0, 0), (2, 3)), Slice((2, 0), (2, 3)))
        assert info.nbytes == 48
        assert checkpoint.verify().tensors == 401


def test_the_interface_is_a_mapping():
    with tfreader.open(BERT) as checkpoint:
        assert "global_step" in checkpoint
        assert "nothing" not in checkpoint
        assert checkpoint["global_step"].shape == ()
        assert checkpoint["global_step"] == 2
        assert len(list(checkpoint)) == len(checkpoint)
        assert checkpoint.format == "v2"
        with pytest.raises(KeyError, match="global_step"):
            checkpoint["global_stop"]
        info = checkpoint.info("global_step")
        assert pickle.loads(pickle.dumps(info)) == info
        assert json.dumps(info.dtype) == '"int64"'


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=30),
        st.tuples(
            st.sampled_from(["float32", "float64", "int32", "float16"]),
            st.lists(st.integers(0, 4), max_size=4),
        ),
        min_size=1,
        max_size=30,
    ),
    st.integers(1, 4),
    st.integers(20, 400),
)
def test_any_tensors_in_any_layout(tmp_path_factory, kinds, num_shards, block_size):
    tensors = {
        name: np.arange(np.prod(shape, dtype=int)).astype(dtype).reshape(shape)
        for name, (dtype, shape) in kinds.items()
    }
    prefix = tmp_path_factory.mktemp("any") / "model.ckpt"
    write_bundle(prefix, tensors, num_shards=num_shards, block_size=block_size)
    with tfreader.open(prefix) as checkpoint:
        assert set(checkpoint) == set(tensors)
        for name, array in tensors.items():
            np.testing.assert_array_equal(checkpoint[name], array)
            assert checkpoint[name].dtype == array.dtype


def data_file(folder: Path) -> Path:
    (path,) = folder.glob("*.data-*")
    return path


def test_a_flipped_bit_in_a_shard_is_refused_and_the_rest_is_read(copy):
    folder = copy(BERT)
    with tfreader.open(folder) as checkpoint:
        offset = checkpoint.info("bert/pooler/dense/kernel").offset
    data = bytearray(data_file(folder).read_bytes())
    data[offset + 5] ^= 16
    data_file(folder).write_bytes(data)
    with tfreader.open(folder) as checkpoint:
        assert checkpoint["bert/pooler/dense/bias"].size == 24
        with pytest.raises(tfreader.ChecksumError) as caught:
            checkpoint["bert/pooler/dense/kernel"]
        for part in (str(data_file(folder)), "bert/pooler/dense/kernel", f"offset {offset}"):
            assert part in str(caught.value)
        with pytest.raises(tfreader.ChecksumError) as caught:
            checkpoint.verify()
        assert len(caught.value.problems) == 1


def test_a_flipped_bit_in_the_index_is_refused_as_damage(copy):
    (index,) = copy(BERT).glob("*.index")
    data = bytearray(index.read_bytes())
    data[500] ^= 4
    index.write_bytes(data)
    with pytest.raises(tfreader.ChecksumError, match=r"\.index: block at offset 0: .*damaged"):
        tfreader.open(index)


def test_a_missing_shard_leaves_the_others_readable(tmp_path):
    prefix = write_bundle(
        tmp_path / "m", {"a": np.ones(3, "f4"), "b": np.ones(3, "f4")}, num_shards=2
    )
    Path(f"{prefix}.data-00001-of-00002").unlink()
    with tfreader.open(prefix) as checkpoint:
        assert checkpoint["a"].sum() == 3
        with pytest.raises(FileNotFoundError, match="data-00001-of-00002.*'b'"):
            checkpoint["b"]


@pytest.mark.parametrize(
    ("contents", "meaning"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer.*git lfs pull"),
        (b"<html>\n" * 50_000, "HTML page"),
        (b"", "truncated"),
    ],
)
def test_something_else_in_place_of_a_shard_is_named(copy, contents, meaning):
    folder = copy(BERT)
    data_file(folder).write_bytes(contents)
    with (
        tfreader.open(folder) as checkpoint,
        pytest.raises(tfreader.CorruptCheckpointError, match=meaning),
    ):
        checkpoint["bert/pooler/dense/kernel"]


@pytest.mark.parametrize(
    "override",
    [
        {"size": 11},
        {"size": -12},
        {"offset": -1},
        {"offset": 2**62},
        {"shard": 5},
        {"dtype": 0},
        {"dtype": 99},
        {"dtype": 101},
        {"crc": 0},
    ],
)
def test_an_impossible_entry_spoils_only_its_own_variable(tmp_path, override):
    tensors = {"good": np.ones(3, "f4"), "x": np.ones(3, "f4")}
    prefix = write_bundle(tmp_path / "m", tensors, overrides={"x": override})
    with tfreader.open(prefix) as checkpoint:
        assert list(checkpoint) == ["good", "x"]
        assert checkpoint["good"].sum() == 3
        with pytest.raises(tfreader.TFReaderError, match="'x'"):
            checkpoint["x"]


@pytest.mark.parametrize("sliced", [False, True])
def test_no_memory_is_taken_for_a_part_that_the_shard_does_not_hold(tmp_path, sliced):
    prefix = write_bundle(tmp_path / "m", {"x": np.ones((4, 6), "f4")}, sliced=sliced)
    Path(f"{prefix}.data-00000-of-00001").write_bytes(bytes(8))
    with tfreader.open(prefix) as checkpoint:
        reader = checkpoint.reader("x")
        with pytest.raises(tfreader.CorruptCheckpointError, match="truncated.*'x'"):
            reader.read((range(1, 3), range(2, 5)), lambda size: pytest.fail(f"{size} bytes"))


# Keys that TensorFlow wrote, from the format's description.
@pytest.mark.parametrize(
    ("name", "piece", "key"),
    [
        (b"p0", Slice((0, 0), (2, -1)), "00 7030 0001 0102 8082 807f"),
        (b"emb/table", Slice((4, 0), (3, 4)), "00 656d622f7461626c65 0001 0102 8483 8084"),
        (b"n\0u\xff", Slice((1, 0), (3, 1)), "00 6e00ff75ff00 0001 0102 8183 8081"),
        (b"s", Slice((), ()), "00 73 0001 00"),
        (b"t", Slice((64, 8192), (2**20, 2**63 - 3)),
         "00 74 0001 0102 c040 f0100000 e02000 ffc07ffffffffffffffd"),
    ],
)  # fmt: skip
def test_slice_keys(name, piece, key):
    assert slice_key(name, piece) == bytes.fromhex(key)


@pytest.mark.parametrize(
    ("slices", "message"),
    [
        ([Slice((0, 0), (2, 3))], "6 of the tensor's 12"),
        ([Slice((0, 0), (3, 3)), Slice((2, 0), (2, 3))], "overlap"),
        ([Slice((0, 0), (2, 3)), Slice((0, 0), (2, 3))], "overlap"),
    ],
)
def test_slices_must_cover_the_whole_once(slices, message):
    with pytest.raises(ValueError, match=message):
        check_cover(slices, (4, 3))


@st.composite
def cut_boxes(draw):
    """A shape, and boxes that fill it, perhaps with one of them moved, left out or doubled."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    boxes = [((0,) * len(shape), shape)]
    for _ in range(draw(st.integers(0, 5))):
        start, length = boxes.pop(draw(st.integers(0, len(boxes) - 1)))
        axis = draw(st.integers(0, len(shape) - 1))
        cut = draw(st.integers(0, length[axis]))
        for begin, size in ((0, cut), (cut, length[axis] - cut)):
            place = tuple(s + begin * (i == axis) for i, s in enumerate(start))
            boxes.append((place, tuple(size if i == axis else n for i, n in enumerate(length))))
    fault = draw(st.sampled_from(["none", "moved", "missing", "doubled"]))
    start, length = boxes.pop(draw(st.integers(0, len(boxes) - 1)))
    if fault == "moved":
        start = tuple(draw(st.integers(0, n - m)) for n, m in zip(shape, length, strict=True))
    boxes += [(start, length)] * {"missing": 0, "doubled": 2}.get(fault, 1)
    return shape, [Slice(*box) for box in boxes]


@settings(max_examples=300, deadline=None)
@given(cut_boxes())
def test_whether_slices_cover_the_whole_once(case):
    shape, slices = case
    times = np.zeros(shape, int)
    for piece in slices:
        times[piece.box] += 1
    if slices and (times == 1).all():
        check_cover(slices, shape)
    else:
        with pytest.raises(ValueError, match=r"overlap|elements|no slices"):
            check_cover(slices, shape)


def test_many_slices_are_checked_in_time():
    half = 10_000  # the upper half in rows, the lower in columns
    slices = [Slice((i, 0), (1, half)) for i in range(half)]
    slices += [Slice((half, i), (half, 1)) for i in range(half)]
    started = time.perf_counter()
    check_cover(slices, (2 * half, half))
    with pytest.raises(ValueError, match="overlap"):
        check_cover([*slices[1:], slices[7]], (2 * half, half))
    peeled = [
        Slice((0,) * i + (1,) + (0,) * (39 - i), (1,) * (i + 1) + (2,) * (39 - i))
        for i in range(40)
    ]
    with pytest.raises(ValueError, match="too many to check"):
        check_cover([*peeled, Slice((0,) * 40, (1,) * 40)], (2,) * 40)
    assert time.perf_counter() - started < 10


def test_more_slices_than_the_index_can_hold_are_refused_before_they_are_spelled(tmp_path):
    name = b"w" * 100_000
    extents = b"".join(
        field(7, field(1, field(1, i) + field(2, 1)) + field(1, b"")) for i in range(20_000)
    )
    whole = field(1, 1) + field(2, field(2, field(1, 20_000)) + field(2, field(1, 4))) + extents
    (tmp_path / "m.index").write_bytes(table([(b"", header()), (b"\0x", b""), (name, whole)]))
    tracemalloc.start()
    with (
        tfreader.open(tmp_path / "m") as checkpoint,
        pytest.raises(tfreader.CorruptCheckpointError, match="20000 slices") as caught,
    ):
        checkpoint[name.decode()]
    assert len(str(caught.value)) < 2_000
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["block/007/weights", "partitioned"]),
    st.slices(4) | st.builds(slice, st.none() | st.integers(-9, 9), st.none() | st.integers(-9, 9)),
)
def test_rows_are_those_of_the_whole(name, rows):
    with tfreader.open(READER / "sharded") as checkpoint:
        part = checkpoint.read(name, rows)
        np.testing.assert_array_equal(part, checkpoint[name][rows])
        assert part.flags.writeable


def test_rows_of_strings_and_of_a_scalar():
    with tfreader.open(READER / "slices") as checkpoint:
        assert checkpoint.read("text", slice(1, None)).tolist() == [[b"three", b"four"]]
    with tfreader.open(READER / "dtypes") as checkpoint:
        assert checkpoint.read("empty", slice(0, 3)).shape == (0, 4)
        with pytest.raises(tfreader.UnsupportedError, match="scalar"):
            checkpoint.read("scalar", slice(0, 1))


def test_rows_need_no_other_bytes(copy):
    folder = copy(READER)
    path = folder / "sharded.data-00001-of-00003"
    with tfreader.open(folder / "sharded") as checkpoint:
        path.unlink()  # holds the lower half of the variable
        assert checkpoint.read("partitioned", slice(0, 2)).shape == (2, 3)
        with pytest.raises(FileNotFoundError, match="shard 1 of 3 is missing"):
            checkpoint.read("partitioned", slice(1, 3))


def test_verify_names_a_missing_file_once(tmp_path):
    tensors = {f"v{i}": np.full(50, i, np.float32) for i in range(9)}
    prefix = write_bundle(tmp_path / "model", tensors, num_shards=3)
    for shard in (0, 2):
        Path(f"{prefix}.data-0000{shard}-of-00003").unlink()
    with tfreader.open(prefix) as checkpoint, pytest.raises(tfreader.ChecksumError) as caught:
        checkpoint.verify()
    first, second = caught.value.problems
    assert "data-00000-of-00003: shard 0 of 3 is missing, variable 'v0' and 2 more lie in" in first
    assert "data-00002-of-00003: shard 2 of 3 is missing, variable 'v2' and 2 more lie in" in second


def test_verify_reports_every_damaged_part(tmp_path):
    tensors = {f"v{i}": np.full(50, i, np.float32) for i in range(9)}
    prefix = write_bundle(tmp_path / "model", tensors, block_size=1)
    index, data = Path(f"{prefix}.index"), Path(f"{prefix}.data-00000-of-00001")
    content = bytearray(data.read_bytes())
    content[0] ^= 1
    content[8 * 200] ^= 1
    data.write_bytes(content)
    content = bytearray(index.read_bytes())
    content[content.index(b"v3")] ^= 1
    content[content.index(b"v5")] ^= 1
    index.write_bytes(content)
    with pytest.raises(tfreader.ChecksumError) as caught:
        tfreader.open(prefix)
    assert len(caught.value.problems) == 2
    with tfreader.open(prefix, salvage=True) as checkpoint:
        assert sorted(checkpoint) == ["v0", "v1", "v2", "v4", "v6", "v7", "v8"]
        with pytest.raises(tfreader.ChecksumError, match="damaged in 4 places") as caught:
            checkpoint.verify()
    first, second, third, fourth = caught.value.problems
    assert "model.index: block at offset" in first and "0x" in first
    assert "model.index: block at offset" in second
    assert "variable 'v0' at offset 0 (200 bytes): checksum mismatch" in third
    assert "variable 'v8' at offset 1600 (200 bytes): checksum mismatch" in fourth


def test_a_rank_is_read_as_far_as_numpy_has_it(tmp_path):
    """numpy 2 has 64 axes, before it there were 32."""
    array = np.ones((1,) * MAX_RANK, np.float32)
    with tfreader.open(write_bundle(tmp_path / "m", {"x": array})) as checkpoint:
        assert checkpoint["x"].shape == array.shape
    with pytest.raises(ValueError, match=rf"rank {MAX_RANK + 1} is above {MAX_RANK}"):
        shape_of(TensorShape(dim=[TensorShape.Dim(size=1)] * (MAX_RANK + 1)))
