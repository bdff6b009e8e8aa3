from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from bundle_writer import write_bundle
from click.testing import CliRunner
from conftest import DATA
from transformers import BertGenerationDecoder, BertGenerationEncoder

import tfreader
from tfreader.cli.main import main
from tfreader.mapping import convert, load_state_dict

MODULES = DATA / "bert_generation"
CONFIG = json.loads((MODULES / "config.json").read_text())
ENCODER, DECODER = "BertGenerationEncoder", "BertGenerationDecoder"
NAMES = ["separate", "shared"]


def variables(name):
    with tfreader.open(MODULES / name / "variables" / "variables") as checkpoint:
        return {variable: checkpoint[variable] for variable in checkpoint}


@pytest.fixture
def module(tmp_path):
    """A copy of a module's folder, with a config where one is given."""

    def make(name, config=None):
        folder = tmp_path / name
        shutil.copytree(MODULES / name, folder)
        if config is not None:
            (folder / "config.json").write_text(json.dumps(config))
        return folder

    return make


def check_outputs(output, name, architecture):
    kind = {ENCODER: BertGenerationEncoder, DECODER: BertGenerationDecoder}[architecture]
    model, info = kind.from_pretrained(output, output_loading_info=True)
    assert not any(info.values())
    expected = {k: torch.from_numpy(v) for k, v in np.load(MODULES / name / "forward.npz").items()}
    mask = expected["attention_mask"]
    with torch.no_grad():
        if architecture == ENCODER:
            found = model.eval()(expected["input_ids"], attention_mask=mask).last_hidden_state
            is_word = mask.bool()
            np.testing.assert_allclose(found[is_word], expected["encoded"][is_word], atol=1e-5)
            return
        outputs = model.eval()(
            expected["decoder_ids"],
            encoder_hidden_states=expected["encoded"],
            encoder_attention_mask=mask,
            output_hidden_states=True,
        )
    np.testing.assert_allclose(outputs.hidden_states[-1], expected["decoded"], atol=1e-5)
    np.testing.assert_allclose(outputs.logits, expected["logits"], atol=1e-5)


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("architecture", [ENCODER, DECODER])
def test_either_stack_gives_tensorflows_outputs(name, architecture, module, tmp_path):
    report = convert(module(name, CONFIG), tmp_path / "out", architecture=architecture)
    assert report.plan.architecture == architecture
    check_outputs(tmp_path / "out", name, architecture)
    found, is_decoder = config_of(tmp_path / "out"), architecture == DECODER
    assert found["is_decoder"] is found["add_cross_attention"] is is_decoder
    filled = [note for note in report.notes if note.startswith("lm_head.bias: filled with zeros")]
    assert len(filled) == is_decoder


@pytest.mark.parametrize("name", NAMES)
def test_the_config_tells_which_stack_where_nobody_asks(name, module, tmp_path):
    is_one = CONFIG | {"is_decoder": True, "add_cross_attention": True}
    folder = module(name, is_one)
    assert convert(folder, tmp_path / "out").plan.architecture == DECODER
    check_outputs(tmp_path / "out", name, DECODER)
    report = convert(folder, tmp_path / "other", architecture=ENCODER)
    assert f"{ENCODER}: is_decoder and add_cross_attention = false, not as in the config" in [
        *report.notes
    ]
    check_outputs(tmp_path / "other", name, ENCODER)


@pytest.mark.parametrize("name", NAMES)
def test_without_a_config_the_heads_are_asked_for_and_the_other_stack_is_named(
    name, module, tmp_path
):
    folder = module(name)
    with pytest.raises(tfreader.ConfigError, match="num_attention_heads, which no shape tells"):
        convert(folder, tmp_path / "out")
    report = convert(folder, tmp_path / "out", overrides={"num_attention_heads": 3})
    check_outputs(tmp_path / "out", name, ENCODER)
    (said,) = (note for note in report.notes if note.startswith(f"{ENCODER} ("))
    assert f"fit {DECODER}; --architecture chooses another" in said


@pytest.mark.parametrize(
    ("architecture", "key", "value"),
    [(DECODER, "is_decoder", False), (ENCODER, "add_cross_attention", True)],
)
def test_a_class_of_the_other_kind_is_refused(architecture, key, value, module, tmp_path):
    folder = module("separate", CONFIG)
    said = f"{key} = {json.dumps(value)}: .*--set {key}={json.dumps(not value)}"
    with pytest.raises(tfreader.ConfigError, match=said):
        convert(folder, tmp_path / "out", architecture=architecture, overrides={key: value})


def test_a_decoder_without_its_attention_to_the_encoder_is_incomplete(module, tmp_path):
    tensors = variables("separate")
    del tensors["module/bert/decoder/layer_1/attention/encdec/value/kernel"]
    prefix = write_bundle(tmp_path / "model.ckpt", tensors)
    said = "layer.1.crossattention.self.value.weight"
    with pytest.raises(tfreader.PlanError, match=said):
        convert(prefix, tmp_path / "out", config=CONFIG, architecture=DECODER)
    convert(prefix, tmp_path / "out", config=CONFIG, architecture=ENCODER)
    check_outputs(tmp_path / "out", "separate", ENCODER)


def test_outside_of_a_module_and_with_training_state(tmp_path):
    tensors = {n.removeprefix("module/"): v for n, v in variables("separate").items()}
    tensors |= {f"{name}/adam_{slot}": v + 1 for name, v in tensors.items() for slot in "mv"}
    prefix = write_bundle(tmp_path / "model.ckpt", tensors | {"global_step": np.int64(3)})
    for architecture in (ENCODER, DECODER):
        output = tmp_path / architecture
        convert(prefix, output, config=CONFIG, architecture=architecture)
        check_outputs(output, "separate", architecture)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_told_from_bert(name, module, tmp_path):
    with pytest.raises(tfreader.PlanError, match="variables are bert-generation: is --model_type"):
        convert(module(name, CONFIG), tmp_path / "out", "bert")


def test_a_norm_before_the_attention_is_another_models(tmp_path):
    tensors = variables("separate")
    for leaf in ("gamma", "beta"):
        for stack in ("encoder", "decoder"):
            name = f"module/bert/{stack}/layer_0/attention/self/LayerNorm/{leaf}"
            tensors[name] = np.ones(24, "f4")
    prefix = write_bundle(tmp_path / "model.ckpt", tensors)
    with pytest.raises(tfreader.PlanError, match="no known family"):
        convert(prefix, tmp_path / "out")


def test_the_modules_sentencepiece_model_is_kept(module, tmp_path):
    pieces = ["<pad>", "</s>", "<s>", "▁a", "▁b"]
    model = b""
    for piece in pieces:
        inner = b"\x0a" + bytes([len(piece.encode())]) + piece.encode()
        model += b"\x0a" + bytes([len(inner)]) + inner
    folder = module("shared", CONFIG)
    (folder / "assets").mkdir()
    (folder / "assets" / "vocab.model").write_bytes(model)
    convert(folder, tmp_path / "out")
    assert (tmp_path / "out" / "spiece.model").read_bytes() == model
    settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "BertGenerationTokenizer"


@pytest.mark.parametrize("name", NAMES)
def test_rules_are_printed(name, module, tmp_path):
    run = CliRunner().invoke
    assert run(main, ["rules", "bert-generation"]).exit_code == 0
    folder = module(name, CONFIG)
    printed = run(main, ["rules", "bert-generation", "--tf_checkpoint", str(folder)])
    (tmp_path / "rules.toml").write_text(printed.stdout)
    for architecture in (ENCODER, DECODER):
        expected = load_state_dict(folder, architecture=architecture)
        is_one = dict.fromkeys(("is_decoder", "add_cross_attention"), architecture == DECODER)
        options = {"rules": tmp_path / "rules.toml", "overrides": is_one}
        found = load_state_dict(folder, architecture=architecture, **options)
        assert found.keys() == expected.keys()
        assert all(found[name].equal(expected[name]) for name in expected)
