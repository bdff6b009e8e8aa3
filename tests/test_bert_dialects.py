"""BERTs that other authors' code saved under names of its own."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from bundle_writer import write_bundle
from conftest import DATA

import tfreader
from tfreader.mapping import convert, load_rules, load_state_dict, make_plan

DIALECTS = DATA / "bert_dialects"
HIDDEN = 24  # of the bundled BERT


def largest_difference(output, folder):
    """Between what TensorFlow computed and the model that the newest transformers loads."""
    name = json.loads((output / "config.json").read_text())["architectures"][0]
    kind = getattr(transformers, name)
    model, info = kind.from_pretrained(output, output_loading_info=True)
    assert not info["unexpected_keys"]
    assert all("pooler" in key for key in info["missing_keys"])  # bert-for-tf2 has none
    stored = np.load(folder / "forward.npz")
    inputs = {key: torch.from_numpy(stored[key]) for key in stored if "output" not in key}
    with torch.no_grad():
        outputs = model.eval()(**inputs)
    return name, max(
        np.abs(outputs[key.removeprefix("output_")].numpy() - stored[key]).max()
        for key in stored
        if "output" in key
    )


@pytest.mark.parametrize(
    ("name", "architecture", "layout"),
    [
        ("bert4keras_pretraining", "BertForPreTraining", "bert (bert4keras)"),
        ("bert4keras_classifier", "BertForSequenceClassification", "bert (bert4keras)"),
        ("bert_for_tf2", "BertModel", "bert (bert-for-tf2)"),
        ("bert_for_tf2_shared", "BertModel", "bert (bert-for-tf2 layer_shared)"),
        ("bert_for_tf2_albert", "AlbertModel", "albert (bert-for-tf2)"),
    ],
)
def test_the_model_computes_what_tensorflow_did(tmp_path, name, architecture, layout):
    report = convert(DIALECTS / name, tmp_path / "out")
    assert any(f"model type {layout}, told by" in note for note in report.plan.notes)
    found, difference = largest_difference(tmp_path / "out", DIALECTS / name)
    assert found == architecture
    assert difference < 1e-5


def readable(folder):
    """The variables of an object-based checkpoint under the names of its session."""
    with tfreader.open(folder) as checkpoint:
        graph = checkpoint.object_graph
        return {graph.name(name): checkpoint[name] for name in checkpoint if name in graph}


def test_bert4keras_without_an_object_graph_goes_by_the_order_in_a_layer(tmp_path):
    # As a saver of the session writes it, in which another model was built before: higher numbers.
    tensors = {
        re.sub(
            r"/dense(?:_(\d+))?/", lambda match: f"/dense_{int(match[1] or 0) + 97}/", name
        ): value
        for name, value in readable(DIALECTS / "bert4keras_pretraining").items()
    }
    tensors = {re.sub(r"^([^/]+)/", r"\1_1/", name): value for name, value in tensors.items()}
    prefix = write_bundle(tmp_path / "model.ckpt", tensors)
    found = load_state_dict(prefix, "bert")
    expected = load_state_dict(DIALECTS / "bert4keras_pretraining")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_bert4keras_names_what_is_missing(tmp_path):
    tensors = readable(DIALECTS / "bert4keras_classifier")
    missing = "Transformer-1-MultiHeadSelfAttention/"
    tensors = {name: value for name, value in tensors.items() if missing not in name}
    prefix = write_bundle(tmp_path / "model.ckpt", tensors)
    with pytest.raises(
        tfreader.PlanError, match="from Transformer-1-MultiHeadSelfAttention/q_dense"
    ):
        load_state_dict(prefix, "bert")


@pytest.mark.parametrize("number", ["999999", "1" * 5000])
def test_layers_that_a_number_alone_declares_are_not_made(tmp_path, number):
    tensors = readable(DIALECTS / "bert4keras_classifier")
    far = f"Transformer-{number}-FeedForward/dense/kernel"
    prefix = write_bundle(tmp_path / "model.ckpt", tensors | {far: np.ones((6, 9), np.float32)})
    with pytest.raises(tfreader.PlanError, match="Transformer-"):
        load_state_dict(prefix, "bert")


def bundled(folder=DATA / "encoder"):
    with tfreader.open(folder) as checkpoint:
        return {name: checkpoint[name] for name in checkpoint}


def one_layer(tensors):
    """The bundled BERT with its layer 0 for all layers."""
    return {
        name.replace("layer_0", "layer_shared"): value
        for name, value in tensors.items()
        if "layer_1" not in name
    }


CONFIG = {"hidden_act": "gelu", "num_attention_heads": 3}


def test_a_shared_layer_is_copied_as_often_as_the_config_says(tmp_path):
    prefix = write_bundle(tmp_path / "model.ckpt", one_layer(bundled()))
    config = {**CONFIG, "num_hidden_layers": 3}
    with tfreader.open(prefix) as checkpoint:
        notes = make_plan(checkpoint, config=config).notes
    assert any("every layer gets a copy" in note for note in notes)
    tensors = load_state_dict(prefix, config=config)
    expected = load_state_dict(DATA / "encoder")
    layers = {name.split(".")[2] for name in tensors if ".layer." in name}
    assert layers == {"0", "1", "2"}
    for name, value in tensors.items():
        assert torch.equal(value, expected[re.sub(r"layer\.\d", "layer.0", name)])
    with pytest.raises(tfreader.ConfigError, match=r"layer_shared.*num_hidden_layers=N"):
        load_state_dict(prefix, config=CONFIG)


def test_word_embeddings_in_factors_are_refused_with_the_reason(tmp_path):
    tensors = one_layer(bundled())
    words = "bert/embeddings/word_embeddings"
    tensors[words + "_2"] = np.ones((5, HIDDEN), np.float32)
    tensors[words] = tensors[words][:, :5].copy()
    prefix = write_bundle(tmp_path / "model.ckpt", tensors)
    with pytest.raises(tfreader.PlanError, match=r"word_embeddings_2 \[5, 24\].*two factors"):
        load_state_dict(prefix, config={**CONFIG, "num_hidden_layers": 3})


@pytest.mark.parametrize("name", ["bert/embeddings/position_ids", "position_ids"])
@pytest.mark.parametrize("family", ["bert", "albert"])
def test_exported_buffers_are_left_out(tmp_path, family, name):
    tensors = bundled(DATA / ("encoder" if family == "bert" else "albert/hub"))
    config = DATA / (
        "encoder/bert_config.json" if family == "bert" else "albert/hub/albert_config.json"
    )
    before = load_state_dict(write_bundle(tmp_path / "before", tensors), config=config)
    tensors[name] = np.arange(32)[None]
    prefix = write_bundle(tmp_path / "model.ckpt", tensors)
    with tfreader.open(prefix) as checkpoint:
        plan = make_plan(checkpoint, config=config)
    assert "buffer of the PyTorch model" in plan.dropped[name]
    assert load_state_dict(prefix, config=config).keys() == before.keys()
    tensors[name] = tensors[name].astype(np.float32)
    prefix = write_bundle(tmp_path / "weights.ckpt", tensors)
    with pytest.raises(tfreader.PlanError, match="position_ids"):
        load_state_dict(prefix, config=config)


def extension(text, path):
    """The rules of an error's text behind `extends`."""
    family, _, rules = text.partition("\n")
    assert family == ' = "bert"'
    path.write_text(rules)
    return replace(load_rules(path), extends="bert")


LABELS = np.arange(5 * HIDDEN, dtype=np.float32).reshape(5, HIDDEN)
BIAS = np.arange(5, dtype=np.float32)


@pytest.mark.parametrize(
    ("weight", "bias", "value"),
    [
        ("dense/kernel", "dense/bias", LABELS.T),
        ("dense_12/kernel", "dense_12/bias", LABELS.T),
        ("classifier/kernel", "classifier/bias", LABELS.T),
        ("classifier/kernel", "classifier/bias", LABELS),  # PyTorch's, exported as it is
        ("model/logits/kernel", "model/logits/bias", LABELS.T),
        ("output/weights", "output/biases", LABELS.T),
        ("loss/output_weights", "loss/output_bias", LABELS),
        ("mnli/output_weights", "mnli/output_bias", LABELS),
    ],
)
def test_a_head_of_a_common_name(tmp_path, weight, bias, value):
    tensors = {**bundled(), weight: np.ascontiguousarray(value), bias: BIAS}
    prefix = write_bundle(tmp_path / "model.ckpt", tensors)
    with tfreader.open(prefix) as checkpoint:
        plan = make_plan(checkpoint, config=CONFIG)
    assert plan.architecture == "BertForSequenceClassification"
    assert len(plan.config["id2label"]) == 5
    assert any(note.startswith(f"{weight}: taken for a classifier's output") for note in plan.notes)
    found = load_state_dict(prefix, config=CONFIG)
    np.testing.assert_array_equal(found["classifier.weight"], LABELS)
    np.testing.assert_array_equal(found["classifier.bias"], BIAS)


@pytest.mark.parametrize(
    ("own", "others"),
    [
        ({"projection/kernel": LABELS.T, "projection/bias": BIAS}, {}),
        ({"logits/kernel": LABELS.T}, {}),  # no bias: filled
        (
            {"a/output_weights": LABELS, "a/output_bias": BIAS},
            {"b/output_weights": LABELS[:2], "b/output_bias": BIAS[:2]},
        ),
        (
            {"a/output_weights": LABELS, "a/output_bias": BIAS},
            {"it's/output_weights": LABELS[:2], "it's/output_bias": BIAS[:2]},
        ),
    ],
)
def test_a_head_that_is_not_told_apart_is_refused_with_what_takes_it(tmp_path, own, others):
    heads = {name: np.ascontiguousarray(value) for name, value in (own | others).items()}
    prefix = write_bundle(tmp_path / "model.ckpt", bundled() | heads)
    with pytest.raises(tfreader.PlanError) as caught:
        load_state_dict(prefix, config=CONFIG)
    said, _, text = str(caught.value).partition(":\nextends")
    assert f"If {next(iter(own))} is the model's head, pass --rules FILE" in said
    ignored = re.search("--ignore (.*), with", said)
    assert (ignored is not None) == bool(others)
    rules = extension(text, tmp_path / "rules.toml")
    ignore = shlex.split(ignored[1]) if ignored else []  # as a shell reads it
    found = load_state_dict(prefix, config=CONFIG, rules=rules, ignore=ignore)
    np.testing.assert_array_equal(found["classifier.weight"], LABELS)
    bias = BIAS if len(own) == 2 else np.zeros(5)
    np.testing.assert_array_equal(found["classifier.bias"], bias)


@pytest.mark.parametrize(
    ("architecture", "labels", "target"),
    [
        ("BertForQuestionAnswering", 2, "qa_outputs"),
        ("BertForTokenClassification", 5, "classifier"),
        ("BertForMultipleChoice", 1, "classifier"),
        ("BertForNextSentencePrediction", 2, "cls.seq_relationship"),
        ("BertForMultipleChoice", 5, None),
        ("BertModel", 5, None),
    ],
)
def test_what_is_printed_fits_the_class_asked_for_and_is_a_file_as_it_stands(
    tmp_path, architecture, labels, target
):
    rows = np.arange(labels * HIDDEN, dtype=np.float32).reshape(labels, HIDDEN)
    own = {"span/kernel": rows.T, "span/bias": BIAS[:labels]}
    own |= {"spare/kernel": np.ones((HIDDEN, 7), np.float32), "spare/bias": np.ones(7, np.float32)}
    prefix = write_bundle(tmp_path / "model.ckpt", bundled() | own)
    options = {"config": CONFIG, "architecture": architecture}
    with pytest.raises(tfreader.PlanError, match="no rule knows") as caught:
        load_state_dict(prefix, **options)
    said, extends, text = str(caught.value).partition("extends = ")
    if target is None:
        assert "is the model's head" not in said
        return
    rules = tmp_path / "rules.toml"
    rules.write_text(extends + text)
    ignore = re.findall("--ignore '(.*)'", said)
    found = load_state_dict(prefix, rules=rules, ignore=ignore, **options)
    np.testing.assert_array_equal(found[f"{target}.weight"], rows)


@pytest.mark.parametrize(
    "own",
    [
        {"dense/kernel": np.ones((HIDDEN, HIDDEN)), "dense/bias": np.ones(HIDDEN)},
        {"dense/kernel": np.ones((HIDDEN, 3)), "dense/bias": np.ones(4)},
        {"dense/kernel": np.ones((7, 3)), "dense/bias": np.ones(3)},
        {"bert/dense/kernel": np.ones((HIDDEN, 3)), "bert/dense/bias": np.ones(3)},
    ],
)
def test_what_may_be_no_head_is_not_taken_for_one(tmp_path, own):
    tensors = bundled() | {name: value.astype(np.float32) for name, value in own.items()}
    prefix = write_bundle(tmp_path / "model.ckpt", tensors)
    with pytest.raises(tfreader.PlanError, match="no rule knows"):
        load_state_dict(prefix, config=CONFIG)


@pytest.mark.parametrize(
    "own",
    [
        {"dense/kernel": np.ones((HIDDEN, HIDDEN)), "output_weights": LABELS, "output_bias": BIAS},
        {"dense/kernel": np.ones((HIDDEN, 7)), "dense_1/kernel": np.ones((7, 3))},
    ],
)
def test_layers_between_the_encoder_and_the_head_are_called_that(tmp_path, own):
    tensors = bundled() | {name: value.astype(np.float32) for name, value in own.items()}
    prefix = write_bundle(tmp_path / "model.ckpt", tensors)
    with pytest.raises(tfreader.PlanError, match="dense/kernel may stand between"):
        load_state_dict(prefix, config=CONFIG)


def test_a_pooler_of_the_users_own_is_told_how_to_map(tmp_path):
    tensors = readable(DIALECTS / "bert_for_tf2")
    tensors |= {
        "dense/kernel": np.full((6, 6), 2, np.float32),
        "dense/bias": np.full(6, 3, np.float32),
        "dense_1/kernel": np.full((6, 4), 4, np.float32),
        "dense_1/bias": np.full(4, 5, np.float32),
    }
    prefix = write_bundle(tmp_path / "model.ckpt", tensors)
    config = DIALECTS / "bert_for_tf2" / "bert_config.json"
    with pytest.raises(tfreader.PlanError, match="dense/kernel with tanh its pooler") as caught:
        load_state_dict(prefix, config=config)
    text = str(caught.value).partition(":\nextends")[2]
    rules = extension(text, tmp_path / "rules.toml")
    found = load_state_dict(prefix, config=config, rules=rules)
    assert found["bert.pooler.dense.weight"].unique() == 2
    assert found["classifier.weight"].shape == (4, 6)
    assert found["classifier.bias"].unique() == 5


@pytest.mark.parametrize("labels", [0, 3])
def test_a_pooler_beside_an_original_encoder_is_told_how_to_map(tmp_path, labels):
    tensors = {name: value for name, value in bundled().items() if "pooler" not in name}
    own = {
        "pooler/dense/kernel": np.full((HIDDEN, HIDDEN), 2),
        "pooler/dense/bias": np.ones(HIDDEN),
    }
    if labels:
        own |= {"dense/kernel": np.ones((HIDDEN, labels)), "dense/bias": np.ones(labels)}
        own |= {"crf/transitions": np.ones((labels, labels))}
    tensors |= {name: value.astype(np.float32) for name, value in own.items()}
    prefix = write_bundle(tmp_path / "model.ckpt", tensors)
    with pytest.raises(tfreader.PlanError, match="pooler/dense/kernel with tanh") as caught:
        load_state_dict(prefix, config=CONFIG)
    rules = extension(str(caught.value).partition(":\nextends")[2], tmp_path / "rules.toml")
    ignore = ["crf/.*"] if labels else []
    found = load_state_dict(prefix, config=CONFIG, rules=rules, ignore=ignore)
    name = "bert.pooler.dense.weight" if labels else "pooler.dense.weight"
    assert found[name].unique() == 2


def test_what_lies_in_a_layer_of_keras_is_inside_and_a_layer_beside_it_is_not(tmp_path):
    tensors = readable(DIALECTS / "bert4keras_classifier")
    tensors = {name: value for name, value in tensors.items() if not name.startswith("dense")}
    tensors |= {"head/kernel": np.ones((6, 3), np.float32)}
    prefix = write_bundle(tmp_path / "model.ckpt", tensors)
    assert load_state_dict(prefix, config=CONFIG, ignore=["head/.*"])
    tensors["Embedding-Norm/beta_dense/kernel"] = np.ones((6, 3), np.float32)
    prefix = write_bundle(tmp_path / "conditional.ckpt", tensors)
    with pytest.raises(tfreader.PlanError, match="beta_dense/kernel.*--ignore-weights"):
        load_state_dict(prefix, config=CONFIG, ignore=["head/.*", ".*beta_dense/.*"])


def test_a_head_of_a_common_name_may_be_that_of_the_class_asked_for(tmp_path):
    own = {"dense/kernel": np.ascontiguousarray(LABELS[:2].T), "dense/bias": BIAS[:2]}
    prefix = write_bundle(tmp_path / "model.ckpt", bundled() | own)
    options = {"config": CONFIG, "architecture": "BertForQuestionAnswering"}
    with pytest.raises(tfreader.PlanError, match="If dense/kernel is the model's head") as caught:
        load_state_dict(prefix, **options)
    rules = tmp_path / "rules.toml"
    rules.write_text("extends" + str(caught.value).partition("extends")[2])
    found = load_state_dict(prefix, rules=rules, **options)
    np.testing.assert_array_equal(found["qa_outputs.weight"], LABELS[:2])


def test_answers_to_questions_have_a_start_and_an_end(tmp_path):
    own = {"cls/squad/output_weights": LABELS, "cls/squad/output_bias": BIAS}
    prefix = write_bundle(tmp_path / "model.ckpt", bundled() | own)
    with pytest.raises(tfreader.ConfigError, match="2 rows; the checkpoint's head has 5"):
        load_state_dict(prefix, config=CONFIG)
