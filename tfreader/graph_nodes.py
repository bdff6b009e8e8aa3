"""The nodes of an object graph, and the paths through them.

A path joins attribute names as TensorFlow's keys spell them: `..` is a dot, `.S` a slash. So no two
objects share a path, and every path leads back to its object.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Collection, Mapping
from typing import NamedTuple

from google.protobuf.message import DecodeError

from .checkpoint_pb2 import TrackableObjectGraph

ITEM_SIZE = 6  # bytes of an object, or of a name that another gives it; TensorFlow's take 10
FREE_ITEMS = 10_000


class Node(NamedTuple):
    # Tuples: the empty one takes no memory, and most are.
    children: tuple[tuple[int, str], ...]
    attributes: tuple[tuple[str, str, str], ...]  # name, full name, key
    slots: tuple[tuple[int, str, int], ...]  # variable's node, slot's name, slot variable's node


class Step(NamedTuple):
    """How a walk came to a node: from which of its starts, from which parent, by which name."""

    start: int
    parent: int | None
    name: str


def escape(name: str) -> str:
    """An attribute's name as a component of a path."""
    return name.replace(".", "..").replace("/", ".S")


def unescape(part: str) -> str:
    """One component of a path as the attribute was called: `..` is a dot, `.S` a slash."""
    return re.sub(r"\.[.S]", lambda match: "." if match[0] == ".." else "/", part)


def parse(serialized: bytes) -> list[Node]:
    """The nodes of a serialized TrackableObjectGraph. Raises ValueError where it is damaged."""
    try:
        message = TrackableObjectGraph.FromString(serialized)
    except DecodeError:
        raise ValueError("not a protobuf message") from None

    # Each becomes an object of some 150 bytes, and a message may spell one in two.
    room = FREE_ITEMS + len(serialized) // ITEM_SIZE - len(message.nodes)
    if room >= 0:
        room -= sum(
            len(node.children) + len(node.attributes) + len(node.slot_variables)
            for node in message.nodes
        )
    if room < 0:
        raise ValueError(f"{len(serialized)} bytes describe more objects than they can name")

    def text(name: bytes) -> str:
        return name.decode("utf-8", "surrogateescape")

    nodes = [
        Node(
            tuple([(child.node_id, text(child.local_name)) for child in node.children]),
            tuple(
                [(text(a.name), text(a.full_name), text(a.checkpoint_key)) for a in node.attributes]
            ),
            tuple(
                [
                    (s.original_variable_node_id, text(s.slot_name), s.slot_variable_node_id)
                    for s in node.slot_variables
                ]
            ),
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


def walk(
    nodes: list[Node], starts: list[int], closed: Mapping[int, Collection[str]] | None = None
) -> dict[int, Step]:
    """Every node that can be reached, nearest first, and how.

    `closed` names children of nodes that are not followed.
    """
    closed = closed or {}
    steps = {start: Step(start, None, "") for start in starts}
    queue = deque(starts)
    while queue:
        i = queue.popleft()
        barred = closed.get(i, ())
        for child, name in nodes[i].children:
            if child not in steps and name not in barred:
                steps[child] = Step(steps[i].start, i, name)
                queue.append(child)
    return steps


def in_depth(nodes: list[Node]) -> list[int]:
    """Every node that can be reached from the root, each child with all below it before the next.

    Children are in the order in which their object got them.
    """
    found: dict[int, None] = {}
    stack = [0]
    while stack:
        i = stack.pop()
        if i not in found:
            found[i] = None
            stack.extend(child for child, _ in reversed(nodes[i].children))
    return list(found)


def follow(nodes: list[Node], path: str) -> int | None:
    """The node at a path from the root, None if there is none."""
    node = 0
    for part in path.split("/"):
        children = {name: i for i, name in reversed(nodes[node].children)}
        name = unescape(part)
        if name not in children:
            return None
        node = children[name]
    return node


def paths(steps: Mapping[int, Step], wanted: Collection[int], limit: int) -> dict[int, str]:
    """The paths of the wanted nodes; ValueError where they are longer than `limit` together."""
    lengths: dict[int, int] = {}
    for i, step in steps.items():  # parents come before their children
        own = len(escape(step.name))
        lengths[i] = own + (0 if step.parent is None else lengths[step.parent] + 1)
    if sum(lengths[i] for i in wanted if i in lengths) > limit:
        raise ValueError("its paths are too long")
    return {i: _path(steps, i) for i in wanted if i in steps}


def _path(steps: Mapping[int, Step], i: int) -> str:
    names = []
    step = steps[i]
    while step.parent is not None:
        names.append(escape(step.name))
        step = steps[step.parent]
    return "/".join(reversed(names))


def aliases(
    nodes: list[Node], steps: Mapping[int, Step], wanted: Collection[int], limit: int
) -> dict[int, list[str]]:
    """For the wanted nodes, the paths that end in another edge than their own path does."""
    edges = [
        (parent, child, name)
        for parent in steps
        for child, name in nodes[parent].children
        if child in wanted and (steps[child].parent, steps[child].name) != (parent, name)
    ]
    owners = [parent for parent, _, _ in edges]
    found = paths(steps, set(owners), limit)
    if sum(len(found[parent]) for parent in owners) > limit:
        raise ValueError("its paths are too long")
    result: dict[int, list[str]] = {}
    for parent, child, name in edges:
        result.setdefault(child, []).append(f"{found[parent]}/{escape(name)}".lstrip("/"))
    return result
