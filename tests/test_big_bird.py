from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
from bundle_writer import write_bundle
from conftest import DATA
from numpy_transformer import (
    attention,
    dense,
    dense_shapes,
    gelu,
    norm,
    norm_shapes,
    random_tensors,
)

import tfreader
from tfreader.mapping import convert, make_plan

TRIVIA = DATA / "big_bird" / "trivia_qa"
AS_BERT = "BertForSequenceClassification"
VOCABULARY, HIDDEN, WIDE, HEADS, POSITIONS, LABELS = 19, 8, 12, 2, 16, 3
# As a run writes its flags, but for those of training.
FLAGS = {
    "attention_type": "block_sparse",
    "block_size": 4,
    "data_dir": "tfds://wiki40b/en",
    "hidden_act": "gelu",
    "hidden_size": HIDDEN,
    "intermediate_size": WIDE,
    "max_encoder_length": 16,
    "max_position_embeddings": POSITIONS,
    "norm_type": "postnorm",
    "num_attention_heads": HEADS,
    "num_hidden_layers": 2,
    "num_rand_blocks": 1,
    "rescale_embedding": False,
    "scope": "bert",
    "trainable_bias": True,
    "type_vocab_size": 2,
    "use_bias": True,
    "use_gradient_checkpointing": False,
    "vocab_model_file": "gpt2",
    "vocab_size": VOCABULARY,
}
IDS = np.array([[3, 7, 1, 18, 5, 2], [2, 2, 9, 4, 11, 6]])
SEGMENTS = np.array([[0, 0, 1, 1, 1, 1], [0, 0, 0, 0, 1, 1]])
INPUTS = {"input_ids": torch.tensor(IDS), "token_type_ids": torch.tensor(SEGMENTS)}


def encoder(scope="bert", use_bias=True):
    shapes = {
        f"{scope}/embeddings/word_embeddings": (VOCABULARY, HIDDEN),
        f"{scope}/embeddings/position_embeddings": (POSITIONS, HIDDEN),
        f"{scope}/embeddings/token_type_embeddings": (2, HIDDEN),
        **norm_shapes(f"{scope}/encoder/LayerNorm", HIDDEN),
        **dense_shapes(f"{scope}/pooler/dense", HIDDEN, HIDDEN),
    }
    for layer in (f"{scope}/encoder/layer_{i}" for i in range(2)):
        for name in ("self/query", "self/key", "self/value", "output/dense"):
            shapes |= dense_shapes(f"{layer}/attention/{name}", HIDDEN, HIDDEN, use_bias)
        shapes |= norm_shapes(f"{layer}/attention/output/LayerNorm", HIDDEN)
        shapes |= dense_shapes(f"{layer}/intermediate/dense", HIDDEN, WIDE)
        shapes |= dense_shapes(f"{layer}/output/dense", WIDE, HIDDEN)
        shapes |= norm_shapes(f"{layer}/output/LayerNorm", HIDDEN)
    return shapes


def pretraining(scope="bert", use_bias=True, transform="cls/predictions/transform"):
    return encoder(scope, use_bias) | {
        **dense_shapes(transform, HIDDEN, HIDDEN),
        **norm_shapes(transform, HIDDEN),
        "cls/predictions/output_bias": (VOCABULARY,),
        "cls/seq_relationship/output_weights": (2, HIDDEN),
        "cls/seq_relationship/output_bias": (2,),
    }


def classifier(scope="bert", use_bias=True):
    return encoder(scope, use_bias) | dense_shapes(f"{scope}/classifier", HIDDEN, LABELS)


def sequence_and_pooled(tensors, scope="bert", scale=1.0):
    """What the original's BertModel gives with full attention and no padding."""
    tables = f"{scope}/embeddings"
    states = tensors[f"{tables}/word_embeddings"][IDS] * scale
    states = states + tensors[f"{tables}/position_embeddings"][: IDS.shape[1]]
    states = states + tensors[f"{tables}/token_type_embeddings"][SEGMENTS]
    states = norm(tensors, f"{scope}/encoder/LayerNorm", states)
    for layer in (f"{scope}/encoder/layer_{i}" for i in range(2)):
        names = tuple(f"{layer}/attention/self/{name}" for name in ("query", "key", "value"))
        seen = attention(tensors, names, HEADS, states, states)
        seen = dense(tensors, f"{layer}/attention/output/dense", seen)
        states = norm(tensors, f"{layer}/attention/output/LayerNorm", states + seen)
        inner = gelu(dense(tensors, f"{layer}/intermediate/dense", states))
        inner = dense(tensors, f"{layer}/output/dense", inner)
        states = norm(tensors, f"{layer}/output/LayerNorm", states + inner)
    return states, np.tanh(dense(tensors, f"{scope}/pooler/dense", states[:, 0]))


def written(folder, tensors, config="pretrain.config", **flags):
    folder.mkdir(exist_ok=True)
    (folder / config).write_text(json.dumps(FLAGS | flags))
    return write_bundle(folder / "model.ckpt-3", tensors)


def loaded(folder, architecture):
    """The model, which loads without a key too few or too many."""
    model, info = getattr(transformers, architecture).from_pretrained(
        folder, output_loading_info=True
    )
    assert not any(info.values())
    return model.eval()


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def planned(source, **options):
    return convert(source, source.parent / "planned", dry_run=True, **options)


def close(found, expected):
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("scope", "use_bias", "transform", "scale"),
    [
        ("bert", True, "cls/predictions/transform", False),
        ("bigb/model", True, "transform", True),
        ("bert", False, "transform", False),
    ],
)
def test_pretraining_gives_the_originals_outputs(scope, use_bias, transform, scale, tmp_path):
    tensors = random_tensors(pretraining(scope, use_bias, transform))
    flags = {"scope": scope, "use_bias": use_bias, "rescale_embedding": scale}
    report = convert(written(tmp_path / "in", tensors, **flags), tmp_path / "out")
    assert report.plan.family.model_type == "big_bird"
    assert report.plan.architecture == "BigBirdForPreTraining"
    assert not [note for note in report.notes if "nor transformers knows" in note]
    states, pooled = sequence_and_pooled(tensors, scope, HIDDEN**0.5 if scale else 1)
    inner = norm(tensors, transform, gelu(dense(tensors, transform, states)))
    words = tensors[f"{scope}/embeddings/word_embeddings"]
    model = loaded(tmp_path / "out", "BigBirdForPreTraining")
    outputs = model(**INPUTS)
    close(outputs.prediction_logits, inner @ words.T + tensors["cls/predictions/output_bias"])
    weights = tensors["cls/seq_relationship/output_weights"]
    bias = tensors["cls/seq_relationship/output_bias"]
    close(outputs.seq_relationship_logits, pooled @ weights.T + bias)
    config = config_of(tmp_path / "out")
    assert config["attention_type"] == "original_full"  # by max_encoder_length
    assert (config["use_bias"], config["rescale_embeddings"]) == (use_bias, scale)
    assert not {"norm_type", "scope", "max_encoder_length", "data_dir"} & config.keys()


@pytest.mark.parametrize("use_bias", [True, False])
def test_a_classifier_is_the_encoder_or_with_full_attention_berts_class(use_bias, tmp_path):
    tensors = random_tensors(classifier(use_bias=use_bias))
    source = written(
        tmp_path / "in", tensors, "classifier.config", use_bias=use_bias, num_labels=LABELS
    )
    report = convert(source, tmp_path / "model")
    assert report.plan.architecture == "BigBirdModel"
    assert any(f"--architecture {AS_BERT} takes it" in note for note in report.notes)
    states, pooled = sequence_and_pooled(tensors)
    outputs = loaded(tmp_path / "model", "BigBirdModel")(**INPUTS)
    close(outputs.last_hidden_state, states)
    close(outputs.pooler_output, pooled)
    convert(source, tmp_path / "bert", architecture=AS_BERT)
    config = config_of(tmp_path / "bert")
    assert config["model_type"] == "bert"
    assert not {"attention_type", "use_bias", "block_size", "norm_type"} & config.keys()
    logits = dense(tensors, "bert/classifier", pooled)
    close(loaded(tmp_path / "bert", AS_BERT)(**INPUTS).logits, logits)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"max_encoder_length": 1024}, "its attention is full, this one's block_sparse"),
        ({"rescale_embedding": True}, "its embeddings are not scaled"),
    ],
)
def test_berts_class_is_no_other_bigbird(flags, said, tmp_path):
    source = written(tmp_path, random_tensors(classifier()), **flags)
    with pytest.raises(tfreader.PlanError, match=said):
        convert(source, tmp_path / "out", architecture=AS_BERT)


def test_classes_with_other_heads_are_refused_with_the_way_out(tmp_path):
    source = written(tmp_path, random_tensors(classifier()))
    with pytest.raises(tfreader.PlanError, match=f"--architecture {AS_BERT} has the same"):
        convert(source, tmp_path / "out", architecture="BigBirdForSequenceClassification")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"max_encoder_length": 512}, {"attention_type": "original_full"}),
        ({"max_encoder_length": 528}, {"attention_type": "block_sparse", "block_size": 4}),
        (
            {"max_encoder_length": 528, "attention_type": "simulated_sparse"},
            {"attention_type": "block_sparse", "num_random_blocks": 1},
        ),
        ({"hidden_act": "relu"}, {"hidden_act": "relu"}),
        ({"hidden_act": "gelu"}, {"hidden_act": "gelu_new"}),
        (
            {"attention_probs_dropout_prob": 0.3, "initializer_range": 0.1},
            {"attention_probs_dropout_prob": 0.3, "initializer_range": 0.1},
        ),
    ],
)
def test_flags_are_translated(flags, told, tmp_path):
    plan = planned(written(tmp_path, random_tensors(pretraining()), **flags)).plan
    assert {key: plan.config[key] for key in told} == told


def test_flags_that_a_file_leaves_out_are_the_originals(tmp_path):
    source = written(tmp_path, random_tensors(pretraining()))
    kept = ("num_attention_heads", "num_hidden_layers", "norm_type")
    config = {key: FLAGS[key] for key in kept}
    (tmp_path / "pretrain.config").write_text(json.dumps(config))
    report = planned(source)
    assert report.plan.config["block_size"] == 16
    assert report.plan.config["num_random_blocks"] == 3
    assert report.plan.config["attention_type"] == "block_sparse"
    (note,) = (note for note in report.notes if "first block for each random one" in note)
    assert "block_size = 16, num_random_blocks = 3" in note
    assert "at most 176 tokens" in note and "up to 512" in note


def test_a_config_of_hugging_face_is_taken_as_it_is(tmp_path):
    source = write_bundle(tmp_path / "model.ckpt", random_tensors(pretraining()))
    kept = transformers.BigBirdConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        intermediate_size=WIDE,
        max_position_embeddings=POSITIONS,
        hidden_act="relu",
        block_size=8,
    ).to_dict()
    plan = planned(source, config=kept).plan
    assert {key: plan.config[key] for key in ("hidden_act", "block_size")} == {
        "hidden_act": "relu",
        "block_size": 8,
    }


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"norm_type": "prenorm"}, "layer norms come before"),
        ({"attention_type": "sparse"}, "attention_type = .sparse., known are original_full"),
        ({"attention_type": [1]}, "attention_type"),
        ({"hidden_act": "swish"}, "hidden_act = .swish., known are gelu, linear"),
        ({"max_encoder_length": "long"}, "max_encoder_length = .long., expected a whole number"),
        ({"use_bias": False}, "use_bias"),
    ],
)
def test_settings_that_are_not_the_models_are_refused(flags, said, tmp_path):
    source = written(tmp_path, random_tensors(pretraining()), **flags)
    with pytest.raises((tfreader.ConfigError, tfreader.PlanError), match=said):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_layer_norms_before_the_layers_parts_are_refused_without_a_config_too(tmp_path):
    shapes = pretraining() | norm_shapes("bert/encoder/layer_0/attention/self/LayerNorm", HIDDEN)
    source = write_bundle(tmp_path / "model.ckpt", random_tensors(shapes))
    with pytest.raises(tfreader.PlanError, match=r"self/LayerNorm/beta: norm_type = prenorm"):
        convert(source, tmp_path / "out")


def test_several_models_are_told_apart_by_scope(tmp_path):
    tensors = random_tensors(encoder("one") | encoder("two"))
    source = written(tmp_path / "in", tensors)
    with pytest.raises(tfreader.PlanError, match="several models: one, two; choose with --scope"):
        convert(source, tmp_path / "out")
    convert(source, tmp_path / "out", scope="two")
    words = loaded(tmp_path / "out", "BigBirdModel").embeddings.word_embeddings.weight
    np.testing.assert_array_equal(words.detach().numpy(), tensors["two/embeddings/word_embeddings"])


def test_without_a_config_what_no_shape_tells_is_asked_for(tmp_path):
    source = write_bundle(tmp_path / "model.ckpt", random_tensors(pretraining()))
    heads, sizes = {"num_attention_heads": HEADS}, {"block_size": 4, "num_rand_blocks": 1}
    for told, wanted in ((sizes, "num_attention_heads"), (heads, "block_size and num_random")):
        with pytest.raises(tfreader.ConfigError, match=wanted):
            convert(source, tmp_path / "out", overrides=told)
    convert(source, tmp_path / "full", overrides=heads | {"attention_type": "original_full"})
    report = convert(source, tmp_path / "out", overrides=sizes | {"num_attention_heads": HEADS})
    assumed = [note for note in report.notes if "original's usual value" in note]
    assert [note.partition(" ")[0] for note in assumed] == [
        "hidden_act",
        "rescale_embeddings",
        "attention_type",
    ]
    assert config_of(tmp_path / "out")["num_random_blocks"] == 1


def test_without_a_config_the_released_sizes_are_those_of_the_originals_scripts(tmp_path):
    shapes = {
        name: tuple(768 if size == HIDDEN else size for size in shape)
        for name, shape in encoder().items()
        if "layer_1" not in name
    }
    tensors = {name: np.zeros(shape, np.float16) for name, shape in shapes.items()}
    report = planned(write_bundle(tmp_path / "model.ckpt", tensors))
    told = {"num_attention_heads": 12, "block_size": 64, "num_random_blocks": 3}
    assert {key: report.plan.config[key] for key in told} == told
    for key in told:
        assert any(note.startswith(f"{key} = ") and "--set" in note for note in report.notes)


@pytest.mark.parametrize(
    "slots", [("AdamWeightDecayOptimizer", "AdamWeightDecayOptimizer_1"), ("Adam", "Adam_1")]
)
def test_slots_are_left_out(slots, tmp_path):
    tensors = random_tensors(pretraining(transform="transform"))
    trained = {f"{name}/{slot}": values for name, values in tensors.items() for slot in slots}
    counters = {"beta1_power": np.float32(0.9), "beta2_power": np.float32(0.9)}
    counters["global_step"] = np.int64(3)
    source = written(tmp_path, tensors | trained | counters)
    plan = planned(source).plan
    assert plan.dropped.keys() == trained.keys() | counters.keys()


def test_the_slots_of_adafactor_are_left_out(tmp_path):
    tensors = random_tensors(pretraining())
    trained = {}
    for name, values in tensors.items():
        trained[f"{name}/Adafactor"] = values.mean(tuple(range(1, values.ndim)))
        if values.ndim == 2:
            trained[f"{name}/Adafactor_1"] = values.mean(0)
    plan = planned(written(tmp_path, tensors | trained)).plan
    assert plan.dropped.keys() == trained.keys()


def test_trivia_qa_gives_tensorflows_outputs(tmp_path):
    report = convert(TRIVIA / "export", tmp_path / "out")
    assert report.plan.architecture == "BigBirdForQuestionAnswering"
    assert any("epsilon 1e-3" in note for note in report.notes)
    config = config_of(tmp_path / "out")
    assert (config["num_random_blocks"], config["num_hidden_layers"]) == (1, 2)
    expected = np.load(TRIVIA / "forward.npz")
    inputs = {key: torch.tensor(expected[key]) for key in ("input_ids", "token_type_ids")}
    model = loaded(tmp_path / "out", "BigBirdForQuestionAnswering")
    with torch.no_grad():  # of no questions, whose answers are not looked for
        outputs = model(**inputs, question_lengths=torch.zeros(2, 1, dtype=torch.long))
    first = 1  # no answer is at a text's first token but one there, which transformers takes out
    for i, name in enumerate(("start_logits", "end_logits")):
        np.testing.assert_allclose(
            outputs[name][:, first:], expected["logits"][:, first:, i], atol=1e-5
        )
    report = convert(TRIVIA / "export", tmp_path / "model", architecture="BigBirdModel")
    with torch.no_grad():
        outputs = loaded(tmp_path / "model", "BigBirdModel")(**inputs)
    for name in ("last_hidden_state", "pooler_output"):
        np.testing.assert_allclose(outputs[name], expected[name], atol=1e-5)


def test_trivia_qa_without_its_config(tmp_path):
    with tfreader.open(TRIVIA / "export") as checkpoint:
        assert "block_size" not in make_plan(checkpoint, config={}).config
        sizes = {"block_size": 4, "num_random_blocks": 1}
        plan = make_plan(checkpoint, config={}, overrides=sizes)
    assert plan.config["num_attention_heads"] == 2
    assert plan.config["intermediate_size"] == 8


def test_hugging_faces_gelu_is_another(tmp_path):
    source = write_bundle(tmp_path / "model.ckpt", random_tensors(pretraining()))
    config = {"model_type": "big_bird", "num_attention_heads": HEADS, "hidden_act": "gelu"}
    config |= {"attention_type": "original_full"}
    report = planned(source, config=config)
    (note,) = (note for note in report.notes if "the exact one" in note)
    assert "--set hidden_act=gelu_new" in note
