"""The state dict in what a torch file holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def only_state_dict(contents: Any, tensors_of: Callable[[Any], Mapping[str, T]]) -> Mapping[str, T]:
    """What a file holds if it is one, or else the only one in it, as of a training's checkpoint.

    `tensors_of` gives the tensors of what is a state dict, none of all else. Raises ValueError,
    which says what was found and what to do.
    """
    if own := tensors_of(contents):
        return own
    inner = contents.items() if isinstance(contents, Mapping) else ()
    found = {str(key): state for key, value in inner if (state := tensors_of(value))}
    if len(found) != 1:
        which = f"several: {', '.join(found)}" if found else "none"
        raise ValueError(
            f"expected one state dict in it, found {which}; save it alone with "
            "torch.save(model.state_dict(), FILE)"
        )
    return next(iter(found.values()))
