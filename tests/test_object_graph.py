from __future__ import annotations

import numpy as np
import pytest
from bundle_writer import field
from conftest import DATA, KERAS
from hypothesis import given
from hypothesis import strategies as st

import tfreader
from tfreader.checkpoint import TensorInfo
from tfreader.dtypes import DTYPES
from tfreader.graph_nodes import escape
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
        assert graph["net/by_name/x.Sy..z" + VALUE].path == "net/by_name/x.Sy..z"
        assert graph.find("net/by_name/x/y.z") == "net/by_name/x.Sy..z" + VALUE
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


def test_messages_call_variables_as_they_are_shown(copy):
    folder = copy(DATA / "objects")
    (data,) = folder.glob("*.data-*")
    with tfreader.open(folder) as checkpoint:
        assert checkpoint.object_graph is not None
        offset = checkpoint.info("w").offset
        with pytest.raises(KeyError, match="no variable named 'd1/kernels'; near: d1/kernel"):
            checkpoint["d1/kernels"]
    damaged = bytearray(data.read_bytes())
    damaged[offset] ^= 1
    data.write_bytes(damaged)
    with tfreader.open(folder) as checkpoint:
        for read in (lambda: checkpoint["w"], checkpoint.verify):
            with pytest.raises(tfreader.ChecksumError, match=r"variable 'w' at offset"):
                read()


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


def checkpoint_of(tree, shapes=None, slots=()):
    """A graph of nested dicts, whose leaves are full names, and the infos of its variables.

    A leaf that begins with `=` is the object at that path. Keys are the first paths.
    """
    nodes, places = [], {}

    def add(path, value):
        number = places[path] = len(nodes)
        nodes.append([[], []])
        if isinstance(value, str):
            nodes[number][1].append((value, path + VALUE))
            return number
        later = [(name, child) for name, child in value.items()]
        for name, child in later:
            place = f"{path}/{escape(name)}".removeprefix("/")
            is_link = isinstance(child, str) and child.startswith("=")
            nodes[number][0].append((child[1:] if is_link else add(place, child), name))
        return number

    add("", tree)
    for children, _ in nodes:
        children[:] = [(places.get(child, child), name) for child, name in children]
    of_optimizer = {places[opt]: [] for opt, *_ in slots}
    for opt, base, name, slot in slots:
        of_optimizer[places[opt]].append((places[base], name, places[slot]))
    serialized = b"".join(
        node(children, attributes, of_optimizer.get(i, ()))
        for i, (children, attributes) in enumerate(nodes)
    )
    shapes = {path + VALUE: shape for path, shape in (shapes or {}).items()}
    keys = [key for _, attributes in nodes for _, key in attributes]
    infos = [TensorInfo(key, DTYPES[1], shapes.get(key, ()), 0) for key in keys]
    return ObjectGraph(serialized, keys, lambda key: shapes.get(key, ())), infos


def kinds(graph, infos):
    return {key.removesuffix(VALUE): state for key, state in training_state(infos, graph).items()}


@pytest.mark.parametrize("inside", [False, True])
def test_an_object_with_a_model_and_a_learning_rate_is_no_optimizer(inside):
    tree = {"net": {"kernel": "w", "bias": "b"}, "scale": "s"}
    tree |= {"iter": "Variable", "learning_rate": "Variable"}
    graph, infos = checkpoint_of({"model": tree} if inside else tree)
    prefix = "model/" if inside else ""
    assert {key.removeprefix(prefix) for key in kinds(graph, infos)} == {"iter", "learning_rate"}
    assert graph.name(f"{prefix}net/kernel{VALUE}") == "w"


def test_an_optimizer_at_the_root_owns_no_model():
    graph, infos = checkpoint_of(
        {"iter": "Adam/iter", "net": {"w": "w", "v": "v"}, "slot": "Adam/w/m"},
        slots=[("", "net/w", "m", "slot")],
    )
    assert {key: state.kind for key, state in kinds(graph, infos).items()} == {
        "iter": "optimizer state",
        "slot": "slot",
    }


def test_a_hyperparameter_is_a_scalar():
    tree = {"net": {"iter": "i", "momentum": "momentum", "decay": "decay"}}
    graph, infos = checkpoint_of(tree, {"net/momentum": (3,), "net/decay": (3, 2)})
    assert kinds(graph, infos).keys() <= {"net/iter"}


def test_a_keras_optimizer_at_the_root_owns_its_public_lists():
    tree = {
        "_iterations": "iteration",
        "_variables": {"0": "=_iterations", "1": "SGD/m/w"},
        "momentums": {"0": "=_variables/1"},
        "net": {"w": "w"},
    }
    graph, infos = checkpoint_of(tree)
    assert kinds(graph, infos).keys() == {"_iterations", "_variables/1"}


def test_variables_with_slots_are_weights_though_only_the_optimizer_leads_to_them():
    graph, infos = checkpoint_of(
        {"optimizer": {"model": {"w": "w"}, "beta_1": "b", "slot": "m"}},
        slots=[("optimizer", "optimizer/model/w", "m", "optimizer/slot")],
    )
    assert "optimizer/model/w" not in kinds(graph, infos)
    assert kinds(graph, infos)["optimizer/beta_1"].kind == "optimizer state"


@pytest.mark.parametrize(
    "optimizer",
    [
        {"iter": "Adam/iter", "beta_1": "Adam/beta_1", "decay": "Adam/decay"},  # with a schedule
        {"iter": "iter", "learning_rate": "learning_rate", "decay": "decay"},
        {
            "_iterations": "iteration",
            "_learning_rate": "lr",
            "_variables": {"0": "=opt/_iterations"},
        },
        {
            "_iterations": "iteration",
            "_current_learning_rate": "lr",
            "loss_scale": {"good_steps": "g"},
            "_variables": {"0": "=opt/_iterations", "1": "Adam/m/w"},
            "_momentums": {"0": "=opt/_variables/1"},
        },
    ],
)
def test_optimizers_without_slots(optimizer):
    graph, infos = checkpoint_of({"model": {"w": "w"}, "opt": optimizer})
    found = kinds(graph, infos)
    assert found.keys() == {info.name.removesuffix(VALUE) for info in infos} - {"model/w"}


@pytest.mark.parametrize("prefix", ["Adam/", ""])
def test_slots_of_weights_that_share_a_name_are_told_by_shape(prefix):
    lists = {
        "_iterations": "iteration",
        "_learning_rate": "lr",
        "_model_variables_moving_average": {
            str(i): f"{prefix}average/net/{name}" for i, name in enumerate(["w", "w", "b", "b"])
        },
        "_r": {"0": f"{prefix}r/net/w"},
        "_variables": {"0": "=opt/_iterations"},
    }
    tree = {"a": {"w": "net/w", "b": "net/b"}, "b": {"w": "net/w", "b": "net/b"}, "opt": lists}
    averages = "opt/_model_variables_moving_average"
    shapes = {"a/w": (4, 3), "b/w": (3, 2), "a/b": (3,), "b/b": (3,), "opt/_r/0": (4,)}
    shapes |= {f"{averages}/0": (3, 2), f"{averages}/1": (4, 3)}
    shapes |= {f"{averages}/2": (3,), f"{averages}/3": (3,)}
    graph, infos = checkpoint_of(tree, shapes)
    found = kinds(graph, infos)
    assert found[f"{averages}/0"] == ("moving average", "b/w" + VALUE, "average")
    assert found[f"{averages}/1"] == ("moving average", "a/w" + VALUE, "average")
    assert found["opt/_r/0"] == ("slot", "a/w" + VALUE, "r")
    for ambiguous in (f"{averages}/2", f"{averages}/3"):
        assert found[ambiguous] == ("moving average", None, "average")


def test_slots_of_keras_3_go_by_place():
    optimizer = {
        "_iterations": "adam/iteration",
        "_learning_rate": "adam/learning_rate",
        "_trainable_variables": {"0": "=net/a", "1": "=net/b"},
        "_momentums": {"0": "adam/d_w_momentum", "1": "adam/d_w_momentum"},
        "_model_variables_moving_average": {"0": "adam/d_w_average", "1": "adam/d_w_average"},
        "_variables": {"0": "=opt/_iterations"},
    }
    graph, infos = checkpoint_of({"net": {"a": "d/w", "b": "d/w"}, "opt": optimizer})
    found = kinds(graph, infos)
    for i, base in enumerate("ab"):
        assert found[f"opt/_momentums/{i}"] == ("slot", f"net/{base}{VALUE}", "momentum")
        average = found[f"opt/_model_variables_moving_average/{i}"]
        assert average == ("moving average", f"net/{base}{VALUE}", "average")


def test_seeds_are_no_weights():
    tree = {"dropout": {"seed_generator": {"seed_generator_state": "seed"}}, "w": "w"}
    graph, infos = checkpoint_of(tree)
    infos = [info._replace(dtype=DTYPES[22], shape=(2,)) for info in infos]
    (state,) = kinds(graph, infos).values()
    assert state.kind == "random state"


@given(
    st.recursive(
        st.sampled_from(["w", "b", "a/b", "x.y"]),
        lambda trees: st.dictionaries(st.text("ab./S", min_size=1, max_size=3), trees, max_size=4),
        max_leaves=12,
    ).filter(lambda tree: isinstance(tree, dict))
)
def test_every_name_that_is_shown_leads_back(tree):
    graph, _ = checkpoint_of(tree)
    assert len({graph.name(key) for key in graph}) == len(graph)
    for key, value in graph.items():
        assert graph.find(graph.name(key)) == key
        for path in value.paths:
            assert graph.find(path) == key


@pytest.mark.parametrize("node", [b"\x0a\x00", b"\x0a\x02\x0a\x00", b"\x0a\x02\x12\x00"])
def test_a_graph_of_more_objects_than_it_could_name_is_refused(node):
    """Each would take a hundred times its bytes in memory."""
    with pytest.raises(ValueError, match="describe more objects than they can name"):
        ObjectGraph(node * 100_000, set())
