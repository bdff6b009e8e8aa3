from __future__ import annotations

import pytest

from tfreader.checkpoint import TensorInfo
from tfreader.dtypes import DTYPES
from tfreader.training import training_state


def state_of(name, shape, others):
    variables = {name: shape, **others}
    infos = [TensorInfo(n, DTYPES[1], s, 0, 0, 0, 0) for n, s in variables.items()]
    return training_state(infos).get(name)


WEIGHTS = {"dense/kernel": (4, 3), "dense/bias": (3,), "block/wi": (4, 3)}


@pytest.mark.parametrize(
    ("name", "shape", "base"),
    [
        ("dense/kernel/Adam", (4, 3), "dense/kernel"),
        ("dense/kernel/Adam_1", (4, 3), "dense/kernel"),
        ("dense/kernel/adam_m", (4, 3), "dense/kernel"),
        ("dense/bias/lamb_v", (3,), "dense/bias"),
        ("dense/kernel/Momentum", (4, 3), "dense/kernel"),
        ("dense/kernel/nobody_heard_of_it", (4, 3), "dense/kernel"),
        ("train/dense/kernel/RMSProp_1", (4, 3), "dense/kernel"),
        ("dense/kernel/part_0/adam_m", (2, 3), "dense/kernel"),
        ("block/wi_slot_vr", (4,), "block/wi"),
        ("block/wi_slot_vc", (3,), "block/wi"),
        ("block/wi_slot_v", (4, 3), "block/wi"),
        ("block/wi_momentum_v", (4, 3), "block/wi"),
        ("block/wi/adafactor_vr", (4,), "block/wi"),
    ],
)
def test_slots_are_known_by_their_base(name, shape, base):
    state = state_of(name, shape, WEIGHTS)
    assert state is not None
    assert (state.kind, state.base) == ("slot", base)


def test_moving_averages_are_a_kind_of_their_own():
    state = state_of("dense/bias/ExponentialMovingAverage", (3,), WEIGHTS)
    assert state is not None
    assert state.kind == "moving average"


@pytest.mark.parametrize(
    "name", ["global_step", "beta1_power", "opt/beta2_power_1", "save_counter", "good_steps"]
)
def test_counters(name):
    assert state_of(name, (), WEIGHTS).kind == "training counter"


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("dense/kernel/Adam", (5, 3)),  # another shape
        ("other/kernel/Adam", (4, 3)),  # no such base
        ("adam_m", (4, 3)),  # no base at all
        ("global_step", (3,)),  # not a scalar
        ("bert/embeddings/relation_embedding", (4, 3)),
        ("wi_slot_vr", (7,)),
        ("dense/kernel/ExponentialMovingAverage", (9,)),
    ],
)
def test_a_weight_with_an_unlucky_name_is_kept(name, shape):
    assert state_of(name, shape, WEIGHTS) is None


def test_averages_that_were_saved_alone():
    state = state_of("dense/kernel/ExponentialMovingAverage", (4, 3), {})
    assert (state.kind, state.base) == ("moving average", "dense/kernel")


def test_slots_in_the_scope_of_an_optimizer():
    state = state_of("training/Adam/dense/kernel/m", (4, 3), WEIGHTS)
    assert (state.kind, state.base, state.slot) == ("slot", "dense/kernel", "m")
