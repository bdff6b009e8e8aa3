"""State dicts of torch tensors, in memory and in .bin, .pt and .pth files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

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


class StateDict:
    """The tensors of a plan in memory, filled by `write`.

    `tensors` has tied names too: they share storage, as in `Module.state_dict`.
    """

    def __init__(self, entries: Sequence[Entry], ties: Mapping[str, str]) -> None:
        import torch

        self._memory = {entry.target: np.empty(entry.nbytes, np.uint8) for entry in entries}
        own = {
            entry.target: torch.from_numpy(self._memory[entry.target])
            .view(getattr(torch, _torch_name(entry)))
            .reshape(entry.shape)
            for entry in sorted(entries, key=lambda entry: entry.target)
        }
        self.tensors = own | {alias: own[target] for alias, target in ties.items()}

    def write(self, entry: Entry, offset: int, data: memoryview) -> None:
        self._memory[entry.target][offset : offset + len(data)] = data


def save(state_dict: Mapping[str, torch.Tensor], path: str | os.PathLike[str]) -> None:
    import torch

    try:
        torch.save(dict(state_dict), path)
    except RuntimeError as error:  # torch's zip writer reports a full disk so
        raise OSError(str(error).partition("\n")[0]) from error


def _torch_name(entry: Entry) -> str:
    return str(entry.dtype)
