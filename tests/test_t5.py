from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from bundle_writer import write_bundle
from conftest import DATA
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import tfreader
from tfreader.mapping import convert, load_state_dict
from tfreader.mapping.families.t5 import FAMILY

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


def variables(name):
    with tfreader.open(T5 / name) as checkpoint:
        return {key: checkpoint[key] for key in checkpoint if "_slot_" not in key}


FEED_FORWARD = "encoder/block_001/layer_001/DenseReluDense"


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("v10", {f"{FEED_FORWARD}/wi/kernel": None}, "encoder.block.1.layer.1.DenseReluDense.wi"),
        ("v11", {f"{FEED_FORWARD}/wi_1/kernel": None}, "block.1.layer.1.DenseReluDense.wi_1"),
        ("v11", {f"{FEED_FORWARD}/wi/kernel": np.ones((12, 10), np.float32)}, "no rule knows"),
        (
            "v10",
            {"encoder/block_001/layer_000/SelfAttention/q": np.ones((8, 12), np.float32)},
            "d_model = 12 in .*, but the checkpoint has 8",
        ),
        ("v10", {"shared/embedding": np.ones((32, 12), np.int64)}, "weights are of a float type"),
    ],
)
def test_a_variable_that_does_not_belong_is_noticed(name, change, problem, tmp_path):
    changed = {k: v for k, v in (variables(name) | change).items() if v is not None}
    prefix = write_bundle(tmp_path / "model.ckpt", changed)
    with pytest.raises(tfreader.PlanError, match=problem):
        convert(prefix, tmp_path / "out", config=T5 / name / "operative_config.gin")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"model_type": "t5", "d_ff": 10}, "feed_forward_proj = 'relu' .* tell 'gated-gelu'"),
        ({"model_type": "umt5"}, "a config of another family"),
        ({"hidden_size": 99, "d_model": 12}, "two names of one size"),
        ({"feed_forward_proj": "gated-foo"}, "gated-foo"),
    ],
)
def test_v11_with_the_config_of_another(config, problem, tmp_path):
    with pytest.raises(tfreader.TFReaderError, match=problem):
        convert(T5 / "v11", tmp_path / "out", config=config)


def test_the_encoder_of_an_mt5_is_called_so(tmp_path):
    convert(T5 / "v11", tmp_path / "out", "mt5", architecture="MT5EncoderModel")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("mt5", ["MT5EncoderModel"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("encoder/DenseReluDense.activation = 'gelu'", {"feed_forward_proj": "gelu_new"}),
        (
            "encoder/transformer_layers.DenseReluDense.activation = [\n    'relu',\n    'linear']",
            {"feed_forward_proj": "gated-relu"},
        ),
        (
            'DenseReluDense.activation = \\\n    ["swish", "linear"]  # as in PaLM',
            {"feed_forward_proj": "gated-silu"},
        ),
        (
            "num_layers = 2\nencoder/transformer.make_layer_stack.num_layers = 4",
            {"num_layers": 4, "num_decoder_layers": 2},
        ),
        ("d = 3\nd_model = %d", {"d_model": 3}),
        ("d_model = %d_model\nd_ff = 5", {"d_ff": 5}),
        (
            "decoder/Unitransformer.shared_embedding_and_softmax_weights = True",
            {"tie_word_embeddings": True},
        ),
    ],
)
def test_gin_files(text, expected):
    assert FAMILY.read(text) == expected


@pytest.mark.parametrize("text", ["", "a = 1", "DenseReluDense.activation = ['linear', 'gelu']"])
def test_what_no_gin_file_says_is_refused(text):
    with pytest.raises(tfreader.ConfigError):
        FAMILY.read(text)


def test_byt5_needs_no_vocabulary(tmp_path):
    tensors = variables("v10") | {"shared/embedding": np.ones((384, 12), np.float32)}
    prefix = write_bundle(tmp_path / "model.ckpt", tensors)
    convert(prefix, tmp_path / "out", config=T5 / "v10" / "operative_config.gin")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("ab")["input_ids"] == [100, 101, 1]
