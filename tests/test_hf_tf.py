"""Models of transformers' TensorFlow classes, made with their outputs by make_hf_tf_data.py."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import h5py
import numpy as np
import pytest
import torch
import transformers
from click.testing import CliRunner
from conftest import DATA
from safetensors.numpy import load_file
from transformers import AutoTokenizer

from tfreader.cli.main import main
from tfreader.errors import ChecksumError, ConfigError, PlanError
from tfreader.mapping import convert, load_state_dict, make_plan
from tfreader.mapping.families.hf_tf import SIDE_FILES
from tfreader.mapping.places import OURS, overrules
from tfreader.mapping.records.audit import verify_against, verify_output

MODELS = {
    "albert": "AlbertForMaskedLM",  # its bias in use has another name
    "bert": "BertForSequenceClassification",
    "esm": "EsmForMaskedLM",  # two variables of one name
    "mobilebert": "MobileBertForMaskedLM",  # a head of its own
    "named": "BertForTokenClassification",  # under a name that the user gave
    "resnet": "ResNetForImageClassification",  # statistics
    "swin": "SwinForImageClassification",  # integers
    "t5": "T5ForConditionalGeneration",  # embeddings stored three times
    "vision_encoder_decoder": "VisionEncoderDecoderModel",  # a level more in the encoder
    "wav2vec2": "Wav2Vec2ForCTC",  # a weight's norm by itself
    "xglm": "XGLMForCausalLM",  # a head that is the embeddings
    "xlm": "XLMForSequenceClassification",
}


@cache
def unpacked() -> Path:
    return Path(mkdtemp(prefix="hf_tf"))


@cache
def original(name):
    """A folder with the files of a model, which no test may change."""
    folder = unpacked() / name
    with tarfile.open(DATA / "hf_tf" / f"{name}.tar.xz") as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # of Python 3.11.4
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def _removed():
    yield
    shutil.rmtree(unpacked())
    for cached in (unpacked, original):
        cached.cache_clear()


@pytest.fixture
def copied(tmp_path):
    """Copies a model's folder, with its config changed: None removes a key."""

    def copy(name, **changes):
        folder = tmp_path / name
        shutil.copytree(original(name), folder)
        config = json.loads((folder / "config.json").read_text()) | changes
        config = {key: value for key, value in config.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(config))
        return folder / "tf_model.h5"

    return copy


def loaded(folder, kind):
    """The model; with all tensors of the class, and no others, in the file."""
    model, info = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


def check_outputs(folder, kind, io):
    with np.load(io) as arrays:
        inputs = {
            key[3:]: torch.from_numpy(value.astype(np.int64) if "ids" in key else value)
            for key, value in arrays.items()
            if key.startswith("in_")
        }
        with torch.no_grad():
            outputs = loaded(folder, kind)(**inputs)
        expected = {key[4:]: value for key, value in arrays.items() if key.startswith("out_")}
    assert expected
    for key, value in expected.items():
        np.testing.assert_allclose(outputs[key], value, atol=1e-5)


def tensors(folder):
    return load_file(folder / "model.safetensors")


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def hidden(folder, ids):
    with torch.no_grad():
        return loaded(folder, "BertModel")(torch.from_numpy(ids.astype(np.int64)))[0]


@pytest.mark.parametrize("name", MODELS)
def test_the_model_computes_what_tensorflows_did(tmp_path, name):
    report = convert(original(name) / "tf_model.h5", tmp_path / "out")
    assert report.plan.architecture == MODELS[name]
    check_outputs(tmp_path / "out", MODELS[name], original(name) / "io.npz")
    kept = config_of(original(name))
    written = config_of(tmp_path / "out")
    assert written["architectures"] == [MODELS[name]]
    changed = {key for key in kept.keys() | written.keys() if kept.get(key) != written.get(key)}
    assert changed <= {"architectures", "dtype", "torch_dtype", "tie_word_embeddings"}


@pytest.mark.parametrize("source", ["ckpt", "variables", "sharded", "tf_safetensors"])
def test_every_container_gives_the_same(tmp_path, source):
    convert(original("bert") / "tf_model.h5", tmp_path / "h5")
    report = convert(original("bert") / source, tmp_path / "out", config=original("bert"))
    written = [tmp_path / name / "model.safetensors" for name in ("h5", "out")]
    assert written[0].read_bytes() == written[1].read_bytes()
    if source == "ckpt":  # after a step of Adam
        for slot in "mv":
            dropped = report.plan.dropped.values()
            assert sum(f"slot variable {slot}" in reason for reason in dropped) == 41


def test_what_tensorflow_loses_is_refused_and_what_has_it_is_named(tmp_path):
    with pytest.raises(PlanError, match=r"transformer\.embeddings\.weight.*tf_model\.h5") as caught:
        convert(original("xlm") / "ckpt", tmp_path / "out")
    assert str(original("xlm") / "ckpt") in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_head_of_its_own_is_kept_and_the_config_says_so(tmp_path):
    report = convert(original("mobilebert") / "tf_model.h5", tmp_path / "out")
    assert config_of(tmp_path / "out")["tie_word_embeddings"] is False
    found = tensors(tmp_path / "out")
    head = "cls.predictions."
    assert (found[f"{head}decoder.bias"] == found[f"{head}bias"]).all()
    assert f"{head}decoder.weight" in found
    assert any("tie_word_embeddings: false" in note for note in report.notes)


def test_of_two_variables_of_one_name_the_heads_is_the_head(tmp_path, copied):
    path = copied("esm")
    twice = "tf_esm_for_masked_lm/esm/embeddings/word_embeddings/embeddings:0"
    with h5py.File(path, "a") as file:
        words = file[f"esm/{twice}"][...]
        assert (file[f"lm_head/{twice}"][...] == words).all()
        file[f"lm_head/{twice}"][...] = words + 1
    convert(path, tmp_path / "out")
    found = tensors(tmp_path / "out")
    assert (found["esm.embeddings.word_embeddings.weight"] == words).all()
    assert (found["lm_head.decoder.weight"] == words + 1).all()
    assert config_of(tmp_path / "out")["tie_word_embeddings"] is False
    loaded(tmp_path / "out", MODELS["esm"])


def test_a_head_that_is_the_embeddings_is_written_once(tmp_path):
    report = convert(original("xglm") / "tf_model.h5", tmp_path / "out")
    assert "lm_head.weight" not in tensors(tmp_path / "out")
    assert "tie_word_embeddings" not in config_of(tmp_path / "out")
    (reason,) = (why for name, why in report.plan.dropped.items() if "lm_head/kernel" in name)
    assert "embed_tokens" in reason


def test_a_config_that_asks_for_a_head_that_tensorflow_does_not_have(tmp_path, copied):
    path = copied("albert", tie_word_embeddings=False)
    with pytest.raises(PlanError, match=r"predictions\.decoder\.weight") as caught:
        convert(path, tmp_path / "out")
    (key, value) = re.findall(r"--set (\w+)=(\w+)", str(caught.value))[0]
    convert(path, tmp_path / "out", overrides={key: json.loads(value)})
    check_outputs(tmp_path / "out", MODELS["albert"], path.parent / "io.npz")


def test_statistics_and_integers(tmp_path):
    convert(original("resnet") / "tf_model.h5", tmp_path / "resnet", dtype="float16")
    found = tensors(tmp_path / "resnet")
    counters = {name for name in found if name.endswith("num_batches_tracked")}
    means = {name for name in found if name.endswith("running_mean")}
    assert counters == {name.replace("running_mean", "num_batches_tracked") for name in means}
    for name, value in found.items():
        if name in counters:
            assert value.dtype == np.int64 and value.shape == () and value == 0
        else:
            assert value.dtype == np.float16
    convert(original("swin") / "tf_model.h5", tmp_path / "swin", dtype="bfloat16")
    state = load_state_dict(original("swin") / "tf_model.h5", dtype="bfloat16")
    kinds = {name.rpartition(".")[2]: value.dtype for name, value in state.items()}
    assert kinds["relative_position_index"] == torch.int64
    assert kinds["weight"] == torch.bfloat16


@pytest.mark.parametrize("name", ["esm", "mobilebert", "resnet", "swin", "t5", "xglm"])
def test_a_state_dict_and_printed_rules_give_the_same_tensors(tmp_path, name):
    path = original(name) / "tf_model.h5"
    convert(path, tmp_path / "out")
    expected = tensors(tmp_path / "out")
    state = load_state_dict(path)
    assert state.keys() == expected.keys()
    assert all(np.array_equal(state[key], value) for key, value in expected.items())
    printed = CliRunner().invoke(main, ["rules", "hf-tf", "--tf_checkpoint", str(path)])
    assert printed.exit_code == 0
    (tmp_path / "rules.toml").write_text(printed.stdout)
    convert(path, tmp_path / "by rules", rules=tmp_path / "rules.toml")
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "by rules" / file).read_bytes() == (tmp_path / "out" / file).read_bytes()


def test_there_are_no_rules_without_a_checkpoint():
    result = CliRunner().invoke(main, ["rules", "hf-tf"])
    assert result.exit_code == 2
    assert "--tf_checkpoint" in result.output


@pytest.mark.parametrize("model_type", ["auto", "hf-tf", "bert", "albert"])
def test_the_config_tells_the_model_type(tmp_path, model_type):
    report = convert(original("bert") / "tf_model.h5", tmp_path / "out", model_type)
    assert config_of(tmp_path / "out")["model_type"] == "bert"
    said = [note for note in report.notes if "--model_type albert: not followed" in note]
    assert len(said) == (model_type == "albert")


def test_layers_of_the_users_own(tmp_path):
    path = original("functional") / "model.h5"
    with pytest.raises(PlanError, match=r"out/kernel.*--ignore"):
        convert(path, tmp_path / "out")
    report = convert(path, tmp_path / "out", ignore=["out/.*"])
    assert report.plan.dropped.keys() >= {"out/kernel", "out/bias"}
    with np.load(path.parent / "io.npz") as io:
        found = hidden(tmp_path / "out", io["in_input_ids"])
        np.testing.assert_allclose(found, io["out_first"], atol=1e-5)


def test_two_models_in_a_file(tmp_path):
    path = original("functional") / "two.h5"
    with pytest.raises(PlanError, match="several models") as caught:
        convert(path, tmp_path / "out")
    scopes = re.findall(r"--scope (\S+?),? ", str(caught.value))
    (kind,) = re.findall(r"--architecture (\w+)", str(caught.value))
    assert len(scopes) == 2
    with np.load(path.parent / "io.npz") as io:
        for scope, name in zip(scopes, ("first", "second"), strict=True):
            convert(path, tmp_path / name, scope=scope, architecture=kind)
            found = hidden(tmp_path / name, io["in_input_ids"])
            np.testing.assert_allclose(found, io[f"out_{name}"], atol=1e-5)


def test_the_scope_tells_the_class(tmp_path, copied):
    for config in ({"architectures": None}, {"architectures": ["BertForTokenClassification"]}):
        path = copied("bert", **config)
        report = convert(path, tmp_path / "out")
        assert report.plan.architecture == MODELS["bert"]
        said = [note for note in report.notes if "the config says BertForToken" in note]
        assert len(said) == (config["architectures"] is not None)
        check_outputs(tmp_path / "out", MODELS["bert"], path.parent / "io.npz")
        shutil.rmtree(path.parent)


def test_neither_scope_nor_config_tells_the_class(tmp_path, copied):
    path = copied("named", architectures=None)
    with pytest.raises(PlanError, match="--architecture") as caught:
        convert(path, tmp_path / "out")
    assert str(path) in str(caught.value)
    convert(path, tmp_path / "out", architecture=MODELS["named"])
    check_outputs(tmp_path / "out", MODELS["named"], path.parent / "io.npz")


def test_of_an_unknown_class_it_is_said_that_nothing_could_be_checked(tmp_path, copied):
    report = convert(copied("named", architectures=["BertForMine"]), tmp_path / "out")
    assert any("BertForMine" in note and "could not be checked" in note for note in report.notes)
    assert config_of(tmp_path / "out")["architectures"] == ["BertForMine"]


def test_no_config(tmp_path, copied):
    path = copied("bert")
    (path.parent / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"no config\.json.*--config") as caught:
        convert(path, tmp_path / "out")
    assert str(path) in str(caught.value)
    convert(path, tmp_path / "out", config=original("bert") / "config.json")
    check_outputs(tmp_path / "out", MODELS["bert"], path.parent / "io.npz")


def test_a_number_that_no_float_holds(tmp_path, copied):
    path = copied("bert", layer_norm_eps=10**400)
    with pytest.raises(ConfigError, match="layer_norm_eps"):
        convert(path, tmp_path / "out")
    convert(path, tmp_path / "out", overrides={"layer_norm_eps": 1})
    written = config_of(tmp_path / "out")["layer_norm_eps"]
    assert (written, type(written)) == (1, float)  # transformers 5 takes no 1


LAYER = "bert/tf_bert_for_sequence_classification/bert/encoder/layer_._1"


@pytest.mark.parametrize("removed", [f"{LAYER}/output/dense/bias:0", LAYER, "classifier"])
def test_a_missing_tensor_is_named(tmp_path, copied, removed):
    path = copied("bert")
    with h5py.File(path, "a") as file:
        del file[removed]
    expected = r"classifier\.|bert\.encoder\.layer\.1\."
    with pytest.raises(PlanError, match=expected) as caught:
        convert(path, tmp_path / "out")
    assert "--scope" not in str(caught.value)  # the groups of a file are no models
    assert not (tmp_path / "out").exists()


def test_a_variable_that_the_class_does_not_have_is_named(tmp_path, copied):
    path = copied("bert")
    with h5py.File(path, "a") as file:
        file[f"{LAYER}/output/adapter/kernel:0"] = np.ones((2, 2), np.float32)
    with pytest.raises(PlanError, match="layer_._1/output/adapter/kernel") as caught:
        convert(path, tmp_path / "out")
    assert "--scope" not in str(caught.value)
    convert(path, tmp_path / "out", ignore_weights=[".*/adapter/.*"])
    check_outputs(tmp_path / "out", MODELS["bert"], path.parent / "io.npz")


def test_a_layer_too_few_for_the_config(tmp_path, copied):
    with pytest.raises(PlanError, match=r"bert\.encoder\.layer\.2\."):
        convert(copied("bert", num_hidden_layers=3), tmp_path / "out")


def test_what_only_training_uses_is_there_where_the_config_has_it(tmp_path, copied):
    path = copied("wav2vec2", mask_time_prob=0.05)
    convert(path, tmp_path / "out")
    assert "wav2vec2.masked_spec_embed" in tensors(tmp_path / "out")
    loaded(tmp_path / "out", MODELS["wav2vec2"])


def test_the_record_and_the_checkpoint_again(tmp_path, copied):
    path = copied("swin")
    convert(path, tmp_path / "out")
    assert convert(path, tmp_path / "out", resume=True).skipped
    verify_output(tmp_path / "out")
    verify_against(tmp_path / "out", path)
    with h5py.File(path, "a") as file:
        file["classifier/tf_swin_for_image_classification/classifier/bias:0"][0] += 1
    with pytest.raises(ChecksumError, match=r"classifier\.bias"):
        verify_against(tmp_path / "out", path)
    assert not convert(path, tmp_path / "out", resume=True).skipped
    verify_against(tmp_path / "out", path)


def test_what_belongs_to_the_model_is_copied(tmp_path):
    convert(original("bert") / "tf_model.h5", tmp_path / "out")
    names = {"vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (original("bert") / name).read_bytes()
    folders = (tmp_path / "out", original("bert"))
    ids = [AutoTokenizer.from_pretrained(folder)("a b f").input_ids for folder in folders]
    assert ids[0] == ids[1] == [2, 5, 6, 10, 3]
    convert(original("t5") / "tf_model.h5", tmp_path / "t5")
    kept = (original("t5") / "generation_config.json").read_bytes()
    assert (tmp_path / "t5" / "generation_config.json").read_bytes() == kept


@pytest.mark.parametrize("name", SIDE_FILES)
def test_a_side_file_is_known_as_ours_and_as_a_strangers(name):
    """Else it would not be removed by the next conversion, or change what that one means."""
    assert OURS.fullmatch(name)
    assert overrules(name, ["config.json", "merges.txt" if name == "vocab.txt" else "vocab.txt"])


def test_a_plan_says_where_each_tensor_comes_from():
    import tfreader

    with tfreader.open(original("wav2vec2") / "tf_model.h5") as checkpoint:
        plan = make_plan(checkpoint)
    entries = {entry.target: entry for entry in plan.entries}
    norm = "wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original0"
    assert entries[norm].operation == "permute(axes=(1,2,0))"
    assert entries[norm].sources[0].endswith("pos_conv_embed/conv/weight_g")
