"""The templates against the classes of the installed transformers, built without values."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from typing import Any

import pytest
import torch
import transformers
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from tfreader.mapping.families import _hf_templates as templates

SMALL = {"num_hidden_layers": 3, "vocab_size": 40}
HEADS = {"num_attention_heads": 2}
DECODER = {"is_decoder": True, "add_cross_attention": True}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertForMaskedLM", SMALL),
    "bert, cross attention": (
        "BertLMHeadModel",
        {**SMALL, "is_decoder": True, "add_cross_attention": True},
    ),
    "bert, untied": ("BertForMaskedLM", {**SMALL, "tie_word_embeddings": False}),
    "deberta-v2": (
        "DebertaV2ForTokenClassification",
        {
            **SMALL,
            "relative_attention": True,
            "position_biased_input": False,
            "pos_att_type": ["p2c", "c2p"],
            "norm_rel_ebd": "layer_norm",
            "conv_kernel_size": 3,
        },
    ),
    "convnext, no scale": (
        "ConvNextModel",
        {
            "layer_scale_init_value": 0.0,
            "num_stages": 2,
            "depths": [1, 2],
            "hidden_sizes": [8, 16],
        },
    ),
    "encoder-decoder, of one width": (
        "EncoderDecoderModel",
        {
            "encoder": {**SMALL, "model_type": "electra", "hidden_size": 8, **HEADS},
            "decoder": {**SMALL, "model_type": "bert", "hidden_size": 8, **HEADS, **DECODER},
        },
    ),
    "encoder-decoder, of two widths": (
        "EncoderDecoderModel",
        {
            "encoder": {**SMALL, "model_type": "bert", "hidden_size": 8, **HEADS},
            "decoder": {**SMALL, "model_type": "bert", "hidden_size": 16, **HEADS, **DECODER},
        },
    ),
    "regnet": ("RegNetForImageClassification", {"depths": [1, 2], "hidden_sizes": [8, 16]}),
    "resnet": ("ResNetModel", {"depths": [1, 2], "hidden_sizes": [8, 16], "layer_type": "basic"}),
    "t5": ("T5ForConditionalGeneration", {"num_layers": 2, "num_decoder_layers": 3}),
    "t5, gated": (
        "T5EncoderModel",
        {"num_layers": 2, "feed_forward_proj": "gated-gelu"},
    ),
    "xlnet": ("XLNetForSequenceClassification", {"n_layer": 2}),
}


def test_the_table_of_model_types_in_the_docs():
    docs = (ROOT / "docs" / "families.md").read_text()
    _, text = docs.split("## Transformers' TensorFlow classes")
    shown = Counter({name: int(n) for name, n in re.findall(r"`([\w-]+)` \| (\d+) \|", text)})
    known = Counter(templates.templates_for(name)[0].model_type for name in templates.classes())
    assert shown == known
    readme = (ROOT / "README.md").read_text()
    assert f"{known.total()} TensorFlow classes of transformers, of {len(known)} model" in readme


@cache
def model(case: str) -> tuple[str, frozenset[str], dict[str, Any]]:
    """The class, the tensors that a file of it has, and its config.json."""
    name, settings = CASES[case]
    return name, *built(name, settings)


def built(name: str, settings: dict[str, Any]) -> tuple[frozenset[str], dict[str, Any]]:
    kind = getattr(transformers, name)
    config = kind.config_class(**settings)
    with torch.device("meta"):
        made = kind(config)
    first: dict[int, str] = {}
    for tensor, value in made.state_dict(keep_vars=True).items():
        first.setdefault(id(value), tensor)
    return frozenset(first.values()), config.to_dict()


def unexpected(template, names):
    return sorted(name for name in names if not template.has(name))


@pytest.mark.parametrize("case", CASES)
def test_a_whole_model_lacks_nothing(case):
    name, names, config = model(case)
    (template,) = templates.templates_for(name, config)
    assert template.missing(names, config) == []
    assert template.missing(names) == []
    assert unexpected(template, names) == []


@pytest.mark.parametrize("case", CASES)
def test_every_single_tensor_is_missed(case):
    name, names, config = model(case)
    (template,) = templates.templates_for(name, config)
    # Transformers 5 unties this one with its weight, transformers 4 did not.
    own = {one for one in names if not one.endswith("cls.predictions.decoder.bias")}
    # Whether it is there depends on two widths, which no key compares.
    own -= {"enc_to_dec_proj.weight", "enc_to_dec_proj.bias"}
    assert [one for one in own if not template.missing(names - {one}, config)] == []


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_part_of_a_layer_goes_unseen(data):
    """Without the config too: whatever goes, a rest of its layer or a later layer tells."""
    name, names, _ = model("bert")
    (template,) = templates.templates_for(name)
    gone = data.draw(st.sets(st.sampled_from(sorted(names)), min_size=1, max_size=20))
    assert set(template.missing(names - gone)) >= {
        one for one in gone if not one.startswith("bert.encoder.layer.2.")
    } - {"cls.predictions.decoder.weight"}


@pytest.mark.parametrize("case", CASES)
def test_names_that_the_class_has_not_are_unexpected(case):
    name, names, config = model(case)
    (template,) = templates.templates_for(name, config)
    strange = [f"{one}_2" for one in names] + ["x.y", "", ".", "bert..encoder", "0", "9" * 9]
    strange += ["bert.encoder.layer.007.output.dense.bias", ".".join("1" * 60)]
    strange += ["encoder.layers.{i}.blocks.0.layernorm_before.bias", "bert.encoder.layer.{i}"]
    assert unexpected(template, [*names, *strange]) == sorted(strange)


def test_a_layer_of_another_number_is_a_gap():
    name, names, _ = model("bert")
    (template,) = templates.templates_for(name)
    moved = {one.replace("layer.1.", "layer.7.") for one in names}
    missing = template.missing(moved)
    assert {one.split(".")[3] for one in missing} == {"1", "3", "4", "5", "6"}
    assert not unexpected(template, moved)
    far = {one.replace("layer.2.", "layer.9998.") for one in names}
    assert 0 < len(template.missing(far)) < 5000


def test_the_last_layers_are_missed_where_the_config_counts_them():
    name, names, config = model("t5")
    (template,) = templates.templates_for(name)
    short = {one for one in names if not one.startswith("decoder.block.2.")}
    assert template.missing(short) == []
    missing = template.missing(short, config)
    assert missing and {one.rpartition(".layer.")[0] for one in missing} == {"decoder.block.2"}
    assert template.missing(short, {**config, "num_decoder_layers": 10**9}) == []


def test_ties_are_told():
    (template,) = templates.templates_for("TFT5ForConditionalGeneration")
    for alias in ("lm_head.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):
        assert template.tied_to(alias) == "shared.weight"
    assert template.tied_to("shared.weight") is None
    _, names, config = model("t5")
    assert "lm_head.weight" not in template.missing(names - {"lm_head.weight"}, config)
    untied = {**config, "tie_word_embeddings": False}
    assert template.missing(names - {"lm_head.weight"}, untied) == ["lm_head.weight"]


def test_the_stages_but_the_last_end_in_one_more_tensor():
    blocks = ["0.blocks.0", "1.blocks.0", "1.blocks.1", "2.blocks.0"]
    (template,) = templates.templates_for("TFSwinModel")
    layers = [name for name in template.patterns if ".blocks." in name]
    names = {name for name in template.patterns if "{i}" not in name}
    names |= {name.replace("{i}.blocks.{i}", block) for name in layers for block in blocks}
    down = {
        f"encoder.layers.{stage}.downsample.{name}"
        for stage in (0, 1)
        for name in ("norm.bias", "norm.weight", "reduction.weight")
    }
    assert template.missing(names | down) == []
    assert template.missing(names | {name for name in down if ".0." in name}) == sorted(
        name for name in down if ".1." in name
    )
    lost = {name for name in names if ".1.blocks." in name}
    assert {name.partition("blocks")[0] for name in template.missing((names | down) - lost)} == {
        "encoder.layers.1."
    }


def test_the_parts_of_a_composed_class_choose_its_template():
    names, config = built(
        "EncoderDecoderModel",
        {
            "encoder": transformers.BertConfig(num_hidden_layers=1).to_dict(),
            "decoder": transformers.GPT2Config(
                n_layer=1, is_decoder=True, add_cross_attention=True
            ).to_dict(),
        },
    )
    names -= {"decoder.lm_head.weight"}
    (template,) = templates.templates_for("EncoderDecoderModel", config)
    assert (template.missing(names, config), unexpected(template, names)) == ([], [])
    assert template.parts == {"encoder": "bert", "decoder": "gpt2"}
    config["decoder"]["model_type"] = "another"
    assert templates.templates_for("EncoderDecoderModel", config) == ()


def test_all_classes_are_there_and_others_are_not():
    assert len(templates.classes()) == 270
    for name in templates.classes():
        for template in templates.templates_for(name):
            assert template.model_type and template.patterns
            assert template.missing(set()), name
    assert templates.templates_for("LlamaForCausalLM") == ()


def test_the_keys_for_floats_are_those_that_transformers_refuses_whole():
    assert "layer_norm_eps" in templates.float_keys("bert")
    assert "hidden_dropout_prob" not in templates.float_keys("bert")  # it takes both
    assert templates.float_keys("unknown") == ()
    for model_type in ("bert", "deberta-v2", "swin", "t5", "whisper"):
        config = transformers.CONFIG_MAPPING[model_type]
        for key in templates.float_keys(model_type):
            config(**{key: 1.0})
            with pytest.raises(Exception, match=key):
                config(**{key: 1})
