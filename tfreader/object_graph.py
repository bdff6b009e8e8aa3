"""The object graph of TF2 checkpoints: which Python object owns which variable.

`tf.train.Checkpoint` and SavedModel store each variable under a path of attributes from the saved
object to the variable, not under the variable's own name, and the graph of objects as a string
tensor. It gives the own names back, the other paths to the same variable, and what belongs to an
optimizer.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from google.protobuf.message import DecodeError

from .checkpoint_pb2 import TrackableObjectGraph

OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
VARIABLE_VALUE = "VARIABLE_VALUE"
SUFFIX = f"/.ATTRIBUTES/{VARIABLE_VALUE}"
# Children that only optimizers have together: Keras 2's older ones, then all later ones.
_OPTIMIZER_MARKS = ({"iter", "learning_rate"}, {"_iterations", "_learning_rate"})
# The list of the model's own weights that a Keras 3 optimizer keeps.
_WEIGHTS_OF_OPTIMIZER = "_trainable_variables"
_TABLE_PARTS = ("-keys", "-values")
_COPY = re.compile(r"_all_variables/\d+")  # Keras 3 exports every weight twice
_ORIGINAL = re.compile(r"variables/\d+")


class Slot(NamedTuple):
    """Whose slot variable a value is: the variable's key, the slot's name, the optimizer's path."""

    base: str
    name: str
    optimizer: str


class TrackedValue(NamedTuple):
    """A value of an object: the `key` that it is stored under, and what the graph says of it.

    `path` joins the attributes from the root to the object with slashes. `full_name` is the
    variable's own name, empty where none is stored; two variables may share it. `attribute` says
    what the value is of the object: VARIABLE_VALUE, table-keys and so on. `aliases` are paths
    through other owners. `slots` maps the names of its slot variables to their keys, `slot_of` is
    for a slot variable itself. `optimizer` is the path of the optimizer that alone owns it.
    `copy_of` is the key of the same variable where it is stored twice.
    """

    key: str
    path: str
    full_name: str
    attribute: str
    aliases: tuple[str, ...] = ()
    slots: Mapping[str, str] = {}
    slot_of: Slot | None = None
    optimizer: str | None = None
    copy_of: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """All names but the key, the path first."""
        end = "" if self.attribute == VARIABLE_VALUE else f"/{self.attribute}"
        own = (self.full_name,) if self.full_name else ()
        return self.path + end, *own, *(alias + end for alias in self.aliases)


class _Node(NamedTuple):
    children: list[tuple[int, str]]
    attributes: list[tuple[str, str, str]]  # name, full name, key
    slots: list[tuple[int, str, int]]  # variable's node, slot's name, slot variable's node


class _Step(NamedTuple):
    """How a walk came to a node: from which of its starts, from which parent, by which name."""

    start: int
    parent: int | None
    name: str


class ObjectGraph(Mapping[str, TrackedValue]):
    """The values of a checkpoint's objects by key, in key order.

    `missing` are keys that the graph lists but the checkpoint does not hold.
    """

    def __init__(self, serialized: bytes, stored: Collection[str]) -> None:
        """`stored` are the checkpoint's keys. Raises ValueError where the graph is damaged."""
        self._nodes = nodes = _parse(serialized)
        steps = _walk(nodes, [0])
        optimizers = [i for i in steps if _is_optimizer(nodes[i])]
        owned = _walk(nodes, optimizers)
        own = _walk(nodes, [0], frozenset(optimizers))
        listed = [
            (i, *attribute)
            for i, node in enumerate(nodes)
            for attribute in _expand(node.attributes, stored)
        ]
        self.missing = tuple(key for _, _, _, key in listed if key not in stored)
        listed = [item for item in listed if item[3] in stored]
        paths = _paths(steps, {*(i for i, *_ in listed), *optimizers}, 64 * len(serialized))
        aliases = _aliases(nodes, steps, {i for i, *_ in listed}, 64 * len(serialized))
        found = {
            key: TrackedValue(
                key,
                paths.get(i, key.removesuffix(SUFFIX)),
                full_name,
                attribute,
                tuple(aliases.get(i, ())),
                optimizer=paths[owned[i].start] if i in owned and i not in own else None,
            )
            for i, attribute, full_name, key in listed
        }
        keys = {i: key for i, attribute, _, key in listed if attribute == VARIABLE_VALUE}
        slots = {
            keys[slot]: Slot(keys[base], name, paths[i])
            for i in optimizers
            for base, name, slot in nodes[i].slots
            if base in keys and slot in keys
        }
        slots |= _slots_by_name(found.values(), slots)
        self._values = _relate(found, slots, _copies(found.values()))
        self._names = _readable_names(self._values)
        self._keys = {name: key for key, name in self._names.items()}

    def __getitem__(self, key: str) -> TrackedValue:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def name(self, key: str) -> str:
        """The readable name of a key: the full name where only one variable has it, or the path."""
        return self._names.get(key, key)

    def find(self, name: str) -> str | None:
        """The key of the value with that readable name, or at that path from the root."""
        if name in self._keys:
            return self._keys[name]
        node = 0
        for part in name.split("/"):
            children = {child: i for i, child in reversed(self._nodes[node].children)}
            if unescape(part) not in children:
                return None
            node = children[unescape(part)]
        for attribute, _, key in self._nodes[node].attributes:
            if attribute == VARIABLE_VALUE and key in self._values:
                return key
        return None


def unescape(part: str) -> str:
    """One component of a key as the attribute was called: `..` is a dot, `.S` a slash."""
    return re.sub(r"\.[.S]", lambda match: "." if match[0] == ".." else "/", part)


def _parse(serialized: bytes) -> list[_Node]:
    try:
        message = TrackableObjectGraph.FromString(serialized)
    except DecodeError:
        raise ValueError("not a protobuf message") from None

    def text(name: bytes) -> str:
        return name.decode("utf-8", "surrogateescape")

    nodes = [
        _Node(
            [(child.node_id, text(child.local_name)) for child in node.children],
            [(text(a.name), text(a.full_name), text(a.checkpoint_key)) for a in node.attributes],
            [
                (s.original_variable_node_id, text(s.slot_name), s.slot_variable_node_id)
                for s in node.slot_variables
            ],
        )
        for node in message.nodes
    ]
    if not nodes:
        raise ValueError("it has no nodes")
    for node in nodes:
        references = [i for i, _ in node.children]
        references += [i for base, _, slot in node.slots for i in (base, slot)]
        for i in references:
            if not 0 <= i < len(nodes):
                raise ValueError(f"it refers to node {i} of {len(nodes)}")
    return nodes


def _is_optimizer(node: _Node) -> bool:
    names = {name for _, name in node.children}
    return bool(node.slots) or any(marks <= names for marks in _OPTIMIZER_MARKS)


def _expand(
    attributes: Iterable[tuple[str, str, str]], stored: Collection[str]
) -> Iterator[tuple[str, str, str]]:
    """The attributes, a lookup table's as the two tensors that hold its keys and values."""
    for name, full_name, key in attributes:
        if key not in stored and all(key + part in stored for part in _TABLE_PARTS):
            yield from ((name + part, full_name, key + part) for part in _TABLE_PARTS)
        else:
            yield name, full_name, key


def _walk(
    nodes: list[_Node], starts: list[int], closed: frozenset[int] = frozenset()
) -> dict[int, _Step]:
    """Every node that can be reached, nearest first, and how.

    Of a closed node only the list of the model's weights is followed.
    """
    steps = {start: _Step(start, None, "") for start in starts}
    queue = deque(starts)
    while queue:
        i = queue.popleft()
        for child, name in nodes[i].children:
            if child not in steps and (i not in closed or name == _WEIGHTS_OF_OPTIMIZER):
                steps[child] = _Step(steps[i].start, i, name)
                queue.append(child)
    return steps


def _paths(steps: Mapping[int, _Step], wanted: Collection[int], limit: int) -> dict[int, str]:
    """The paths of the wanted nodes; ValueError where they are longer than `limit` together."""
    lengths: dict[int, int] = {}
    for i, step in steps.items():  # parents come before their children
        lengths[i] = len(step.name) + (0 if step.parent is None else lengths[step.parent] + 1)
    if sum(lengths[i] for i in wanted if i in lengths) > limit:
        raise ValueError("its paths are too long")
    return {i: _path(steps, i) for i in wanted if i in steps}


def _path(steps: Mapping[int, _Step], i: int) -> str:
    names = []
    step = steps[i]
    while step.parent is not None:
        names.append(step.name)
        step = steps[step.parent]
    return "/".join(reversed(names))


def _aliases(
    nodes: list[_Node], steps: Mapping[int, _Step], wanted: Collection[int], limit: int
) -> dict[int, list[str]]:
    """For the wanted nodes, the paths that end in another edge than their own path does."""
    edges = [
        (parent, child, name)
        for parent in steps
        for child, name in nodes[parent].children
        if child in wanted and (steps[child].parent, steps[child].name) != (parent, name)
    ]
    owners = [parent for parent, _, _ in edges]
    paths = _paths(steps, set(owners), limit)
    if sum(len(paths[parent]) for parent in owners) > limit:
        raise ValueError("its paths are too long")
    aliases: dict[int, list[str]] = {}
    for parent, child, name in edges:
        aliases.setdefault(child, []).append(f"{paths[parent]}/{name}".lstrip("/"))
    return aliases


def _slots_by_name(values: Iterable[TrackedValue], known: Mapping[str, Slot]) -> dict[str, Slot]:
    """Slots of optimizers that keep their variables in a plain list, by the variables' names.

    Keras 2.11 to 2.15 calls them Adam/m/dense/kernel, Keras 3 adam/dense_kernel_momentum.
    """
    values = list(values)
    weights = {value.full_name: value.key for value in values if value.optimizer is None}
    flat = {name.replace("/", "_"): key for name, key in weights.items() if name}
    slots = {}
    for value in values:
        if value.optimizer is None or value.key in known:
            continue
        _, _, rest = value.full_name.partition("/")
        slot, _, base = rest.partition("/")
        if base and base in weights:
            slots[value.key] = Slot(weights[base], slot, value.optimizer)
            continue
        for underscore in re.finditer("_", rest):
            base, slot = rest[: underscore.start()], rest[underscore.end() :]
            if base in flat:
                slots[value.key] = Slot(flat[base], slot, value.optimizer)
    return slots


def _copies(values: Iterable[TrackedValue]) -> dict[str, str]:
    """The key of the original for each variable that a Keras 3 export stores a second time."""
    values = [value for value in values if value.full_name]
    originals = {v.full_name: v.key for v in values if _ORIGINAL.fullmatch(v.path)}
    return {
        value.key: originals[value.full_name]
        for value in values
        if _COPY.fullmatch(value.path) and value.full_name in originals
    }


def _relate(
    found: Mapping[str, TrackedValue], slots: Mapping[str, Slot], copies: Mapping[str, str]
) -> dict[str, TrackedValue]:
    """The values in key order, with their relations to each other."""
    of_base: dict[str, dict[str, str]] = {}
    for key, slot in slots.items():
        own = of_base.setdefault(slot.base, {})
        own[slot.name if slot.name not in own else f"{slot.optimizer}/{slot.name}"] = key
    related = {}
    for key in sorted(found):
        value, slot_of = found[key], slots.get(key)
        related[key] = value._replace(
            slots=of_base.get(key, {}),
            slot_of=slot_of,
            optimizer=slot_of.optimizer if slot_of else value.optimizer,
            copy_of=copies.get(key),
        )
    return related


def _readable_names(values: Mapping[str, TrackedValue]) -> dict[str, str]:
    """A name for each key, all different: the full name, else the path, else the key."""
    names = {}
    own = Counter(v.full_name for v in values.values() if v.copy_of is None)
    taken = Counter(v.names[0] for v in values.values())
    for key, value in values.items():
        path, full_name = value.names[0], value.full_name
        is_own = value.copy_of is None and value.attribute == VARIABLE_VALUE and full_name
        if is_own and own[full_name] == 1 and full_name not in taken:
            names[key] = full_name
        else:
            names[key] = path if taken[path] == 1 else key
    return names
