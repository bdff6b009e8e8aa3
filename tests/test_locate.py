from __future__ import annotations

import ast
import io
import os
import tempfile
import zipfile
from pathlib import Path

import pytest
from bundle_writer import field, write_bundle
from conftest import BERT
from numpy import ones

import tfreader
from tfreader.mapping import convert
from tfreader.mapping.batch import scan
from tfreader.mapping.families import open_source
from tfreader.mapping.records.audit import verify_output


@pytest.mark.parametrize(
    "name",
    [
        "bert_model.ckpt",
        "bert_model.ckpt.index",
        "bert_model.ckpt.data-00000-of-00001",
        "bert_model.ckpt.meta",
        "checkpoint",
        "",
    ],
)
def test_every_way_to_name_a_checkpoint(name):
    with tfreader.open(BERT / name) as checkpoint:
        assert checkpoint.path == str(BERT / "bert_model.ckpt")


@pytest.mark.parametrize(
    "named",
    [
        "/home/somebody/run/model.ckpt-7",
        "C:\\\\run\\\\model.ckpt-7",
        "../elsewhere/model.ckpt-7",
    ],
)
def test_a_strangers_state_file_falls_back_to_the_same_name(tmp_path, named):
    write_bundle(tmp_path / "model.ckpt-7", {"a": ones(2)})
    write_bundle(tmp_path / "model.ckpt-9", {"a": ones(2)})
    (tmp_path / "checkpoint").write_text(f'model_checkpoint_path: "{named}"\n')
    with tfreader.open(tmp_path) as checkpoint:
        assert checkpoint.path == str(tmp_path / "model.ckpt-7")
        assert "beside it" in checkpoint.notes[0]


@pytest.mark.parametrize(
    "state",
    ['model_checkpoint_path: "/gone/other"', "version https://git-lfs", "", "\xff\xfe", None],
)
def test_the_only_prefix_there_is_taken(tmp_path, state):
    write_bundle(tmp_path / "odd [1] name", {"a": ones(2)})
    if state is not None:
        (tmp_path / "checkpoint").write_text(state)
    with tfreader.open(tmp_path) as checkpoint:
        assert checkpoint.path == str(tmp_path / "odd [1] name")


def test_octal_escapes_and_the_latest_of_several(tmp_path):
    write_bundle(tmp_path / "café-1", {"a": ones(2)})
    write_bundle(tmp_path / "café-2", {"a": ones(2)})
    (tmp_path / "checkpoint").write_text(
        'model_checkpoint_path: "caf\\303\\251-2"\nall_model_checkpoint_paths: "caf\\303\\251-1"\n'
    )
    with tfreader.open(tmp_path) as checkpoint:
        assert checkpoint.path == str(tmp_path / "café-2")


def test_candidates_are_listed_when_nothing_fits(tmp_path):
    write_bundle(tmp_path / "a-1", {"a": ones(2)})
    write_bundle(tmp_path / "a-2", {"a": ones(2)})
    for path in (tmp_path, tmp_path / "a-3"):
        with pytest.raises(FileNotFoundError, match="a-1.*a-2"):
            tfreader.open(path)


def test_a_saved_model_folder(tmp_path):
    write_bundle(tmp_path / "variables" / "variables", {"a": ones(2)})
    with tfreader.open(tmp_path) as checkpoint:
        assert list(checkpoint) == ["a"]


def test_an_index_without_its_suffix_is_not_read_as_an_empty_v1_checkpoint(tmp_path):
    index = write_bundle(tmp_path / "model.ckpt", {"a": ones(2)}).with_suffix(".ckpt.index")
    index.rename(tmp_path / "old.ckpt")
    with pytest.raises(tfreader.CorruptCheckpointError, match="rename it to end in .index"):
        tfreader.open(tmp_path / "old.ckpt")


def safetensors(metadata: str) -> bytes:
    header = f'{{"__metadata__":{metadata}}}'.encode()
    return len(header).to_bytes(8, "little") + header


def zipped(*names: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "meaning"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"\n<!DOCTYPE html><html>", "HTML page"),
        (b"<?xml version='1.0'?><Error><Code>NoSuchKey", "download failed"),
        (zipped("archive/data.pkl", "archive/data/0"), "PyTorch file"),
        (zipped("a.npy", "b.npy"), "npz"),
        (zipped("uncased/bert_model.ckpt.index"), "unpack it.*uncased/bert_model.ckpt.index"),
        (b"PK\3\4" + bytes(90), "damaged zip"),
        (b"\x1f\x8b\x08" + bytes(90), "gzip"),
        (bytes(257) + b"ustar" + bytes(300), "tar archive"),
        (b"\x80\x04\x95" + bytes(90), "pickle"),
        (safetensors("{}"), "does not say whose"),
        (safetensors('{"by": "x", "format": "pt"}'), "of PyTorch .*needs no conversion"),
        (safetensors('{"format": "flax"}'), "of Flax .*is not read"),
        (safetensors('{"format": "x\\n"}'), r"of another library \(format 'x\\n'\)"),
        (b'{"weight_map": {"a.weight": "model-1-of-2.safetensors"}}', "not TensorFlow's"),
        (b"\x93NUMPY" + bytes(90), "numpy array"),
        (bytes(1000), "nothing but zeros"),
        (b"\x1c\0\0\0TFL3" + bytes(90), "TensorFlow Lite"),
        (b"\x08\x01\x12\x05hello", "SavedModel"),
        (field(1, field(1, b"input") + field(2, b"Placeholder")) + field(2, b"x"), "frozen"),
        (bytes(range(1, 200)), "if it is a data shard"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path, content, meaning):
    write_bundle(tmp_path / "model.ckpt", {"a": ones(2)})
    (tmp_path / "weights").write_bytes(content)
    with pytest.raises(tfreader.CorruptCheckpointError, match=meaning) as caught:
        tfreader.open(tmp_path / "weights")
    assert "pass one of: " + str(tmp_path / "model.ckpt") in str(caught.value)


@pytest.mark.parametrize(
    ("content", "meaning"),
    [
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file.*call it .h5"),
        (zipped("config.json", "model.weights.h5"), "a Keras archive.*call it .keras"),
    ],
)
def test_a_file_of_keras_in_the_place_of_an_index(tmp_path, content, meaning):
    (tmp_path / "model.index").write_bytes(content)
    with pytest.raises(tfreader.CorruptCheckpointError, match=meaning):
        tfreader.open(tmp_path / "model")


@pytest.mark.parametrize("base", ["", "-1", "(x, y): z", "a[1]*?", "emb=a,b", "näme\n"])
def test_prefixes_of_any_characters(tmp_path, base):
    prefix = str(tmp_path / "folder" / base) if base else str(tmp_path / "folder") + "/"
    write_bundle(prefix, {"a": ones(2)})
    for path in (prefix, prefix + ".index", prefix + ".data-00000-of-00001", tmp_path / "folder"):
        with tfreader.open(path) as checkpoint:
            assert checkpoint["a"].tolist() == [1, 1]


def test_a_data_shard_without_its_index(tmp_path):
    write_bundle(tmp_path / "model.ckpt", {"a": ones(2)})
    (tmp_path / "model.ckpt.index").unlink()
    with pytest.raises(FileNotFoundError, match=r"index file .*model.ckpt.index is missing"):
        tfreader.open(tmp_path / "model.ckpt.data-00000-of-00001")


def test_a_data_shard_that_somebody_renamed(tmp_path):
    write_bundle(tmp_path / "model.ckpt", {"a": ones(2)})
    (tmp_path / "model.ckpt.data-00000-of-00001").rename(tmp_path / "model.ckpt")
    with tfreader.open(tmp_path) as checkpoint, pytest.raises(FileNotFoundError, match="rename it"):
        checkpoint["a"]


def test_shards_of_another_save_are_not_looked_at(tmp_path):
    write_bundle(tmp_path / "model.ckpt", {"a": ones(2), "b": ones(3)}, num_shards=2)
    write_bundle(tmp_path / "model.ckpt", {"a": ones(4)})
    with tfreader.open(tmp_path / "model.ckpt.data-00001-of-00002") as checkpoint:
        assert checkpoint["a"].tolist() == [1, 1, 1, 1]


def test_folders_of_checkpoints_are_listed(tmp_path):
    write_bundle(tmp_path / "one" / "model.ckpt", {"a": ones(2)})
    write_bundle(tmp_path / "two" / "variables" / "variables", {"a": ones(2)})
    with pytest.raises(FileNotFoundError, match=r"pass one of: .*one, .*two$"):
        tfreader.open(tmp_path)


def test_an_interrupted_save(tmp_path):
    part = tmp_path / "model_temp" / "part-00000-of-00001"
    write_bundle(part, {"a": ones(2)})
    with pytest.raises(FileNotFoundError, match="model_temp, left by a save that was interrupted"):
        tfreader.open(tmp_path / "model")
    with tfreader.open(part) as checkpoint:
        assert list(checkpoint) == ["a"]


def test_the_graph_of_a_saved_model(tmp_path):
    write_bundle(tmp_path / "variables" / "variables", {"a": ones(2)})
    (tmp_path / "saved_model.pb").write_bytes(b"\x08\x01")
    with tfreader.open(tmp_path / "saved_model.pb") as checkpoint:
        assert list(checkpoint) == ["a"]


def test_a_pattern_that_fits_one_or_several(tmp_path):
    write_bundle(tmp_path / "model.ckpt-1", {"a": ones(2)})
    with tfreader.open(tmp_path / "model.ckpt*") as checkpoint:
        assert checkpoint.path == str(tmp_path / "model.ckpt-1")
    write_bundle(tmp_path / "model.ckpt-2", {"a": ones(2)})
    with pytest.raises(FileNotFoundError, match="matches several"):
        tfreader.open(tmp_path / "model.ckpt*")


def test_a_named_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "model.ckpt.index")
    for path in ("nothing", "pipe", "model.ckpt"):
        with pytest.raises(tfreader.TFReaderError):
            tfreader.open(tmp_path / path)


@pytest.fixture
def as_nobody():
    """A folder, and what runs a function as a user who owns nothing: root may read everything."""

    def run(function):
        if os.geteuid():
            return function()
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.setgid(65534)
                os.setuid(65534)
                os.write(write, repr(function()).encode())
            finally:
                os._exit(0)
        os.close(write)
        os.waitpid(child, 0)
        with os.fdopen(read) as said:
            return ast.literal_eval(said.read())

    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder), run


def outcome(path, opened=tfreader.open):
    try:
        with opened(path) as checkpoint:
            return checkpoint.path, checkpoint.notes
    except tfreader.TFReaderError as error:
        return type(error).__name__, str(error)


@pytest.mark.parametrize("mode", [0, 0o444], ids=["closed", "listed only"])
def test_a_folder_that_this_user_may_not_enter(as_nobody, mode):
    folder, run = as_nobody
    write_bundle(folder / "in" / "model", {"a": ones(3, "f4")})
    (folder / "in" / "model.safetensors").touch()  # as if it were a conversion's
    (folder / "in").chmod(mode)
    for path in (folder / "in", folder / "in" / "model", folder / "in" / "model.index"):
        kind, message = run(lambda path=path: outcome(path))
        assert kind == "AccessDeniedError"
        assert message == f"{path}: not accessible to this user (Permission denied)"
        assert run(lambda path=path: outcome(path, open_source)) == (kind, message)
    for path in (folder / "in", folder / "in" / "model.safetensors"):
        assert run(lambda path=path: outcome(path, verify_output))[0] == "AccessDeniedError"
    (folder / "in").chmod(0o755)


def test_a_folder_that_this_user_may_not_list(as_nobody):
    folder, run = as_nobody
    write_bundle(folder / "in" / "model", {"a": ones(3, "f4")})
    (folder / "in").chmod(0o111)
    assert run(lambda: outcome(folder / "in" / "model"))[0] == str(folder / "in" / "model")
    kind, message = run(lambda: outcome(folder / "in"))
    assert kind == "AccessDeniedError"
    assert "may not be listed by this user: pass the checkpoint's prefix" in message
    (folder / "in").chmod(0o755)


@pytest.mark.parametrize("name", ["model.index", "model.data-00000-of-00001"])
def test_a_file_that_this_user_may_not_read_is_not_called_damaged(as_nobody, name):
    folder, run = as_nobody
    write_bundle(folder / "model", {"a": ones(3, "f4")})
    (folder / name).chmod(0)

    def read(path):
        checkpoint = tfreader.open(path)
        checkpoint["a"]
        return checkpoint

    kind, message = run(lambda: outcome(folder / "model", read))
    assert kind == "AccessDeniedError"
    assert message == f"{folder / name}: not accessible to this user (Permission denied)"


def test_a_scan_makes_a_job_of_what_it_cannot_look_into(as_nobody):
    folder, run = as_nobody
    for name in ("file", "folder"):
        write_bundle(folder / name / "model", {"a": ones(3, "f4")})
    (folder / "file" / "model.index").chmod(0)
    (folder / "notes").write_text("not theirs")
    (folder / "notes").chmod(0)
    (folder / "folder").chmod(0)

    def found():
        scanned = scan(str(folder))
        return sorted(scanned.checkpoints), [left[:2] for left in scanned.passed_over]

    assert run(found) == (
        [str(folder / "file" / "model"), str(folder / "folder")],
        [(str(folder / "notes"), "access-denied")],
    )
    (folder / "folder").chmod(0o755)


def test_a_state_file_that_this_user_may_not_read(as_nobody):
    folder, run = as_nobody
    write_bundle(folder / "model", {"a": ones(3, "f4")})
    (folder / "checkpoint").write_text('model_checkpoint_path: "model"')
    (folder / "checkpoint").chmod(0)
    path, (note,) = run(lambda: outcome(folder))
    assert path == str(folder / "model")
    assert "checkpoint is unreadable (cannot be read: Permission denied), using the only" in note


def test_a_path_of_no_letter_is_told():
    """As of a shell's variable that is not set."""
    with pytest.raises(tfreader.CheckpointNotFoundError, match=r"no letter; \. is the current"):
        tfreader.open("")


def test_what_a_file_is_is_said_once(tmp_path):
    convert(BERT, tmp_path)
    with pytest.raises(tfreader.TFReaderError) as error:
        tfreader.open(tmp_path / "model.safetensors")
    assert str(error.value).count("safetensors file of PyTorch") == 1
