from __future__ import annotations

import json
import os
import pickle
import re
import struct
import subprocess
import sys
import time
import zipfile
from itertools import pairwise
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import DATA
from servers import Handler

import tfreader
from tfreader.cli.main import main
from tfreader.hdf5 import contents
from tfreader.hdf5.ahead import SUPERBLOCK, follow
from tfreader.mapping import convert, load_state_dict
from tfreader.mapping.rules.rule_file import parse_rules
from tfreader.training import training_state

KERAS = DATA / "keras"
BN = ("gamma", "beta", "moving_mean", "moving_variance")
LAYERS2 = ("dense/kernel", "dense/bias", *(f"bn/{name}" for name in BN), "head/kernel", "head/bias")
NUMBERS2 = ("inner/dense/0", "inner/dense/1", *(f"bn/{i}" for i in range(4)), "head/0", "head/1")
# .weights.h5 of Keras 2 have no names of layers.
CLASSES2 = (
    *("sequential/dense/0", "sequential/dense/1"),
    *(f"batch_normalization/{i}" for i in range(4)),
    *("dense/0", "dense/1"),
)
BLOCK = ("0", "norm/0", "norm/1", "parts/dense/0", "parts/dense/1", "parts/dense_1/0")
NUMBERS3 = (
    *NUMBERS2[:6],
    *(f"block_a/{name}" for name in (*BLOCK, "parts/dense_1/1")),
    *NUMBERS2[6:],
)
LAYERS3 = (
    *("inner/dense/kernel", "inner/dense/bias", *LAYERS2[2:6], "block_a/scale"),
    *("block_a/layer_normalization/gamma", "block_a/layer_normalization/beta"),
    *(f"block_a/dense_{i}/{name}" for i in (1, 2) for name in ("kernel", "bias")),
    *LAYERS2[6:],
)
RULES = """
[[rule]]
source = '(?P<name>.*)'
target = "{name}"
"""


def values_of(version: str) -> list[np.ndarray]:
    with np.load(KERAS / f"values{version}.npz") as values:
        return [values[str(i)] for i in range(len(values))]


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("weights.h5", LAYERS2),
        ("model2.h5", LAYERS2),
        ("model2.keras", NUMBERS2),
        ("model2.weights.h5", CLASSES2),
        ("model3.h5", LAYERS3),
        ("model3.keras", NUMBERS3),
        ("model3.weights.h5", NUMBERS3),
    ],
)
def test_weights_have_their_names_and_all_else_is_training_state(name, names):
    version = "3" if "3" in name else "2"
    with tfreader.open(KERAS / name) as checkpoint:
        training = training_state(checkpoint.infos)
        assert set(checkpoint) - training.keys() == set(names)
        for key, expected in zip(names, values_of(version), strict=True):
            assert checkpoint[key].dtype == expected.dtype
            assert checkpoint[key].tobytes() == expected.tobytes()
        assert checkpoint.verify().tensors == len(checkpoint)
        kinds = {state.kind for state in training.values()}
        assert kinds <= {"optimizer state", "metric", "training counter"}


def test_the_same_name_twice_is_told_apart_by_the_whole_path():
    with tfreader.open(KERAS / "loose.h5") as checkpoint:
        assert list(checkpoint) == [
            *("loose", "one/same/bias", "one/same/kernel", "two/same/bias", "two/same/kernel")
        ]
        assert checkpoint.names("two/same/bias") == (
            *("two/same/bias", "same/bias", "two/same/bias:0"),
        )
        assert checkpoint.names("loose") == ("loose", "top_level_model_weights/loose:0")
        path = "top_level_model_weights/loose:0"
        assert checkpoint[path].tolist() == checkpoint["loose"].tolist()
        with pytest.raises(tfreader.VariableNotFoundError, match="one/same/bias"):
            checkpoint["same/bias"]


@pytest.mark.parametrize(("name", "noted"), [("bfloat16.weights.h5", 0), ("bfloat16.h5", 1)])
def test_bfloat16_of_keras_3(name, noted):
    with tfreader.open(KERAS / name) as checkpoint:
        assert {info.dtype for info in checkpoint.infos} == {"bfloat16"}
        assert [note.startswith("taken for bfloat16") for note in checkpoint.notes] == [
            True
        ] * noted
        (kernel,) = (key for key in checkpoint if checkpoint.info(key).shape == (2, 3))
        values = checkpoint[kernel]
        with h5py.File(KERAS / name) as file:
            assert values.tobytes() == file[checkpoint.names(kernel)[-1]][()].tobytes()
        assert np.abs(values.astype(np.float32)).max() < 2


def test_rules_match_any_of_the_names(tmp_path):
    rules = parse_rules(
        """
        [[rule]]
        source = 'layers/dense/vars/0'
        target = "head.weight"
        ops = ["transpose"]
        [[rule]]
        source = 'head/1'
        target = "head.bias"
        [[drop]]
        source = '(inner|bn|block_a)/.*'
        reason = "not wanted"
        """,
        "rules",
    )
    state = load_state_dict(KERAS / "model3.keras", rules=rules)
    assert state.keys() == {"head.weight", "head.bias"}
    assert np.array_equal(state["head.weight"].numpy(), values_of("3")[-2].T)


def test_conversion_record_and_verification(tmp_path):
    rules = tmp_path / "rules.toml"
    rules.write_text(RULES)
    out = tmp_path / "out.safetensors"
    source = tmp_path / "model.h5"
    source.write_bytes((KERAS / "model2.h5").read_bytes())
    report = convert(source, out, rules=rules, record=True)
    assert sorted(entry.target for entry in report.plan.entries) == sorted(LAYERS2)
    assert convert(source, out, rules=rules, record=True, resume=True).skipped
    result = CliRunner().invoke(main, ["verify", str(out), "--against", str(source)])
    assert result.exit_code == 0, result.output
    damaged = bytearray(source.read_bytes())
    with tfreader.open(source) as checkpoint:
        damaged[checkpoint.info("head/kernel").offset] ^= 1
    source.write_bytes(damaged)
    assert not convert(source, out, rules=rules, record=True, resume=True).skipped


def test_inspect_and_verify_commands():
    result = CliRunner().invoke(main, ["inspect", str(KERAS / "loose.h5"), "--json"])
    variables = json.loads(result.stdout)["variables"]
    assert variables[1]["names"] == ["one/same/bias", "same/bias", "one/same/bias:0"]
    result = CliRunner().invoke(
        main, ["inspect", str(KERAS / "model3.keras"), "--filter", "vars/1"]
    )
    assert "head/1" in result.output and "head/0" not in result.output
    result = CliRunner().invoke(main, ["verify", str(KERAS / "weights.h5")])
    assert "no checksums" in result.output and result.exit_code == 0


def test_a_folder_with_one_file_of_keras(tmp_path):
    (tmp_path / "x.h5").write_bytes((KERAS / "weights.h5").read_bytes())
    (tmp_path / "config.json").write_text("{}")
    with tfreader.open(tmp_path) as checkpoint:
        assert "head/kernel" in checkpoint
    (tmp_path / "y.keras").write_bytes((KERAS / "model2.keras").read_bytes())
    with pytest.raises(tfreader.CheckpointNotFoundError, match=r"x\.h5.*y\.keras"):
        tfreader.open(tmp_path)


def test_a_copy_reads_the_same_file():
    with tfreader.open(KERAS / "model3.keras") as checkpoint:
        copy = pickle.loads(pickle.dumps(checkpoint))
        assert copy["head/0"].tobytes() == checkpoint["head/0"].tobytes()


def test_one_that_is_open_until_the_end_crashes_nothing():
    script = (
        "import sys, tfreader, tfreader.hdf5.source as source\n"
        "source.Source.kept = tfreader.open(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", script, KERAS / "weights.h5"], check=True, timeout=60)


def test_an_error_that_is_kept_until_the_end_crashes_nothing(tmp_path):
    (tmp_path / "x.h5").write_bytes((KERAS / "weights.h5").read_bytes()[:8])
    script = (
        "import sys, tfreader\n"
        "try: tfreader.open(sys.argv[1])\n"
        "except tfreader.CorruptCheckpointError as error: sys.kept = error"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "x.h5"], check=True, timeout=60)


TYPES = {
    "f2": np.arange(6, dtype=np.float16),
    "f8": np.arange(6, dtype=np.float64),
    "i1": np.arange(6, dtype=np.int8),
    "u8": np.arange(6, dtype=np.uint64),
    "bool": np.array([True, False, True]),
    "c8": np.arange(6, dtype=np.complex64) * 1j,
    "big": np.arange(6, dtype=">f4"),
    "big8": np.arange(6, dtype=">i8"),
    "scalar": np.float32(3),
    "empty": np.empty((0, 3), np.float32),
    "strings": np.array([b"ab", b"", b"cde"]),
    "texts": np.array(["ab", "", "ü"], object),
}


@pytest.mark.parametrize("how", ["plain", "gzip", "lzf", "chunks", "latest", "userblock"])
def test_types_and_ways_of_storing(tmp_path, how):
    options = {
        "gzip": {"compression": "gzip", "shuffle": True, "fletcher32": True},
        "lzf": {"compression": "lzf"},
        "chunks": {"chunks": (2,)},
    }.get(how, {})
    rng = np.random.default_rng(1)
    values = {**TYPES, "large": rng.normal(size=(40, 30)).astype(np.float32)}
    with h5py.File(
        tmp_path / "x.h5",
        "w",
        libver="latest" if how == "latest" else "earliest",
        userblock_size=1024 if how == "userblock" else 0,
    ) as file:
        for name, value in values.items():
            is_plain = not value.size or (value.ndim != 1 and how == "chunks") or not value.shape
            is_plain |= name == "texts"
            file.create_dataset(name, data=value, **({} if is_plain else options))
        file["bf"] = np.arange(3, dtype=ml_dtypes.float8_e4m3fn)
        file["bf"].attrs["dtype"] = "float8_e4m3fn"
    with tfreader.open(tmp_path / "x.h5") as checkpoint:
        for name, value in values.items():
            read = checkpoint[name]
            assert read.shape == value.shape and read.dtype.isnative
            if name == "texts":
                assert read.tolist() == [text.encode() for text in value]
            else:
                assert read.tolist() == value.tolist()
        assert checkpoint["bf"].tolist() == [0, 1, 2]
        assert checkpoint.read("large", slice(3, 7)).tobytes() == values["large"][3:7].tobytes()
        reader = checkpoint.reader("large")
        assert (
            reader.read((range(2, 9), range(5, 6))).tolist() == values["large"][2:9, 5:6].tolist()
        )
        assert reader.in_parts == (how in ("plain", "chunks", "latest", "userblock"))
        checkpoint.verify()


def hostile(path: Path, secret: Path) -> None:
    with h5py.File(secret, "w") as file:
        file["x"] = np.arange(3, dtype=np.float32)
    with h5py.File(path, "w") as file:
        file["a/w"] = np.arange(3, dtype=np.float32)
        file["a/again"] = file["/"]
        file["a/a"] = file["a"]
        file["soft"] = h5py.SoftLink("/a/w")
        file["elsewhere"] = h5py.ExternalLink(str(secret), "/x")
        layout = h5py.VirtualLayout((3,), np.float32)
        layout[:] = h5py.VirtualSource(str(secret), "x", (3,))
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("raw", (3,), np.float32, external=[(str(secret), 0, 12)])
        file["reference"] = np.array([file["a"].ref], h5py.ref_dtype)
        file["compound"] = np.zeros(2, [("a", "i4"), ("b", "f8")])
        file.create_dataset("never", (9,), np.float32)
        file.create_dataset("nothing", data=h5py.Empty("f4"))
        file.create_dataset("sparse", (90,), np.float32, chunks=(9,))[:9] = 1
        file.create_dataset("bomb", (1 << 34,), np.int8, chunks=(1 << 27,), compression="gzip")
        file["line\nbreak \x1b[1m"] = np.float32(1)


def test_nothing_leads_to_other_files(tmp_path):
    hostile(tmp_path / "x.h5", tmp_path / "secret.h5")
    (tmp_path / "read.py").write_text(
        "import sys, tfreader, h5py\n"
        "opened = []\n"
        "sys.addaudithook(lambda event, given: event == 'open' and opened.append(given[0]))\n"
        f"checkpoint = tfreader.open({str(tmp_path / 'x.h5')!r})\n"
        "for name in checkpoint:\n"
        "    try: checkpoint[name]\n"
        "    except tfreader.TFReaderError: pass\n"
    )
    trace = tmp_path / "trace"
    command = [sys.executable, str(tmp_path / "read.py")]
    if os.path.exists("/usr/bin/strace"):
        command = ["strace", "-f", "-e", "trace=openat,open", "-o", str(trace), *command]
    subprocess.run(command, check=True, timeout=60)
    if trace.exists():
        assert "secret.h5" not in trace.read_text()
    with tfreader.open(tmp_path / "x.h5") as checkpoint:
        assert checkpoint["a/w"].tolist() == [0, 1, 2]
        assert len(checkpoint) == 11
        refused = {
            "elsewhere": "external link",
            "virtual": "virtual dataset",
            "raw": "other files",
            "reference": "type reference",
            "compound": "no values",
            "never": "never written",
            "nothing": "null dataspace",
            "sparse": "9 of 10 chunks were never written",
            "bomb": "100 times",
        }
        for name, reason in refused.items():
            with pytest.raises(tfreader.TFReaderError, match=reason) as caught:
                checkpoint[name]
            assert name in str(caught.value)
            with pytest.raises(tfreader.TFReaderError):
                checkpoint.check_shards([name])
        assert "a soft link was not followed: 'soft'" in checkpoint.notes
        assert any("second link to a group" in note for note in checkpoint.notes)
    result = CliRunner().invoke(main, ["inspect", str(tmp_path / "x.h5")])
    assert "line\\nbreak \\x1b[1m" in result.output


def test_an_external_link_is_not_lost_in_silence(tmp_path):
    hostile(tmp_path / "x.h5", tmp_path / "secret.h5")
    with pytest.raises(tfreader.TFReaderError, match="elsewhere|virtual|compound|reference"):
        convert(tmp_path / "x.h5", tmp_path / "out.safetensors", rules=parse_rules(RULES, "r"))
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize("name", ["weights.h5", "model3.weights.h5", "model3.keras"])
def test_truncated_anywhere(tmp_path, name):
    whole = (KERAS / name).read_bytes()
    path = tmp_path / name
    for size in range(8, len(whole) - 1, len(whole) // 40):
        path.write_bytes(whole[:size])
        with pytest.raises(tfreader.TFReaderError):
            tfreader.open(path)


def test_an_archive_has_a_checksum(tmp_path):
    path = tmp_path / "x.keras"
    with tfreader.open(KERAS / "model3.keras") as checkpoint:
        kernel = checkpoint["inner/dense/0"].tobytes()
    whole = (KERAS / "model3.keras").read_bytes()
    assert whole.count(kernel) == 1
    path.write_bytes(whole.replace(kernel, bytes(len(kernel))))
    with (
        tfreader.open(path) as checkpoint,
        pytest.raises(tfreader.ChecksumError, match="checksum mismatch"),
    ):
        checkpoint.verify()


def zipped(path: Path, how: int, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, data in members.items():
            archive.writestr(name.replace("__", "."), data)


def test_a_compressed_archive(tmp_path):
    weights = (KERAS / "model3.weights.h5").read_bytes()
    zipped(tmp_path / "x.keras", zipfile.ZIP_DEFLATED, model__weights__h5=weights)
    with tfreader.open(tmp_path / "x.keras") as checkpoint:
        assert checkpoint["head/0"].tobytes() == values_of("3")[-2].tobytes()
        checkpoint.verify()


def test_a_compressed_archive_that_would_fill_the_disk(tmp_path):
    zipped(tmp_path / "x.keras", zipfile.ZIP_DEFLATED, model__weights__h5=bytes(80 << 20))
    with pytest.raises(tfreader.UnsupportedError, match="would take 83886080 bytes"):
        tfreader.open(tmp_path / "x.keras")


def test_a_chunk_that_inflates_to_more_than_it_should(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        made = file.create_dataset("w", (64,), np.int8, chunks=(64,), compression="gzip")
        import zlib

        made.id.write_direct_chunk((0,), zlib.compress(bytes(200 << 20)))
    with (
        tfreader.open(path) as checkpoint,
        pytest.raises(tfreader.CorruptCheckpointError, match="more than 64 bytes"),
    ):
        checkpoint["w"]


def test_a_string_that_would_be_larger_than_the_file(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["w"] = np.array(["ab", "c"], object)
        place = file["w"].id.get_offset()
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, place + 16, 0xFFFFFFF0)
    path.write_bytes(data)
    with (
        tfreader.open(path) as checkpoint,
        pytest.raises(tfreader.UnsupportedError, match="would take 4294967282 bytes of strings"),
    ):
        checkpoint["w"]


def test_a_tree_that_leads_back_to_itself(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        for i in range(1000):
            file[f"w{i:03}"] = np.float32(i)
    data = bytearray(path.read_bytes())
    nodes = [match.start() for match in re.finditer(b"TREE", data)]
    assert len(nodes) > 2
    (top,) = (node for node in nodes if data[node + 5] == max(data[n + 5] for n in nodes))
    for i in range(struct.unpack_from("<H", data, top + 6)[0]):
        struct.pack_into("<Q", data, top + 32 + 16 * i, top)
    path.write_bytes(data)
    with pytest.raises(tfreader.CorruptCheckpointError, match="makes no sense"):
        tfreader.open(path)


def test_a_heap_whose_objects_have_no_size(tmp_path):
    path = tmp_path / "x.weights.h5"
    data = bytearray((KERAS / "model3.weights.h5").read_bytes())
    heap = data.index(b"GCOL")
    struct.pack_into("<HHIQ", data, heap + 16, 0, 0, 0, 0)
    path.write_bytes(data)
    with pytest.raises(tfreader.CorruptCheckpointError, match="makes no sense"):
        tfreader.open(path)


def test_free_places_among_names_that_lead_to_themselves(tmp_path):
    path = tmp_path / "x.h5"
    data = bytearray((KERAS / "weights.h5").read_bytes())
    for match in re.finditer(b"HEAP", data):
        _, free, address = struct.unpack_from("<QQQ", data, match.start() + 8)
        if free != 1:
            struct.pack_into("<Q", data, address + free, free)
    path.write_bytes(data)
    with pytest.raises(tfreader.CorruptCheckpointError, match="makes no sense"):
        tfreader.open(path)


def test_variables_that_share_bytes_are_damage(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        for name in "ab":
            file[name] = np.arange(4, dtype=np.float32)
    with tfreader.open(path) as checkpoint:
        first, second = (checkpoint.info(name).offset for name in "ab")
    data = path.read_bytes().replace(
        struct.pack("<QQ", second, 16), struct.pack("<QQ", first + 4, 16)
    )
    path.write_bytes(data)
    with (
        tfreader.open(path) as checkpoint,
        pytest.raises(tfreader.ChecksumError, match="'a' and 'b' share bytes"),
    ):
        checkpoint.verify()


def test_more_objects_than_any_model_has(tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "MAX_OBJECTS", 20)
    with pytest.raises(tfreader.UnsupportedError, match="more than 20 groups and datasets"):
        tfreader.open(KERAS / "model2.h5")


def test_without_h5py(monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(tfreader.MissingExtraError, match=r"pip install .*\[h5\]"):
        tfreader.open(KERAS / "weights.h5")


def test_a_libhdf5_that_damaged_files_crash(monkeypatch):
    monkeypatch.setattr(h5py.version, "hdf5_version_tuple", (1, 14, 6))
    with pytest.raises(tfreader.UnsupportedError, match="pip install 'h5py>=3.16'"):
        tfreader.open(KERAS / "weights.h5")


def test_a_file_that_changes_meanwhile(tmp_path):
    path = tmp_path / "x.h5"
    path.write_bytes((KERAS / "weights.h5").read_bytes())
    with tfreader.open(path) as checkpoint:
        path.write_bytes(path.read_bytes() + b"x")
        with pytest.raises(tfreader.ChangedError):
            checkpoint["head/kernel"]


@pytest.mark.parametrize("name", ["model2.h5", "model3.keras"])
def test_behind_a_url_only_what_is_needed_is_fetched(web, tmp_path, name):
    path = web.folder / name
    path.write_bytes((KERAS / name).read_bytes())
    if name.endswith("h5"):
        with h5py.File(path, "a") as file:
            file["model_weights/large/large:0"] = np.zeros((1 << 20,), np.float32)
    with tfreader.open(KERAS / name) as local, tfreader.open(f"{web.url}/{name}") as checkpoint:
        for key in local:
            assert checkpoint[key].tobytes() == local[key].tobytes()
    report = convert(f"{web.url}/{name}", tmp_path / "x.safetensors", rules=parse_rules(RULES, "r"))
    assert "head" in " ".join(entry.target for entry in report.plan.entries)


def test_behind_a_url_groups_are_not_asked_for_one_by_one(web):
    with h5py.File(web.folder / "x.h5", "w") as file:
        for i in range(40):
            for name in "ab":
                file[f"bert/scope/bert/layer_._{i}/{name}/dense/kernel:0"] = np.zeros((200, 200))
    waiting = rounds = 0

    def slow(handler: Handler) -> bool:
        nonlocal waiting, rounds
        with web.lock:
            rounds += not waiting
            waiting += 1
        time.sleep(0.05)
        with web.lock:
            waiting -= 1
        return False

    web.fault = slow
    with tfreader.open(f"{web.url}/x.h5") as checkpoint:
        assert len(checkpoint) == 80
    assert len(web.requests) > 80
    assert rounds < len(web.requests) / 2


@pytest.mark.parametrize("name", ["model3.h5", "weights.h5", "model3.weights.h5"])
def test_what_groups_lead_to_is_all_told_ahead(name):
    data = (KERAS / name).read_bytes()
    told: set[int] = set()
    follow(data[:SUPERBLOCK], told.update, lambda start, size: data[start : start + size])
    with h5py.File(KERAS / name) as file:
        headers: list[int] = []
        file.visititems(lambda _, item: headers.append(h5py.h5o.get_info(item.id).addr))
    assert headers and told.issuperset(headers)
    assert all(match.start() in told for match in re.finditer(b"TREE|HEAP|SNOD", data))


def test_names_are_in_order():
    for path in KERAS.glob("*.[hk]*"):
        with tfreader.open(path) as checkpoint:
            assert all(a < b for a, b in pairwise(checkpoint))
