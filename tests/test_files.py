from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime

import pytest
from bundle_writer import write_bundle
from conftest import BERT, DATA
from numpy import ones

import tfreader
from tfreader.mapping.families import open_source


def test_the_files_of_a_checkpoint_and_what_tells_them_from_later_ones(tmp_path):
    write_bundle(tmp_path / "m", {"a": ones(2), "b": ones(3), "c": ones(4)}, num_shards=3)
    (tmp_path / "m.data-00001-of-00003").unlink()
    moment = 1_700_000_000_123_456_789
    os.utime(tmp_path / "m.index", ns=(moment, moment))
    with tfreader.open(tmp_path / "m") as checkpoint:
        index, *shards = checkpoint.files()
        assert index.size == (tmp_path / "m.index").stat().st_size
        assert index.modified == "2023-11-14T22:13:20.123456789Z"
        assert [(file.name, file.size) for file in shards] == [
            ("m.data-00000-of-00003", 16),
            ("m.data-00002-of-00003", 32),
        ]
        assert datetime.fromisoformat(shards[0].modified[:26]).replace(tzinfo=UTC)
        contents = (tmp_path / "m.index").read_bytes()
        assert checkpoint.index_sha256() == hashlib.sha256(contents).hexdigest()


@pytest.mark.parametrize(
    ("path", "names"),
    [
        (BERT, ["bert_model.ckpt.index", "bert_model.ckpt.data-00000-of-00001"]),
        (DATA / "v1", [f"model.ckpt-0000{i}-of-00002" for i in range(2)]),
        (DATA / "xlm" / "causal", ["best-valid_en_clm_ppl.pth"]),
        (
            DATA / "gpt",
            ["params_shapes.json", "parameters_names.json"] + [f"params_{i}.npy" for i in range(4)],
        ),
    ],
)
def test_every_kind_of_checkpoint_tells_its_files(path, names):
    with open_source(path) as checkpoint, open_source(path) as again:
        assert {file.name for file in checkpoint.files()} == set(names)
        assert all(file.size for file in checkpoint.files())
        assert checkpoint.index_sha256() == again.index_sha256()
        assert len(checkpoint.index_sha256()) == 64
