"""The operations of a rule: a small closed set, each with shape inference and application.

All of them are exact: they move values and never change one. (Casts belong to the output, see
`tfreader.mapping.execute`.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from math import prod
from typing import Any, ClassVar

import numpy as np

from tfreader.dtypes import Array
from tfreader.errors import RuleError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Op:
    """One operation of a rule, as data."""

    name: ClassVar[str]

    def resolve(self, dimension: Callable[[int | str], int]) -> Op:
        """The same operation with config keys replaced by their values."""
        return self

    def to_data(self) -> str | dict[str, Any]:
        """The operation as a rule file spells it."""
        arguments = {field.name: getattr(self, field.name) for field in fields(self)}
        arguments = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in arguments.items()
        }
        return {"op": self.name, **arguments} if arguments else self.name

    def __str__(self) -> str:
        arguments = ", ".join(
            f"{f.name}={getattr(self, f.name)}".replace(" ", "") for f in fields(self)
        )
        return f"{self.name}({arguments})" if arguments else self.name


class Step(Op, ABC):
    """An operation on one array."""

    @abstractmethod
    def shape(self, shape: Shape) -> Shape:
        """The result's shape. Raises ValueError where the operation does not fit `shape`."""

    @abstractmethod
    def apply(self, array: Array) -> Array:
        """The result, a view where that is possible."""


@dataclass(frozen=True)
class Transpose(Step):
    """Reverse the axes; of a matrix, TensorFlow's [in, out] to PyTorch's [out, in]."""

    name = "transpose"

    def shape(self, shape: Shape) -> Shape:
        if len(shape) < 2:
            raise ValueError(f"transpose needs two axes or more, the shape is {list(shape)}")
        return shape[::-1]

    def apply(self, array: Array) -> Array:
        return array.T


@dataclass(frozen=True)
class Permute(Step):
    """Reorder the axes: axis i of the result is axis `axes[i]` of the input."""

    axes: tuple[int, ...]
    name = "permute"

    def shape(self, shape: Shape) -> Shape:
        if sorted(self.axes) != list(range(len(shape))):
            raise ValueError(f"permute {list(self.axes)} does not fit the shape {list(shape)}")
        return tuple(shape[axis] for axis in self.axes)

    def apply(self, array: Array) -> Array:
        return array.transpose(self.axes)


@dataclass(frozen=True)
class Reshape(Step):
    """Give the same values, in row-major order, another shape. Dimensions may be config keys."""

    to: tuple[int | str, ...]
    name = "reshape"

    def resolve(self, dimension: Callable[[int | str], int]) -> Reshape:
        return Reshape(tuple(dimension(size) for size in self.to))

    def shape(self, shape: Shape) -> Shape:
        to = tuple(int(size) for size in self.to)
        if to.count(-1) == 1:
            rest = prod(size for size in to if size != -1)
            if rest > 0 and prod(shape) % rest == 0:
                to = tuple(prod(shape) // rest if size == -1 else size for size in to)
        if prod(to) != prod(shape) or any(size < 0 for size in to):
            raise ValueError(f"shape {list(shape)} cannot be reshaped to {list(to)}")
        return to

    def apply(self, array: Array) -> Array:
        return array.reshape(self.shape(array.shape))


@dataclass(frozen=True)
class Squeeze(Step):
    """Drop an axis of size 1."""

    axis: int
    name = "squeeze"

    def shape(self, shape: Shape) -> Shape:
        if not 0 <= self.axis < len(shape) or shape[self.axis] != 1:
            raise ValueError(f"axis {self.axis} of the shape {list(shape)} is not of size 1")
        return shape[: self.axis] + shape[self.axis + 1 :]

    def apply(self, array: Array) -> Array:
        return array.squeeze(self.axis)


@dataclass(frozen=True)
class Repeat(Step):
    """The same values `times` over, along a new first axis. `times` may be a config key."""

    times: int | str
    name = "repeat"

    def resolve(self, dimension: Callable[[int | str], int]) -> Repeat:
        return Repeat(dimension(self.times))

    def shape(self, shape: Shape) -> Shape:
        if int(self.times) < 0:
            raise ValueError(f"{self} is less than nothing")
        return int(self.times), *shape

    def apply(self, array: Array) -> Array:
        return np.broadcast_to(array, self.shape(array.shape))


@dataclass(frozen=True)
class Slice(Step):
    """Keep `start` to `stop` (exclusive) along an axis. Both may be config keys."""

    axis: int
    start: int | str
    stop: int | str
    name = "slice"

    def resolve(self, dimension: Callable[[int | str], int]) -> Slice:
        return Slice(self.axis, dimension(self.start), dimension(self.stop))

    def shape(self, shape: Shape) -> Shape:
        start, stop = int(self.start), int(self.stop)
        if not (0 <= self.axis < len(shape) and 0 <= start <= stop <= shape[self.axis]):
            raise ValueError(f"slice {start}:{stop} of axis {self.axis} leaves {list(shape)}")
        return (*shape[: self.axis], stop - start, *shape[self.axis + 1 :])

    def apply(self, array: Array) -> Array:
        index = (slice(None),) * self.axis + (slice(int(self.start), int(self.stop)),)
        return array[index]


@dataclass(frozen=True)
class Split(Op):
    """Cut into as many equal parts along `axis` as the rule has targets."""

    axis: int
    name = "split"


@dataclass(frozen=True)
class Unstack(Op):
    """One target for each index of `axis`, which is dropped; the target says `{index}`."""

    axis: int
    index: str
    name = "unstack"


class Join(Op, ABC):
    """An operation on all sources of a rule, in the order given."""

    @abstractmethod
    def join_shapes(self, shapes: Sequence[Shape]) -> Shape:
        """The result's shape. Raises ValueError where `shapes` do not fit together."""

    @abstractmethod
    def join(self, arrays: Sequence[Array]) -> Array:
        """The arrays joined."""


@dataclass(frozen=True)
class Concat(Join):
    """Join the rule's sources along an axis that they have."""

    axis: int
    name = "concat"

    def join_shapes(self, shapes: Sequence[Shape]) -> Shape:
        axis, first = self.axis, shapes[0]
        if not 0 <= axis < len(first) or any(
            s[:axis] != first[:axis] or s[axis + 1 :] != first[axis + 1 :] for s in shapes
        ):
            raise ValueError(f"shapes {[*map(list, shapes)]} cannot be joined on axis {axis}")
        return (*first[:axis], sum(s[axis] for s in shapes), *first[axis + 1 :])

    def join(self, arrays: Sequence[Array]) -> Array:
        return np.concatenate(arrays, self.axis)


@dataclass(frozen=True)
class Stack(Join):
    """Join the rule's sources along a new axis."""

    axis: int
    name = "stack"

    def join_shapes(self, shapes: Sequence[Shape]) -> Shape:
        axis, first = self.axis, shapes[0]
        if any(shape != first for shape in shapes) or not 0 <= axis <= len(first):
            raise ValueError(f"shapes {[*map(list, shapes)]} cannot be stacked on axis {axis}")
        return (*first[:axis], len(shapes), *first[axis:])

    def join(self, arrays: Sequence[Array]) -> Array:
        return np.stack(arrays, self.axis)


OPS: dict[str, type[Op]] = {
    op.name: op
    for op in (Transpose, Permute, Reshape, Squeeze, Repeat, Slice, Split, Unstack, Concat, Stack)
}


def op_from_data(data: str | Mapping[str, Any]) -> Op:
    """An operation as a rule file spells it: "transpose" or {op = "permute", axes = [2, 0, 1]}."""
    arguments = {} if isinstance(data, str) else dict(data)
    name = data if isinstance(data, str) else arguments.pop("op", None)
    if name not in OPS:
        raise RuleError(f"unknown operation {name!r}; there are {', '.join(OPS)}")
    kind = OPS[name]
    try:
        return kind(
            **{
                key: tuple(value) if isinstance(value, list) else value
                for key, value in arguments.items()
            }
        )
    except TypeError:
        wanted = ", ".join(field.name for field in fields(kind)) or "no arguments"
        raise RuleError(f"operation {name!r} takes {wanted}, not {sorted(arguments)}") from None
