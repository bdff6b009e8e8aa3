from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from bundle_writer import write_bundle
from numpy_transformer import (
    attention,
    dense,
    dense_shapes,
    gelu,
    norm,
    norm_shapes,
    random_tensors,
    relu,
)
from outputs import load_with_epsilon
from test_tokenizers import spiece

import tfreader
from tfreader.mapping import convert

SUMMARIZER = "BigBirdPegasusForConditionalGeneration"
VOCABULARY, SIZE, WIDE, HEADS, POSITIONS = 17, 8, 12, 2, 20
FLAGS = {
    "alpha": 0.8,
    "attention_type": "block_sparse",
    "beam_size": 5,
    "block_size": 4,
    "couple_encoder_decoder": False,
    "hidden_act": "relu",
    "hidden_size": SIZE,
    "intermediate_size": WIDE,
    "max_decoder_length": 8,
    "max_encoder_length": 16,
    "max_position_embeddings": POSITIONS,
    "norm_type": "prenorm",
    "num_attention_heads": HEADS,
    "num_hidden_layers": 2,
    "num_rand_blocks": 1,
    "rescale_embedding": True,
    "scope": "pegasus",
    "type_vocab_size": 2,
    "use_bias": False,
    "vocab_model_file": "pegasus",
    "vocab_size": VOCABULARY,
}
IDS = np.array([[3, 7, 1, 16, 5, 2], [2, 2, 9, 4, 11, 6]])
TARGETS = np.array([[2, 7, 8, 13], [2, 3, 3, 1]])


def summarizer(scope="pegasus", use_bias=False, decoder_layers=2):
    shapes = {
        f"{scope}/embeddings/word_embeddings": (VOCABULARY, SIZE),
        f"{scope}/embeddings/position_embeddings": (POSITIONS, SIZE),
    }
    for stack, layers in (("encoder", 2), ("decoder", decoder_layers)):
        shapes |= norm_shapes(f"{scope}/{stack}/LayerNorm", SIZE)
        for layer in (f"{scope}/{stack}/layer_{i}" for i in range(layers)):
            for kind, joined in ATTENTIONS[stack]:
                shapes |= norm_shapes(f"{layer}/attention/{kind}/LayerNorm", SIZE)
                for name in (f"{kind}/query", f"{kind}/key", f"{kind}/value", f"{joined}/dense"):
                    shapes |= dense_shapes(f"{layer}/attention/{name}", SIZE, SIZE, use_bias)
            shapes |= norm_shapes(f"{layer}/intermediate/LayerNorm", SIZE)
            shapes |= dense_shapes(f"{layer}/intermediate/dense", SIZE, WIDE)
            shapes |= dense_shapes(f"{layer}/output/dense", WIDE, SIZE)
    return shapes


ATTENTIONS = {
    "encoder": [("self", "output")],
    "decoder": [("self", "output"), ("encdec", "encdec_output")],
}


def forward(tensors, scope, layers, scale, activation, ids, memory=None):
    """What the original's encoder gives, or with its output as `memory` the decoder."""
    stack = "encoder" if memory is None else "decoder"
    states = tensors[f"{scope}/embeddings/word_embeddings"][ids] * scale
    states = states + tensors[f"{scope}/embeddings/position_embeddings"][: ids.shape[1]]
    for layer in (f"{scope}/{stack}/layer_{i}" for i in range(layers)):
        for kind, joined in ATTENTIONS[stack]:
            inner = f"{layer}/attention/{kind}"
            names = tuple(f"{inner}/{name}" for name in ("query", "key", "value"))
            normal = norm(tensors, f"{inner}/LayerNorm", states)
            looked_at = memory if kind == "encdec" else normal
            is_causal = stack == "decoder" and kind == "self"
            seen = attention(tensors, names, HEADS, normal, looked_at, is_causal=is_causal)
            states = states + dense(tensors, f"{layer}/attention/{joined}/dense", seen)
        normal = norm(tensors, f"{layer}/intermediate/LayerNorm", states)
        inner = activation(dense(tensors, f"{layer}/intermediate/dense", normal))
        states = states + dense(tensors, f"{layer}/output/dense", inner)
    return norm(tensors, f"{scope}/{stack}/LayerNorm", states)


def written(folder, tensors, **flags):
    folder.mkdir(exist_ok=True)
    (folder / "summarization.config").write_text(json.dumps(FLAGS | flags))
    return write_bundle(folder / "model.ckpt-3", tensors)


def planned(source, **options):
    return convert(source, source.parent / "planned", dry_run=True, **options)


def loaded(folder, architecture):
    return load_with_epsilon(folder, architecture, 1e-12)  # the original's


@pytest.mark.parametrize(
    ("scope", "use_bias", "decoder_layers", "scale", "activation"),
    [
        ("pegasus", False, 2, True, "relu"),
        ("my/scope", True, 1, False, "gelu"),
    ],
)
def test_a_summarizer_gives_the_originals_outputs(
    scope, use_bias, decoder_layers, scale, activation, tmp_path
):
    tensors = random_tensors(summarizer(scope, use_bias, decoder_layers))
    flags = {"scope": scope, "use_bias": use_bias, "num_decoder_layers": decoder_layers}
    flags |= {"rescale_embedding": scale, "hidden_act": activation}
    report = convert(written(tmp_path / "in", tensors, **flags), tmp_path / "out")
    assert report.plan.family.model_type == "bigbird_pegasus"
    assert report.plan.architecture == SUMMARIZER
    assert not [note for note in report.notes if "nor transformers knows" in note]
    assert any("1e-12 in the original, 1e-5 in transformers" in note for note in report.notes)
    common = SIZE**0.5 if scale else 1, {"relu": relu, "gelu": gelu}[activation]
    memory = forward(tensors, scope, 2, *common, IDS)
    states = forward(tensors, scope, decoder_layers, *common, TARGETS, memory)
    inputs = {"input_ids": torch.tensor(IDS), "decoder_input_ids": torch.tensor(TARGETS)}
    with torch.no_grad():
        outputs = loaded(tmp_path / "out", SUMMARIZER)(**inputs)
    np.testing.assert_allclose(outputs.encoder_last_hidden_state, memory, rtol=0, atol=2e-5)
    words = tensors[f"{scope}/embeddings/word_embeddings"]
    np.testing.assert_allclose(outputs.logits, states @ words.T, rtol=0, atol=1e-4)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["attention_type"] == "original_full"  # by max_encoder_length
    assert config["activation_function"] == {"relu": "relu", "gelu": "gelu_new"}[activation]
    assert config["decoder_attention_heads"] == HEADS
    assert not {"norm_type", "type_vocab_size", "couple_encoder_decoder", "alpha"} & config.keys()
    convert(tmp_path / "in", tmp_path / "model", architecture="BigBirdPegasusModel")
    with torch.no_grad():
        outputs = loaded(tmp_path / "model", "BigBirdPegasusModel")(**inputs)
    np.testing.assert_allclose(outputs.last_hidden_state, states, rtol=0, atol=2e-5)


def test_long_texts_keep_their_sparse_attention(tmp_path):
    source = written(tmp_path, random_tensors(summarizer()), max_encoder_length=1024)
    report = planned(source)
    told = {"attention_type": "block_sparse", "block_size": 4, "num_random_blocks": 1}
    assert {key: report.plan.config[key] for key in told} == told
    assert any("at most 28 tokens" in note and "0.022" in note for note in report.notes)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"norm_type": "postnorm"}, "norm_type = .postnorm.: its layer norms come behind"),
        ({"couple_encoder_decoder": True}, "one stack is both its encoder and its decoder"),
        ({"hidden_act": "swish"}, "hidden_act = .swish., known are"),
        ({"use_bias": True}, "use_bias"),
        ({"num_attention_heads": 3}, "not a multiple"),
    ],
)
def test_settings_that_are_not_the_models_are_refused(flags, said, tmp_path):
    source = written(tmp_path, random_tensors(summarizer()), **flags)
    with pytest.raises((tfreader.ConfigError, tfreader.PlanError), match=said):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def coupled():
    return {name.replace("/decoder/", "/encoder/"): shape for name, shape in summarizer().items()}


def postnorm():
    return summarizer() | norm_shapes("pegasus/encoder/layer_0/attention/output/LayerNorm", SIZE)


@pytest.mark.parametrize(
    ("shapes", "said"),
    [(coupled(), "encdec/.*: couple_encoder_decoder"), (postnorm(), "norm_type = postnorm")],
)
def test_other_models_are_refused_without_a_config_too(shapes, said, tmp_path):
    source = write_bundle(tmp_path / "model.ckpt", random_tensors(shapes))
    with pytest.raises(tfreader.PlanError, match=said):
        convert(source, tmp_path / "out")


def test_without_a_config_what_no_shape_tells_is_asked_for(tmp_path):
    source = write_bundle(tmp_path / "model.ckpt", random_tensors(summarizer()))
    heads, sizes = {"num_attention_heads": HEADS}, {"block_size": 4, "num_rand_blocks": 1}
    for overrides, wanted in ((heads, "block_size and num_random_blocks"), (sizes, "_heads")):
        with pytest.raises(tfreader.ConfigError, match=wanted):
            convert(source, tmp_path / "out", overrides=overrides)
    report = convert(source, tmp_path / "out", overrides=sizes | heads)
    for said in ('activation_function = "relu"', "scale_embedding = true"):
        assert any(note.startswith(f"{said}: the original's usual") for note in report.notes)
    assert report.plan.config["decoder_attention_heads"] == HEADS


def test_the_slots_of_adafactor_are_left_out(tmp_path):
    tensors = random_tensors(summarizer())
    trained = {"global_step": np.int64(3)}
    for name, values in tensors.items():
        if "position" in name:
            continue  # not trained
        trained[f"{name}/Adafactor"] = values.mean(tuple(range(1, values.ndim)))
        if values.ndim == 2:
            trained[f"{name}/Adafactor_1"] = values.mean(0)
    plan = planned(written(tmp_path, tensors | trained)).plan
    assert plan.dropped.keys() == trained.keys()


def test_its_vocabulary_has_the_ids_of_its_pieces(tmp_path):
    source = written(tmp_path, random_tensors(summarizer()))
    spiece(tmp_path / "pegasus.model", ["<pad>", "</s>", "<s>", "<unk>", "▁a"])
    convert(source, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert found["tokenizer_class"] == "PegasusTokenizer"
    assert (found["offset"], found["mask_token"], found["mask_token_sent"]) == (0, None, None)
    assert (tmp_path / "out" / "spiece.model").exists()
