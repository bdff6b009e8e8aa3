from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
import transformers
from bundle_writer import write_bundle
from click.testing import CliRunner
from conftest import DATA

import tfreader
from tfreader.cli.main import main
from tfreader.mapping import convert, load_state_dict

REMBERT = DATA / "rembert"
CONFIG = json.loads((REMBERT / "rembert_config.json").read_text())


def variables():
    with tfreader.open(REMBERT) as checkpoint:
        return {name: checkpoint[name] for name in checkpoint}


def written(folder, tensors):
    folder.mkdir()
    (folder / "rembert_config.json").write_text(json.dumps(CONFIG))
    return write_bundle(folder / "model.ckpt", tensors)


def check_outputs(output, architecture="RemBertModel"):
    model, info = getattr(transformers, architecture).from_pretrained(
        output, output_loading_info=True
    )
    assert not any(info.values())
    expected = np.load(REMBERT / "forward.npz")
    inputs = {key: torch.from_numpy(expected[key]) for key in expected if "output" not in key}
    base = getattr(model, "rembert", model).eval()
    with torch.no_grad():
        outputs = base(**inputs)
    for key in ("last_hidden_state", "pooler_output"):
        if outputs.get(key) is not None:
            np.testing.assert_allclose(outputs[key], expected[f"output_{key}"], atol=1e-5)


def test_the_base_model_gives_tensorflows_outputs(tmp_path):
    report = convert(REMBERT, tmp_path)
    assert report.plan.architecture == "RemBertModel"
    assert any(note.startswith("hidden_act = gelu, the exact one") for note in report.notes)
    check_outputs(tmp_path)


def test_the_head_of_pretraining_is_left_out_with_the_reason(tmp_path):
    report = convert(REMBERT, tmp_path / "out")
    reasons = {n: why for n, why in report.plan.dropped.items() if "no public code" in why}
    assert reasons.keys() == {
        name
        for name in variables()
        if re.match("cls/|bert/embeddings/output_embedding", name) and "adam" not in name
    }
    for architecture in ("RemBertForMaskedLM", "RemBertForCausalLM"):
        with pytest.raises(tfreader.PlanError, match="no public code tells"):
            convert(REMBERT, tmp_path / "other", architecture=architecture)


def test_without_a_config_the_number_of_heads_is_asked_for(tmp_path):
    with pytest.raises(tfreader.ConfigError, match="num_attention_heads, which no shape tells"):
        convert(REMBERT, tmp_path / "out", config={})
    convert(REMBERT, tmp_path / "out", config={}, overrides={"num_attention_heads": 3})
    check_outputs(tmp_path / "out")


def test_embeddings_as_wide_as_the_layers_are_mapped_too(tmp_path):
    tensors = {
        name: np.tile(value, [1 + (size == 12) for size in value.shape]) if value.shape else value
        for name, value in variables().items()
    }
    prefix = written(tmp_path / "in", tensors)
    report = convert(prefix, tmp_path / "out", config={}, overrides={"num_attention_heads": 3})
    assert report.plan.family.model_type == "rembert"
    assert report.plan.config["input_embedding_size"] == 24


@pytest.mark.parametrize(
    ("scope", "architecture"),
    [("", "RemBertForSequenceClassification"), ("cls/squad/", "RemBertForQuestionAnswering")],
)
def test_heads_of_fine_tuning_are_kept(scope, architecture, tmp_path):
    head = {
        f"{scope}output_weights": np.ones((2, 24), "f4"),
        f"{scope}output_bias": np.ones(2, "f4"),
    }
    report = convert(written(tmp_path / "in", variables() | head), tmp_path / "out")
    assert report.plan.architecture == architecture
    check_outputs(tmp_path / "out", architecture)


def test_a_head_of_a_common_name_beside_that_of_pretraining(tmp_path):
    head = {"my_cls/dense/kernel": np.ones((24, 3), "f4"), "my_cls/dense/bias": np.ones(3, "f4")}
    report = convert(written(tmp_path / "in", variables() | head), tmp_path / "out")
    assert report.plan.architecture == "RemBertForSequenceClassification"
    assert any("my_cls/dense/kernel: taken for a classifier" in note for note in report.notes)


@pytest.mark.parametrize(
    "name",
    ["bert/encoder/layer_0/attention/cls_gate", "bert/cls_embedding", "cls/own", "my_cls/scale"],
)
def test_no_variable_is_left_out_for_its_name_alone(name, tmp_path):
    prefix = written(tmp_path / "in", variables() | {name: np.ones(24, "f4")})
    with pytest.raises(tfreader.PlanError, match=f"that no rule knows: {name}"):
        convert(prefix, tmp_path / "out")


@pytest.mark.parametrize("other", ["bert", "albert"])
def test_it_is_told_from_its_kin(other, tmp_path):
    with pytest.raises(tfreader.PlanError, match="variables are rembert: is --model_type"):
        convert(REMBERT, tmp_path / "out", other)


def test_narrow_embeddings_without_positions_are_no_rembert(tmp_path):
    tensors = {n: v for n, v in variables().items() if "position_embeddings" not in n}
    prefix = written(tmp_path / "in", tensors)
    with pytest.raises(tfreader.PlanError) as error:
        convert(prefix, tmp_path / "out")
    assert "rembert" not in str(error.value).partition("Known:")[0].replace(str(tmp_path), "")


def test_the_sentencepiece_model_is_kept(tmp_path):
    pieces = ["<unk>", "[CLS]", "[SEP]", "▁A", "▁b", "C"]
    model = b""
    for piece in pieces:
        inner = b"\x0a" + bytes([len(piece.encode())]) + piece.encode()
        model += b"\x0a" + bytes([len(inner)]) + inner
    prefix = written(tmp_path / "in", variables())
    (tmp_path / "in" / "sentencepiece.model").write_bytes(model)
    convert(prefix, tmp_path / "out")
    assert (tmp_path / "out" / "sentencepiece.model").read_bytes() == model
    settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "RemBertTokenizer"
    assert settings["do_lower_case"] is False


def test_rules_are_printed(tmp_path):
    printed = CliRunner().invoke(main, ["rules", "rembert"])
    (tmp_path / "rules.toml").write_text(printed.stdout)
    expected = load_state_dict(REMBERT)
    found = load_state_dict(REMBERT, rules=tmp_path / "rules.toml", architecture="RemBertModel")
    assert found.keys() == expected.keys()
    assert all(found[name].equal(expected[name]) for name in expected)
