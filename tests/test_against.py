"""Plans held against what the PyTorch model has: what strict loading would refuse, and more."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from bundle_writer import write_bundle
from click.testing import CliRunner
from torch import nn

from tfreader import PlanError
from tfreader.cli.main import main
from tfreader.mapping import convert, load_state_dict
from tfreader.mapping.rules.rule_file import parse_rules

VARIABLES = {
    "conv/kernel": np.arange(54, dtype=np.float32).reshape(3, 3, 2, 3),
    "bn/gamma": np.ones(3, np.float32),
    "bn/beta": np.zeros(3, np.float32),
    "bn/moving_mean": np.zeros(3, np.float32),
    "bn/moving_variance": np.ones(3, np.float32),
    "embed/table": np.arange(20, dtype=np.float32).reshape(5, 4),
    "fc/kernel": np.arange(12, dtype=np.float32).reshape(3, 4),
    "fc/bias": np.zeros(4, np.float32),
}
LAYERS = """
[[layer]]
kind = "conv"
source = "conv"
target = "conv"

[[layer]]
kind = "batch_norm"
source = "bn"
target = "bn"

[[layer]]
kind = "dense"
source = "fc"
target = "fc"

[[rule]]
source = "embed/table"
target = "embed.weight"
"""


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, bias=False)
        self.bn = nn.BatchNorm2d(3)
        self.fc = nn.Linear(3, 4)
        self.embed = nn.Embedding(5, 4)
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight


@pytest.fixture
def prefix(tmp_path):
    return write_bundle(tmp_path / "model", VARIABLES)


def refused(prefix, rules, target):
    with pytest.raises(PlanError) as caught:
        load_state_dict(prefix, rules=parse_rules(rules, "rules.toml"), target=target)
    return "\n".join([str(caught.value), *caught.value.problems])


def test_what_fits_loads_strictly(prefix):
    """Tied names are given by either, and torch counts the batches itself."""
    net = Net()
    state_dict = load_state_dict(prefix, rules=parse_rules(LAYERS, "rules.toml"), target=net)
    net.load_state_dict(state_dict)
    assert torch.equal(net.head.weight, torch.from_numpy(VARIABLES["embed/table"]))
    other = LAYERS.replace("embed.weight", "head.weight")
    net.load_state_dict(load_state_dict(prefix, rules=parse_rules(other, "r"), target=net))
    with pytest.raises(RuntimeError, match=r"head\.weight"):  # without being told of the target
        net.load_state_dict(load_state_dict(prefix, rules=parse_rules(LAYERS, "r")))


def test_a_torch_file_has_the_tied_names_and_its_record_goes_without_the_target(prefix, tmp_path):
    rules = parse_rules(LAYERS, "rules.toml")
    for resume in (False, True):
        output = tmp_path / "out.pt"
        report = convert(prefix, output, rules=rules, target=Net(), record=True, resume=resume)
        assert report.skipped is resume
        assert "head.weight is tied to embed.weight" in "\n".join(report.notes)
    Net().load_state_dict(torch.load(output))
    convert(
        prefix, output, rules=parse_rules(LAYERS, "r"), target={**Net().state_dict()}, resume=True
    )


def test_missing_and_unexpected_tensors_with_what_is_near(prefix):
    rules = LAYERS.replace('target = "fc"', 'target = "fcs"')
    said = refused(prefix, rules, Net())
    assert "2 tensors that the target does not have: fcs.bias, fcs.weight" in said
    assert "near fcs.weight is fc.weight, which nothing gives" in said
    assert "2 tensors of the target that nothing gives: fc.weight [4, 3], fc.bias [4]" in said
    assert "near it is fcs.bias, which it does not have" in said


def test_a_tie_that_the_target_does_not_have(prefix):
    tie = '[[tie]]\nalias = "hed.weight"\ntarget = "embed.weight"\n'
    found = load_state_dict(prefix, rules=parse_rules(LAYERS + tie, "r"), target=Net())
    assert "hed.weight" not in found and "head.weight" in found


CONV = """
[[layer]]
kind = "conv"
source = "conv"
target = "conv"
"""
DENSE = """
[[layer]]
kind = "dense"
source = "fc"
target = "fc"
"""


def test_a_wrong_shape_with_the_operations_that_would_give_it(prefix):
    plain = LAYERS.replace(CONV, "").replace(DENSE, "")
    rules = f"{plain}[[rule]]\nsource = 'fc/kernel'\ntarget = 'fc.weight'\n"
    said = refused(prefix, rules, Net())
    assert (
        "fc.weight has the shape [3, 4], in the target [4, 3]: made of fc/kernel by copy; "
        'of this shape make it ops = ["dense"]' in said
    )
    conv = f"{plain}[[rule]]\nsource = 'conv/kernel'\ntarget = 'conv.weight'\n"
    assert 'ops = ["conv"]' in refused(prefix, conv, Net())
    net = Net()
    net.conv = nn.Conv2d(2, 4, 3, bias=False)
    said = refused(prefix, LAYERS, net)
    assert "conv.weight has the shape [3, 2, 3, 3], in the target [4, 2, 3, 3]: made of" in said
    assert "conv/kernel by conv" in said


def test_one_tensor_of_the_target_made_of_two_variables(tmp_path):
    variables = {**VARIABLES, "head/kernel": np.zeros((4, 5), np.float32)}
    prefix = write_bundle(tmp_path / "m", variables)
    rules = LAYERS + '[[layer]]\nkind = "dense"\nsource = "head"\ntarget = "head"\n'
    said = refused(prefix, rules, Net())
    assert "embed.weight of embed/table and head.weight of head/kernel; the last would" in said
    assert "[[drop]]" in said


def test_a_batch_norm_that_does_not_count(prefix):
    """Strict loading starts the counter of a batch norm, no other tensor of such a name."""
    names = {name: list(tensor.shape) for name, tensor in Net().state_dict().items()}
    del names["head.weight"]
    load_state_dict(prefix, rules=parse_rules(LAYERS, "r"), target=names)
    said = refused(prefix, LAYERS, {**names, "other.num_batches_tracked": []})
    assert "1 tensor of the target that nothing gives: other.num_batches_tracked []" in said


def test_the_command_line(prefix, tmp_path, monkeypatch):
    """Nothing is written where the target has other tensors."""
    (tmp_path / "rules.toml").write_text(LAYERS)
    names = {name: list(tensor.shape) for name, tensor in Net().state_dict().items()}
    del names["head.weight"]
    (tmp_path / "good.json").write_text(json.dumps(names))
    (tmp_path / "bad.json").write_text(json.dumps({**names, "more": [1]}))
    monkeypatch.chdir(tmp_path)
    command = ["convert", "--tf_checkpoint", prefix, "--pytorch_dump_output", "o.safetensors"]
    command += ["--rules", "rules.toml", "--target"]
    result = CliRunner().invoke(main, [*command, "bad.json"])
    assert result.exit_code == 1 and not (tmp_path / "o.safetensors").exists()
    assert "1 tensor of the target that nothing gives: more [1]" in result.output
    assert CliRunner().invoke(main, [*command, "good.json"]).exit_code == 0


def test_jobs_of_a_batch_take_a_target(prefix, tmp_path, monkeypatch):
    (tmp_path / "rules.toml").write_text(LAYERS)
    (tmp_path / "batched_net.py").write_text("import torch\ndef build(): return torch.nn.PReLU()")
    monkeypatch.chdir(tmp_path)
    job = {"tf_checkpoint": "model", "rules": "rules.toml", "pytorch_dump_output": "o.pt"}
    (tmp_path / "jobs.jsonl").write_text(json.dumps({**job, "target": "batched_net:build"}))
    result = CliRunner().invoke(main, ["batch", "jobs.jsonl", "--dry-run"])
    assert result.exit_code == 1 and "1 tensor of the target that nothing gives" in result.output
