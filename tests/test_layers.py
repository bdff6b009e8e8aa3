"""Layers by name: what torch computes with the tensors is what TensorFlow's documentation says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bundle_writer import write_bundle
from hypothesis import given
from hypothesis import strategies as st

import tfreader
from tfreader.mapping import load_state_dict, make_plan
from tfreader.mapping.rules.layers import KINDS
from tfreader.mapping.rules.op_data import op_from_data
from tfreader.mapping.rules.ops import Step
from tfreader.mapping.rules.rule_file import parse_rules

RANDOM = np.random.default_rng(0)


def values(*shape):
    return RANDOM.normal(size=shape).astype(np.float32)


def loaded(tmp_path, module, tensors, rules):
    """The module with the tensors that a rule file makes of variables, loaded strictly."""
    prefix = write_bundle(tmp_path / "m", tensors)
    module.load_state_dict(load_state_dict(prefix, rules=parse_rules(rules, "test")))
    return module.eval()


def layer(kind, source="layer", target="0", more=""):
    return f"[[layer]]\nkind = '{kind}'\nsource = '{source}'\ntarget = '{target}'\n{more}\n"


def run(module, *inputs):
    with torch.no_grad():
        return module(*map(torch.from_numpy, inputs))


def windows(image, size):
    """Of an image [rows, columns, channels], all squares of so many rows and columns."""
    return np.lib.stride_tricks.sliding_window_view(image, (size, size), (0, 1))


def test_a_convolution(tmp_path):
    kernel, bias, image = values(3, 3, 4, 5), values(5), values(8, 7, 4)
    module = torch.nn.Sequential(torch.nn.Conv2d(4, 5, 3))
    tensors = {"layer/weights": kernel, "layer/biases": bias}
    found = run(loaded(tmp_path, module, tensors, layer("conv")), image.transpose(2, 0, 1)[None])
    expected = np.einsum("xychw,hwco->oxy", windows(image, 3), kernel) + bias[:, None, None]
    np.testing.assert_allclose(found[0], expected, atol=1e-4)


def test_a_transposed_convolution(tmp_path):
    kernel, image = values(3, 3, 5, 4), values(4, 6, 4)
    module = torch.nn.Sequential(torch.nn.ConvTranspose2d(4, 5, 3, bias=False))
    made = loaded(tmp_path, module, {"layer/kernel": kernel}, layer("conv_transpose"))
    expected = np.zeros((6, 8, 5), np.float32)  # the gradient of a convolution
    for x, y in np.ndindex(4, 6):
        expected[x : x + 3, y : y + 3] += kernel @ image[x, y]
    found = run(made, image.transpose(2, 0, 1)[None])[0]
    np.testing.assert_allclose(found, expected.transpose(2, 0, 1), atol=1e-4)


def test_a_separable_convolution(tmp_path):
    depthwise, pointwise, image = values(3, 3, 4, 2), values(1, 1, 8, 5), values(8, 7, 4)
    module = torch.nn.Sequential(
        torch.nn.Sequential(
            torch.nn.Conv2d(4, 8, 3, groups=4, bias=False), torch.nn.Conv2d(8, 5, 1, bias=False)
        )
    )
    tensors = {"layer/depthwise_kernel": depthwise, "layer/pointwise_kernel": pointwise}
    made = loaded(tmp_path, module, tensors, layer("separable"))
    inner = np.einsum("xychw,hwcm->cmxy", windows(image, 3), depthwise).reshape(8, 6, 5)
    expected = np.einsum("cxy,co->oxy", inner, pointwise[0, 0])
    found = run(made, image.transpose(2, 0, 1)[None])[0]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_dense_layer_behind_a_flatten(tmp_path):
    kernel, bias, image = values(2 * 3 * 4, 5), values(5), values(2, 3, 4)
    module = torch.nn.Sequential(torch.nn.Linear(24, 5))
    tensors = {"layer/kernel": kernel, "layer/bias": bias}
    rules = layer("dense", more="flatten = [2, 3, 4]")
    found = run(loaded(tmp_path, module, tensors, rules), image.transpose(2, 0, 1).reshape(1, -1))
    np.testing.assert_allclose(found[0], image.reshape(-1) @ kernel + bias, atol=1e-5)


def test_a_dense_layer_in_front_of_an_image(tmp_path):
    kernel, bias, noise = values(5, 2 * 3 * 4), values(24), values(5)
    module = torch.nn.Sequential(torch.nn.Linear(5, 24), torch.nn.Unflatten(1, (4, 2, 3)))
    tensors = {"layer/kernel": kernel, "layer/bias": bias}
    rules = layer("dense", more="unflatten = [2, 3, 4]")
    found = run(loaded(tmp_path, module, tensors, rules), noise[None])[0]
    expected = (noise @ kernel + bias).reshape(2, 3, 4)
    np.testing.assert_allclose(found, expected.transpose(2, 0, 1), atol=1e-5)


def test_a_batch_norm_without_a_scale(tmp_path):
    beta, mean, variance, batch = values(4), values(4), values(4) ** 2, values(6, 4)
    tensors = {
        "layer/beta": beta,
        "layer/moving_mean": mean,
        "layer/moving_variance": variance,
        "layer/moving_mean/local_step": np.int64(3),
    }
    module = torch.nn.Sequential(torch.nn.BatchNorm1d(4, eps=1e-3))
    rules = "rest = 'of training'\n" + layer("batch_norm")
    found = run(loaded(tmp_path, module, tensors, rules), batch)
    np.testing.assert_allclose(found, (batch - mean) / np.sqrt(variance + 1e-3) + beta, atol=1e-5)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def run_lstm(inputs, kernel, bias, order, forget_bias):
    """Of [input rows, state rows] and the gates in that order: see tf.nn.rnn_cell.LSTMCell."""
    c = h = np.zeros(len(bias) // 4, np.float32)
    for x in inputs:
        gates = np.split(np.concatenate([x, h]) @ kernel + bias, 4)
        i, f, g, o = (gates[order.index(gate)] for gate in "ifgo")
        c = sigmoid(f + forget_bias) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
    return h


@pytest.mark.parametrize(
    ("kind", "order", "forget_bias", "leaves"),
    [
        ("lstm", "ifgo", 0.0, ("kernel", "recurrent_kernel", "bias")),
        ("baselines_lstm", "ifog", 0.0, ("wx", "wh", "b")),
        ("tf1_lstm", "igfo", 1.0, ("kernel", None, "bias")),
        ("tf1_lstm", "igfo", 0.0, ("weights", None, "biases")),
        ("tf1_lstm", "figo", 0.5, ("kernel", None, "bias")),
    ],
)
def test_an_lstm(tmp_path, kind, order, forget_bias, leaves):
    inputs, kernel, bias = values(5, 4), values(4 + 3, 12), values(12)
    tensors = {f"layer/{leaves[2]}": bias}
    if leaves[1] is None:
        tensors[f"layer/{leaves[0]}"] = kernel
    else:
        tensors |= {f"layer/{leaves[0]}": kernel[:4], f"layer/{leaves[1]}": kernel[4:]}
    more = f"forget_bias = {forget_bias}\ngates = '{order}'" if kind == "tf1_lstm" else ""
    module = torch.nn.Sequential(torch.nn.LSTM(4, 3))
    found, _ = run(loaded(tmp_path, module, tensors, layer(kind, more=more)), inputs)
    np.testing.assert_allclose(
        found[-1], run_lstm(inputs, kernel, bias, order, forget_bias), atol=1e-5
    )


def test_a_tf1_cell_without_its_forget_bias_is_refused():
    with pytest.raises(tfreader.RuleError, match=r"forget_bias = 1\.0"):
        parse_rules(layer("tf1_lstm"), "test")
    with pytest.raises(tfreader.RuleError, match="no weights make them equal"):
        parse_rules(layer("tf1_gru"), "test")


@pytest.mark.parametrize("kind", ["gru", "cudnn_gru"])
def test_a_gru_whose_reset_gate_comes_after(tmp_path, kind):
    inputs, kernel, recurrent, bias = values(5, 4), values(4, 9), values(3, 9), values(2, 9)
    h = np.zeros(3, np.float32)
    for x in inputs:  # https://keras.io/api/layers/recurrent_layers/gru, reset_after=True
        zx, rx, hx = np.split(x @ kernel + bias[0], 3)
        zh, rh, hh = np.split(h @ recurrent + bias[1], 3)
        z = sigmoid(zx + zh)
        h = z * h + (1 - z) * np.tanh(hx + sigmoid(rx + rh) * hh)
    stored = bias.reshape(-1) if kind == "cudnn_gru" else bias
    tensors = {"layer/kernel": kernel, "layer/recurrent_kernel": recurrent, "layer/bias": stored}
    module = torch.nn.Sequential(torch.nn.GRU(4, 3))
    found, _ = run(loaded(tmp_path, module, tensors, layer(kind)), inputs)
    np.testing.assert_allclose(found[-1], h, atol=1e-5)


def test_a_gru_whose_reset_gate_comes_before_is_refused(tmp_path):
    tensors = {
        "layer/kernel": values(4, 9),
        "layer/recurrent_kernel": values(3, 9),
        "layer/bias": values(9),
    }
    prefix = write_bundle(tmp_path / "m", tensors)
    with pytest.raises(tfreader.PlanError, match="reset_after=False"):
        load_state_dict(prefix, rules=parse_rules(layer("gru"), "test"))


def test_both_directions_of_a_layer_of_cudnn(tmp_path):
    tables = "[table.way]\nforward = ''\nbackward = '_reverse'\n"
    rules = tables + layer(
        "cudnn_lstm", "layer/(?P<way>forward|backward)", more="suffix = '_l0{way[way]}'"
    )
    tensors = {}
    for way in ("forward", "backward"):
        leaves = {"kernel": (4, 12), "recurrent_kernel": (3, 12), "bias": (24,)}
        tensors |= {f"layer/{way}/{leaf}": values(*shape) for leaf, shape in leaves.items()}
    inputs = values(5, 4)
    module = torch.nn.Sequential(torch.nn.LSTM(4, 3, bidirectional=True))
    found, _ = run(loaded(tmp_path, module, tensors, rules), inputs)
    for way, step, output in (("forward", 1, found[-1, :3]), ("backward", -1, found[0, 3:])):
        kernel = np.concatenate([tensors[f"layer/{way}/{k}"] for k in list(leaves)[:2]])
        bias = tensors[f"layer/{way}/bias"].reshape(2, 12).sum(0)
        expected = run_lstm(inputs[::step], kernel, bias, "ifgo", 0.0)
        np.testing.assert_allclose(output, expected, atol=1e-5)


def test_an_attention(tmp_path):
    heads, size, width = 2, 3, 6
    tensors = {}
    for part in ("query", "key", "value"):
        tensors[f"layer/{part}/kernel"] = values(width, heads, size)
        tensors[f"layer/{part}/bias"] = values(heads, size)
    tensors["layer/attention_output/kernel"] = values(heads, size, width)
    tensors["layer/attention_output/bias"] = values(width)
    inputs = values(5, width)
    q, k, v = (
        np.einsum("td,dhs->hts", inputs, tensors[f"layer/{part}/kernel"])
        + tensors[f"layer/{part}/bias"][:, None]
        for part in ("query", "key", "value")
    )
    scores = np.exp(np.einsum("hts,hus->htu", q, k) / np.sqrt(size))
    context = np.einsum("htu,hus->hts", scores / scores.sum(-1, keepdims=True), v)
    expected = np.einsum("hts,hsd->td", context, tensors["layer/attention_output/kernel"])
    module = torch.nn.MultiheadAttention(width, heads)
    rules = layer("attention", target="x").replace("'x'", "'a'")
    prefix = write_bundle(tmp_path / "m", tensors)
    state = load_state_dict(prefix, rules=parse_rules(rules, "test"))
    module.load_state_dict({name.removeprefix("a."): tensor for name, tensor in state.items()})
    found, _ = run(module.eval(), inputs, inputs, inputs)
    np.testing.assert_allclose(found, expected + tensors["layer/attention_output/bias"], atol=1e-5)


def test_every_kind_is_documented():
    from conftest import ROOT

    text = (ROOT / "docs/rules.md").read_text()
    assert [kind for kind in KINDS if f"`{kind}`" not in text and kind != "tf1_gru"] == []


def test_a_kind_that_there_is_not_and_a_key_that_it_has_not():
    with pytest.raises(tfreader.RuleError, match=r"\[\[layer\]\] 1: .*'conv' is meant"):
        parse_rules(layer("convv"), "test")
    with pytest.raises(tfreader.RuleError, match="forget_bias: only for tf1_lstm"):
        parse_rules(layer("conv", more="forget_bias = 1.0"), "test")


# Each operation with the shape of an input.
CASES = [
    ("transpose", (3, 4, 5)),
    ({"op": "permute", "axes": [1, -1, 0]}, (3, 4, 5)),
    ({"op": "reshape", "to": [6, -1]}, (3, 4, 5)),
    ({"op": "squeeze", "axis": 1}, (3, 1, 5)),
    ({"op": "unsqueeze", "axis": -1}, (3, 4)),
    ({"op": "repeat", "times": 3}, (3, 4)),
    ({"op": "pad", "axis": 1, "before": 2, "size": 9}, (3, 4)),
    ({"op": "reorder", "axis": -1, "blocks": [2, 0, 1]}, (3, 6)),
    ({"op": "flip", "axis": 0}, (3, 4)),
    ("conv", (3, 2, 4, 5)),
    ("conv", (3, 4, 5)),
    ("conv_transpose", (2, 3, 2, 4, 5)),
    ("depthwise", (3, 2, 4, 2)),
    ("dense", (1, 1, 4, 5)),
    ({"op": "dense", "flatten": [2, -1, 4]}, (24, 5)),
    ({"op": "dense", "flatten": [2, 2], "unflatten": [2, -1, 4]}, (4, 24)),
    ({"op": "channels_first", "sizes": [2, 3, -1], "axis": -2}, (2, 24, 3)),
    ("attention_in", (6, 2, 3)),
    ("attention_out", (2, 3, 6)),
    ("gru_bias", (2, 9)),
]


@pytest.mark.parametrize(("data", "shape"), CASES)
def test_an_operation_that_has_an_inverse_is_undone_by_it(data, shape):
    step = op_from_data(data)
    source = values(*shape)
    made = step.part(tuple(map(range, step.shape(shape))), shape, lambda box: source[cut(box)])
    inverse = step.inverse(shape)
    assert inverse.shape(made.shape) == shape
    back = inverse.part(tuple(map(range, shape)), made.shape, lambda box: made[cut(box)])
    np.testing.assert_array_equal(back, source)


PARTS = [
    *CASES,
    ({"op": "slice", "axis": 1, "start": -3, "stop": -1}, (3, 5)),
    ({"op": "slice", "axis": 1, "start": 2}, (3, 5)),
    ({"op": "cell_rows", "of": "state"}, (7, 12)),
    ({"op": "add", "axis": 0, "blocks": [0, 1.5, -2]}, (6, 2)),
    ({"op": "multiply", "value": 0.5}, (6, 2)),
]


@given(st.sampled_from(PARTS), st.data())
def test_a_part_of_a_result_is_that_part_of_the_whole(case, data):
    op, shape = case
    step = op_from_data(op)
    assert isinstance(step, Step)
    source = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    whole = step.shape(shape)
    every = step.part(tuple(map(range, whole)), shape, lambda box: source[cut(box)])
    ends = [sorted(data.draw(st.tuples(*[st.integers(0, size)] * 2))) for size in whole]
    box = tuple(range(*pair) for pair in ends)
    part = step.part(box, shape, lambda box: source[cut(box)])
    np.testing.assert_array_equal(part, every[cut(box)])


def cut(box):
    return tuple(slice(indices.start, indices.stop) for indices in box)


def converted(tmp_path, tensors, rules):
    prefix = write_bundle(tmp_path / "m", tensors)
    with tfreader.open(prefix) as checkpoint:
        plan = make_plan(checkpoint, rules=parse_rules(rules, "test"))
    return plan, load_state_dict(prefix, rules=parse_rules(rules, "test"))


def test_names_are_made_by_tables_and_arithmetic(tmp_path):
    rules = r"""
[table.bn]
gamma = "weight"
beta = "bias"
[[rule]]
source = 'unit(?:_(?P<u>\d+))?/conv_(?P<c>\d+)/BatchNorm/(?P<p>\w+)'
target = "layer.{u+0}.{2*c-2}.{bn[p]}"
[[rule]]
source = 'other/(?P<path>.*)'
target = "x.{dots(path)}"
"""
    tensors = {
        "unit/conv_1/BatchNorm/gamma": values(2),
        "unit_1/conv_3/BatchNorm/beta": values(3),
        "other/a/b": values(4),
    }
    _, found = converted(tmp_path, tensors, rules)
    assert {name: len(tensor) for name, tensor in found.items()} == {
        "layer.0.0.weight": 2,
        "layer.1.4.bias": 3,
        "x.a.b": 4,
    }
    tensors["unit_1/conv_3/BatchNorm/moving_mean"] = values(3)
    with pytest.raises(tfreader.PlanError, match=r"\[table\.bn\] has no 'moving_mean'"):
        converted(tmp_path, tensors, rules)
    tensors = {"unit/conv_0/BatchNorm/gamma": values(2), "other/a": values(1)}
    with pytest.raises(tfreader.PlanError, match=r"\{2\*c-2\} is -2"):
        converted(tmp_path, tensors, rules)


def test_values_of_several_variables(tmp_path):
    rules = """
[[rule]]
source = ["mean", "count"]
target = "mean"
ops = ["divide"]
[[rule]]
source = [{ source = "w", ops = ["dense"] }, { source = ["v", "v2"], ops = ["sum", "dense"] }]
target = "w"
ops = [{ op = "concat", axis = 0 }]
"""
    tensors = {
        "mean": values(4),
        "count": np.array([4], np.int64),
        "w": values(2, 3),
        "v": values(2, 1),
        "v2": values(2, 1),
    }
    plan, found = converted(tmp_path, tensors, rules)
    np.testing.assert_array_equal(found["mean"], tensors["mean"] / np.float32(4))
    expected = np.concatenate([tensors["w"].T, (tensors["v"] + tensors["v2"]).T])
    np.testing.assert_array_equal(found["w"], expected)
    assert {entry.operation for entry in plan.entries} == {
        "divide",
        "each(dense; sum, dense), concat(axis=0)",
    }
    tensors["count"] = np.array([0], np.int64)
    with pytest.raises(tfreader.RuleError, match="a divisor is zero"):
        converted(tmp_path, tensors, rules)


@pytest.mark.parametrize(
    ("dtype", "op", "message"),
    [
        (np.int32, '{ op = "add", value = 1.5 }', "whole numbers"),
        (np.int32, '{ op = "multiply", value = 2 }', "cannot be multiplied"),
        (np.float16, '{ op = "add", value = 1e6 }', "as large"),
        (np.float32, '{ op = "add", axis = 0, blocks = [0, 1, 2] }', "3 equal blocks"),
        (np.float32, '{ op = "add", value = 1, axis = 0 }', "either value, or axis and blocks"),
        (np.float32, '{ op = "reorder", axis = 0, blocks = [0, 2] }', "numbers 0 to 1, once"),
        (np.float32, '"conv"', "kernels"),
        (np.float32, '{ op = "dense", flatten = [2, 3] }', "kernels"),
        (np.float32, '{ op = "channels_first", sizes = [4] }', "sizes of all axes"),
        (np.float32, '{ op = "channels_first", sizes = [2, 2], axis = 1 }', "does not fit"),
    ],
)
def test_what_an_operation_is_not_for(tmp_path, dtype, op, message):
    rules = f"[[rule]]\nsource = 'x'\ntarget = 'y'\nops = [{op}]"
    with pytest.raises(tfreader.PlanError, match=message):
        converted(tmp_path, {"x": np.ones(4, dtype)}, rules)


def test_fills_beside_other_tensors(tmp_path):
    rules = r"""
[[rule]]
source = '(?P<i>\d)/moving_mean'
target = "bn.{i}.running_mean"
[[fill]]
like = '(?P<bn>bn\.\d)\.running_mean'
target = "{bn}.num_batches_tracked"
shape = []
value = 7
dtype = "int64"
reason = "TensorFlow does not count"
[[fill]]
like = '(?P<bn>bn\.\d)\.running_mean'
target = "{bn}.weight"
value = 0.5
reason = "as said"
"""
    _, found = converted(tmp_path, {"0/moving_mean": values(2), "1/moving_mean": values(3)}, rules)
    assert found["bn.1.num_batches_tracked"].item() == 7
    assert found["bn.1.num_batches_tracked"].dtype == torch.int64
    assert found["bn.1.weight"].tolist() == [0.5] * 3
    rules = rules.replace(r"like = '(?P<bn>bn\.\d)\.r", "like = '(?P<bn>none)\\.r")
    with pytest.raises(tfreader.PlanError, match="matches no tensor"):
        converted(tmp_path, {"0/moving_mean": values(2)}, rules)


def test_a_rule_takes_variables_of_a_rank_and_one_type_of_its_own(tmp_path):
    rules = """
rest = "the rest"
[[rule]]
source = '(?P<n>.)/w'
target = "{n}.conv"
ops = ["conv"]
only = { rank = 4 }
dtype = "float16"
[[rule]]
source = '(?P<n>.)/w'
target = "{n}.dense"
ops = ["dense"]
only = { shape = ["*", 2] }
"""
    tensors = {"a/w": values(3, 3, 1, 2), "b/w": values(3, 2), "c/w": values(3, 3)}
    plan, found = converted(tmp_path, tensors, rules)
    assert {name: str(tensor.dtype) for name, tensor in found.items()} == {
        "a.conv": "torch.float16",
        "b.dense": "torch.float32",
    }
    assert plan.dropped == {"c/w": "the rest"}
