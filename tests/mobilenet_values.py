"""The values of the MobileNets' variables, which are made anew where they are needed.

numpy's RandomState gives the same numbers in all releases.
"""

from __future__ import annotations

from math import prod
from typing import Any
from zlib import crc32

import numpy as np


def value_of(name: str, shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    random = np.random.RandomState(crc32(name.encode()))
    if name.endswith(("gamma", "moving_variance")):
        values = random.uniform(0.6, 1.4, shape)
    elif name.endswith("weights"):  # so that each layer's outputs are about as large as its inputs
        inputs = prod(shape[:2]) if name.endswith("depthwise_weights") else prod(shape[:-1])
        values = random.normal(0, 1.4 / inputs**0.5, shape)
    else:
        values = random.normal(0, 0.2, shape)
    return values.astype(np.float32)
