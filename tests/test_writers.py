from __future__ import annotations

import io
import itertools
import json
import os
import tracemalloc
import zipfile
from contextlib import closing
from unittest.mock import patch

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
import torch
from bundle_writer import write_bundle
from conftest import BERT
from hypothesis import given, settings
from hypothesis import strategies as st

import tfreader
from tfreader.mapping import convert, load_state_dict, make_plan
from tfreader.mapping.execute import stream
from tfreader.mapping.plan import Entry
from tfreader.mapping.rules.rule_file import rules_from_data
from tfreader.mapping.writers.safetensors import (
    SafetensorsFile,
    index_json,
    layout,
    parse_size,
    shards,
)


def entry(name, array):
    return Entry(name, (name,), (), array.shape, array.dtype, array.dtype)


TENSORS = {
    "b": np.arange(3, dtype=np.float16),
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "ünïcode": np.array(5, dtype=np.int64),
    "empty": np.zeros((0, 2), np.float32),
    "c": np.array([True, False, True]),
}


def test_the_file_is_what_the_library_would_read_and_has_the_layout_of_the_specification(tmp_path):
    entries = [entry(name, array) for name, array in TENSORS.items()]
    with closing(SafetensorsFile(tmp_path / "x", layout(entries))) as file:
        for one in reversed(entries):
            file.write(one, 0, memoryview(TENSORS[one.target].tobytes()))
    data = (tmp_path / "x").read_bytes()
    size = int.from_bytes(data[:8], "little")
    assert size % 8 == 0
    header = json.loads(data[8 : 8 + size])
    assert header.pop("__metadata__") == {"format": "pt"}
    ends = sorted(tuple(tensor["data_offsets"]) for tensor in header.values())
    assert ends[0][0] == 0
    assert ends[-1][1] == len(data) - 8 - size
    assert all(a[1] == b[0] for a, b in itertools.pairwise(ends))
    loaded = safetensors.numpy.load_file(tmp_path / "x")
    assert set(loaded) == set(TENSORS)
    for name, array in TENSORS.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)


def test_the_bytes_equal_those_of_the_library(tmp_path):
    entries = [entry(name, array) for name, array in TENSORS.items()]
    with closing(SafetensorsFile(tmp_path / "x", layout(entries))) as file:
        for one in entries:
            file.write(one, 0, memoryview(TENSORS[one.target].tobytes()))
    assert (tmp_path / "x").read_bytes() == safetensors.numpy.save(TENSORS, {"format": "pt"})


@given(st.lists(st.integers(0, 50), min_size=1), st.integers(1, 60))
def test_shards_hold_every_tensor_once_and_no_more_than_they_may(sizes, limit):
    entries = [entry(f"t{i:03d}", np.zeros(size, np.uint8)) for i, size in enumerate(sizes)]
    files = shards(entries, limit)
    assert [e.target for file in files for e in file] == [e.target for e in entries]
    for file in files:
        assert sum(e.nbytes for e in file) <= limit or len(file) == 1


@pytest.mark.parametrize(
    ("text", "value"), [("5GB", 5 * 10**9), ("200 kb", 200_000), ("1.5MiB", 1_572_864), (7, 7)]
)
def test_sizes(text, value):
    assert parse_size(text, "--size") == value


@pytest.mark.parametrize("text", ["", "5XB", "-1GB", "0"])
def test_what_is_no_size(text):
    with pytest.raises(tfreader.ConfigError, match="^--size .*5GB"):
        parse_size(text, "--size")


def test_a_dtype_that_safetensors_lacks_is_refused_before_data_is_read(tmp_path):
    number = {"x": {"dtype": 18, "size": 16}}
    prefix = write_bundle(tmp_path / "m", {"x": np.zeros(1)}, overrides=number)
    rules = rules_from_data({"rule": [{"source": "x", "target": "x"}]}, "test")
    with pytest.raises(tfreader.UnsupportedError, match="'x'.*complex128"):
        convert(prefix, tmp_path / "out.safetensors", rules=rules)
    assert sorted(os.listdir(tmp_path)) == ["m.data-00000-of-00001", "m.index"]


@pytest.mark.parametrize(("name", "number"), [("int4", 29), ("uint2", 32)])
def test_a_dtype_that_torch_names_but_cannot_save_is_refused(tmp_path, name, number):
    override = {"x": {"dtype": number, "size": 4}}
    prefix = write_bundle(tmp_path / "m", {"x": np.zeros(4, np.float32)}, overrides=override)
    rules = rules_from_data({"rule": [{"source": "x", "target": "x"}]}, "test")
    with pytest.raises(tfreader.UnsupportedError, match=f"'x': torch saves no .* {name}"):
        convert(prefix, tmp_path / "out.bin", rules=rules)
    assert not (tmp_path / "out.bin").exists()


def test_a_tensor_beyond_all_memory_is_refused(tmp_path):
    prefix = write_bundle(tmp_path / "m", {"x": np.zeros(4, np.float32)})
    fill = {"target": "y", "shape": [1 << 40], "value": "zeros", "reason": "none"}
    rules = rules_from_data({"rule": [{"source": "x", "target": "x"}], "fill": [fill]}, "test")
    with pytest.raises(tfreader.UnsupportedError, match="torch has no memory"):
        convert(prefix, tmp_path / "out.bin", rules=rules)
    assert not (tmp_path / "out.bin").exists()


def test_a_name_is_given_to_one_tensor():
    array = np.zeros(2, np.float32)
    twice = [entry("x", array), entry("x", array)]
    with pytest.raises(tfreader.PlanError, match="'x': filled twice"):
        layout(twice)
    with pytest.raises(tfreader.PlanError, match="'x': filled twice"):
        index_json([[e] for e in twice], ["a", "b"])
    with pytest.raises(tfreader.PlanError, match="'__metadata__': no name"):
        layout([entry("__metadata__", array)])


def test_bfloat16_is_written_as_it_is(tmp_path):
    array = np.arange(4).astype(ml_dtypes.bfloat16)
    with closing(SafetensorsFile(tmp_path / "x", layout([entry("x", array)]))) as file:
        file.write(entry("x", array), 0, memoryview(array.tobytes()))
    with safetensors.safe_open(tmp_path / "x", "pt") as loaded:
        assert loaded.get_tensor("x").float().tolist() == [0, 1, 2, 3]


def test_a_second_conversion_replaces_the_first(tmp_path):
    out = tmp_path / "deep" / "out"
    convert(BERT, out, max_shard_size="20KB")
    (out / "notes.txt").write_text("mine")
    assert len(list(out.glob("model-*"))) > 1
    convert(BERT, out)
    names = {"config.json", "conversion.json", "model.safetensors", "notes.txt"}
    names |= {"tokenizer_config.json", "vocab.txt"}
    assert set(os.listdir(out)) == names


def test_nothing_is_left_of_a_conversion_that_fails_in_the_middle(tmp_path, copy):
    folder = copy(BERT)
    with tfreader.open(folder) as checkpoint:
        last = max(map(checkpoint.info, ["bert/pooler/dense/bias"]), key=lambda i: i.offset)
    (data,) = folder.glob("*.data-*")
    contents = bytearray(data.read_bytes())
    contents[last.offset] ^= 1
    data.write_bytes(contents)
    for output in ("new/deep/folder", "new.safetensors", "new.bin"):
        with pytest.raises(tfreader.ChecksumError):
            convert(folder, tmp_path / "outputs" / output)
        assert not (tmp_path / "outputs").exists()


def test_an_output_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.bin").mkdir()
    for output in ("file", "file/below", "folder.bin", "file/x.safetensors"):
        with pytest.raises(tfreader.OutputError, match=output):
            convert(BERT, tmp_path / output)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.bin"]


RULES = {
    "rule": [
        {"source": "copy/(?P<n>.*)", "target": "copy.{n}", "required": False},
        {"source": "t/(?P<n>.*)", "target": "t.{n}", "ops": ["transpose"], "required": False},
        {
            "source": "cut/(?P<n>.*)",
            "target": ["a.{n}", "b.{n}"],
            "ops": ["transpose", {"op": "split", "axis": 0}],
            "required": False,
        },
        {
            "source": ["x/(?P<n>.*)", "y/(?P<n>.*)"],
            "target": "joined.{n}",
            "ops": [{"op": "concat", "axis": 1}, "transpose"],
            "required": False,
        },
        {
            "source": "some/(?P<n>.*)",
            "target": "some.{n}",
            "ops": [
                {"op": "slice", "axis": 0, "start": 0, "stop": 1},
                {"op": "reshape", "to": [-1]},
            ],
            "required": False,
        },
    ],
}


def expected(kind, values):
    """What the rules make of variables whose values are these, in numpy's words."""
    half = values.shape[1] // 2
    return {
        "copy": values,
        "t": values.T,
        "a": values.T[:half],
        "b": values.T[half:],
        "joined": np.concatenate([values, values], 1).T,
        "some": values[:1].reshape(-1),
    }[kind]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=6),
    st.sampled_from(["float32", "float64", "int32"]),
    st.sampled_from(["keep", "float16", "bfloat16"]),
    st.integers(1, 200).map(lambda n: 8 * n),
    st.integers(1, 2000),
    st.sampled_from([0, 8, 1000]),
    st.booleans(),
)
def test_streaming_in_parts_gives_what_whole_tensors_give(
    tmp_path_factory, shapes, source, dtype, block, memory_limit, gap, sliced
):
    folder = tmp_path_factory.mktemp("stream")
    tensors, values = {}, {}
    for i, (rows, columns) in enumerate(shapes):
        values[str(i)] = np.arange(rows * columns * 2, dtype=source).reshape(rows, columns * 2) + i
        kinds = ("copy", "t", "cut", "x", "y", "some")
        tensors |= {f"{kind}/{i}": values[str(i)] for kind in kinds}
    with (
        patch("tfreader.mapping.execute.BLOCK", block),
        patch("tfreader.mapping.execute.LEAST", 0),
        patch("tfreader.runs.CHUNK", 40),
        patch("tfreader.bundle.values.CHUNK", 40),
        patch("tfreader.runs.GAP", gap),
        tfreader.open(
            write_bundle(folder / "m", tensors, num_shards=2, sliced=sliced)
        ) as checkpoint,
    ):
        plan = make_plan(checkpoint, rules=rules_from_data(RULES, "test"), dtype=dtype)
        out = {entry.target: bytearray(entry.nbytes) for entry in plan.entries}

        def write(entry, offset, data):
            out[entry.target][offset : offset + len(data)] = data

        written = []
        stream(plan, checkpoint, write, written.append, memory_limit)
        assert sum(written) == plan.nbytes
        for entry in plan.entries:
            kind, _, number = entry.target.partition(".")
            whole = expected(kind, values[number]).astype(entry.dtype)
            assert bytes(out[entry.target]) == whole.tobytes()


@pytest.mark.parametrize("memory_limit", [100, 1 << 20])
def test_a_damaged_variable_is_noticed_however_it_is_read(tmp_path, memory_limit):
    values = np.arange(80, dtype=np.float32).reshape(8, 10)
    kinds = ("copy", "t", "cut", "x", "y", "some")
    for damaged in kinds:
        prefix = write_bundle(
            tmp_path / "m",
            {f"{kind}/0": values for kind in kinds},
            overrides={f"{damaged}/0": {"crc": 1}},
        )
        with tfreader.open(prefix) as checkpoint:
            plan = make_plan(checkpoint, rules=rules_from_data(RULES, "test"))
            with pytest.raises(tfreader.ChecksumError, match=f"{damaged}/0"):
                stream(plan, checkpoint, lambda *_: None, memory_limit=memory_limit)


def test_the_memory_limit_is_kept(tmp_path):
    """A tensor larger than the window goes through it in parts, also transposed."""
    values = np.ones((256, 16_384), np.float32)
    prefix = write_bundle(tmp_path / "m", {"t/0": values, "copy/0": values})
    with tfreader.open(prefix) as checkpoint:
        plan = make_plan(checkpoint, rules=rules_from_data(RULES, "test"))
        tracemalloc.start()
        with patch("tfreader.mapping.execute.LEAST", 0):
            stream(plan, checkpoint, lambda *_: None, memory_limit=6 << 20)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 12 << 20  # the window, a block for each thread, and tiles to transpose


def test_a_torch_file_is_a_sound_archive(tmp_path):
    """Torch lays it out without data; the data and their zip checksums come later."""
    tensors = {
        "copy/empty": np.zeros((0, 3), np.float32),
        "copy/scalar": np.array(3.5, np.float64),
        "t/matrix": np.arange(70_000, dtype=np.float32).reshape(700, 100),
    }
    prefix = write_bundle(tmp_path / "m", tensors)
    convert(prefix, tmp_path / "out.bin", rules=rules_from_data(RULES, "test"))
    with zipfile.ZipFile(tmp_path / "out.bin") as archive:
        assert archive.testzip() is None
    for mmap in (False, True):
        loaded = torch.load(tmp_path / "out.bin", weights_only=True, mmap=mmap)
        for name, values in tensors.items():
            whole = values.T if name.startswith("t/") else values
            np.testing.assert_array_equal(loaded[name.replace("/", ".")].numpy(), whole)


def test_a_torch_file_is_the_same_wherever_it_lies(tmp_path):
    """Given a path, torch writes its name into the file, unless it is not ASCII."""
    (tmp_path / "modèles").mkdir()
    contents = set()
    for name in ("a.bin", "other.pt", "modèles/a.bin"):
        convert(BERT, tmp_path / name)
        contents.add((tmp_path / name).read_bytes())
    assert len(contents) == 1


class Unseekable(io.RawIOBase):
    """A file to which an archive is written with its checksums behind the data, as torch does."""

    def __init__(self, file):
        self._file = file

    def write(self, data):
        return self._file.write(data)

    def writable(self):
        return True


def saving_rearranged(rearrange, compression=zipfile.ZIP_STORED):
    """torch.save, but the records of its archive as `rearrange` gives their (name, bytes) back."""
    save = torch.save

    def save_rearranged(tensors, file):
        save(tensors, file)
        with zipfile.ZipFile(file) as archive:
            records = [
                (name, bytes(archive.getinfo(name).file_size))
                if "/data/" in name
                else (name, archive.read(name))
                for name in archive.namelist()
            ]
        file.seek(0)
        file.truncate()
        with zipfile.ZipFile(Unseekable(file), "w", compression) as archive:
            for name, data in rearrange(records):
                archive.writestr(zipfile.ZipInfo(name), data, compression)

    return patch("torch.save", save_rearranged)


def many_tensors(folder):
    """A checkpoint of more than ten tensors, some as large as others, and their values by name."""
    values = {f"copy/{i:02d}": np.full(1 + i // 5, i, np.float32) for i in range(23)}
    values["copy/none"] = np.zeros((0, 2), np.float32)
    return write_bundle(folder / "m", values), {
        name.replace("/", "."): array.tolist() for name, array in values.items()
    }


@pytest.mark.parametrize(
    "rearrange",
    [list, sorted, lambda records: [records[0], *records[:0:-1]]],
    ids=["as written", "sorted", "turned round"],
)
def test_a_torch_file_holds_each_tensor_in_its_own_record_whatever_their_order(tmp_path, rearrange):
    """torch 2.6 sorts the records by their names as strings: 0, 1, 10, 11, 2."""
    prefix, values = many_tensors(tmp_path)
    rules = rules_from_data(RULES | {"tie": [{"alias": "tied", "target": "copy.07"}]}, "test")
    with saving_rearranged(rearrange):
        convert(prefix, tmp_path / "rearranged.bin", rules=rules)
    convert(prefix, tmp_path / "plain.bin", rules=rules)
    for name in ("rearranged.bin", "plain.bin"):
        loaded = torch.load(tmp_path / name, weights_only=True)
        assert {name: array.tolist() for name, array in loaded.items()} == {
            **values,
            "tied": values["copy.07"],
        }
        assert loaded["tied"].data_ptr() == loaded["copy.07"].data_ptr()
        with zipfile.ZipFile(tmp_path / name) as archive:
            assert archive.testzip() is None


@pytest.mark.parametrize(
    ("rearrange", "compression"),
    [
        (lambda records: [(n, d) for n, d in records if not n.endswith("data/3")], 0),
        (lambda records: [(n, d + d * n.endswith("data/3")) for n, d in records], 0),
        (lambda records: [(n.replace("data.pkl", "tree.pkl"), d) for n, d in records], 0),
        (lambda records: [(n, b"\x80\x02]." if n.endswith("pkl") else d) for n, d in records], 0),
        (list, zipfile.ZIP_DEFLATED),
    ],
    ids=["missing", "larger", "no pickle", "other pickle", "compressed"],
)
def test_a_torch_that_lays_files_out_in_another_way_is_refused(tmp_path, rearrange, compression):
    prefix, _ = many_tensors(tmp_path)
    with (
        saving_rearranged(rearrange, compression),
        pytest.raises(tfreader.UnsupportedError, match="lays out its files .*safetensors"),
    ):
        convert(prefix, tmp_path / "out" / "x.bin", rules=rules_from_data(RULES, "test"))
    assert not (tmp_path / "out").exists()


def test_a_state_dict_holds_empty_tensors_too(tmp_path):
    prefix = write_bundle(tmp_path / "m", {"copy/0": np.zeros((0, 3), np.float32)})
    tensors = load_state_dict(prefix, rules=rules_from_data(RULES, "test"))
    assert tensors["copy.0"].shape == (0, 3)
