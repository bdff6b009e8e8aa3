from __future__ import annotations

import pytest
from bundle_writer import write_bundle
from conftest import BERT
from numpy import ones

import tfreader


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
        assert "does not exist" in checkpoint.notes[0]


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


def test_a_file_of_another_kind_is_named(tmp_path):
    (tmp_path / "weights.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(tfreader.CorruptCheckpointError, match="HDF5"):
        tfreader.open(tmp_path / "weights.h5")
