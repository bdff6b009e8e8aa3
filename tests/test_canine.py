from __future__ import annotations

import json

import numpy as np
import pytest
import transformers
from bundle_writer import write_bundle
from conftest import DATA
from outputs import check_forward

import tfreader
from tfreader.mapping import convert, load_state_dict, make_plan

CANINE = DATA / "canine"
BARE, SPANS, TEXTS = "CanineModel", "CanineForQuestionAnswering", "CanineForSequenceClassification"
POSITIONS = "char_embeddings/char_position_embeddings"
SEGMENTS = "char_embeddings/segment_embeddings"


def variables(name):
    with tfreader.open(CANINE / name) as checkpoint:
        return {variable: checkpoint[variable] for variable in checkpoint}


def given(name, **changed):
    return json.loads((CANINE / name / "canine_config.json").read_text()) | changed


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def plan(source, **options):
    with tfreader.open(source) as checkpoint:
        return make_plan(checkpoint, **options)


def check_outputs(output, name, architecture):
    check_forward(output, CANINE / name / "forward.npz", architecture, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "architecture"), [("bare", BARE), ("tydi", SPANS), ("classifier", TEXTS)]
)
def test_all_classes_give_tensorflows_outputs(name, architecture, tmp_path):
    report = convert(CANINE / name, tmp_path / "own")
    assert report.plan.family.model_type == "canine"
    assert report.plan.architecture == architecture
    check_outputs(tmp_path / "own", name, architecture)
    convert(CANINE / name, tmp_path / "base", architecture=BARE)
    check_outputs(tmp_path / "base", name, BARE)


@pytest.mark.parametrize("architecture", ["CanineForTokenClassification", TEXTS])
def test_one_head_is_of_several_classes(architecture):
    made = plan(CANINE / "classifier", architecture=architecture)
    assert len(made.config["id2label"]) == 4
    assert {"classifier.weight", "classifier.bias"} <= {entry.target for entry in made.entries}


def test_choices_are_scored_with_one_row():
    with pytest.raises(tfreader.ConfigError, match="scores each choice with one row"):
        plan(CANINE / "classifier", architecture="CanineForMultipleChoice")


def test_heads_that_no_class_has_are_left_out_with_the_reason():
    dropped = plan(CANINE / "bare").dropped
    assert dropped["char_output_weights"] == "a head of pre-training, which no class has"
    assert "autoregressive_decoder/layer_0/attention/self/query/bias" in dropped
    assert "types of answers" in plan(CANINE / "tydi").dropped["answer_type_output_weights"]


def test_squads_names_are_spans_too(tmp_path):
    tensors = {name.replace("tydi", "squad"): value for name, value in variables("tydi").items()}
    report = convert(
        write_bundle(tmp_path / "model.ckpt", tensors), tmp_path / "out", config=given("tydi")
    )
    assert report.plan.architecture == SPANS
    check_outputs(tmp_path / "out", "tydi", SPANS)


def test_without_a_config_shapes_tell_all_but_heads_and_chunks(tmp_path):
    prefix = write_bundle(tmp_path / "model.ckpt", variables("classifier"))
    with pytest.raises(tfreader.ConfigError, match="num_attention_heads.*\n.*--config canine_con"):
        convert(prefix, tmp_path / "out")
    report = convert(prefix, tmp_path / "out", overrides={"num_attention_heads": 2})
    assert any(note.startswith("local_transformer_stride = 128: the or") for note in report.notes)
    overrides = {"num_attention_heads": 2, "local_transformer_stride": 8}
    convert(prefix, tmp_path / "sized", overrides=overrides)
    check_outputs(tmp_path / "sized", "classifier", TEXTS)
    found, wanted = config_of(tmp_path / "sized"), given("classifier", hidden_act="gelu_new")
    wanted["max_position_embeddings"] = wanted.pop("max_positions")
    told = {key for key in wanted if key in found}
    assert {key: found[key] for key in told} == {key: wanted[key] for key in told}
    assert len(wanted) - len(told) == 3  # two dropouts, initializer_range


def test_the_other_name_of_its_config(tmp_path):
    prefix = write_bundle(tmp_path / "model.ckpt", variables("bare"))
    (tmp_path / "model_config.json").write_text(json.dumps(given("bare")))
    made = plan(prefix)
    assert made.config["local_transformer_stride"] == 8
    assert any("model_config.json, by its keys the only one" in note for note in made.notes)


def test_positions_are_padded_to_the_buckets():
    made = plan(CANINE / "classifier")
    assert made.config["max_position_embeddings"] == 24
    assert any("rows from 24 on are zeros" in note for note in made.notes)
    assert not any("are zeros" in note for note in plan(CANINE / "bare").notes)
    name = "canine.char_embeddings.char_position_embeddings.weight"
    table = load_state_dict(CANINE / "classifier")[name]
    assert table.shape == (40, 12)
    assert table[:24].numpy().tobytes() == variables("classifier")[POSITIONS].tobytes()
    assert not table[24:].any()


def test_more_positions_than_buckets_are_refused(tmp_path):
    tensors = variables("bare")
    tensors[POSITIONS] = np.zeros((25, 12), "f4")
    prefix = write_bundle(tmp_path / "model.ckpt", tensors)
    with pytest.raises(tfreader.PlanError, match="has 25 rows, but .* num_hash_buckets = 24"):
        convert(prefix, tmp_path / "out", config=given("bare", max_positions=25))
    assert not (tmp_path / "out").exists()


def test_segments_that_the_original_makes_in_any_case(tmp_path):
    tensors = variables("bare")
    tensors[SEGMENTS] = np.zeros((16, 12), "f4")
    prefix = write_bundle(tmp_path / "model.ckpt", tensors)
    made = plan(prefix, config=given("bare", type_vocab_size=2))
    assert made.config["type_vocab_size"] == 16
    assert any("type_vocab_size = 16, as the original" in note for note in made.notes)
    with pytest.raises(tfreader.PlanError, match="type_vocab_size = 2 in"):
        plan(prefix, config=given("bare"), overrides={"type_vocab_size": 2})
    with pytest.raises(tfreader.PlanError, match="type_vocab_size = 2 in"):
        plan(CANINE / "bare", config=given("bare", type_vocab_size=2))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"num_hash_functions": 4}, "num_hash_functions = 4 in"),
        ({"num_hash_buckets": 25}, "num_hash_buckets = 25 in"),
        ({"max_positions": 16}, "max_position_embeddings = 16 in"),
        ({"downsampling_rate": 2}, "downsampling_rate = 2 in"),
        ({"upsampling_kernel_size": 2}, "upsampling_kernel_size = 2 in"),
        ({"local_transformer_stride": 0}, "expected 1 or more"),
        ({"num_attention_heads": 5}, "not a multiple of num_attention_heads = 5"),
        ({"hidden_act": "mish"}, "hidden_act = 'mish', known are"),
        ({"upsampling_kernal_size": 2}, "'upsampling_kernel_size' meant"),
    ],
)
def test_what_cannot_be_is_refused(keys, said):
    with pytest.raises(tfreader.TFReaderError, match=said):
        plan(CANINE / "bare", config=given("bare", **keys))


def test_more_hashes_than_there_are_primes_are_refused(tmp_path):
    tensors = {n: v for n, v in variables("bare").items() if "HashBucket" not in n}
    name = "char_embeddings/embeddings/HashBucketCodepointEmbedder_"
    sizes = {12: 34, 24: 68}
    tensors = {
        n: np.zeros([sizes.get(size, size) for size in v.shape], v.dtype)
        for n, v in tensors.items()
    }
    tensors |= {f"{name}{i}": np.zeros((68, 2), "f4") for i in range(17)}
    prefix = write_bundle(tmp_path / "model.ckpt", tensors)
    with pytest.raises(tfreader.ConfigError, match="num_hash_functions = 17, at most 16"):
        plan(prefix, overrides={"num_attention_heads": 2})


def test_the_tokenizer_needs_no_vocabulary(tmp_path):
    convert(CANINE / "bare", tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert type(tokenizer).__name__ == "CanineTokenizer"
    assert tokenizer.model_max_length == 24
    assert tokenizer("ab")["input_ids"] == [0xE000, 97, 98, 0xE001]


def test_a_table_of_characters_that_is_not_there_is_told(tmp_path):
    folder = next(path.parent for path in (DATA / "canine").rglob("*.index"))
    with tfreader.open(folder) as checkpoint:
        last = max(name for name in checkpoint if "Codepoint" in name and name[-1].isdigit())
        tensors = {k: checkpoint[k] for k in checkpoint if not k.startswith(last)}
    prefix = write_bundle(tmp_path / "model.ckpt", tensors)
    with (
        pytest.raises(tfreader.PlanError, match="is not whole"),
        tfreader.open(prefix) as checkpoint,
    ):
        make_plan(checkpoint)
