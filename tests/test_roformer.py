from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
import torch
import transformers
from bundle_writer import write_bundle
from conftest import DATA

import tfreader
from tfreader.mapping import convert, make_plan

ROFORMER = DATA / "roformer"
MASKED, DECODER = "RoFormerForMaskedLM", "RoFormerForCausalLM"
LABELS = "RoFormerForTokenClassification"
CONFIG = json.loads((ROFORMER / "decoder" / "bert_config.json").read_text())


def variables(name):
    with tfreader.open(ROFORMER / name) as checkpoint:
        return {variable: checkpoint[variable] for variable in checkpoint}


def named(name):
    """Variables of an object-based checkpoint under their own names, as a session saves them."""
    with tfreader.open(ROFORMER / name) as checkpoint:
        graph = checkpoint.object_graph
        return {graph.name(key): checkpoint[key] for key in checkpoint if "OBJECT" not in key}


def plan(folder, tensors, model_type="auto", config=CONFIG, **options):
    prefix = write_bundle(folder / "model.ckpt", tensors)
    return make_plan(tfreader.open(prefix), model_type, config=config, **options)


def sees_later_words(model):
    """Whether a decoder is none, as transformers 5.17's."""
    words = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 5]])
    with torch.no_grad():
        first, second = model.eval()(words).logits[:, :3]
    return not torch.allclose(first, second, atol=1e-5)


def check_outputs(output, name, architecture):
    """The model loads without a key too few or too many, and computes what bert4keras did."""
    model, info = getattr(transformers, architecture).from_pretrained(
        output, output_loading_info=True
    )
    assert not any(info.values())
    expected = np.load(ROFORMER / name / "forward.npz")
    inputs = {key: torch.from_numpy(expected[key]) for key in expected if "output" not in key}
    with torch.no_grad():
        logits = model.eval()(**inputs).logits
    seen = expected["attention_mask"] == 1
    if architecture == DECODER and sees_later_words(model):
        pytest.skip(f"transformers {transformers.__version__}: its decoder sees later words")
    np.testing.assert_allclose(logits[seen], expected["output_logits"][seen], atol=2e-5)


@pytest.mark.parametrize(
    ("name", "architecture"),
    [("projected", None), ("keras", None), ("labels", None), ("decoder", DECODER)],
)
def test_each_way_to_save_gives_bert4keras_outputs(name, architecture, tmp_path):
    report = convert(ROFORMER / name, tmp_path, architecture=architecture)
    expected = architecture or (LABELS if name == "labels" else MASKED)
    assert report.plan.family.model_type == "roformer"
    assert report.plan.architecture == expected
    check_outputs(tmp_path, name, expected)


def test_the_base_model_holds_the_angles_of_transformers(tmp_path):
    convert(ROFORMER / "keras", tmp_path, architecture="RoFormerModel")
    model, info = transformers.RoFormerModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    positions = model.encoder.embed_positions
    torch.testing.assert_close(positions.weight, positions.create_weight(), rtol=0, atol=1e-7)


def test_what_is_assumed_is_said():
    notes = "\n".join(make_plan(tfreader.open(ROFORMER / "projected" / "bert_model.ckpt")).notes)
    assert "nothing tells it from a BERT that lost its table" in notes
    assert f"application='lm' have the same variables, and --architecture {DECODER}" in notes
    assert "left out: transformers' RoFormer has no pooler" in notes
    notes = "\n".join(
        make_plan(
            tfreader.open(ROFORMER / "decoder" / "bert_model.ckpt"), architecture=DECODER
        ).notes
    )
    assert "an encoder is assumed" not in notes and "segment_vocab_size 0 is assumed" in notes
    notes = "\n".join(make_plan(tfreader.open(ROFORMER / "labels" / "model.weights")).notes)
    assert "taken for labels of tokens" in notes and "left out" not in notes


def test_without_segments_there_is_one_of_zeros(tmp_path):
    report = convert(ROFORMER / "decoder", tmp_path, config=CONFIG | {"segment_vocab_size": 0})
    assert report.plan.config["type_vocab_size"] == 1
    model = transformers.RoFormerForMaskedLM.from_pretrained(tmp_path)
    segments = model.roformer.embeddings.token_type_embeddings.weight
    assert segments.shape == (1, 12) and not segments.any()


def test_who_hides_later_words_is_told_by_the_class_alone(tmp_path):
    for config, options in (
        (CONFIG | {"is_decoder": True}, {}),
        (CONFIG, {"architecture": DECODER, "overrides": {"is_decoder": False}}),
    ):
        with pytest.raises(tfreader.ConfigError, match=f"for --architecture {DECODER}, and for it"):
            plan(tmp_path, variables("decoder"), config=config, **options)


def test_without_a_config_heads_are_asked_for(tmp_path):
    with pytest.raises(tfreader.PlanError, match="--set num_attention_heads=N"):
        plan(tmp_path, variables("decoder"), config=None)
    made = plan(tmp_path, variables("decoder"), config=None, overrides={"num_attention_heads": 3})
    assert made.config["max_position_embeddings"] == 512
    assert any(note.startswith("max_position_embeddings = 512: ") for note in made.notes)


def test_bert4keras_arguments_are_keys_of_its_config(tmp_path):
    arguments = {"max_position": 8, "dropout_rate": 0.2, "hidden_act": "gelu_tanh"}
    given = CONFIG | arguments | {"attention_key_size": 4, "with_mlm": True}
    made = plan(tmp_path, variables("decoder"), config=given)
    assert made.config["max_position_embeddings"] == 8
    assert made.config["hidden_dropout_prob"] == 0.2
    assert made.config["hidden_act"] == "gelu_new"
    assert not {*arguments, "attention_key_size", "with_mlm"} - {"hidden_act"} & {*made.config}
    assert not any("nor transformers knows" in note for note in made.notes)
    for key in ("residual_attention_scores", "shared_segment_embeddings", "use_relative_position"):
        with pytest.raises(tfreader.ConfigError, match=f"{key} = true"):
            plan(tmp_path, variables("decoder"), config=CONFIG | {key: True})


POSITIONS = {"bert/embeddings/position_embeddings": np.ones((16, 12), np.float32)}


def test_a_bert_is_never_taken_for_a_roformer(tmp_path):
    bert = variables("decoder") | POSITIONS
    bert["bert/embeddings/token_type_embeddings"] = np.ones((2, 12), np.float32)
    assert plan(tmp_path, bert).family.model_type == "bert"
    with pytest.raises(tfreader.PlanError, match="The variables are bert"):
        plan(tmp_path, bert, "roformer")
    with pytest.raises(tfreader.PlanError, match=r"(?s)position_embeddings.*ariables are roformer"):
        plan(tmp_path, variables("decoder"), "bert")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("global_step", ()),
        ("bert/embeddings/LayerNorm/gamma/adam_m", (12,)),
        ("cls/squad/output_weights", (2, 12)),
        ("output_weights", (4, 12)),
    ],
)
def test_a_bert_that_lost_its_positions_is_refused_where_anything_tells_it(name, shape, tmp_path):
    dtype = np.float32 if shape else np.int64
    lost = variables("decoder") | {name: np.ones(shape, dtype)}
    with pytest.raises(tfreader.PlanError, match="position_embeddings") as error:
        plan(tmp_path, lost)
    assert "RoFormer" not in str(error.value) and "roformer" not in str(error.value)


def test_positions_that_are_ignored_are_no_absence(tmp_path):
    with pytest.raises(tfreader.PlanError, match="inside the model cannot be ignored"):
        plan(tmp_path, variables("decoder") | POSITIONS, ignore=[".*/position_embeddings"])


def test_a_missing_projection_is_missed(tmp_path):
    kept = {n: v for n, v in variables("projected").items() if "hidden_mapping" not in n}
    with pytest.raises(tfreader.PlanError, match="embeddings_project"):
        plan(tmp_path, kept, config=CONFIG | {"embedding_size": 8})


@pytest.mark.parametrize(
    "names",
    [("query", "key"), ("value",)],
)
def test_heads_of_a_size_of_their_own_are_refused(names, tmp_path):
    wide = variables("decoder")
    for name in wide:
        parts = name.split("/")
        if parts[-2] in names:
            wide[name] = np.ones((*wide[name].shape[:-1], 24), np.float32)
    with pytest.raises(tfreader.PlanError, match="attention_key_size"):
        plan(tmp_path, wide)


def test_the_second_version_is_refused_by_name(tmp_path):
    kernels = {
        n: v for n, v in variables("decoder").items() if n.endswith(("kernel", "word_embeddings"))
    }
    with pytest.raises(tfreader.PlanError, match="RoFormerV2: not converted"):
        plan(tmp_path, kernels)
    names = [n for n in named("labels") if n.endswith(("kernel", "embeddings"))]
    kernels = {name: np.ones((12, 12), np.float32) for name in names if "dense_48" not in name}
    with pytest.raises(tfreader.PlanError, match="RoFormerV2: not converted"):
        plan(tmp_path, kernels)


def test_nezha_of_bert4keras_is_refused_by_name(tmp_path):
    relative = {"Embedding-Relative-Position/embeddings": np.ones((129, 4), np.float32)}
    with pytest.raises(tfreader.PlanError, match="NEZHA: not converted"):
        plan(tmp_path, named("keras") | relative)


def test_a_vocabulary_of_words_has_the_tokenizer_that_finds_them(tmp_path):
    for word, expected in (("中国", "RoFormerTokenizer"), ("国", "BertTokenizer")):
        vocab = tmp_path / "vocab.txt"
        vocab.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", word]))
        output = tmp_path / expected
        convert(ROFORMER / "keras", output, vocab=vocab)
        told = json.loads((output / "tokenizer_config.json").read_text())
        assert told["tokenizer_class"] == expected


def test_a_savers_names_alone_tell_the_order_of_layers(tmp_path):
    prefix = write_bundle(tmp_path / "model.ckpt", named("keras"))
    convert(prefix, tmp_path / "out", config=ROFORMER / "keras")
    check_outputs(tmp_path / "out", "keras", MASKED)


def test_a_session_that_begins_with_the_model_names_no_attributes_in_hdf5(tmp_path):
    layers = {}
    for given, value in named("keras").items():
        numbers = {f"/dense_{24 + i}/": f"/dense_{i}/" if i else "/dense/" for i in range(12)}
        found = next((old for old in numbers if old in given), "")
        name = given.replace(found, numbers[found]) if found else given
        layers.setdefault(name.partition("/")[0], {})[f"{name}:0"] = value
    with h5py.File(tmp_path / "model.h5", "w") as file:
        file.attrs["layer_names"] = [*layers]
        for layer, weights in layers.items():
            file.create_group(layer).attrs["weight_names"] = [*weights]
            for name, value in weights.items():
                file[layer][name] = value
    convert(tmp_path / "model.h5", tmp_path / "out", config=ROFORMER / "keras")
    check_outputs(tmp_path / "out", "keras", MASKED)


def test_a_head_on_the_pooler_is_not_taken_for_one_on_words(tmp_path):
    tensors = named("labels") | {"Pooler-Dense/kernel": np.ones((12, 12), np.float32)}
    tensors |= {"Pooler-Dense/bias": np.ones(12, np.float32)}
    with pytest.raises(tfreader.PlanError, match="dense_48"):
        plan(tmp_path, tensors)


def test_classes_that_nothing_becomes_are_refused_with_the_reason():
    for name in ("ForSequenceClassification", "ForMultipleChoice", "ForQuestionAnswering"):
        with pytest.raises(tfreader.PlanError, match=f"RoFormer{name}: "):
            make_plan(
                tfreader.open(ROFORMER / "labels" / "model.weights"), architecture=f"RoFormer{name}"
            )
