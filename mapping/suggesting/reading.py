"""What may become of a layer.

A reading is certain in itself unless `doubt` says what no name and no shape tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from .layers import Tensor

Spelled = str | Mapping[str, object]


class Made(NamedTuple):
    """A tensor of the model: of which variables, by which operations."""

    target: Tensor
    sources: tuple[Tensor, ...]
    ops: tuple[Spelled, ...] = ()
    fill: str | None = None  # the value that it is filled with, where no variable gives it
    each: tuple[tuple[Spelled, ...], ...] = ()  # operations on each source, before a join
    dtype: str | None = None


@dataclass(frozen=True)
class Reading:
    """What becomes of a layer. `layer` are the keys of the [[layer]] that it is, if it is one."""

    made: tuple[Made, ...]
    layer: tuple[tuple[str, object], ...] = ()
    doubt: str = ""
    cost: float = 0.0
    is_square: bool = False  # a kernel that its shape does not tell from its transpose
    is_matrix: bool = False
    is_plain: bool = False  # a matrix that is taken as it is


class Context(NamedTuple):
    """What is known of the rest of the model."""

    channels: int = 0  # of the convolution that a matrix may stand behind, flattened
    image: int = 0  # the channels of the convolution that takes its outputs as an image, if one may
    is_pooled: bool = False  # whether something else explains the number of its inputs, too
    is_beside: bool = False  # whether it may stand beside a flatten of what these do not tell
    plain: bool = True  # whether layers with a bias may have their kernels as they are


def reshape(*sizes: int) -> Spelled:
    return {"op": "reshape", "to": list(sizes)}
