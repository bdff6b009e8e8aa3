"""Variables that are no weights: slot variables, moving averages, counters, tables.

A slot variable is known by its relation to another variable of the checkpoint (its name is that
variable's name and one more part, its shape the same or reduced), so an optimizer that nobody has
heard of is recognised, and a weight with an unlucky name is not lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from .checkpoint import TensorInfo
from .object_graph import OBJECT_GRAPH, ObjectGraph, TrackedValue

MOVING_AVERAGE = "ExponentialMovingAverage"

# Mesh TensorFlow joins its slot names with an underscore, everybody else nests them.
_MESH_SLOT = re.compile(r"(?P<base>.+?)(?P<slot>_slot_(?:vr|vc|v|m)|_momentum_v)")
_NESTED_SLOT = re.compile(r"(?P<base>.+)/(?P<slot>[^/]+)")
_MOVING_AVERAGE_STATE = re.compile(rf"(?P<base>.+)/{MOVING_AVERAGE}/(?:biased|local_step)")
_PARTITION = re.compile(r"/part_\d+$")
_KNOWN_SLOT = re.compile(
    r"(?i)(adam|lamb|momentum|adagrad|adadelta|rmsprop|ftrl|proximal|adafactor|adamw|sgd).*"
)
_REDUCED_SLOT = re.compile(r"(?i).*(vr|vc|adafactor.*)")
_COUNTER = re.compile(
    r"(?:.*/)?(?:global_step|save_counter|beta[12]_power(?:_\d+)?|(?:current_)?loss_scale|good_steps"
    r"|learning_rate|local_step|accum_step|num_accumulated)"
)
_METRIC = re.compile(r"(?:.*/)?keras_api/metrics/.+")
_ATTRIBUTES = {
    "table-keys": "lookup table",
    "table-values": "lookup table",
    "ITERATOR_STATE": "iterator state",
    "OBJECT_CONFIG_JSON": "object config",
}


class Training(NamedTuple):
    """Why a variable is training state: its kind, and for slots the variable it belongs to."""

    kind: str  # "slot", "moving average", "training counter", "metric", "object graph", ...
    base: str | None = None
    slot: str | None = None

    def __str__(self) -> str:
        if self.kind == "slot":
            return f"slot variable {self.slot} of {self.base}"
        if self.kind == "moving average":
            return f"moving average of {self.base}"
        return f"copy of {self.base}" if self.kind == "copy" else self.kind


def training_state(
    infos: Iterable[TensorInfo], graph: ObjectGraph | None = None
) -> dict[str, Training]:
    """The training state, and all else that is no weight, among a checkpoint's variables, by name.

    Where there is an object graph, it decides.
    """
    shapes = {info.name: info.shape for info in infos}
    found: dict[str, Training] = {}
    for name, shape in shapes.items():
        if graph is not None and name in graph:
            state = _of_object(graph[name])
        else:
            state = _classify(name, shape, shapes)
        if state is not None:
            found[name] = state
    return found


def _of_object(value: TrackedValue) -> Training | None:
    if value.attribute in _ATTRIBUTES:
        return Training(_ATTRIBUTES[value.attribute])
    if value.slot_of is not None:
        return Training("slot", value.slot_of.base, value.slot_of.name)
    if value.optimizer is not None:
        return Training("optimizer state")
    if value.copy_of is not None:
        return Training("copy", value.copy_of)
    if value.full_name == "save_counter" or _COUNTER.fullmatch(value.path):
        return Training("training counter")
    if _METRIC.fullmatch(value.path):
        return Training("metric")
    return None


def _classify(
    name: str, shape: tuple[int, ...], shapes: Mapping[str, tuple[int, ...]]
) -> Training | None:
    if name == OBJECT_GRAPH:
        return Training("object graph")
    if shape == () and _COUNTER.fullmatch(name):
        return Training("training counter")
    if (match := _MOVING_AVERAGE_STATE.fullmatch(name)) and match["base"] in shapes:
        return Training("moving average", match["base"], MOVING_AVERAGE)
    base = name.removesuffix(f"/{MOVING_AVERAGE}")
    if base != name and base not in shapes:  # only the averages were saved
        return Training("moving average", base, MOVING_AVERAGE)
    for pattern in (_MESH_SLOT, _NESTED_SLOT):
        if not (match := pattern.fullmatch(name)):
            continue
        base, slot = match["base"], match["slot"]
        owner = _owner(base, slot, shapes)
        if owner is None:
            continue
        partitioned = _PARTITION.search(base) is not None and owner not in (base,)
        if _related(shape, shapes[owner], slot, partitioned):
            kind = "moving average" if slot == MOVING_AVERAGE else "slot"
            return Training(kind, owner, slot)
    return None


def _owner(base: str, slot: str, shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """The variable that `base` names: itself, unpartitioned, or without the optimizer's scopes."""
    for candidate in (base, _PARTITION.sub("", base)):
        if candidate in shapes:
            return candidate
    outer = ""
    while "/" in base:
        scope, _, base = base.partition("/")
        outer = outer or (scope if _KNOWN_SLOT.fullmatch(scope) else "")
        if base in shapes and (outer or _KNOWN_SLOT.fullmatch(slot)):
            return base
    return None


def _related(shape: tuple[int, ...], base: tuple[int, ...], slot: str, partitioned: bool) -> bool:
    if shape == base:
        return True
    if partitioned:
        return len(shape) == len(base) and all(a <= b for a, b in zip(shape, base, strict=True))
    if _REDUCED_SLOT.fullmatch(slot):
        dropped_one = any(shape == base[:i] + base[i + 1 :] for i in range(len(base)))
        return dropped_one or shape == (1,)
    return False
