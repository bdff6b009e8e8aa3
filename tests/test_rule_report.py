"""`tfreader rules FILE`: what a rule file is, and what it does to a checkpoint."""

from __future__ import annotations

import json

import numpy as np
import pytest
from bundle_writer import write_bundle
from click.testing import CliRunner

from tfreader.cli.main import main
from tfreader.mapping import dump_rules, load_rules
from tfreader.mapping.rules.rule_file import parse_rules

VARIABLES = {
    "net/conv_0/weights": np.ones((3, 3, 2, 4), np.float32),
    "net/conv_0/biases": np.ones(4, np.float32),
    "net/conv_1/weights": np.ones((3, 3, 4, 4), np.float32),
    "net/conv_1/biases": np.ones(4, np.float32),
    "net/Logits/weights": np.ones((1, 1, 4, 5), np.float32),
    "rnn/basic_lstm_cell/kernel": np.ones((9, 24), np.float32),
    "rnn/basic_lstm_cell/bias": np.ones(24, np.float32),
    "global_step": np.array(7, np.int64),
}
RULES = r"""
[[rule]]
source = 'net/conv_(?P<i>\d)/weights'
target = "conv.{i}.weight"
ops = ["conv"]

[[rule]]
source = 'net/conv_(?P<i>\d)/biases'
target = "conv.{i}.bias"

[[rule]]
source = 'net/Logits/weights'
target = "fc.weight"
ops = ["dense"]

[[layer]]
kind = "tf1_lstm"
source = "rnn/basic_lstm_cell"
target = "lstm"
forget_bias = 1.0
"""
NAMES = {
    "conv.0.weight": [4, 2, 3, 3],
    "conv.0.bias": [4],
    "conv.1.weight": [4, 4, 3, 3],
    "conv.1.bias": [4],
    "fc.weight": [5, 4],
    "lstm.weight_ih_l0": [24, 3],
    "lstm.weight_hh_l0": [24, 6],
    "lstm.bias_ih_l0": [24],
    "lstm.bias_hh_l0": [24],
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prefix = write_bundle(tmp_path / "model", VARIABLES)

    def check(rules, *arguments, code=0):
        (tmp_path / "rules.toml").write_text(rules)
        (tmp_path / "target.json").write_text(json.dumps(NAMES))
        command = ["rules", "rules.toml", "--tf_checkpoint", str(prefix), *arguments]
        result = CliRunner().invoke(main, command)
        assert result.exit_code == code, result.output
        return result.output

    return check


def test_a_file_alone_is_printed_as_the_rules_that_its_layers_are(tmp_path, run):
    run(RULES)
    result = CliRunner().invoke(main, ["rules", "rules.toml"])
    assert "[[layer]]" not in result.output and "lstm.weight_ih_l0" in result.output
    assert result.output == dump_rules(load_rules("rules.toml"))
    assert parse_rules(result.output, "printed").rules == load_rules("rules.toml").rules


def test_what_each_rule_takes_what_changes_and_what_is_left_out(run, tmp_path):
    said = run(RULES, "--target", "target.json")
    assert "takes 2 variables: net/conv_0/weights -> conv.0.weight [4, 2, 3, 3] by conv\n" in said
    assert "takes 1 variable: rnn/basic_lstm_cell/kernel -> lstm.weight_ih_l0 [24, 3]" in said
    assert "values change: lstm.bias_ih_l0: reorder" in said and "add(" in said
    assert "lstm.bias_hh_l0: filled with zeros" in said
    assert "left out" in said and "global_step" in said
    assert said.endswith("9 tensors, as target.json has them\n")
    for data in tmp_path.glob("model.data*"):  # names and shapes are all that is asked for
        data.unlink()
    assert run(RULES, "--target", "target.json") == said


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("net/Logits/weights", "net/logits/weights", "upper and lower case it matches net/Logits"),
        ("net/Logits/weights", "Logits/weights", "it matches inside net/Logits/weights"),
        (r"net/conv_(?P<i>\d)/biases", r"net/conv(?P<i>\d)/bias", "near it is net/conv_1/biases"),
        (
            'target = "fc.weight"',
            'target = "fc.weight"\nonly = { rank = 2 }',
            "matches net/Logits/weights [1, 1, 4, 5], which `only` does not let through",
        ),
    ],
)
def test_a_rule_that_takes_nothing_and_what_is_near(run, old, new, expected):
    said = run(RULES.replace(old, new), code=1)
    assert expected in said
    assert "nothing takes: net/" in said and "problem: " in said
    assert "tfreader: " in said  # the refusal that a conversion would be


def test_variables_that_nothing_takes(run):
    missing = RULES[RULES.index("[[rule]]\nsource = 'net/Log") :]
    said = run(missing, code=1)
    assert "nothing takes: net/conv_{0...1}/weights" in said
    assert "nothing takes: net/conv_{0...1}/biases" in said
    said = run(missing, "--ignore", "net/conv.*")
    assert "left out (ignored" in said and "nothing takes" not in said
    said = run(RULES + "[[drop]]\nsource = 'no_such'\nreason = 'none'\n")
    assert "leaves nothing out: [[drop]] no_such" in said


def test_what_does_not_fit_the_target(run):
    said = run(RULES.replace("fc.weight", "fcs.weight"), "--target", "target.json", code=1)
    assert "problem: tensor fcs.weight [5, 4] of net/Logits/weights: the target has none" in said
    assert "problem: tensor fc.weight [5, 4] of the target: nothing gives it" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rules.toml", "--target", "target.json"], "--target is for checking a rule file"),
        (["bert", "--ignore", "x"], "--ignore is for checking a rule file"),
        (["rules.toml", "--layout", "x"], "of families, not files"),
        (["no_such_family"], "unknown model type"),
        (["missing.toml"], "missing.toml: cannot be read"),
    ],
)
def test_what_cannot_be_asked(run, arguments, said):
    run(RULES)
    result = CliRunner().invoke(main, ["rules", *arguments])
    assert result.exit_code and said in result.output


def test_rules_that_are_marked_uncertain_are_shown_and_named(run):
    marked = RULES.replace('ops = ["dense"]', 'ops = ["dense"]\nuncertain = true')
    said = run(marked)
    assert "takes 1 variable: net/Logits/weights -> fc.weight" in said
    (line,) = (line for line in said.splitlines() if "uncertain" in line)
    assert line.startswith("marked uncertain: fc.weight: ") and "--accept-uncertain" in line
    assert "uncertain" not in run(RULES)
    data = json.loads(run(marked, "--json"))
    assert [rule["uncertain"] for rule in data["rules"]].count(True) == 1
