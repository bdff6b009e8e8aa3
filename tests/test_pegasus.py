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
    norm,
    norm_shapes,
    random_tensors,
    relu,
)
from outputs import load_with_epsilon
from test_tokenizers import spiece

import tfreader
from tfreader.mapping import convert

SUMMARIZER = "PegasusForConditionalGeneration"
VOCABULARY, SIZE, WIDE, HEADS = 17, 8, 12, 2
LAYERS = {"encoder": 1, "decoder": 2}
KINDS = {"encoder": ["self_attention"], "decoder": ["self_attention", "memory_attention"]}
IDS = np.array([[3, 7, 1, 16, 5, 2], [2, 2, 9, 4, 11, 6]])
TARGETS = np.array([[7, 8, 13], [3, 3, 1]])
TOLD = {"num_heads": HEADS}


def shapes(size=SIZE, wide=WIDE):
    made = {"embeddings/weights": (VOCABULARY, size)}
    for stack, layers in LAYERS.items():
        made |= norm_shapes(f"{stack}/LayerNorm", size)
        for layer in (f"{stack}/layer_{i}" for i in range(layers)):
            for kind in KINDS[stack]:
                made |= norm_shapes(f"{layer}/{kind}/LayerNorm", size)
                for name in ("q_proj", "k_proj", "v_proj", "output_proj"):
                    made |= dense_shapes(f"{layer}/{kind}/{name}", size, size, bias=False)
            made |= norm_shapes(f"{layer}/ffn/LayerNorm", size)
            made |= dense_shapes(f"{layer}/ffn/dense", size, wide)
            made |= dense_shapes(f"{layer}/ffn/dense_1", wide, size)
    return made


def positions(length):
    frequencies = 10000.0 ** (-np.arange(SIZE // 2) / (SIZE // 2 - 1))
    angles = np.arange(length)[:, None] * frequencies
    return np.concatenate([np.sin(angles), np.cos(angles)], 1)


def forward(tensors, states, memory=None):
    """What the encoder makes of embeddings, or with its output as `memory` the decoder."""
    stack = "encoder" if memory is None else "decoder"
    states = states * SIZE**0.5 + positions(states.shape[1])
    for layer in (f"{stack}/layer_{i}" for i in range(LAYERS[stack])):
        for kind in KINDS[stack]:
            names = tuple(f"{layer}/{kind}/{name}" for name in ("q_proj", "k_proj", "v_proj"))
            normal = norm(tensors, f"{layer}/{kind}/LayerNorm", states)
            looked_at = memory if kind == "memory_attention" else normal
            is_causal = stack == "decoder" and kind == "self_attention"
            seen = attention(tensors, names, HEADS, normal, looked_at, is_causal=is_causal)
            states = states + dense(tensors, f"{layer}/{kind}/output_proj", seen)
        normal = norm(tensors, f"{layer}/ffn/LayerNorm", states)
        inner = relu(dense(tensors, f"{layer}/ffn/dense", normal))
        states = states + dense(tensors, f"{layer}/ffn/dense_1", inner)
    return norm(tensors, f"{stack}/LayerNorm", states)


def planned(source, **options):
    return convert(source, source.parent / "planned", dry_run=True, **options)


def loaded(folder, architecture):
    return load_with_epsilon(folder, architecture, 1e-12)  # the original's


def test_a_summarizer_gives_the_originals_outputs(tmp_path):
    tensors = random_tensors(shapes())
    source = write_bundle(tmp_path / "model.ckpt", tensors)
    report = convert(source, tmp_path / "out", overrides=TOLD | {"max_position_embeddings": 30})
    assert report.plan.family.model_type == "pegasus"
    assert report.plan.architecture == SUMMARIZER
    words = tensors["embeddings/weights"]
    memory = forward(tensors, words[IDS])
    # The decoder's inputs are the targets, one later, with zeros in front.
    shifted = np.concatenate([np.zeros([2, 1, SIZE]), words[TARGETS][:, :-1]], 1)
    states = forward(tensors, shifted, memory)
    starts = np.concatenate([np.zeros([2, 1], int), TARGETS[:, :-1]], 1)
    inputs = {"input_ids": torch.tensor(IDS), "decoder_input_ids": torch.tensor(starts)}
    model = loaded(tmp_path / "out", SUMMARIZER)
    assert model.config.decoder_start_token_id == 0
    with torch.no_grad():
        outputs = model(**inputs)
    np.testing.assert_allclose(outputs.encoder_last_hidden_state, memory, rtol=0, atol=2e-5)
    logits = states @ words.T
    np.testing.assert_allclose(outputs.logits[..., 1:], logits[..., 1:], rtol=0, atol=1e-4)
    assert not outputs.logits[..., 0].any()
    for said in ("its row 0, of padding, is set to zero", "computed as in the original", "1e-12"):
        assert any(said in note for note in report.notes)
    convert(source, tmp_path / "model", architecture="PegasusModel", overrides=TOLD)
    with torch.no_grad():
        outputs = loaded(tmp_path / "model", "PegasusModel")(**inputs)
    np.testing.assert_allclose(outputs.last_hidden_state, states, rtol=0, atol=2e-5)


def test_the_first_row_alone_is_zero(tmp_path):
    tensors = random_tensors(shapes())
    source = write_bundle(tmp_path / "model.ckpt", tensors)
    convert(source, tmp_path / "out", overrides=TOLD, dtype="float16")
    rows = loaded(tmp_path / "out", SUMMARIZER).model.shared.weight.detach().float().numpy()
    assert not rows[0].any()
    expected = tensors["embeddings/weights"][1:].astype(np.float16)
    np.testing.assert_array_equal(rows[1:], expected.astype(np.float32))


def test_settings_of_the_originals_code_are_read_where_they_are_written_down(tmp_path):
    source = write_bundle(tmp_path / "model.ckpt", random_tensors(shapes()))
    params = {
        "hidden_size": SIZE,
        "filter_size": WIDE,
        "num_heads": HEADS,
        "num_encoder_layers": 1,
        "num_decoder_layers": 2,
        "max_input_len": 2000,
        "max_target_len": 256,
        "dropout": 0.2,
        "beam_size": 8,
        "vocab_size": VOCABULARY,
    }
    (tmp_path / "params.json").write_text(json.dumps(params))
    report = planned(source)
    told = {
        "encoder_attention_heads": HEADS,
        "decoder_attention_heads": HEADS,
        "max_position_embeddings": 2000,
        "dropout": 0.2,
        "encoder_ffn_dim": WIDE,
        "decoder_ffn_dim": WIDE,
        "activation_function": "relu",
        "scale_embedding": True,
    }
    assert {key: report.plan.config[key] for key in told} == told
    assert not {"num_heads", "beam_size", "max_input_len"} & report.plan.config.keys()
    assert not [note for note in report.notes if "nor transformers knows" in note]


def test_as_many_positions_as_usual_are_written_and_said(tmp_path):
    source = write_bundle(tmp_path / "model.ckpt", random_tensors(shapes()))
    report = convert(source, tmp_path / "out", overrides=TOLD)
    assert any("max_position_embeddings = 1024" in note for note in report.notes)
    table = loaded(tmp_path / "out", SUMMARIZER).model.decoder.embed_positions.weight
    assert table.shape == (1024, SIZE)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "encoder_attention_heads"),
        ({"num_heads": 3}, "not a multiple"),
        ({"num_heads": 2, "activation_function": "gelu"}, "activation_function = .gelu."),
        ({"num_heads": 2, "scale_embedding": False}, "scale_embedding = false"),
        ({"num_heads": 2, "max_input_len": "long"}, "max_input_len or .* = .long., expected"),
        ({"num_heads": 2, "decoder_attention_heads": 4}, "another model"),
    ],
)
def test_what_the_original_does_not_have_is_refused_and_heads_are_asked_for(config, said, tmp_path):
    source = write_bundle(tmp_path / "model.ckpt", random_tensors(shapes()))
    with pytest.raises((tfreader.ConfigError, tfreader.PlanError), match=said):
        convert(source, tmp_path / "out", config=config)
    assert not (tmp_path / "out").exists()


def test_the_one_size_of_the_originals_code_has_its_heads(tmp_path):
    tensors = {name: np.zeros(shape, np.float16) for name, shape in shapes(1024).items()}
    report = planned(write_bundle(tmp_path / "model.ckpt", tensors))
    assert report.plan.config["decoder_attention_heads"] == 16
    assert any(note.startswith("encoder_attention_heads = 16") for note in report.notes)


def test_rows_have_as_many_sines_as_cosines(tmp_path):
    source = write_bundle(tmp_path / "model.ckpt", random_tensors(shapes(9)))
    with pytest.raises(tfreader.PlanError, match="of an even size"):
        planned(source, overrides={"num_heads": 3})


def test_the_slots_of_adafactor_are_left_out(tmp_path):
    tensors = random_tensors(shapes())
    trained = {"global_step": np.int64(3)}
    for name, values in tensors.items():
        trained[f"{name}/Adafactor"] = values.mean(tuple(range(1, values.ndim)))
        if values.ndim == 2:
            trained[f"{name}/Adafactor_1"] = values.mean(0)
    source = write_bundle(tmp_path / "model.ckpt", tensors | trained)
    assert planned(source, overrides=TOLD).plan.dropped.keys() == trained.keys()


def test_ids_begin_behind_the_special_tokens(tmp_path):
    source = write_bundle(tmp_path / "model.ckpt", random_tensors(shapes()))
    spiece(tmp_path / "spiece.model", ["<pad>", "</s>", "<unk>", "▁a"])
    report = convert(source, tmp_path / "out", overrides=TOLD)
    found = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert found["tokenizer_class"] == "PegasusTokenizer" and "offset" not in found
    assert any("has 107 pieces, the model only 17 rows" in note for note in report.notes)
