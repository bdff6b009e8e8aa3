"""Models that look like others: what is suggested for them is right, or marked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bundle_writer import field, write_bundle

from tfreader.errors import CorruptCheckpointError
from tfreader.mapping import suggest
from tfreader.mapping.suggesting.operations import Operations
from tfreader.mapping.target import TargetTensor
from tfreader.meta_graph import Operation, read_graph

Shapes = dict[str, tuple[int, ...]]
RANDOM = np.random.default_rng(3)


def values(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def uncertain(folder: Path, variables: dict[str, np.ndarray], tensors: Shapes) -> set[str]:
    path = write_bundle(folder / "model.ckpt", variables)
    found = suggest(str(path), {n: TargetTensor(s, "float32") for n, s in tensors.items()})
    return {*found.uncertain}


NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean"}
NORM |= {"moving_variance": "running_var"}
CONV = {"conv/kernel": values(3, 3, 3, 8)}
CONV_SHAPE: Shapes = {"conv.weight": (8, 3, 3, 3)}


@pytest.mark.parametrize("tensor", ["pi.log_var", "pi.logVar", "noisy.std", "fc_var.bias"])
def test_what_is_no_variance_may_be_below_zero(tmp_path, tensor):
    variables = {"m/p": -abs(values(4)), "m/r": abs(values(4))}
    assert uncertain(tmp_path, variables, {tensor: (4,), "pi.gain": (4,)}) >= {tensor}


def test_what_a_teacher_has_is_not_taken_for_what_the_student_lacks(tmp_path):
    own = {
        "bert/embeddings/word_embeddings": values(50, 6),
        "cls/predictions/output_bias": values(50),
        "cls/predictions/transform/dense/kernel": values(6, 7),
    }
    teachers = {f"teacher/{name}": array + 1 for name, array in own.items()}
    head = "cls.predictions.decoder"
    tied: Shapes = {f"{head}.weight": (50, 6), f"{head}.bias": (50,)}
    tensors: Shapes = {
        "bert.embeddings.word_embeddings.weight": (50, 6),
        "cls.predictions.bias": (50,),
        "cls.predictions.transform.dense.weight": (7, 6),
    }
    assert uncertain(tmp_path, own | teachers, tensors | tied) >= {*tied}


@pytest.mark.parametrize("order", ["w w b b", "b w b w", "e w b w b"])
def test_nameless_kernels_are_followed_by_their_bias_only_where_all_are(tmp_path, order):
    kernels = {"w": (32, 32), "b": (32,), "e": (50, 32)}
    variables = {
        f"Variable_{i}" if i else "Variable": values(*kernels[kind])
        for i, kind in enumerate(order.split())
    }
    tensors: Shapes = {"fc1.weight": (32, 32), "fc1.bias": (32,)}
    tensors |= {"fc2.weight": (32, 32), "fc2.bias": (32,)}
    tensors |= {"emb.weight": (50, 32)} if "e" in order else {}
    assert uncertain(tmp_path, variables, tensors) >= {"fc1.bias", "fc2.bias"}


def test_only_slims_own_models_have_the_background_first_for_certain(tmp_path):
    for scope, marked in (("net", {"head.weight"}), ("resnet_v1_50", set())):
        (tmp_path / scope).mkdir()
        variables = {f"{scope}/logits/weights": values(8, 6)}
        assert uncertain(tmp_path / scope, variables, {"head.weight": (5, 8)}) == marked


@pytest.mark.parametrize("inputs", [2 * 2 * 12, 3 * 3 * 8 + 3])
def test_inputs_that_nothing_explains_may_be_flattened(tmp_path, inputs):
    """Two convolutions joined, or one with other inputs beside it."""
    variables = {"a/kernel": values(3, 3, 3, 5), "b/kernel": values(3, 3, 3, 7)}
    variables["fc/kernel"] = values(inputs, 10)
    tensors: Shapes = {"a.weight": (5, 3, 3, 3), "b.weight": (7, 3, 3, 3)}
    assert uncertain(tmp_path, variables, tensors | {"fc.weight": (10, inputs)}) == {"fc.weight"}


def test_two_heads_behind_one_flatten(tmp_path):
    variables, tensors = {**CONV}, {**CONV_SHAPE}
    for name in ("pi", "vf"):
        variables[f"{name}_fc/kernel"] = values(72, 72)
        tensors[f"{name}_fc.weight"] = (72, 72)
    assert uncertain(tmp_path, variables, tensors) == {"pi_fc.weight", "vf_fc.weight"}


def test_recurrent_layers_behind_a_flatten(tmp_path):
    variables = CONV | {"lstm/kernel": values(32, 24), "lstm/recurrent_kernel": values(6, 24)}
    variables |= {"lstm/bias": values(24)}
    tensors = CONV_SHAPE | {"lstm.weight_ih_l0": (24, 32), "lstm.weight_hh_l0": (24, 6)}
    tensors |= {"lstm.bias_ih_l0": (24,), "lstm.bias_hh_l0": (24,)}
    assert "lstm.weight_ih_l0" in uncertain(tmp_path, variables, tensors)


@pytest.mark.parametrize("is_behind", [True, False])
def test_norms_beside_a_flatten(tmp_path, is_behind):
    """Between a flatten and a dense layer, or between one and the image made of it."""
    variables = {f"bn/{name}": values(72) for name in NORM}
    norm: Shapes = {f"bn.{leaf}": (72,) for leaf in NORM.values()}
    if is_behind:
        variables |= CONV | {"fc/kernel": values(72, 10)}
        tensors = CONV_SHAPE | norm | {"fc.weight": (10, 72)}
    else:
        variables |= {"fc/kernel": values(10, 72), "up_transpose/kernel": values(4, 4, 6, 8)}
        tensors = {"fc.weight": (72, 10), **norm, "up.weight": (8, 6, 4, 4)}
    assert uncertain(tmp_path, variables, tensors) == {"fc.weight", *norm}


def test_a_square_matrix_without_bias_may_be_the_models_own(tmp_path):
    variables = {"gcn/kernel": values(16, 16), "fc/kernel": values(16, 5), "fc/bias": values(5)}
    tensors: Shapes = {"gcn.weight": (16, 16), "fc.weight": (5, 16), "fc.bias": (5,)}
    assert uncertain(tmp_path, variables, tensors) == {"gcn.weight"}


def test_few_layers_have_no_home_where_each_fits_elsewhere(tmp_path):
    pairs = (("m/one/conv2d", "m/two/conv2d"), ("disc/conv2d", "disc/conv2d_1"))
    variables = {f"{first}/kernel": values(3, 3, 3, 8) for first, _ in pairs}
    variables |= {f"{second}/kernel": values(3, 3, 8, 16) for _, second in pairs}
    tensors: Shapes = {"features.0.weight": (8, 3, 3, 3), "features.2.weight": (16, 8, 3, 3)}
    assert uncertain(tmp_path, variables, tensors) == {*tensors}


@pytest.mark.parametrize("first", [0, 3])
def test_levels_may_be_counted_from_the_top_down(tmp_path, first):
    variables, tensors = {}, {}
    for i in range(3):
        variables[f"fpn/lateral_{i + first}/kernel"] = values(1, 1, 4 << i, 8)
        variables[f"fpn/post_{i + first}/kernel"] = values(3, 3, 8, 8)
        tensors[f"fpn.lateral.{2 - i}.weight"] = (8, 4 << i, 1, 1)
        tensors[f"fpn.post.{i}.weight"] = (8, 8, 3, 3)
    assert uncertain(tmp_path, variables, tensors) == {f"fpn.post.{i}.weight" for i in range(3)}


def operation(name: str, op: str, inputs: list[str], **more: object) -> Operation:
    given = {"shape": None, "number": None, "outputs": 1, **more}
    return Operation(name, op, tuple(inputs), **given)  # type: ignore[arg-type]


def test_graphs_that_would_take_for_ever_end():
    split = operation("s", "Split", ["a"] * 3, outputs=4)
    gates = [operation("t", "Tanh", ["s"])]
    gates += [operation(f"g{i}", "Sigmoid", [f"s:{i}"]) for i in (1, 2, 3)]
    products = [operation("m", "Mul", ["t", "g1"]), operation("t2", "Tanh", ["c"])]
    products += [operation("m2", "Mul", ["g3", "t2"])]
    fan = operation("a", "Add", ["a"] * 3000)
    assert Operations([split, fan, *gates, *products]).cells == {}
    huge = (1 << 62,) * 8
    flat = [operation("w", "VariableV2", []), operation("k", "Relu", ["k"] * 90_000)]
    flat += [operation("m", "MatMul", ["k", "w"], shape=huge)]
    assert Operations(flat).flattened == {"w": None}


def test_a_forget_bias_is_a_number():
    cell = operation("l", "LSTMBlockCell", ["x", "w"], number=float("nan"))
    assert Operations([operation("w", "VariableV2", []), cell]).cells == {}


def test_shapes_of_graphs_have_few_axes_and_operations_few_inputs(tmp_path, monkeypatch):
    axes = b"".join(field(2, field(1, 7)) for _ in range(9))
    value = field(1, b"_output_shapes") + field(2, field(1, field(7, axes)))
    node = field(1, b"a") + field(2, b"X") + field(3, b"b") * 3 + field(5, value)
    (tmp_path / "model.ckpt.meta").write_bytes(field(2, field(1, node)))
    (found,) = read_graph(str(tmp_path / "model.ckpt"))
    assert (found.shape, found.inputs) == (None, ("b",) * 3)
    monkeypatch.setattr("tfreader.meta_graph.MOST_INPUTS", 2)
    with pytest.raises(CorruptCheckpointError, match="more than 2 inputs"):
        read_graph(str(tmp_path / "model.ckpt"))
