"""What a tensor of a model is that no plan has: a buffer, a copy, or weights from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from tfreader.checkpoint import TensorInfo
from tfreader.dtypes import Array

LARGEST = 64 << 20  # bytes of a tensor that is looked into
_Fits = Callable[[Array], bool]


def _counts(values: Array) -> bool:
    return values.ndim > 0 and bool((values == np.arange(values.shape[-1])).all())


def _is_mask(values: Array) -> bool:
    """Whether each position sees itself and others before it alone; some only the nearest."""
    if values.ndim != 4 or values.shape[:2] != (1, 1) or values.shape[2] != values.shape[3]:
        return False
    mask = values[0, 0]
    is_flags = bool(np.isin(mask, (0, 1)).all())
    return is_flags and bool(np.diagonal(mask).all()) and not np.triu(mask, 1).any()


def _is_low(values: Array) -> bool:
    return values.ndim == 0 and float(values) <= -1e4


def _are_frequencies(values: Array) -> bool:
    """Those of sinusoidal positions (Vaswani et al. 2017), two dimensions a frequency."""
    if values.ndim != 1:
        return False
    steps = np.arange(len(values)) / max(len(values), 1)
    return bool(np.allclose(values.astype(np.float64), 10000.0**-steps, 1e-5))


# Of releases of transformers before 4.31, which kept buffers in the state dict, and of torch.
_BUFFERS: tuple[tuple[str, str, _Fits], ...] = (
    (r"(?:char_)?position_ids", "a buffer: the positions from 0 on", _counts),
    (r"token_type_ids", "a buffer: zeros", lambda v: not v.any()),
    (r"bias", "a buffer: the mask of causal attention", _is_mask),
    (r"masked_bias", "a buffer: the score of masked positions", _is_low),
    (r"inv_freq", "a buffer: the frequencies of positions", _are_frequencies),
    (r"num_batches_tracked", "a buffer: torch's counter of batches", lambda v: v.ndim == 0),
)
# What from_pretrained passes over (_keys_to_ignore_on_load_unexpected of its classes).
_PASSED_OVER = {
    r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight": "of releases "
    "of transformers before 4, whose layer has it no more: from_pretrained passes over it",
}


def harmless(info: TensorInfo, read: Callable[[], Array]) -> str | None:
    """What an extra tensor is that changes nothing, by its name and its values; else None."""
    for pattern, what in _PASSED_OVER.items():
        if re.fullmatch(rf"(?:.*\.)?{pattern}", info.name):
            return what
    name = info.name.rpartition(".")[2]
    for pattern, what, fits in _BUFFERS:
        if re.fullmatch(pattern, name) and _can_be_read(info) and fits(read()):
            return what
    return None


def looks(info: TensorInfo, read: Callable[[], Array]) -> str:
    """How the values of other tensors look, as a hint at where they come from."""
    if not _can_be_read(info) or not info.nbytes:
        return ""
    values = read()
    if said := constant(values):
        return said
    values = values.astype(np.float64)
    return f"mean {values.mean():.2g}, standard deviation {values.std():.2g}"


def constant(values: Array) -> str:
    """What all values are, where they are the same: as a class starts with, most likely."""
    first = values.reshape(-1)[:1]
    return f"all {first[0]:g}" if len(first) and bool((values == first).all()) else ""


def _can_be_read(info: TensorInfo) -> bool:
    kind = info.dtype.numpy
    return kind is not None and kind.kind != "c" and (info.nbytes or 0) <= LARGEST
