"""Rule files suggested from names and shapes: right where they are certain, marked where not."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from bundle_writer import write_bundle
from click.testing import CliRunner

from tfreader.cli.main import main
from tfreader.errors import PlanError, RuleError
from tfreader.mapping import dump_rules, load_rules, load_state_dict, make_plan, suggest
from tfreader.mapping.families import open_source
from tfreader.mapping.rules.rule_file import parse_rules
from tfreader.mapping.target import TargetTensor

Arrays = dict[str, np.ndarray]
Model = tuple[Arrays, Arrays]
RANDOM = np.random.default_rng(16)


def values(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def conv(kernel: np.ndarray) -> np.ndarray:
    return kernel.transpose(3, 2, 0, 1)


def add_dense(model: Model, source: str, target: str, inputs: int, outputs: int) -> None:
    """A dense layer, and the Linear that it is."""
    kernel, bias = values(inputs, outputs), values(outputs)
    model[0].update({f"{source}/kernel": kernel, f"{source}/bias": bias})
    model[1].update({f"{target}.weight": kernel.T, f"{target}.bias": bias})


def add_norm(model: Model, source: str, target: str, size: int) -> None:
    names = ("gamma", "beta", "moving_mean", "moving_variance")
    leaves = ("weight", "bias", "running_mean", "running_var")
    for name, leaf in zip(names, leaves, strict=True):
        model[0][f"{source}/{name}"] = model[1][f"{target}.{leaf}"] = values(size)


def add_conv(model: Model, source: str, target: str, *shape: int) -> None:
    kernel = values(*shape)
    model[0][f"{source}/weights"] = kernel
    model[1][f"{target}.weight"] = conv(kernel)


class Tried:
    """What is suggested for a model, and which tensors it makes right."""

    def __init__(self, folder: Path, model: Model, order: Mapping[str, object] | None = None):
        self.variables, self.wanted = model
        self.path = str(write_bundle(folder / "in" / "model.ckpt", self.variables))
        names = order or self.wanted
        self.suggestion = suggest(
            self.path, {name: TargetTensor(self.wanted[name].shape, "float32") for name in names}
        )
        self.rules = folder / "rules.toml"
        self.suggestion.write(self.rules)

    @property
    def wrong(self) -> list[str]:
        pytest.importorskip("torch")
        made = load_state_dict(self.path, rules=str(self.rules), accept_uncertain=True)
        return [
            name
            for name, array in self.wanted.items()
            if not np.array_equal(made[name].numpy(), array)
        ]

    @property
    def hidden(self) -> set[str]:
        """What is wrong and not marked."""
        return {*self.wrong} - {*self.suggestion.uncertain}


def resnet() -> Model:
    model: Model = {}, {}
    add_conv(model, "net/conv1", "conv1", 7, 7, 3, 8)
    add_norm(model, "net/conv1/BatchNorm", "bn1", 8)
    for block, (before, size) in enumerate([(8, 4), (4, 6)], 1):
        for unit in (1, 2):
            for i in (1, 2):
                inputs = before if (unit, i) == (1, 1) else size
                own, name = f"net/block{block}/unit_{unit}", f"layer{block}.{unit - 1}"
                add_conv(model, f"{own}/conv{i}", f"{name}.conv{i}", 3, 3, inputs, size)
                add_norm(model, f"{own}/conv{i}/BatchNorm", f"{name}.bn{i}", size)
    return model


def test_reads_like_the_file_of_a_person(tmp_path):
    tried = Tried(tmp_path, resnet())
    assert not tried.suggestion.uncertain
    assert tried.wrong == []
    assert r"source = 'net/block(?P<block>\d+)/unit_(?P<unit>\d+)/conv(?P<conv>\d+)'" in (
        tried.suggestion.text
    )
    assert 'target = "layer{block}.{unit-1}.conv{conv}"' in tried.suggestion.text
    assert len(re.findall(r"^\[\[", tried.suggestion.text, re.M)) == 4


def test_numbers_of_a_sequential_are_arithmetic(tmp_path):
    model: Model = {}, {}
    for i, (inputs, outputs) in enumerate([(4, 9), (9, 7), (7, 2)]):
        scope = "pi/fully_connected" + (f"_{i}" if i else "")
        add_dense(model, scope, f"policy.{2 * i}", inputs, outputs)
    tried = Tried(tmp_path, model)
    assert tried.wrong == []
    assert not tried.suggestion.uncertain
    assert 'target = "policy.{2*i}"' in tried.suggestion.text


def swapped_dense() -> Model:
    model: Model = {}, {}
    for source, target in (("dense_1", "fc1"), ("dense", "fc2")):
        add_dense(model, source, target, 8, 8)
    add_dense(model, "dense_2", "head", 8, 3)
    return model


def swapped_norms() -> Model:
    model: Model = {}, {}
    add_dense(model, "dense", "fc", 8, 3)
    for source, target in (("layer_normalization_1", "norm1"), ("layer_normalization", "norm2")):
        for name, leaf in (("gamma", "weight"), ("beta", "bias")):
            model[0][f"{source}/{name}"] = model[1][f"{target}.{leaf}"] = values(8)
    return model


def attention() -> Model:
    model: Model = {}, {}
    names = {"dense": "wq", "dense_2": "wk", "dense_1": "wv", "dense_3": "wo"}
    for source, target in names.items():
        add_dense(model, f"attn/{source}", f"attn.{target}", 8, 8)
    add_dense(model, "out", "out", 8, 3)
    return model


def channels_last() -> Model:
    model: Model = {}, {}
    add_conv(model, "conv", "conv", 3, 3, 2, 4)
    add_dense(model, "fc", "fc", 36, 5)  # a model that flattens the channels last
    return model


def only_squares() -> Model:
    model: Model = {}, {}
    for name in ("c_attn", "c_proj"):
        add_dense(model, f"h0/{name}", f"h.0.{name}", 8, 8)
        model[1][f"h.0.{name}.weight"] = model[0][f"h0/{name}/kernel"]  # transformers' Conv1D
    return model


def mixed_squares() -> Model:
    model = only_squares()
    kernel, bias = values(8, 12), values(12)
    model[0].update({"h0/c_fc/kernel": kernel, "h0/c_fc/bias": bias})
    model[1].update({"h.0.c_fc.weight": kernel, "h.0.c_fc.bias": bias})
    add_dense(model, "head", "head", 8, 3)
    return model


def towers() -> Model:
    model: Model = {}, {}
    for source, target in (("tower_b", "left"), ("tower_a", "right")):
        for i in (1, 2):
            add_conv(model, f"{source}/conv{i}", f"{target}.conv{i}", 3, 3, 4, 4)
    return model


def twin() -> Model:
    model: Model = {}, {}
    add_dense(model, "target_q_func/fc", "net", 4, 8)
    model[0].update({"q_func/fc/kernel": values(4, 8), "q_func/fc/bias": values(8)})
    return model


def square_cell() -> Model:
    kernel, bias = values(12, 24), values(24)
    gates = kernel.reshape(12, 4, 6)[:, [0, 2, 1, 3]].reshape(12, 24)
    tensors = {
        "lstm.weight_ih_l0": gates[:6].T,
        "lstm.weight_hh_l0": gates[6:].T,
        "lstm.bias_ih_l0": bias.reshape(4, 6)[[0, 2, 1, 3]].reshape(-1),  # forget_bias=0.0
        "lstm.bias_hh_l0": np.zeros(24, np.float32),
    }
    return {"rnn/lstm_cell/kernel": kernel, "rnn/lstm_cell/bias": bias}, tensors


def up_path() -> Model:
    model: Model = {}, {}
    for i, target in enumerate(("up3", "up2", "up1")):
        add_conv(model, "up" + (f"_{i}" if i else ""), target, 2, 2, 4, 4)
    return model


def averaged() -> Model:
    model: Model = {}, {}
    add_dense(model, "fc", "fc", 4, 8)
    for leaf, name in (("kernel", "weight"), ("bias", "bias")):
        average = model[0][f"fc/{leaf}"] + 1
        model[0][f"fc/{leaf}/ExponentialMovingAverage"] = average
        model[1][f"fc.{name}"] = average.T
    return model


def background() -> Model:
    model: Model = {}, {}
    add_dense(model, "logits", "fc", 4, 8)
    model[1]["fc.weight"] = model[0]["logits/kernel"][:, :-1].T
    model[1]["fc.bias"] = model[0]["logits/bias"][:-1]
    return model


TRAPS = [
    *(swapped_dense, swapped_norms, attention, channels_last, only_squares, mixed_squares, towers),
    *(twin, square_cell, up_path, averaged, background),
]


@pytest.mark.parametrize("trap", TRAPS)
def test_what_no_name_tells_is_marked(tmp_path, trap):
    tried = Tried(tmp_path, trap())
    assert tried.suggestion.uncertain
    assert tried.hidden == set()
    with pytest.raises(RuleError, match="marked uncertain = true"):
        load_state_dict(tried.path, rules=str(tried.rules))


@pytest.mark.parametrize("trap", TRAPS)
def test_the_order_of_the_tensors_hides_nothing(tmp_path, trap):
    model = trap()
    for i, order in enumerate((sorted(model[1]), [*model[1]][::-1])):
        tried = Tried(tmp_path / str(i), model, dict.fromkeys(order))
        assert tried.hidden == set()


def test_words_of_both_sides_tell_equal_layers_apart(tmp_path):
    model: Model = {}, {}
    for source, target in (("pi", "actor"), ("vf", "critic")):
        add_dense(model, f"model/{source}/fc", f"{target}.fc", 8, 8)
        add_dense(model, f"model/{source}/out", f"{target}.out", 8, 3)
    tried = Tried(tmp_path, model)
    assert not tried.suggestion.uncertain
    assert tried.wrong == []


@pytest.mark.parametrize("bottom", ["", "gru."])
def test_both_biases_of_a_gru(tmp_path, bottom):
    kernel, recurrent, bias = values(7, 12), values(4, 12), values(2, 12)
    variables = {
        "gru/gru_cell/kernel": kernel,
        "gru/gru_cell/recurrent_kernel": recurrent,
        "gru/gru_cell/bias": bias,
    }

    def turned(array: np.ndarray) -> np.ndarray:
        return array.reshape(-1, 3, 4)[:, [1, 0, 2]].reshape(array.shape)

    tensors = {
        f"{bottom}weight_ih_l0": turned(kernel).T,
        f"{bottom}weight_hh_l0": turned(recurrent).T,
        f"{bottom}bias_ih_l0": turned(bias)[0],
        f"{bottom}bias_hh_l0": turned(bias)[1],
    }
    tried = Tried(tmp_path, (variables, tensors))
    assert not tried.suggestion.uncertain
    assert tried.wrong == []


def test_what_fits_nothing_is_left_out_and_what_lacks_is_marked(tmp_path):
    model: Model = {}, {}
    add_dense(model, "fc", "fc", 4, 8)
    model[0]["unused"] = values(5, 5, 5)
    model[1]["scale"] = values(11)
    tried = Tried(tmp_path, model)
    assert tried.suggestion.uncertain == ("scale",)
    assert "Left out, as no tensor is left for them: unused" in tried.suggestion.text
    assert tried.wrong == ["scale"]


def test_the_same_for_any_hash_seed(tmp_path):
    tried = Tried(tmp_path, resnet())
    again = suggest(tried.path, {n: TargetTensor(a.shape) for n, a in tried.wanted.items()})
    assert again.text.splitlines()[1:] == tried.suggestion.text.splitlines()[1:]


def test_a_skeleton_names_every_group_once(tmp_path):
    path = write_bundle(tmp_path / "model.ckpt", resnet()[0])
    suggestion = suggest(path)
    rules = parse_rules(suggestion.text, "skeleton")
    assert rules.uncertain
    with open_source(path, "auto") as checkpoint:
        plan = make_plan(checkpoint, rules=rules, accept_uncertain=True)
    assert {s for entry in plan.entries for s in entry.sources} == {*resnet()[0]}


def test_marks_are_kept_by_a_dump_and_refused(tmp_path):
    text = """
[[rule]]
source = "a"
target = "x"
uncertain = true

[[layer]]
kind = "dense"
source = "b"
target = "y"
uncertain = true
"""
    rules = parse_rules(text, "own.toml")
    assert rules.uncertain == ["x", "y.weight", "y.bias"]
    assert parse_rules(dump_rules(rules), "again").uncertain == rules.uncertain
    path = write_bundle(
        tmp_path / "model.ckpt", {"a": values(2), "b/kernel": values(2, 3), "b/bias": values(3)}
    )
    with open_source(path, "auto") as checkpoint:
        with pytest.raises(RuleError, match=r"own\.toml: 3 rules marked .* x, y\.weight, y\.bias"):
            make_plan(checkpoint, rules=rules)
        assert len(make_plan(checkpoint, rules=rules, accept_uncertain=True).entries) == 3


def test_command_line(tmp_path):
    variables, tensors = swapped_dense()
    write_bundle(tmp_path / "model.ckpt", variables)
    shapes = {name: {"shape": [*array.shape]} for name, array in tensors.items()}
    (tmp_path / "target.json").write_text(json.dumps(shapes))
    rules, checkpoint = str(tmp_path / "rules.toml"), str(tmp_path / "model.ckpt")

    def run(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, list(arguments))
        return result.exit_code, result.output

    target = str(tmp_path / "target.json")
    found = run("suggest", "--tf_checkpoint", checkpoint, "--target", target, "--output", rules)
    assert found == (0, f"{rules}: 6 tensors, 4 of them uncertain\n")
    assert load_rules(rules).uncertain
    output = str(tmp_path / "out.safetensors")
    given = ("--tf_checkpoint", checkpoint, "--rules", rules, "--pytorch_dump_output", output)
    code, said = run("convert", *given)
    assert code == 1
    assert "fc1" in said or "fc{" in said
    assert not Path(output).exists()
    assert run("convert", *given, "--accept-uncertain")[0] == 0
    assert run("suggest", "--tf_checkpoint", checkpoint, "--output", rules)[0] == 0
    nowhere = str(tmp_path / "no" / "rules.toml")
    code, said = run("suggest", "--tf_checkpoint", checkpoint, "--output", nowhere)
    assert (code, "cannot be written" in said) == (1, True)


def test_nothing_to_suggest_for(tmp_path):
    path = write_bundle(tmp_path / "model.ckpt", {"global_step": np.array(3, np.int64)})
    with pytest.raises(PlanError, match="no variable in it may be a weight"):
        suggest(path, {"x": TargetTensor((3,))})
