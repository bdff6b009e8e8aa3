from __future__ import annotations

import math
import tomllib
from dataclasses import replace
from functools import partial
from math import prod
from unittest.mock import patch

import numpy as np
import pytest
from bundle_writer import write_bundle
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from safetensors.numpy import load_file

import tfreader
from tfreader.checkpoint import part_of, whole
from tfreader.mapping import convert as convert_file
from tfreader.mapping import dump_rules, load_rules, make_plan
from tfreader.mapping.execute import stream
from tfreader.mapping.family import Family, Layout
from tfreader.mapping.rules.dump import toml
from tfreader.mapping.rules.extension import extended
from tfreader.mapping.rules.ops import (
    Concat,
    Pad,
    Permute,
    Repeat,
    Reshape,
    Slice,
    Split,
    Squeeze,
    Stack,
    Transpose,
    Unstack,
)
from tfreader.mapping.rules.patterns import literal_tail
from tfreader.mapping.rules.rule import Drop, Fill, Rule, RuleSet, Tie
from tfreader.mapping.rules.rule_file import rules_from_data


def convert(tmp_path, tensors, rules, **options):
    prefix = write_bundle(tmp_path / "m", tensors)
    with tfreader.open(prefix) as checkpoint:
        plan = make_plan(checkpoint, rules=rules_from_data(rules, "test"), **options)
        return run(plan, checkpoint)


def run(plan, checkpoint, **options):
    """The plan's tensors as arrays."""
    out = {entry.target: np.empty(entry.shape, entry.dtype) for entry in plan.entries}

    def write(entry, offset, data):
        out[entry.target].reshape(-1).view(np.uint8)[offset : offset + len(data)] = data

    stream(plan, checkpoint, write, **options)
    return out


def factors(number):
    """The prime factors of a number: a shape that shares few boundaries with others."""
    for i in range(2, number):
        if number % i == 0:
            return [i, *factors(number // i)]
    return [number]


def padded(array, before):
    """The array with so many rows of zeros in front, and one behind."""
    return np.pad(array, [(before, 1), *[(0, 0)] * (array.ndim - 1)])


@st.composite
def steps(draw, shape):
    """An operation for that shape, and what numpy calls it."""
    start = draw(st.integers(0, shape[0]))
    stop = draw(st.integers(start, shape[0]))
    rank = len(shape)
    axes = tuple(axis - rank * draw(st.booleans()) for axis in draw(st.permutations(range(rank))))
    last = draw(st.sampled_from([-1, rank - 1]))
    sizes = draw(st.permutations([*shape, 1]))
    other = draw(st.permutations(factors(prod(shape))))
    known = [
        (Permute(axes), lambda a: np.transpose(a, axes)),
        (Slice(-rank, start, stop), lambda a: a[start:stop]),
        (Slice(last, 0, shape[-1] // 2), lambda a: a[..., : a.shape[-1] // 2]),
        (Repeat(2), lambda a: np.stack([a, a])),
        (Pad(-rank, start, start + shape[0] + 1), lambda a: padded(a, start)),
        (Reshape((-1,)), np.ravel),
        (Reshape(tuple(sizes)), lambda a: np.reshape(a, sizes)),
        (Reshape(tuple(other)), lambda a: np.reshape(a, other)),
        (Reshape((shape[0], -1)), lambda a: np.reshape(a, (len(a), -1))),
    ]
    if len(shape) > 1:
        known.append((Transpose(), np.transpose))
    if 1 in shape:
        axis = shape.index(1) - draw(st.sampled_from([0, rank]))
        known.append((Squeeze(axis), lambda a: np.squeeze(a, axis)))
    return draw(st.sampled_from(known))


@settings(deadline=None)
@given(st.data(), array_shapes(max_dims=3, max_side=5), st.integers(1, 9), st.integers(0, 9))
def test_any_part_of_a_chain_of_operations_is_that_part_of_the_whole(data, shape, long, span):
    with (
        patch("tfreader.mapping.rules.row_major.LONG_RUN", long),
        patch("tfreader.mapping.rules.row_major.SPAN", span),
    ):
        check_a_chain_of_operations(data, shape)


def check_a_chain_of_operations(data, shape):
    array = np.arange(np.prod(shape)).reshape(shape)
    expected, shapes, reads = array, [array.shape], [lambda box: part_of(array, box)]
    for _ in range(data.draw(st.integers(1, 4))):
        if not expected.size or not expected.ndim:
            break
        op, numpy = data.draw(steps(expected.shape))
        expected = numpy(expected)
        reads.append(partial(op.part, shape=shapes[-1], read=reads[-1]))
        shapes.append(op.shape(shapes[-1]))
        assert shapes[-1] == expected.shape
    starts = [data.draw(st.integers(0, size)) for size in expected.shape]
    box = tuple(
        range(start, data.draw(st.integers(start, size)))
        for start, size in zip(starts, expected.shape, strict=True)
    )
    np.testing.assert_array_equal(reads[-1](box), part_of(expected, box))
    np.testing.assert_array_equal(reads[-1](whole(expected.shape)), expected)


@pytest.mark.parametrize("axis", [1, -1])
def test_pieces_of_an_axis(axis):
    array = np.arange(12).reshape(2, 6)
    expected = {
        Split(axis): (np.split(array, 3, 1), Split(axis).pieces(array.shape, 3)),
        Unstack(axis, "i"): (array.T, Unstack(axis, "i").pieces(array.shape)),
    }
    for arrays, pieces in expected.values():
        assert len(arrays) == len(pieces)
        for piece, ops in zip(arrays, pieces, strict=True):
            found = array
            for op in ops:
                found = op.part(whole(op.shape(found.shape)), found.shape, partial(part_of, found))
            np.testing.assert_array_equal(found, piece)


@pytest.mark.parametrize(
    "op",
    [
        Squeeze(2),
        Slice(-3, 0, 0),
        Pad(0, 1, 1),
        Pad(0, -1, 9),
        Permute((0, -2)),
        Permute((0, 2)),
        Transpose(),
    ],
)
def test_axes_that_a_shape_does_not_have(op):
    with pytest.raises(ValueError, match="shape"):
        op.shape((1, 2) if op != Transpose() else (2,))


def test_what_claims_more_than_any_model_has_is_refused_before_it_is_made():
    with pytest.raises(ValueError, match="1000000 tensors, at most"):
        Unstack(0, "layer").pieces((1_000_000, 0))
    for shape in ((2, 2), (0,)):
        with pytest.raises(ValueError, match="larger than any"):
            Repeat(1 << 50).shape(shape)
        with pytest.raises(ValueError, match="larger than any"):
            Pad(0, 0, 1 << 50).shape(shape)


@pytest.mark.parametrize(
    ("pattern", "tail"),
    [
        (r"bert/layer_(?P<layer>\d+)/dense/kernel", "/dense/kernel"),
        (r"(?:.*/)?masked_lm/dense", "masked_lm/dense"),
        ("plain/name", "plain/name"),
        (r"layer_\d", ""),
        (r"\.weight", "weight"),
        ("a|bc", ""),
        ("(?:a|b)/c", "/c"),
        ("[|(]x", "x"),
        ("abc?", ""),
        ("ab{2}", ""),
        ("(?i)abc", ""),
        ("(?i:a)bc", ""),
        ("(?=a|b)abc", "abc"),
    ],
)
def test_the_plain_end_of_a_pattern(pattern, tail):
    assert literal_tail(pattern) == tail


@settings(deadline=None)
@given(st.data(), st.lists(st.integers(0, 4), min_size=1, max_size=4), st.integers(0, 3))
def test_any_part_of_what_is_joined(data, sizes, other):
    arrays = [np.arange(size * other).reshape(size, other) + 100 * size for size in sizes]
    same = [np.arange(6).reshape(2, 3) + i for i in range(len(sizes))]
    for op, inputs, expected in (
        (Concat(0), arrays, np.concatenate(arrays)),
        (Concat(-2), arrays, np.concatenate(arrays)),
        (Stack(1), same, np.stack(same, 1)),
        (Stack(-1), same, np.stack(same, -1)),
    ):
        shapes = [each.shape for each in inputs]
        assert op.join_shapes(shapes) == expected.shape
        box = []
        for size in expected.shape:
            start = data.draw(st.integers(0, size))
            box.append(range(start, data.draw(st.integers(start, size))))
        reads = [partial(part_of, each) for each in inputs]
        part = op.part(tuple(box), shapes, reads)
        np.testing.assert_array_equal(part, part_of(expected, tuple(box)))


@pytest.mark.parametrize(
    ("op", "shape"),
    [
        (Transpose(), (3,)),
        (Permute((0, 1)), (2, 3, 4)),
        (Reshape((5, 2)), (3, 3)),
        (Squeeze(0), (2, 3)),
        (Slice(0, 1, 9), (3,)),
    ],
)
def test_an_operation_refuses_a_shape_that_does_not_fit(op, shape):
    with pytest.raises(ValueError, match=r"\d"):
        op.shape(shape)


X = np.arange(24, dtype=np.float32).reshape(4, 6)


def test_split_unstack_concat_and_stack(tmp_path):
    tensors = {
        "qkv": X,
        "stacked": X,
        "part/a": X,
        "part/b": X + 1,
        "expert_0": X,
        "kernel": X.reshape(1, 4, 6),
    }
    found = convert(
        tmp_path,
        tensors,
        {
            "rule": [
                {
                    "source": "qkv",
                    "target": ["q", "k", "v"],
                    "ops": ["transpose", {"op": "split", "axis": 0}],
                },
                {
                    "source": "stacked",
                    "target": "layer.{i}.w",
                    "ops": [{"op": "unstack", "axis": 0, "index": "i"}],
                },
                {
                    "source": ["part/a", "part/b"],
                    "target": "joined",
                    "ops": ["transpose", {"op": "concat", "axis": 0}],
                },
                {
                    "source": ["part/b", "part/a"],
                    "target": "piled",
                    "ops": [{"op": "stack", "axis": 1}, {"op": "permute", "axes": [1, 0, 2]}],
                },
                {"source": r"expert_(?P<n>\d+)", "target": "expert.{n}"},
                {
                    "source": "kernel",
                    "target": "flat",
                    "ops": [{"op": "squeeze", "axis": 0}, {"op": "reshape", "to": [2, -1]}],
                },
            ]
        },
    )
    for i, name in enumerate("qkv"):
        np.testing.assert_array_equal(found[name], X.T[2 * i : 2 * i + 2])
    for i in range(4):
        np.testing.assert_array_equal(found[f"layer.{i}.w"], X[i])
    np.testing.assert_array_equal(found["joined"], np.concatenate([X.T, X.T + 1]))
    np.testing.assert_array_equal(found["piled"], np.stack([X + 1, X]))
    np.testing.assert_array_equal(found["flat"], X.reshape(2, 12))


def test_drop_and_config_dimensions(tmp_path):
    rules = {
        "drop": [{"source": "junk/.*", "reason": "not wanted"}],
        "rule": [
            {
                "source": "w",
                "target": "w",
                "shape": ["rows", "heads*size"],
                "ops": [{"op": "reshape", "to": ["rows", "heads", "size"]}],
            }
        ],
    }
    tensors = {"w": X, "junk/a": X}
    config = {"heads": 2, "size": 3}
    assert convert(tmp_path, tensors, rules, config=config)["w"].shape == (4, 2, 3)
    with pytest.raises(tfreader.PlanError, match=r"heads\*size = 8 .*has 6 \(w"):
        convert(tmp_path, tensors, rules, config={"heads": 2, "size": 4})


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"source": "(", "target": "x"}, "bad regular expression"),
        ({"source": "a", "target": "{layer}"}, "no group named"),
        ({"source": ["a", "b"], "target": "x"}, "concat or stack"),
        ({"source": "a", "target": ["x", "y"]}, "split"),
        ({"source": "a", "target": "x", "ops": ["turn"]}, "unknown operation 'turn'"),
        ({"source": "a", "target": "x", "ops": [{"op": "permute"}]}, "takes axes"),
        ({"source": "a", "traget": "x"}, "unknown key .traget.*target"),
    ],
)
def test_a_malformed_rule_is_explained(rule, message):
    with pytest.raises(tfreader.RuleError, match=message):
        rules_from_data({"rule": [rule]}, "test")


def test_two_rules_for_one_tensor_are_refused(tmp_path):
    rules = {"rule": [{"source": "a", "target": "x"}, {"source": "b", "target": "x"}]}
    with pytest.raises(tfreader.PlanError, match="x is filled twice: by a and by b"):
        convert(tmp_path, {"a": X, "b": X}, rules)


def test_an_overflowing_cast_is_refused(tmp_path):
    rules = {"rule": [{"source": "a", "target": "a"}]}
    with pytest.raises(tfreader.UnsupportedError, match="'a'.*overflow float16"):
        convert(tmp_path, {"a": X * 1e6}, rules, dtype="float16")
    with pytest.raises(tfreader.UnsupportedError, match="values such as 1e\\+06"):
        convert(tmp_path, {"a": np.array([np.inf, 1e6])}, rules, dtype="float16")
    infinite = convert(tmp_path, {"a": np.array([np.inf, np.nan])}, rules, dtype="float16")["a"]
    np.testing.assert_array_equal(infinite, np.array([np.inf, np.nan], np.float16))


FILLED = """
[[rule]]
source = "kernel"
target = "weight"
shape = ["size", "size"]

[[rule]]
source = "own"
target = "alias"
required = false

[[fill]]
target = "projection"
shape = ["size", 3]
value = "identity"
reason = "the original has none"

[[tie]]
alias = "alias"
target = "weight"
"""


def test_a_tensor_that_no_variable_gives_is_filled_and_said(tmp_path):
    write_bundle(tmp_path / "model", {"kernel": np.ones((3, 3), np.float16)})
    (tmp_path / "rules.toml").write_text(FILLED)
    rules = load_rules(tmp_path / "rules.toml")
    (tmp_path / "again.toml").write_text(dump_rules(rules))
    assert load_rules(tmp_path / "again.toml").fills == rules.fills
    report = convert_file(tmp_path / "model", tmp_path / "out.safetensors", rules=rules)
    tensors = load_file(tmp_path / "out.safetensors")
    np.testing.assert_array_equal(tensors["projection"], np.eye(3, dtype=np.float16))
    assert tensors["projection"].dtype == np.float16
    assert "projection: filled with identity: the original has none" in report.notes
    assert report.plan.ties == {"alias": "weight"}


TABLE = FILLED.replace('"identity"', '"sinusoids"').replace('["size", 3]', "[5, 6]")


@pytest.mark.parametrize(
    ("value", "last"), [("sinusoids", 10000 ** (2 / 3)), ("timing_signal", 1e4)]
)
def test_a_table_of_positions_has_sines_before_cosines(tmp_path, value, last):
    write_bundle(tmp_path / "model", {"kernel": np.ones((3, 3), np.float32)})
    (tmp_path / "rules.toml").write_text(TABLE.replace("sinusoids", value))
    convert_file(tmp_path / "model", tmp_path / "out.safetensors", rules=tmp_path / "rules.toml")
    frequencies = 1, last**-0.5, 1 / last
    expected = [
        [function(p * f) for function in (math.sin, math.cos) for f in frequencies]
        for p in range(5)
    ]
    table = load_file(tmp_path / "out.safetensors")["projection"]
    np.testing.assert_allclose(table, expected, rtol=0, atol=1e-7)


def test_a_timing_signal_has_the_rounded_angles_that_tensorflow_computes(tmp_path):
    write_bundle(tmp_path / "model", {"kernel": np.ones((3, 3), np.float32)})
    rules = TABLE.replace("sinusoids", "timing_signal").replace("[5, 6]", "[1001, 16]")
    (tmp_path / "rules.toml").write_text(rules)
    convert_file(tmp_path / "model", tmp_path / "out.safetensors", rules=tmp_path / "rules.toml")
    table = load_file(tmp_path / "out.safetensors")["projection"]
    # By TensorFlow 2.15.1; exact angles would put the first off by 4e-6.
    expected = {
        (1000, 1): -0.9438897967338562,
        (1000, 6): 0.3641868233680725,
        (1000, 9): -0.33026057481765747,
        (777, 3): 0.6491286158561707,
    }
    for place, value in expected.items():
        np.testing.assert_allclose(table[place], value, rtol=0, atol=6e-8)


def test_a_table_of_positions_has_as_many_sines_as_cosines(tmp_path):
    write_bundle(tmp_path / "model", {"kernel": np.ones((3, 3), np.float32)})
    (tmp_path / "rules.toml").write_text(TABLE.replace("[5, 6]", "[5, 7]"))
    with pytest.raises(tfreader.PlanError, match=r"projection \[5, 7\]: .*of an even size"):
        convert_file(tmp_path / "model", tmp_path / "out.st", rules=tmp_path / "rules.toml")


TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(
    st.recursive(
        TEXT | st.booleans() | st.integers() | st.floats(allow_nan=False),
        lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    )
)
def test_toml_gives_back_what_was_written(value):
    assert tomllib.loads(f"it = {toml(value)}") == {"it": value}


def test_rules_with_any_text_come_back(tmp_path):
    odd = "tab\t line\n quotes '\"\\ bell\x07 DEL\x7f \x85 \u2028 größe 😀"
    rules = RuleSet(
        (Rule((r"(?P<größe>\d+)\x00\x7f",), ("{größe}" + odd,), part=odd),),
        counts={"größe": "größe"},
        drops=(Drop(r"\x01" + "\x01", odd),),
    )
    path = tmp_path / "rules.toml"
    path.write_bytes(dump_rules(rules).encode())
    assert replace(load_rules(path), name="") == rules
    with pytest.raises(tfreader.RuleError, match="surrogate"):
        dump_rules(replace(rules, name="\udcff", drops=(Drop("\udcff", ""),)))


def test_a_variable_of_its_own_undoes_a_tie(tmp_path):
    tensors = {"kernel": np.ones((3, 3), np.float32), "own": np.zeros((3, 3), np.float32)}
    write_bundle(tmp_path / "model", tensors)
    (tmp_path / "rules.toml").write_text(FILLED)
    report = convert_file(
        tmp_path / "model", tmp_path / "out.safetensors", rules=tmp_path / "rules.toml"
    )
    assert report.plan.ties == {}
    assert not load_file(tmp_path / "out.safetensors")["alias"].any()


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [("unused(/kernel", "a", "bad regular expression"), ("unused/kernel", "{n}", "no group named")],
)
def test_a_rule_made_in_python_is_checked_though_it_matches_nothing(
    tmp_path, source, target, message
):
    prefix = write_bundle(tmp_path / "m", {"x": np.ones(2)})
    rules = RuleSet((Rule(("x",), ("x",)), Rule((source,), (target,), required=False)))
    with pytest.raises(tfreader.RuleError, match=message), tfreader.open(prefix) as checkpoint:
        make_plan(checkpoint, rules=rules)


def test_a_fill_must_be_one_that_exists():
    fill = {"target": "x", "shape": [1], "value": "ones-ish", "reason": "none"}
    with pytest.raises(tfreader.RuleError, match="fill 'x': 'ones-ish' is no value"):
        rules_from_data({"rule": [{"source": "a", "target": "b"}], "fill": [fill]}, "test")


def test_what_the_variables_tell_must_agree_with_the_config(monkeypatch, tmp_path):
    rules = RuleSet((Rule(("kernel",), ("weight",)), Rule(("gate",), ("gate",))))

    class Original(Layout):
        name = "original"
        evidence = ("kernel",)

        def describe(self, config, variables):
            return {"gated": "gate" in variables}

        def rules(self, config, variables):
            return replace(rules, rules=rules.rules[: 1 + config.get("gated", False)])

    class MadeUp(Family):
        model_type = "made-up"
        layouts = (Original(),)

    monkeypatch.setattr("tfreader.mapping.planning.detect.get_family", lambda _: MadeUp())
    tensors = {"kernel": np.ones(2, np.float32)}
    for gated in (False, True):
        if gated:
            tensors["gate"] = np.ones(2, np.float32)
        with tfreader.open(write_bundle(tmp_path / "model", tensors)) as checkpoint:
            plan = make_plan(checkpoint, "made-up")
            assert len(plan.entries) == len(tensors)
            assert plan.config["gated"] == gated
            with pytest.raises(tfreader.PlanError, match="gated = .* belongs to another model"):
                make_plan(checkpoint, "made-up", config={"gated": not gated})


def test_axes_may_be_counted_from_the_end(tmp_path):
    tensors = {"qkv": X, "stacked": X.reshape(4, 3, 2)}
    rules = [
        {
            "source": "qkv",
            "target": ["q", "k", "v"],
            "ops": [{"op": "split", "axis": -1}],
        },
        {
            "source": "stacked",
            "target": "layer.{i}.w",
            "ops": [{"op": "unstack", "axis": -2, "index": "i"}],
        },
    ]
    found = convert(tmp_path, tensors, {"rule": rules})
    for i, name in enumerate("qkv"):
        np.testing.assert_array_equal(found[name], X[:, 2 * i : 2 * i + 2])
        np.testing.assert_array_equal(found[f"layer.{i}.w"], tensors["stacked"][:, i])


def test_a_variable_is_not_taken_by_a_special_and_a_general_rule(tmp_path):
    special = {"source": "dense_out/kernel", "target": "out.weight"}
    general = {"source": "dense_(?P<n>.*)/kernel", "target": "{n}.weight"}
    tensors = {"dense_out/kernel": X, "dense_in/kernel": X}
    with pytest.raises(
        tfreader.PlanError,
        match=r"two rules.*: dense_out/kernel by '\w+/kernel' and by 'dense_\(\?P",
    ):
        convert(tmp_path, tensors, {"rule": [special, general]})
    # The same source twice is meant: two parts of one kernel.
    parts = [
        {
            **general,
            "target": f"{{n}}.{i}",
            "ops": [{"op": "slice", "axis": 0, "start": i, "stop": 4}],
        }
        for i in range(2)
    ]
    assert convert(tmp_path, tensors, {"rule": parts}).keys() == {"out.0", "out.1", "in.0", "in.1"}


def test_rules_of_ones_own_say_what_may_be_ignored(tmp_path):
    rules = {"rule": [{"source": "model/(?P<n>a|b)", "target": "{n}"}]}
    tensors = {"model/a": X, "model/b": X, "model/spare": X}
    with pytest.raises(tfreader.PlanError, match=r"model/spare.*leave out with --ignore"):
        convert(tmp_path, tensors, rules)
    rules["rule"][0]["source"] = "model/(?P<n>.*)"
    assert convert(tmp_path, tensors, rules, ignore=["model/spare"]).keys() == {"a", "b"}


def test_remarks_of_a_rule_file_are_notes(tmp_path):
    rules = {"remarks": ["as said"], "rule": [{"source": "a", "target": "x"}]}
    with tfreader.open(write_bundle(tmp_path / "m", {"a": X})) as checkpoint:
        plan = make_plan(checkpoint, rules=rules_from_data(rules, "test"))
    assert "as said" in plan.notes


def test_what_a_rule_file_says_to_be_needed_must_be_there(tmp_path):
    rules = {"needs": ["x", "y"], "rule": [{"source": "a", "target": "x"}]}
    with pytest.raises(tfreader.PlanError, match="1 tensor that the model needs.*: y "):
        convert(tmp_path, {"a": X}, rules)
    rules["needs"] = ["x"]
    assert convert(tmp_path, {"a": X}, rules).keys() == {"x"}


def test_rules_and_fills_may_choose_the_type_of_whole_numbers(tmp_path):
    fill = {"target": "count", "shape": [], "value": "zeros", "reason": "r", "dtype": "int64"}
    rules = {"fill": [fill], "rule": [{"source": "a", "target": "x", "dtype": "int64"}]}
    numbers = np.array([-(2**31), 2**31 - 1], np.int32)
    for dtype in ("keep", "float16"):
        found = convert(tmp_path, {"a": numbers}, rules, dtype=dtype)
        assert found["x"].dtype == found["count"].dtype == np.int64
        np.testing.assert_array_equal(found["x"], numbers)
        assert found["count"] == 0
    for values in (np.array([2**40]), np.array([1.5])):  # which it does not hold
        rules["rule"][0]["dtype"] = "int32"
        with pytest.raises(tfreader.TFReaderError, match="variable a: int32 does not hold"):
            convert(tmp_path, {"a": values}, rules)


def test_ties_lead_to_a_tensor(tmp_path):
    rules = {
        "rule": [{"source": "a", "target": "x"}],
        "tie": [{"alias": "z", "target": "y"}, {"alias": "y", "target": "x"}],
    }
    with tfreader.open(write_bundle(tmp_path / "m", {"a": X})) as checkpoint:
        plan = make_plan(checkpoint, rules=rules_from_data(rules, "test"))
        assert plan.ties == {"z": "x", "y": "x"}
        rules["tie"].append({"alias": "w", "target": "nothing"})
        with pytest.raises(tfreader.PlanError, match="w is tied to nothing"):
            make_plan(checkpoint, rules=rules_from_data(rules, "test"))


@pytest.mark.parametrize("source", [r"layer_\d/w", r"layer_(\d)/w", r"layer_(?P<i>\d)/w"])
def test_several_variables_for_one_tensor_are_told_how_to_differ(tmp_path, source):
    rules = {"rule": [{"source": source, "target": "w"}]}
    with pytest.raises(tfreader.PlanError, match=r"w .*layer_0/w.*layer_1/w.*\{.*\} in the target"):
        convert(tmp_path, {"layer_0/w": X, "layer_1/w": X}, rules)


def test_what_a_file_fills_or_ties_goes_before_the_family_s():
    fill = Fill("x", (1,), "zeros", "theirs")
    base = RuleSet((Rule(("a",), ("b",)),), fills=(fill,), ties=(Tie("y", "b"),), family="bert")
    mine = Fill("x", (1,), "ones", "mine", "other")
    own = RuleSet((), fills=(mine,), ties=(Tie("y", "x"),), extends="bert")
    merged = extended(base, own)
    assert merged.fills == (mine,)
    assert merged.ties == (Tie("y", "x"),)


def test_a_tensor_is_filled_once(tmp_path):
    fill = {"target": "x", "shape": [1], "value": "zeros", "reason": "none"}
    rules = {
        "rule": [
            {"source": "a", "target": "y", "part": "one"},
            {"source": "b", "target": "z", "part": "two"},
        ],
        "fill": [{**fill, "part": "one"}, {**fill, "part": "two"}],
    }
    with pytest.raises(tfreader.PlanError, match="x is filled twice"):
        convert(tmp_path, {"a": X, "b": X}, rules)


def test_sizes_that_no_tensor_has_are_refused_before_anything_is_made(tmp_path):
    tensors = {"a": np.zeros((1 << 15, 0), np.float32)}
    unstack = {"op": "unstack", "axis": 0, "index": "i"}
    repeat = {"op": "repeat", "times": "n_layer"}
    for ops in ([unstack], [repeat, unstack]):
        rules = {"rule": [{"source": "a", "target": "x.{i}", "ops": ops}]}
        with pytest.raises(tfreader.PlanError, match="at most 16384"):
            convert(tmp_path, tensors, rules, config={"n_layer": 1 << 24})
    rules = {"rule": [{"source": "a", "target": "x", "ops": [{"op": "reshape", "to": [0, "n"]}]}]}
    with pytest.raises(tfreader.PlanError, match="no tensor can have"):
        convert(tmp_path, tensors, rules, config={"n": (1 << 63) - 1})
    for size in (10**400, -1, 1 << 62):
        fill = {"target": "x", "shape": ["n*n*n", 0], "value": "zeros", "reason": "none"}
        rules = {"rule": [{"source": "a", "target": "a"}], "fill": [fill]}
        with pytest.raises(tfreader.TFReaderError, match="n"):
            convert(tmp_path, tensors, rules, config={"n": size})


def test_many_counted_groups_do_not_multiply(tmp_path):
    groups = "abcdef"
    source = "x" + "".join(rf"_(?P<{group}>\d+)" for group in groups)
    rules = {
        "counts": {group: f"n_{group}" for group in groups},
        "rule": [{"source": source, "target": ".".join(f"{{{group}}}" for group in groups)}],
    }
    tensors = {"x" + f"_{i}" * len(groups): np.zeros(1, np.float32) for i in range(30)}
    with pytest.raises(tfreader.PlanError, match="no variable fills"):
        convert(tmp_path, tensors, rules)
