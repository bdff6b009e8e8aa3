"""What a suggestion takes from beside names and shapes: TensorFlow's graph, order, signs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bundle_writer import write_bundle

import tfreader
from tfreader.errors import CorruptCheckpointError
from tfreader.mapping import suggest
from tfreader.mapping.suggesting.operations import Cell, Operations
from tfreader.mapping.target import TargetTensor
from tfreader.meta_graph import read_graph

DATA = Path(__file__).parent / "data" / "graph" / "model.ckpt"
Shapes = dict[str, tuple[int, ...]]


def suggested(folder: Path, variables: dict[str, np.ndarray], tensors: Shapes):
    path = write_bundle(folder / "model.ckpt", variables)
    return suggest(str(path), {n: TargetTensor(s, "float32") for n, s in tensors.items()})


def values(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).normal(size=shape).astype(np.float32)


def test_the_graph_tells_order_gates_forget_bias_and_flattens():
    found = Operations(read_graph(str(DATA)))
    assert found.created[:3] == ["zoom/w", "fc1/w", "fc2/w"]
    assert found.created[-3:] == ["own/wx", "own/wh", "own/b"]
    cells = {name: cell for name, cell in found.cells.items() if name.endswith(("bias", "/b"))}
    assert cells == {
        "rnn/multi_rnn_cell/cell_0/cell0/bias": Cell("ijfo", 0.5),
        "rnn/multi_rnn_cell/cell_1/cell1/bias": Cell("ijfo", 0.0),
        "own/b": Cell("ifoj", 0.0),
    }
    assert found.flattened["fc1/w"] == (6, 4, 5)
    assert found.flattened["fc2/w"] == ()
    assert found.flattened["own/wx"] is None


def test_what_the_graph_tells_is_not_uncertain(tmp_path):
    tensors = {
        "conv.weight": (5, 2, 3, 3),
        "fc1.weight": (60, 120),
        "fc2.weight": (6, 60),
        **lstm("lstm", "_l0", 6),
        **lstm("lstm", "_l1", 4),
        **lstm("own", "_l0", 4),
    }
    target = {name: TargetTensor(shape, "float32") for name, shape in tensors.items()}
    found = suggest(str(DATA), target)
    assert found.uncertain == ("fc1.weight",)  # the model may flatten the channels last
    assert "flatten = [6, 4, 5]" in found.text
    assert found.text.count("forget_bias = 0.5") == 1
    assert found.text.count("forget_bias = 0.0") == 1
    assert 'kind = "baselines_lstm"' in found.text


def lstm(name: str, end: str, inputs: int) -> Shapes:
    sizes = {"weight_ih": (16, inputs), "weight_hh": (16, 4), "bias_ih": (16,), "bias_hh": (16,)}
    return {f"{name}.{leaf}{end}": shape for leaf, shape in sizes.items()}


@pytest.mark.parametrize("damage", [b"\x12\x05\x0a\x09", b"\x12\x02\x0a\x07", b"<html>"])
def test_a_damaged_graph_is_refused(tmp_path, damage):
    path = tmp_path / "model.ckpt"
    path.with_name("model.ckpt.meta").write_bytes(damage)
    with pytest.raises(CorruptCheckpointError, match=r"model\.ckpt\.meta: not a graph"):
        read_graph(str(path))
    assert read_graph(str(tmp_path / "other.ckpt")) == []


def test_a_graph_in_a_circle_ends():
    loop = [
        tfreader.meta_graph.Operation(f"n{i}", op, (f"n{(i + 1) % 4}",) * 2, (1, 4), None, 4)
        for i, op in enumerate(["Split", "Identity", "AddV2", "MatMul"])
    ]
    assert Operations(loop).cells == {}


def test_a_variance_has_no_values_below_zero(tmp_path):
    first = values(4)
    variables = {"norm/Variable": abs(first), "norm/Variable_1": first - first.max() - 1}
    found = suggested(tmp_path, variables, {"norm.mean": (4,), "norm.var": (4,)})
    assert not found.uncertain
    assert 'source = "norm/Variable"\ntarget = "norm.var"' in found.text
    # Where neither has any it is not told.
    variables["norm/Variable_1"] = abs(first) + 1
    (tmp_path / "both").mkdir()
    assert suggested(tmp_path / "both", variables, {"norm.mean": (4,), "norm.var": (4,)}).uncertain


def stack(names: str) -> tuple[dict[str, np.ndarray], Shapes]:
    """A net down and up again: conv2d, conv2d_1, … of which the second and the last but one fit."""
    widths = [3, 8, 8, 12, 16, 12, 8, 8, 5]
    variables, tensors = {}, {}
    for i, (name, a, b) in enumerate(zip(names, widths, widths[1:], strict=False)):
        variables[f"conv2d_{i}/kernel" if i else "conv2d/kernel"] = values(3, 3, a, b)
        tensors[f"net.{name}.weight"] = (b, a, 3, 3)
    return variables, tensors


def test_layers_between_certain_ones_are_told_by_order(tmp_path):
    variables, tensors = stack("stuvzyxw")
    found = suggested(tmp_path, variables, tensors)
    assert not found.uncertain
    assert 'source = "conv2d_1"\ntarget = "net.t"' in found.text.split("# Told by order")[1]


def test_order_tells_nothing_where_something_certain_is_out_of_order(tmp_path):
    variables, tensors = stack("stuvzyxw")
    moved = {name: tensors[name] for name in ("net.z.weight", *tensors)}
    found = suggested(tmp_path, variables, moved)
    assert {*found.uncertain} == {"net.t.weight", "net.x.weight"}


def test_order_of_a_sorted_file_tells_nothing(tmp_path):
    variables, tensors = stack("abcdefgh")
    assert {*suggested(tmp_path, variables, tensors).uncertain} == {"net.b.weight", "net.g.weight"}


NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean"}
NORM |= {"moving_variance": "running_var"}


def shortcuts(first_norm: str) -> tuple[dict[str, np.ndarray], Shapes]:
    """Blocks with a shortcut, whose norm comes last in Keras, and a norm that is certain."""
    layers = [("stem", "conv1", "bn1", 9, 5)]
    for i, width in enumerate((4, 6), 1):
        scope = f"conv{i}_block1"
        layers.append((f"{scope}_1", f"layer{i}.0.conv1", f"layer{i}.0.bn1", width, 3))
        shortcut = f"layer{i}.0.downsample"
        layers.append((f"{scope}_0", f"{shortcut}.0", f"{shortcut}.1", width, 1))
    variables, tensors = {}, {}
    for scope, module, norm, width, size in layers:
        variables[f"{scope}_conv/kernel"] = values(size, 1, 4, width)
        variables |= {f"{scope}_bn/{name}": values(width) for name in NORM}
        tensors[f"{module}.weight"] = (width, 4, size, 1)
        tensors |= {f"{norm}.{leaf}": (width,) for leaf in NORM.values()}
    moved = {name: shape for name, shape in tensors.items() if name.startswith(first_norm)}
    return variables, moved | tensors


def test_a_norm_follows_its_namesake(tmp_path):
    found = suggested(tmp_path, *shortcuts("conv1"))
    assert not found.uncertain
    assert "downsample.1" in found.text.split("_block1_0_bn")[1].split("[[")[0]


def test_no_norm_follows_where_one_is_elsewhere(tmp_path):
    found = suggested(tmp_path, *shortcuts("bn1"))
    assert {name.rpartition(".")[0] for name in found.uncertain} == {
        *(f"layer{i}.0.{norm}" for i in (1, 2) for norm in ("bn1", "downsample.1"))
    }


def test_kernels_without_a_role_of_their_own(tmp_path):
    variables = {
        "layer0/filter": values(2, 8, 6),
        "layer0/filter_bias": values(6),
        "h1": values(5, 16),
        "b1": values(16),
        "Variable": values(4, 9),
        "Variable_1": values(1, 9),
    }
    tensors: Shapes = {"filter.weight": (6, 8, 2), "filter.bias": (6,)}
    tensors |= {"fc1.weight": (16, 5), "fc1.bias": (16,)}
    tensors |= {"mlp.0.weight": (9, 4), "mlp.0.bias": (9,)}
    assert not suggested(tmp_path, variables, tensors).uncertain


def test_outputs_that_may_become_an_image_are_uncertain(tmp_path):
    variables = {"lin/w": values(10, 2 * 2 * 24), "lin/b": values(96), "up/w": values(4, 4, 6, 24)}
    tensors = {"fc.weight": (96, 10), "fc.bias": (96,), "up.weight": (24, 6, 4, 4)}
    found = suggested(tmp_path, variables, tensors)
    assert {*found.uncertain} == {"fc.weight", "fc.bias"}
    assert "unflatten = [2, 2, 24]" in found.text
