"""Rule files that extend a family: all that they add is of use, and the model that loads has it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import transformers
from bundle_writer import write_bundle
from conftest import BERT, DATA

import tfreader
from tfreader.mapping import convert

CONFIG = json.loads((BERT / "bert_config.json").read_text())
HIDDEN = CONFIG["hidden_size"]
NORMAL = np.random.default_rng(3).standard_normal
HEAD = {
    "span/kernel": NORMAL((HIDDEN, 3)).astype("f4"),
    "span/bias": NORMAL(3).astype("f4"),
}
POOLER = {
    "pool/kernel": NORMAL((HIDDEN, HIDDEN)).astype("f4"),
    "pool/bias": NORMAL(HIDDEN).astype("f4"),
}


def weights(folder, without="nothing"):
    with tfreader.open(folder) as checkpoint:
        names = [n for n in checkpoint if "dam" not in n and "step" not in n]
        return {name: checkpoint[name] for name in names if without not in name}


def rule(source, target, *ops, **more):
    keys = {"source": source, "target": target, "ops": list(ops), **more}
    return "[[rule]]\n" + "".join(f"{key} = {json.dumps(v)}\n" for key, v in keys.items())


def dense(source, target):
    return rule(f"{source}/kernel", f"{target}.weight", "transpose") + rule(
        f"{source}/bias", f"{target}.bias"
    )


def fill(target, *shape, **more):
    keys = {"target": target, "shape": list(shape), "value": "zeros", "reason": "none", **more}
    return "[[fill]]\n" + "".join(f"{key} = {json.dumps(v)}\n" for key, v in keys.items())


def made(tmp_path, tensors, text, family="bert", config=CONFIG, **options):
    """The report, and the model that transformers loads, with nothing left over or at random."""
    (tmp_path / "rules.toml").write_text(f'extends = "{family}"\n{text}')
    prefix = write_bundle(tmp_path / "model.ckpt", tensors)
    out = tmp_path / "out"
    report = convert(prefix, out, config=config, rules=tmp_path / "rules.toml", **options)
    kind = getattr(transformers, report.plan.architecture)
    model, info = kind.from_pretrained(out, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return report, model


def test_the_number_of_labels_is_told_by_a_head_without_a_shape(tmp_path):
    _, model = made(tmp_path, weights(DATA / "encoder") | HEAD, dense("span", "classifier"))
    assert model.config.num_labels == 3
    np.testing.assert_array_equal(model.classifier.weight.detach(), HEAD["span/kernel"].T)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            dense("pool", "bert.poolr.dense"),
            "no class of bert has .*'bert.pooler.dense.weight'",
        ),
        (rule("pool/kernel", "extra.weight", part="encoder"), "does not have: extra.weight"),
        (rule("pool/kernel", "extra.weight", part="encodr"), "no class of bert has such a tensor"),
        (dense("pool", "bert.pooler.dense") + rule("x", "classifier.weight"), "'x' matches no"),
        (fill("extra", 3), "fill 'extra': no class of bert has such a tensor"),
        (fill("bert.pooler.dense.bias", HIDDEN), "filled twice: by bert/pooler/dense/bias and"),
        (fill("qa_outputs.bias", 2), "fill 'qa_outputs.bias': BertModel has no squad"),
        ('[[tie]]\nalias = "extra"\ntarget = "bert.pooler.dense.bias"\n', "tie 'extra': no class"),
        ('[counts]\nlayer = "n_layer"\n', "counts: layer = 'n_layer': .*num_hidden_layers"),
        ('[counts]\nblock = "n_layer"\n', "counts: block = 'n_layer': .*no rule has it"),
    ],
)
def test_what_adds_nothing_to_the_class_is_refused(tmp_path, text, message):
    with pytest.raises(tfreader.TFReaderError, match=message):
        made(tmp_path, weights(DATA / "encoder") | POOLER, text)


def test_a_tensor_of_another_shape_than_the_class_has_is_refused(tmp_path):
    text = rule("span/kernel", "classifier.weight") + rule("span/bias", "classifier.bias")
    with pytest.raises(tfreader.PlanError, match=rf"{HIDDEN}, 3\], the model has \[3, {HIDDEN}"):
        made(tmp_path, weights(DATA / "encoder") | HEAD, text)


def test_a_fill_belongs_to_the_part_of_its_tensor(tmp_path):
    tensors = weights(DATA / "encoder") | {"output_weights": np.ones((3, HIDDEN), "f4")}
    _, model = made(tmp_path, tensors, fill("classifier.bias", "num_labels"))
    assert model.classifier.bias.tolist() == [0, 0, 0]


def test_what_rules_of_ones_own_replace_may_be_ignored(tmp_path):
    tensors, text = weights(DATA / "encoder") | POOLER, dense("pool", "bert.pooler.dense")
    report, model = made(tmp_path, tensors, text, ignore=["bert/pooler/.*"])
    np.testing.assert_array_equal(model.pooler.dense.weight.detach(), POOLER["pool/kernel"].T)
    assert report.plan.dropped["bert/pooler/dense/bias"] == "ignored as asked (--ignore)"
    with pytest.raises(tfreader.PlanError, match=r"inside the model cannot be ignored"):
        made(tmp_path, tensors, text, ignore=["bert/pooler/.*", "bert/embeddings/.*"])


def test_an_output_layer_of_its_own_is_not_tied(tmp_path):
    tensors = weights(DATA / "gpt2")
    own = tensors["model/lm_head/w"] = tensors["model/wte"] + 1
    config = json.loads((DATA / "gpt2" / "hparams.json").read_text())
    text = rule("model/lm_head/w", "lm_head.weight")
    _, model = made(tmp_path, tensors, text, "gpt2", config)
    np.testing.assert_array_equal(model.lm_head.weight.detach(), own)
    np.testing.assert_array_equal(model.transformer.wte.weight.detach(), tensors["model/wte"])
    with pytest.raises(tfreader.ConfigError, match="has to be set, in place of true in --set"):
        made(tmp_path, tensors, text, "gpt2", config, overrides={"tie_word_embeddings": True})


def test_an_output_layer_of_its_own_has_a_bias_of_its_own_in_bert(tmp_path):
    tensors = weights(BERT)
    own = tensors["decoder"] = tensors["bert/embeddings/word_embeddings"] + 1
    text = rule("decoder", "cls.predictions.decoder.weight")
    with pytest.raises(tfreader.ConfigError, match=r"cls.predictions.decoder.bias of its own too"):
        made(tmp_path, tensors, text)
    for target in ("cls.predictions.bias", "cls.predictions.decoder.bias"):
        text += rule("cls/predictions/output_bias", target)
    _, model = made(tmp_path, tensors, text)
    np.testing.assert_array_equal(model.cls.predictions.decoder.weight.detach(), own)


def test_what_a_file_drops_inside_the_model_is_said(tmp_path):
    tensors = weights(DATA / "encoder") | POOLER
    tensors["bert/encoder/layer_0/adapter/kernel"] = np.ones((HIDDEN, 2), "f4")
    text = dense("pool", "bert.pooler.dense")
    for source in ("bert/pooler/.*", ".*/adapter/.*"):
        text += f"[[drop]]\nsource = '{source}'\nreason = 'not wanted'\n"
    report, _ = made(tmp_path, tensors, text)
    (said,) = (note for note in report.plan.notes if "[[drop]]" in note)
    assert said.startswith("1 variable inside the model")
    assert said.endswith("bert/encoder/layer_0/adapter/kernel")
