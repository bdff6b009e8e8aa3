"""The same BERT under the Model Garden's names must become the same state dict."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from bundle_writer import write_bundle
from conftest import BERT

import tfreader
from tfreader.mapping import load_state_dict, make_plan

HEADS, SIZE, HIDDEN, LAYERS = 3, 8, 24, 2
NAMES = (  # of the original, and in both of the Garden's layouts
    ("embeddings/word_embeddings", "{0}/embeddings", "masked_lm/embedding_table"),
    ("embeddings/position_embeddings", "{1}/embeddings", "_position_embedding_layer/embeddings"),
    ("embeddings/token_type_embeddings", "{2}/embeddings", "_type_embedding_layer/embeddings"),
    ("embeddings/LayerNorm", "{3}", "_embedding_norm_layer"),
    ("attention/self/(query|key|value)", r"_attention_layer/_\1_dense", None),
    ("attention/output/dense", "_attention_output_dense", "_attention_layer/_output_dense"),
    ("attention/output/LayerNorm", "_attention_layer_norm", None),
    ("intermediate/dense", "_intermediate_dense", None),
    ("output/dense", "_output_dense", None),
    ("output/LayerNorm", "_output_layer_norm", None),
    ("pooler/dense", "{6}", "_pooler_layer"),
    ("predictions/transform/dense", None, "masked_lm/dense"),
    ("predictions/transform/LayerNorm", None, "masked_lm/layer_norm"),
    ("predictions/output_bias", None, "masked_lm/output_bias/bias"),
)


def garden(layout: int) -> dict[str, np.ndarray]:
    """The bundled BERT in the older (0) or the newer (1) layout."""
    found = {}
    with tfreader.open(BERT) as checkpoint:
        for name in checkpoint:
            match = re.fullmatch(
                r"(?:bert|cls)/(?:encoder/layer_(?P<layer>\d+)/)?(?P<rest>.*?)"
                r"(?P<part>/(?:kernel|bias|gamma|beta))?",
                name,
            )
            if match is None:
                continue
            for original, older, newer in NAMES:
                target = older if layout == 0 or newer is None else newer
                if target is None or not re.fullmatch(original, match["rest"]):
                    continue
                target = re.sub(r"\{(\d)\}", r"layer_with_weights-\1", target)
                spelled = re.sub(original, target, match["rest"]) + (match["part"] or "")
                if match["layer"]:
                    layer = int(match["layer"])
                    scopes = (f"layer_with_weights-{4 + layer}", f"_transformer_layers/{layer}")
                    spelled = f"{scopes[layout]}/{spelled}"
                root = "model/" if layout == 0 else "encoder/"
                if spelled.startswith("masked_lm"):
                    root = ""
                found[root + spelled] = apart(match["rest"], checkpoint[name])
    return found


def apart(name: str, values: np.ndarray) -> np.ndarray:
    """Attention kernels and biases with the heads as an axis."""
    if name.startswith("attention/self"):
        return values.reshape(*values.shape[:-1], HEADS, SIZE)
    if name == "attention/output/dense" and values.ndim == 2:
        return values.reshape(HEADS, SIZE, HIDDEN)
    return values


@pytest.mark.parametrize(("layout", "architecture"), [(0, "BertModel"), (1, "BertForMaskedLM")])
def test_both_layouts(layout, architecture, tmp_path):
    write_bundle(tmp_path / "bert_model.ckpt-1", garden(layout))
    with tfreader.open(tmp_path) as checkpoint:
        plan = make_plan(checkpoint)
    assert plan.architecture == architecture
    assert (plan.config["num_hidden_layers"], plan.config["num_attention_heads"]) == (LAYERS, HEADS)
    state_dict = load_state_dict(tmp_path)
    expected = load_state_dict(BERT, architecture=architecture)
    assert state_dict.keys() == expected.keys()
    assert all(torch.equal(state_dict[name], expected[name]) for name in expected)


def test_a_config_with_other_heads_is_refused(tmp_path):
    write_bundle(tmp_path / "model", garden(1))
    with pytest.raises(tfreader.PlanError, match="num_attention_heads = 4 .* tell 3"):
        load_state_dict(tmp_path / "model", config={"num_attention_heads": 4, "hidden_size": 24})


def test_a_missing_layer_is_noticed(tmp_path):
    tensors = {name: value for name, value in garden(1).items() if "_layers/1/_output" not in name}
    write_bundle(tmp_path / "model", tensors)
    with pytest.raises(tfreader.PlanError, match=r"encoder.layer.1.output"):
        load_state_dict(tmp_path / "model")


def test_a_head_that_the_encoder_lacks_is_refused(tmp_path):
    prefix = write_bundle(tmp_path / "ckpt-1", garden(0))
    with tfreader.open(prefix) as checkpoint, pytest.raises(tfreader.PlanError, match="classifier"):
        make_plan(checkpoint, architecture="BertForSequenceClassification")


def test_a_classifier_of_the_garden(tmp_path):
    head = {
        "model/sentence_prediction/logits/kernel": np.ones((HIDDEN, 3), np.float32),
        "model/sentence_prediction/logits/bias": np.ones(3, np.float32),
    }
    prefix = write_bundle(tmp_path / "ckpt-1", garden(0) | head)
    with tfreader.open(prefix) as checkpoint:
        plan = make_plan(checkpoint)
    assert plan.architecture == "BertForSequenceClassification"
    assert len(plan.config["id2label"]) == 3


def test_a_head_whose_name_tells_no_kind_is_asked_for(tmp_path):
    logits = "model/predictions/transform/logits"
    head = {
        f"{logits}/kernel": np.arange(2 * HIDDEN, dtype=np.float32).reshape(HIDDEN, 2),
        f"{logits}/bias": np.ones(2, np.float32),
    }
    prefix = write_bundle(tmp_path / "ckpt-1", garden(1) | head)
    with tfreader.open(prefix) as checkpoint, pytest.raises(tfreader.PlanError, match="Choose one"):
        make_plan(checkpoint)
    tensors = load_state_dict(prefix, architecture="BertForQuestionAnswering")
    np.testing.assert_array_equal(tensors["qa_outputs.weight"], head[f"{logits}/kernel"].T)


def test_a_layer_of_keras_beside_the_models_own_may_be_ignored_what_lies_in_one_not(tmp_path):
    beside = {"model/layer_with_weights-9/kernel": np.ones((HIDDEN, 3), np.float32)}
    prefix = write_bundle(tmp_path / "ckpt-1", garden(0) | beside)
    assert load_state_dict(prefix, ignore=["model/layer_with_weights-9/.*"])
    inside = {"model/layer_with_weights-4/adapter/kernel": np.ones((HIDDEN, 3), np.float32)}
    prefix = write_bundle(tmp_path / "ckpt-2", garden(0) | inside)
    with pytest.raises(tfreader.PlanError, match="inside the model"):
        load_state_dict(prefix, ignore=[".*/adapter/.*"])
