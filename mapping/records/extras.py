"""What a tensor of a model is that no plan has: a buffer, a copy, or weights from elsewhere."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from tfreader.dtypes import Array

LARGEST = 64 << 20  # bytes of a tensor that is looked into
Read = Callable[[], Array]
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
    rounding = 1e-5 if values.dtype.itemsize >= 4 else 1e-2
    return bool(np.allclose(values.astype(np.float64), 10000.0**-steps, rounding))


def _is_relative_index(values: Array) -> bool:
    """That of a square window's places to each other, which Swin and BEiT look their biases up by.

    BEiT's has a row and a column more, of the class token.
    """
    width = math.isqrt(len(values)) if values.ndim == 2 else 0
    rows, columns = np.divmod(np.arange(width * width), max(width, 1))
    down, right = (places[:, None] - places[None] + width - 1 for places in (rows, columns))
    index = down * (2 * width - 1) + right
    if len(values) == width * width + 1:
        end = (2 * width - 1) ** 2
        index = np.pad(index, ((1, 0), (1, 0)))
        index[0], index[1:, 0], index[0, 0] = end, end + 1, end + 2
    return width > 0 and np.array_equal(values, index)


# Of releases of transformers before 4.31, which kept buffers in the state dict, and of torch.
_BUFFERS: tuple[tuple[str, str, _Fits], ...] = (
    (r"(?:char_)?position_ids", "a buffer: the positions from 0 on", _counts),
    (r"token_type_ids", "a buffer: zeros", lambda v: not v.any()),
    (r"bias", "a buffer: the mask of causal attention", _is_mask),
    (r"masked_bias", "a buffer: the score of masked positions", _is_low),
    (r"inv_freq", "a buffer: the frequencies of positions", _are_frequencies),
    (r"relative_position_index", "a buffer: which positions are how far apart", _is_relative_index),
    (r"num_batches_tracked", "a buffer: torch's counter of batches", lambda v: v.ndim == 0),
)
# What from_pretrained passes over (_keys_to_ignore_on_load_unexpected of its classes).
_PASSED_OVER = {
    r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight": "of releases "
    "of transformers before 4, whose layer has it no more: from_pretrained passes over it",
}
# And of one type of models, which has positions of another kind where no plan has these.
_UNREAD = {
    ("esm", "embeddings.position_embeddings.weight"): "positions that the model does not read"
}


def harmless(name: str, read: Read | None, model_type: str | None = None) -> str | None:
    """What a tensor is that changes nothing, by its name and its values; else None.

    `read` is None where it is too large to be looked into, or holds no real numbers.
    """
    for (kind, end), what in _UNREAD.items():
        if kind == model_type and f".{name}".endswith(f".{end}"):
            return what
    for pattern, what in _PASSED_OVER.items():
        if re.fullmatch(rf"(?:.*\.)?{pattern}", name):
            return what
    leaf = name.rpartition(".")[2]
    for pattern, what, fits in _BUFFERS:
        if re.fullmatch(pattern, leaf) and read is not None and fits(read()):
            return what
    return None


def looks(read: Read | None) -> str:
    """How the values of other tensors look, as a hint at where they come from."""
    values = read() if read is not None else np.empty(0)
    if not values.size:
        return ""
    if said := constant(values):
        return said
    values = values.astype(np.float64)
    return f"mean {values.mean():.2g}, standard deviation {values.std():.2g}"


def constant(values: Array) -> str:
    """What all values are, where they are the same: as a class starts with, most likely."""
    first = values.reshape(-1)[:1]
    return f"all {first[0]:g}" if len(first) and bool((values == first).all()) else ""


def can_be_read(kind: np.dtype[Any] | None, nbytes: int | None) -> bool:
    """Whether a tensor is looked into."""
    return kind is not None and kind.kind != "c" and (nbytes or 0) <= LARGEST
