"""Operations that change values: only where a rule says so, and the plan shows it.

They are done in the variable's own type, before any cast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tfreader.checkpoint import Box
from tfreader.dtypes import Array
from tfreader.errors import RuleError

from .op import Join, Read, Shape, Step, axis_of


@dataclass(frozen=True)
class Changed(Step):
    """One `value` for all, or for each of equal `blocks` of an axis its own."""

    value: float | None = None
    axis: int | None = None
    blocks: tuple[float, ...] | None = None
    ufunc: ClassVar[np.ufunc]

    def shape(self, shape: Shape) -> Shape:
        if (self.value is None) == (self.blocks is None) or (
            (self.axis is None) != (self.blocks is None)
        ):
            raise ValueError(f"{self} takes either value, or axis and blocks")
        if self.axis is not None and self.blocks is not None:
            size = shape[axis_of(self, shape)]  # type: ignore[arg-type]
            if not self.blocks or size % len(self.blocks):
                raise ValueError(
                    f"axis {self.axis} of {list(shape)} is not made of {len(self.blocks)} equal "
                    "blocks"
                )
        return shape

    def check(self, dtype: np.dtype[Any]) -> None:
        """Raise ValueError where a constant is none of the type of the values."""
        for constant in self.blocks or (self.value,):
            with np.errstate(over="ignore"):
                made = dtype.type(constant)
            if dtype.kind in "iub" and made != constant:
                raise ValueError(f"{self}: values of type {dtype} are whole numbers")
            if not np.isfinite(made):
                raise ValueError(f"{self}: no value of type {dtype} is as large")

    def part(self, box: Box, shape: Shape, read: Read) -> Array:
        values = read(box)
        constants: Any = values.dtype.type(self.value) if self.blocks is None else None
        if self.axis is not None and self.blocks is not None:
            axis = axis_of(self, shape)  # type: ignore[arg-type]
            size = max(shape[axis] // len(self.blocks), 1)
            numbers = np.arange(box[axis].start, box[axis].stop) // size
            constants = np.array(self.blocks, values.dtype)[numbers]
            constants = constants.reshape(-1, *[1] * (len(shape) - axis - 1))
        changed: Array = self.ufunc(values, constants)
        return changed


@dataclass(frozen=True)
class Add(Changed):
    """Add a constant, such as the forget_bias of TensorFlow 1's LSTM cells."""

    name = "add"
    ufunc = np.add


@dataclass(frozen=True)
class Multiply(Changed):
    """Multiply by a constant."""

    name = "multiply"
    ufunc = np.multiply


@dataclass(frozen=True)
class Elementwise(Join):
    """Of all sources, element by element; the others are as large as the first, or stretched."""

    ufunc: ClassVar[np.ufunc]

    def join_shapes(self, shapes: Sequence[Shape]) -> Shape:
        first = shapes[0]
        for shape in shapes[1:]:
            if len(shape) > len(first) or any(
                size not in (1, own) for size, own in zip(shape[::-1], first[::-1], strict=False)
            ):
                raise ValueError(f"{self}: {list(shape)} does not go with {list(first)}")
        return first

    def part(self, box: Box, shapes: Sequence[Shape], reads: Sequence[Read]) -> Array:
        result = reads[0](box)
        for shape, read in zip(shapes[1:], reads[1:], strict=True):
            own = box[len(box) - len(shape) :]
            needed = tuple(
                range(1) if size == 1 and len(part) else part
                for size, part in zip(shape, own, strict=True)
            )
            values = read(needed).astype(result.dtype, copy=False)
            self.check(values)
            result = self.ufunc(result, values)
        return result

    def check(self, others: Array) -> None:
        """Raise RuleError for what cannot be computed with."""


@dataclass(frozen=True)
class Sum(Elementwise):
    """Add all sources."""

    name = "sum"
    ufunc = np.add


@dataclass(frozen=True)
class Product(Elementwise):
    """Multiply all sources."""

    name = "product"
    ufunc = np.multiply


@dataclass(frozen=True)
class Divide(Elementwise):
    """Divide the first source by the others: a sum by its counter, weights by a norm."""

    name = "divide"
    ufunc = np.divide

    def check(self, others: Array) -> None:
        if not others.all():
            raise RuleError(f"{self}: a divisor is zero; what is divided was never counted")
