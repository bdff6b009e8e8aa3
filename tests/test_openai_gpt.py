from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from conftest import DATA
from transformers import AutoModelForCausalLM

import tfreader
from tfreader.mapping import convert, load_state_dict
from tfreader.mapping.families import open_source

GPT = DATA / "gpt"
HEADS = {"n_head": 3}


def test_the_outputs_are_those_of_the_original(tmp_path):
    report = convert(GPT, tmp_path, overrides=HEADS)
    assert report.plan.family.model_type == "openai-gpt"
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    expected = np.load(GPT / "forward.npz")
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(expected["input_ids"])).logits
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-5)


@pytest.mark.parametrize("name", ["", "params_0.npy", "params_shapes.json"])
def test_names_are_not_needed_and_shards_may_be_any_number(name, copy):
    """The old converter read ten shards, whatever was there."""
    folder = copy(GPT)
    flat = np.concatenate([np.load(folder / f"params_{i}.npy") for i in range(4)])
    for i, shard in enumerate(np.array_split(flat, 13)):
        np.save(folder / f"params_{i}.npy", shard)
    (folder / "parameters_names.json").unlink()
    expected = load_state_dict(GPT, "gpt", overrides=HEADS)
    state_dict = load_state_dict(folder / name, "gpt", overrides=HEADS)
    assert state_dict.keys() == expected.keys()
    assert all(torch.equal(state_dict[key], expected[key]) for key in expected)


def test_the_source_is_a_checkpoint_like_any_other():
    with open_source(GPT) as checkpoint:
        whole = checkpoint["model/h1/mlp/c_fc/w"]
        assert whole.shape == checkpoint.info("model/h1/mlp/c_fc/w").shape == (1, 12, 48)
        rows = checkpoint.read("model/we/tokens", slice(3, 5))
        np.testing.assert_array_equal(rows, checkpoint["model/we/tokens"][3:5])
        assert checkpoint.verify().tensors == len(checkpoint)


def test_files_that_do_not_belong_together_are_refused(copy):
    folder = copy(GPT)
    np.save(folder / "params_4.npy", np.zeros(3, np.float32))
    with pytest.raises(tfreader.CorruptCheckpointError, match="hold .*: one is truncated, missing"):
        open_source(folder)
    (folder / "params_4.npy").unlink()
    (folder / "params_1.npy").unlink()
    with pytest.raises(FileNotFoundError, match="params_1.npy: no such file"):
        open_source(folder)
    (folder / "params_1.npy").write_bytes(b"\x93NUMPY\x01")
    with pytest.raises(tfreader.CorruptCheckpointError, match="params_1.npy: not a numpy file"):
        open_source(folder)
    (folder / "params_shapes.json").write_text("[3, [-1]]")
    with pytest.raises(tfreader.CorruptCheckpointError, match="not a list of shapes"):
        open_source(folder)


def test_a_config_with_too_many_layers_is_refused(tmp_path):
    with pytest.raises(tfreader.PlanError, match="n_layer = 3 .* has 2"):
        convert(GPT, tmp_path / "out", config=HEADS | {"n_layer": 3})
    with pytest.raises(tfreader.ConfigError, match="n_head"):
        convert(GPT, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_tokenizer_gets_its_names_of_today(copy, tmp_path):
    folder = copy(GPT)
    words = {"a": 0, "b": 1, "ab": 2}
    (folder / "encoder_bpe_40000.json").write_text(json.dumps(words))
    (folder / "vocab_40000.bpe").write_text("#version: 0.2\na b\n")
    convert(folder, tmp_path / "out", overrides=HEADS)
    assert json.loads((tmp_path / "out" / "vocab.json").read_text()) == words
    assert (tmp_path / "out" / "merges.txt").is_file()


def test_the_release_needs_no_config(tmp_path):
    """Its folder has none: all but the heads follows from shapes, and those are 64 wide."""
    width = 64
    layer = [(1, width, 3 * width), (3 * width,), (1, width, width), (width,), (width,), (width,)]
    layer += [(1, width, 4 * width), (4 * width,), (1, 4 * width, width), (width,)] + 2 * [(width,)]
    shapes = [(16, width), (23, width), *layer]
    (tmp_path / "params_shapes.json").write_text(json.dumps(shapes))
    flat = np.random.default_rng(0).normal(size=sum(map(math.prod, shapes))).astype(np.float32)
    for i, shard in enumerate(np.array_split(flat, 10)):
        np.save(tmp_path / f"params_{i}.npy", shard)
    report = convert(tmp_path, tmp_path / "out")
    assert report.plan.config["n_head"] == 1
    assert any("n_head = 1: the original's usual value" in note for note in report.notes)
    _, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())


def test_rows_of_special_tokens_count(tmp_path):
    with open_source(GPT) as source:
        rows = source.info("model/we/tokens").shape[0]
    config = HEADS | {"vocab_size": rows - 3, "n_special": 3}
    report = convert(GPT, tmp_path / "out", config=config)
    assert report.plan.config["vocab_size"] == rows
    assert "n_special" not in report.plan.config


def test_a_number_spelt_twice_and_bytes_behind_a_shard_are_refused(copy):
    folder = copy(GPT)
    with (folder / "params_3.npy").open("ab") as shard:
        shard.write(b"more")
    with pytest.raises(tfreader.CorruptCheckpointError, match="4 bytes after the array"):
        open_source(folder)
    (folder / "params_3.npy").rename(folder / "params_03.npy")
    with pytest.raises(tfreader.TFReaderError, match="params_shapes.json lists"):
        open_source(folder)
