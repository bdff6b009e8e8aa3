"""The object graph of TF2 checkpoints: which Python object owns which variable.

`tf.train.Checkpoint` and SavedModel store each variable under a path of attributes from the saved
object to the variable, not under the variable's own name, and the graph of objects as a string
tensor. It gives the own names back, the other paths to the same variable, and what belongs to an
optimizer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from . import graph_nodes
from .graph_nodes import Node, unescape
from .optimizers import (
    Owned,
    Shapes,
    Slot,
    find_optimizers,
    owned_nodes,
    slots_by_name,
    slots_in_lists,
)

OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
VARIABLE_VALUE = "VARIABLE_VALUE"
SUFFIX = f"/.ATTRIBUTES/{VARIABLE_VALUE}"
_TABLE_PARTS = ("-keys", "-values")
_COPY = re.compile(r"_all_variables/\d+")  # Keras 3 exports every weight twice
_ORIGINAL = re.compile(r"variables/\d+")


class TrackedValue(NamedTuple):
    """A value of an object: the `key` that it is stored under, and what the graph says of it.

    `path` joins the attributes from the root to the object with slashes, a dot in one of them
    spelled `..` and a slash `.S`, as in keys. `full_name` is the
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
    def paths(self) -> tuple[str, ...]:
        """The paths to the value, its own one first."""
        end = "" if self.attribute == VARIABLE_VALUE else f"/{self.attribute}"
        return self.path + end, *(alias + end for alias in self.aliases)

    @property
    def names(self) -> tuple[str, ...]:
        """All names but the key, the path first."""
        path, *aliases = self.paths
        own = (self.full_name,) if self.full_name else ()
        return path, *own, *aliases


class ObjectGraph(Mapping[str, TrackedValue]):
    """The values of a checkpoint's objects by key, in key order.

    `missing` are keys that the graph lists but the checkpoint does not hold.
    """

    def __init__(
        self, serialized: bytes, stored: Collection[str], shape: Shapes = lambda key: None
    ) -> None:
        """`stored` are the checkpoint's keys, `shape` tells the shapes of the variables.

        Raises ValueError where the graph is damaged.
        """
        self._nodes = nodes = graph_nodes.parse(serialized)
        limit = 64 * len(serialized)
        steps = graph_nodes.walk(nodes, [0])
        optimizers = find_optimizers(nodes, steps, shape)
        owners = owned_nodes(nodes, optimizers)
        listed = [
            _Listed(i, *attribute)
            for i, node in enumerate(nodes)
            for attribute in _expand(node.attributes, stored)
        ]
        self.missing = tuple(item.key for item in listed if item.key not in stored)
        listed = [item for item in listed if item.key in stored]
        wanted = {item.node for item in listed}
        paths = graph_nodes.paths(steps, wanted | optimizers.keys(), limit)
        aliases = graph_nodes.aliases(nodes, steps, wanted, limit)
        found = {
            key: TrackedValue(
                key,
                paths.get(i, key.removesuffix(SUFFIX)),
                full_name,
                attribute,
                tuple(aliases.get(i, ())),
                optimizer=paths[owners[i]] if i in owners else None,
            )
            for i, attribute, full_name, key in listed
        }
        copies = _copies(found.values())
        keys = {item.node: item.key for item in listed if item.attribute == VARIABLE_VALUE}
        of_optimizers = {i: paths[i] for i in optimizers}
        slots = _find_slots(nodes, keys, found, copies, of_optimizers, shape)
        self._values = _relate(found, slots, copies)
        self._names = _readable_names(self._values)
        self._keys = _all_names(self._values, self._names)

    def __getitem__(self, key: str) -> TrackedValue:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __repr__(self) -> str:
        return f"<ObjectGraph: {len(self)} values>"

    def __len__(self) -> int:
        return len(self._values)

    def name(self, key: str) -> str:
        """The readable name of a key: the full name where only one variable has it, or the path."""
        return self._names.get(key, key)

    def in_order(self) -> list[str]:
        """The keys of variables in the order in which their objects got their attributes."""
        attributes = (
            a for i in graph_nodes.in_depth(self._nodes) for a in self._nodes[i].attributes
        )
        keys = [key for name, _, key in attributes if name == VARIABLE_VALUE]
        return [key for key in dict.fromkeys(keys) if key in self._values]

    def find(self, name: str) -> str | None:
        """The key of the value with that readable name, or at that path from the root.

        A path may spell its attributes as they are called where that is clear.
        """
        if name in self._keys:
            return self._keys[name]
        node = graph_nodes.follow(self._nodes, name)
        for attribute, _, key in self._nodes[node].attributes if node is not None else ():
            if attribute == VARIABLE_VALUE and key in self._values:
                return key
        return None


class _Listed(NamedTuple):
    """An attribute of a node: a value, and the key that it is stored under."""

    node: int
    attribute: str
    full_name: str
    key: str


def _expand(
    attributes: Iterable[tuple[str, str, str]], stored: Collection[str]
) -> Iterator[tuple[str, str, str]]:
    """The attributes, a lookup table's as the two tensors that hold its keys and values."""
    for name, full_name, key in attributes:
        if key not in stored and all(key + part in stored for part in _TABLE_PARTS):
            yield from ((name + part, full_name, key + part) for part in _TABLE_PARTS)
        else:
            yield name, full_name, key


def _copies(values: Iterable[TrackedValue]) -> dict[str, str]:
    """The key of the original for each variable that a Keras 3 export stores a second time."""
    values = [value for value in values if value.full_name]
    originals = {v.full_name: v.key for v in values if _ORIGINAL.fullmatch(v.path)}
    return {
        value.key: originals[value.full_name]
        for value in values
        if _COPY.fullmatch(value.path) and value.full_name in originals
    }


def _find_slots(
    nodes: Sequence[Node],
    keys: Mapping[int, str],
    found: Mapping[str, TrackedValue],
    copies: Collection[str],
    optimizers: Mapping[int, str],
    shape: Shapes,
) -> dict[str, Slot]:
    """The slot variables by key, as the graph lists them, or lists go along, or names tell.

    `keys` are those of the nodes that are variables, `optimizers` the paths of the optimizers.
    """
    slots = {
        keys[slot]: Slot(keys[base], name, path)
        for i, path in optimizers.items()
        for base, name, slot in nodes[i].slots
        if base in keys and slot in keys
    }
    full_names = {key: found[key].full_name for key in keys.values()}
    slots |= dict(slots_in_lists(nodes, keys, full_names, optimizers))
    weights = [
        (value.full_name, key)
        for key, value in found.items()
        if value.optimizer is None and key not in copies
    ]
    unknown = [
        Owned(key, value.full_name, value.optimizer)
        for key, value in found.items()
        if value.optimizer is not None and key not in slots
    ]
    return slots | slots_by_name(unknown, weights, shape)


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
    taken = Counter(path for v in values.values() for path in set(v.paths))
    for key, value in values.items():
        path, full_name = value.names[0], value.full_name
        is_own = value.copy_of is None and value.attribute == VARIABLE_VALUE and full_name
        if is_own and own[full_name] == 1 and taken[full_name] == (full_name in value.paths):
            names[key] = full_name
        else:
            names[key] = path if taken[path] == 1 else key
    return names


def _all_names(values: Mapping[str, TrackedValue], names: Mapping[str, str]) -> dict[str, str]:
    """The keys by every name that leads to one value: readable names, paths, paths unescaped."""
    keys = {name: key for key, name in names.items()}
    exact = {(path, key) for key, value in values.items() for path in value.paths}
    plain = {("/".join(map(unescape, path.split("/"))), key) for path, key in exact if "." in path}
    for spelled in (exact, plain - exact):
        count = Counter(path for path, _ in spelled)
        for path, key in spelled:
            if count[path] == 1:
                keys.setdefault(path, key)
    return keys
