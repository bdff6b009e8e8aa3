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
    AccessDeniedError,
    ChangedError,
    CheckpointNotFoundError,
    ChecksumError,
    ClosedError,
    ConfigError,
    CorruptCheckpointError,
    MissingExtraError,
    OutputError,
    PlanError,
    RemoteError,
    RuleError,
    TFReaderError,
    UnknownModelTypeError,
    UnsupportedError,
    VariableNotFoundError,
)
from .locate import locate
from .object_graph import ObjectGraph, TrackedValue
from .paths import path_of
from .v1 import SliceFiles

__version__ = "0.1.0"

__all__ = [
    "AccessDeniedError",
    "ChangedError",
    "Checkpoint",
    "CheckpointNotFoundError",
    "ChecksumError",
    "ClosedError",
    "ConfigError",
    "CorruptCheckpointError",
    "MissingExtraError",
    "ObjectGraph",
    "OutputError",
    "PlanError",
    "RemoteError",
    "RuleError",
    "TFReaderError",
    "TensorInfo",
    "TrackedValue",
    "UnknownModelTypeError",
    "UnsupportedError",
    "VariableNotFoundError",
    "VerifyReport",
    "open",
]


def open(  # noqa: A001 - as h5py and gzip name theirs
    path: str | os.PathLike[str], *, salvage: bool = False
) -> Checkpoint:
    """Open the checkpoint that `path` names and read its index, but no values.

    `path` is a prefix, any file of the checkpoint, a pattern of V1 shards, a folder (through its
    `checkpoint` state file, or the only checkpoint in it) or a SavedModel folder; an HDF5 file or
    .keras archive of Keras (needs the extra `h5`), a safetensors file of TensorFlow, the index or a
    shard of such files, or a folder with one; here or behind a
    URL (s3://, gs://, az://, https://; needs the extra `remote`). With `salvage`,
    damaged blocks of a V2 index do not matter until `verify`; their variables are missing. Raises
    CheckpointNotFoundError when nothing is there, CorruptCheckpointError when the index is damaged,
    RemoteError when a server cannot be asked.
    """
    found = locate(path_of(path))
    if found.kind is not None:
        return found.kind.open(found.prefix, found.notes)
    if found.files:
        return SliceFiles(found.prefix, found.files, found.notes)
    return Bundle(found.prefix, found.notes, salvage)
