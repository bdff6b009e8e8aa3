"""Variables that belong to training: slot variables, moving averages, counters.

A slot variable is known by its relation to another variable of the checkpoint (its name is that
variable's name and one more part, its shape the same or reduced), so an optimizer that nobody has
heard of is recognised, and a weight with an unlucky name is not lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from .checkpoint import TensorInfo

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
    r"(?:.*/)?(?:global_step|save_counter|beta[12]_power(?:_\d+)?|current_loss_scale|good_steps)"
    r"(?:/\.ATTRIBUTES/VARIABLE_VALUE)?"
)
_OBJECT_SLOT = re.compile(r"(?P<base>.+)/\.OPTIMIZER_SLOT/.+?/(?P<slot>[^/]+)/\.ATTRIBUTES/.+")
OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"


class Training(NamedTuple):
    """Why a variable is training state: its kind, and for slots the variable it belongs to."""

    kind: str  # "slot", "moving average", "counter", "object graph"
    base: str | None = None
    slot: str | None = None

    def __str__(self) -> str:
        if self.kind == "slot":
            return f"slot variable {self.slot} of {self.base}"
        if self.kind == "moving average":
            return f"moving average of {self.base}"
        return {"counter": "training counter", "object graph": "object graph"}[self.kind]


def training_state(infos: Iterable[TensorInfo]) -> dict[str, Training]:
    """The training state among a checkpoint's variables, by name."""
    shapes = {info.name: info.shape for info in infos}
    found: dict[str, Training] = {}
    for name, shape in shapes.items():
        state = _classify(name, shape, shapes)
        if state is not None:
            found[name] = state
    return found


def _classify(
    name: str, shape: tuple[int, ...], shapes: Mapping[str, tuple[int, ...]]
) -> Training | None:
    if name == OBJECT_GRAPH:
        return Training("object graph")
    if shape == () and _COUNTER.fullmatch(name):
        return Training("counter")
    if match := _OBJECT_SLOT.fullmatch(name):
        return Training("slot", match["base"], match["slot"])
    if (match := _MOVING_AVERAGE_STATE.fullmatch(name)) and match["base"] in shapes:
        return Training("moving average", match["base"], MOVING_AVERAGE)
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
    if _KNOWN_SLOT.fullmatch(slot):
        while "/" in base:
            base = base.partition("/")[2]
            if base in shapes:
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
