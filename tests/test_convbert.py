from __future__ import annotations

import json

import numpy as np
import pytest
from bundle_writer import write_bundle
from click.testing import CliRunner
from conftest import DATA
from outputs import check_forward

import tfreader
from tfreader.cli.main import main
from tfreader.mapping import convert, load_state_dict
from tfreader.mapping.families import get_family

CONVBERT = DATA / "convbert"
MODEL, GENERATOR = "ConvBertModel", "ConvBertForMaskedLM"
LABELS, SPANS = "ConvBertForTokenClassification", "ConvBertForQuestionAnswering"
HPARAMS = json.loads((CONVBERT / "pretraining" / "hparams.json").read_text())
SELF = "encoder/layer_0/attention/self"


def variables(name="pretraining"):
    with tfreader.open(CONVBERT / name) as checkpoint:
        return {variable: checkpoint[variable] for variable in checkpoint}


def written(folder, tensors, hparams=None):
    """A checkpoint of these tensors, beside hparams.json where there are any."""
    folder.mkdir()
    if hparams is not None:
        (folder / "hparams.json").write_text(json.dumps(hparams))
    return write_bundle(folder / "model.ckpt", tensors)


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def check_outputs(output, name, architecture):
    check_forward(output, CONVBERT / name / "forward.npz", architecture, atol=1e-5)


HF = {
    "conv_kernel_size": 5,
    "embedding_size": 16,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_attention_heads": 4,
    "num_groups": 1,
    "num_hidden_layers": 1,
}
HF_GENERATOR = HF | {"hidden_size": 12, "intermediate_size": 48, "num_attention_heads": 2}


@pytest.mark.parametrize("config", [None, HF, {}])
@pytest.mark.parametrize("architecture", [None, GENERATOR])
def test_either_half_gives_tensorflows_outputs(architecture, config, tmp_path):
    report = convert(CONVBERT / "pretraining", tmp_path, config=config, architecture=architecture)
    assert report.plan.architecture == (architecture or MODEL)
    check_outputs(tmp_path, "pretraining", report.plan.architecture)
    found, wanted = config_of(tmp_path), HF_GENERATOR if architecture else HF
    assert {key: found[key] for key in wanted} == wanted


def test_a_generator_by_its_own_config(tmp_path):
    source = CONVBERT / "pretraining"
    report = convert(source, tmp_path, config=HF_GENERATOR, architecture=GENERATOR)
    assert not any(note.startswith("generator: ") for note in report.notes)
    check_outputs(tmp_path, "pretraining", GENERATOR)


@pytest.mark.parametrize("config", [None, {}])
@pytest.mark.parametrize(("task", "architecture"), [("chunk", LABELS), ("squadv1", SPANS)])
def test_the_head_of_one_task_of_several_on_layers_in_groups(task, architecture, config, tmp_path):
    source = CONVBERT / "fine_tuned"
    report = convert(source, tmp_path, config=config, finetuning_task_name=task)
    assert report.plan.architecture == architecture
    assert config_of(tmp_path)["num_groups"] == 2
    check_outputs(tmp_path, "fine_tuned", architecture)


def test_the_discriminators_head_is_left_out_and_said(tmp_path):
    report = convert(CONVBERT / "pretraining", tmp_path / "out")
    assert any("discriminator_predictions: left out" in note for note in report.notes)
    (said,) = (note for note in report.notes if note.startswith(MODEL))
    assert "generator_predictions left out, which ConvBertForMaskedLM has" in said
    assert "same variables" not in said


def test_berts_objective_is_a_masked_language_model(tmp_path):
    tensors = {
        name.replace("generator/", "electra/"): value
        for name, value in variables().items()
        if not name.startswith(("electra/encoder", "electra/embeddings_project", "discriminator"))
    }
    report = convert(written(tmp_path / "in", tensors), tmp_path / "out")
    assert report.plan.architecture == GENERATOR
    check_outputs(tmp_path / "out", "pretraining", GENERATOR)


def with_heads(scope, hidden, heads):
    """Zeros for the attention of a model of the original with so many heads."""
    kept, width = max(1, heads // 2), 5
    half = kept * (hidden // heads)
    shapes = {
        f"{SELF}/conv_attn_key/depthwise_kernel": (width, hidden, 1),
        f"{SELF}/conv_attn_key/pointwise_kernel": (1, hidden, half),
        f"{SELF}/conv_attn_key/bias": (half,),
        f"{SELF}/conv_attn_kernel/kernel": (half, kept * width),
        f"{SELF}/conv_attn_kernel/bias": (kept * width,),
        "encoder/layer_0/attention/output/dense/kernel": (2 * half, hidden),
    }
    for name in ("query", "key", "value", "conv_attn_point"):
        shapes |= {f"{SELF}/{name}/kernel": (hidden, half), f"{SELF}/{name}/bias": (half,)}
    return {f"{scope}/{name}": np.zeros(shape, "f4") for name, shape in shapes.items()}


def test_a_generator_of_one_head_is_refused_but_not_what_lies_beside_it(tmp_path):
    tensors = variables() | with_heads("generator", 12, 1)
    prefix = written(tmp_path / "in", tensors)
    convert(prefix, tmp_path / "out")
    check_outputs(tmp_path / "out", "pretraining", MODEL)
    with pytest.raises(tfreader.PlanError, match=r"1 of 1 heads of size 12 attend.*head_ratio 2"):
        convert(prefix, tmp_path / "other", architecture=GENERATOR)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("overrides", [{}, {"num_attention_heads": 4}])
def test_an_odd_number_of_heads_is_refused(overrides, tmp_path):
    prefix = written(tmp_path / "in", variables() | with_heads("electra", 24, 3))
    with pytest.raises(tfreader.PlanError, match="1 of 3 heads of size 8 attend"):
        convert(prefix, tmp_path / "out", overrides=overrides)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"head_ratio": 4}, "head_ratio = 4: that model has other tensors"),
        ({"linear_groups": 2}, "num_groups = 2 in .*, but the checkpoint's variables tell 1"),
        ({"conv_kernel_size": 9}, r"conv_kernel_size = 9 in .*, but the checkpoint has 5"),
        ({"conv_type": "noconv"}, 'conv_type = "noconv".*no conversion is right'),
        ({"model_size": "large"}, "known are medium-small, small, base"),
        (
            {"model_hparam_overrides": HPARAMS["model_hparam_overrides"] | {"linear_groups": 3}},
            "num_groups = 3 in",
        ),
        (
            {
                "model_hparam_overrides": HPARAMS["model_hparam_overrides"]
                | {"num_attention_heads": 8}
            },
            r"num_attention_heads/2\*conv_kernel_size = 20 in .*, but the checkpoint has 10",
        ),
    ],
)
def test_hparams_of_another_model_are_refused(keys, said, tmp_path):
    prefix = written(tmp_path / "in", variables(), HPARAMS | keys)
    with pytest.raises(tfreader.TFReaderError, match=said):
        convert(prefix, tmp_path / "out")


@pytest.mark.parametrize(
    ("hparams", "found"),
    [
        ({"model_size": "medium-small"}, [384, 12, 8, 1536, 128, 2]),
        ({"model_size": "small"}, [256, 12, 4, 1024, 128, 1]),
        ({"model_size": "base"}, [768, 12, 12, 3072, 768, 1]),
        ({"model_hparam_overrides": {"hidden_size": 96}}, [96, 12, 2, 384, 128, 2]),
        ({"model_size": "base", "linear_groups": 4}, [768, 12, 12, 3072, 768, 4]),
    ],
)
def test_hparams_mean_what_they_mean_to_the_original(hparams, found):
    config = get_family("convbert").translate(hparams)
    keys = (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "embedding_size",
        "num_groups",
    )
    assert [config[key] for key in keys] == found
    assert (config["conv_kernel_size"], config["head_ratio"]) == (9, 2)


def test_a_convolution_of_even_width_is_refused(tmp_path):
    tensors = variables()
    for scope in ("electra", "generator"):
        for name in ("conv_attn_kernel/kernel", "conv_attn_kernel/bias"):
            tensors[f"{scope}/{SELF}/{name}"] = tensors[f"{scope}/{SELF}/{name}"][..., 0::5]
            tensors[f"{scope}/{SELF}/{name}"] = tensors[f"{scope}/{SELF}/{name}"].repeat(4, -1)
        name = f"{scope}/{SELF}/conv_attn_key/depthwise_kernel"
        tensors[name] = tensors[name][:4]
    with pytest.raises(tfreader.ConfigError, match="conv_kernel_size = 4: .* its width is odd"):
        convert(written(tmp_path / "in", tensors), tmp_path / "out")


def of_task(tmp_path, task, *layers):
    """The fixture with one task, whose kernels have these shapes by their layers."""
    tensors = {n: v for n, v in variables("fine_tuned").items() if not n.startswith("task")}
    for layer, shape in layers:
        tensors[f"task_specific/{task}/{layer}/kernel"] = np.ones(shape, "f4")
        tensors[f"task_specific/{task}/{layer}/bias"] = np.ones(shape[1:], "f4")
    return written(tmp_path / "in", tensors)


@pytest.mark.parametrize(("task", "labels"), [("mnli", 3), ("wnli", 2), ("sts", 1)])
def test_heads_for_texts_have_no_class_but_a_place(task, labels, tmp_path):
    prefix = of_task(tmp_path, task, ("dense", (24, labels)))
    report = convert(prefix, tmp_path / "base")
    assert report.plan.architecture == MODEL
    assert any(f"--architecture {LABELS} takes it" in note for note in report.notes)
    with pytest.raises(tfreader.PlanError, match="two layers with an activation.*TokenClass"):
        convert(prefix, tmp_path / "out", architecture="ConvBertForSequenceClassification")
    state_dict = load_state_dict(prefix, architecture=LABELS)
    assert state_dict["classifier.weight"].shape == (labels, 24)


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ((("qa_hidden", (48, 512)), ("dense_1", (512, 1))), "joint_prediction"),
        ((("dense_1", (24, 1)), ("dense_2", (48, 512)), ("dense_3", (512, 1))), "answerable"),
    ],
)
def test_answers_of_another_form_are_left_out_with_the_reason(layers, said, tmp_path):
    prefix = of_task(tmp_path, "squad", ("dense", (24, 1)), *layers)
    report = convert(prefix, tmp_path / "base")
    assert report.plan.architecture == MODEL
    assert any(said in note for note in report.notes)
    with pytest.raises(tfreader.PlanError, match=f"{SPANS}.*{said}"):
        convert(prefix, tmp_path / "out", architecture=SPANS)


def test_it_is_told_from_electra_and_bert(tmp_path):
    for name in ("pretraining", "fine_tuned"):
        options = {"finetuning_task_name": "chunk", "config": {}}
        by_name = load_state_dict(CONVBERT / name, "convbert", **options)
        assert load_state_dict(CONVBERT / name, **options).keys() == by_name.keys()
        for other in ("electra", "bert"):
            with pytest.raises(tfreader.PlanError, match="variables are convbert: is --model_type"):
                convert(CONVBERT / name, tmp_path / "out", other, **options)


def test_rules_are_printed(tmp_path):
    printed = CliRunner().invoke(main, ["rules", "convbert"])
    assert printed.exit_code == 0, printed.output
    checkpoint = ["--tf_checkpoint", str(CONVBERT / "pretraining")]
    printed = CliRunner().invoke(main, ["rules", "convbert", *checkpoint])
    (tmp_path / "rules.toml").write_text(printed.stdout)
    expected = load_state_dict(CONVBERT / "pretraining")
    found = load_state_dict(
        CONVBERT / "pretraining", rules=tmp_path / "rules.toml", architecture=MODEL
    )
    assert found.keys() == expected.keys()
    assert all(found[name].equal(expected[name]) for name in expected)
