"""Writes what save_pretrained of transformers' TensorFlow classes does: safetensors, and shards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

NAMES = {"float32": "F32", "int32": "I32", "float16": "F16", "bool": "BOOL", "int64": "I64"}


def header_of(tensors: Mapping[str, Any], metadata: Any = None) -> dict[str, Any]:
    """The header of a safetensors file, in the order of the tensors."""
    header: dict[str, Any] = {"__metadata__": {"format": "tf"} if metadata is None else metadata}
    end = 0
    for name, values in tensors.items():
        start, end = end, end + values.nbytes
        header[name] = {
            "dtype": NAMES[str(values.dtype)],
            "shape": list(values.shape),
            "data_offsets": [start, end],
        }
    return header


def safetensors(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def write_safetensors(path: Path, tensors: Mapping[str, Any], metadata: Any = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = b"".join(values.tobytes() for values in tensors.values())
    path.write_bytes(safetensors(header_of(tensors, metadata), data))
    return path


def write_h5(path: Path, tensors: Mapping[str, Any]) -> Path:
    """A shard: datasets by their names, which are listed as those of layers."""
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, values in tensors.items():
            file.create_dataset(name, data=values)
        file.attrs["layer_names"] = [name.encode() for name in tensors]
    return path


def write_sharded(folder: Path, variables: Mapping[str, Any], kind: str, count: int = 2) -> Path:
    """The variables, by their full names, dealt out to so many shards, and the index."""
    stem, write = {
        "safetensors": ("model", write_safetensors),
        "h5": ("tf_model", write_h5),
    }[kind]
    files: dict[str, dict[str, Any]] = {}
    weight_map = {}
    for i, (name, values) in enumerate(variables.items()):
        file = f"{stem}-{i % count + 1:05d}-of-{count:05d}.{kind}"
        scoped = "/" in name and "model." not in name
        files.setdefault(file, {})[name.partition("/")[2] if scoped else name] = values
        weight_map[name] = file
    for file, tensors in files.items():
        write(folder / file, tensors)
    index = folder / f"{stem}.{kind}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return index


def some_variables(scope: str = "tf_marian") -> dict[str, Any]:
    """Variables of two layers and one without scope, two of a name that keeps it."""
    numbers = np.arange(60, dtype=np.float32).reshape(10, 6)
    return {
        f"{scope}/model/encoder/fc1/kernel:0": numbers,
        f"{scope}/model/encoder/fc1/bias:0": numbers[0] + 1,
        f"{scope}/model/decoder/fc1/kernel:0": numbers * 2,
        "model.shared/model.shared/embeddings:0": numbers + 7,
        "final_logits_bias:0": numbers[:1] - 3,
    }
