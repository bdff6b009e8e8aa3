"""The worked examples: what is converted by their rule files gives TensorFlow's outputs."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import ROOT
from safetensors.torch import load_file

from tfreader.cli.main import main
from tfreader.mapping import load_rules, load_state_dict

EXAMPLES = ["slim_cnn", "lstm_tagger", "keras_text"]


@pytest.fixture
def example(tmp_path, monkeypatch, request):
    """A copy of an example as the current directory, where its `model.py` is imported from."""
    shutil.copytree(ROOT / "examples" / request.param, tmp_path / request.param)
    monkeypatch.chdir(tmp_path / request.param)
    sys.modules.pop("model", None)
    yield request.param
    sys.modules.pop("model", None)


def outputs(state_dict):
    """What the example's module gives with these tensors, and what TensorFlow gave."""
    module = sys.modules["model"]
    model = module.build().eval()
    model.load_state_dict(state_dict)
    stored = np.load("forward.npz")
    with torch.no_grad():
        found = module.run(model, stored["inputs"]).numpy()
    return found, stored["outputs"][..., -found.shape[-1] :]  # without the background class


@pytest.mark.parametrize("example", EXAMPLES, indirect=True)
def test_outputs_are_those_of_tensorflow(example):
    command = ["--tf_checkpoint", ".", "--target", "model:build"]
    result = CliRunner().invoke(main, ["rules", "rules.toml", *command])
    assert result.exit_code == 0 and "as model:build has them" in result.output
    command += ["--rules", "rules.toml", "--pytorch_dump_output", "out.safetensors"]
    assert CliRunner().invoke(main, ["convert", *command]).exit_code == 0
    found, expected = outputs(load_file("out.safetensors"))
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=2e-6)


WRONG = [
    ("slim_cnn", "flatten = [4, 4, 12]", ""),
    ("slim_cnn", "start = 1 }", "stop = -1 }"),
    ("lstm_tagger", "forget_bias = 1.0", "forget_bias = 0.0"),
    ("lstm_tagger", "forget_bias = 1.0", 'forget_bias = 1.0\ngates = "ifgo"'),
    (
        "keras_text",
        'forward = "_l0"\nbackward = "_l0_reverse"',
        'forward = "_l0_reverse"\nbackward = "_l0"',
    ),
]


@pytest.mark.parametrize(("example", "right", "wrong"), WRONG, indirect=["example"])
def test_what_loads_strictly_and_is_wrong_shows_in_the_outputs(example, right, wrong):
    """As docs/rules.md says: names and shapes prove nothing of it."""
    with open("rules.toml") as file:
        text = file.read()
    assert right in text
    with open("wrong.toml", "w") as file:
        file.write(text.replace(right, wrong))
    state_dict = load_state_dict(".", rules="wrong.toml", target="model:build")
    found, expected = outputs(state_dict)
    assert np.abs(found - expected).max() > 0.01


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_small(name):
    folder = ROOT / "examples" / name
    assert sum(file.stat().st_size for file in folder.iterdir() if file.is_file()) < 100_000
    assert load_rules(folder / "rules.toml").rules
