from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
from bundle_writer import write_bundle
from click.testing import CliRunner
from conftest import DATA

import tfreader
from tfreader.cli.main import main
from tfreader.mapping import convert, load_state_dict, make_plan

FUNNEL = DATA / "funnel"
PRETRAINING, ANSWERS = "FunnelForPreTraining", "FunnelForQuestionAnswering"
TEXTS, CHOICES = "FunnelForSequenceClassification", "FunnelForMultipleChoice"
WHOLE, ENCODER = "FunnelModel", "FunnelBaseModel"


def variables(name):
    with tfreader.open(FUNNEL / name) as checkpoint:
        return {variable: checkpoint[variable] for variable in checkpoint}


def written(folder, tensors, name="pretraining", **changed):
    """A checkpoint of these tensors, beside the config of one of the fixtures."""
    folder.mkdir(exist_ok=True)
    config = json.loads((FUNNEL / name / "net_config.json").read_text()) | changed
    (folder / "net_config.json").write_text(json.dumps(config))
    return write_bundle(folder / "model.ckpt", tensors)


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def outputs(folder, name, choices=False):
    """What the class computes, which loads without a key too few or too many."""
    (architecture,) = config_of(folder)["architectures"]
    model, info = getattr(transformers, architecture).from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(info.values())
    given = np.load(FUNNEL / name / "forward.npz")
    inputs = {key: torch.from_numpy(given[key]) for key in given if "." not in key}
    if choices:
        inputs = {key: value[None] for key, value in inputs.items()}
    with torch.no_grad():
        return model.eval()(**inputs), given


@pytest.mark.parametrize(
    ("name", "architecture"),
    [
        ("pretraining", PRETRAINING),  # with a repeated block, and heads of another size in sum
        ("pretraining", WHOLE),
        ("pretraining", ENCODER),
        ("squad", ANSWERS),  # pools keys and values too, by the maximum
    ],
)
def test_every_class_gives_tensorflows_outputs(name, architecture, tmp_path):
    chosen = None if architecture in (PRETRAINING, ANSWERS) else architecture
    report = convert(FUNNEL / name, tmp_path, architecture=chosen)
    assert report.plan.architecture == architecture
    found, expected = outputs(tmp_path, name)
    keys = [key for key in expected if key.startswith(f"{architecture}.")]
    assert keys
    for key in keys:
        np.testing.assert_allclose(found[key.partition(".")[2]], expected[key], atol=1e-5)


def test_the_config_says_what_the_original_computes(tmp_path):
    convert(FUNNEL / "pretraining", tmp_path)
    assert config_of(tmp_path) == {
        "activation_dropout": 0.0,
        "architectures": [PRETRAINING],
        "attention_dropout": 0.1,
        "attention_type": "factorized",
        "block_repeats": [1, 2, 1],
        "block_sizes": [2, 1, 1],
        "d_head": 4,
        "d_inner": 14,
        "d_model": 10,
        "dtype": "float32",
        "hidden_act": "gelu_new",
        "hidden_dropout": 0.1,
        "initializer_range": 0.1,
        "initializer_std": 0.02,
        "layer_norm_eps": 1e-08,
        "model_type": "funnel",
        "n_head": 3,
        "num_decoder_layers": 1,
        "pool_q_only": True,
        "pooling_type": "mean",
        "separate_cls": True,
        "truncate_seq": True,
        "vocab_size": 30,
    }


def test_what_lies_beside_the_model_is_left_out_for_a_reason():
    with tfreader.open(FUNNEL / "pretraining") as checkpoint:
        plan = make_plan(checkpoint)
    dropped = plan.dropped["generator/encoder/input_projection/kernel"]
    assert dropped == "the generator of pre-training"
    assert any("0.06 off" in note for note in plan.notes)


@pytest.mark.parametrize(("task", "labels"), [("mnli_matched", 3), ("sts-b", 1)])
def test_a_classifier_of_one_task_of_several_needs_no_decoder(task, labels, tmp_path):
    report = convert(FUNNEL / "fine_tuned", tmp_path, finetuning_task_name=task)
    assert report.plan.architecture == TEXTS
    found, expected = outputs(tmp_path, "fine_tuned")
    np.testing.assert_allclose(found.logits, expected[f"{task}.logits"], atol=1e-5)
    assert len(config_of(tmp_path)["id2label"]) == labels
    assert config_of(tmp_path)["num_decoder_layers"] == 2


def test_several_tasks_are_asked_for(tmp_path):
    for task in (None, "rte"):
        with pytest.raises(tfreader.ConfigError, match="mnli_matched, sts-b; choose with --fine"):
            convert(FUNNEL / "fine_tuned", tmp_path / "out", finetuning_task_name=task)


def of_task(task, scope=None):
    """The variables of one task, its head below another scope."""
    return {
        name.replace(f"model/{task}/logit/", scope or f"model/{task}/logit/"): value
        for name, value in variables("fine_tuned").items()
        if "/logit/" not in name or task in name
    }


def test_a_head_may_have_any_name(tmp_path):
    prefix = written(tmp_path / "in", of_task("mnli_matched", "model/my.task-2/logit/"))
    convert(prefix, tmp_path / "out")
    assert config_of(tmp_path / "out")["finetuning_task"] == "my.task-2"


def test_race_is_a_choice(tmp_path):
    prefix = written(tmp_path / "in", of_task("sts-b", "model/race/logits/"))
    report = convert(prefix, tmp_path / "out")
    assert report.plan.architecture == CHOICES
    found, expected = outputs(tmp_path / "out", "fine_tuned", choices=True)
    np.testing.assert_allclose(found.logits[0], expected["sts-b.logits"][:, 0], atol=1e-5)


def test_ends_that_depend_on_starts_are_left_out_and_said(tmp_path):
    tensors = variables("squad")
    for name in ("kernel", "bias"):
        tensors[f"model/end_logits/dense_1/{name}"] = tensors.pop(f"model/end_logits/dense/{name}")
        tensors[f"model/end_logits/dense_0/{name}"] = tensors["model/answer_class/dense_0/kernel"]
        tensors[f"model/end_logits/layer_norm/{name}"] = np.ones(10, np.float32)
    prefix = written(tmp_path / "in", tensors, "squad")
    report = convert(prefix, tmp_path / "out")
    assert report.plan.architecture == WHOLE
    assert any("conditional_end" in note and "FunnelModel" in note for note in report.notes)
    with pytest.raises(tfreader.PlanError, match="depend on the starts"):
        convert(prefix, tmp_path / "other", architecture=ANSWERS)


def test_a_head_for_masked_words_is_left_out_and_said(tmp_path):
    tensors = {n: v for n, v in variables("pretraining").items() if "binary" not in n}
    size = np.ones(10, np.float32)
    tensors |= {f"model/lm_proj/dense/{n}": size for n in ("kernel", "bias")}
    tensors |= {f"model/lm_proj/layer_norm/{n}": size for n in ("gamma", "beta")}
    tensors["model/lm_loss/bias"] = np.ones(30, np.float32)
    report = convert(written(tmp_path / "in", tensors), tmp_path / "out")
    assert report.plan.architecture == WHOLE
    assert any("FunnelForMaskedLM lacks" in note for note in report.notes)
    with pytest.raises(tfreader.PlanError, match="a layer and a norm before the scores"):
        convert(tmp_path / "in", tmp_path / "other", architecture="FunnelForMaskedLM")


def asked(tensors, folder, architecture=None, **changed):
    with tfreader.open(written(folder, tensors, **changed)) as checkpoint:
        return make_plan(checkpoint, architecture=architecture)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"separate_cls": False}, "separate_cls = false: .* no conversion is right"),
        ({"d_embed": 12}, "d_embed = 12, d_model = 10"),
        ({"pooling_size": 4}, "pooling_size = 4"),
        ({"rel_attn_type": "null"}, 'rel_attn_type = "null"'),
        ({"block_size": "2_3"}, r"\[2, 3\] are 5 layers, but the checkpoint has 4 \(layer 0 to 3"),
        ({"block_size": "2_x2"}, "block_size = .2_x2., expected sizes"),
        ({"block_size": "0_4"}, "from 1 on"),
        ({"block_size": None}, "nothing in it tells"),
        ({"decoder_size": [2]}, r"decoder_size = \[2\]"),
        ({"decoder_size": "2"}, "num_decoder_layers = 2 .* tell 1"),
        ({"n_head": 4}, "n_head = 4"),
        ({"ff_activation": "swish"}, "known are gelu, relu, tanh"),
        ({"pooling_type": "min"}, 'pooling_type = "min"'),
        ({"dropatt": "much"}, "attention_dropout"),
        ({"separate_clz": True}, "is 'separate_cls' meant"),
    ],
)
def test_other_models_are_refused(changed, message, tmp_path):
    with pytest.raises((tfreader.ConfigError, tfreader.PlanError), match=message):
        asked(variables("pretraining"), tmp_path, **changed)


def test_variables_of_other_models_are_refused_whatever_the_config_says(tmp_path):
    for name in ("encoder/input_projection/kernel", "input/position_embedding/lookup_table"):
        tensors = variables("pretraining") | {f"model/{name}": np.ones((10, 10), np.float32)}
        with pytest.raises(tfreader.PlanError, match=f"{name}: .*no class of transformers"):
            asked(tensors, tmp_path)


@pytest.mark.parametrize(
    ("changed", "message", "right"),
    [
        ({"block_size": "2x2_1x2_1"}, r"block_repeats = \[2, 2, 1\]", ENCODER),
        ({"decoder_size": "1x3"}, "each layer of its decoder 3 times", ENCODER),
        ({"ff_activation": "relu"}, "gelu all the same", WHOLE),
    ],
)
def test_a_class_that_is_wrong_is_refused_with_one_that_is_right(changed, message, right, tmp_path):
    tensors = variables("pretraining")
    with pytest.raises((tfreader.ConfigError, tfreader.PlanError), match=message) as caught:
        asked(tensors, tmp_path, **changed)
    assert f"--architecture {right}" in str(caught.value)
    plan = asked(tensors, tmp_path, right, **changed)
    assert "decoder_size" not in plan.config


def test_one_block_has_no_decoder(tmp_path):
    tensors = {n: v for n, v in variables("pretraining").items() if "/decoder/" not in n}
    with pytest.raises(tfreader.PlanError, match="only one block: .*--architecture FunnelBase"):
        asked(tensors, tmp_path, block_size="4", decoder_size="0")
    headless = {n: v for n, v in tensors.items() if "binary" not in n}
    assert asked(headless, tmp_path, block_size="4", decoder_size="0").architecture == ENCODER


def test_a_decoder_that_is_not_there_is_missed(tmp_path):
    tensors = {n: v for n, v in variables("pretraining").items() if "/decoder/" not in n}
    with pytest.raises(tfreader.PlanError, match="funnel.decoder.layers.0"):
        asked(tensors, tmp_path)
    headless = {n: v for n, v in tensors.items() if "binary" not in n}
    assert asked(headless, tmp_path).architecture == ENCODER


def test_without_a_config_the_blocks_are_asked_for_and_the_rest_is_said(tmp_path):
    prefix = write_bundle(tmp_path / "model.ckpt", variables("pretraining"))
    command = ["convert", "--tf_checkpoint", prefix, "--pytorch_dump_output", str(tmp_path / "out")]
    refused = CliRunner().invoke(main, command)
    assert refused.exit_code == 1
    assert "its 4 layers" in refused.output
    assert "--set block_sizes=[4,4,4] --set block_repeats=[1,1,1]" in refused.output
    given = ["--set", "block_sizes=[2,1,1]", "--set", "block_repeats=[1,2,1]"]
    done = CliRunner().invoke(main, command + given)
    assert done.exit_code == 0
    assert all(key in done.output for key in ("pooling_type", "pool_q_only", "separate_cls"))
    found, expected = outputs(tmp_path / "out", "pretraining")
    np.testing.assert_allclose(found.logits, expected[f"{PRETRAINING}.logits"], atol=1e-5)


def test_hugging_faces_own_config_does_too(tmp_path):
    config = transformers.FunnelConfig(
        vocab_size=30,
        block_sizes=[2, 1, 1],
        block_repeats=[1, 2, 1],
        d_model=10,
        n_head=3,
        d_head=4,
        d_inner=14,
        num_decoder_layers=1,
    ).to_dict()
    report = convert(FUNNEL / "pretraining", tmp_path, config=config)
    assert report.plan.config["layer_norm_eps"] == 1e-9
    found, expected = outputs(tmp_path, "pretraining")
    np.testing.assert_allclose(found.logits, expected[f"{PRETRAINING}.logits"], atol=1e-5)


def test_the_tokenizer_is_of_the_vocabularys_name(tmp_path):
    report = convert(FUNNEL / "pretraining", tmp_path)
    assert any("do_lower_case = true, as the name of vocab.uncased.txt" in n for n in report.notes)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer("THE ofs")["input_ids"] == [2, 5, 6, 7, 3]


def test_rules_are_printed_for_a_checkpoints_blocks(tmp_path):
    printed = CliRunner().invoke(
        main, ["rules", "funnel", "--tf_checkpoint", str(FUNNEL / "pretraining")]
    )
    (tmp_path / "rules.toml").write_text(printed.stdout)
    expected = load_state_dict(FUNNEL / "pretraining")
    found = load_state_dict(FUNNEL / "pretraining", rules=tmp_path / "rules.toml")
    assert found.keys() == expected.keys()
    assert all(value.equal(found[name]) for name, value in expected.items())


def test_keys_of_the_originals_config_are_translated_where_they_are_set(tmp_path):
    prefix = written(tmp_path, variables("pretraining"))
    file = json.loads((tmp_path / "net_config.json").read_text())

    def made(architecture=ENCODER, **overrides):
        with tfreader.open(prefix) as checkpoint:
            return make_plan(checkpoint, architecture=architecture, overrides=overrides).config

    config = made(ff_activation="relu", dropout=0.25, init_std=0.5, rel_attn_type="rel_shift")
    assert (config["hidden_act"], config["attention_type"]) == ("relu", "relative_shift")
    assert (config["hidden_dropout"], config["initializer_std"]) == (0.25, 0.5)
    with pytest.raises(tfreader.TFReaderError, match="pooling_size = 4"):
        made(pooling_size=4)
    with pytest.raises(tfreader.TFReaderError, match="block_sizes = .9, 9. are 18 layers"):
        made(block_size="9_9")
    usual = made()
    (tmp_path / "net_config.json").unlink()
    alone = made(block_size=file["block_size"])
    assert {k: alone[k] for k in ("block_sizes", "block_repeats", "num_decoder_layers")} == {
        k: usual[k] for k in ("block_sizes", "block_repeats", "num_decoder_layers")
    }
