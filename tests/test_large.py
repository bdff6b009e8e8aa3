"""Tensors that go through in parts: right, within the memory allowed, and in few reads."""

from __future__ import annotations

import tracemalloc
from contextlib import ExitStack
from unittest.mock import patch

import numpy as np
import pytest
from bundle_writer import write_bundle

import tfreader
from tfreader.files import LocalFile
from tfreader.mapping import make_plan
from tfreader.mapping.execute import BLOCK, WORKERS, stream
from tfreader.mapping.rules.rule_file import rules_from_data

SPARE = 2 << 20  # bytes that planning, threads and Python's objects take


@pytest.fixture
def carry_out(tmp_path):
    """Streams a checkpoint of one variable x; the tensors, the peak of memory, and the reads."""

    def run(variable, rules, memory_limit, dtype="keep", least=0, **tensors):
        prefix = write_bundle(tmp_path / "m", {"x": variable} | tensors)
        reads = []
        read_into = LocalFile.read_into

        def counted(self, offset, buffer):
            reads.append(len(memoryview(buffer)))
            read_into(self, offset, buffer)

        with tfreader.open(prefix) as checkpoint, ExitStack() as stack:
            stack.enter_context(patch("tfreader.mapping.execute.LEAST", least))
            plan = make_plan(checkpoint, rules=rules_from_data(rules, "test"), dtype=dtype)
            out = {entry.target: np.empty(entry.nbytes, np.uint8) for entry in plan.entries}
            reached = dict.fromkeys(out, 0)

            def write(entry, offset, data):
                assert offset == reached[entry.target]  # the bytes of a tensor come in order
                out[entry.target][offset : offset + len(data)] = data
                reached[entry.target] = offset + len(data)

            stack.enter_context(patch.object(LocalFile, "read_into", counted))
            tracemalloc.start()
            try:
                stream(plan, checkpoint, write, memory_limit=memory_limit)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
        made = {
            entry.target: out[entry.target].view(entry.dtype).reshape(entry.shape)
            for entry in plan.entries
        }
        return made, peak, reads

    return run


def rule(*ops):
    return {"rule": [{"source": "x", "target": "x", "ops": list(ops)}]}


@pytest.mark.parametrize("shape", [(500_000, 2), (2, 500_000), (1000, 1000), (100, 2, 5000)])
def test_a_transposed_variable_keeps_to_its_memory_and_is_not_read_value_by_value(carry_out, shape):
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    for limit in (1 << 20, 1 << 18):
        made, peak, reads = carry_out(values, rule("transpose"), limit)
        np.testing.assert_array_equal(made["x"], values.T)
        # Each thread has a block, and gaps that are read with what lies around them, by the MB.
        assert peak < limit + WORKERS * (BLOCK + (1 << 20)) + SPARE
        parts = 2 * WORKERS * values.nbytes // limit
        assert sum(reads) <= (parts + 2) * values.nbytes
        assert len(reads) < 100 * parts


def test_a_padded_variable_keeps_to_its_memory(carry_out):
    values = np.arange(700 * 1000, dtype=np.float32).reshape(700, 1000)
    pad = {"op": "pad", "axis": 0, "before": 300, "size": 1100}
    made, peak, reads = carry_out(values, rule(pad), 1 << 20)
    np.testing.assert_array_equal(made["x"], np.pad(values, [(300, 100), (0, 0)]))
    assert peak < (1 << 20) + WORKERS * (BLOCK + (1 << 20)) + SPARE
    assert sum(reads) <= 2 * values.nbytes


def test_runs_that_lie_far_apart_are_read_alone(carry_out):
    values = np.arange(60 * 20_000, dtype=np.float32).reshape(60, 20_000)
    made, _, reads = carry_out(values, rule("transpose"), 1 << 20)
    np.testing.assert_array_equal(made["x"], values.T)
    assert sum(reads) <= 2.1 * values.nbytes  # and once more for the checksum


@pytest.mark.parametrize(
    ("shape", "to"),
    [
        ((6, 70_000), (7, 60_000)),
        ((30, 20_020), (7, 4, 2145, 10)),
        ((7, 60_000), (-1,)),
        ((420_000,), (7, 5, 12_000)),
        ((6, 7, 10_000), (10_000, 7, 6)),
        ((35, 12_000), (5, 7, 12_000)),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_a_large_reshape_may_move_every_boundary(carry_out, shape, to, turned):
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    reshape = {"op": "reshape", "to": list(to)}
    expected = values.reshape(to).T if turned and len(to) > 1 else values.reshape(to)
    ops = [reshape, "transpose"] if turned and len(to) > 1 else [reshape]
    for limit in (1 << 20, 1 << 17):
        made, peak, _ = carry_out(values, rule(*ops), limit)
        np.testing.assert_array_equal(made["x"], expected)
        assert peak < 2 * limit + WORKERS * (BLOCK + (1 << 20)) + SPARE


def test_a_small_limit_does_not_cut_what_is_turned_over_into_crumbs(carry_out):
    values = np.arange(2000 * 2000, dtype=np.float32).reshape(2000, 2000)
    _, peak, reads = carry_out(values, rule("transpose"), 1 << 10, least=8 << 20)
    assert sum(reads) <= 3 * values.nbytes
    assert peak < 3 * (8 << 20)


@pytest.mark.parametrize("shape", [(2**58, 0), (0, 2**58), (3, 0, 2**50), (0,)])
@pytest.mark.parametrize("ops", [(), ("transpose",), ({"op": "reshape", "to": [0, 7]},)])
def test_an_empty_tensor_takes_no_time_whatever_its_shape(carry_out, shape, ops):
    if ops == ("transpose",) and len(shape) < 2:
        return
    made, peak, _ = carry_out(np.empty(shape, np.float32), rule(*ops), 1 << 20, dtype="float16")
    assert made["x"].size == 0
    assert peak < WORKERS * BLOCK + SPARE


def test_fills_keep_to_the_memory_allowed(carry_out):
    kinds = {"zeros": [9 << 20], "ones": [3, 3 << 20], "identity": [3001, 3001]}
    kinds |= {"frequencies": [4_000_001], "sinusoids": [3001, 768], "timing_signal": [40, 60_000]}
    fills = [
        {"target": value, "shape": shape, "value": value, "reason": "none"}
        for value, shape in kinds.items()
    ]
    values = np.ones((2, 2), np.float32)
    made, peak, _ = carry_out(values, rule() | {"fill": fills}, 1 << 20)
    assert peak < (1 << 20) + WORKERS * 4 * BLOCK
    assert not made["zeros"].any()
    assert (made["ones"] == 1).all()
    np.testing.assert_array_equal(made["identity"], np.eye(3001))
    steps = np.arange(4_000_001, dtype=np.float32) / np.float32(4_000_001)
    np.testing.assert_array_equal(made["frequencies"], 1 / np.float32(10000) ** steps)
    for name, last in (("sinusoids", 383 / 384), ("timing_signal", 1)):
        table = made[name].astype(np.float64)
        count = table.shape[1] // 2
        sines, cosines = table[:, :count], table[:, count:]
        np.testing.assert_allclose(sines**2 + cosines**2, 1, rtol=0, atol=1e-6)
        np.testing.assert_allclose(sines[1, [0, -1]], np.sin([1, 1e4**-last]), rtol=1e-6)
