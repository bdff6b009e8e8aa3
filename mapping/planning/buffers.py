"""Buffers of PyTorch models, which an export to TensorFlow makes variables of.

transformers' convert_bert_pytorch_checkpoint_to_original_tf.py writes all of a state dict, in which
releases 3.1 to 4.30 had `position_ids`, the numbers from 0 on that the model makes by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from ..family import Variables
from ..rules.rule import Drop

_BUFFER = re.compile("(?:.*/)?(?:position_ids|token_type_ids)")


def buffers(variables: Variables) -> Iterator[Drop]:
    """What to leave out of variables that were buffers; those of a float type may be weights."""
    for name, info in variables.items():
        numpy = info.dtype.numpy
        if numpy is not None and np.issubdtype(numpy, np.integer) and _BUFFER.fullmatch(name):
            reason = "no weight: a buffer of the PyTorch model that was exported"
            yield Drop(re.escape(name), reason)
