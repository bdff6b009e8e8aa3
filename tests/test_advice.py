"""Rules that fit and yet compute something else: what the plan says of them must make it right."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from bundle_writer import write_bundle
from conftest import ROOT
from safetensors.torch import load_file

from tfreader.mapping import convert, load_state_dict
from tfreader.mapping.rules.rule_file import parse_rules, rules_from_data

H, INPUT = 3, 4
LSTM = """
[[rule]]
source = 'rnn/(?:.*/)?(?P<cell>\\w*(?i:lstm)\\w*)(?P<linear>/Linear)?/(?:kernel|weights|Matrix)'
target = "lstm.weight_ih_l0"
ops = [{order}{{ op = "slice", axis = 0, start = 0, stop = 4 }}, "transpose"]
[[rule]]
source = 'rnn/(?:.*/)?(?P<cell>\\w*(?i:lstm)\\w*)(?P<linear>/Linear)?/(?:kernel|weights|Matrix)'
target = "lstm.weight_hh_l0"
ops = [{order}{{ op = "slice", axis = 0, start = 4, stop = 7 }}, "transpose"]
[[rule]]
source = 'rnn/(?:.*/)?(?P<cell>\\w*(?i:lstm)\\w*)(?P<linear>/Linear)?/(?:bias|biases|Bias)'
target = "lstm.bias_ih_l0"
ops = [{order_of_bias}]
[[fill]]
target = "lstm.bias_hh_l0"
shape = [12]
value = "zeros"
reason = "TensorFlow has one bias"
"""


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def run_cell(inputs, kernel, bias):
    """What tf.nn.rnn_cell.LSTMCell computes: see its documentation."""
    c = h = np.zeros(len(bias) // 4, np.float32)
    for x in inputs:
        i, j, f, o = np.split(np.concatenate([x, h]) @ kernel + bias, 4)
        c = sigmoid(f + 1.0) * c + sigmoid(i) * np.tanh(j)
        h = sigmoid(o) * np.tanh(c)
    return h


def notes_of(tmp_path, tensors, rules):
    prefix = write_bundle(tmp_path / "m", tensors)
    report = convert(prefix, tmp_path / "out.safetensors", rules=rules)
    return report.notes, load_file(tmp_path / "out.safetensors")


@pytest.mark.parametrize(
    ("kernel_name", "bias_name"),
    [
        ("rnn/multi_rnn_cell/cell_0/lstm_cell/kernel", "rnn/multi_rnn_cell/cell_0/lstm_cell/bias"),
        ("rnn/basic_lstm_cell/weights", "rnn/basic_lstm_cell/biases"),
        ("rnn/BasicLSTMCell/Linear/Matrix", "rnn/BasicLSTMCell/Linear/Bias"),
    ],
)
def test_what_is_said_of_a_cell_of_tensorflow_1_makes_it_right(tmp_path, kernel_name, bias_name):
    random = np.random.default_rng(0)
    kernel = random.normal(size=(INPUT + H, 4 * H)).astype(np.float32)
    bias = random.normal(size=4 * H).astype(np.float32)
    tensors = {kernel_name: kernel, bias_name: bias}

    # As one writes it first; the notes give the operations that are missing,
    rules = LSTM.format(order="", order_of_bias="")
    notes, _ = notes_of(tmp_path, tensors, parse_rules(rules, "first"))
    (order,) = (note for note in notes if "torch.nn.LSTM has" in note)
    reorder = re.search(r"(\{ op = .*?\}) puts", order)[1]
    assert sum("forget_bias" in note for note in notes) == 1
    assert not any("+=" in note for note in notes)

    # then what is to be done with the result,
    rules = LSTM.format(order=f"{reorder}, ", order_of_bias=reorder)
    notes, state = notes_of(tmp_path, tensors, parse_rules(rules, "second"))
    (forget,) = (note for note in notes if "forget_bias" in note)
    name, start, stop = re.search(r"(\S+)\[(\d+):(\d+)\] \+= 1\.0", forget).groups()
    assert not any("torch.nn.LSTM has" in note for note in notes)
    state[name][int(start) : int(stop)] += 1.0

    # or the rule that does it.
    add = re.search(r"(\{ op = \"add\".*?\})", forget)[1]
    rules = LSTM.format(order=f"{reorder}, ", order_of_bias=f"{reorder}, {add}")
    notes, same = notes_of(tmp_path, tensors, parse_rules(rules, "third"))
    assert not any("forget" in note for note in notes)
    torch.testing.assert_close(same, state, rtol=0, atol=0)

    lstm = torch.nn.LSTM(INPUT, H)
    lstm.load_state_dict({name.removeprefix("lstm."): t for name, t in state.items()})
    inputs = random.normal(size=(5, INPUT)).astype(np.float32)
    with torch.no_grad():
        found = lstm(torch.from_numpy(inputs))[0][-1]
    np.testing.assert_allclose(found, run_cell(inputs, kernel, bias), atol=1e-6)


def test_the_forget_gate_is_followed_through_what_is_done_with_the_bias(tmp_path):
    tensors = {
        f"{way}/lstm_cell/{leaf}": np.zeros(shape, np.float32)
        for way in ("fw", "bw")
        for leaf, shape in {"kernel": (7, 12), "bias": (12,)}.items()
    }
    rule = {"source": "(?P<way>fw|bw)/lstm_cell/kernel", "target": "{way}.kernel"}
    both = {
        "source": ["fw/lstm_cell/bias", "bw/lstm_cell/bias"],
        "target": ["a", "b", "c", "d"],
        "ops": [{"op": "concat", "axis": 0}, {"op": "split", "axis": 0}],
    }
    notes, _ = notes_of(tmp_path, tensors, rules_from_data({"rule": [rule, both]}, "test"))
    (forget,) = (note for note in notes if "forget_bias" in note)
    assert forget.endswith("b[0:3] += 1.0, d[0:3] += 1.0")


def test_cells_that_keep_their_forget_bias_are_not_spoken_of(tmp_path):
    cells = {
        "keras/lstm_cell": ("kernel", "recurrent_kernel", "bias"),
        "cell_0/cudnn_compatible_lstm_cell": ("kernel", "bias"),
        "dense": ("kernel", "bias"),
    }
    shapes = {"kernel": (7, 12), "recurrent_kernel": (3, 12), "bias": (12,)}
    tensors = {
        f"{cell}/{leaf}": np.zeros(shapes[leaf], np.float32)
        for cell, leaves in cells.items()
        for leaf in leaves
    }
    rules = rules_from_data({"rule": [{"source": "(?P<name>.*)", "target": "{name}"}]}, "test")
    notes, _ = notes_of(tmp_path, tensors, rules)
    assert not any("forget" in note for note in notes)


@pytest.mark.parametrize(
    ("name", "shape", "ops", "advice"),
    [
        ("conv/kernel", (3, 2, 4, 5), ["transpose"], 'write "conv"'),
        ("conv/kernel", (3, 3, 4, 5), ["transpose"], 'write "conv"'),
        ("conv/kernel", (3, 3, 3, 4, 5), ["transpose"], 'write "conv"'),
        ("depthwise/kernel", (3, 2, 4, 1), ["transpose"], '["depthwise"]'),
        ("depthwise/kernel", (3, 2, 4, 2), ["transpose"], '["depthwise"]'),
        ("depthwise/kernel", (3, 4, 1), ["transpose"], '["depthwise"]'),
        (
            "attention/query/kernel",
            (8, 2, 4),
            ["transpose", {"op": "reshape", "to": [8, 8]}],
            '["attention_in"]',
        ),
        (
            "attention/attention_output/kernel",
            (2, 4, 6),
            ["transpose", {"op": "reshape", "to": [6, 8]}],
            '["attention_out"]',
        ),
        ("conv/kernel", (3, 2, 4, 5), ["transpose", {"op": "reshape", "to": [5, -1]}], '"conv"'),
        # These are what is meant:
        ("conv1d/kernel", (3, 4, 5), ["transpose"], None),
        ("dense/kernel", (4, 5), ["transpose"], None),
        ("conv/kernel", (1, 1, 4, 5), ["transpose"], None),
        (
            "conv/kernel",
            (3, 2, 4, 5),
            ["transpose", {"op": "permute", "axes": [0, 1, 3, 2]}],
            None,
        ),
        (
            "conv/kernel",
            (3, 1, 4, 5),
            ["transpose", {"op": "squeeze", "axis": 2}],
            None,
        ),
        ("conv/kernel", (3, 2, 4, 5), [{"op": "permute", "axes": [3, 2, 0, 1]}], None),
        ("dense/kernel", (6, 5), [{"op": "reshape", "to": [2, 3, 1, 5]}, "transpose"], None),
    ],
)
def test_a_transpose_that_reverses_the_axes_of_a_kernel(tmp_path, name, shape, ops, advice):
    rules = rules_from_data({"rule": [{"source": name, "target": "x", "ops": ops}]}, "test")
    notes, _ = notes_of(tmp_path, {name: np.zeros(shape, np.float32)}, rules)
    said = [note for note in notes if "transpose" in note]
    assert len(said) == (advice is not None)
    if advice is not None:
        assert name in said[0]
        assert advice in said[0]


def test_the_lstm_of_the_docs_is_converted_as_they_say(tmp_path):
    text = (ROOT / "docs" / "rules.md").read_text()
    blocks = re.findall("```toml\n(.*?)```", text, re.S)
    (rules,) = (block for block in blocks if '"rnn/lstm_cell"' in block)
    random = np.random.default_rng(0)
    size, width = 12, 8
    kernel = random.normal(size=(width + size, 4 * size)).astype(np.float32)
    bias = random.normal(size=4 * size).astype(np.float32)
    names = {"rnn/lstm_cell/kernel": kernel, "rnn/lstm_cell/bias": bias}
    write_bundle(tmp_path / "model.ckpt", names)
    (tmp_path / "rules.toml").write_text(rules)
    by_rule = load_state_dict(tmp_path / "model.ckpt", rules=tmp_path / "rules.toml")
    lstm = torch.nn.LSTM(width, size)
    lstm.load_state_dict({name.removeprefix("lstm."): t for name, t in by_rule.items()})
    inputs = random.normal(size=(5, width)).astype(np.float32)
    with torch.no_grad():
        found = lstm(torch.from_numpy(inputs))[0][-1]
    np.testing.assert_allclose(found, run_cell(inputs, kernel, bias), atol=1e-6)
