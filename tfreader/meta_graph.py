"""The graph of operations that TensorFlow 1 saves beside a checkpoint, as PREFIX.meta.

See https://www.tensorflow.org/api_docs/python/tf/compat/v1/MetaGraphDef. It tells in which order
variables were made and what is done with them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

from google.protobuf.message import DecodeError

from .checkpoint_pb2 import ConstantTensor, GraphNode, TensorShape
from .errors import CorruptCheckpointError
from .files import open_file
from .paths import is_file
from .wire import BYTES, fields

MOST_BYTES = 256 << 20  # larger ones hold constants such as tables of words
MOST_OPERATIONS = 1_000_000
MOST_INPUTS = 10_000_000  # of all operations
_MOST_AXES = 8  # of a shape that tells something
_LARGE = 1 << 20  # bytes of an operation that is a constant too large to tell anything
_GRAPH, _NODE = 2, 1  # the fields of a MetaGraphDef and of a GraphDef


class Operation(NamedTuple):
    """An operation: its inputs by name, with `:1` for a second output and `^` for control.

    `shape` is that of its first output, None where unknown, with -1 for sizes that vary.
    `number` is the value of a constant that is one float, or the forget bias of a fused cell;
    `outputs` the number of parts of a split.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...] | None
    number: float | None
    outputs: int


def read_graph(prefix: str) -> list[Operation]:
    """The operations of PREFIX.meta in the order of their making, none where no such file is.

    Raises CorruptCheckpointError where it is none or too large, RemoteError.
    """
    path = f"{prefix}.meta"
    if not is_file(path):
        return []
    with closing(open_file(path)) as file:
        if file.size > MOST_BYTES:
            raise CorruptCheckpointError(f"{path}: more than {MOST_BYTES >> 20} MB, not read")
        data = memoryview(file.read(0, file.size))
    try:
        nodes = [
            node
            for number, kind, graph in fields(data)
            if (number, kind) == (_GRAPH, BYTES)
            for field, wire, node in fields(graph)
            if (field, wire) == (_NODE, BYTES) and len(node) < _LARGE
        ]
        if len(nodes) > MOST_OPERATIONS:
            raise ValueError(f"more than {MOST_OPERATIONS} operations")
        return [*_operations(nodes)]
    except (ValueError, DecodeError) as error:
        raise CorruptCheckpointError(f"{path}: not a graph of TensorFlow ({error})") from None


def _operations(nodes: Sequence[memoryview]) -> Iterator[Operation]:
    inputs = 0
    for data in nodes:
        node = GraphNode.FromString(bytes(data))
        inputs += len(node.input)
        if inputs > MOST_INPUTS:
            raise ValueError(f"more than {MOST_INPUTS} inputs")
        yield _operation(node)


def _operation(node: GraphNode) -> Operation:
    given = {each.key: each.value for each in node.attribute}
    shape, number, outputs = None, None, 1
    if value := given.get(b"_output_shapes"):
        shape = _sizes(value.list.shape[:1])
    if (value := given.get(b"value")) and node.op == b"Const":
        number = _number(value.tensor)
    if value := given.get(b"forget_bias"):
        number = value.f
    if value := given.get(b"num_split"):
        outputs = value.i
    name, op, *inputs = (
        text.decode(errors="replace") for text in (node.name, node.op, *node.input)
    )
    return Operation(name, op, tuple(inputs), shape, number, outputs)


def _sizes(shapes: Sequence[TensorShape]) -> tuple[int, ...] | None:
    if not shapes or shapes[0].unknown_rank or len(shapes[0].dim) > _MOST_AXES:
        return None
    return tuple(dim.size for dim in shapes[0].dim)


def _number(tensor: ConstantTensor) -> float | None:
    """The value of a constant without axes."""
    if tensor.shape.dim:
        return None
    if len(tensor.float_val) == 1:
        return tensor.float_val[0]
    return float(struct.unpack("<f", tensor.content)[0]) if len(tensor.content) == 4 else None
