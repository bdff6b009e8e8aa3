from __future__ import annotations

import time

import pytest

from tfreader.checkpoint import TensorInfo
from tfreader.dtypes import DTYPES
from tfreader.training import training_state

TYPES = {"float32": 1, "int32": 3, "int64": 9, "bool": 10}
WEIGHTS = {"dense/kernel": (4, 3), "dense/bias": (3,), "block/wi": (4, 3)}


def states(variables, dtypes=None):
    dtypes = dtypes or {}
    return training_state(
        TensorInfo(name, DTYPES[TYPES[dtypes.get(name, "float32")]], shape, 0, 0, 0, 0)
        for name, shape in variables.items()
    )


def state_of(name, shape, others, dtype="float32"):
    return states({name: shape, **others}, {name: dtype}).get(name)


@pytest.mark.parametrize(
    ("name", "shape", "base"),
    [
        ("dense/kernel/Adam", (4, 3), "dense/kernel"),
        ("dense/kernel/Adam_1", (4, 3), "dense/kernel"),
        ("dense/kernel/adam_m", (4, 3), "dense/kernel"),
        ("dense/bias/lamb_v", (3,), "dense/bias"),
        ("dense/kernel/Momentum", (4, 3), "dense/kernel"),
        ("dense/kernel/DistributedAdagrad_Optimizer", (4, 3), "dense/kernel"),
        ("dense/kernel/policy_optimizer_1", (4, 3), "dense/kernel"),
        ("train/dense/kernel/RMSProp_1", (4, 3), "dense/kernel"),
        ("training/Adam/dense/kernel/m", (4, 3), "dense/kernel"),
        ("dense/kernel/part_0/adam_m", (2, 3), "dense/kernel"),
        ("dense/kernel/t_0/Adagrad", (4, 3), "dense/kernel"),
        ("dense/kernel/kernel/part_12/Ftrl_1", (4, 3), "dense/kernel"),
        ("dense/kernel/outer/dense/kernel/part_0/Ftrl", (4, 3), "dense/kernel"),
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


def test_slots_of_an_optimizer_that_nobody_has_heard_of():
    slots = {f"{name}/heard_of_it": shape for name, shape in WEIGHTS.items()}
    statistics = {"bn/moving_mean": (3,), "bn/moving_variance": (3,)}
    found = states({**WEIGHTS, **slots, **statistics, "global_step": ()})
    assert {name for name, state in found.items() if state.kind == "slot"} == slots.keys()
    assert found["dense/bias/heard_of_it"].base == "dense/bias"
    # Without a trace of training, or on some of the weights only, they are weights themselves.
    assert not states({**WEIGHTS, **slots, **statistics})
    del slots["dense/bias/heard_of_it"]
    assert states({**WEIGHTS, **slots, "global_step": ()}).keys() == {"global_step"}


def test_what_was_trained_itself_is_a_weight():
    bayesian = {f"{name}/sigma": shape for name, shape in WEIGHTS.items()}
    trained = {**WEIGHTS, **bayesian}
    slots = {f"{name}/Adam": shape for name, shape in trained.items()}
    found = states({**trained, **slots, "global_step": ()})
    assert found.keys() == {*slots, "global_step"}
    assert found["dense/kernel/sigma/Adam"].base == "dense/kernel/sigma"


@pytest.mark.parametrize(
    "name", ["global_step", "beta1_power", "opt/beta2_power_1", "save_counter", "good_steps"]
)
def test_counters(name):
    assert state_of(name, (), WEIGHTS).kind == "training counter"


@pytest.mark.parametrize("name", ["batch_finite", "Variable", "tower/Variable_3", "bad_flags"])
@pytest.mark.parametrize("dtype", ["bool", "int32", "int64"])
def test_single_integers_are_no_weights(name, dtype):
    expected = "bool scalar" if dtype == "bool" else "integer scalar"
    assert state_of(name, (), WEIGHTS, dtype).kind == expected
    assert state_of(name, (1, 5), WEIGHTS, dtype) is None
    assert state_of(name, (), WEIGHTS) is None


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("training/Ftrl/iter", ()),
        ("training/Adam/beta_1", ()),
        ("Adam/learning_rate_1", ()),
        ("training_1/AdamWeightDecay/weight_decay_rate", ()),
        ("training/RMSprop/Variable_7", (4, 3)),  # Keras 2.2 named none of its slots
    ],
)
def test_what_optimizers_keep_beside_slots(name, shape):
    assert state_of(name, shape, WEIGHTS).kind == "optimizer state"
    assert state_of(f"not_{name}", (7,), WEIGHTS) is None


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
        ("dense/kernel/positions", (4, 3)),
        ("dense/kernel/mask", (4, 3)),
        ("dense/kernel/adamant/Adagrad", (4, 3)),  # no end of the variable's name
        ("dense/bias/biased", (3,)),
        ("dense/kernel/lambda", (4, 3)),
    ],
)
def test_a_weight_with_an_unlucky_name_is_kept(name, shape):
    assert state_of(name, shape, {**WEIGHTS, "save_counter": ()}) is None


def test_a_slot_has_a_type_that_can_be_trained():
    assert state_of("dense/kernel/adam_steps", (4, 3), WEIGHTS, "int32") is None


@pytest.mark.parametrize(
    "suffix",
    ["ExponentialMovingAverage", "ExponentialMovingAverage_1", "ema", "ema_b999900", "average"],
)
def test_moving_averages_are_a_kind_of_their_own(suffix):
    state = state_of(f"dense/bias/{suffix}", (3,), WEIGHTS)
    assert state is not None
    assert (state.kind, state.base, state.slot) == ("moving average", "dense/bias", suffix)


def test_averages_in_the_scope_of_an_optimizer():
    state = state_of("MovingAverage/dense/bias/average", (3,), WEIGHTS)
    assert (state.kind, state.base) == ("moving average", "dense/bias")


def test_averages_of_parts_are_of_no_whole_variable():
    state = state_of("dense/kernel/part_1/ExponentialMovingAverage", (2, 3), WEIGHTS)
    assert (state.kind, state.base) == ("moving average", None)
    assert str(state) == "moving average of an unknown variable"


def test_what_moving_averages_need_is_no_average():
    average = "dense/kernel/ExponentialMovingAverage"
    found = states(
        {**WEIGHTS, average: (4, 3), f"{average}/biased": (4, 3), f"{average}/local_step": ()}
    )
    assert found[average].kind == "moving average"
    assert {found[f"{average}/{part}"].kind for part in ("biased", "local_step")} == {
        "moving average state"
    }


@pytest.mark.parametrize("raw", [True, False])
def test_averages_of_slots_and_counters_are_no_weights_either(raw):
    everything = {**WEIGHTS, "dense/kernel/Adam": (4, 3), "global_step": ()}
    averages = {f"{name}/ExponentialMovingAverage": shape for name, shape in everything.items()}
    found = states({**(everything if raw else {}), **averages})
    kinds = {name: found[f"{name}/ExponentialMovingAverage"].kind for name in everything}
    assert kinds == {
        **dict.fromkeys(WEIGHTS, "moving average"),
        "dense/kernel/Adam": "moving average state",
        "global_step": "moving average state",
    }


def test_averages_that_were_saved_alone():
    state = state_of("dense/kernel/ExponentialMovingAverage", (4, 3), {})
    assert (state.kind, state.base) == ("moving average", "dense/kernel")


def test_names_of_outputs():
    found = states({"w:0": (4, 3), "w/Adam:0": (4, 3), "w/ema:0": (4, 3), "global_step:0": ()})
    assert found["w/Adam:0"].base == found["w/ema:0"].base == "w:0"
    assert found["global_step:0"].kind == "training counter"
    assert "w:0" not in found


@pytest.mark.parametrize(
    "name",
    [
        "x/" * 100_000,
        "x/" * 100_000 + "Adam",
        "/part_" * 30_000 + "x",
        "_" * 200_000,
        "a_slot_v" * 25_000,
        "adam_" * 40_000 + "/iter/",
        "ExponentialMovingAverage/" * 8_000,
    ],
)
def test_names_that_take_long_to_search(name):
    started = time.perf_counter()
    states({name: (4, 3), **WEIGHTS})
    assert time.perf_counter() - started < 2
