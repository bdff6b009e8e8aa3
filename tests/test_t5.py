from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from bundle_writer import write_bundle
from conftest import DATA
from tfreader.mapping import convert, load_state_dict
from transformers import AutoModelForSeq2SeqLM

import tfreader

T5 = DATA / "t5"


@pytest.mark.parametrize("name", ["v10", "v11", "shared"])
def test_the_outputs_are_those_of_tensorflow(name, tmp_path):
    """The old converter stopped at heads of their own, and left a shared stack's encoder random."""
    report = convert(T5 / name, tmp_path)
    model, info = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    expected = np.load(T5 / name / "forward.npz")
    inputs = {key: torch.from_numpy(expected[key]) for key in ("input_ids", "decoder_input_ids")}
    with torch.no_grad():
        logits = model.eval()(**inputs).logits
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-5)
    reasons = {reason.partition(" of ")[0] for reason in report.plan.dropped.values()}
    assert "training counter" in reasons
    assert reasons & {"slot variable _slot_vr", "slot variable _slot_v"}


@pytest.mark.parametrize(
    ("name", "form", "is_tied", "depths"),
    [
        ("v10", "relu", True, (2, 3)),
        ("v11", "gated-gelu", False, (2, 3)),
        ("shared", "relu", True, (2, 2)),
    ],
)
def test_the_config_comes_from_names_shapes_and_gin(name, form, is_tied, depths, copy, tmp_path):
    folder = copy(T5 / name)
    configs = []
    for _ in range(2):
        convert(folder, tmp_path / "out")
        configs.append(json.loads((tmp_path / "out" / "config.json").read_text()))
        (folder / "operative_config.gin").unlink(missing_ok=True)
    assert configs[0] == configs[1]
    (config, _) = configs
    assert (config["feed_forward_proj"], config["tie_word_embeddings"]) == (form, is_tied)
    assert (config["num_layers"], config["num_decoder_layers"]) == depths
    assert (config["num_heads"], config["d_kv"], config["d_ff"]) == (2, 4, 10)


@pytest.mark.parametrize(
    ("name", "config", "problem"),
    [
        ("v11", {"feed_forward_proj": "relu"}, "feed_forward_proj = 'relu' .* tell 'gated-gelu'"),
        ("v10", {"feed_forward_proj": "gated-gelu"}, "tell 'relu'"),
        ("v11", {"tie_word_embeddings": True}, "tie_word_embeddings = True .* tell False"),
        ("v10", {"vocab_size": 250112}, "vocab_size = 250112 .* has 32"),
        ("v10", {"num_decoder_layers": 2}, "num_decoder_layers = 2 .* has 3"),
    ],
)
def test_a_config_of_another_model_is_refused(name, config, problem, tmp_path):
    with pytest.raises(tfreader.PlanError, match=problem):
        convert(T5 / name, tmp_path / "out", config=config)
    assert not (tmp_path / "out").exists()


def test_mt5_is_called_so(tmp_path):
    convert(T5 / "v11", tmp_path, config={"model_type": "mt5"})
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "mt5"
    assert config["architectures"] == ["MT5ForConditionalGeneration"]


def test_an_encoder_alone(tmp_path):
    with tfreader.open(T5 / "v10") as checkpoint:
        tensors = {n: checkpoint[n] for n in checkpoint if not n.startswith("decoder")}
    write_bundle(tmp_path / "model", tensors)
    state_dict = load_state_dict(tmp_path / "model")
    assert "encoder.embed_tokens.weight" in state_dict
    assert not any(name.startswith(("decoder", "lm_head")) for name in state_dict)
