"""Configs: which keys and values are taken, named or refused, and where the files are found."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import time

import numpy as np
import pytest
import transformers
from bundle_writer import write_bundle
from conftest import BERT, DATA, ROOT

import tfreader
from tfreader.mapping import convert, make_plan
from tfreader.mapping.config_checks import as_written, near
from tfreader.mapping.config_keys import KINDS, TOKENS, class_keys, tables
from tfreader.mapping.families import families, open_source
from tfreader.mapping.families.transfo_xl import Vocabulary, _divisor

BERT_CONFIG = json.loads((BERT / "bert_config.json").read_text())
OWN = [name for name, family in families().items() if not family.any_type]
CONFIGS = [name for name in OWN if name != "transfo-xl"]  # which transformers 5 lacks


def plan(folder=BERT, **options):
    with open_source(folder) as checkpoint:
        return make_plan(checkpoint, **options)


def changed(**keys):
    return {**BERT_CONFIG, **keys}


@pytest.mark.parametrize("model_type", CONFIGS)
def test_the_table_has_every_key_of_transformers_class_and_takes_its_defaults(model_type):
    config = transformers.AutoConfig.for_model(model_type).to_dict()
    kinds = class_keys(model_type)
    assert config.keys() - kinds.keys() == set()
    values = {key: value for key, value in config.items() if value is not None}
    assert [key for key, value in values.items() if not kinds[key].fits(value)] == []


@pytest.mark.parametrize("model_type", CONFIGS)
def test_transformers_class_takes_what_the_table_takes_of_tokens(model_type):
    kinds = class_keys(model_type)
    values = {key: [v for v in (3, [1, 2]) if kinds[key].fits(v)] for key in TOKENS}
    for key, taken in values.items():
        for value in taken + [None] * kinds[key].may_be_null:
            transformers.AutoConfig.for_model(model_type, **{key: value})
    assert [1, 2] in values["eos_token_id"] and [1, 2] not in values["pad_token_id"]


def test_every_family_has_a_table():
    assert {name.replace("-", "_") for name in OWN} == set(tables())


def test_a_key_that_nobody_knows_is_named_but_not_the_originals_own():
    config = changed(directionality="bidi", pooler_type="first", do_lower_case=True, my_gate=1)
    (note,) = (note for note in plan(config=config).notes if "nor transformers knows" in note)
    assert "'my_gate'" in note.replace('"', "'")
    assert "directionality" not in note and "pooler" not in note
    assert not any("nor transformers" in note for note in plan(config=BERT_CONFIG).notes)
    assert any("my_gate" in note for note in plan(overrides={"my_gate": 1}).notes)


def test_a_family_may_have_keys_in_an_object_of_their_own(monkeypatch):
    family = families()["bert"]
    monkeypatch.setattr(family, "flat", lambda keys: {**keys.pop("inner"), **keys}, raising=False)
    config = {"inner": BERT_CONFIG, "my_gate": 1}
    found = plan(config=dict(config))
    assert found.config["num_attention_heads"] == BERT_CONFIG["num_attention_heads"]
    assert any("my_gate" in note for note in found.notes)
    with pytest.raises(tfreader.ConfigError, match="'hidden_act' meant"):
        plan(config=config | {"inner": changed(hiden_act=1)})


def test_what_a_family_lacks_is_asked_for_by_it(monkeypatch, tmp_path):
    family = families()["bert"]
    monkeypatch.setattr(family, "lacking", lambda config: "--set x=1", raising=False)
    with pytest.raises(tfreader.ConfigError, match=r"bert-tiny/bert_model.ckpt: --set x=1"):
        convert(BERT, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("hiden_act", "hidden_act"),
        ("hidden-size", "hidden_size"),
        ("num_atention_head", "num_attention_heads"),
        ("laeyr_norm_eps", "layer_norm_eps"),
        ("use_realtive_position", "use_relative_position"),
    ],
)
def test_a_misspelled_key_is_refused_with_what_is_meant(key, meant):
    for options in ({"config": changed(**{key: 1})}, {"overrides": {key: 1}}):
        with pytest.raises(tfreader.ConfigError, match=f"'{key}': is '{meant}' meant"):
            plan(**options)


def test_keys_that_are_alike_by_nature_are_no_misspellings():
    assert near("amp", ["asm"]) is None
    assert near("num_heads", ["num_beams", "num_attention_heads"]) is None
    assert near("is_encoder", ["is_decoder"]) is None
    assert near("n_heads", ["n_head", "n_embd"]) == "n_head"


@pytest.mark.parametrize(
    ("key", "refused", "harmless"),
    [
        ("use_running_mean", [True, False], []),
        ("ln_type", ["preln"], ["postln"]),
        ("use_relative_position", [True], [False]),
        ("norm_first", [True], [False]),
        ("attention_type", ["block_sparse"], ["original_full"]),
        ("position_embedding_type", ["relative_key"], ["absolute"]),
        ("trigram_input", [True], [False]),
    ],
)
def test_a_key_of_other_arithmetic_is_refused_unless_its_value_changes_nothing(
    key, refused, harmless
):
    for value in refused:
        for options in ({"config": changed(**{key: value})}, {"overrides": {key: value}}):
            with pytest.raises(tfreader.ConfigError, match=f"{key} = .* no conversion is right"):
                plan(**options)
    for value in harmless:
        assert not any(key in note for note in plan(config=changed(**{key: value})).notes)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"hidden_size": "24"}, 'hidden_size = "24", expected a whole number'),
        ({"hidden_size": True}, "hidden_size = true"),
        ({"hidden_size": 24.0}, "hidden_size = 24.0"),
        ({"num_hidden_layers": 10**6}, "a whole number up to 10000"),
        ({"layer_norm_eps": float("inf")}, "layer_norm_eps = Infinity"),
        ({"hidden_act": ["gelu"]}, "hidden_act = "),
        ({"hidden_act": None}, "hidden_act: null"),
        ({"tie_word_embeddings": "yes"}, "true or false"),
        ({"pad_token_id": [[0]]}, "the number of a token"),
        ({"architectures": 5}, "--architecture"),
        ({"model_type": "roberta"}, "--model_type"),
        ({"id2label": "no"}, "a list of names"),
        ({"id2label": [["a"], "b", "c", "d"]}, "must name the labels 0 to N - 1"),
        ({"id2label": {"1": "a", "2": "b", "3": "c", "4": "d"}}, "must name the labels"),
        ({"id2label": ["a", "b", "b", "c"]}, "must name the labels"),
        ({"id2label": ["a", "b"]}, "names 2 labels, the checkpoint's head has 4"),
        ({"id2label": list("abcd"), "label2id": list("abdc")}, "different labels"),
    ],
)
def test_a_value_of_another_type_is_refused(overrides, message):
    with pytest.raises(tfreader.ConfigError, match=message):
        plan(DATA / "classifier", overrides=overrides)


@pytest.mark.parametrize("model_type", OWN)
def test_no_value_of_a_file_is_looked_at_before_its_type_is_known(tmp_path, model_type):
    write_bundle(tmp_path / "model.ckpt", {"x": np.ones(2, np.float32)})
    for key in class_keys(model_type):
        for value in ([[1]], {"a": {}}, "\x00", 10**30, -1.5):
            with pytest.raises((tfreader.ConfigError, tfreader.PlanError)):
                plan(tmp_path / "model.ckpt", model_type=model_type, config={key: value})


@pytest.mark.parametrize(
    "overrides",
    [
        {"id2label": list("abcd")},
        {"id2label": dict(zip("0123", "abcd", strict=True))},
        {"label2id": {name: i for i, name in enumerate("abcd")}},
    ],
)
def test_labels_are_named_both_ways(overrides):
    stale = {"label2id": {f"LABEL_{i}": i for i in range(4)}}
    config = json.loads((DATA / "classifier" / "bert_config.json").read_text())
    for options in ({"overrides": overrides}, {"config": {**config, **stale, **overrides}}):
        written = plan(DATA / "classifier", **options).config
        assert written["id2label"] == {"0": "a", "1": "b", "2": "c", "3": "d"}
        assert written["label2id"] == {"a": 0, "b": 1, "c": 2, "d": 3}


@pytest.mark.parametrize(
    ("folder", "overrides", "message"),
    [
        ("albert/pretraining", {"id2label": list("abc")}, "2, the config 3.*id2label=null"),
        ("albert/pretraining", {"num_labels": 3}, "2, the config 3: --set num_labels=2"),
        ("t5/v10", {"is_gated_act": True}, "is_gated_act = True.*--set is_gated_act=false"),
        ("t5/v11", {"is_gated_act": False}, "is_gated_act = False.*--set is_gated_act=true"),
        ("t5/v10", {"dense_act_fn": "gelu"}, "dense_act_fn = 'gelu', but feed_forward_proj"),
        ("classifier", {"pruned_heads": {"0": [1]}}, "--set pruned_heads=null"),
        ("classifier", {"dtype": "relu"}, "--set dtype: .relu., expected float16"),
        ("classifier", {"pad_token_id": [1]}, "expected the number of a token"),
        ("classifier", {"initializer_range": 10**400}, "expected a number"),
        ("classifier", {"initializer_range": -1}, "expected a number from 0 on"),
        ("classifier", {"layer_norm_eps": -1e-12}, "expected a number from 0 on"),
        ("classifier", {"pad_token_id": 500}, "the vocabulary has 64 tokens"),
        ("classifier", {"eos_token_id": [1, 64]}, "--set eos_token_id: .*= 64, but the vocab"),
        ("classifier", {"problem_type": "regresion"}, "expected one of regression"),
        ("classifier", {"attn_implementation": "spda"}, "as sdpa or eager"),
        ("gpt2", {"activation_function": "gelu_old"}, "expected one of gelu"),
        ("gpt", {"afn": "tanh"}, "expected one of gelu, relu"),
        ("mobilebert/pretraining", {"true_hidden_size": 7}, "true_hidden_size = 7, but"),
        ("xlm/causal/best-valid_en_clm_ppl.pth", {"is_encoder": False}, "--set is_encoder=true"),
        ("tapas/wtq", {"aggregation_labels": {"a": 1}}, "names by their numbers"),
    ],
)
def test_what_the_class_cannot_be_made_of_is_refused(folder, overrides, message):
    with pytest.raises(tfreader.ConfigError, match=message):
        plan(DATA / folder, overrides=overrides)


def test_tokens_beyond_the_vocabulary_in_a_file_are_refused_where_loading_fails():
    config = json.loads((DATA / "classifier" / "bert_config.json").read_text())
    assert plan(DATA / "classifier", config={**config, "bos_token_id": 500}).entries
    with pytest.raises(tfreader.ConfigError, match="the config: pad_token_id = 500, but"):
        plan(DATA / "classifier", config={**config, "pad_token_id": 500})


def test_padding_beyond_the_vocabulary_is_kept_where_the_class_has_no_row_for_it():
    config = json.loads((DATA / "gpt2" / "hparams.json").read_text())
    assert plan(DATA / "gpt2", config={**config, "pad_token_id": 50257}).config["pad_token_id"]
    with pytest.raises(tfreader.ConfigError, match="--set pad_token_id: .*= 50257, but"):
        plan(DATA / "gpt2", overrides={"pad_token_id": 50257})


@pytest.mark.parametrize(
    "legal",
    [
        {"attn_implementation": "flash_attention_4"},
        {"attn_implementation": {"": "sdpa", "vision_config": "eager"}},
        {"_attn_implementation_internal": "sdpa_paged"},  # which transformers passes over
        {"cls_token_id": 101, "eos_token_ids": 0},  # of version 2's configs
        {"hidden_act": "gelu_pytorch_tanh"},
        {"hidden_act": "swish"},
    ],
)
def test_what_transformers_takes_is_taken(legal):
    config = json.loads((DATA / "classifier" / "bert_config.json").read_text())
    assert plan(DATA / "classifier", config={**config, **legal}).config.items() >= legal.items()


def test_a_task_is_named_once():
    with pytest.raises(tfreader.ConfigError, match="give one of them"):
        plan(overrides={"finetuning_task": "sqa"}, finetuning_task_name="wtq")


def test_numbers_and_flags_are_written_as_transformers_insists_on_them():
    whole = {"layer_norm_eps": 0, "initializer_range": 1, "use_cache": 1, "is_decoder": 0}
    written = plan(DATA / "classifier", overrides=whole).config
    assert {key: repr(written[key]) for key in whole} == {
        "layer_norm_eps": "0.0",
        "initializer_range": "1.0",
        "use_cache": "True",
        "is_decoder": "False",
    }


def test_null_clears_a_key():
    written = plan(DATA / "classifier", overrides={"id2label": None, "pad_token_id": None}).config
    assert written["label2id"] == {f"LABEL_{i}": i for i in range(4)}
    assert written["pad_token_id"] is None


def test_another_name_of_a_key_is_that_key():
    assert plan(DATA / "gpt2", overrides={"num_attention_heads": 6}).config["n_head"] == 6
    with pytest.raises(tfreader.ConfigError, match="--set n_head: is n_head, which is set too"):
        plan(DATA / "gpt2", overrides={"num_attention_heads": 6, "n_head": 6})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"hidden_size": 24, "hidden_size": 48}', "'hidden_size' stands twice"),
        ('{"a": ' + "[" * 200 + "]" * 200 + "}", "nested more than 64"),
        ('{"a": ' + "[" * 100_000, "nested more than 64"),
        ("[1]", "not a JSON object"),
    ],
)
def test_a_file_that_is_no_config(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(tfreader.ConfigError, match=message):
        plan(config=tmp_path / "config.json")


def test_a_million_layers_are_refused_before_they_are_made(tmp_path):
    layers = {f"model/transformer/{n}": np.ones((3, 4), np.float32) for n in ("r_w_bias",)}
    write_bundle(tmp_path / "model.ckpt", layers)
    for number, error in ((10**6, tfreader.ConfigError), (10**4, tfreader.PlanError)):
        start = time.monotonic()
        with pytest.raises(error):
            plan(
                tmp_path / "model.ckpt",
                model_type="xlnet",
                config={"n_layer": number, "n_head": 3, "d_head": 4},
            )
        assert time.monotonic() - start < 20


def test_the_divisor_of_wide_clusters_is_found_at_once():
    def words(*widths):
        return Vocabulary((1,) * len(widths), widths, 8, False, frozenset(), frozenset())

    assert _divisor(words(1024, 256, 64, 16), None) == 4
    assert _divisor(words(10, 3, 1), None) == 3
    assert _divisor(words(10, 3, 1), 3.0) == 3
    assert _divisor(words(8, 2, 0), 4) == 4  # 8 // 16
    for widths in ((1 << 40, 1, 1), (1 << 40, 7), (0, 0), (8, 9)):
        start = time.monotonic()
        if widths == (1 << 40, 7):
            assert (1 << 40) // _divisor(words(*widths), None) == 7
        else:
            with pytest.raises(tfreader.ConfigError, match="no div_val"):
                _divisor(words(*widths), None)
        assert time.monotonic() - start < 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e308])
def test_no_parameter_of_xlm_is_out_of_all_bounds(value, tmp_path):
    path = DATA / "xlm" / "adaptive" / "checkpoint.pth"
    for key in ("n_heads", "dropout", "emb_dim", "asm_div_value", "n_langs", "layer_norm_eps"):
        if (key, value) not in [("dropout", 1e308), ("layer_norm_eps", 1e308)]:
            with pytest.raises(
                (tfreader.ConfigError, tfreader.PlanError), match=f"{key}|dimension of 0"
            ):
                convert(path, tmp_path / "out", overrides={key: value})


def test_a_folder_may_be_given_for_the_config(tmp_path):
    write_bundle(tmp_path / "alone" / "model.ckpt", read(BERT))
    found = plan(tmp_path / "alone", config=BERT)
    assert found.config_path == str(BERT / "bert_config.json")
    with pytest.raises(tfreader.ConfigError, match=r"none of bert_config\.json in it"):
        plan(config=tmp_path / "alone")


def read(folder):
    with open_source(folder) as checkpoint:
        return {name: checkpoint[name] for name in checkpoint}


def test_the_only_config_of_another_name_is_taken_and_said(tmp_path):
    write_bundle(tmp_path / "model.ckpt", read(BERT))
    for name in ("tokenizer_config", "notes"):
        (tmp_path / f"{name}.json").write_text('{"do_lower_case": true, "hidden_size": 3}')
    (tmp_path / "albert_config.json").write_text(json.dumps(changed(embedding_size=2)))
    (tmp_path / "t5.json").write_text(json.dumps(changed(model_type="t5")))
    (tmp_path / "bert_config_small.json").write_text(json.dumps(changed(hidden_act="relu")))
    found = plan(tmp_path)
    assert found.config["hidden_act"] == "relu"
    assert any("bert_config_small.json, by its keys the only one" in note for note in found.notes)
    (tmp_path / "other.json").write_text(json.dumps(BERT_CONFIG))
    found = plan(tmp_path, overrides={"num_attention_heads": 2})
    assert any("any of bert_config_small.json, other.json could be" in n for n in found.notes)
    with pytest.raises(tfreader.ConfigError, match="several that could be the config"):
        plan(tmp_path, config=tmp_path)
    with pytest.raises(tfreader.ConfigError, match="needs num_attention_heads"):
        convert(tmp_path, tmp_path / "out")


# Strict since version 5: transformers' classes take no 1 for true, and no 0 for 0.0.
@pytest.mark.parametrize("model_type", CONFIGS)
def test_values_are_written_as_transformers_class_takes_them(model_type):
    base = transformers.AutoConfig.for_model(model_type)
    kinds = class_keys(model_type)
    strict = {KINDS[name].words for name in ("flag", "number", "dropout", "ratio")}
    for value in (0, 1, 0.5, True):
        given = {key: value for key, kind in kinds.items() if kind.fits(value)}
        written = as_written(model_type, given)
        assert written == given  # another type, no other value
        for key in [key for key in given if kinds[key].words in strict]:
            type(base).from_dict({**base.to_dict(), key: written[key]})


def test_the_written_config_has_numbers_and_flags_of_the_right_types(tmp_path):
    config = changed(hidden_dropout_prob=0, initializer_range=1, use_cache=1)
    convert(BERT, tmp_path / "out", config=config)
    loaded = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert (loaded.initializer_range, loaded.use_cache) == (1.0, True)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_dropout_prob", 1.5),
        ("attention_probs_dropout_prob", -1),
        ("pad_token_id", [0]),
        ("initializer_range", 10**400),
        ("dtype", "gelu"),
        ("dtype", ["float32"]),
    ],
)
def test_values_that_transformers_class_refuses_are_refused(key, value):
    with pytest.raises(tfreader.ConfigError, match=f"{key}.*, expected"):
        plan(overrides={key: value})


def test_the_config_beside_a_folder_export_is_that_of_the_saved_model_in_it(tmp_path):
    for place in ("export", "other"):
        shutil.copytree(BERT, tmp_path / place / "variables")
        (tmp_path / place / "variables" / "bert_config.json").unlink()
    (tmp_path / "bert_config.json").write_text(json.dumps(BERT_CONFIG))
    found = plan(tmp_path / "export" / "variables").config
    assert found["num_attention_heads"] == BERT_CONFIG["num_attention_heads"]
    assert plan(tmp_path / "other" / "variables").config.get("num_attention_heads") is None


@pytest.mark.parametrize("key", ["id2label", "label2id"])
@pytest.mark.parametrize("nothing", [None, {}, []])
@pytest.mark.parametrize("source", ["examples/tf-classifier", "tests/data/classifier"])
def test_to_clear_one_of_the_labels_clears_both(source, nothing, key):
    """Or the names of one would be left beside numbers of none."""
    written = plan(ROOT / source, overrides={key: nothing}).config
    labels = {0: None, 4: {f"LABEL_{i}": i for i in range(4)}}
    assert written["label2id"] == labels[4 if source.endswith("data/classifier") else 0]
    assert bool(written["id2label"]) == bool(written["label2id"])


def test_to_clear_one_of_the_labels_and_set_the_other_is_to_set_it():
    source, pair = ROOT / "examples" / "tf-classifier", (["no", "yes"], {"no": 0, "yes": 1})
    for overrides in (
        {"id2label": pair[0], "label2id": None},
        {"label2id": pair[1], "id2label": {}},
    ):
        written = plan(source, overrides=overrides).config
        assert written["id2label"] == {"0": "no", "1": "yes"}
        assert written["label2id"] == pair[1]


def test_labels_that_were_set_are_followed_and_nothing_is_to_be_done():
    source = ROOT / "examples" / "tf-classifier"
    made = plan(source, overrides={"id2label": ["no", "yes"]})
    (said,) = (note for note in made.notes if "label2id" in note)
    assert said == "label2id follows the id2label that was set: nothing to do"
    assert made.config["label2id"] == {"no": 0, "yes": 1}


def settings(said):
    """What a message says to set, as a shell takes it."""
    (pair,) = shlex.split(re.search(r"--set ('[^']*')", said)[1])
    key, _, value = pair.partition("=")
    return {key: json.loads(value)}


def test_names_that_disagree_are_settled_by_the_flag_that_is_named():
    source = ROOT / "examples" / "tf-classifier"
    config = json.loads((source / "config.json").read_text()) | {"label2id": {"a": 0, "b": 1}}
    made = plan(source, config=config)
    assert made.config["id2label"] == {"0": "bad", "1": "good"}
    (said,) = (note for note in made.notes if "label2id" in note)
    again = plan(source, config=config, overrides=settings(said))
    assert again.config["id2label"] == {"0": "a", "1": "b"}


@pytest.mark.parametrize("source", ["examples/tf-classifier", "tests/data/classifier"])
def test_another_number_of_labels_is_named_as_the_message_says(source):
    with pytest.raises((tfreader.ConfigError, tfreader.PlanError), match="name as many") as raised:
        plan(ROOT / source, overrides={"id2label": ["a", "b", "c"]})
    written = plan(ROOT / source, overrides=settings(str(raised.value))).config
    assert written["id2label"]["0"] == "LABEL_0"
    assert len(written["id2label"]) == len(written["label2id"]) != 3


def test_labels_and_their_number_count_the_same():
    source = ROOT / "examples" / "tf-classifier"
    with pytest.raises(tfreader.ConfigError, match="2 labels, and num_labels is 3 in --set num_l"):
        plan(source, overrides={"num_labels": 3})
    with pytest.raises(tfreader.ConfigError, match="^--set label2id: label2id names 1 labels"):
        plan(DATA / "classifier", overrides={"label2id": {"x": 0}})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"hidden_act": "geluu"}, "expected one of gelu"),
        ({"vocab_size": None}, "--set vocab_size: null, expected a whole number"),
        ({"num_attention_heads": 5}, "of which hidden_size = 8 is no multiple"),
        ({"initializer_range": -1}, "a number from 0 on"),
        ({"hiden_act": "gelu"}, "is 'hidden_act' meant"),
        ({"pad_token_id": 11}, "the vocabulary has 11 tokens"),
    ],
)
def test_what_is_set_is_held_against_a_config_of_transformers_own(overrides, message):
    folder = ROOT / "examples" / "tf-classifier"
    with pytest.raises(tfreader.ConfigError, match=message):
        plan(folder, overrides=overrides)
    found = plan(folder, overrides={"classifier_dropout": None, "my_gate": 1, "hidden_act": "relu"})
    assert found.config["hidden_act"] == "relu"
    (note,) = (note for note in found.notes if "--set" in note)
    assert 'has no "my_gate" so far' in note
