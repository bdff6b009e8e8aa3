"""State dicts of torch tensors, in memory and in .bin, .pt and .pth files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from tfreader.dtypes import Array
from tfreader.errors import MissingExtraError, UnsupportedError

from ..plan import Entry

if TYPE_CHECKING:
    import torch


def check_torch(entries: Iterable[Entry]) -> None:
    """Raise now what `to_state_dict` would raise: MissingExtraError, UnsupportedError."""
    try:
        import torch
    except ImportError:
        raise MissingExtraError("writing torch tensors", "torch") from None
    for entry in entries:
        if not isinstance(getattr(torch, _torch_name(entry), None), torch.dtype):
            raise UnsupportedError(
                f"variable {entry.sources[0]!r}: torch has no type {entry.dtype}; "
                "leave it out with --ignore"
            )


def to_state_dict(
    tensors: Iterable[tuple[Entry, Array]], ties: Mapping[str, str]
) -> dict[str, torch.Tensor]:
    """The tensors by name, tied names included: they share storage, as in `Module.state_dict`."""
    import torch

    state_dict = {}
    for entry, array in tensors:
        data = np.array(array, order="C")  # own, writable, aligned memory for torch
        dtype = getattr(torch, _torch_name(entry))
        flat = torch.from_numpy(data.reshape(-1).view(np.uint8)).view(dtype)
        state_dict[entry.target] = flat.reshape(entry.shape)
    ordered = dict(sorted(state_dict.items()))
    return ordered | {alias: ordered[target] for alias, target in ties.items()}


def save(state_dict: Mapping[str, torch.Tensor], path: str | os.PathLike[str]) -> None:
    import torch

    try:
        torch.save(dict(state_dict), path)
    except RuntimeError as error:  # torch's zip writer reports a full disk so
        raise OSError(str(error).partition("\n")[0]) from error


def _torch_name(entry: Entry) -> str:
    return str(entry.dtype)
