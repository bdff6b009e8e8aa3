"""Pieces of a transformer in numpy, in double precision, on variables by their names.

They are written after the papers, for tests that compare what they compute with transformers.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

Tensors = Mapping[str, np.ndarray]
EPSILON = 1e-12


def dense(tensors: Tensors, scope: str, values: np.ndarray) -> np.ndarray:
    """A layer with or without a bias."""
    return values @ tensors[f"{scope}/kernel"].astype(float) + tensors.get(f"{scope}/bias", 0)


def norm(tensors: Tensors, scope: str, values: np.ndarray) -> np.ndarray:
    centred = values - values.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + EPSILON)
    return scaled * tensors[f"{scope}/gamma"] + tensors[f"{scope}/beta"]


def attention(
    tensors: Tensors,
    names: tuple[str, str, str],
    heads: int,
    values: np.ndarray,
    memory: np.ndarray,
    *,
    is_causal: bool = False,
) -> np.ndarray:
    """What the heads see, side by side: by the scopes of query, key and value."""

    def split(scope: str, states: np.ndarray) -> np.ndarray:
        made = dense(tensors, scope, states)
        return made.reshape(*made.shape[:-1], heads, -1).swapaxes(-2, -3)

    query, (key, value) = split(names[0], values), (split(name, memory) for name in names[1:])
    scores = query @ key.swapaxes(-1, -2) / np.sqrt(query.shape[-1])
    if is_causal:
        scores = np.where(np.tri(*scores.shape[-2:], dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    seen = (weights / weights.sum(-1, keepdims=True)) @ value
    return seen.swapaxes(-2, -3).reshape(*values.shape[:-1], -1)


def gelu(values: np.ndarray) -> np.ndarray:
    """The tanh form."""
    return values / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (values + 0.044715 * values**3)))


def relu(values: np.ndarray) -> np.ndarray:
    return np.maximum(values, 0)


def random_tensors(shapes: Mapping[str, tuple[int, ...]], seed: int = 3) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        name: (0.4 * generator.normal(size=shape)).astype(np.float32)
        for name, shape in shapes.items()
    }


def dense_shapes(scope: str, inputs: int, outputs: int, bias: bool = True) -> dict[str, tuple]:
    added = {f"{scope}/bias": (outputs,)} if bias else {}
    return {f"{scope}/kernel": (inputs, outputs), **added}


def norm_shapes(scope: str, size: int) -> dict[str, tuple]:
    return {f"{scope}/beta": (size,), f"{scope}/gamma": (size,)}
