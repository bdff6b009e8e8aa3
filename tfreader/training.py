"""Variables that are no weights: slot variables, moving averages, counters, tables.

All that is said here is a guess from names, shapes and types, which a rule that names a variable
overrules. A slot variable is called like its variable and one more part, and has its shape (or a
reduced one); but so are weights (`emb/positions`, `w/mask`). That one more part is believed where
it names an optimizer, or where an optimizer that nobody has heard of must have made it: training
left other state behind, and nearly all variables have such a one, which has no slots of its own.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from operator import le
from typing import NamedTuple

from .checkpoint import TensorInfo
from .object_graph import OBJECT_GRAPH, ObjectGraph, TrackedValue
from .optimizers import AVERAGE, AVERAGES, HYPERPARAMETER, reduced

MOVING_AVERAGE = "ExponentialMovingAverage"

_OUTPUT = re.compile(r":\d+$")  # Saver({v.name: v}) saves as w:0
# Mesh TensorFlow joins its slot names with an underscore, everybody else nests them.
_MESH_SLOT = re.compile(r"(?P<base>.+?)(?P<slot>_slot_(?:vr|vc|v|m)|_momentum_v)")
_AVERAGE = re.compile(
    rf"(?:{MOVING_AVERAGE}|{AVERAGE}|(?i:moving_?average|(?:weight_|polyak_)?ema))(?:_\w+)?"
)
_ALONE = re.compile(rf"/{MOVING_AVERAGE}(?:_\d+)?$")
_AVERAGE_STATE = ("biased", "local_step")  # of averages with zero_debias=True
_PARTITION = re.compile(r"/part_\d+$")
_MAX_SCOPES = 32  # around or inside a slot's name; nobody nests them deeper
# Optimizers that TensorFlow, its contrib, Keras, Addons, tensor2tensor and Horovod have.
_OPTIMIZER = (
    r"(?:adam|lamb(?!da)|lars|momentum|adagrad|adadelta|adafactor|nadam|radam|rmsprop|ftrl|proximal"
    r"|sgd|gradientdescent|yogi|novograd|lookahead|shampoo|sm3|movingaverage|swa"
    r"|optimi[sz]er|accum|vhat|grad_?acc)"
)
# At the start of a name, of a part of it or of a camel's hump: adam_m, DistributedAdam.
_KNOWN = re.compile(rf"(?:^|[_/]|[a-z](?=[A-Z]))(?i:{_OPTIMIZER})")
_SCOPED_STATE = re.compile(
    rf"(?:.*/)?(?:(?i:{_OPTIMIZER})\w*/{HYPERPARAMETER.pattern}(?:_\d+)?"
    rf"|training(?:_\d+)?/(?i:{_OPTIMIZER})\w*/(?P<unnamed>Variable(?:_\d+)?))"
)
_REDUCED_SLOT = re.compile(r"(?i).*(vr|vc|adafactor.*)")
_COUNTER = re.compile(
    r"(?:.*/)?(?:global_step|save_counter|beta[12]_power(?:_\d+)?|(?:current_)?loss_scale|good_steps"
    r"|bad_steps|learning_rate|local_step|accum_step|num_accumulated)"
)
_METRIC = re.compile(r"(?:.*/)?keras_api/metrics/.+")
# Keras 3's layers and preprocessing, tf.random.Generator.
_RANDOM_STATE = re.compile(
    r"(?:.*/)?(?:(?:seed_generator_state|StateVar|_state_var)(?:_\d+)?|seed_generator/\d+)"
)
# In Keras' HDF5 files: of Keras 2's model.save, of Keras 3 and 2's .weights.h5.
KERAS_OPTIMIZER = re.compile(r"(?s)optimizer_weights/.+|optimizer/(?:.+/)?vars/\d+")
KERAS_METRIC = re.compile(r"(?s)(?:metrics|_\w*metrics?|_loss_tracker)/(?:.+/)?vars/\d+")
_STATISTIC = re.compile(r".*/moving_(?:mean|variance)")  # no optimizer trains these
_LEFT_BY_TRAINING = ("slot", "training counter", "optimizer state")
_INTEGERS = {"bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (2, 4, 8, 16, 32, 64))}
_ATTRIBUTES = {
    "table-keys": "lookup table",
    "table-values": "lookup table",
    "ITERATOR_STATE": "iterator state",
    "OBJECT_CONFIG_JSON": "object config",
}


Shape = tuple[int, ...]


class Training(NamedTuple):
    """Why a variable is training state: its kind, and for slots the variable it belongs to.

    The base of a "moving average" may be no variable of the checkpoint (only averages were saved);
    it is None where it cannot be told, or where the average is of a part of it.
    """

    kind: str  # "slot", "moving average", "training counter", "metric", "object graph", ...
    base: str | None = None
    slot: str | None = None

    def __str__(self) -> str:
        if self.kind == "slot":
            return f"slot variable {self.slot} of {self.base}"
        if self.kind in ("moving average", "copy"):
            return f"{self.kind} of {self.base or 'an unknown variable'}"
        return self.kind


def training_state(
    infos: Iterable[TensorInfo], graph: ObjectGraph | None = None
) -> dict[str, Training]:
    """The training state, and all else that is no weight, among a checkpoint's variables, by name.

    Where there is an object graph, it decides.
    """
    infos = list(infos)
    shapes = {info.name: info.shape for info in infos}
    found: dict[str, Training] = {}
    others: list[TensorInfo] = []
    for info in infos:
        value = None if graph is None else graph.get(info.name)
        if value is None:
            others.append(info)
        elif state := _of_object(value, info, shapes):
            found[info.name] = state
    found |= _by_names(others)
    return {name: found[name] for name in shapes if name in found}


def _of_object(
    value: TrackedValue, info: TensorInfo, shapes: Mapping[str, Shape]
) -> Training | None:
    if value.attribute in _ATTRIBUTES:
        return Training(_ATTRIBUTES[value.attribute])
    if value.slot_of is not None:
        base, slot, _ = value.slot_of
        is_average = slot == AVERAGE and shapes.get(base) == info.shape
        return Training("moving average" if is_average else "slot", base, slot)
    if value.optimizer is not None:
        if any(f"/{AVERAGES}/" in f"/{path}" for path in value.paths):
            return Training("moving average", None, AVERAGE)
        return Training("optimizer state")
    if value.copy_of is not None:
        return Training("copy", value.copy_of)
    if value.full_name == "save_counter" or _COUNTER.fullmatch(value.path):
        return Training("training counter")
    if _METRIC.fullmatch(value.path):
        return Training("metric")
    return _of_type(info, value.names)


def _of_type(info: TensorInfo, names: Iterable[str]) -> Training | None:
    """What a variable's type tells: a single integer is no weight."""
    if info.dtype not in _INTEGERS:
        return None
    if any(map(_RANDOM_STATE.fullmatch, names)):
        return Training("random state")
    if info.shape == ():
        return Training("bool scalar" if info.dtype == "bool" else "integer scalar")
    return None


class _Claim(NamedTuple):
    """That a variable may belong to `owner`, whose name and shape its own are made of."""

    owner: str
    slot: str
    of_part: bool  # the owner is partitioned, this belongs to one part
    known: bool  # an optimizer that is known makes such names


def _by_names(infos: Iterable[TensorInfo]) -> dict[str, Training]:
    """The training state among variables of which only names, shapes and types are known."""
    infos = list(infos)
    stored = {_OUTPUT.sub("", info.name): info for info in infos}
    if len(stored) < len(infos):  # w and w:0 are two variables
        stored = {info.name: info for info in infos}
    # Of averages without their variables, these are thought up, to see what they would be.
    alone = {
        name: base
        for name in stored
        if (base := _ALONE.sub("", name)) != name and _owner(name, stored) is None
    }
    variables = stored | {base: stored[name]._replace(name=base) for name, base in alone.items()}
    claims = {name: claim for name in variables if (claim := _claim(name, variables))}
    trained = {claim.owner for claim in claims.values() if claim.known}
    for name in trained & claims.keys():  # a slot has no slots of its own
        del claims[name]
    states = {
        name: state
        for name, info in variables.items()
        if (state := _state(name, info, claims.get(name), variables))
    }
    states |= {
        name: Training("moving average", base, MOVING_AVERAGE) for name, base in alone.items()
    }
    states |= _unknown_slots(variables, claims, states)
    for name, state in states.items():
        if state.kind == "moving average" and state.base in states:  # of a slot, or of a counter
            states[name] = state._replace(kind="moving average state")
    named = {name: state for name, state in states.items() if name in stored}
    if all(name == info.name for name, info in stored.items()):
        return named
    return {
        stored[name].name: state._replace(
            base=stored[state.base].name if state.base in stored else state.base
        )
        for name, state in named.items()
    }


def _state(
    name: str, info: TensorInfo, claim: _Claim | None, variables: Mapping[str, TensorInfo]
) -> Training | None:
    if name == OBJECT_GRAPH:
        return Training("object graph")
    base, _, last = name.rpartition("/")
    if last in _AVERAGE_STATE and all(f"{base}/{part}" in variables for part in _AVERAGE_STATE):
        return Training("moving average state", base, last)
    if info.shape == () and _COUNTER.fullmatch(name):
        return Training("training counter")
    if claim is not None and _AVERAGE.fullmatch(claim.slot):
        return Training("moving average", None if claim.of_part else claim.owner, claim.slot)
    if claim is not None and claim.known:
        return Training("slot", claim.owner, claim.slot)
    if (match := _SCOPED_STATE.fullmatch(name)) and (info.shape == () or match["unnamed"]):
        return Training("optimizer state")
    if KERAS_OPTIMIZER.fullmatch(name):
        return Training("optimizer state")
    if KERAS_METRIC.fullmatch(name):
        return Training("metric")
    return _of_type(info, (name,))


def _unknown_slots(
    variables: Mapping[str, TensorInfo],
    claims: Mapping[str, _Claim],
    states: Mapping[str, Training],
) -> dict[str, Training]:
    """Slots of optimizers that nobody has heard of: what nearly every weight has one of."""
    if not any(state.kind in _LEFT_BY_TRAINING for state in states.values()):
        return {}
    doubtful = {name: claim for name, claim in claims.items() if name not in states}
    weights = {
        name
        for name, info in variables.items()
        if name not in states and name not in doubtful and not _STATISTIC.fullmatch(name)
    }
    owners: dict[str, set[str]] = defaultdict(set)
    for claim in doubtful.values():
        owners[claim.slot].add(claim.owner)
    believed = {
        slot for slot, owned in owners.items() if len(owned & weights) > max(1, 0.9 * len(weights))
    }
    return {
        name: Training("slot", claim.owner, claim.slot)
        for name, claim in doubtful.items()
        if claim.slot in believed
    }


def _claim(name: str, variables: Mapping[str, TensorInfo]) -> _Claim | None:
    """Whose slot or average a variable may be, by its name and shape."""
    claim = _owner(name, variables)
    if claim is None:
        return None
    info, owner = variables[name], variables[claim.owner]
    if info.dtype in _INTEGERS and info.dtype != owner.dtype:
        return None
    if info.shape == owner.shape:
        return claim._replace(of_part=False) if claim.of_part else claim
    if claim.of_part:
        fits = len(info.shape) == len(owner.shape) and all(map(le, info.shape, owner.shape))
    else:
        fits = _REDUCED_SLOT.fullmatch(claim.slot) is not None and info.shape in reduced(
            owner.shape
        )
    return claim if fits else None


def _owner(name: str, variables: Collection[str]) -> _Claim | None:
    """The variable that the first part of a name stands for, the optimizer's scopes left out."""
    if (match := _MESH_SLOT.fullmatch(name)) and match["base"] in variables:
        return _Claim(match["base"], match["slot"], False, True)
    base, _, slot = name.rpartition("/")
    is_average = _AVERAGE.fullmatch(slot) is not None
    known = not is_average and _KNOWN.search(slot) is not None
    whole = _PARTITION.sub("", base)
    for candidate in (base, whole):
        if candidate in variables:
            return _Claim(candidate, slot, candidate != base, known)
    if not (known or is_average or _KNOWN.search(base)):
        return None
    inner = base
    for _ in range(_MAX_SCOPES):  # around it: training/Adam/dense/kernel/m
        _, slash, inner = inner.partition("/")
        in_scope = known or _KNOWN.search(base, 0, len(base) - len(inner)) is not None
        if inner in variables and slash and (in_scope or is_average):
            return _Claim(inner, slot, False, in_scope and not is_average)
    outer = base
    for _ in range(_MAX_SCOPES if known else 0):  # contrib.learn's: w/ghts/part_0/Adagrad
        outer, slash, _ = outer.rpartition("/")
        if outer in variables and _is_cut_off(base[len(outer) + 1 :], outer):
            return _Claim(outer, slot, True, True)
    return None


def _is_cut_off(rest: str, owner: str) -> bool:
    """Whether `rest` is the end of the owner's name in another scope, cut off somewhere.

    contrib.learn made such names of the slots of partitioned variables: it took as many letters off
    the slot's name as the variable's has, though the slot's began with one more scope.
    """
    number = re.search(r"\d*$", rest)
    part = f"/{owner}/part_{number[0] if number else ''}"
    return part.endswith(rest) or rest.endswith(part)
