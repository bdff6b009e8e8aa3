from __future__ import annotations

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
from tfreader.mapping import convert as convert_file
from tfreader.mapping import dump_rules, load_rules, make_plan
from tfreader.mapping.execute import stream
from tfreader.mapping.family import Family, Layout, families
from tfreader.mapping.ops import (
    Concat,
    Permute,
    Repeat,
    Reshape,
    Slice,
    Squeeze,
    Stack,
    Transpose,
    part_of,
)
from tfreader.mapping.rule import Drop, Rule, RuleSet, _toml, literal_tail, rules_from_data

import tfreader
from tfreader.checkpoint import whole


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


@st.composite
def steps(draw, shape):
    """An operation for that shape, and what numpy calls it."""
    start = draw(st.integers(0, shape[0]))
    stop = draw(st.integers(start, shape[0]))
    axes = tuple(draw(st.permutations(range(len(shape)))))
    sizes = draw(st.permutations([*shape, 1]))
    other = draw(st.permutations(factors(prod(shape))))
    known = [
        (Permute(axes), lambda a: np.transpose(a, axes)),
        (Slice(0, start, stop), lambda a: a[start:stop]),
        (Repeat(2), lambda a: np.stack([a, a])),
        (Reshape((-1,)), np.ravel),
        (Reshape(tuple(sizes)), lambda a: np.reshape(a, sizes)),
        (Reshape(tuple(other)), lambda a: np.reshape(a, other)),
        (Reshape((shape[0], -1)), lambda a: np.reshape(a, (len(a), -1))),
    ]
    if len(shape) > 1:
        known.append((Transpose(), np.transpose))
    if 1 in shape:
        axis = shape.index(1)
        known.append((Squeeze(axis), lambda a: np.squeeze(a, axis)))
    return draw(st.sampled_from(known))


@settings(deadline=None)
@given(st.data(), array_shapes(max_dims=3, max_side=5), st.integers(1, 9), st.integers(0, 9))
def test_any_part_of_a_chain_of_operations_is_that_part_of_the_whole(data, shape, long, span):
    with patch("tfreader.mapping.ops.LONG_RUN", long), patch("tfreader.mapping.ops.SPAN", span):
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
        (Stack(1), same, np.stack(same, 1)),
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
        ({"source": "a", "target": "x", "ops": ["flip"]}, "unknown operation 'flip'"),
        ({"source": "a", "target": "x", "ops": [{"op": "permute"}]}, "takes axes"),
        ({"source": "a", "traget": "x"}, "needs source and target"),
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


def test_printed_rules_of_every_layout_read_back_equal(tmp_path):
    path = tmp_path / "rules.toml"
    for rules in (layout.rules({}, {}) for f in families().values() for layout in f.layouts):
        path.write_text(dump_rules(rules))
        loaded = load_rules(path)
        assert loaded.rules == rules.rules
        assert loaded.counts == rules.counts
        assert loaded.ties == rules.ties
        assert loaded.drops == rules.drops
        assert loaded.architectures == rules.architectures


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


TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(
    st.recursive(
        TEXT | st.booleans() | st.integers() | st.floats(allow_nan=False),
        lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    )
)
def test_toml_gives_back_what_was_written(value):
    assert tomllib.loads(f"it = {_toml(value)}") == {"it": value}


def test_rules_with_any_text_come_back(tmp_path):
    odd = "tab\t line\n quotes '\"\\ bell\x07 DEL\x7f \x85 \u2028 größe 😀"
    rules = RuleSet(
        (Rule((r"(?P<größe>\d+)\x00\x7f",), ("{größe}" + odd,), part=odd, shape=(odd,)),),
        counts={"größe": odd},
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


def test_a_fill_must_be_one_that_exists():
    fill = {"target": "x", "shape": [1], "value": "ones-ish", "reason": "none"}
    with pytest.raises(tfreader.RuleError, match="fill 'x': 'ones-ish'"):
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

    monkeypatch.setattr("tfreader.mapping.detect.get_family", lambda _: MadeUp())
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
