"""Throw damaged checkpoints and rule files at the reader: correct reads and TFReaderErrors pass.

    make fuzz                                  # a bounded run, from the files in tests/data
    make fuzz RUNS=1000000 SEED=7              # a long one

Checksums count as right here: they would hide everything behind them. A finding goes into
tests/data/fuzz, where test_fuzz.py keeps it found.
"""

from __future__ import annotations

import struct
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
from bundle_writer import entry, header, table
from tfreader.mapping.family import families
from tfreader.mapping.rule_file import dump_rules, parse_rules

import tfreader
from tfreader.checkpoint import TensorInfo
from tfreader.dtypes import DTYPES
from tfreader.object_graph import ObjectGraph
from tfreader.training import training_state

DATA = Path(__file__).resolve().parent / "data"
V1, V2, GRAPH, STATE, RULES = range(5)


def check(data: bytes, folder: Path) -> None:
    """Read an input in every way there is; a byte of kind, then what `bundle` and others make."""
    kind, data = (data[0] % 5 if data else V1), data[1:]
    try:
        if kind == GRAPH:
            graph = ObjectGraph(data, [f"k{i}" for i in range(64)])
            for key, value in graph.items():
                assert graph.find(graph.name(key)) == key
                assert all(graph.find(path) in (key, None) for path in value.paths)
            infos = [TensorInfo(key, DTYPES[1], (), 4) for key in graph]
            for state in training_state(infos, graph).values():
                assert state.base is None or state.base in graph
            return
    except ValueError:
        return
    if kind == RULES:
        check_rules(data)
        return
    for file in folder.iterdir():
        file.unlink()
    if kind == V1:
        (folder / "m").write_bytes(data)
    elif kind == V2:
        (size,) = struct.unpack("<H", data[:2].ljust(2, b"\0"))
        (folder / "m.index").write_bytes(data[2 : 2 + size])
        (folder / "m.data-00000-of-00001").write_bytes(data[2 + size :])
    else:
        (folder / "m.index").write_bytes(b"")
        (folder / "checkpoint").write_bytes(data)
    try:
        with tfreader.open(
            folder if kind == STATE else folder / "m", salvage=bool(len(data) % 2)
        ) as c:
            read_all(c)
    except tfreader.TFReaderError as error:
        assert len(str(error)) < 20_000


def check_rules(data: bytes) -> None:
    try:
        rules = parse_rules(data.decode(errors="ignore"), "fuzz")
    except tfreader.RuleError as error:
        assert len(str(error)) < 20_000
        return
    assert parse_rules(dump_rules(rules), "fuzz") == rules


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
    """Inputs that are right, from the files that TensorFlow wrote."""
    for file in ("v1/dtypes", "v1/model.ckpt-00000-of-00002"):
        yield bytes([V1]) + (DATA / file).read_bytes()
    for prefix in ("reader/dtypes", "objects/model.ckpt-1", "keras3/compiled", "reader/slices"):
        index = (DATA / f"{prefix}.index").read_bytes()
        data = (DATA / f"{prefix}.data-00000-of-00001").read_bytes()
        yield bytes([V2]) + struct.pack("<H", len(index)) + index + data
    items = [(b"", header()), *((b"x%d" % i, entry(np.zeros(2, np.float32))) for i in range(9))]
    index = table(items, 100, snappy=True)
    yield bytes([V2]) + struct.pack("<H", len(index)) + index + bytes(8)
    for prefix in ("objects", "keras3/compiled"):
        with tfreader.open(DATA / prefix) as checkpoint:
            yield bytes([GRAPH]) + checkpoint["_CHECKPOINTABLE_OBJECT_GRAPH"].tolist()
    for family in ("bert", "transfo-xl", "t5"):
        yield bytes([RULES]) + dump_rules(families()[family].layouts[0].rules({}, {})).encode()
    yield bytes([RULES]) + (DATA.parent.parent / "examples/keras-regressor/rules.toml").read_bytes()
    yield bytes([STATE]) + (DATA / "objects" / "checkpoint").read_bytes()


@contextmanager
def unchecked() -> Iterator[None]:
    """Let every checksum count as right."""
    with ExitStack() as stack:
        for module in ("table", "bundle", "strings"):
            stack.enter_context(patch(f"tfreader.{module}.crc32c", lambda *_: 0))
        for module in ("table", "bundle"):
            stack.enter_context(patch(f"tfreader.{module}.unmask_crc", lambda _: 0))
        yield


def main() -> None:
    import atheris

    with tempfile.TemporaryDirectory() as temporary:
        corpus, folder = Path(temporary) / "corpus", Path(temporary) / "files"
        corpus.mkdir()
        folder.mkdir()
        for i, seed in enumerate(seeds()):
            (corpus / str(i)).write_bytes(seed)
        options = ["-max_len=8192", "-timeout=2", "-rss_limit_mb=800", "-print_final_stats=1"]
        with unchecked():
            atheris.instrument_all()
            atheris.Setup([*sys.argv, *options, str(corpus)], lambda data: check(data, folder))
            atheris.Fuzz()


if __name__ == "__main__":
    main()
