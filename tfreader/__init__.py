"""Read TensorFlow checkpoints without TensorFlow.

>>> import tfreader
>>> with tfreader.open("examples/bert-tiny") as checkpoint:
...     kernel = checkpoint["bert/pooler/dense/kernel"]

Conversion to PyTorch is in `tfreader.mapping`.
"""

from __future__ import annotations

import os

from .bundle import Bundle
from .checkpoint import Checkpoint, TensorInfo, VerifyReport
from .errors import (
    CheckpointNotFoundError,
    ChecksumError,
    ConfigError,
    CorruptCheckpointError,
    MissingExtraError,
    OutputError,
    PlanError,
    RuleError,
    TFReaderError,
    UnknownModelTypeError,
    UnsupportedError,
    VariableNotFoundError,
)
from .locate import locate

__version__ = "0.1.0"

__all__ = [
    "Checkpoint",
    "CheckpointNotFoundError",
    "ChecksumError",
    "ConfigError",
    "CorruptCheckpointError",
    "MissingExtraError",
    "OutputError",
    "PlanError",
    "RuleError",
    "TFReaderError",
    "TensorInfo",
    "UnknownModelTypeError",
    "UnsupportedError",
    "VariableNotFoundError",
    "VerifyReport",
    "open",
]


def open(path: str | os.PathLike[str]) -> Checkpoint:  # noqa: A001 - as h5py and gzip name theirs
    """Open the checkpoint that `path` names and read its index, but no values.

    `path` is a prefix, an `.index`, `.data-*` or `.meta` file, a folder (through its `checkpoint`
    state file, or the only checkpoint in it) or a SavedModel folder. Raises CheckpointNotFoundError
    when nothing is there, CorruptCheckpointError when the index is damaged.
    """
    prefix, notes = locate(os.fspath(path))
    return Bundle(prefix, notes)
