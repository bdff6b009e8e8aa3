"""What docs/rules.md shows is run: its rule files, its tables of operations, its programs."""

from __future__ import annotations

import ast
import re
import shutil
import sys
import tomllib
from functools import partial

import numpy as np
import pytest
import torch
from bundle_writer import write_bundle
from conftest import BERT, KERAS, ROOT

import tfreader
from tfreader.checkpoint import part_of, whole
from tfreader.mapping import load_state_dict, make_plan
from tfreader.mapping.rules.layers import KINDS
from tfreader.mapping.rules.op_data import op_from_data
from tfreader.mapping.rules.ops import OPS, Split, Unstack, follow
from tfreader.mapping.rules.rule_file import _KEYS, _TABLES, parse_rules

TEXT = (ROOT / "docs" / "rules.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
FILES = [text for language, text in BLOCKS if language == "toml"]
PROGRAMS = [text for language, text in BLOCKS if language == "python"]
ROWS = re.findall(r"^\| `([^`]+)` \|.*\| (`\[[^|]*`) → (`\[[^|]*`) \|$", TEXT, re.MULTILINE)
BN = {"gamma": [3], "beta": [3], "moving_mean": [3], "moving_variance": [3]}
KERNEL, VECTOR = {"w": [3, 3, 2, 4]}, {"b": [4]}
SPECTRAL = {
    **KERNEL,
    **VECTOR,
    **{f"{name}/ema_b999900": shape for name, shape in (KERNEL | VECTOR).items()},
    "u0": [1, 4],
    "u1": [1, 18],
}
STANDING = {"accumulated_mean": [2], "accumulated_var": [2], "accumulation_counter": []}
CELL = {"kernel": [9, 24], "bias": [24]}


def below(scope, variables):
    return {f"{scope}/{name}": shape for name, shape in variables.items()}


# By something that a file has in it: the variables, the options, and tensors that come of it.
SHOWN = {
    "ema_b999900": (
        {
            **{
                f"module/Generator/{scope}/{name}": shape
                for scope in ("GBlock_1/conv0", "conv_2d")
                for name, shape in SPECTRAL.items()
            },
            **below("module/Generator/GBlock_1/CrossReplicaBN", STANDING),
        },
        {},
        {
            "conv.1.weight_orig": [4, 2, 3, 3],
            "conv.1.weight_v": [18],
            "colorize.weight_u": [4],
            "bn.1.running_var": [2],
            "bn.1.num_batches_tracked": [],
        },
    ),
    "encoder/layer_": (
        {"encoder/layer_3/dense/kernel": [4, 6], "encoder/layer_3/dense/bias": [6], "Variable": []},
        {},
        {"encoder.3.weight": [6, 4], "encoder.3.bias": [6]},
    ),
    "net/conv": (
        {"net/conv1/w": [3, 3, 3, 8], "net/conv2/w": [1]},
        {"overrides": {"channels": 3}},
        {"conv1.weight": [8, 3, 3, 3], "scale2": [1]},
    ),
    "resnet/block": (
        {
            "resnet/block2/unit_1/conv3/weights": [3, 3, 2, 3],
            **below("resnet/block2/unit_1/conv3/BatchNorm", BN),
        },
        {},
        {"layer2.0.conv3.weight": [3, 2, 3, 3], "layer2.0.bn3.running_var": [3]},
    ),
    "attention/key_a": (
        {
            "attention/query/kernel": [4, 2, 2],
            "attention/key_a/kernel": [4, 1, 2],
            "attention/key_b/kernel": [4, 1, 2],
        },
        {},
        {"attention.in_proj_weight": [8, 4]},
    ),
    "features/conv_": (
        {
            "features/conv_0/weights": [3, 3, 2, 3],
            **below("features/conv_0/BatchNorm", BN),
            **below("rnn/multi_rnn_cell/cell_0/basic_lstm_cell", CELL),
            **below("rnn/multi_rnn_cell/cell_1/basic_lstm_cell", {**CELL, "kernel": [12, 24]}),
        },
        {},
        {"features.0.conv.weight": [3, 2, 3, 3], "lstm.weight_ih_l1": [24, 6]},
    ),
    "num_batches_tracked": (
        {"conv_1/BatchNorm/moving_mean": [3]},
        {},
        {"bn.1.running_mean": [3], "bn.1.num_batches_tracked": []},
    ),
    "positions are made": (
        {
            "model/layer_0/kernel": [4, 5],
            "model/layer_1/kernel": [4, 5],
            "model/tokens": [7, 4],
            "other": [2],
        },
        {"overrides": {"num_layers": 2}},
        {"layers.1.weight": [5, 4], "positions": [6, 4], "temperature": []},
    ),
    "rnn/lstm_cell": (below("rnn/lstm_cell", CELL), {}, {"lstm.weight_ih_l0": [24, 3]}),
    "conv2d/0": (
        {
            "conv2d/0": [3, 3, 2, 3],
            "conv2d/1": [3],
            **{f"batch_normalization/{i}": [3] for i in range(4)},
        },
        {},
        {"conv.weight": [3, 2, 3, 3], "bn.running_mean": [3]},
    ),
}


def named(text):
    return next((name for name in SHOWN if name in text), text.split("\n")[0])


@pytest.mark.parametrize("text", FILES, ids=named)
def test_every_rule_file_makes_what_it_says(tmp_path, text):
    rules = parse_rules(text, "rules.md")
    if rules.extends is not None:
        shutil.copytree(BERT, tmp_path / "bert")
        with tfreader.open(tmp_path / "bert") as checkpoint:
            values = {name: checkpoint[name] for name in checkpoint if name.startswith("bert/")}
        hidden = values["bert/pooler/dense/bias"].size
        values["tags/kernel"] = np.ones((hidden, 3), np.float32)
        values["tags/bias"] = np.ones(3, np.float32)
        prefix = write_bundle(tmp_path / "tags", values)
        config = tmp_path / "bert" / "bert_config.json"
        with tfreader.open(prefix) as checkpoint:
            plan = make_plan(checkpoint, rules=rules, config=config)
        assert plan.config["problem_type"] == "multi_label_classification"
        assert {"classifier.weight", "classifier.bias"} <= {e.target for e in plan.entries}
        return
    variables, options, expected = SHOWN[named(text)]
    values = {name: np.ones(shape, np.float32) for name, shape in variables.items()}
    made = load_state_dict(write_bundle(tmp_path / "m", values), rules=rules, **options)
    shapes = {name: list(tensor.shape) for name, tensor in made.items()}
    assert expected.items() <= shapes.items(), shapes


def test_every_key_is_shown():
    found = {key: set() for key in _TABLES}
    top = set()
    for text in FILES:
        data = tomllib.loads(text)
        top |= data.keys()
        for kind in found:
            for table in data.get(kind, []):
                found[kind] |= table.keys()
    # Of `family` and `[[architecture]]` the text says where they are explained.
    assert set(_KEYS) - top <= {"family", "architecture"}
    lacking = {kind: set(_TABLES[kind].keys) - keys for kind, keys in found.items()}
    del lacking["architecture"]
    assert all(f"`{key}`" in TEXT for keys in lacking.values() for key in keys), lacking
    assert lacking["rule"] == {"uncertain"}, lacking  # which docs/suggest.md shows


def test_every_kind_of_layer_is_named():
    assert all(f"`{kind}`" in TEXT for kind in KINDS.keys() - {"tf1_gru"})


def operation(text):
    return op_from_data(tomllib.loads(f"op = {text}")["op"])


def applied(ops, arrays):
    """What operations make of arrays."""
    if isinstance(ops[0], Split | Unstack):
        shape = arrays[0].shape
        pieces = ops[0].pieces(shape, 2) if isinstance(ops[0], Split) else ops[0].pieces(shape)
        return [made for steps in pieces for made in applied(steps, arrays)]
    reads = [partial(part_of, array) for array in arrays]
    (shape,), (read,) = follow(ops, [array.shape for array in arrays], reads)
    return [read(whole(shape))]


@pytest.mark.parametrize(("text", "given", "expected"), ROWS)
def test_every_operation_does_what_its_row_says(text, given, expected):
    op = operation(text)
    inputs, outputs = (
        [ast.literal_eval(x.strip("` ")) for x in side.split(" and ")] for side in (given, expected)
    )
    if type(op).__module__.endswith("kernels"):  # of which shapes are shown
        assert [list(op.shape(tuple(shape))) for shape in inputs] == outputs
        return
    found = applied([op], [np.array(values, np.float32) for values in inputs])
    assert [array.tolist() for array in found] == outputs


def test_every_operation_has_a_row():
    shown = {operation(text).name for text, _, _ in ROWS}
    assert shown == set(OPS)


def test_the_programs_run(monkeypatch):
    """Each from the root of a clone."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT)
    spaces = []
    for text in PROGRAMS:
        spaces.append({"__name__": "program"})
        monkeypatch.setitem(sys.modules, "program", type(sys)("program"))
        exec(compile(text, "rules.md", "exec"), spaces[-1])
    _, centred, softened = (space.get("state_dict") for space in spaces)
    assert abs(centred["projection.bias"].sum()) < 1e-6
    with tfreader.open(KERAS) as checkpoint:
        kernel = torch.from_numpy(checkpoint["dense/kernel"].T)
    torch.testing.assert_close(softened["dense.weight"], torch.nn.functional.softplus(kernel))
