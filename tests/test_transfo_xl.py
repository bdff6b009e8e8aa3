"""Transformer-XL from TensorFlow checkpoints, against TensorFlow's outputs.

transformers 5 has no such model, so the forward pass is written out here over the tensors that
transformers 4's TransfoXLLMHeadModel has.
"""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from bundle_writer import write_bundle
from conftest import DATA

import tfreader
from tfreader.mapping import convert, load_state_dict

CASES = DATA / "transfo_xl"
SETTINGS = {"same_length": False, "mem_len": 4, "clamp_len": -1}
RELATIVE_BIASES = ("transformer/r_w_bias", "transformer/r_r_bias")


def log_probabilities(
    tensors: dict[str, torch.Tensor], config: dict[str, Any], forward: Any
) -> Any:
    """Of all words, as modeling_transfo_xl.py computes them, for a batch and its memories."""
    heads = (config["n_head"], config["d_head"])
    bounds = list(pairwise([0, *config["cutoffs"], config["vocab_size"]]))
    clusters = range(len(bounds))
    one_table = config["div_val"] == 1

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return torch.nn.functional.linear(x, tensors[f"{name}.weight"], tensors.get(f"{name}.bias"))

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        return torch.nn.functional.layer_norm(
            x, weight.shape, weight, bias, config["layer_norm_epsilon"]
        )

    def cut(name: str, cluster: int) -> torch.Tensor:
        if one_table:
            return tensors[name.format(0)][slice(*bounds[cluster])]
        return tensors[name.format(cluster)]

    def table(cluster: int) -> torch.Tensor:
        projection = tensors.get(f"transformer.word_emb.emb_projs.{0 if one_table else cluster}")
        rows = cut("transformer.word_emb.emb_layers.{}.weight", cluster)
        return rows if projection is None else rows @ projection.T

    def attention(x: torch.Tensor, memory: torch.Tensor, layer: str) -> torch.Tensor:
        everything = torch.cat([memory, x])
        query, key, value = linear(everything, f"{layer}.qkv_net").chunk(3, -1)
        query, key, value = (v.unflatten(-1, heads) for v in (query[len(memory) :], key, value))
        angles = torch.outer(
            torch.arange(float(len(everything))), tensors["transformer.pos_emb.inv_freq"]
        )
        positions = linear(torch.cat([angles.sin(), angles.cos()], -1), f"{layer}.r_net")
        ages = torch.arange(len(x))[:, None] + len(memory) - torch.arange(len(everything))
        near = torch.einsum("ibnd,jbnd->ijbn", query + tensors[f"{layer}.r_w_bias"], key)
        biased = query + tensors[f"{layer}.r_r_bias"]
        far = torch.einsum(
            "ibnd,ijnd->ijbn", biased, positions.unflatten(-1, heads)[ages.clamp(min=0)]
        )
        window = config["mem_len"] - 1 if config["same_length"] else len(everything)
        scores = (near + far) / heads[1] ** 0.5
        scores[(ages < 0) | (ages > window)] = -torch.inf
        context = torch.einsum("ijbn,jbnd->ibnd", scores.softmax(1), value)
        return norm(x + linear(context.flatten(-2), f"{layer}.o_net"), f"{layer}.layer_norm")

    x = torch.cat([table(i) for i in clusters])[forward["input_ids"].T] * config["d_model"] ** 0.5
    for number, memory in enumerate(torch.from_numpy(forward["mems"])):
        layer = f"transformer.layers.{number}"
        x = attention(x, memory, f"{layer}.dec_attn")
        inner = linear(x, f"{layer}.pos_ff.CoreNet.0").relu()
        out = linear(inner, f"{layer}.pos_ff.CoreNet.3")
        x = norm(x + out, f"{layer}.pos_ff.layer_norm")

    def logits(cluster: int) -> torch.Tensor:
        weight, bias = (cut(f"crit.out_layers.{{}}.{kind}", cluster) for kind in ("weight", "bias"))
        if cluster == 0 and len(clusters) > 1:
            weight = torch.cat([weight, tensors["crit.cluster_weight"]])
            bias = torch.cat([bias, tensors["crit.cluster_bias"]])
        projection = tensors.get(f"crit.out_projs.{cluster}")
        inputs = x if projection is None else x @ projection
        return (inputs @ weight.T + bias).log_softmax(-1)

    head = logits(0)
    first = bounds[0][1]
    tails = [head[..., first + i - 1, None] + logits(i) for i in clusters[1:]]
    return torch.cat([head[..., :first], *tails], -1).transpose(0, 1)


@pytest.mark.parametrize("name", ["wt103", "lm1b", "one_table", "chars"])
def test_forward_agrees_with_tensorflow(name, tmp_path):
    """The old converter read the first of them alone; see `same_length` for its last difference."""
    options = SETTINGS | {"mem_len": 5, "same_length": True} if name == "one_table" else SETTINGS
    convert(CASES / name, tmp_path / "out", overrides=options)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    tensors = load_state_dict(CASES / name, overrides=options)
    forward = np.load(CASES / name / "forward.npz")
    outputs = log_probabilities(tensors, config, forward)
    np.testing.assert_allclose(outputs, forward["log_probs"], atol=5e-6)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("wt103", {"cutoffs": [7, 12], "div_val": 2, "tie_projs": [False, True, True]}),
        ("lm1b", {"cutoffs": [6, 13], "div_val": 2, "tie_projs": [False, False, False]}),
        ("one_table", {"cutoffs": [5, 9], "div_val": 1, "untie_r": False}),
        ("chars", {"cutoffs": [], "d_embed": 6, "tie_projs": [True], "vocab_size": 11}),
    ],
)
def test_names_and_shapes_give_the_config(name, expected, tmp_path):
    """The original keeps it on its command line alone."""
    convert(CASES / name, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    sizes = {"d_model": 8, "d_inner": 12, "n_head": 2, "d_head": 3, "layer_norm_epsilon": 1e-12}
    expected = sizes | expected | {"mem_len": 1601, "same_length": True}
    assert {key: config[key] for key in expected} == expected
    assert "transformers>=4.30,<4.38" in (tmp_path / "out" / "README.md").read_text()


def test_same_length_needs_one_more_of_memory(tmp_path):
    given = {"same_length": True, "mem_len": 6}
    report = convert(CASES / "wt103", tmp_path / "out", config=given)
    assert report.plan.config["mem_len"] == 7
    assert any("what the original does with 6" in note for note in report.notes)


def test_no_projection_is_an_identity():
    tensors = load_state_dict(CASES / "lm1b")
    for name in ("transformer.word_emb.emb_projs.0", "crit.out_projs.0"):
        torch.testing.assert_close(tensors[name], torch.eye(8))


def variables(name: str) -> dict[str, np.ndarray]:
    with tfreader.open(CASES / name) as checkpoint:
        return {key: checkpoint[key] for key in checkpoint if "Adam" not in key}


@pytest.mark.parametrize(
    ("name", "lost", "problem"),
    [
        ("wt103", "adaptive_embed/cutoff_1/proj_W", "emb_projs.1"),
        ("wt103", "adaptive_softmax/cutoff_0/cluster_W", "crit.cluster_weight"),
        ("wt103", "adaptive_softmax/cutoff_2/b", "crit.out_layers.2.bias"),
        ("one_table", "adaptive_softmax/cutoff_1/b", "vocab_size"),
        ("chars", "adaptive_softmax/bias", "the checkpoint has no|crit.out_layers.0.bias"),
        ("wt103", "r_w_bias", "r_w_bias"),
    ],
)
def test_a_lost_variable_is_missed(name, lost, problem, tmp_path):
    kept = {key: value for key, value in variables(name).items() if key != f"transformer/{lost}"}
    write_bundle(tmp_path / "model.ckpt", kept)
    with pytest.raises(tfreader.TFReaderError, match=problem):
        convert(tmp_path / "model.ckpt", tmp_path / "out", architecture="TransfoXLLMHeadModel")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"cutoffs": [7, 13]}, r"cutoffs = \[7, 13\] .* tell \[7, 12\]"),
        ({"n_layer": 3}, "n_layer = 3 .* has 2"),
        ({"div_val": 4}, "div_val = 4 .* tell 2"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings = False .* tell True"),
        ({"untie_r": False}, "untie_r = False .* tell True"),
        ({"d_inner": 99}, "d_inner = 99"),
    ],
)
def test_a_config_of_another_model_is_refused(config, problem, tmp_path):
    with pytest.raises(tfreader.TFReaderError, match=problem):
        convert(CASES / "wt103", tmp_path / "out", config=config)
