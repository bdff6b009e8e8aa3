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

MOBILE = DATA / "mobilebert"
PRETRAINING, WORDS = "MobileBertForPreTraining", "MobileBertForMaskedLM"
ORDER, TEXTS = "MobileBertForNextSentencePrediction", "MobileBertForSequenceClassification"
ANSWERS, BASE = "MobileBertForQuestionAnswering", "MobileBertModel"
FORM = {
    "classifier_activation": False,
    "embedding_size": 6,
    "hidden_act": "relu",
    "intra_bottleneck_size": 8,
    "key_query_shared_bottleneck": True,
    "normalization_type": "no_norm",
    "num_feedforward_networks": 3,
    "trigram_input": True,
    "use_bottleneck": True,
    "use_bottleneck_attention": False,
}


def variables(name):
    with tfreader.open(MOBILE / name) as checkpoint:
        return {variable: checkpoint[variable] for variable in checkpoint}


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def original(name, **changed):
    return json.loads((MOBILE / name / "bert_config.json").read_text()) | changed


def written(folder, tensors, name="pretraining", **changed):
    folder.mkdir(exist_ok=True)
    (folder / "bert_config.json").write_text(json.dumps(original(name, **changed)))
    return write_bundle(folder / "model.ckpt", tensors)


def plan_of(source, **options):
    with tfreader.open(source) as checkpoint:
        return make_plan(checkpoint, **options)


def check_outputs(output, name, architecture, eps=None):
    """The model loads without a key too few or too many, and computes what TensorFlow did.

    `eps` is that of all its norms, where transformers' class has another in some.
    """
    model, info = getattr(transformers, architecture).from_pretrained(
        output, output_loading_info=True
    )
    assert not any(info.values())
    for module in model.modules():
        if eps is not None and isinstance(module, torch.nn.LayerNorm):
            module.eps = eps
    expected = np.load(MOBILE / name / "forward.npz")
    inputs = {key: torch.from_numpy(expected[key]) for key in expected if "." not in key}
    with torch.no_grad():
        outputs = model.eval()(**inputs)
    keys = [key for key in expected if key.startswith(f"{architecture}.")]
    assert keys
    for key in keys:
        np.testing.assert_allclose(outputs[key.partition(".")[2]], expected[key], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "architecture", "chosen"),
    [
        ("pretraining", PRETRAINING, None),  # the released form
        ("pretraining", WORDS, WORDS),
        ("pretraining", ORDER, ORDER),
        ("pretraining", BASE, BASE),
        ("classifier", TEXTS, None),  # one bottleneck for all, layer norms
        ("squad", ANSWERS, None),  # no bottleneck, no trigrams, relu6
        ("distilled", WORDS, None),  # embeddings as wide as layers
    ],
)
def test_every_form_gives_tensorflows_outputs(name, architecture, chosen, tmp_path):
    report = convert(MOBILE / name, tmp_path, architecture=chosen)
    assert report.plan.family.model_type == "mobilebert"
    assert report.plan.architecture == architecture
    has_norms = report.plan.config["normalization_type"] == "layer_norm"
    check_outputs(tmp_path, name, architecture, 1e-12 if has_norms else None)


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("pretraining", {}),
        (
            "classifier",
            {
                "classifier_activation": True,
                "hidden_act": "gelu_new",
                "key_query_shared_bottleneck": False,
                "normalization_type": "layer_norm",
                "num_feedforward_networks": 2,
                "use_bottleneck_attention": True,
            },
        ),
        (
            "squad",
            {
                "classifier_activation": True,
                "hidden_act": "relu6",
                "intra_bottleneck_size": 12,
                "key_query_shared_bottleneck": False,
                "num_feedforward_networks": 1,
                "trigram_input": False,
                "use_bottleneck": False,
            },
        ),
        (
            "distilled",
            {
                "classifier_activation": True,
                "embedding_size": 12,
                "hidden_act": "gelu_new",
                "normalization_type": "layer_norm",
                "num_feedforward_networks": 1,
                "trigram_input": False,
            },
        ),
    ],
)
def test_all_keys_are_written_with_the_originals_defaults(name, changed):
    plan = plan_of(MOBILE / name)
    assert {key: plan.config[key] for key in FORM} == FORM | changed
    assert plan.config["layer_norm_eps"] == (1e-6 if name == "distilled" else 1e-12)
    assert plan.config["hidden_dropout_prob"] == (0.0 if name == "pretraining" else 0.1)


@pytest.mark.parametrize("name", ["pretraining", "classifier", "squad", "distilled"])
def test_without_a_config_the_variables_tell_the_form_and_the_rest_is_asked_for(name, tmp_path):
    tensors = variables(name)
    if name == "squad":  # whose projection alone tells it from a BERT
        assert "bert/embeddings/embedding_transformation/kernel" in tensors
    prefix = write_bundle(tmp_path / "model.ckpt", tensors)
    command = ["convert", "--tf_checkpoint", prefix, "--pytorch_dump_output", str(tmp_path / "out")]
    refused = CliRunner().invoke(main, command)
    assert refused.exit_code == 1
    wanted = "--set num_attention_heads=VALUE --set hidden_act=VALUE"
    assert refused.output.strip().endswith(wanted)
    expected = plan_of(MOBILE / name)
    act = expected.config["hidden_act"]
    given = ["--set", "num_attention_heads=2", "--set", f"hidden_act={act}"]
    assert CliRunner().invoke(main, command + given).exit_code == 0
    found = config_of(tmp_path / "out")
    assert all(found[key] == expected.config[key] for key in FORM)


def test_a_bottleneck_as_wide_as_the_layers_leaves_its_kind_open(tmp_path):
    tensors = variables("classifier")
    tensors = {name: value for name, value in tensors.items() if "bottleneck" not in name}
    wide = np.ones((12, 12), np.float32)
    for layer in ("bert/encoder/layer_0", "bert/encoder/layer_1"):
        for scope in (f"{layer}/bottleneck/input", f"{layer}/output/bottleneck"):
            tensors[f"{scope}/dense/kernel"] = wide
            for name in ("dense/bias", "LayerNorm/gamma", "LayerNorm/beta"):
                tensors[f"{scope}/{name}"] = wide[0]
        for name in tensors:
            if name.startswith(layer) and "bottleneck" not in name:
                shape = (12 if size == 8 else size for size in tensors[name].shape)
                tensors[name] = np.ones(tuple(shape), np.float32)
    prefix = write_bundle(tmp_path / "model.ckpt", tensors)
    options = {"num_attention_heads": 2, "hidden_act": "relu"}
    with pytest.raises(tfreader.ConfigError, match="use_bottleneck_attention=VALUE"):
        convert(prefix, tmp_path / "out", overrides=options)
    for kind in (True, False):
        overrides = options | {"use_bottleneck_attention": kind}
        convert(prefix, tmp_path / str(kind), overrides=overrides)
        _, info = transformers.MobileBertForSequenceClassification.from_pretrained(
            tmp_path / str(kind), output_loading_info=True
        )
        assert not any(info.values())


def test_a_key_without_a_say_makes_no_layers(tmp_path):
    """use_bottleneck_attention goes before it in the original, not in transformers' class."""
    config = original("classifier", key_query_shared_bottleneck=True)
    convert(MOBILE / "classifier", tmp_path, config=config)
    assert config_of(tmp_path)["key_query_shared_bottleneck"] is False
    check_outputs(tmp_path, "classifier", TEXTS, 1e-12)


def test_the_student_is_told_from_its_teacher(tmp_path):
    found = load_state_dict(MOBILE / "distilled")
    tensors = variables("distilled")
    words = found["mobilebert.embeddings.word_embeddings.weight"]
    assert np.array_equal(words, tensors["bert/embeddings/word_embeddings"])
    assert found["cls.predictions.dense.weight"].shape == (0, 20)
    dropped = plan_of(MOBILE / "distilled").dropped
    assert "--scope teacher" in dropped["teacher/bert/embeddings/word_embeddings"]
    assert dropped["hidden_distill_0/LayerNorm/gamma"] == "of the losses of distillation"
    config = MOBILE / "distilled" / "teacher_config.json"
    options = {"hidden_act": "gelu_new"}
    convert(MOBILE / "distilled", tmp_path, scope="teacher", config=config, overrides=options)
    check_outputs(tmp_path, "distilled", "BertForMaskedLM")


def test_below_a_modules_scope(tmp_path):
    tensors = {
        f"module/{name}" if name.startswith("bert/") else name: value
        for name, value in variables("squad").items()
    }
    convert(written(tmp_path / "in", tensors, "squad"), tmp_path / "out")
    check_outputs(tmp_path / "out", "squad", ANSWERS)


def test_what_is_bert_in_all_but_its_config_is_one_by_name_alone(tmp_path):
    """Without any of MobileBERT's own, BERT's class computes the same."""
    tensors = {
        name.removeprefix("teacher/"): value
        for name, value in variables("distilled").items()
        if name.startswith("teacher/")
    }
    prefix = write_bundle(tmp_path / "model.ckpt", tensors)
    config = json.loads((MOBILE / "distilled" / "teacher_config.json").read_text())
    assert plan_of(prefix, config=config).family.model_type == "bert"
    plan = plan_of(prefix, model_type="mobilebert", config=config)
    assert plan.architecture == WORDS
    assert plan.config["use_bottleneck"] is False
    with pytest.raises(tfreader.ConfigError, match="--model_type mobilebert"):
        plan_of(prefix, config=config | {"classifier_activation": False})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"trigram_input": False}, "trigram_input = False .* tell True"),
        ({"use_bottleneck": False}, "use_bottleneck = False"),
        ({"num_feedforward_networks": 4}, "num_feedforward_networks = 4 .* tell 3"),
        ({"normalization_type": "layer_norm"}, "'layer_norm' .* tell 'no_norm'"),
        ({"normalization_type": "batch_norm"}, "known are layer_norm, no_norm, manual"),
        ({"classifier_activation": True}, "mobilebert.pooler.dense"),
        ({"intra_bottleneck_size": 10}, "intra_bottleneck_size = 10"),
        ({"embedding_size": 8}, "embedding_size = 8"),
        ({"num_attention_heads": 3}, "8 is not a multiple of num_attention_heads = 3"),
        ({"hidden_act": "mish"}, "known are .*relu6"),
        ({"rescale_embedding": True}, "no conversion is right"),
        ({"use_botleneck": True}, "is 'use_bottleneck' meant"),
    ],
)
def test_a_config_of_another_model_is_refused(changed, message, tmp_path):
    with pytest.raises((tfreader.ConfigError, tfreader.PlanError), match=message):
        plan_of(MOBILE / "pretraining", config=original("pretraining", **changed))


def test_a_bottleneck_without_narrow_queries_is_refused(tmp_path):
    tensors = variables("classifier")
    for layer in range(2):
        for name in ("query", "key", "value"):
            kernel = f"bert/encoder/layer_{layer}/attention/self/{name}/kernel"
            tensors[kernel] = np.ones((12, 8), np.float32)
    with pytest.raises(tfreader.PlanError, match=r"\[12, 8\], as in the teacher"):
        plan_of(written(tmp_path, tensors, "classifier", use_bottleneck_attention=False))


def test_training_for_quantization_is_refused(tmp_path):
    scope = "bert/encoder/layer_0/output/dense/MobileBertActFakeQuantWithMinMaxVars"
    tensors = variables("squad") | {f"{scope}/min": np.float32(-6)}
    with pytest.raises(tfreader.PlanError, match="use_quantized_training"):
        plan_of(written(tmp_path, tensors, "squad"))


def test_what_is_missing_is_named(tmp_path):
    tensors = variables("pretraining")
    for name, tensor in (
        ("bert/encoder/layer_1/ffn_layer_1/output/dense/bias", "layer.1.ffn.1.output.dense.bias"),
        ("cls/predictions/extra_output_weights", "cls.predictions.dense.weight"),
    ):
        with pytest.raises(tfreader.PlanError, match=f"{tensor} .from"):
            plan_of(written(tmp_path, {n: v for n, v in tensors.items() if n != name}))


def test_other_classes_for_the_same_variables():
    plan = plan_of(MOBILE / "classifier", architecture="MobileBertForTokenClassification")
    assert len(plan.config["id2label"]) == 3
    with pytest.raises(tfreader.ConfigError, match="scores each choice with one row"):
        plan_of(MOBILE / "classifier", architecture="MobileBertForMultipleChoice")


def test_what_transformers_computes_otherwise_is_said():
    said = "\n".join(plan_of(MOBILE / "classifier").notes)
    assert "3e-03 off" in said and "1.6e-04 off" in said
    assert "1.6e-04" not in "\n".join(plan_of(MOBILE / "pretraining").notes)


def test_hugging_faces_own_config_is_taken_as_it_is():
    theirs = transformers.MobileBertConfig(**original("classifier") | {"hidden_act": "gelu"})
    with pytest.raises(tfreader.PlanError, match="num_feedforward|normalization_type"):
        plan_of(MOBILE / "classifier", config=theirs.to_dict())
    form = plan_of(MOBILE / "classifier").config
    theirs = transformers.MobileBertConfig(**form | {"hidden_act": "gelu"}).to_dict()
    plan = plan_of(MOBILE / "classifier", config=theirs)
    assert plan.config["hidden_act"] == "gelu"
    assert any("add --set hidden_act=gelu_new" in note for note in plan.notes)
    assert "true_hidden_size" not in plan.config
