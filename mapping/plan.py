"""The plan: what becomes of every variable and where every tensor comes from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal, NamedTuple, TypeAlias

import ml_dtypes
import numpy as np

from tfreader.checkpoint import Box
from tfreader.dtypes import Array, name_of
from tfreader.folding import fold_rows, literal
from tfreader.notebook import table

from .family import Beside, Config, Family
from .findings import count
from .rules.ops import Op, Read, Shape, follow
from .rules.rule import Fill, RuleSet

Dtype: TypeAlias = Literal["float16", "bfloat16", "float32", "keep"]
"""What floating-point tensors become; "keep" leaves each as it is stored."""
MovingAverages: TypeAlias = Literal["drop", "use"]

FLOATS: dict[str, np.dtype[Any]] = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
}
CASTABLE = {*FLOATS.values(), np.dtype(np.float64)}


def _indices(part: range) -> Array:
    return np.arange(part.start, part.stop)


def _sinusoids(box: Box, shape: Shape) -> Array:
    """Of each position the sines of all angles, then their cosines, in double precision."""
    positions, columns = map(_indices, box)
    count = shape[1] // 2
    steps = columns % max(count, 1) / max(count, 1)
    return _waves(np.divide.outer(positions, 10000.0**steps), columns, count)


def _timing_signal(box: Box, shape: Shape) -> Array:
    """The same of the angles of Tensor2Tensor's get_timing_signal_1d, of whose steps one is less.

    It works in single precision. At position 1000 its angles are off by as much as 1e-4, and the
    models were trained so.
    """
    positions, columns = map(_indices, box)
    count = shape[1] // 2
    step = np.float32(math.log(10000)) / np.float32(max(count - 1, 1))
    exponents = -step * (columns % max(count, 1)).astype(np.float32)
    frequencies = np.exp(exponents.astype(np.float64)).astype(np.float32)
    angles = np.multiply.outer(positions.astype(np.float32), frequencies)
    return _waves(angles.astype(np.float64), columns, count)


def _waves(angles: Array, columns: Array, count: int) -> Array:
    """The sines of the angles in the first `count` columns of the table, else the cosines."""
    sines, cosines = np.split(angles, [np.searchsorted(columns, count)], axis=1)
    np.sin(sines, out=sines)
    np.cos(cosines, out=cosines)
    return angles


_FILLED: dict[str, Callable[[Box, Shape], Array | int]] = {
    "zeros": lambda box, shape: 0,
    "ones": lambda box, shape: 1,
    "identity": lambda box, shape: np.equal.outer(*map(_indices, box)),
    # Of sinusoidal positions (Vaswani et al. 2017), two dimensions a frequency.
    "frequencies": lambda box, shape: (
        1 / 10000 ** (_indices(*box).astype(np.float32) / np.float32(*shape))
    ),
    # The whole table: with those frequencies, and with Tensor2Tensor's.
    "sinusoids": _sinusoids,
    "timing_signal": _timing_signal,
}


class Entry(NamedTuple):
    """One tensor to write: `target` is `ops` applied to `sources`, in `shape` and `dtype`.

    A tensor that no variable gives has no sources, and the value to `fill` it with.
    """

    target: str
    sources: tuple[str, ...]
    ops: tuple[Op, ...]
    shape: Shape
    dtype: np.dtype[Any]
    source_dtype: np.dtype[Any]
    fill: Fill | None = None

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    def part(self, box: Box, shapes: Sequence[Shape], reads: Sequence[Read]) -> Array:
        """A part of the tensor, before any cast, from parts of its sources of these shapes."""
        if self.fill is not None:
            values = np.empty(tuple(map(len, box)), self.dtype)
            value = self.fill.value
            values[...] = _FILLED[value](box, self.shape) if isinstance(value, str) else value
            return values
        _, (read,) = follow(self.ops, shapes, reads)
        return read(box)

    @property
    def operation(self) -> str:
        if self.fill is not None:
            return f"fill({self.fill.value})"
        cast = [f"cast({self.dtype})"] if self.dtype != self.source_dtype else []
        return ", ".join([*map(str, self.ops), *cast]) or "copy"


@dataclass(frozen=True)
class Plan:
    """What a conversion will do.

    `rules` are those followed, as the checkpoint needed them; `rules_given` says that they are not
    the family's own. `dropped` gives the reason for each variable that is left out, `ties` the
    other names under which the PyTorch model knows a tensor, `config` the translated config (None
    without a family), `original_config` what that was made of where the checkpoint does not hold
    it, `beside` where its vocabulary may lie, `notes` what the user should know, `shown` the
    readable name of each variable.
    """

    path: str
    family: Family | None
    rules: RuleSet
    rules_given: bool
    architecture: str | None
    entries: tuple[Entry, ...]
    dropped: Mapping[str, str]
    ties: Mapping[str, str]
    config: Config | None
    original_config: Mapping[str, Any] | None
    config_path: str | None
    beside: Beside
    notes: tuple[str, ...]
    shown: Mapping[str, str] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors as they will be written."""
        return sum(entry.nbytes for entry in self.entries)

    def __repr__(self) -> str:
        return (
            f"<Plan {self.path!r} -> {self.architecture or 'state dict'}: "
            f"{count(self.entries, 'tensor')}, {self.nbytes} bytes, "
            f"{count(self.dropped, 'variable')} left out>"
        )

    def _repr_html_(self) -> str:
        """For notebooks: variables and tensors, those of all layers in one row."""
        return table(
            repr(self), ("variable", "tensor", "operation", "shape", "dtype"), self.folded()
        )

    def folded(self) -> list[tuple[str, str, str, str, str]]:
        """The plan as rows of variables, tensor, operation, shape and dtype.

        Entries that differ only in the numbers of their names are one row, as `tfreader.folding`
        says.
        """
        names = [
            tuple(map(literal, (*(self.shown.get(s, s) for s in entry.sources), entry.target)))
            for entry in self.entries
        ]
        kinds = [(e.operation, str(list(e.shape)), name_of(e.dtype)) for e in self.entries]
        return [
            (", ".join(sources), target, *kinds[members[0]])
            for (*sources, target), members in fold_rows(names, kinds)
        ]

    def to_data(self) -> dict[str, Any]:
        """The plan as plain data, for JSON."""
        return {
            "checkpoint": self.path,
            "model_type": self.family.model_type if self.family else None,
            "architecture": self.architecture,
            "tensors": [
                {
                    "target": entry.target,
                    "sources": list(entry.sources),
                    "operations": entry.operation,
                    "shape": list(entry.shape),
                    "dtype": name_of(entry.dtype),
                    **({"reason": entry.fill.reason} if entry.fill else {}),
                }
                for entry in self.entries
            ],
            "dropped": dict(self.dropped),
            "ties": dict(self.ties),
            "config": self.config,
            "nbytes": self.nbytes,
            "notes": list(self.notes),
        }
