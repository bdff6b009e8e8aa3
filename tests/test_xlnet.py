"""Variables by the original's names, with random values: their way into transformers' XLNet."""

from __future__ import annotations

import json

import numpy as np
import pytest
import transformers
from bundle_writer import write_bundle
from safetensors.numpy import load_file

import tfreader
from tfreader.mapping import convert

LAYERS, HIDDEN, HEADS, INNER, WORDS = 2, 12, 3, 20, 17
CONFIG = {
    "d_head": HIDDEN // HEADS,
    "d_inner": INNER,
    "d_model": HIDDEN,
    "ff_activation": "gelu",
    "n_head": HEADS,
    "n_layer": LAYERS,
    "n_token": WORDS,
    "untie_r": True,
}


def variables(untie_r: bool = True) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)

    def values(*shape: int) -> np.ndarray:
        return random.normal(size=shape).astype(np.float32)

    head = (HEADS, HIDDEN // HEADS)
    found = {"word_embedding/lookup_table": values(WORDS, HIDDEN)}
    for name in ("r_w_bias", "r_r_bias", "r_s_bias"):
        found[name] = values(LAYERS, *head) if untie_r else values(*head)
    found["seg_embed"] = values(LAYERS, 2, *head)
    for i in range(LAYERS):
        layer = f"layer_{i}"
        for name in "qkvor":
            found[f"{layer}/rel_attn/{name}/kernel"] = values(HIDDEN, *head)
        for scope in ("rel_attn", "ff"):
            found[f"{layer}/{scope}/LayerNorm/gamma"] = values(HIDDEN)
            found[f"{layer}/{scope}/LayerNorm/beta"] = values(HIDDEN)
        found[f"{layer}/ff/layer_1/kernel"] = values(HIDDEN, INNER)
        found[f"{layer}/ff/layer_1/bias"] = values(INNER)
        found[f"{layer}/ff/layer_2/kernel"] = values(INNER, HIDDEN)
        found[f"{layer}/ff/layer_2/bias"] = values(HIDDEN)
    return {f"model/transformer/{name}": value for name, value in found.items()}


def dense(scope: str, inputs: int, outputs: int) -> dict[str, np.ndarray]:
    kernel = np.arange(inputs * outputs, dtype=np.float32).reshape(inputs, outputs)
    return {f"{scope}/kernel": kernel, f"{scope}/bias": np.ones(outputs, np.float32)}


SUMMARY = dense("model/sequnece_summary/summary", HIDDEN, HIDDEN)
MNLI = dense("model/classification_mnli/logit", HIDDEN, 3)
STSB = dense("model/regression_sts-b/logit", HIDDEN, 1)
NORM = {f"end_logits/LayerNorm/{part}": np.ones(HIDDEN, np.float32) for part in ("gamma", "beta")}
LM = {
    "model/lm_loss/bias": np.ones(WORDS, np.float32),
    "model/transformer/mask_emb/mask_emb": np.ones((1, 1, HIDDEN), np.float32),
}
SQUAD = {
    **dense("start_logits/dense", HIDDEN, 1),
    **dense("end_logits/dense_0", 2 * HIDDEN, HIDDEN),
    **NORM,
    **dense("end_logits/dense_1", HIDDEN, 1),
    **dense("answer_class/dense_0", 2 * HIDDEN, HIDDEN),
    "answer_class/dense_1/kernel": np.ones((HIDDEN, 1), np.float32),
}


@pytest.mark.parametrize("untie_r", [True, False])
@pytest.mark.parametrize(
    ("head", "architecture"),
    [
        (LM, "XLNetLMHeadModel"),
        (SUMMARY | MNLI, "XLNetForSequenceClassification"),
        (SUMMARY | STSB, "XLNetForSequenceClassification"),
        (SUMMARY | dense("logits/dense", HIDDEN, 1), "XLNetForMultipleChoice"),
        (SQUAD, "XLNetForQuestionAnswering"),
    ],
)
def test_every_head_fills_its_class(head, architecture, untie_r, tmp_path):
    """The old converter lost all of them but regression."""
    write_bundle(tmp_path / "model.ckpt", variables(untie_r) | head)
    config = CONFIG | {"untie_r": untie_r}
    report = convert(tmp_path / "model.ckpt", tmp_path / "out", config=config)
    assert report.plan.architecture == architecture
    model_class = getattr(transformers, architecture)
    _, info = model_class.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())


def test_values_go_where_they_belong(tmp_path):
    tensors = variables() | SUMMARY | MNLI
    write_bundle(tmp_path / "model.ckpt", tensors)
    report = convert(tmp_path / "model.ckpt", tmp_path / "out", config=CONFIG)
    out = load_file(tmp_path / "out" / "model.safetensors")
    prefix = "model/transformer/"
    for i in range(LAYERS):
        layer = f"transformer.layer.{i}"
        for name in ("r_w_bias", "r_r_bias", "r_s_bias", "seg_embed"):
            expected = tensors[prefix + name][i]
            np.testing.assert_array_equal(out[f"{layer}.rel_attn.{name}"], expected)
        kernel = tensors[f"{prefix}layer_{i}/rel_attn/o/kernel"]
        np.testing.assert_array_equal(out[f"{layer}.rel_attn.o"], kernel)
        kernel = tensors[f"{prefix}layer_{i}/ff/layer_1/kernel"]
        np.testing.assert_array_equal(out[f"{layer}.ff.layer_1.weight"], kernel.T)
    assert not out["transformer.mask_emb"].any()
    assert any("mask_emb: filled with zeros" in note for note in report.notes)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["ff_activation"] == "gelu_new"  # the original's gelu is the tanh form
    assert config["finetuning_task"] == "mnli"
    assert len(config["id2label"]) == 3


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"n_layer": 3}, "n_layer = 3 .* has 2"),
        ({"untie_r": False}, "untie_r = False .* tell True"),
        ({"n_token": 99}, "vocab_size = 99 .* has 17"),
        ({"ff_activation": "swish"}, "knows only gelu and relu"),
        ({"d_model": 13, "hidden_size": 12}, "two names of one size"),
    ],
)
def test_a_config_of_another_model_is_refused(change, problem, tmp_path):
    write_bundle(tmp_path / "model.ckpt", variables() | LM)
    with pytest.raises(tfreader.TFReaderError, match=problem):
        convert(tmp_path / "model.ckpt", tmp_path / "out", config=CONFIG | change)
    assert not (tmp_path / "out").exists()


def test_of_several_tasks_one_is_chosen(tmp_path):
    write_bundle(tmp_path / "model.ckpt", variables() | SUMMARY | MNLI | STSB)
    with pytest.raises(tfreader.ConfigError, match="mnli, sts-b; choose with"):
        convert(tmp_path / "model.ckpt", tmp_path / "out", config=CONFIG)
    report = convert(
        tmp_path / "model.ckpt", tmp_path / "out", config=CONFIG, finetuning_task_name="sts-b"
    )
    assert len(report.plan.config["id2label"]) == 1
    reason = report.plan.dropped["model/classification_mnli/logit/kernel"]
    assert reason == "head of another task than sts-b"
