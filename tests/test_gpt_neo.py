from __future__ import annotations

import json
import re

import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from bundle_writer import write_bundle

import tfreader
from tfreader.mapping import convert, make_plan

CLASS = "GPTNeoForCausalLM"
WORDS, POSITIONS, SIZE, HEADS = 30, 12, 8, 2
KINDS = ("global", "local", "local")
CONFIG = {
    "n_embd": SIZE,
    "n_head": HEADS,
    "n_layer": 3,
    "n_ctx": POSITIONS,
    "n_vocab": WORDS,
    "attention_types": [[["global", "local"], 1], [["local"], 1]],
    "local_attention_radius": 3,
    "activation_function": "selu",
    "attn_dropout": 0,
    "res_dropout": 0.1,
    "embed_dropout": 0,
    "lr": 0.001,
    "opt_name": "adam",
    "precision": "bfloat16",
    "scale_by_depth": True,
    "moe_layers": None,
}
SHAPES = {
    "norm_1/g": (SIZE,),
    "norm_1/b": (SIZE,),
    "attn/q": (SIZE, SIZE),
    "attn/k": (SIZE, SIZE),
    "attn/v": (SIZE, SIZE),
    "attn/o": (SIZE, SIZE),
    "attn/compute_output_bias/o_b": (SIZE,),
    "norm_2/g": (SIZE,),
    "norm_2/b": (SIZE,),
    "mlp/conv1d_main/c_fc/kernel": (SIZE, 4 * SIZE),
    "mlp/conv1d_main/c_fc/bias": (4 * SIZE,),
    "mlp/conv1d_main/c_proj/kernel": (4 * SIZE, SIZE),
    "mlp/conv1d_main/c_proj/bias": (SIZE,),
}


def variables(dtype=np.float32):
    random = np.random.default_rng(3)
    shapes = {"wte": (WORDS, SIZE), "wpe": (POSITIONS, SIZE)}
    shapes |= {f"h{i}/{name}": shape for i in range(3) for name, shape in SHAPES.items()}
    shapes |= {"ln_f/g": (SIZE,), "ln_f/b": (SIZE,)}
    return {
        f"gpt2/{name}": (random.normal(0, 0.4, shape) + name.endswith("/g")).astype(dtype)
        for name, shape in shapes.items()
    }


def forward(tensors, ids, radius=3):
    """What the original computes, in double precision."""
    own = {name: np.asarray(value, np.float64) for name, value in tensors.items()}

    def norm(x, scope):
        x = x - x.mean(-1, keepdims=True)
        return (
            x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * own[scope + "/g"]
            + own[scope + "/b"]
        )

    def gelu(x):
        return x * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    def split(x):
        return x.reshape(len(ids), HEADS, -1).swapaxes(0, 1)

    x = own["gpt2/wte"][ids] + own["gpt2/wpe"][: len(ids)]
    distance = np.subtract.outer(np.arange(len(ids)), np.arange(len(ids)))
    for layer, kind in enumerate(KINDS):
        scope = f"gpt2/h{layer}"
        y = norm(x, f"{scope}/norm_1")
        query, key, value = (split(y @ own[f"{scope}/attn/{name}"]) for name in "qkv")
        scores = query @ key.swapaxes(1, 2)  # not scaled
        hidden = (distance < 0) | ((kind == "local") & (distance >= radius))
        scores = np.exp(np.where(hidden, -np.inf, scores))
        y = (scores / scores.sum(-1, keepdims=True) @ value).swapaxes(0, 1).reshape(len(ids), SIZE)
        x = x + y @ own[f"{scope}/attn/o"] + own[f"{scope}/attn/compute_output_bias/o_b"]
        y = norm(x, f"{scope}/norm_2")
        for name, function in (("c_fc", gelu), ("c_proj", lambda y: y)):
            inner = f"{scope}/mlp/conv1d_main/{name}"
            y = function(y @ own[f"{inner}/kernel"] + own[f"{inner}/bias"])
        x = x + y
    return norm(x, "gpt2/ln_f") @ own["gpt2/wte"].T


def written(folder, tensors, config=CONFIG):
    folder.mkdir(exist_ok=True)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return write_bundle(folder / "model.ckpt-3", tensors)


def plan(folder, tensors=None, config=CONFIG, **options):
    prefix = written(folder, variables() if tensors is None else tensors, None)
    return make_plan(tfreader.open(prefix), config=config, **options)


def check_outputs(folder, expected):
    model, info = transformers.GPTNeoForCausalLM.from_pretrained(
        folder, output_loading_info=True, dtype=torch.float32
    )
    assert not any(info.values())
    with torch.no_grad():
        logits = model.eval()(torch.tensor([IDS])).logits[0]
    np.testing.assert_allclose(logits, expected, atol=2e-5)
    return model


IDS = [3, 29, 7, 0, 11, 5, 5, 20, 14]


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_the_model_computes_what_the_original_does(dtype, tmp_path):
    tensors = variables(dtype)
    expected = forward(tensors, IDS)
    for slot in ("/adam_m", "/adam_v"):  # of full precision in any case
        tensors |= {n + slot: np.ones(v.shape, np.float32) for n, v in variables(dtype).items()}
    tensors["global_step"] = np.array(3)
    report = convert(written(tmp_path / "in", tensors), tmp_path / "out")
    assert report.plan.family.model_type == "gpt_neo"
    assert report.plan.architecture == CLASS
    assert report.plan.config["resid_dropout"] == 0.1
    assert not {"lr", "precision", "moe_layers", "n_embd"} & {*report.plan.config}
    assert not any("nor transformers knows" in note for note in report.notes)
    model = check_outputs(tmp_path / "out", expected)
    assert model.config.activation_function == "gelu_new"
    assert {str(entry.dtype) for entry in report.plan.entries} == {np.dtype(dtype).name}


def test_adafactors_slots_are_left_out(tmp_path):
    tensors = variables()
    for name, value in variables().items():
        tensors[name + "_slot_m"] = value
        if value.ndim == 2 and min(value.shape) > SIZE:
            tensors |= {f"{name}_slot_vr": value[0], f"{name}_slot_vc": value[:, 0]}
        else:
            tensors[name + "_slot_v"] = value
    made = plan(tmp_path, tensors)
    assert len(made.entries) == len(variables())


def test_a_padded_table_is_kept_or_cut_as_the_user_says(tmp_path):
    assert plan(tmp_path).config["vocab_size"] == WORDS
    folder = tmp_path / "in"
    report = convert(written(folder, variables()), tmp_path / "out", overrides={"vocab_size": 25})
    assert "gpt2/wte: rows 25 to 29 left out, as asked" in report.notes
    model = transformers.GPTNeoForCausalLM.from_pretrained(tmp_path / "out")
    expected = variables()["gpt2/wte"][:25]
    np.testing.assert_array_equal(model.lm_head.weight.detach(), expected)
    with pytest.raises(tfreader.PlanError, match=r"--set vocab_size=25 leaves it out"):
        plan(tmp_path, config=CONFIG | {"n_vocab": 25})
    with pytest.raises(tfreader.PlanError, match="vocab_size = 35"):
        plan(tmp_path, overrides={"vocab_size": 35})
    large = variables() | {"gpt2/wte": np.zeros((50304, SIZE), np.float32)}
    notes = plan(tmp_path, large, CONFIG | {"n_vocab": 50304}).notes
    assert any("all 50304 rows are kept" in note for note in notes)


@pytest.mark.parametrize(
    ("rows", "config", "expected"),
    [
        (WORDS, {}, None),
        (WORDS, {"eos_id": 7, "padding_id": 50257}, 7),
        (50257, {}, 50256),
        (50304, {}, 50256),
    ],
)
def test_the_end_is_gpt2s_where_the_table_has_it(rows, config, expected, tmp_path):
    tensors = variables() | {"gpt2/wte": np.zeros((rows, SIZE), np.float32)}
    made = plan(tmp_path, tensors, CONFIG | {"n_vocab": rows} | config).config
    assert made["eos_token_id"] == made["bos_token_id"] == expected


def test_a_key_that_is_set_to_null_stays_so(tmp_path):
    tensors = variables() | {"gpt2/wte": np.zeros((50257, SIZE), np.float32)}
    config = CONFIG | {"n_vocab": 50257}
    made = plan(tmp_path, tensors, config, overrides={"eos_token_id": None, "bos_token_id": 1})
    assert made.config["eos_token_id"] is None
    assert made.config["bos_token_id"] == 1


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "gelu_new"), ({"activation_fn": "relu"}, "relu"), ({"activation_fn": "id"}, "linear")],
)
def test_the_activation_is_read_where_the_original_reads_it(given, expected, tmp_path):
    assert plan(tmp_path, config=CONFIG | given).config["activation_function"] == expected


def test_a_config_of_transformers_says_it_itself(tmp_path):
    keys = ("vocab_size", "max_position_embeddings", "hidden_size", "num_heads", "num_layers")
    config = dict(zip(keys, (WORDS, POSITIONS, SIZE, HEADS, 3), strict=True))
    config |= {"attention_types": [[["local"], 3]], "attention_layers": ["local"] * 3}
    made = plan(tmp_path, config=config | {"model_type": "gpt_neo", "activation_function": "relu"})
    assert made.config["activation_function"] == "relu"
    assert made.config["window_size"] == 256
    assert any(note.startswith("window_size = 256: ") for note in made.notes)
    assert "attention_layers" not in made.config
    with pytest.raises(tfreader.ConfigError, match="follows from attention_types"):
        plan(tmp_path, overrides={"attention_layers": ["local"] * 3})


def test_the_window_is_the_originals_where_its_config_is_silent(tmp_path):
    config = {key: value for key, value in CONFIG.items() if key != "local_attention_radius"}
    assert plan(tmp_path, config=config).config["window_size"] == 256


def test_without_a_config_heads_and_kinds_are_asked_for(tmp_path):
    prefix = written(tmp_path / "in", variables(), None)
    given = {}
    with pytest.raises(tfreader.ConfigError, match="--set num_heads="):
        convert(prefix, tmp_path / "out", overrides=given)
    given["num_heads"] = HEADS
    with pytest.raises(tfreader.ConfigError, match=r"--set .attention_types=\[\[\[.global.\], 3"):
        convert(prefix, tmp_path / "out", overrides=given)
    given |= {"attention_types": CONFIG["attention_types"], "window_size": 3}
    convert(prefix, tmp_path / "out", overrides=given)
    check_outputs(tmp_path / "out", forward(variables(), IDS))


@pytest.mark.parametrize(
    ("types", "message"),
    [
        ([[["linear", "global"], 1], [["none"], 1]], "linear, none: .* global and local attention"),
        ([[["global"], 2]], "are of 2 layers, the checkpoint has 3"),
        ([[["global"], 10**9]] * 9, "are of 9000000000 layers"),
        (["global"] * 3, "expected lists of kinds"),
        ([[["global"], "3"]], "expected lists of kinds"),
        ("global", "expected lists of kinds"),
        ([[[3], 3]], "expected lists of kinds"),
    ],
)
def test_kinds_of_attention_that_no_class_has_are_refused(types, message, tmp_path):
    with pytest.raises(tfreader.ConfigError, match=message):
        plan(tmp_path, config=CONFIG | {"attention_types": types})


@pytest.mark.parametrize(
    ("key", "value", "harmless"),
    [
        ("no_weight_tie", True, False),
        ("mlp_glu", True, False),
        ("scalenorm", True, False),
        ("rezero", True, False),
        ("moe_layers", [1], []),
        ("axial_pos_emb", [4, 3], None),
        ("rotary_emb", True, None),
        ("share_parameters", True, False),
        ("macaron", True, False),
        ("num_mem_kv", 4, 0),
        ("mlm_training", True, False),
    ],
)
def test_a_config_of_another_model_is_refused(key, value, harmless, tmp_path):
    with pytest.raises(tfreader.ConfigError, match=f"{key} = .*no conversion is right"):
        plan(tmp_path, config=CONFIG | {key: value})
    assert plan(tmp_path, config=CONFIG | {key: harmless}).config


def test_an_activation_that_transformers_lacks_is_refused(tmp_path):
    for name in ("prelu", ["gelu"]):
        with pytest.raises(tfreader.ConfigError, match="activation_fn = "):
            plan(tmp_path, config=CONFIG | {"activation_fn": name})


ONE = np.ones((SIZE,), np.float32)


@pytest.mark.parametrize(
    ("gone", "added", "what"),
    [
        ("ln_f/.", {"wte_final_linear/conv1d_main/linear_out/bias": ONE}, "no_weight_tie"),
        ("wpe", {"axial_wpe_1": ONE, "axial_wpe_2": ONE}, "axial_pos_emb"),
        ("wpe", {}, "rotary_emb"),
        ("h./norm_[12]/.", {"h0/norm_rezero_1/g": np.float32(1)}, "rezero"),
        ("h0/norm_2/.", {"h0/norm_2/g": np.float32(1)}, "scalenorm"),
        ("-", {"h0/mlp_macaron/conv1d_main/c_fc/bias": ONE}, "macaron"),
        ("-", {"h1/attn/attention/memory_key_values/mem_k": ONE}, "num_mem_kv"),
        ("h1/mlp/.*", {"h1/moe/wi": ONE}, "moe_layers"),
        ("h2/(attn|norm_1)/.*", {}, "no attention \\(attention type none"),
        ("h./.*", {"attn/q": ONE, "norm_1/g": ONE}, "share_parameters"),
        (
            "h0/mlp/conv1d_main/c_fc/.*",
            {"h0/mlp/conv1d_main/c_fc/kernel": np.ones((SIZE, 8 * SIZE), np.float32)},
            "mlp_glu",
        ),
    ],
)
def test_variables_of_another_model_are_refused_by_name(gone, added, what, tmp_path):
    pattern = re.compile(f"gpt2/{gone}")
    tensors = {n: v for n, v in variables().items() if not pattern.fullmatch(n)}
    tensors |= {f"gpt2/{name}": value for name, value in added.items()}
    with pytest.raises(tfreader.PlanError, match=rf"{what}\)?: transformers' GPT-Neo computes"):
        plan(tmp_path, tensors)


def test_a_layer_that_is_missing_is_named(tmp_path):
    tensors = {n: v for n, v in variables().items() if not n.startswith("gpt2/h1/")}
    with pytest.raises(tfreader.PlanError, match="layer 1 of 3 is missing"):
        plan(tmp_path, tensors)


def test_the_base_model_and_the_heads_that_it_never_had(tmp_path):
    prefix = written(tmp_path / "in", variables())
    convert(prefix, tmp_path / "out", architecture="GPTNeoModel")
    _, info = transformers.GPTNeoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())
    for kind in ("SequenceClassification", "TokenClassification", "QuestionAnswering"):
        with pytest.raises(tfreader.PlanError, match=f"GPTNeoFor{kind}: the original has no head"):
            plan(tmp_path, architecture=f"GPTNeoFor{kind}")


def test_a_vocabulary_beside_becomes_a_tokenizer(tmp_path):
    prefix = written(tmp_path / "in", variables())
    (tmp_path / "in" / "vocab.json").write_text(json.dumps({"a": 0, "b": 1, "ab": 2}))
    (tmp_path / "in" / "merges.txt").write_text("a b\n")
    convert(prefix, tmp_path / "out")
    told = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert told == {"tokenizer_class": "GPT2Tokenizer", "model_max_length": POSITIONS}
