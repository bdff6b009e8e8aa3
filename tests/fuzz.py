"""Throw damaged input of every kind at the program: right results and TFReaderErrors pass.

    make fuzz                                  # a bounded run, from the files in tests/data
    make fuzz RUNS=1000000 SECONDS=600 SEED=7  # a long one
    make fuzz TARGET=records,jobs SECONDS=600  # some of TARGETS alone

Checksums count as right here: they would hide everything behind them. A finding goes into
tests/data/fuzz, where test_fuzz.py keeps it found.
"""

from __future__ import annotations

import gc
import io
import json
import os
import shutil
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from unittest.mock import patch

import fuzz_files
import h5py
import numpy as np
import torch
from bundle_writer import entry, header, table
from fuzz_files import DATA, refused
from ml_dtypes import bfloat16
from tf_weights import header_of, safetensors, some_variables, write_sharded

import tfreader
import tfreader.keras_h5  # which is only loaded for such a file, to be seen from the beginning
from tfreader.checkpoint import TensorInfo
from tfreader.dtypes import DTYPES
from tfreader.hdf5.ahead import SUPERBLOCK, follow
from tfreader.mapping.sources.weights import open_weights
from tfreader.object_graph import ObjectGraph
from tfreader.training import training_state

Target = Callable[[bytes, Path], None]


def v1(data: bytes, folder: Path) -> None:
    (folder / "m").write_bytes(data)
    read(folder / "m", data)


def v2(data: bytes, folder: Path) -> None:
    """An index, behind its size in two bytes, and its data file."""
    (size,) = struct.unpack("<H", data[:2].ljust(2, b"\0"))
    (folder / "m.index").write_bytes(data[2 : 2 + size])
    (folder / "m.data-00000-of-00001").write_bytes(data[2 + size :])
    read(folder / "m", data)


def keras(data: bytes, folder: Path) -> None:
    """An HDF5 file or a Keras archive."""
    (folder / "m.h5").write_bytes(data)
    read(folder / "m.h5", data)
    follow(data[:SUPERBLOCK], lambda _: None, lambda start, size: data[start : start + size])


def graph(data: bytes, _: Path) -> None:
    with refused(ValueError):
        found = ObjectGraph(data, [f"k{i}" for i in range(64)])
        for key, value in found.items():
            assert found.find(found.name(key)) == key
            assert all(found.find(path) in (key, None) for path in value.paths)
        infos = [TensorInfo(key, DTYPES[1], (), 4) for key in found]
        for state in training_state(infos, found).values():
            assert state.base is None or state.base in found


def state(data: bytes, folder: Path) -> None:
    """The file that says which checkpoint is the latest."""
    (folder / "m.index").write_bytes(b"")
    (folder / "checkpoint").write_bytes(data)
    read(folder, data)


def weights(data: bytes, folder: Path) -> None:
    """A safetensors file of TensorFlow: itself, or edits of a header."""
    if data[:1] == b"\0":
        header, values = header_of(SHARDED), b"".join(v.tobytes() for v in SHARDED.values())
        data = safetensors(fuzz_files.edited(header, data[1:]), values)
    (folder / "model.safetensors").write_bytes(data)
    read(folder, data)


def shards(data: bytes, folder: Path) -> None:
    """The index of two shards: itself, or edits of it."""
    index = write_sharded(folder, SHARDED, "safetensors")
    if data[:1] == b"\0":
        data = fuzz_files.edited(json.loads(index.read_bytes()), data[1:])
    index.write_bytes(data)
    read(folder, data)
    read(index, data)


def models(data: bytes, folder: Path) -> None:
    """A file with weights of a PyTorch model, as torch or safetensors saves it."""
    (folder / "m.bin").write_bytes(data)
    with refused(), open_weights(folder / "m.bin") as found:
        read_all(found)


def state_dicts() -> Iterator[bytes]:
    """Small ones, in both of torch's containers: a view, an expanded tensor, training state."""
    values = torch.arange(12.0).reshape(3, 4)
    tensors = {"a": values, "b": values.t(), "c": torch.ones(1).expand(3), "d": values.half()[1:]}
    for is_new in (True, False):
        file = io.BytesIO()
        contents = {"model": tensors, "step": 3}
        torch.save(contents, file, _use_new_zipfile_serialization=is_new)
        yield file.getvalue()


SHARDED = some_variables()
TARGETS: tuple[Target, ...] = (
    *(v1, v2, graph, state, keras, fuzz_files.rules, fuzz_files.jobs, fuzz_files.beside),
    *(fuzz_files.settings, fuzz_files.records, fuzz_files.folders, weights, shards),
    models,
)


def check(data: bytes, folder: Path) -> None:
    """Give an input to the target that its first byte says, with a new folder to work in."""
    home = folder / "files"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    TARGETS[data[0] % len(TARGETS) if data else 0](data[1:], home)


def read(path: Path, data: bytes) -> None:
    with refused(), tfreader.open(path, salvage=bool(len(data) % 2)) as c:
        read_all(c)


def read_all(checkpoint: tfreader.Checkpoint) -> None:
    def attempt(function, *arguments):
        try:
            return function(*arguments)
        except tfreader.TFReaderError:
            return None

    for name in checkpoint:
        info = attempt(checkpoint.info, name)
        values = attempt(checkpoint.read, name)
        if info is None or values is None:
            continue
        assert values.shape == info.shape
        assert values.dtype == info.dtype.numpy
        if info.shape:
            rows = attempt(checkpoint.read, name, slice(1, 3))
            assert (
                rows is not None and rows.tobytes() == values[1:3].tobytes()
            ) or values.dtype == object
    attempt(checkpoint.verify)
    infos = [info for name in checkpoint if (info := attempt(checkpoint.info, name)) is not None]
    training_state(infos, attempt(lambda: checkpoint.object_graph))


def seeds() -> Iterator[bytes]:
    """Inputs that are right, behind the number of their target."""
    for target, data in (*reader_seeds(), *fuzz_files.seeds()):
        yield bytes([TARGETS.index(target)]) + data


def reader_seeds() -> Iterator[tuple[Target, bytes]]:
    """From the files that TensorFlow wrote, and some of torch."""
    for data in state_dicts():
        yield models, data
    for file in ("v1/dtypes", "v1/model.ckpt-00000-of-00002"):
        yield v1, (DATA / file).read_bytes()
    for prefix in ("reader/dtypes", "objects/model.ckpt-1", "keras3/compiled", "reader/slices"):
        index = (DATA / f"{prefix}.index").read_bytes()
        data = (DATA / f"{prefix}.data-00000-of-00001").read_bytes()
        yield v2, struct.pack("<H", len(index)) + index + data
    yield from ((keras, data) for data in keras_files())
    items = [(b"", header()), *((b"x%d" % i, entry(np.zeros(2, np.float32))) for i in range(9))]
    index = table(items, 100, snappy=True)
    yield v2, struct.pack("<H", len(index)) + index + bytes(8)
    for prefix in ("objects", "keras3/compiled"):
        with tfreader.open(DATA / prefix) as checkpoint:
            yield graph, checkpoint["_CHECKPOINTABLE_OBJECT_GRAPH"].tolist()
    yield state, (DATA / "objects" / "checkpoint").read_bytes()
    with tempfile.TemporaryDirectory() as folder:
        index = write_sharded(Path(folder), SHARDED, "safetensors")
        yield weights, (index.parent / "model-00002-of-00002.safetensors").read_bytes()
        yield shards, index.read_bytes()
    for i in range(0, 120, 3):
        yield weights, bytes([0, 0, i, i])
        yield shards, bytes([0, 0, i, i])


def keras_files() -> Iterator[bytes]:
    """Small ones, as Keras 2 and 3 lay them out, with what else HDF5 can hold."""
    kernel = np.arange(6, dtype=np.float32)
    for version in ("earliest", "latest"):
        out = io.BytesIO()
        with h5py.File(out, "w", libver=version) as file:
            file.attrs["layer_names"] = [b"dense"]
            file["dense/dense/kernel:0"] = kernel
            file.create_dataset("z/z:0", data=kernel, chunks=(4,), compression="gzip", shuffle=True)
            file["z/text:0"] = "text"
            file["z/big:0"] = kernel.astype(">f4")
            file["z/link"] = h5py.ExternalLink("x.h5", "/x")
        yield out.getvalue()
        weights = io.BytesIO()
        with h5py.File(weights, "w", libver=version) as file:
            group = file.create_group("layers/dense/vars")
            group.attrs["name"] = "head"
            group["0"] = kernel.astype(bfloat16)
            group["0"].attrs["dtype"] = "bfloat16"
        yield weights.getvalue()
        for how in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            out = io.BytesIO()
            with zipfile.ZipFile(out, "w", how) as archive:
                archive.writestr("config.json", json.dumps(KERAS_CONFIG))
                archive.writestr("model.weights.h5", weights.getvalue())
            yield out.getvalue()


KERAS_CONFIG = {"config": {"layers": [{"class_name": "Dense", "config": {"name": "head"}}]}}


@contextmanager
def unchecked() -> Iterator[None]:
    """Let every checksum count as right, and wait for no disk."""
    with (
        patch("tfreader.table.crc32c", lambda *_: 0),
        patch("tfreader.table.unmask_crc", lambda _: 0),
        patch("tfreader.bundle.shards.Shards.check_crc"),
        patch("os.fsync"),
    ):
        yield


def is_ours(found: object) -> bool:
    return isinstance(found, FunctionType) and str(found.__module__).startswith("tfreader")


def main() -> None:
    import atheris

    with tempfile.TemporaryDirectory() as temporary:
        corpus, folder = Path(temporary) / "corpus", Path(temporary) / "files"
        corpus.mkdir()
        folder.mkdir()
        names = [target.__name__ for target in TARGETS]
        chosen = {
            names.index(name) for name in os.environ.get("TARGET", ",".join(names)).split(",")
        }
        for i, seed in enumerate(seeds()):
            if seed[0] in chosen:
                (corpus / str(i)).write_bytes(seed)

        def run(data: bytes) -> int:
            if not data or data[0] % len(TARGETS) not in chosen:
                return -1  # so that it is forgotten
            check(data, folder)
            return 0

        options = ["-max_len=16384", "-timeout=10", "-rss_limit_mb=1200", "-print_final_stats=1"]
        with unchecked():
            for function in [found for found in gc.get_objects() if is_ours(found)]:
                atheris.instrument_func(function)  # those of all modules would take a minute
            atheris.Setup([*sys.argv, *options, str(corpus)], run)
            atheris.Fuzz()


if __name__ == "__main__":
    main()
