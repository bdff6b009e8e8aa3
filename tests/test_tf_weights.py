"""safetensors files of TensorFlow, and models in shards of either kind."""

from __future__ import annotations

import json
import pickle
import re

import numpy as np
import pytest
from click.testing import CliRunner
from tf_weights import (
    header_of,
    safetensors,
    some_variables,
    write_h5,
    write_safetensors,
    write_sharded,
)

import tfreader
from tfreader.cli.main import main
from tfreader.mapping import convert
from tfreader.mapping.records.audit import verify_against, verify_output
from tfreader.safetensors_file import LARGEST_HEADER

MANY = b'{"__metadata__":{"format":"tf"},' + b",".join(b'"%05d":1' % i for i in range(100_000))
VALUES = np.arange(24, dtype=np.float32).reshape(4, 6)
RULES = """
[[rule]]
source = '(?P<layer>.+)/kernel'
target = "{layer}.weight"
ops = ["transpose"]
[[rule]]
source = '(?P<layer>.+)/bias'
target = "{layer}.bias"
"""


@pytest.fixture
def rules(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text(RULES)
    return path


def test_a_safetensors_file_of_tensorflow(tmp_path):
    tensors = {
        "bert/dense/kernel:0": VALUES,
        "bert/dense/bias:0": VALUES[0].astype(np.float16),
        "count": np.array(3, np.int64),
        "none:0": np.empty((0, 7), np.int32),
        "flags:0": np.array([True, False]),
    }
    path = write_safetensors(tmp_path / "model.safetensors", tensors)
    with tfreader.open(path) as checkpoint:
        assert checkpoint.format == "safetensors"
        assert list(checkpoint) == [
            "bert/dense/bias",
            "bert/dense/kernel",
            "count",
            "flags",
            "none",
        ]
        for name, values in tensors.items():
            found = checkpoint[name.removesuffix(":0")]
            assert found.dtype == values.dtype
            assert found.tolist() == values.tolist()
        assert checkpoint["bert/dense/kernel:0"].tolist() == VALUES.tolist()
        assert checkpoint.read("bert/dense/kernel", slice(3, 0, -2)).tolist() == [
            VALUES[3].tolist(),
            VALUES[1].tolist(),
        ]
        part = checkpoint.reader("bert/dense/kernel").read((range(1, 3), range(2, 5)))
        assert part.tolist() == VALUES[1:3, 2:5].tolist()
        assert checkpoint.verify().tensors == 5
        copied = pickle.loads(pickle.dumps(checkpoint))
        assert copied["count"] == 3
        copied.close()
    with pytest.raises(tfreader.ClosedError):
        checkpoint["count"]


def test_types_that_tensorflow_lacks_are_listed_but_not_read(tmp_path):
    header = header_of({"a": VALUES})
    header["a"]["dtype"] = "F8_E8M0"
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors(header, VALUES.tobytes()))
    with tfreader.open(path) as checkpoint:
        assert checkpoint.info("a").dtype == "F8_E8M0"
        with pytest.raises(tfreader.UnsupportedError, match="F8_E8M0"):
            checkpoint["a"]


def damaged(**changes):
    """A header with one entry changed."""
    header = header_of({"a": VALUES, "b:0": VALUES[0]})
    header["a"] |= changes
    return header


@pytest.mark.parametrize(
    ("header", "meaning"),
    [
        (damaged(dtype="F16"), "takes 48 bytes, not 96"),
        (damaged(dtype=3), "no dtype or shape"),
        (damaged(shape={"0": 4}), "no dtype or shape"),
        (damaged(shape=[2, 2.0, 6]), "no natural number"),
        (damaged(shape=[True, 24]), "no natural number"),
        (damaged(shape=[-4, -6]), "no natural number"),
        (damaged(shape=[1] * 65), "impossible shape"),
        (damaged(shape=[1 << 40, 1 << 40, 0]), "impossible shape"),
        (damaged(data_offsets=[0]), "lacks"),
        (damaged(data_offsets=[24, 120]), "'a' lies behind a gap"),
        (header_of({"a": VALUES}) | {"b": header_of({"b": VALUES})["b"]}, "'b' overlaps"),
        (damaged(data_offsets=[0, 1 << 70]), "takes 96 bytes"),
        (damaged(data_offsets=[96, 0]), "takes 96 bytes, not -96"),
        ({**header_of({"a": VALUES}), "b": 1}, "lacks"),
        (header_of({"a": VALUES}), "end at byte .*truncated"),
        (header_of({"a": VALUES, "c": VALUES}), "end at byte .*truncated"),
        (header_of({"a:0": VALUES, "a": VALUES[0]}), "with `:0` behind"),
        (b'{"__metadata__":{"format":"tf"},"a":1,"a":2}', "stands twice"),
        (MANY + b',"99999":1}', "'99999' stands twice"),  # found in time
        (b'{"__metadata__":{"format":"tf"},"a":' + b"[" * 99_999, "nested|Expecting"),
        (b'{"__metadata__":{"format":"tf"},"a":' + b"1" * 9_999 + b"}", "digits"),
        (b'{"__metadata__":{"format":"tf"}}{', "Extra data"),
        (b'{"__metadata__":{"format":"tf"},"\xff":1}', "utf-8"),
    ],
)
def test_damaged_headers(tmp_path, header, meaning):
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors(header, VALUES.tobytes() + VALUES[0].tobytes()))
    with pytest.raises(tfreader.CorruptCheckpointError, match=meaning) as caught:
        tfreader.open(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_gap_between_tensors(tmp_path):
    header = header_of({"a": VALUES, "b": VALUES})
    header["b"]["data_offsets"] = [100, 196]
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors(header, bytes(196)))
    with pytest.raises(tfreader.CorruptCheckpointError, match="'b' lies behind a gap"):
        tfreader.open(path)


@pytest.mark.parametrize("size", [60, LARGEST_HEADER + 1, 99_999_999])
def test_a_header_that_is_longer_than_the_file_or_any_use(tmp_path, size):
    path = write_safetensors(tmp_path / "model.safetensors", {"a": VALUES})
    contents = path.read_bytes()
    path.write_bytes(size.to_bytes(8, "little") + contents[8:])
    with pytest.raises(tfreader.CorruptCheckpointError, match=r"model\.safetensors"):
        tfreader.open(path)
    with open(path, "ab") as file:
        file.truncate(200_000_000)
    with pytest.raises(tfreader.CorruptCheckpointError, match=r"model\.safetensors"):
        tfreader.open(path)


def test_a_file_that_changes_while_it_is_open(tmp_path):
    path = write_safetensors(tmp_path / "model.safetensors", {"a": VALUES})
    with tfreader.open(path) as checkpoint:
        write_safetensors(path, {"a": VALUES, "b": VALUES})
        with pytest.raises(tfreader.ChangedError):
            checkpoint["a"]
        with pytest.raises(tfreader.ChangedError):
            checkpoint.verify()


@pytest.mark.parametrize("memory_limit", ["1", "192MiB"])
def test_conversions_are_recorded_checked_and_not_repeated(tmp_path, rules, memory_limit):
    kernel = np.random.default_rng(0).normal(size=(300, 500)).astype(np.float32)
    tensors = {"a/kernel:0": kernel, "a/bias:0": kernel[0]}
    source = write_safetensors(tmp_path / "in" / "model.safetensors", tensors)
    out = tmp_path / "out.safetensors"
    convert(source.parent, out, rules=rules, record=True, memory_limit=memory_limit)
    from safetensors.numpy import load_file

    found = load_file(out)
    assert found["a.weight"].tolist() == kernel.T.tolist()
    assert found["a.bias"].tolist() == kernel[0].tolist()
    verify_output(out)
    verify_against(out, source)
    assert convert(source, out, rules=rules, record=True, resume=True).skipped
    write_safetensors(source, {"a/kernel:0": kernel + 1, "a/bias:0": kernel[0]})
    assert not convert(source, out, rules=rules, record=True, resume=True).skipped


def test_inspect_says_what_to_do(tmp_path):
    path = write_safetensors(tmp_path / "my model" / "model.safetensors", {"a:0": VALUES})
    result = CliRunner().invoke(main, ["inspect", str(path.parent)])
    assert "every weight random" in result.stderr
    assert f"--tf_checkpoint '{path}'" in result.stderr
    notes = json.loads(CliRunner().invoke(main, ["inspect", str(path), "--json"]).stdout)["notes"]
    assert "every weight random" in notes[0]
    result = CliRunner().invoke(main, ["verify", str(path)])
    assert "no checksums of values" in result.stdout


@pytest.mark.parametrize("kind", ["h5", "safetensors"])
def test_shards(tmp_path, kind):
    variables = some_variables()
    index = write_sharded(tmp_path / "model", variables, kind)
    shard = next(index.parent.glob("*-00002-of-*"))
    for path in (index, shard, index.parent, str(index.parent / f"*-of-*.{kind}")):
        with tfreader.open(path) as checkpoint:
            assert checkpoint.path == str(index)
            assert checkpoint.format == f"sharded {kind}"
            assert set(checkpoint) == {name.removesuffix(":0") for name in variables}
            for name, values in variables.items():
                assert checkpoint[name].tolist() == values.tolist()
                assert checkpoint.info(name).name == name.removesuffix(":0")
            assert checkpoint.verify().nbytes == sum(v.nbytes for v in variables.values())
            assert len(checkpoint.files()) == 3
    with tfreader.open(index) as checkpoint, pickle.loads(pickle.dumps(checkpoint)) as again:
        name = "tf_marian/model/encoder/fc1/kernel"
        part = again.reader(name).read((range(2, 9), range(1, 2)))
        assert part.tolist() == variables[name + ":0"][2:9, 1:2].tolist()


@pytest.mark.parametrize("kind", ["h5", "safetensors"])
def test_shards_are_converted_as_one(tmp_path, rules, kind):
    variables = some_variables()
    index = write_sharded(tmp_path / "model", variables, kind, 3)
    out = tmp_path / "out.safetensors"
    options = {"rules": rules, "ignore": ["model.shared/.*"], "record": True}
    with pytest.raises(tfreader.PlanError, match="final_logits_bias"):
        convert(index, out, **options)
    options["ignore"].append("final_logits_bias")
    convert(index, out, **options)
    verify_against(out, index)
    from safetensors.numpy import load_file

    assert load_file(out)["tf_marian/model/decoder/fc1.weight"].tolist() == (
        variables["tf_marian/model/decoder/fc1/kernel:0"].T.tolist()
    )
    assert convert(index, out, resume=True, **options).skipped


@pytest.mark.parametrize("kind", ["h5", "safetensors"])
def test_missing_shards_and_indices_are_named(tmp_path, kind):
    index = write_sharded(tmp_path / "model", some_variables(), kind, 3)
    first, second, _ = sorted(index.parent.glob("*-of-*"))
    second.unlink()
    for path in (index, first, index.parent):
        with pytest.raises(tfreader.CheckpointNotFoundError, match=f"^{second}: missing"):
            tfreader.open(path)
    first.unlink()
    with pytest.raises(tfreader.CheckpointNotFoundError, match=f"^{first}: missing, and others"):
        tfreader.open(index)
    write_sharded(index.parent, some_variables(), kind, 3)
    index.unlink()
    for path in (first, index.parent):
        with pytest.raises(tfreader.CheckpointNotFoundError, match=re.escape(str(index))):
            tfreader.open(path)


@pytest.mark.parametrize(
    ("change", "meaning"),
    [
        (lambda shards: shards.pop("a/b:0"), "has 'b:0', which it does not list"),
        (lambda shards: shards.update({"a/c:0": shards["a/b:0"]}), "'c:0' is not"),
        (lambda shards: shards.update({"x/b:0": shards["a/b:0"]}), "'b:0' is not, or is another"),
        (lambda shards: shards.update({"a/b:0": "../model.h5"}), "no file beside the index"),
        (lambda shards: shards.update({"a/b:0": ".."}), "no file beside the index"),
        (lambda shards: shards.update({"a/b:0": 7}), "no file beside the index"),
        (lambda shards: shards.clear(), "no weight_map"),
    ],
)
def test_an_index_that_does_not_fit(tmp_path, change, meaning):
    variables = {"a/b:0": VALUES, "a/d:0": VALUES[0], "a/e:0": VALUES[1]}
    index = write_sharded(tmp_path / "model", variables, "h5")
    contents = json.loads(index.read_text())
    change(contents["weight_map"])
    index.write_text(json.dumps(contents))
    with pytest.raises(tfreader.CorruptCheckpointError, match=meaning):
        tfreader.open(index)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "[" * 99_999, '{"weight_map": []}', '{"a":1,"a":2}']
)
def test_an_index_that_is_none(tmp_path, text):
    index = write_sharded(tmp_path / "model", some_variables(), "h5")
    index.write_text(text)
    for path in (index, index.parent):
        with pytest.raises(tfreader.TFReaderError, match=re.escape(str(index.parent))):
            tfreader.open(path)


def test_a_shard_of_pytorch_under_an_index_of_tensorflow(tmp_path):
    index = write_sharded(tmp_path / "model", some_variables(), "safetensors")
    shard = next(index.parent.glob("*-00002-of-*"))
    write_safetensors(shard, {"b": VALUES}, {"format": "pt"})
    with pytest.raises(tfreader.CorruptCheckpointError, match=r"00002-of-.* of PyTorch"):
        tfreader.open(index)


def test_an_index_of_pytorch(tmp_path):
    shards = {"a.weight": "model-00001-of-00002.safetensors"}
    write_safetensors(tmp_path / shards["a.weight"], {"a.weight": VALUES}, {"format": "pt"})
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(tfreader.CorruptCheckpointError, match="not TensorFlow's"):
        tfreader.open(index)
    with pytest.raises(tfreader.CorruptCheckpointError, match="of PyTorch"):
        tfreader.open(tmp_path / shards["a.weight"])
    write_h5(tmp_path / "tf_model.h5", {"layer/a:0": VALUES})
    with tfreader.open(tmp_path) as checkpoint:
        assert checkpoint.path == str(tmp_path / "tf_model.h5")
        assert "PyTorch weights too" in checkpoint.notes[0]
