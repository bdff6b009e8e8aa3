"""Models of transformers' TensorFlow classes whose config, or what was asked for, does not fit.

Their files are made here of PyTorch's classes, with the names that TensorFlow's have.
"""

from __future__ import annotations

import json
import re

import h5py
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from tfreader.errors import PlanError
from tfreader.mapping import convert
from tfreader.mapping.families._hf_sizes import axes
from tfreader.mapping.families._hf_templates import templates_for

SIZES = {
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 30,
    "max_position_embeddings": 16,
}
DECODER = {"is_decoder": True, "add_cross_attention": True}
SCOPES = {
    "BertModel": "tf_bert_model/bert/",
    "BertForMaskedLM": "tf_bert_for_masked_lm/",
    "BertForSequenceClassification": "tf_bert_for_sequence_classification/",
    "DebertaModel": "tf_deberta_model/deberta/",
    "DebertaV2Model": "tf_deberta_v2_model/deberta/",
}
RENAMED = {
    r"^cls/": "mlm___cls/",
    r"/layer/(\d+)/": r"/layer_._\1/",
    r"(?<!deberta/)\bembeddings/embed_proj": "embeddings/dense_1",
}


@pytest.fixture
def model(tmp_path):
    """Makes the model of a class, and the folder with its tf_model.h5 or model.safetensors."""

    def make(kind, config=(), written=(), is_scoped=True):
        torch.manual_seed(0)
        cls = getattr(transformers, kind)
        made = cls(cls.config_class(**{**SIZES, **dict(config)}))
        for value in made.parameters():
            torch.nn.init.normal_(value)
        folder = tmp_path / "tf"
        folder.mkdir()
        said = {**made.config.to_dict(), "architectures": [kind], **dict(written)}
        (folder / "config.json").write_text(json.dumps(said, default=str))
        variables = dict(tf_variables(made))
        if is_scoped:
            h5(folder / "tf_model.h5", {SCOPES[kind] + name: v for name, v in variables.items()})
        else:
            save_file(variables, folder / "model.safetensors", {"format": "tf"})
        return made, folder

    return make


def h5(path, *layers):
    """A file as Keras writes it, with the variables of each layer."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [f"layer_{n}".encode() for n in range(len(layers))]
        for n, variables in enumerate(layers):
            group = file.create_group(f"layer_{n}")
            group.attrs["weight_names"] = [f"{name}:0".encode() for name in variables]
            for name, value in variables.items():
                group[f"{name}:0"] = value


def tf_variables(made):
    modules = dict(made.named_modules())
    for name, value in made.named_parameters():
        module, _, leaf = name.rpartition(".")
        array = value.detach().numpy()
        if isinstance(modules[module], torch.nn.Linear) and leaf == "weight":
            leaf, array = "kernel", array.T.copy()
        elif isinstance(modules[module], torch.nn.Embedding):
            leaf = "weight" if "word" in module else "embeddings"
        elif "LayerNorm" in module:
            leaf = {"weight": "gamma", "bias": "beta"}[leaf]
        path = f"{module.replace('.', '/')}/{leaf}"
        for regex, other in RENAMED.items():
            path = re.sub(regex, other, path)
        path = path.replace("pos_key_proj", "pos_proj").replace("pos_query_proj", "pos_q_proj")
        yield path, array


def check(made, out):
    written = load_file(out / "model.safetensors")
    names = {name for name, _ in made.named_parameters()}
    assert written.keys() == names
    for name in names:
        assert (written[name] == made.get_parameter(name).detach().numpy()).all(), name


def refusal(folder, out, **options):
    with pytest.raises(PlanError) as refused:
        convert(folder, out, **options)
    assert not out.exists()
    return str(refused.value)


def hinted(message):
    """The keys that a message says to set."""
    found = re.findall(r"--set (\w+)=(\S+)", message)
    return {
        key: json.loads(value) if value[0] in "tfn0123456789" and key != "model_type" else value
        for key, value in found
    }


def test_the_model_itself_is_right(tmp_path, model):
    made, folder = model("BertModel")
    convert(folder, tmp_path / "out")
    check(made, tmp_path / "out")


@pytest.mark.parametrize(
    ("config", "written"),
    [
        ({}, {"num_hidden_layers": 1}),
        (DECODER, {"is_decoder": True, "add_cross_attention": False}),
        ({}, {"model_type": "roberta"}),
        ({}, {"vocab_size": 31}),
        ({}, {"intermediate_size": 16}),
        ({}, {"hidden_size": 12}),
        ({}, {"max_position_embeddings": 32}),
    ],
    ids=lambda changes: " ".join(f"{key}={value}" for key, value in changes.items()) or "usual",
)
def test_what_the_config_does_not_have_is_not_left_out(tmp_path, model, config, written):
    made, folder = model("BertModel", config, written)
    message = refusal(folder, tmp_path / "out")
    keys = hinted(message)
    assert keys, message
    convert(folder, tmp_path / "out", overrides=keys)
    check(made, tmp_path / "out")
    _, info = transformers.BertModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())


def test_more_layers_than_there_are_are_missed(tmp_path, model):
    _, folder = model("BertModel", written={"num_hidden_layers": 3})
    assert "encoder.layer.2." in refusal(folder, tmp_path / "out")


def test_a_head_that_tensorflow_tied_all_the_same(tmp_path, model):
    made, folder = model("BertForMaskedLM", written={"tie_word_embeddings": False})
    message = refusal(folder, tmp_path / "out")
    assert "cls.predictions.decoder.weight" in message
    assert hinted(message) == {"tie_word_embeddings": True}
    convert(folder, tmp_path / "out", overrides=hinted(message))
    check(made, tmp_path / "out")


def test_a_name_for_a_layer_without_a_scope_around_it(tmp_path, model):
    """Files without the model's scope have the alias in a name's first level."""
    made, folder = model("BertForMaskedLM", is_scoped=False)
    convert(folder, tmp_path / "out")
    check(made, tmp_path / "out")


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("DebertaModel", {"embedding_size": 6}),
        ("DebertaV2Model", {"embedding_size": 6}),
        ("DebertaV2Model", {"pos_att_type": ["c2p", "p2c"]}),
    ],
)
def test_debertas_projections_have_other_names(tmp_path, model, kind, config):
    made, folder = model(kind, {"relative_attention": True, **config})
    convert(folder, tmp_path / "out")
    check(made, tmp_path / "out")


def test_another_class_says_what_it_is(tmp_path, model):
    _, folder = model("BertForMaskedLM")
    message = refusal(folder, tmp_path / "out", architecture="BertModel")
    assert "those of BertForMaskedLM" in message


def test_groups_of_one_model_are_no_models(tmp_path, model):
    made, folder = model("BertForMaskedLM")
    variables = {SCOPES["BertForMaskedLM"] + name: value for name, value in tf_variables(made)}
    twice = {name: value for name, value in variables.items() if "/layer_._" not in name}
    h5(folder / "tf_model.h5", variables, twice)
    convert(folder, tmp_path / "out")
    check(made, tmp_path / "out")
    h5(folder / "tf_model.h5", twice, twice)
    message = refusal(folder, tmp_path / "other")
    assert "bert.encoder" in message
    assert "several models" not in message


def test_of_two_models_a_scope_chooses(tmp_path, model):
    made, folder = model("BertModel")
    name = SCOPES["BertModel"]
    own = {f"{name}{key}": value for key, value in tf_variables(made)}
    other = {key.replace(name, "tf_bert_model_1/bert/"): value + 1 for key, value in own.items()}
    h5(folder / "tf_model.h5", other, own)
    scopes = re.findall(r"--scope (\w+)", refusal(folder, tmp_path / "out"))
    assert sorted(scopes) == ["tf_bert_model", "tf_bert_model_1"]
    convert(folder, tmp_path / "out", scope="tf_bert_model")
    check(made, tmp_path / "out")


def test_numbers_for_names_are_told(tmp_path, model):
    made, folder = model("BertModel")
    numbered = {
        f"{SCOPES['BertModel']}{key.rpartition('/')[0]}/{n}": value
        for n, (key, value) in enumerate(tf_variables(made))
    }
    h5(folder / "tf_model.h5", numbered)
    assert "numbers for names" in refusal(folder, tmp_path / "out")


def test_positions_are_those_that_tensorflow_computed_with(tmp_path, model):
    made, folder = model("BertModel", written={"position_embedding_type": "relative_key"})
    report = convert(folder, tmp_path / "out")
    check(made, tmp_path / "out")
    said = json.loads((tmp_path / "out" / "config.json").read_text())
    assert said["position_embedding_type"] == "absolute"
    assert any("relative_key" in note for note in report.notes)


@pytest.mark.parametrize("labels", [1, 5])
def test_labels_are_as_many_as_the_head_has(tmp_path, model, labels):
    kind = "BertForSequenceClassification"
    made, folder = model(kind, {"num_labels": labels}, {"id2label": None, "label2id": None})
    message = refusal(folder, tmp_path / "out")
    assert hinted(message) == {"num_labels": labels}
    convert(folder, tmp_path / "out", overrides=hinted(message))
    check(made, tmp_path / "out")
    loaded = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "out")
    assert loaded.config.num_labels == labels


def test_stages_have_as_many_layers_as_the_config_says():
    (template,) = templates_for("ConvNextModel")
    made = transformers.ConvNextModel(
        transformers.ConvNextConfig(num_stages=2, depths=[1, 2], hidden_sizes=[4, 8])
    )
    names = {name for name, _ in made.named_parameters()}
    config = made.config.to_dict()
    assert not template.missing(names, config)
    assert not template.surplus(names, config)
    assert template.missing(names, config | {"depths": [2, 2]})
    assert template.missing(names, config | {"depths": [1, 3]})
    assert template.surplus(names, config | {"depths": [1, 1]})


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("BertForMaskedLM", {}),
        ("ConvBertModel", {"num_groups": 2, "embedding_size": 6}),
        ("DebertaModel", {"embedding_size": 6}),
        ("ElectraModel", {"embedding_size": 6}),
        ("GPT2LMHeadModel", {"n_embd": 8, "n_head": 2, "n_layer": 2, "n_inner": 12}),
        ("T5ForConditionalGeneration", {"d_model": 8, "d_ff": 12, "d_kv": 3, "num_heads": 2}),
    ],
)
def test_the_sizes_known_are_those_of_the_class(kind, config):
    cls = getattr(transformers, kind)
    with torch.device("meta"):
        model = cls(cls.config_class(**{**SIZES, **config}))
    told = 0
    for name, value in model.state_dict().items():
        for axis, path in axes(kind, cls.base_model_prefix, name):
            assert value.shape[axis] == getattr(model.config, path), (name, axis, path)
            told += 1
    assert told
