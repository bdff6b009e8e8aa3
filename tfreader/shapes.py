"""Shapes as checkpoints store them, checked before anything is allocated."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

MAX_RANK = getattr(np, "MAXDIMS", 64)  # numpy's limit: that of numpy 2, which does not tell, is 64
MAX_ELEMENTS = 1 << 60  # so that no array's size in bytes leaves 64 bits


def shape_of(message: Any) -> tuple[int, ...]:
    """The shape in a TensorShape message; ValueError unless an array can have it."""
    shape = tuple([dim.size for dim in message.dim])
    if message.unknown_rank or min(shape, default=0) < 0:
        raise ValueError(f"its shape {list(shape)} is not fully known")
    if len(shape) > MAX_RANK:
        raise ValueError(f"its rank {len(shape)} is above {MAX_RANK}")
    # TensorFlow, too, refuses [2**40, 2**40, 0], which has no elements at all.
    if prod(filter(None, shape)) > MAX_ELEMENTS:
        raise ValueError(f"its shape {list(shape)} overflows")
    return shape
