"""Values that a plan depends on, which are compared part by part."""

from __future__ import annotations

from math import prod

from tfreader.checkpoint import Checkpoint

from ..family import Made
from ..rules.ops import Read, Shape, follow

PART = 1 << 20  # elements that are compared at a time


def are_equal(checkpoint: Checkpoint, one: Made, other: Made) -> bool:
    """Whether two tensors have one type, one shape and the same bytes.

    Raises what reading them raises.
    """
    (shape, read), (other_shape, other_read) = (_tensor(checkpoint, made) for made in (one, other))
    types = {checkpoint.info(made.variable).dtype for made in (one, other)}
    if shape != other_shape or len(types) > 1:
        return False
    rows = max(1, PART // max(1, prod(shape[1:])))
    inner = tuple(map(range, shape[1:]))
    for start in range(0, shape[0], rows) if shape else (0,):
        box = (range(start, min(start + rows, shape[0])), *inner) if shape else ()
        if read(box).tobytes() != other_read(box).tobytes():
            return False
    return True


def _tensor(checkpoint: Checkpoint, made: Made) -> tuple[Shape, Read]:
    reader = checkpoint.reader(made.variable)
    (shape,), (read,) = follow(made.ops, [reader.info.shape], [reader.read])
    return shape, read
