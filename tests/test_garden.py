"""Encoders of the Model Garden as it saves them: the same outputs, or a refusal that says why."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
import yaml
from bundle_writer import write_bundle
from conftest import DATA

import tfreader
from tfreader.mapping import convert, load_state_dict, make_plan
from tfreader.mapping.families import _garden
from tfreader.mapping.family import Variables
from tfreader.mapping.keras_metadata import keras_objects

GARDEN = DATA / "garden"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUTS = {  # of the Garden: of transformers
    "sequence_output": "last_hidden_state",
    "mlm_logits": "prediction_logits",
    "logits": "logits",
}


def copied(name: str, tmp_path: Path, *without: str) -> Path:
    folder = Path(shutil.copytree(GARDEN / name, tmp_path / name))
    for file in without:
        (folder / file).unlink()
    return folder


def plan_of(path: Path, **options):
    with tfreader.open(path) as checkpoint:
        return make_plan(checkpoint, **options)


def written(folder: Path, nodes: Iterable[tuple[str, str, dict, list | None]]) -> None:
    """A keras_metadata.pb of these objects: path, class, config and shape of the input."""

    def sized(number: int, payload: bytes) -> bytes:
        size = len(payload)
        return bytes([number << 3 | 2, size & 127 | 128, size >> 7]) + payload

    messages = []
    for path, kind, config, shape in nodes:
        data = {"class_name": kind, "config": config, "build_input_shape": {"items": shape}}
        inner = sized(3, path.encode()) + sized(5, json.dumps(data).encode())
        messages.append(sized(1, inner))
    (folder / "keras_metadata.pb").write_bytes(b"".join(messages))


@pytest.mark.parametrize(
    ("name", "architecture", "pairs"),
    [
        ("pretraining", "BertForPreTraining", "seq_relationship_logits"),
        ("albert", "AlbertForPreTraining", "sop_logits"),
        ("classifier", "BertForSequenceClassification", None),
        ("classifier_of_encoder", "BertForSequenceClassification", None),
        ("tutorial", "BertForSequenceClassification", None),
    ],
)
def test_the_same_outputs(name, architecture, pairs, tmp_path):
    convert(GARDEN / name, tmp_path / "out")
    model = getattr(transformers, architecture).from_pretrained(tmp_path / "out").eval()
    with np.load(GARDEN / name / "forward.npz") as stored, torch.no_grad():
        inputs = {key: torch.tensor(stored[key]) for key in INPUTS}
        found = {**model.base_model(**inputs), **model(**inputs)}
        wanted = OUTPUTS | ({"next_sentence": pairs} if pairs else {})
        compared = [key for key in wanted if f"output_{key}" in stored]
        assert compared
        for key in compared:
            expected, mask = stored[f"output_{key}"], stored["attention_mask"].astype(bool)
            difference = np.abs(found[wanted[key]].numpy() - expected)
            assert (difference[mask] if expected.ndim == 3 else difference).max() < 1e-5, key


def test_averages_that_the_optimizer_keeps(tmp_path):
    convert(GARDEN / "averages", tmp_path / "out", moving_averages="use")
    model = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    with np.load(GARDEN / "averages" / "forward.npz") as stored, torch.no_grad():
        found = model(**{key: torch.tensor(stored[key]) for key in INPUTS}).logits
        np.testing.assert_allclose(found, stored["output_logits"], atol=1e-5)


def test_the_pooler_is_that_of_the_head_for_the_next_sentence():
    tensors = load_state_dict(GARDEN / "pretraining", architecture="BertModel")
    with tfreader.open(GARDEN / "pretraining") as checkpoint:
        kernel = checkpoint["next_sentence..pooler_dense/kernel/.ATTRIBUTES/VARIABLE_VALUE"]
    np.testing.assert_array_equal(tensors["pooler.dense.weight"], kernel.T)


def test_other_heads_and_the_unused_pooler_are_named():
    reasons = set(plan_of(GARDEN / "pretraining").dropped.values())
    assert "head topic, beside that for the next sentence" in reasons
    assert "the encoder's pooler, unused: the head next_sentence has its own" in reasons


def test_the_pooler_in_use_cannot_be_ignored():
    with pytest.raises(tfreader.PlanError, match="cannot be ignored"):
        plan_of(GARDEN / "classifier", ignore=[".*pooler_dense.*"])


def test_an_albert_is_no_bert():
    plan = plan_of(GARDEN / "albert")
    assert plan.config["model_type"] == "albert"
    assert plan.config["num_hidden_layers"] == 2
    with pytest.raises(tfreader.PlanError, match="The variables are albert"):
        plan_of(GARDEN / "albert", model_type="bert")


def test_an_albert_whose_layers_nothing_counts(tmp_path):
    folder = copied("albert", tmp_path, "params.yaml")
    with pytest.raises(tfreader.ConfigError, match="num_hidden_layers"):
        convert(folder, tmp_path / "out")
    assert plan_of(folder, overrides={"num_hidden_layers": 3}).config["num_hidden_layers"] == 3


def test_an_albert_whose_embeddings_have_the_hidden_size(tmp_path):
    hidden, wide, heads, size = 4, 6, 2, 2
    shapes = {f"self_attention/{name}/kernel": (hidden, heads, size) for name in ("query", "key")}
    shapes |= {f"self_attention/{name}/bias": (heads, size) for name in ("query", "key", "value")}
    shapes |= {"self_attention/value/kernel": (hidden, heads, size)}
    shapes |= {"self_attention/attention_output/kernel": (heads, size, hidden)}
    shapes |= {"self_attention/attention_output/bias": (hidden,)}
    shapes |= {"intermediate/kernel": (hidden, wide), "intermediate/bias": (wide,)}
    shapes |= {"output/kernel": (wide, hidden), "output/bias": (hidden,)}
    for scope in ("self_attention_layer_norm", "output_layer_norm"):
        shapes |= {f"{scope}/gamma": (hidden,), f"{scope}/beta": (hidden,)}
    shapes = {f"transformer/{name}": shape for name, shape in shapes.items()}
    shapes |= {f"{kind}/embeddings": (5, hidden) for kind in ("word_embeddings", "type_embeddings")}
    shapes |= {"position_embedding/embeddings": (5, hidden)}
    shapes |= {"embeddings/layer_norm/gamma": (hidden,), "embeddings/layer_norm/beta": (hidden,)}
    shapes |= {"pooler_transform/kernel": (hidden, hidden), "pooler_transform/bias": (hidden,)}
    tensors = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    prefix = write_bundle(tmp_path / "ckpt-1", tensors)
    options = {"num_hidden_layers": 3, "num_attention_heads": heads}
    found = load_state_dict(prefix, overrides=options)
    projection = found["encoder.embedding_hidden_mapping_in.weight"]
    np.testing.assert_array_equal(projection, np.eye(hidden))


def test_norm_first_of_a_saved_model_is_refused():
    with pytest.raises(tfreader.ConfigError, match=r"keras_metadata.pb: .*norm_first = True"):
        plan_of(GARDEN / "norm_first")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("norm_first: false", "norm_first: true", "norm_first = True"),
        ("type: bert", "type: kernel", "encoder.kernel: an encoder other than"),
        ("hidden_activation: gelu", "hidden_activation: mish", "hidden_act = 'mish'"),
        ("num_attention_heads: 3", "num_attention_heads: 4", "num_attention_heads = 4"),
        ("dropout_rate: 0.1", "dropout_rate: some", "dropout_rate = 'some', expected a number"),
        ("task:", "task: [", "not a YAML file"),
        ("intermediate_size: 20", "intermediate_size: 24", "intermediate_size = 24"),
        ("hidden_size: 12", "hidden_size: 16", "hidden_size = 16"),
    ],
)
def test_params_that_tell_of_another_model(old, new, said, tmp_path):
    folder = copied("classifier", tmp_path)
    text = (folder / "params.yaml").read_text()
    assert old in text
    (folder / "params.yaml").write_text(text.replace(old, new))
    with pytest.raises((tfreader.ConfigError, tfreader.PlanError), match=re.escape(said)):
        plan_of(folder)


def test_settings_that_nothing_knows_are_named(tmp_path):
    folder = copied("classifier", tmp_path)
    text = (folder / "params.yaml").read_text()
    new = "norm_first: false\n        sharpness: 3\n        output_range: 1\n"
    (folder / "params.yaml").write_text(text.replace("norm_first: false\n", new))
    notes = [note for note in plan_of(folder).notes if "nothing here knows" in note]
    assert len(notes) == 1
    assert "sharpness" in notes[0]


def test_params_named_by_the_user(tmp_path):
    folder = copied("classifier", tmp_path)
    params = (folder / "params.yaml").rename(tmp_path / "trained.yaml")
    plan = plan_of(folder, config=params)
    assert plan.config["hidden_dropout_prob"] == 0.1
    assert not any("norm_first" in note for note in plan.notes)
    params.write_text(params.read_text().replace("norm_first: false", "norm_first: true"))
    with pytest.raises(tfreader.ConfigError, match=r"trained.yaml: encoder.bert: norm_first"):
        plan_of(folder, config=params)
    for text, said in (("task: {}", "without task.model.encoder"), ("- a list", "not a JSON")):
        params.write_text(text)
        with pytest.raises(tfreader.ConfigError, match=said):
            plan_of(folder, config=params)


def test_the_best_checkpoint_has_its_params_above(tmp_path):
    folder = copied("classifier", tmp_path)
    (folder / "best_ckpt").mkdir()
    for file in folder.glob("ckpt-1*"):
        file.rename(folder / "best_ckpt" / file.name)
    plan = plan_of(folder / "best_ckpt")
    assert not any("norm_first" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("next_sentence", "topic", "task", "said"),
    [
        ("tanh", "relu", None, None),
        ("relu", "tanh", None, "head next_sentence: activation = 'relu'"),
        ("relu", "tanh", "topic", None),
        ("null", "tanh", None, "head next_sentence: activation = None"),
    ],
)
def test_heads_whose_pooler_has_another_activation(next_sentence, topic, task, said, tmp_path):
    folder = copied("pretraining", tmp_path)
    params = (folder / "params.yaml").read_text()
    heads = [
        {"name": "next_sentence", "inner_dim": 12, "activation": next_sentence},
        {"name": "topic", "inner_dim": 12, "activation": topic},
    ]
    listed = json.dumps(heads).replace('"null"', "null")
    (folder / "params.yaml").write_text(
        params.replace("  model:", f"  model:\n    cls_heads: {listed}")
    )
    if said is None:
        plan_of(folder, finetuning_task_name=task)
    else:
        with pytest.raises(tfreader.ConfigError, match=re.escape(said)):
            plan_of(folder, finetuning_task_name=task)


def test_the_head_that_the_user_names(tmp_path):
    plan = plan_of(GARDEN / "pretraining", finetuning_task_name="topic")
    assert plan.architecture == "BertForSequenceClassification"
    tensors = load_state_dict(GARDEN / "pretraining", finetuning_task_name="topic")
    with tfreader.open(GARDEN / "pretraining") as checkpoint:
        kernel = checkpoint["topic..pooler_dense/kernel/.ATTRIBUTES/VARIABLE_VALUE"]
    np.testing.assert_array_equal(tensors["bert.pooler.dense.weight"], kernel.T)
    assert tensors["classifier.weight"].shape == (5, 12)


def test_what_no_file_tells_is_said(tmp_path):
    folder = copied("classifier", tmp_path, "params.yaml")
    assert any("norm_first" in note and "pre-norm" in note for note in plan_of(folder).notes)
    config = {"norm_first": True, "hidden_size": 12}
    with pytest.raises(tfreader.ConfigError, match="norm_first = [Tt]rue"):
        plan_of(folder, config=config)
    told = plan_of(folder, config=config | {"norm_first": False})
    assert not any("norm_first" in note for note in told.notes)
    assert told.config["hidden_act"] == "gelu_new"


BLOCK = ("root.encoder._transformer_layers.0", "Text>TransformerEncoderBlock")
POOLED = ("root.classifier", "Dense", {"name": "mood", "activation": "linear"}, [None, 12])


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ([(*BLOCK, {"norm_first": True}, None)], "norm_first = True"),
        ([(*BLOCK, {"use_query_residual": False}, None)], "use_query_residual = False"),
        ([("root.encoder", "Text>BigBirdEncoder", {}, None)], "a BigBirdEncoder"),
        ([("", "TalkingHeadsAttention", {"name": "self_attention"}, None)], "TalkingHeads"),
        ([("", "Dense", {"name": "pooler_transform", "activation": "relu"}, None)], "'relu'"),
        ([(*BLOCK, {"inner_activation": act}, None) for act in ("relu", "gelu")],
         "one hidden_act for all layers"),
        ([(*POOLED[:3], [None, None, 12])], "mood is applied to each token"),
        ([POOLED, ("root.mean", "GlobalAveragePooling1D", {"name": "mean"}, None)],
         "beside mood there is mean"),
        ([(*POOLED[:2], {"name": "mood", "activation": "relu"}, [None, 12])], "activation relu"),
    ],
)  # fmt: skip
def test_layers_that_tell_of_another_model(nodes, said, tmp_path):
    folder = copied("tutorial", tmp_path)
    written(folder, nodes)
    with pytest.raises(tfreader.ConfigError, match=re.escape(said)):
        plan_of(folder)


def test_layers_that_tell_the_config(tmp_path):
    folder = copied("tutorial", tmp_path)
    settings = {"inner_activation": {"class_name": "function", "config": "relu"}}
    soft = (*POOLED[:2], {"name": "mood", "activation": "softmax"}, [None, 12])
    written(folder, [(*BLOCK, settings | {"norm_first": False, "norm_epsilon": 1e-6}, None), soft])
    plan = plan_of(folder)
    assert plan.config["hidden_act"] == "relu"
    assert plan.config["layer_norm_eps"] == 1e-6
    assert not any("norm_first" in note for note in plan.notes)
    assert any("applies softmax" in note for note in plan.notes)


def test_a_classifier_that_no_file_describes(tmp_path):
    folder = copied("tutorial", tmp_path, "keras_metadata.pb")
    assert any("mood is taken for a classifier" in note for note in plan_of(folder).notes)


def encoder_by_paths() -> dict[str, np.ndarray]:
    with tfreader.open(GARDEN / "tutorial") as checkpoint:
        graph = checkpoint.object_graph
        paths = {name: checkpoint[key] for key in graph for name in graph[key].aliases}
    return {name: value for name, value in paths.items() if "/_" in name or "embed" in name}


def layer(name: str, *shape: int) -> dict[str, np.ndarray]:
    kernel, bias = np.ones(shape, np.float32), np.ones(shape[1], np.float32)
    return {f"{name}/kernel": kernel, f"{name}/bias": bias}


NORM = {f"norm/{name}": np.ones(12, np.float32) for name in ("beta", "gamma")}


@pytest.mark.parametrize(
    ("heads", "said"),
    [
        (layer("one", 12, 4) | layer("two", 12, 4), None),
        (layer("one", 12, 4) | layer("two", 4, 3), "one/kernel may stand between"),
        (layer("one", 12, 4) | layer("two", 12, 12), "two/kernel with tanh its pooler"),
        (layer("one", 12, 4) | NORM, "norm/beta and norm/gamma may stand between"),
    ],
)
def test_two_layers_on_an_encoder_are_no_classifier(heads, said, tmp_path):
    prefix = write_bundle(tmp_path / "ckpt-1", encoder_by_paths() | heads)
    with pytest.raises(tfreader.PlanError) as raised:
        plan_of(Path(prefix))
    assert "variable one/kernel [12, 4]: no rule knows it" in raised.value.problems
    assert said is not None or "may stand between" not in str(raised.value)
    assert said is None or said in str(raised.value)


def test_several_models_are_told_by_their_scopes(tmp_path):
    encoder = encoder_by_paths()
    both = {f"all/{scope}/{n}": v for scope in ("old", "new") for n, v in encoder.items()}
    prefix = Path(write_bundle(tmp_path / "ckpt-1", both))
    for scope in ("", "all"):
        with pytest.raises(tfreader.PlanError) as raised:
            plan_of(prefix, scope=scope)
        assert "several models: bert (garden) under --scope all/new, bert (garden) under" in str(
            raised.value
        )


def test_own_names_tell_the_model_under_a_scope():
    plan = plan_of(GARDEN / "albert", scope="model")
    assert plan.config["model_type"] == "albert"


def test_heads_that_share_a_pooler_by_their_items(tmp_path):
    heads = layer("multi..pooler_dense", 12, 12) | layer("multi..next_sentence", 12, 2)
    with tfreader.open(write_bundle(tmp_path / "ckpt-1", heads)) as checkpoint:
        found = _garden.heads({info.name: info for info in checkpoint.infos})
    assert [(head.name, head.pooler) for head in found] == [("next_sentence", "multi")]


def by_paths_with(tmp_path: Path, *layers: dict[str, np.ndarray]) -> Path:
    """An encoder with these layers on it, by their paths."""
    with tfreader.open(GARDEN / "classifier_of_encoder") as checkpoint:
        inner = {key for key in checkpoint if "/_" in key.split(".ATTRIBUTES")[0]}
        variables = {key.split("/.ATTRIBUTES")[0]: checkpoint[key] for key in inner}
    for more in layers:
        variables |= more
    return Path(write_bundle(tmp_path / "ckpt-1", variables))


MASKED_WORDS = {
    **layer("masked_lm/dense", 12, 12),
    **{f"masked_lm/layer_norm/{name}": np.ones(12, np.float32) for name in ("beta", "gamma")},
    "masked_lm/output_bias/bias": np.ones(37, np.float32),
}


def test_several_heads_are_asked_for(tmp_path):
    heads = [layer("a..pooler_dense", 12, 12), layer("b..pooler_dense", 12, 12)]
    prefix = by_paths_with(tmp_path, *heads, layer("a/logits", 12, 3), layer("b/logits", 12, 4))
    with pytest.raises(tfreader.PlanError, match=r"a, b; choose with --finetuning_task_name"):
        plan_of(prefix)
    assert plan_of(prefix, finetuning_task_name="b").architecture == "BertForSequenceClassification"


def test_a_head_with_a_pooler_of_no_class_is_left_out(tmp_path):
    head = {**layer("pairs..pooler_dense", 12, 7), **layer("pairs/logits", 7, 2)}
    plan = plan_of(by_paths_with(tmp_path, MASKED_WORDS, head))
    assert plan.architecture == "BertForMaskedLM"
    assert any("its pooler is [12, 7]" in reason for reason in plan.dropped.values())


def test_a_head_of_pretraining_without_a_pooler_is_one_for_tokens(tmp_path):
    with tfreader.open(write_bundle(tmp_path / "ckpt-1", layer("logits", 12, 2))) as checkpoint:
        info = checkpoint.info("logits/kernel")
    paths = "pairs/logits/kernel", "model/classification_heads/0/out_proj/kernel"
    (head,) = _garden.heads(Variables(dict.fromkeys(paths, info)))
    assert "each token" in head.why
    assert _garden.chosen_heads([head], None) == []


def test_a_bert_trained_with_token_dropping(tmp_path):
    importance = {"_token_importance_embed/_importance_embedding": np.ones(37, np.float32)}
    prefix = by_paths_with(tmp_path, importance)
    params = yaml.safe_load((GARDEN / "classifier" / "params.yaml").read_text())
    settings = params["task"]["model"]["encoder"].pop("bert")
    encoder = {"type": "any", "any": settings | {"token_keep_k": 4, "token_loss_beta": 0.99}}
    params["task"]["model"]["encoder"] = encoder
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    plan = plan_of(prefix)
    assert plan.architecture == "BertModel"
    assert any("skips none" in reason for reason in plan.dropped.values())
    assert not any("nothing here knows" in note for note in plan.notes)


def test_a_projection_behind_the_embeddings_is_refused(tmp_path):
    prefix = by_paths_with(tmp_path, layer("_embedding_projection", 8, 12))
    with pytest.raises(tfreader.ConfigError, match="from 8 to 12 between embeddings and layers"):
        plan_of(prefix)


def test_damaged_metadata_is_named(tmp_path):
    folder = copied("tutorial", tmp_path)
    (folder / "keras_metadata.pb").write_bytes(b"\x0a\xff")
    with pytest.raises(tfreader.ConfigError, match=r"keras_metadata.pb: damaged"):
        plan_of(folder)


def test_objects_that_older_saved_models_describe(tmp_path):
    """SavedModel.meta_graphs.object_graph_def.nodes.user_object.metadata."""
    message = json.dumps({"class_name": "Dense", "config": {"name": "mood"}}).encode()
    for number in (3, 4, 1, 7, 2):
        message = bytes([number << 3 | 2, len(message)]) + message
    (tmp_path / "saved_model.pb").write_bytes(message)
    (found,) = keras_objects(tmp_path / "saved_model.pb")
    assert (found.class_name, found.name, found.path) == ("Dense", "mood", None)
