from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
from bundle_writer import write_bundle
from click.testing import CliRunner
from conftest import DATA
from outputs import check_forward

import tfreader
from tfreader.cli.main import main
from tfreader.mapping import convert, load_state_dict

ELECTRA = DATA / "electra"
PRETRAINING, GENERATOR = "ElectraForPreTraining", "ElectraForMaskedLM"
LABELS, SPANS = "ElectraForTokenClassification", "ElectraForQuestionAnswering"


def variables(name="pretraining"):
    with tfreader.open(ELECTRA / name) as checkpoint:
        return {variable: checkpoint[variable] for variable in checkpoint}


def written(folder, tensors, hparams=None):
    """A checkpoint of these tensors beside the fixtures' hparams.json."""
    folder.mkdir(exist_ok=True)
    given = hparams or json.loads((ELECTRA / "pretraining" / "hparams.json").read_text())
    (folder / "hparams.json").write_text(json.dumps(given))
    return write_bundle(folder / "model.ckpt", tensors)


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def check_outputs(output, name, architecture):
    check_forward(output, ELECTRA / name / "forward.npz", architecture, atol=1e-5)


@pytest.mark.parametrize("name", ["pretraining", "untied", "tied"])
@pytest.mark.parametrize("architecture", [None, GENERATOR])
def test_either_half_gives_tensorflows_outputs(name, architecture, tmp_path):
    report = convert(ELECTRA / name, tmp_path, architecture=architecture)
    assert report.plan.architecture == (architecture or PRETRAINING)
    check_outputs(tmp_path, name, report.plan.architecture)


@pytest.mark.parametrize(("task", "architecture"), [("chunk", LABELS), ("squadv1", SPANS)])
def test_the_head_of_one_task_of_several(task, architecture, tmp_path):
    report = convert(ELECTRA / "fine_tuned", tmp_path, finetuning_task_name=task)
    assert report.plan.architecture == architecture
    check_outputs(tmp_path, "fine_tuned", architecture)


def test_several_tasks_are_asked_for(tmp_path):
    for task in (None, "mnli"):
        with pytest.raises(tfreader.ConfigError, match="chunk, squadv1; choose with --finetuning"):
            convert(ELECTRA / "fine_tuned", tmp_path / "out", finetuning_task_name=task)


def test_rules_are_printed_for_the_task_that_is_chosen(tmp_path):
    checkpoint = ["--tf_checkpoint", str(ELECTRA / "fine_tuned")]
    run = partial(CliRunner().invoke, main)
    assert "choose with --finetuning_task_name" in run(["rules", "electra", *checkpoint]).output
    chosen = ["--finetuning_task_name", "squadv1"]
    printed = run(["rules", "electra", *checkpoint, *chosen])
    (tmp_path / "rules.toml").write_text(printed.stdout)
    expected = load_state_dict(ELECTRA / "fine_tuned", finetuning_task_name="squadv1")
    found = load_state_dict(ELECTRA / "fine_tuned", rules=tmp_path / "rules.toml")
    assert found.keys() == expected.keys()
    assert found["qa_outputs.weight"].equal(expected["qa_outputs.weight"])
    assert run(["rules", "electra", *chosen]).exit_code == 2


def test_berts_objective_is_a_masked_language_model(tmp_path):
    tensors = {n: v for n, v in variables("tied").items() if not n.startswith("discriminator")}
    report = convert(written(tmp_path / "in", tensors), tmp_path / "out")
    assert report.plan.architecture == GENERATOR
    check_outputs(tmp_path / "out", "tied", GENERATOR)


def test_below_a_scope_with_slots_and_averages(tmp_path):
    tensors = {f"outer/{name}": value for name, value in variables().items()}
    trained = {n: v for n, v in tensors.items() if v.dtype == np.float32}
    for slot in ("adam_m", "adam_v", "ExponentialMovingAverage"):
        tensors |= {f"{name}/{slot}": value + 1 for name, value in trained.items()}
    prefix = written(tmp_path / "in", tensors)
    for name in (PRETRAINING, GENERATOR):
        convert(prefix, tmp_path / name, scope="outer", architecture=name)
        check_outputs(tmp_path / name, "pretraining", name)


HF = {
    "embedding_size": 16,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
}
HF_GENERATOR = HF | {
    "hidden_size": 12,
    "intermediate_size": 48,
    "num_attention_heads": 1,
    "num_hidden_layers": 1,
}


def test_the_generators_sizes_where_the_config_has_the_discriminators(tmp_path):
    for number, config in enumerate((HF, HF_GENERATOR, {})):
        output = tmp_path / str(number)
        source = ELECTRA / "pretraining"
        report = convert(source, output, config=config, architecture=GENERATOR)
        found = config_of(output)
        assert {key: found[key] for key in HF_GENERATOR} == HF_GENERATOR
        said = "\n".join(report.notes)
        assert ("generator: hidden_size = 12" in said) == (config == HF)
        assert ("num_attention_heads = 1" in said) == (config != HF_GENERATOR)


def test_what_the_user_sets_goes_before_what_the_original_would_have(tmp_path):
    overrides = {"num_attention_heads": 2}
    source = ELECTRA / "pretraining"
    report = convert(source, tmp_path, architecture=GENERATOR, overrides=overrides)
    assert config_of(tmp_path)["num_attention_heads"] == 2
    (said,) = (note for note in report.notes if note.startswith("generator: "))
    assert "hidden_size = 12" in said
    assert "head" not in said


def test_a_config_of_neither_half_is_refused(tmp_path):
    with pytest.raises(tfreader.PlanError, match="hidden_size = 32"):
        convert(
            ELECTRA / "pretraining",
            tmp_path / "out",
            config=HF | {"hidden_size": 32},
            architecture=GENERATOR,
        )


@pytest.mark.parametrize(
    ("hparams", "found"),
    [
        ({"model_size": "small"}, [256, 12, 4, 1024, 128]),
        ({"model_size": "base"}, [768, 12, 12, 3072, 768]),
        ({"model_size": "large", "embedding_size": 512}, [1024, 24, 16, 4096, 512]),
        ({"model_hparam_overrides": {"hidden_size": 100}}, [100, 12, 1, 400, 128]),
        ({"model_size": "base", "debug": True}, [144, 3, 4, 576, 144]),
    ],
)
def test_hparams_mean_what_they_mean_to_the_original(hparams, found):
    from tfreader.mapping.families import get_family

    config = get_family("electra").translate(hparams)
    keys = (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "embedding_size",
    )
    assert [config[key] for key in keys] == found


@pytest.mark.parametrize(
    ("hparams", "said"),
    [
        ({"model_size": "huge"}, "model_size = 'huge', known are small, base, large"),
        ({"model_size": ["base"]}, "model_size = a list of 1, known are small, base, large"),
        ({"model_hparam_overrides": 3}, "model_hparam_overrides = 3, expected an object"),
        ({"model_hparam_overrides": {"hidden_size": "a"}}, 'hidden_size = "a", expected'),
        ({"model_hparam_overrides": {"hiden_size": 4}}, "'hidden_size' meant"),
        ({"model_size": "base"}, "ing_size = 768 in .*hparams.json, but the checkpoint has 16"),
    ],
)
def test_hparams_that_cannot_be_are_refused(hparams, said, tmp_path):
    prefix = written(tmp_path / "in", variables(), hparams)
    with pytest.raises(tfreader.TFReaderError, match=said):
        convert(prefix, tmp_path / "out")


def test_heads_are_asked_for_where_they_are_not_of_the_usual_size(tmp_path):
    with pytest.raises(tfreader.ConfigError, match=r"num_attention_heads.*\n.*--config hparams"):
        convert(ELECTRA / "pretraining", tmp_path / "out", config={})


def of_usual_size(tmp_path):
    """Both halves as wide as so many heads of 64, or a part of one, are."""
    rows = {12: 32, 24: 64}
    tensors = {
        name: np.zeros([rows.get(size, size) for size in value.shape], value.dtype)
        for name, value in variables().items()
    }
    return write_bundle(tmp_path / "model.ckpt", tensors)


def test_heads_of_the_usual_size_are_assumed_and_said(tmp_path):
    report = convert(of_usual_size(tmp_path), tmp_path / "out")
    assert any(note.startswith("num_attention_heads = 1") for note in report.notes)
    assert config_of(tmp_path / "out")["num_attention_heads"] == 1


def test_nothing_is_assumed_where_either_of_two_configs_may_tell(tmp_path):
    """One of each half, as transformers' own conversion wants them."""
    prefix = of_usual_size(tmp_path)
    config = {"hidden_size": 64, "embedding_size": 16, "num_hidden_layers": 1, "vocab_size": 30}
    for name, heads in (("discriminator", 4), ("generator", 2)):
        path = tmp_path / f"{name}_config.json"
        path.write_text(json.dumps({**config, "num_attention_heads": heads}))
    with pytest.raises(tfreader.ConfigError, match=r"needs num_attention_heads[^*]*--config"):
        convert(prefix, tmp_path / "out")


def fine_tuned(tmp_path, task, *layers):
    """The fixture with one task, whose kernels have these shapes by their layers."""
    tensors = {n: v for n, v in variables("fine_tuned").items() if not n.startswith("task")}
    for layer, shape in layers:
        tensors[f"task_specific/{task}/{layer}/kernel"] = np.ones(shape, "f4")
        tensors[f"task_specific/{task}/{layer}/bias"] = np.ones(shape[1:], "f4")
    given = json.loads((ELECTRA / "fine_tuned" / "hparams.json").read_text())
    return written(tmp_path / "in", tensors, given)


@pytest.mark.parametrize(("task", "labels"), [("mnli", 3), ("sts", 1), ("own", 1)])
def test_heads_for_texts_have_no_class_but_a_place(task, labels, tmp_path):
    prefix = fine_tuned(tmp_path, task, ("dense", (24, labels)))
    report = convert(prefix, tmp_path / "base")
    assert report.plan.architecture == "ElectraModel"
    (said,) = (note for note in report.notes if "has two with gelu between them" in note)
    assert f"--architecture {LABELS} takes it" in said
    with pytest.raises(tfreader.PlanError, match="two layers with gelu.*TokenClassification"):
        convert(prefix, tmp_path / "out", architecture="ElectraForSequenceClassification")
    state_dict = load_state_dict(prefix, architecture=LABELS)
    assert state_dict["classifier.weight"].shape == (labels, 24)


def test_a_task_of_ones_own_is_taken_for_labels_of_tokens(tmp_path):
    report = convert(fine_tuned(tmp_path, "a.b", ("dense", (24, 3))), tmp_path / "out")
    assert report.plan.architecture == LABELS
    assert any("task_specific/a.b: taken for labels of tokens" in note for note in report.notes)
    assert len(config_of(tmp_path / "out")["id2label"]) == 3


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        ((("qa_hidden", (48, 512)), ("dense_1", (512, 1))), "joint_prediction"),
        ((("dense_1", (24, 1)), ("dense_2", (24, 1))), "answerable_classifier"),
        ((("other", (24, 7)),), "layers that no class of transformers has"),
    ],
)
def test_heads_that_no_class_has_are_left_out_with_the_reason(layers, said, tmp_path):
    prefix = fine_tuned(tmp_path, "squad", ("dense", (24, 1)), *layers)
    report = convert(prefix, tmp_path / "base")
    assert report.plan.architecture == "ElectraModel"
    assert any(said in note for note in report.notes)
    with pytest.raises(tfreader.PlanError, match=f"{SPANS}.*{said}"):
        convert(prefix, tmp_path / "out", architecture=SPANS)


def test_a_head_of_two_layers_is_not_taken_for_one_of_answers(tmp_path):
    prefix = fine_tuned(tmp_path, "own", ("dense", (24, 24)), ("dense_1", (24, 3)))
    report = convert(prefix, tmp_path / "out")
    assert report.plan.architecture == "ElectraModel"
    assert "task_specific/own: layers that no class of transformers has" in report.notes


def test_electric_is_refused_by_name(tmp_path):
    tensors = {n.replace("generator/", "generator_ltr/"): v for n, v in variables().items()}
    with pytest.raises(tfreader.PlanError, match=r"generator_ltr/.*Electric"):
        convert(written(tmp_path / "in", tensors), tmp_path / "out")


def test_heads_of_half_the_size_are_a_convberts(tmp_path):
    tensors = variables()
    for name in ("query", "key", "value"):
        scope = f"electra/encoder/layer_0/attention/self/{name}"
        tensors |= {f"{scope}/kernel": np.ones((24, 12), "f4"), f"{scope}/bias": np.ones(12, "f4")}
    prefix = written(tmp_path / "in", tensors)
    with pytest.raises(tfreader.PlanError, match=r"query/kernel \[24, 12\].*noconv"):
        convert(prefix, tmp_path / "out")
    for config in ({"model_size": "medium-small"}, {"linear_groups": 1, "model_size": "base"}):
        with pytest.raises(tfreader.ConfigError, match="of a ConvBERT, .*noconv"):
            convert(prefix, tmp_path / "out", config=config)


@pytest.mark.parametrize("name", ["pretraining", "fine_tuned"])
def test_a_projection_is_there_just_where_the_sizes_differ(name, tmp_path):
    tensors = variables(name)
    scope = "electra/embeddings_project"
    if name == "pretraining":
        del tensors[f"{scope}/kernel"]
        said = r"embeddings_project.weight \(from electra/embeddings_project/kernel"
    else:
        tensors[f"{scope}/kernel"] = np.ones((24, 24), "f4")
        said = "1 variable inside the model that no rule knows: electra/embeddings_project/kernel"
    given = json.loads((ELECTRA / name / "hparams.json").read_text())
    prefix = written(tmp_path / "in", tensors, given)
    with pytest.raises(tfreader.PlanError, match=said):
        convert(prefix, tmp_path / "out", finetuning_task_name="chunk")


def test_the_generators_head_has_gelu_alone(tmp_path):
    overrides = {"hidden_act": "relu"}
    convert(ELECTRA / "pretraining", tmp_path / "out", overrides=overrides)
    with pytest.raises(tfreader.ConfigError, match="always has gelu"):
        convert(
            ELECTRA / "pretraining",
            tmp_path / "other",
            architecture=GENERATOR,
            overrides=overrides,
        )
