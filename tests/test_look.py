"""`tfreader inspect`, `show` and `diff`: looking at checkpoints."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import sys
import tracemalloc
import warnings
from html.parser import HTMLParser

import ml_dtypes
import numpy as np
import pytest
from bundle_writer import write_bundle
from click.testing import CliRunner
from conftest import BERT, DATA, KERAS

import tfreader
from tfreader.cli.main import main
from tfreader.mapping import compare, convert, make_plan, suggest
from tfreader.statistics import Statistics, statistics


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def on_terminal(width, *arguments):
    """The lines that a terminal of so many columns shows."""
    command = [sys.executable, "-m", "tfreader.cli.main", *map(str, arguments)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads
        child, terminal = pty.fork()
    if child == 0:
        os.environ |= {"COLUMNS": str(width), "PYTHONIOENCODING": "utf-8"}
        os.execv(sys.executable, command)
    output = b""
    try:
        while part := os.read(terminal, 1 << 16):
            output += part
    except OSError:  # how a terminal ends on Linux
        pass
    os.close(terminal)
    assert os.waitpid(child, 0)[1] == 0, output
    return output.decode().replace("\r\n", "\n").splitlines()


def test_on_a_terminal_layers_are_folded_and_a_pipe_has_a_line_each():
    piped = run("inspect", BERT, "--filter", "layer_.*/query/kernel").stdout.splitlines()[1:-1]
    assert [line.split()[0] for line in piped] == [
        "bert/encoder/layer_0/attention/self/query/kernel",
        "bert/encoder/layer_1/attention/self/query/kernel",
    ]
    lines = on_terminal(100, "inspect", BERT, "--filter", "layer_.*/query/kernel")
    assert lines[1].split()[:2] == ["bert/encoder/layer_{0...1}/attention/self/query/kernel", "2"]
    total = " ".join(lines[2:])  # in as many lines as the path of the checkpoint makes it
    assert " v2, 139 variables, " in total and " found 6 variables, " in total
    lines = on_terminal(200, "inspect", BERT, "--no-fold", "--filter", "layer_.*/query/kernel")
    assert [line.split()[0] for line in lines[1:3]] == [line.split()[0] for line in piped]


@pytest.mark.parametrize("width", [40, 80, 132])
@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", BERT],
        ["inspect", BERT, "--tree"],
        ["inspect", KERAS, "--stats", "--all"],
        ["inspect", KERAS, "--stats", "--tree"],
        ["show", BERT, "bert/embeddings/word_embeddings"],
        ["rules", KERAS / "rules.toml", "--tf_checkpoint", KERAS],
        ["verify", BERT],
    ],
)
def test_no_line_is_wider_than_the_terminal(width, arguments):
    lines = on_terminal(width, *arguments)
    assert max(map(len, lines)) <= width
    assert "" not in lines


def test_the_plan_fits_the_terminal_and_has_all_of_every_name(tmp_path):
    arguments = ["convert", "--tf_checkpoint", BERT, "--dry-run"]
    arguments += ["--pytorch_dump_output", tmp_path / "out"]
    lines = on_terminal(80, *arguments)
    at = lines.index("bert/encoder/layer_{0...1}/attention/output/LayerNorm/gamma")
    assert lines[at + 1].split()[1:] == ["copy", "[24]", "float32"] or lines[at + 2 :]
    joined = "".join(line.strip() for line in lines)
    assert "cls.predictions.transform.dense.weight" in joined
    assert all(len(line) <= 80 for line in lines if "tfreader " not in line and "--" not in line)


@pytest.mark.parametrize("width", [40, 60, 80])
def test_numbers_are_not_broken_on_a_narrow_terminal(width, tmp_path):
    values = np.random.default_rng(0).normal(0, 1e-3, (20, 30)).astype(np.float32)
    arrays = {"scope/" * 9 + "w": values, "i": np.array([-(2**63), 2**63 - 1])}
    write_bundle(tmp_path / "model", arrays)
    arguments = ("inspect", tmp_path / "model", "--stats")
    wide, narrow = (" ".join(on_terminal(w, *arguments)).split() for w in (200, width))
    numbers = {word for word in wide if re.fullmatch(r"-?[\d.]+(e[+-]\d+)?|float32|int64", word)}
    assert len(numbers) > 9 and numbers <= {*narrow}


def test_names_stand_alone_on_a_narrow_terminal(tmp_path):
    convert(BERT, tmp_path / "out")
    lines = on_terminal(70, "verify", tmp_path / "out", "--against", BERT)
    at = lines.index("bert.encoder.layer.{0...1}.attention.output.LayerNorm.weight")
    assert lines[at + 1] == "  equal"


def test_names_of_wide_letters_count_as_wide(tmp_path):
    write_bundle(
        tmp_path / "model", {f"層/{'漢字' * 20}/{i}": np.ones(2, np.float32) for i in "ab"}
    )
    for line in on_terminal(60, "inspect", tmp_path / "model"):
        assert len(line) + sum(ord(letter) > 0x3000 for letter in line) <= 60


def test_a_tree_counts_the_parameters_of_each_scope():
    lines = run("inspect", BERT, "--tree", "--depth", "2").stdout.splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines[1:-1]}
    weights = [
        info
        for info in tfreader.open(BERT).infos
        if not info.name.endswith(("adam_m", "adam_v")) and info.name.startswith("bert/encoder")
    ]
    total = sum(int(np.prod(info.shape)) for info in weights)
    assert rows["encoder/"][:2] == [str(len(weights)), f"{total:,}"]
    assert "layer_" not in " ".join(lines)
    deep = run("inspect", BERT, "--tree").stdout
    assert re.search(r"^    layer_\{0\.\.\.1\}/ ", deep, re.M)
    assert re.search(r"^    layer_1/ ", run("inspect", BERT, "--tree", "--no-fold").stdout, re.M)


def test_a_tree_of_layers_that_differ_does_not_show_them_as_one(tmp_path):
    tensors = {f"net/l_{i}/w": np.ones(3 if i == 5 else 2, np.float32) for i in range(8)}
    tensors["net"] = np.ones(1, np.float32)  # a variable that is called like a scope
    write_bundle(tmp_path / "model", tensors)
    lines = run("inspect", tmp_path / "model", "--tree").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == [
        *("net", "net/", "l_{0...4,6...7}/", "w", "l_5/", "w"),
    ]


def test_sorting(tmp_path):
    shapes = {"b_10": 3, "b_2": 5, "a": 4}
    write_bundle(tmp_path / "model", {n: np.zeros(s, np.float32) for n, s in shapes.items()})

    def order(*arguments):
        lines = run("inspect", tmp_path / "model", *arguments).stdout.splitlines()
        return [line.split()[0] for line in lines[1:-1]]

    assert order() == ["a", "b_10", "b_2"]
    assert order("--sort", "name") == ["a", "b_2", "b_10"]
    assert order("--sort", "size") == ["b_2", "a", "b_10"]
    assert order("--sort", "size", "--tree") == ["b_2", "a", "b_10"]
    assert order("--sort", "offset") == ["a", "b_10", "b_2"]


@pytest.mark.parametrize(
    "path",
    [DATA / "reader" / "dtypes", DATA / "reader" / "sharded", DATA / "v1" / "model.ckpt", BERT],
)
def test_statistics_are_those_of_numpy(path):
    data = json.loads(run("inspect", path, "--stats", "--json").stdout)
    with tfreader.open(path) as checkpoint:
        for variable in data["variables"]:
            values = checkpoint[variable["name"]].ravel()
            stats = variable["stats"]
            assert stats["count"] == values.size
            if variable["dtype"] == "string":
                values, of = np.array([len(value) for value in values]), "lengths"
            elif values.dtype.kind == "c":
                values, of = np.abs(values), "magnitudes"
            else:
                of = "values"
            values = values.astype(np.float64)
            expected = (
                (values.min(), values.max(), values.mean(), values.std()) if len(values) else ()
            )
            found = [stats[key] for key in ("min", "max", "mean", "std")]
            assert stats["of"] == of
            assert stats["zeros"] == np.count_nonzero(values == 0)
            assert found == pytest.approx(expected or [None] * 4, abs=1e-9)


@pytest.mark.parametrize(
    "dtype",
    [np.float16, np.float32, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e5m2],
    ids=lambda dtype: np.dtype(dtype).name,
)
def test_what_is_no_number_is_counted_and_left_out(tmp_path, dtype):
    values = np.array([np.nan, np.inf, -np.inf, -0.0, 1, 3, np.nan], np.float32).astype(dtype)
    write_bundle(tmp_path / "model", {"w": values, "none": values[:3]})
    with tfreader.open(tmp_path / "model") as checkpoint:
        assert statistics(checkpoint, "w").to_data() == {
            "of": "values",
            "count": 7,
            "nan": 2,
            "inf": 2,
            "zeros": 1,
            "min": 0,
            "max": 3,
            "mean": pytest.approx(4 / 3),
            "std": pytest.approx(np.std([0, 1, 3])),
        }
        none = statistics(checkpoint, "none").to_data()
        assert (none["min"], none["mean"], none["nan"], none["inf"]) == (None, None, 1, 2)
    output = run("inspect", tmp_path / "model", "--stats", "--json").stdout
    json.loads(output, parse_constant=pytest.fail)


def test_statistics_of_long_integers_are_exact(tmp_path):
    ends = np.array([-(2**63), 2**63 - 1])
    tensors = {"w": 2**60 + np.arange(100), "ends": ends, "one": np.array(2**60 + 1)}
    write_bundle(tmp_path / "model", tensors)
    with tfreader.open(tmp_path / "model") as checkpoint:
        w, ends, one = (statistics(checkpoint, name) for name in tensors)
    assert (w.min, w.max, w.mean) == (2**60, 2**60 + 99, 2**60)
    assert w.std == pytest.approx(np.arange(100).std())
    assert (ends.mean, ends.std) == (pytest.approx(-0.5, abs=1), 2.0**63)
    assert (one.max, one.std) == (2**60 + 1, 0)


def test_statistics_in_parts_are_those_of_all_at_once():
    values = np.random.default_rng(0).normal(1e4, 1e-2, 10_007)  # where squares cancel
    whole, parts, other = Statistics(), Statistics(), Statistics()
    whole.add(values)
    for start in range(0, len(values), 997):
        target = parts if start < 5000 else other
        target.add(values[start : start + 997])
    parts.merge(other)
    assert parts.to_data().keys() == whole.to_data().keys()
    assert (parts.count, parts.min, parts.max) == (whole.count, whole.min, whole.max)
    assert parts.mean == pytest.approx(whole.mean, rel=1e-12)
    assert parts.std == pytest.approx(values.std(), rel=1e-9)
    large = Statistics()
    large.add(np.array([1e308, -1e308, 1e308]))
    assert large.max == 1e308
    assert large.mean is None or large.mean == pytest.approx(1e308 / 3)


def test_large_variables_are_not_held_in_memory(tmp_path):
    write_bundle(tmp_path / "model", {"w": np.ones((1 << 12, 1 << 12), np.float32)})
    tracemalloc.start()
    try:
        run("inspect", tmp_path / "model", "--stats")
        run("show", tmp_path / "model", "w")
        run("show", tmp_path / "model", "w", "--output", tmp_path / "w.npy")
        run("diff", tmp_path / "model", tmp_path / "model")
        assert tracemalloc.get_traced_memory()[1] < 40 << 20  # of 64 MB
    finally:
        tracemalloc.stop()
    assert np.load(tmp_path / "w.npy", mmap_mode="r").shape == (1 << 12, 1 << 12)


def damage(folder, offset):
    (data,) = folder.glob("*.data-*")
    contents = bytearray(data.read_bytes())
    contents[offset] ^= 1
    data.write_bytes(contents)


def test_statistics_name_what_is_damaged_and_show_the_rest(copy):
    folder = copy(BERT)
    damage(folder, 100)
    result = run("inspect", folder, "--stats", "--all", "--json", code=1)
    data = json.loads(result.stdout)
    variables, problems = data["variables"], data["problems"]
    assert not data["ok"] and "checksum mismatch" in problems[0]
    (damaged,) = (variable["name"] for variable in variables if variable["stats"] is None)
    assert damaged in result.stderr and "checksum mismatch" in result.stderr
    assert damaged in run("show", folder, damaged, code=1).stderr
    assert damaged in run("diff", folder, BERT, code=2).stderr


def test_a_long_name_pads_no_other_line_and_one_is_no_plural(tmp_path):
    w = np.ones(1, np.float32)
    write_bundle(tmp_path / "long", {"x" * 10_000: w, "y": w})
    write_bundle(tmp_path / "one", {"y": w})
    header, long, short, _ = run("inspect", tmp_path / "long").stdout.splitlines()
    assert len(long) > 10_000 and max(len(header), len(short)) < 300
    assert ", 1 variable, " in run("inspect", tmp_path / "one").stdout
    output = run("diff", tmp_path / "one", tmp_path / "long", code=1).stdout
    assert output.rstrip().endswith(": 1 variable the same, 1 only in B")


def test_json_without_stats_has_the_keys_that_it_had():
    (variable,) = json.loads(run("inspect", BERT, "--filter", "global_step", "--json").stdout)[
        "variables"
    ]
    assert list(variable) == [
        *("name", "dtype", "shape", "nbytes", "shard", "offset", "crc32c", "slices"),
        *("object_path", "full_name", "names", "training"),
    ]


def printed(output):
    """The numbers of an array that was printed whole."""
    return [float(word) for word in re.sub(r"[\[\]]", " ", output).split()]


def test_show_prints_rows():
    values = tfreader.open(BERT)["bert/embeddings/word_embeddings"]
    for rows, expected in {
        "0:2": values[0:2],
        "62:": values[62:],
        "-1:": values[-1:],
        "7": values[7:8],
        ":-63": values[:1],
    }.items():
        output = run("show", BERT, "bert/embeddings/word_embeddings", "--rows", rows).stdout
        first, _, numbers = output.split("\n", 2)
        assert f"float32 {list(expected.shape)}".replace("(", "[") in first
        assert printed(numbers) == pytest.approx(expected.ravel(), abs=1e-7)


def test_show_leaves_out_the_middle_as_numpy_does():
    values = tfreader.open(BERT)["bert/embeddings/word_embeddings"]
    output = run("show", BERT, "bert/embeddings/word_embeddings").stdout
    with np.printoptions(threshold=1000, linewidth=100):
        assert output.split("\n", 2)[2] == f"{values}\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["bert/pooler/dense/kernal"], 1, "near: bert/pooler/dense/kernel"),
        (["pooler/dense/kernel"], 1, "near: bert/pooler/dense/kernel"),
        (["bert.pooler.dense.kernel"], 1, "near: bert/pooler/dense/kernel"),
        (["bert/pooler/dense/kernel:0"], 1, "near: bert/pooler/dense/kernel"),
        (["bert/pooler"], 1, "near: bert/pooler/dense/bias, bert/pooler/dense/kernel"),
        (["global_step", "--rows", "0:1"], 1, "a scalar, without rows"),
        (["bert/pooler/dense/bias", "--rows", "24:30"], 1, "has 24 rows"),
        (["bert/pooler/dense/bias", "--rows", "5:2"], 1, "has 24 rows"),
        (["bert/pooler/dense/bias", "--rows", "24"], 1, "has 24 rows"),
        (["bert/pooler/dense/bias", "--rows", "a"], 2, "expected A:B"),
        (["bert/pooler/dense/bias", "--rows", ""], 2, "given nothing"),
        (["bert/pooler/dense/bias", "--rows", "0:5:2"], 2, "expected A:B"),
        (["bert/pooler/dense/bias", "--output", "x.txt"], 1, ".npy"),
        (["bert/pooler/dense/bias", "--output", "s3://bucket"], 1, ".npy"),
    ],
)
def test_show_refuses(arguments, code, said, tmp_path, monkeypatch):
    result = run("show", BERT, *arguments, code=code)
    assert said in result.stderr
    assert result.stdout == ""


def test_show_saves_any_type(tmp_path):
    folder = tmp_path / "floats"
    tensors = {
        "bf": np.arange(6, dtype=np.float32).reshape(2, 3).astype(ml_dtypes.bfloat16),
        "f8": np.arange(4, dtype=np.float32).astype(ml_dtypes.float8_e4m3fn),
        "f8_e5m2": np.arange(4, dtype=np.float32).astype(ml_dtypes.float8_e5m2),
    }
    write_bundle(folder / "model", tensors)
    for path in (DATA / "reader" / "dtypes", DATA / "v1" / "model.ckpt", folder / "model"):
        with tfreader.open(path) as checkpoint:
            for name in checkpoint:
                output = tmp_path / "x.npy"
                said = run("show", path, name, "--output", output).stdout
                saved, values = np.load(output), checkpoint[name]
                assert saved.shape == values.shape
                assert saved.tolist() == values.astype(saved.dtype).tolist()
                own = values.dtype.isbuiltin == 1
                assert own or (saved.dtype == np.float32 and "holds the same values" in said)
    run("show", BERT, "bert/pooler/dense/kernel", "--rows", "3:5", "--output", tmp_path / "r.npy")
    assert np.array_equal(
        np.load(tmp_path / "r.npy"), tfreader.open(BERT)["bert/pooler/dense/kernel"][3:5]
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["floats", "r.npy", "x.npy"]


def test_show_takes_names_as_they_are_listed(tmp_path):
    names = ["a\u202eb", "line\nbreak", "l_{0...1}", "\\x", "x"]
    write_bundle(tmp_path / "model", {name: np.ones(2, np.float32) for name in names})
    for fold in ("--fold", "--no-fold"):
        listed = run("inspect", tmp_path / "model", fold).stdout.splitlines()[1:-1]
        for line in listed:
            name = line.split()[0]
            said = run("show", tmp_path / "model", name).stdout
            assert said.startswith(f"{name}: float32 [2]".replace("\\{", "{").replace("\\}", "}"))


def test_nothing_is_saved_over_what_is_read(copy):
    folder = copy(DATA / "gpt")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    result = run("show", folder, "model/clf/w", code=1)  # what is there is told
    result = run("show", folder, "model/we/tokens", "--output", folder / "params_0.npy", code=1)
    assert "would be overwritten" in result.stderr
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_show_json():
    data = json.loads(run("show", KERAS, "dense_1/bias", "--json").stdout)
    assert data["values"] == tfreader.open(KERAS)["dense_1/bias"].tolist()
    assert data["shape"] == [2]
    text = json.loads(run("show", DATA / "reader" / "dtypes", "text", "--json").stdout)
    assert text["values"] == [tfreader.open(DATA / "reader" / "dtypes")["text"][0].decode()]


def pair(tmp_path, a, b):
    for name, tensors in {"a": a, "b": b}.items():
        write_bundle(tmp_path / name / "model", tensors)
    return tmp_path / "a", tmp_path / "b"


def test_diff_says_what_differs(tmp_path):
    w = np.arange(6, dtype=np.float32).reshape(2, 3)
    other = w.copy()
    other[1, 2] += 0.5
    nan = np.array([np.nan, 1], np.float32)
    a, b = pair(
        tmp_path,
        {"same": w, "nan": nan, "value": w, "shape": w, "dtype": w, "mine": w},
        {"same": w, "nan": nan, "value": other, "shape": w.T, "dtype": w.astype(float), "its": w},
    )
    output = run("diff", a, b, code=1).stdout
    lines = {line.split("  ")[0]: line for line in output.splitlines()}
    assert "[1, 2]" in lines["values"] and "1 of 6, by at most 0.5" in lines["values"]
    assert "float32 [2, 3]" in lines["shape"] and "float32 [3, 2]" in lines["shape"]
    assert "float64 [2, 3]" in lines["dtype"]
    assert "mine" in lines["only in A"] and "its" in lines["only in B"]
    assert "2 variables the same, 3 different, 1 only in A, 1 only in B" in output
    data = json.loads(run("diff", a, b, "--json", code=1).stdout)
    assert not data["ok"]
    assert {each["name"]: each["kinds"] for each in data["differences"]} == {
        "value": ["values"],
        "shape": ["shape"],
        "dtype": ["dtype"],
        "mine": ["only in A"],
        "its": ["only in B"],
    }


def test_diff_by_tolerance_names_and_filter(tmp_path):
    w = np.ones(1000, np.float32)
    a, b = pair(tmp_path, {"w": w, "x": w}, {"w": w * np.float32(1.001), "x": w})
    assert run("diff", a, a).stdout.rstrip().endswith("2 variables the same")
    run("diff", a, b, code=1)
    run("diff", a, b, "--rtol", "0.01")
    run("diff", a, b, "--atol", "0.01")
    run("diff", a, b, "--atol", "0.0001", code=1)
    run("diff", a, b, "--filter", "x")
    assert run("diff", a, b, "--quiet", code=1).stdout == ""
    for data in b.glob("*.data-*"):
        data.unlink()
    assert "values of 2 not compared" in run("diff", a, b, "--names-only").stdout
    run("diff", a, b, code=2)
    run("diff", a, tmp_path / "none", code=2)
    run("diff", a, code=2)


def test_diff_of_another_type_and_of_infinities(tmp_path):
    w = np.array([1, 2, np.inf], np.float32)
    half = w.astype(ml_dtypes.bfloat16)
    a, b = pair(tmp_path, {"w": w}, {"w": half})
    run("diff", a, b, code=1)
    run("diff", a, b, "--ignore-dtype")
    a, b = pair(tmp_path, {"w": w}, {"w": np.array([1, 2, 3], np.float32)})
    result = run("diff", a, b, "--rtol", "10", "--atol", "10", code=1)
    assert "1 of 3, by at most inf at [2]" in result.stdout
    data = run("diff", a, b, "--json", code=1).stdout
    json.loads(data, parse_constant=pytest.fail)
    large = np.array([1 << 62, 5])
    a, b = pair(tmp_path, {"w": large}, {"w": large + np.array([1, 0])})
    assert "1 of 2" in run("diff", a, b, code=1).stdout


@pytest.mark.parametrize(
    "dtype", [np.float16, np.float32, np.float64, np.int32, np.int64, ml_dtypes.bfloat16]
)
def test_diff_compares_values_of_every_type(tmp_path, dtype):
    w = np.arange(4).astype(dtype)
    a, b = pair(tmp_path, {"w": w}, {"w": w[::-1].copy()})
    assert "4 of 4, by at most 3 at [0]" in run("diff", a, b, code=1).stdout


def test_diff_of_long_integers_and_doubles_is_exact(tmp_path):
    whole = [2**53 + 1, 2**53, 2**63 - 1, -(2**63)]
    a, b = pair(tmp_path, {"w": np.array(whole)}, {"w": np.array(whole, np.float64)})
    said = run("diff", a, b, "--ignore-dtype", code=1).stdout
    assert "2 of 4, by at most 1 at [0]" in said
    assert "2 of 4" in run("diff", b, a, "--ignore-dtype", code=1).stdout
    a, b = pair(tmp_path, {"w": np.array(whole[1::2])}, {"w": np.array(whole[1::2], np.float64)})
    run("diff", a, b, "--ignore-dtype")


def test_diff_does_not_call_the_same_what_it_did_not_compare(tmp_path):
    dtypes = DATA / "reader" / "dtypes"
    (text,) = [info for info in tfreader.open(dtypes).infos if info.dtype == "string"]
    write_bundle(tmp_path / "b" / "model", {text.name: np.ones(text.shape, np.float32)})
    only_text = ("--filter", f"^{text.name}$")
    said = run("diff", dtypes, tmp_path / "b", "--ignore-dtype", *only_text, code=1).stdout
    assert "0 variables the same, 1 different" in said
    result = run("diff", dtypes, tmp_path / "b", "--filter", "no such", code=2)
    assert "--filter 'no such' finds no variable of A or B" in result.stderr


def test_diff_of_partitioned_and_text_and_other_formats(tmp_path):
    for path in ("reader/slices", "reader/dtypes", "v1/model.ckpt", "gpt"):
        run("diff", DATA / path, DATA / path)
    w = np.arange(60, dtype=np.float32).reshape(6, 10)
    write_bundle(tmp_path / "whole", {"w": w})
    write_bundle(tmp_path / "sliced", {"w": w}, sliced=True)
    run("diff", tmp_path / "whole", tmp_path / "sliced")


def test_diff_finds_variables_by_any_of_their_names(tmp_path):
    with tfreader.open(KERAS) as checkpoint:
        names = ("conv1d/kernel", "dense/bias")
        write_bundle(tmp_path / "named", {name: checkpoint[name] for name in names})
    output = run("diff", tmp_path / "named", KERAS, "--filter", "^(conv1d/kernel|dense/bias)$")
    assert "2 variables the same" in output.stdout


def test_what_python_prints_is_a_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(BERT, "bert")
    shutil.copytree(KERAS, "keras")
    report = convert("bert", "out")
    suggestion = suggest("keras")
    compared = compare("out", "bert")
    with tfreader.open("bert") as checkpoint, tfreader.open("keras") as keras:
        for each in (checkpoint, report, report.plan, suggestion, keras.object_graph, compared):
            line = repr(each)
            assert "\n" not in line and len(line) < 300
            assert line.startswith(f"<{type(each).__name__}")
    assert "BertForPreTraining" in repr(report) and "-> 'out'" in repr(report)
    assert "46 tensors" in repr(report.plan)


class Cells(HTMLParser):
    """The texts of a table's cells, and every element of the page."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.texts = set(), []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.add(tag)
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_data(self, data):
        self.texts.append(data)


def test_notebooks_show_tables_that_names_cannot_leave(tmp_path):
    hostile = "<script>alert(1)</script>/</td>&amp;\u202e"
    tensors = {f"{hostile}/{i}": np.ones(2, np.float32) for i in (0, 5, 11)}
    write_bundle(tmp_path / "model", tensors)
    with tfreader.open(tmp_path / "model") as checkpoint:
        found = Cells(checkpoint._repr_html_())
    assert found.elements == {"table", "caption", "thead", "tbody", "tr", "th", "td", "bdi"}
    assert f"{hostile}/{{0,5,11}}" in found.texts
    plan = make_plan(tfreader.open(BERT))
    texts = Cells(plan._repr_html_()).texts
    assert "bert.encoder.layer.{0...1}.output.dense.weight" in texts
    report = convert(BERT, tmp_path / "out")
    assert str(tmp_path / "out" / "model.safetensors") in Cells(report._repr_html_()).texts
    (tmp_path / "out" / "config.json").write_text('{"model_type": "gpt2"}')
    texts = Cells(compare(tmp_path / "out", BERT)._repr_html_()).texts
    assert texts.index("problem") < texts.index("equal")
    assert "bert.encoder.layer.{0...1}.output.dense.weight" in texts
    with tfreader.open(KERAS) as keras:
        assert "dense/kernel" in Cells(keras._repr_html_()).texts


def test_averages_of_variables_that_are_not_there_have_lines_of_their_own(tmp_path):
    names = [f"net/l_{i}/w/ExponentialMovingAverage" for i in range(3)]
    write_bundle(tmp_path / "model", {name: np.ones(2, np.float32) for name in names})
    lines = run("inspect", tmp_path / "model").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == names
    assert "l_{0...2}/" in run("inspect", tmp_path / "model", "--tree").stdout


def test_what_lies_in_a_missing_shard_is_told_once(tmp_path):
    tensors = {name: np.ones(2, np.float32) for name in "abcd"}
    write_bundle(tmp_path / "model", tensors, num_shards=2)
    (tmp_path / "model.data-00001-of-00002").unlink()
    result = run("inspect", tmp_path / "model", "--stats", code=1)
    assert len(result.stderr.splitlines()) == 1
    assert "shard 1 of 2 is missing" in result.stderr
    assert sum(" 1 " in line for line in result.stdout.splitlines()) >= 2


def test_diff_compares_models_to_each_other_and_to_their_checkpoint(tmp_path):
    out, half = tmp_path / "out", tmp_path / "half.safetensors"
    convert(BERT, out)
    convert(BERT, half, dtype="float16")
    run("diff", out, out / "model.safetensors")
    run("diff", out, half, code=1)
    run("diff", out, half, "--atol", "1e-3", "--ignore-dtype")
    for a, b in ((BERT, out), (out, BERT)):
        assert "46 equal" in run("diff", a, b).stdout
        assert json.loads(run("diff", a, b, "--json").stdout)["ok"]
        assert "--against" in run("diff", a, b, "--names-only", code=2).stderr
    contents = bytearray((out / "model.safetensors").read_bytes())
    contents[-1] ^= 1
    (out / "model.safetensors").write_bytes(contents)
    result = run("diff", BERT, out, code=1)
    assert "different" in result.stdout
    (out / "model.safetensors").write_bytes(b"text")
    assert "model.safetensors" in run("diff", BERT, out, code=2).stderr


@pytest.mark.parametrize("damaged", ["model.index", "tf_model.h5"])
def test_diff_takes_no_weights_for_the_checkpoint_beside_them(tmp_path, damaged):
    convert(BERT, tmp_path / "out")
    run("diff", tmp_path / "out", tmp_path / "out")
    (tmp_path / "out" / damaged).write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(60))
    assert damaged in run("diff", tmp_path / "out", tmp_path / "out", code=2).stderr
