from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import DATA
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Model

import tfreader
from tfreader.mapping import convert, load_state_dict

GPT2 = DATA / "gpt2"


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    output = tmp_path_factory.mktemp("gpt2") / "out"
    report = convert(GPT2, output)
    return output, report


def test_the_outputs_are_those_of_tensorflow(converted):
    output, report = converted
    model, info = AutoModelForCausalLM.from_pretrained(output, output_loading_info=True)
    assert not any(info.values())
    expected = np.load(GPT2 / "forward.npz")
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(expected["input_ids"])).logits
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-5)
    kinds = {reason.partition(" of ")[0] for reason in report.plan.dropped.values()}
    assert kinds == {"slot variable Adam", "slot variable Adam_1", "training counter"}


def test_kernels_lose_only_their_leading_axis(converted):
    with tfreader.open(GPT2) as checkpoint:
        kernel = checkpoint["model/h1/mlp/c_fc/w"]
    state_dict = load_state_dict(GPT2, "openai-community/gpt2")
    np.testing.assert_array_equal(state_dict["transformer.h.1.mlp.c_fc.weight"], kernel[0])
    assert state_dict["lm_head.weight"] is state_dict["transformer.wte.weight"]


def test_the_headless_class_loads_it_too(converted):
    output, _ = converted
    model, info = GPT2Model.from_pretrained(output, output_loading_info=True)
    assert not info["missing_keys"]
    own = load_state_dict(GPT2, architecture="GPT2Model")
    assert set(own) == set(model.state_dict())


def test_config_and_tokenizer(converted):
    output, _ = converted
    config = json.loads((output / "config.json").read_text())
    assert config["activation_function"] == "gelu_new"
    assert (config["n_positions"], config["eos_token_id"]) == (16, 39)
    tokenizer = AutoTokenizer.from_pretrained(output)
    assert tokenizer.tokenize("ab the") == ["a", "b", "\u0120the"]
    assert (output / "merges.txt").read_bytes() == (GPT2 / "vocab.bpe").read_bytes()


def test_what_no_shape_tells_is_asked_for(copy, tmp_path):
    folder = copy(GPT2)
    (folder / "hparams.json").unlink()
    with pytest.raises(tfreader.ConfigError, match="n_head.*\n.*hparams.json"):
        convert(folder, tmp_path / "out")
    report = convert(folder, tmp_path / "out", overrides={"n_head": 3})
    assert report.plan.config["n_layer"] == 2


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("n_layer", 3, "n_layer = 3 .* has 2"),
        ("n_embd", 24, "n_embd = 24"),
        ("n_head", 5, "not a multiple of n_head = 5"),
    ],
)
def test_a_config_of_another_model_is_refused(tmp_path, key, value, problem):
    hparams = json.loads((GPT2 / "hparams.json").read_text()) | {key: value}
    with pytest.raises(tfreader.TFReaderError, match=problem):
        convert(GPT2, tmp_path / "out", config=hparams)
    assert not (tmp_path / "out").exists()
