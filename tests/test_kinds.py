"""Which model is taken in a folder, of Keras' and transformers' files and TensorFlow's."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from bundle_writer import write_bundle
from tf_weights import some_variables, write_h5, write_safetensors, write_sharded

import tfreader
from tfreader.cli.jobs import from_glob
from tfreader.errors import CorruptCheckpointError
from tfreader.mapping.families import open_source

ONES = np.ones((2, 3), np.float32)
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"


def checkpoint_at(name):
    return lambda folder: write_bundle(folder / name, {"a": ONES})


def h5(name):
    return lambda folder: write_h5(folder / name, {"a/b:0": ONES})


def tf_safetensors(folder):
    write_safetensors(folder / "model.safetensors", {"b:0": ONES})


def pt_safetensors(folder):
    write_safetensors(folder / "model.safetensors", {"b": ONES}, {"format": "pt"})


def sharded(kind):
    return lambda folder: write_sharded(folder, some_variables(), kind)


def of_pytorch(folder):
    (folder / "pytorch_model.bin").write_bytes(b"PK")


CKPT, SAVED = checkpoint_at("cp-1.ckpt"), checkpoint_at("variables/variables")
SAVED_BELOW = checkpoint_at("saved_model/1/variables/variables")
H5, SHARDS = h5("tf_model.h5"), sharded("h5")


@pytest.mark.parametrize(
    ("files", "taken", "others"),
    [
        ([H5], "tf_model.h5", []),
        ([SHARDS], "tf_model.h5.index.json", []),
        ([tf_safetensors], "model.safetensors", []),
        ([sharded("safetensors")], "model.safetensors.index.json", []),
        ([SAVED_BELOW], "saved_model/1/variables/variables", []),
        ([h5("cp-7.weights.h5")], "cp-7.weights.h5", []),
        ([CKPT, H5], "cp-1.ckpt", ["tf_model.h5"]),
        ([SAVED, H5, tf_safetensors], "variables/variables", ["model.safetensors", "tf_model.h5"]),
        ([tf_safetensors, H5, h5("z.h5")], "model.safetensors", ["tf_model.h5", "z.h5"]),
        ([SHARDS, H5], "tf_model.h5", ["tf_model.h5.index.json"]),
        ([h5("a.h5"), SHARDS], "tf_model.h5.index.json", ["a.h5"]),
        ([SAVED_BELOW, H5], "tf_model.h5", ["saved_model/1/variables/variables"]),
        ([pt_safetensors, H5], "tf_model.h5", ["PyTorch weights too (model.safetensors)"]),
        (
            [of_pytorch, pt_safetensors, H5],
            "tf_model.h5",
            ["PyTorch weights too (model.safetensors, pytorch_model.bin)"],
        ),
        ([of_pytorch, CKPT], "cp-1.ckpt", ["pytorch_model.bin"]),
    ],
)
def test_what_is_taken_in_a_folder(tmp_path, files, taken, others):
    for write in files:
        write(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with tfreader.open(tmp_path) as checkpoint:
        assert checkpoint.path == str(tmp_path / taken)
        notes = "; ".join(checkpoint.notes)
        assert all(other in notes for other in others)
        assert bool(notes) == bool(others)


def test_several_models_of_names_that_say_nothing(tmp_path):
    h5("cp-1.weights.h5")(tmp_path)
    h5("cp-2.weights.h5")(tmp_path)
    with pytest.raises(tfreader.CheckpointNotFoundError, match=r"pass one of: .*cp-1.*, .*cp-2"):
        tfreader.open(tmp_path)
    with pytest.raises(tfreader.CheckpointNotFoundError, match="cp-1.*cp-2"):
        tfreader.open(tmp_path / "cp-3")


def test_several_checkpoints_are_not_passed_over_for_a_file(tmp_path):
    for write in (CKPT, checkpoint_at("cp-2.ckpt"), H5):
        write(tmp_path)
    with pytest.raises(tfreader.CheckpointNotFoundError, match="cp-1.*cp-2.*tf_model.h5"):
        tfreader.open(tmp_path)


def test_a_state_file_whose_checkpoints_are_gone(tmp_path):
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "cp-9"')
    with pytest.raises(tfreader.CheckpointNotFoundError, match="does not exist"):
        tfreader.open(tmp_path)
    H5(tmp_path)
    with tfreader.open(tmp_path) as checkpoint:
        assert checkpoint.path == str(tmp_path / "tf_model.h5")


def test_files_that_are_not_what_they_are_called(tmp_path):
    (tmp_path / "tf_model.h5").write_bytes(LFS)
    of_pytorch(tmp_path)
    with pytest.raises(tfreader.CheckpointNotFoundError, match=r"model\.h5 is a Git LFS pointer"):
        tfreader.open(tmp_path)
    with pytest.raises(tfreader.CorruptCheckpointError, match="Git LFS pointer"):
        tfreader.open(tmp_path / "tf_model.h5")
    SHARDS(tmp_path)
    with tfreader.open(tmp_path) as checkpoint:
        assert checkpoint.path == str(tmp_path / "tf_model.h5.index.json")


def test_a_folder_of_pytorch_alone(tmp_path):
    pt_safetensors(tmp_path)
    with pytest.raises(tfreader.CheckpointNotFoundError, match="of PyTorch .*needs no conversion"):
        tfreader.open(tmp_path)


def test_folders_with_models_are_listed(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    H5(tmp_path / "one")
    tf_safetensors(tmp_path / "two")
    with pytest.raises(tfreader.CheckpointNotFoundError, match=r"pass one of: .*one, .*two$"):
        tfreader.open(tmp_path)


@pytest.mark.parametrize("kind", ["h5", "safetensors"])
def test_the_links_of_the_hubs_cache(tmp_path, kind):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0a1b"
    index = write_sharded(blobs, some_variables(), kind)
    snapshot.mkdir(parents=True)
    for i, file in enumerate(sorted(blobs.iterdir())):
        file.rename(blobs / f"{i}")
        (snapshot / file.name).symlink_to(os.path.join("..", "..", "blobs", f"{i}"))
    with tfreader.open(snapshot) as checkpoint:
        assert checkpoint.path == str(snapshot / index.name)
        assert len(checkpoint) == len(some_variables())
    with pytest.raises(tfreader.CheckpointNotFoundError, match=f"pass one of: {snapshot}$"):
        tfreader.open(tmp_path)


def test_a_web_server_with_and_without_listings(web):
    for name, write in (("a", H5), ("b", tf_safetensors), ("c", SHARDS), ("d", SAVED_BELOW)):
        (web.folder / name).mkdir()
        write(web.folder / name)
    taken = {
        "a": "tf_model.h5",
        "b": "model.safetensors",
        "c": "tf_model.h5.index.json",
        "d": "saved_model/1/variables/variables",
    }
    for listings, slash in ((True, "/"), (False, "/"), (False, "")):
        web.listings = listings
        for folder, name in taken.items():
            with tfreader.open(f"{web.url}/{folder}{slash}") as checkpoint:
                assert checkpoint.path == f"{web.url}/{folder}/{name}"
                for variable in checkpoint:
                    assert checkpoint[variable].size
    with pytest.raises(tfreader.CheckpointNotFoundError):
        tfreader.open(f"{web.url}/nothing")


def test_a_bucket(buckets, tmp_path):
    import boto3

    client = boto3.client("s3")
    for kind in ("h5", "safetensors"):
        index = write_sharded(tmp_path / kind, some_variables(), kind)
        for file in index.parent.iterdir():
            client.upload_file(str(file), "models", f"kinds/{kind}/{file.name}")
        with tfreader.open(f"s3://models/kinds/{kind}") as checkpoint:
            assert checkpoint.path == f"s3://models/kinds/{kind}/{index.name}"
            name = "tf_marian/model/encoder/fc1/kernel"
            assert checkpoint[name].tolist() == some_variables()[name + ":0"].tolist()
        with pytest.raises(tfreader.CheckpointNotFoundError, match="00002-of-00002.*missing"):
            client.delete_object(
                Bucket="models",
                Key=f"kinds/{kind}/{index.name.split('.')[0]}-00002-of-00002.{kind}",
            )
            tfreader.open(f"s3://models/kinds/{kind}")
    jobs = from_glob(["s3://models/kinds/**/*.index.json"], "out", {})
    assert len(jobs) == 2


def test_batches_find_each_model_once(tmp_path):
    for name, writes in (("a", [H5]), ("b", [SHARDS, tf_safetensors]), ("a/c", [H5, SHARDS])):
        (tmp_path / name).mkdir(exist_ok=True)
        for write in writes:
            write(tmp_path / name)
    jobs = from_glob([f"{tmp_path}/**/*.h5*", f"{tmp_path}/**/model.safetensors"], "out", {})
    found = {
        os.path.relpath(job.tf_checkpoint, tmp_path): os.path.relpath(job.pytorch_dump_output)
        for job in jobs
    }
    assert found == {
        "a/tf_model.h5": "out/a/tf_model",
        "a/c/tf_model.h5": "out/a/c/tf_model",
        "b/tf_model.h5.index.json": "out/b/tf_model",
        "b/model.safetensors": "out/b/model",
    }
    assert all(job.is_folder for job in jobs)
    (job,) = from_glob([f"{tmp_path}/b/tf_model-0*.h5"], "out", {})
    assert job.tf_checkpoint == f"{tmp_path}/b/tf_model.h5.index.json"


@pytest.mark.parametrize("kind", ["tf", "pt"])
def test_a_header_as_long_as_other_files_begin(tmp_path, kind):
    """A safetensors file begins with its header's length, here with the first bytes of a pickle."""
    tensor = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    header = json.dumps({"__metadata__": {"format": kind}, "a/kernel:0": tensor}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\x80\x04".ljust(8, b"\0") + header.ljust(0x480) + bytes(4))
    if kind == "tf":
        with open_source(path) as checkpoint:
            assert list(checkpoint) == ["a/kernel"]
    else:
        with pytest.raises(CorruptCheckpointError, match="a safetensors file of PyTorch") as caught:
            open_source(path)
        assert caught.value.code == "pytorch"
