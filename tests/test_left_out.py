"""Models that are not converted: named, with the reason, wherever somebody tries one."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from bundle_writer import write_bundle
from click.testing import CliRunner
from conftest import BERT, DATA, ROOT

import tfreader
from tfreader.cli.main import main
from tfreader.mapping import make_plan
from tfreader.mapping.families import find_family, get_family, open_source
from tfreader.mapping.families._hf_templates import classes, float_keys
from tfreader.mapping.left_out import LEFT_OUT, left_out, told_by

DOCS = (ROOT / "docs" / "families.md").read_text()
OF_THE_OLD_CONVERTER = (
    *("albert", "bert", "bert_generation", "big_bird", "bigbird_pegasus", "canine", "convbert"),
    *("electra", "funnel", "gpt", "gpt2", "gpt_neo", "lxmert", "mobilebert", "mobilenet_v1"),
    *("mobilenet_v2", "pegasus", "rembert", "roformer", "t5", "tapas", "transfo_xl", "xlm"),
    *("xlnet", "mt5", "byt5", "umt5", "longt5", "switch_transformers"),
)


@pytest.mark.parametrize("name", OF_THE_OLD_CONVERTER)
def test_every_type_of_the_old_converter_is_a_family_or_refused_by_name(name):
    known = find_family(name) or left_out(name)
    assert known is not None


def test_the_table_of_the_old_converter_says_whether_each_type_is_converted():
    _, _, section = DOCS.partition("## In place of the old converter")
    section = section.partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \| (yes|no) \|", section, re.MULTILINE)
    named = {}
    for types, answer in rows:
        if "TensorFlow" in types or "T5X" in types:  # of a type that has a line of its own
            continue
        named |= dict.fromkeys(re.findall(r"`(\w[\w-]*)`(?!\))", types), answer)
    for name, answer in named.items():
        assert (find_family(name) is not None) == (answer == "yes"), name
        assert (left_out(name) is not None) == (answer == "no"), name
    of_the_command = {"albert", "bert", "funnel", "gpt", "gpt2", "lxmert"}
    of_the_command |= {"rembert", "t5", "transfo_xl", "xlm", "xlnet"}
    assert of_the_command <= named.keys()
    with_scripts = {name.replace("-", "_") for name in named} | {"mt5", "umt5", "longt5"}
    assert {*OF_THE_OLD_CONVERTER} - with_scripts <= {"switch_transformers"}


def test_no_name_is_that_of_two():
    names = [name for model in LEFT_OUT for name in model.names]
    assert len(set(names)) == len(names)
    assert [name for name in names if find_family(name) is not None] == []
    assert all(name == name.lower() and "_" not in name for name in names)


@pytest.mark.parametrize("model", LEFT_OUT, ids=lambda model: model.names[0])
def test_the_docs_list_it(model):
    names = ", ".join(f"`{name}`" for name in model.names)
    mark = " \\*" if model.evidence else ""
    assert f"| {model.title}{mark} | {names} | {model.why} | {model.instead} |" in DOCS


@pytest.mark.parametrize("name", ["nezha", "XLM_R", "google/umt5", "DeBERTa-v2", "lxmert"])
def test_a_name_is_refused_with_the_reason(name, tmp_path):
    model = left_out(name)
    assert model is not None
    with pytest.raises(tfreader.UnknownModelTypeError, match=re.escape(model.why)):
        get_family(name)
    paths = ["--tf_checkpoint", str(BERT), "--pytorch_dump_output", str(tmp_path / "out")]
    result = CliRunner().invoke(main, ["convert", *paths, "--model_type", name])
    assert result.exit_code == 2
    assert f"model type {name!r}: {model.title}: not converted" in result.output


def test_a_name_is_refused_too_where_nothing_can_be_opened(tmp_path):
    with pytest.raises(tfreader.UnknownModelTypeError, match="no checkpoint there") as raised:
        open_source(tmp_path / "nothing", "umt5")
    assert "google/umt5-small" in str(raised.value)
    with pytest.raises(tfreader.CheckpointNotFoundError):
        open_source(tmp_path / "nothing", "bert")


def test_a_config_of_such_a_model(tmp_path):
    with tfreader.open(BERT) as checkpoint, pytest.raises(tfreader.ConfigError, match="NezhaModel"):
        make_plan(checkpoint, config={"model_type": "nezha", "hidden_size": 16})


T5_BLOCK = ("shared/embedding", "encoder/block_000/layer_000/SelfAttention/q")
GARDEN_LAYER = "encoder/_transformer_layers/0/_attention_layer/_query_dense/kernel"


@pytest.mark.parametrize(
    ("names", "title"),
    [
        ((*T5_BLOCK, "encoder/block_001/layer_001/MoE1D/switch_gating/kernel"), "Switch"),
        ((*T5_BLOCK, "encoder/block_001/layer_001/MoE1D/wi/kernel"), "Switch"),
        (("model/wte", "model/h0/attn/q_proj", "model/sos"), "ImageGPT"),
        (("model/wte", "model/moe3/layers/switch_gating/kernel"), "GPTSAN"),
        (("tied_embedding_softmax/w", "encoder/layer_0/x"), "CTRL"),
        (
            (
                "encoder/_embedding_layer/embeddings",
                GARDEN_LAYER,
                "electra_pretrainer/discriminator_projection_head/kernel",
            ),
            "ELECTRA of the Model Garden",
        ),
        (("f_net/embeddings/layer_norm/beta",), "FNet"),
        (("sparse_mixer_1/pooler_transform/bias",), "FNet and Sparse Mixer"),
        (("mobile_bert_embedding/embedding_norm/beta",), "MobileBERT of the Model Garden"),
        (("bert/embeddings/word_embeddings", "Embedding-Relative-Position/embeddings"), "NEZHA"),
        (("module/bilm/CNN/W_cnn_0",), "ELMo"),
        (("transformer/body/encoder/layer_0/self_attention/q/kernel",), "Tensor2Tensor"),
    ],
)
def test_variables_tell_it(names, title, tmp_path):
    prefix = write_bundle(tmp_path / "m", {name: np.ones((2, 2), np.float32) for name in names})
    with tfreader.open(prefix) as checkpoint, pytest.raises(tfreader.PlanError) as raised:
        make_plan(checkpoint)
    assert title in str(raised.value)
    assert "not converted" in str(raised.value)


@pytest.mark.parametrize(
    "folder", ["albert", "bert_dialects", "electra", "garden", "gpt2", "hf_tf", "t5", "transfo_xl"]
)
def test_nothing_that_is_converted_is_told_as_one(folder):
    for index in sorted((DATA / folder).rglob("*.index")):
        with tfreader.open(index) as checkpoint:
            names = [checkpoint.shown(info.name) for info in checkpoint.infos]
            assert told_by([*names, *(info.name for info in checkpoint.infos)]) == []


def test_every_type_of_transformers_classes_is_known_by_name():
    """Whoever has another checkpoint of such a model is told where it is to be had."""
    types = {name for name in _types() if find_family(name) is None and left_out(name) is None}
    assert types <= set(_PARTS)


# Parts and pairs of models, which nobody calls by these names.
_PARTS = (
    *("blip-text-model", "blip-vision-model", "clip-text-model", "clip-vision-model"),
    *("encoder-decoder", "groupvit-text-model", "groupvit-vision-model", "sam-vision-model"),
    *("vision-encoder-decoder", "vision-text-dual-encoder"),
)


def _types() -> set[str]:
    from tfreader.mapping.families import _hf_templates

    assert classes()
    assert float_keys("bert")
    return {name.replace("_", "-") for name in _hf_templates._data()["floats"]}


MSGPACK = b"\x82\xa7version\x03\xa9optimizer\x81\xa6target\xc0"


def _t5x(folder: Path) -> None:
    (folder / "checkpoint").write_bytes(MSGPACK)
    (folder / "target.encoder.layers_0.mlp.wi.kernel").mkdir()


def _flax(folder: Path) -> None:
    (folder / "flax_model.msgpack").write_bytes(b"\x82\xa4bert\x81\xaaembeddings\xc0")
    (folder / "config.json").write_text("{}")


def _orbax(folder: Path) -> None:
    (folder / "manifest.ocdbt").write_bytes(b"")
    (folder / "d").mkdir()


@pytest.mark.parametrize("write", [_t5x, _flax, _orbax])
def test_folders_of_jax_are_told(write, tmp_path):
    write(tmp_path)
    with pytest.raises(tfreader.CheckpointNotFoundError, match=r"one of JAX \(Flax, T5X, Orbax: "):
        tfreader.open(tmp_path)


def test_a_file_of_msgpack_is_told(tmp_path):
    (tmp_path / "model").write_bytes(MSGPACK)
    with pytest.raises(tfreader.CorruptCheckpointError, match="a msgpack file of JAX"):
        tfreader.open(tmp_path / "model")


def test_settings_beside_nothing_are_not_taken_for_jax(tmp_path):
    (tmp_path / "params.yaml").write_text("task: {}")
    with pytest.raises(tfreader.CheckpointNotFoundError) as raised:
        tfreader.open(tmp_path)
    assert "JAX" not in str(raised.value)
