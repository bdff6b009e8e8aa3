from __future__ import annotations

import numpy as np
import pytest
from bundle_writer import field
from conftest import DATA, KERAS

import tfreader
from tfreader.object_graph import ObjectGraph, Slot, unescape
from tfreader.training import training_state

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


def node(children=(), attributes=(), slots=()) -> bytes:
    """A serialized node of an object graph."""
    out = b"".join(field(1, field(1, i) + field(2, name.encode())) for i, name in children)
    for full_name, key in attributes:
        names = field(2, full_name.encode()) + field(3, key.encode())
        out += field(2, field(1, b"VARIABLE_VALUE") + names)
    for base, name, slot in slots:
        out += field(3, field(1, base) + field(2, name.encode()) + field(3, slot))
    return field(1, out)


@pytest.mark.parametrize("folder", ["objects", "keras3/compiled", "keras3/export"])
def test_variables_by_their_own_names(folder):
    expected = np.load(DATA / folder.partition("/")[0] / "variables.npz")
    with tfreader.open(DATA / folder) as checkpoint:
        for name in expected.files:
            assert name in checkpoint
            np.testing.assert_array_equal(checkpoint[name], expected[name])
            assert checkpoint.info(name).name.endswith(VALUE)


def test_every_name_of_a_shared_variable():
    with tfreader.open(DATA / "objects") as checkpoint:
        graph = checkpoint.object_graph
        key = "net/shared" + VALUE
        assert graph[key].path == "net/shared"
        assert graph[key].full_name == "w"
        assert graph[key].aliases == ("net/blocks/1",)
        for name in ("w", "net/shared", "net/blocks/1"):
            assert graph.find(name) == key
        assert graph.find("net/by_name/x.Sy..z") == "net/by_name/x.Sy..z" + VALUE
        assert graph["net/by_name/x.Sy..z" + VALUE].path == "net/by_name/x/y.z"
        # Two variables are called b: neither is known by that name.
        assert graph.find("b") is None
        assert graph.name("net/blocks/0" + VALUE) == "net/blocks/0"
        with pytest.raises(KeyError, match="no variable named 'b'"):
            checkpoint["b"]


@pytest.mark.parametrize(
    ("folder", "name", "slots"),
    [
        (KERAS, "dense/kernel", {"m", "v"}),
        (DATA / "objects", "d1/kernel", {"m", "v"}),
        (DATA / "keras3" / "compiled", "tiny/d1/kernel", {"momentum", "velocity"}),
    ],
)
def test_slots_of_all_kinds_of_optimizers(folder, name, slots):
    with tfreader.open(folder) as checkpoint:
        graph = checkpoint.object_graph
        value = graph[graph.find(name)]
        assert set(value.slots) == slots
        for slot, key in value.slots.items():
            assert graph[key].slot_of == Slot(value.key, slot, graph[key].optimizer)
            assert checkpoint.info(key).shape == checkpoint.info(name).shape
        training = training_state(checkpoint.infos, graph)
        weights = {graph.name(key) for key in checkpoint if key not in training}
        assert name in weights
        assert not any("adam" in weight.lower() or "optimizer" in weight for weight in weights)


def test_everything_else_is_called_what_it_is():
    with tfreader.open(DATA / "objects") as checkpoint:
        training = training_state(checkpoint.infos, checkpoint.object_graph)
        kinds = {name.partition("/.ATTR")[0]: str(state) for name, state in training.items()}
    assert kinds["net/table"] == "lookup table"
    assert kinds["model/optimizer/_iterations"] == "optimizer state"
    assert kinds["save_counter"] == "training counter"
    assert kinds["_CHECKPOINTABLE_OBJECT_GRAPH"] == "object graph"


def test_an_export_of_keras_3_holds_each_weight_twice():
    with tfreader.open(DATA / "keras3" / "export") as checkpoint:
        graph = checkpoint.object_graph
        copies = [value for value in graph.values() if value.copy_of]
        assert len(copies) == 8
        for value in copies:
            assert value.full_name == graph[value.copy_of].full_name
            np.testing.assert_array_equal(checkpoint[value.key], checkpoint[value.copy_of])


def test_checkpoints_without_objects_have_no_graph():
    with tfreader.open(DATA / "reader" / "dtypes") as checkpoint:
        assert checkpoint.object_graph is None


def test_cycles_missing_keys_and_unreachable_nodes():
    graph = ObjectGraph(
        node([(1, "a"), (0, "root")], [("r", "r" + VALUE)])
        + node([(0, "up"), (1, "self")], [("gone", "a" + VALUE)])
        + node(attributes=[("lonely", "lost" + VALUE)]),
        ["r" + VALUE, "lost" + VALUE],
    )
    assert graph.missing == ("a" + VALUE,)
    assert graph["lost" + VALUE].path == "lost"
    assert graph.find("a/up/root") == "r" + VALUE


@pytest.mark.parametrize(
    ("serialized", "problem"),
    [
        (b"", "no nodes"),
        (b"\xff", "not a protobuf message"),
        (node([(1, "a")]), "refers to node 1 of 1"),
        (node(slots=[(0, "m", -1)]), "refers to node -1"),
        (
            b"".join(node([(i + 1, "x")], [("", f"k{i}")]) for i in range(5000)) + node(),
            "paths are too long",
        ),
    ],
)
def test_damaged_graphs(serialized, problem):
    with pytest.raises(ValueError, match=problem):
        ObjectGraph(serialized, [f"k{i}" for i in range(5000)])


def test_unescape():
    assert unescape("x.Sy..z") == "x/y.z"
    assert unescape("..S") == ".S"
