from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from bundle_writer import write_bundle
from conftest import BERT, DATA
from transformers import AutoModelForPreTraining

import tfreader
from tfreader.mapping import convert, load_state_dict

ALBERT = DATA / "albert"


@pytest.mark.parametrize("name", ["pretraining", "hub"])
def test_the_outputs_are_those_of_tensorflow(name, tmp_path):
    convert(ALBERT / name, tmp_path)
    model, info = AutoModelForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    expected = np.load(ALBERT / name / "forward.npz")
    inputs = {key: torch.from_numpy(expected[key]) for key in expected if "output" not in key}
    with torch.no_grad():
        outputs = model.eval()(**inputs)
    for key in ("prediction_logits", "sop_logits"):
        np.testing.assert_allclose(outputs[key], expected[f"output_{key}"], atol=1e-5)


@pytest.mark.parametrize(
    ("head", "labels", "architecture"),
    [
        ("output", 3, "AlbertForSequenceClassification"),
        ("cls/squad/output", 2, "AlbertForQuestionAnswering"),
    ],
)
def test_fine_tuned_heads(head, labels, architecture, tmp_path):
    with tfreader.open(ALBERT / "pretraining") as checkpoint:
        tensors = {name: checkpoint[name] for name in checkpoint if not name.startswith("cls")}
    tensors[f"{head}_weights"] = np.ones((labels, 12), np.float32)
    tensors[f"{head}_bias"] = np.ones(labels, np.float32)
    write_bundle(tmp_path / "model", tensors)
    config = ALBERT / "pretraining" / "albert_config.json"
    report = convert(tmp_path / "model", tmp_path / "out", config=config)
    assert report.plan.architecture == architecture
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert len(written["id2label"]) == labels


def test_the_other_spelling_of_layer_norms(tmp_path):
    """The old converter skipped them, and then stopped."""
    with tfreader.open(ALBERT / "pretraining") as checkpoint:
        tensors = {n.replace("LayerNorm", "layer_normalization"): checkpoint[n] for n in checkpoint}
    write_bundle(tmp_path / "model", tensors)
    config = ALBERT / "pretraining" / "albert_config.json"
    state_dict = load_state_dict(tmp_path / "model", config=config)
    expected = load_state_dict(ALBERT / "pretraining")
    assert all(torch.equal(state_dict[name], expected[name]) for name in expected)


def test_what_the_names_do_not_tell_is_asked_for(copy, tmp_path):
    folder = copy(ALBERT / "pretraining")
    (folder / "albert_config.json").unlink()
    with pytest.raises(tfreader.ConfigError, match="num_attention_heads.*\n.*albert_config.json"):
        convert(folder, tmp_path / "out")


def test_a_bert_is_no_albert(tmp_path):
    with pytest.raises(tfreader.PlanError, match="no rule knows|the model needs"):
        convert(BERT, tmp_path / "out", "albert")


def test_numbered_layer_norms(tmp_path):
    """Later copies number them through: attention's comes before the layer's own."""
    with tfreader.open(DATA / "albert" / "pretraining") as checkpoint:
        tensors = {name: checkpoint[name] for name in checkpoint}
    numbers = {"LayerNorm_1/": "layer_normalization_2/", "LayerNorm/": "layer_normalization_1/"}
    renamed = {}
    for name, value in tensors.items():
        spelling = next((old for old in numbers if old in name), "/")
        renamed[name.replace(spelling, numbers.get(spelling, "/"))] = value
    prefix = write_bundle(tmp_path / "model.ckpt", renamed)
    config = DATA / "albert" / "pretraining" / "albert_config.json"
    state_dict = load_state_dict(prefix, config=config)
    for name, tensor in load_state_dict(DATA / "albert" / "pretraining").items():
        torch.testing.assert_close(state_dict[name], tensor, rtol=0, atol=0)


def test_berts_config_is_no_alberts(tmp_path):
    config = json.loads((BERT / "bert_config.json").read_text())
    with pytest.raises(tfreader.ConfigError, match="no embedding_size"):
        convert(DATA / "albert" / "pretraining", tmp_path / "out", config=config)


def test_all_that_nothing_tells_is_asked_for_at_once(tmp_path):
    with tfreader.open(DATA / "albert" / "pretraining") as checkpoint:
        tensors = {name: checkpoint[name] for name in checkpoint}
    prefix = write_bundle(tmp_path / "model.ckpt", tensors)
    hint = "--set num_attention_heads=VALUE --set num_hidden_layers=VALUE"
    with pytest.raises(tfreader.ConfigError, match=hint):
        convert(prefix, tmp_path / "out")
