"""What an operation is: data, with shape inference and application.

Any of them can make a part of its result from a part of its input, so that tensors of any size go
through in parts; the whole is the largest part. They are a small closed set: `moves.py` has those
that move values, `kernels.py` those that are named after layers, `arithmetic.py` those that change
values, `several.py` those that join and cut.

Axes are counted as numpy counts them: negative ones from the end.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from math import prod
from typing import Any, ClassVar, Protocol

from tfreader.checkpoint import Box
from tfreader.dtypes import Array

Shape = tuple[int, ...]

# More than any model has; what claims more is refused before it is made.
MAX_ELEMENTS = 1 << 40  # of a tensor that is not read but made
MOST_ADDRESSED = ((1 << 63) - 1) // 16  # elements, of the widest type, that numpy can address


@dataclass(frozen=True)
class Op:
    """One operation of a rule, as data."""

    name: ClassVar[str]

    def resolve(self, dimension: Callable[[int | str], int]) -> Op:
        """The same operation with config keys replaced by their values."""
        return self

    def to_data(self) -> str | dict[str, Any]:
        """The operation as a rule file spells it."""
        arguments = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in self._arguments()
        }
        return {"op": self.name, **arguments} if arguments else self.name

    def _arguments(self) -> Iterator[tuple[str, Any]]:
        for field in fields(self):
            if (value := getattr(self, field.name)) is not None:
                yield field.name, value

    def __str__(self) -> str:
        arguments = ", ".join(f"{key}={value}".replace(" ", "") for key, value in self._arguments())
        return f"{self.name}({arguments})" if arguments else self.name


Read = Callable[[Box], Array]
"""Gives a part of an operation's input."""


class Step(Op, ABC):
    """An operation on one array."""

    @abstractmethod
    def shape(self, shape: Shape) -> Shape:
        """The result's shape. Raises ValueError where the operation does not fit `shape`."""

    @abstractmethod
    def part(self, box: Box, shape: Shape, read: Read) -> Array:
        """A part of the result, of an input of that shape. A view of what is read where possible.

        It reads the part of the input that it needs, and no more where that is possible.
        """

    def inverse(self, shape: Shape) -> Step | None:
        """What makes an input of that shape of the result again; None where nothing does."""
        return None


class Composed(Step):
    """An operation that is several others, one after the other."""

    @abstractmethod
    def steps(self, shape: Shape) -> Sequence[Step]:
        """Those for an input of that shape. Raises ValueError where there are none."""

    def shape(self, shape: Shape) -> Shape:
        (made,), _ = follow(self.steps(shape), [shape])
        return made

    def part(self, box: Box, shape: Shape, read: Read) -> Array:
        _, (made,) = follow(self.steps(shape), [shape], [read])
        return made(box)

    def inverse(self, shape: Shape) -> Step | None:
        found: list[Step] = []
        for step in self.steps(shape):
            inverse = step.inverse(shape)
            if inverse is None:
                return None
            found.insert(0, inverse)
            shape = step.shape(shape)
        return Chain(tuple(found))


@dataclass(frozen=True)
class Chain(Composed):
    """Operations that no rule file names as one."""

    chain: tuple[Step, ...]
    name = "chain"

    def steps(self, shape: Shape) -> Sequence[Step]:
        return self.chain


class Join(Op, ABC):
    """An operation on all sources of a rule, in the order given."""

    @abstractmethod
    def join_shapes(self, shapes: Sequence[Shape]) -> Shape:
        """The result's shape. Raises ValueError where `shapes` do not fit together."""

    @abstractmethod
    def part(self, box: Box, shapes: Sequence[Shape], reads: Sequence[Read]) -> Array:
        """A part of the result, as `Step.part` gives it, of inputs of these shapes."""


@dataclass(frozen=True)
class Each(Op):
    """Makes one array of every few sources, before a join: so many of them, by operations each."""

    branches: tuple[tuple[int, tuple[Op, ...]], ...]
    name = "each"

    def resolve(self, dimension: Callable[[int | str], int]) -> Each:
        return Each(
            tuple((n, tuple(op.resolve(dimension) for op in ops)) for n, ops in self.branches)
        )

    def __str__(self) -> str:
        said = (", ".join(map(str, ops)) or "copy" for _, ops in self.branches)
        return f"each({'; '.join(said)})"


def follow(
    ops: Sequence[Op], shapes: Sequence[Shape], reads: Sequence[Read] = ()
) -> tuple[list[Shape], list[Read]]:
    """The shapes that operations make of sources of these, and what gives parts of the results.

    Without `reads` shapes alone. Raises ValueError where an operation does not fit.
    """
    shapes, reads = list(shapes), list(reads)
    for op in ops:
        if isinstance(op, Each):
            made = []
            start = 0
            for count, inner in op.branches:
                own = slice(start, start + count)
                made.append(follow(inner, shapes[own], reads[own]))
                start += count
            shapes = [shape for found, _ in made for shape in found]
            reads = [read for _, found in made for read in found]
        elif isinstance(op, Join):
            joined = op.join_shapes(shapes)
            reads = [partial(op.part, shapes=shapes, reads=reads)] if reads else []
            shapes = [joined]
        elif isinstance(op, Step):
            reads = [
                partial(op.part, shape=shape, read=read)
                for shape, read in zip(shapes, reads, strict=False)
            ]
            shapes = [op.shape(shape) for shape in shapes]
        check_sizes(op, shapes)
    return shapes, reads


def check_sizes(op: Op, shapes: Sequence[Shape]) -> None:
    """Raise ValueError for what numpy cannot address, which counts axes without any as one."""
    for shape in shapes:
        if prod(size or 1 for size in shape) > MOST_ADDRESSED:
            raise ValueError(f"{op} makes the shape {list(shape)}, which no tensor can have")


def within(ops: Sequence[Op]) -> Iterator[Op]:
    """The operations, and those in them."""
    for op in ops:
        yield op
        if isinstance(op, Each):
            yield from (inner for _, branch in op.branches for inner in within(branch))


class HasAxis(Protocol):
    """An operation along an axis."""

    @property
    def axis(self) -> int: ...


def axis_of(op: HasAxis, shape: Shape) -> int:
    """An operation's axis, counted from the front. Raises ValueError where there is none."""
    if not -len(shape) <= op.axis < len(shape):
        raise ValueError(f"{op} does not fit the shape {list(shape)}, it has no axis {op.axis}")
    return op.axis % len(shape)
