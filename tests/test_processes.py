"""Checkpoint objects in other threads and processes, after closing, and over changing files."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
from bundle_writer import write_bundle
from conftest import DATA

import tfreader
from tfreader.files import LocalFile

V1, V2 = DATA / "v1" / "model.ckpt", DATA / "reader" / "sharded"
BOTH = pytest.mark.parametrize("path", [V1, V2], ids=["v1", "v2"])


def values(checkpoint):
    return {name: checkpoint.read(name).tobytes() for name in checkpoint}


@BOTH
@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))]
)
def test_copies_open_their_own_files(path, copied, monkeypatch, tmp_path):
    monkeypatch.chdir(path.parent)
    with tfreader.open(path.name) as checkpoint:
        expected = values(checkpoint)
        monkeypatch.chdir(tmp_path)
        other = copied(checkpoint)
        assert os.path.isabs(other.path)
        assert (type(other), other.format, other.notes) == (
            type(checkpoint),
            checkpoint.format,
            checkpoint.notes,
        )
        other.close()
        assert values(checkpoint) == expected
        other = copied(checkpoint)
    assert values(other) == expected
    other.close()


@BOTH
def test_a_pickle_is_not_read_as_another_checkpoint(path, tmp_path):
    shutil.copytree(path.parent, tmp_path / "a")
    with tfreader.open(tmp_path / "a" / path.name) as checkpoint:
        pickled = pickle.dumps(checkpoint)
    assert pickle.loads(pickled).path.startswith(str(tmp_path))
    for file in (tmp_path / "a").iterdir():
        if file.is_file() and file.name.startswith(path.name):
            file.unlink()
    if path == V1:
        (tmp_path / "a" / "dtypes").rename(tmp_path / "a" / "model.ckpt-00000-of-00002")
        shutil.copy(
            tmp_path / "a" / "model.ckpt-00000-of-00002",
            tmp_path / "a" / "model.ckpt-00001-of-00002",
        )
    else:
        write_bundle(tmp_path / "a" / path.name, {"partitioned": np.zeros((4, 3), "f4")})
    with pytest.raises(tfreader.TFReaderError):
        pickle.loads(pickled)


def test_other_kinds_and_open_files_refuse(tmp_path):
    with pytest.raises(TypeError, match="cannot be copied"):
        copy.copy(LocalFile(f"{V2}.index"))


def _read(checkpoint):
    return values(checkpoint)


@BOTH
def test_processes_that_are_spawned(path):
    with tfreader.open(path) as checkpoint, multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(_read, [checkpoint]) == [values(checkpoint)]


@BOTH
def test_children_that_are_forked(path):
    with tfreader.open(path) as checkpoint:
        expected = values(checkpoint)
        child = os.fork()
        if child == 0:
            right = values(checkpoint) == expected
            checkpoint.close()
            os._exit(0 if right else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert values(checkpoint) == expected


@BOTH
def test_threads_read_at_the_same_time(path):
    with tfreader.open(path) as checkpoint, ThreadPoolExecutor(8) as pool:
        expected = values(checkpoint)
    with tfreader.open(path) as checkpoint, ThreadPoolExecutor(8) as pool:
        for name, value in zip(expected, pool.map(checkpoint.read, expected), strict=True):
            assert value.tobytes() == expected[name]


@BOTH
def test_nothing_is_read_after_closing(path):
    checkpoint = tfreader.open(path)
    name = next(iter(checkpoint))
    checkpoint.read(name)
    checkpoint.close()
    checkpoint.close()
    assert checkpoint.info(name).name == name
    for read in (
        lambda: checkpoint.read(name),
        lambda: checkpoint.read(name, slice(0, 1)),
        lambda: checkpoint.reader(name).read((range(1),)),
        lambda: pickle.dumps(checkpoint),
        checkpoint.verify,
    ):
        with pytest.raises(tfreader.TFReaderError, match="was closed"):
            read()


def test_closing_a_file_that_is_being_read_gives_no_other_files_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"a" * 100)
    (tmp_path / "b").write_bytes(b"b" * 100)
    for _ in range(300):
        file = LocalFile(str(tmp_path / "a"))

        def switch(file=file):
            file.close()
            return LocalFile(str(tmp_path / "b"))  # likely of the same number

        with ThreadPoolExecutor(2) as pool:
            read = pool.submit(file.read, 0, 100)
            other = pool.submit(switch)
            with suppress(tfreader.ClosedError):
                assert bytes(read.result()) == b"a" * 100
            other.result().close()


@pytest.mark.parametrize("fault", ["rewritten", "replaced", "truncated"])
@pytest.mark.parametrize("used", [True, False], ids=["read before", "not read before"])
def test_rows_of_a_file_that_changes_meanwhile(tmp_path, fault, used):
    prefix = write_bundle(tmp_path / "m", {"w": np.zeros((4, 3), "f4")})
    other = write_bundle(tmp_path / "other" / "m", {"w": np.ones((4, 3), "f4")})
    data = f"{prefix}.data-00000-of-00001"
    os.utime(data, ns=(0, 0))
    with tfreader.open(prefix) as checkpoint:
        if used:
            assert not checkpoint.read("w", slice(0, 2)).any()
        if fault == "rewritten":
            shutil.copyfile(f"{other}.data-00000-of-00001", data)
        elif fault == "truncated":
            os.truncate(data, 12)
        else:
            os.replace(f"{other}.data-00000-of-00001", data)
            os.utime(data, ns=(0, 0))
        if fault == "replaced" and used:  # the file that was opened is there still
            assert not checkpoint.read("w", slice(0, 2)).any()
        else:
            with pytest.raises(
                (tfreader.ChangedError, tfreader.CorruptCheckpointError), match="m.data"
            ):
                checkpoint.read("w", slice(0, 2))
        with pytest.raises(tfreader.TFReaderError, match="m.data"):
            checkpoint.check_unchanged()
            checkpoint.read("w", slice(0, 2))


def test_a_file_that_is_removed_while_it_is_open_is_read_all_the_same(tmp_path):
    prefix = write_bundle(tmp_path / "m", {"w": np.ones((4, 3), "f4")})
    with tfreader.open(prefix) as checkpoint:
        checkpoint["w"]
        for file in tmp_path.iterdir():
            file.unlink()
        assert checkpoint.read("w", slice(1, 2)).all()
        assert checkpoint.verify().tensors == 1


def test_a_rewritten_v1_checkpoint_is_told(tmp_path):
    path = shutil.copy(DATA / "v1" / "dtypes", tmp_path / "m")
    os.utime(path, ns=(0, 0))
    with tfreader.open(path) as checkpoint:
        shutil.copyfile(DATA / "v1" / "dtypes", path)
        with pytest.raises(tfreader.ChangedError, match="m: changed"):
            checkpoint.verify()
