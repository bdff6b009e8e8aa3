"""Rules that fit and yet compute something else: what the plan says of them must make it right."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from bundle_writer import write_bundle
from conftest import ROOT
from safetensors.torch import load_file

from tfreader.mapping import convert
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
    (order,) = (note for note in notes if "i, f, j, o" in note)
    of_bias = re.search(r"ops = \[(.*?)\] puts", order)[1]
    of_kernel = re.search(r"transposed, (.*)", order)[1] + ", "
    assert sum("forget_bias" in note for note in notes) == 1
    assert not any("+=" in note for note in notes)

    # then what is to be done with the result.
    rules = LSTM.format(order=of_kernel, order_of_bias=of_bias)
    notes, state = notes_of(tmp_path, tensors, parse_rules(rules, "second"))
    (forget,) = (note for note in notes if "forget_bias" in note)
    name, start, stop = re.search(r"(\S+)\[(\d+):(\d+)\] \+= 1\.0", forget).groups()
    assert not any("i, f, j, o" in note for note in notes)
    state[name][int(start) : int(stop)] += 1.0

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
    assert forget.endswith("bias: b[0:3] += 1.0, d[0:3] += 1.0")


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
        ("conv/kernel", (3, 2, 4, 5), ["transpose"], "axes = [3, 2, 0, 1]"),
        ("conv/kernel", (3, 3, 4, 5), ["transpose"], "axes = [3, 2, 0, 1]"),
        ("conv/kernel", (3, 3, 3, 4, 5), ["transpose"], "axes = [4, 3, 0, 1, 2]"),
        ("depthwise/kernel", (3, 2, 4, 1), ["transpose"], "axes = [2, 3, 0, 1] }]"),
        (
            "depthwise/kernel",
            (3, 2, 4, 2),
            ["transpose"],
            'axes = [2, 3, 0, 1] }, { op = "reshape", to = [8, 1, 3, 2] }]',
        ),
        ("depthwise/kernel", (3, 4, 1), ["transpose"], "axes = [1, 2, 0] }]"),
        (
            "attention/query/kernel",
            (8, 2, 4),
            ["transpose", {"op": "reshape", "to": [8, 8]}],
            'to = [8, 8] }, "transpose"]',
        ),
        (
            "attention/attention_output/kernel",
            (2, 4, 6),
            ["transpose", {"op": "reshape", "to": [6, 8]}],
            'to = [8, 6] }, "transpose"]',
        ),
        ("conv/kernel", (3, 2, 4, 5), ["transpose", {"op": "reshape", "to": [5, -1]}], "[3, 2, 0"),
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


def test_the_lstm_of_the_docs_is_converted_as_they_say(tmp_path, monkeypatch):
    text = (ROOT / "docs" / "rules.md").read_text()
    (rules,) = (block for block in re.findall("```toml\n(.*?)```", text, re.S) if "lstm" in block)
    (program,) = re.findall("```python\n(.*?)```", text, re.S)
    random = np.random.default_rng(0)
    size, width = 12, 8
    kernel = random.normal(size=(width + size, 4 * size)).astype(np.float32)
    bias = random.normal(size=4 * size).astype(np.float32)
    names = {"rnn/lstm_cell/kernel": kernel, "rnn/lstm_cell/bias": bias}
    write_bundle(tmp_path / "model.ckpt", names)
    (tmp_path / "rules.toml").write_text(rules)
    monkeypatch.chdir(tmp_path)
    done = {}
    exec(program, done)
    lstm = torch.nn.LSTM(width, size)
    state = done["state_dict"]
    lstm.load_state_dict({name.removeprefix("lstm."): t for name, t in state.items()})
    inputs = random.normal(size=(5, width)).astype(np.float32)
    with torch.no_grad():
        found = lstm(torch.from_numpy(inputs))[0][-1]
    np.testing.assert_allclose(found, run_cell(inputs, kernel, bias), atol=1e-6)
