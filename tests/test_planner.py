"""What is mapped, what is left out and what is refused, from names and shapes alone."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
from bundle_writer import write_bundle
from click.testing import CliRunner
from conftest import BERT, DATA
from safetensors.numpy import load_file

import tfreader
from tfreader.cli.main import main
from tfreader.mapping import convert, make_plan

CONFIG = json.loads((BERT / "bert_config.json").read_text())
AVERAGE = "/ExponentialMovingAverage"


def weights(folder=BERT):
    """The weights of a checkpoint that TensorFlow wrote."""
    with tfreader.open(folder) as checkpoint:
        names = [n for n in checkpoint if "adam" not in n and "Adam" not in n and "step" not in n]
        return {name: checkpoint[name] for name in names}


def plan(tmp_path, tensors, **options):
    """The plan for such a checkpoint."""
    with tfreader.open(write_bundle(tmp_path / "source" / "model", tensors)) as checkpoint:
        return make_plan(checkpoint, **{"config": CONFIG, **options})


def refusal(tmp_path, tensors, **options):
    with pytest.raises(tfreader.PlanError) as caught:
        plan(tmp_path, tensors, **options)
    return caught.value


def by_target(plan):
    return {entry.target: entry.sources for entry in plan.entries}


def rule_file(tmp_path, text):
    (tmp_path / "rules.toml").write_text(text)
    return tmp_path / "rules.toml"


def test_a_path_is_planned_as_the_open_checkpoint():
    named = make_plan(BERT, "bert", dtype="float16", architecture="BertModel")
    with tfreader.open(BERT) as checkpoint:
        opened = make_plan(checkpoint, "bert", dtype="float16", architecture="BertModel")
    assert named.to_data() == opened.to_data()


def test_a_scope_is_taken_off_the_names_and_the_rest_left_out(tmp_path):
    tower = weights(DATA / "encoder")
    both = {f"{scope}/{name}": v for scope in ("query", "doc") for name, v in tower.items()}
    found = plan(tmp_path, both, scope="doc")
    assert found.architecture == "BertModel"
    alone = plan(tmp_path, tower)
    assert by_target(found) == {
        target: tuple(f"doc/{name}" for name in sources)
        for target, sources in by_target(alone).items()
    }
    assert found.dropped["query/bert/pooler/dense/bias"] == "outside --scope doc"


def test_the_scopes_with_a_model_in_them_are_named(tmp_path):
    tower = weights(DATA / "encoder")
    both = {f"{scope}/{name}": v for scope in ("a/query", "doc") for name, v in tower.items()}
    message = str(refusal(tmp_path, both))
    assert "It is bert (original) under --scope doc or bert (original) under --scope a/query" in (
        message
    )
    assert "no variable lies under --scope student; the outermost scopes are a, doc" in str(
        refusal(tmp_path, both, scope="student")
    )
    message = str(refusal(tmp_path, tower, scope="bert"))
    assert "below bert/ lies part of bert (original): leave out --scope" in message
    assert "no known family" not in message


def test_a_scope_in_a_scope_is_named_in_full(tmp_path):
    tower = {f"a/b/c/{name}": value for name, value in weights(DATA / "encoder").items()}
    assert "It is bert (original) under --scope a/b/c." in str(refusal(tmp_path, tower, scope="a"))
    assert by_target(plan(tmp_path, tower, scope="a/b/c"))


def test_averages_alone_are_recognised_below_a_scope(tmp_path):
    tower = {f"a/{name}{AVERAGE}": value for name, value in weights(DATA / "encoder").items()}
    message = str(refusal(tmp_path, tower))
    assert "It is bert (original) under --scope a --moving-averages use." in message
    assert by_target(plan(tmp_path, tower, scope="a", moving_averages="use"))


def test_another_model_beside_the_one_to_convert_is_called_that(tmp_path):
    tensors = weights(DATA / "encoder")
    both = tensors | {f"student/{name}": value for name, value in tensors.items()}
    message = str(refusal(tmp_path, both))
    assert "under student/ lies another model, bert (original): --scope student" in message
    assert "may stand between" not in message
    (ignore,) = re.findall("--ignore '(.*)' leaves it out", message)
    assert by_target(plan(tmp_path, both, ignore=[ignore]))


def test_slots_of_what_lies_outside_the_scope_stay_slots(tmp_path):
    tensors = {"a/w": np.ones((2, 2), "f4"), "b/w": np.ones((2, 2), "f4")}
    tensors |= {f"{name}/Adam": value for name, value in tensors.items()}
    rules = rule_file(tmp_path, '[[rule]]\nsource = "w"\ntarget = "weight"\n')
    found = plan(tmp_path, tensors, scope="a", rules=rules)
    assert by_target(found) == {"weight": ("a/w",)}
    assert found.dropped["b/w/Adam"] == "slot variable Adam of b/w"


HEAD = """
extends = "bert"

[[rule]]
source = "ranking/kernel"
target = "classifier.weight"
ops = ["transpose"]

[[rule]]
source = "ranking/bias"
target = "classifier.bias"
"""


def test_a_rule_file_extends_a_family(tmp_path):
    tensors = weights(DATA / "encoder")
    kernel = np.arange(tensors["bert/pooler/dense/bias"].size * 3, dtype="f4").reshape(-1, 3)
    tensors |= {"ranking/kernel": kernel, "ranking/bias": np.ones(3, "f4")}
    write_bundle(tmp_path / "source" / "model", tensors)
    report = convert(
        tmp_path / "source", tmp_path / "out", config=CONFIG, rules=rule_file(tmp_path, HEAD)
    )
    assert report.plan.architecture == "BertForSequenceClassification"
    written = load_file(tmp_path / "out" / "model.safetensors")
    np.testing.assert_array_equal(written["classifier.weight"], kernel.T)
    query = "bert/encoder/layer_0/attention/self/query/kernel"
    np.testing.assert_array_equal(
        written["bert.encoder.layer.0.attention.self.query.weight"], tensors[query].T
    )


def test_a_rule_that_extends_a_family_goes_before_its_own(tmp_path):
    tensors = weights(DATA / "encoder") | {"pooling/kernel": np.ones((16, 16), "f4")}
    size = tensors["bert/pooler/dense/bias"].size
    tensors["pooling/kernel"] = np.ones((size, size), "f4")
    text = 'extends = "bert"\n[[rule]]\nsource = "pooling/kernel"\n'
    rules = rule_file(tmp_path, text + 'target = "bert.pooler.dense.weight"\n')
    found = plan(tmp_path, tensors, rules=rules)
    assert by_target(found)["pooler.dense.weight"] == ("pooling/kernel",)
    reason = "pooler.dense.weight is made of pooling/kernel instead"
    assert found.dropped["bert/pooler/dense/kernel"] == reason


def test_a_rule_that_spells_a_name_goes_before_what_it_looks_like(tmp_path):
    tensors = {name: np.ones((2, 2), "f4") for name in ("w", "w/Adam", "v", "v/Adam")}
    tensors["global_step"] = np.array(3)
    text = '[[rule]]\nsource = "(?P<name>.+)"\ntarget = "{name}"\n'
    assert set(
        by_target(plan(tmp_path, tensors, rules=rule_file(tmp_path, text), config=None))
    ) == {
        "w",
        "v",
    }
    text += '[[rule]]\nsource = "(?P<name>w|v)/Adam"\ntarget = "{name}.second"\n'
    text += '[[rule]]\nsource = "global_step"\ntarget = "step"\n'
    found = by_target(plan(tmp_path, tensors, rules=rule_file(tmp_path, text), config=None))
    assert found["w.second"] == ("w/Adam",)
    assert found["step"] == ("global_step",)
    assert found.keys() == {"w", "v", "w.second", "v.second", "step"}


def test_averages_must_be_there_to_be_used(tmp_path):
    message = str(refusal(tmp_path, weights(DATA / "encoder"), moving_averages="use"))
    assert "there are no moving averages in it" in message


def test_averages_alone_are_recognised(tmp_path):
    raw = weights(DATA / "encoder")
    averages = {name + AVERAGE: value for name, value in raw.items()}
    assert f"bert (original) by {len(raw)} moving averages" in str(refusal(tmp_path, averages))
    assert "--moving-averages use" in str(refusal(tmp_path, averages))
    found = plan(tmp_path, averages, moving_averages="use")
    assert found.architecture == "BertModel"
    assert by_target(found) == {
        target: tuple(name + AVERAGE for name in sources)
        for target, sources in by_target(plan(tmp_path, raw)).items()
    }


@pytest.mark.parametrize("name", ["extra/kernel", "extra/kernel" + AVERAGE])
def test_what_is_known_by_its_average_alone_is_refused_and_ignored_by_either_name(tmp_path, name):
    averages = {n + AVERAGE: value for n, value in weights(DATA / "encoder").items()}
    averages["extra/kernel" + AVERAGE] = np.zeros((3, 3), np.float32)
    assert "extra/kernel [3, 3]" in str(refusal(tmp_path, averages, moving_averages="use"))
    found = plan(tmp_path, averages, moving_averages="use", ignore=[re.escape(name)])
    assert found.dropped["extra/kernel" + AVERAGE] == "ignored as asked (--ignore)"
    used = {source for entry in found.entries for source in entry.sources}
    assert used.isdisjoint(found.dropped) and used | found.dropped.keys() == averages.keys()


def test_what_has_no_average_stays_and_is_said(tmp_path):
    tensors = {"w": np.ones(2, "f4"), "v": np.ones(2, "f4"), "w" + AVERAGE: np.zeros(2, "f4")}
    rules = rule_file(tmp_path, '[[rule]]\nsource = "(?P<name>[wv])"\ntarget = "{name}"\n')
    found = plan(tmp_path, tensors, rules=rules, moving_averages="use", config=None)
    assert by_target(found) == {"v": ("v",), "w": ("w" + AVERAGE,)}
    assert any("used for 1 variable; without one and left as they are: v" in n for n in found.notes)


def test_everything_that_does_not_fit_is_listed(tmp_path):
    tensors = weights(DATA / "encoder")
    missing = [name for name in tensors if "layer_1/output" in name]
    tensors = {name: value for name, value in tensors.items() if name not in missing}
    tensors |= {f"extra/{i}": np.ones(i + 1, "f4") for i in range(5)}
    error = refusal(tmp_path, tensors)
    assert [p for p in error.problems if "no rule knows it" in p] == [
        f"variable extra/{i} [{i + 1}]: no rule knows it" for i in range(5)
    ]
    assert sum("no variable fills it" in p for p in error.problems) == len(missing)
    assert len(error.plan.entries) == len(tensors) - 5
    assert "and 2 more" in str(error)


def test_a_rule_that_matches_inside_a_name_is_told_apart(tmp_path):
    rules = rule_file(tmp_path, '[[rule]]\nsource = "conv/kernel"\ntarget = "conv.weight"\n')
    error = refusal(tmp_path, {"net/conv/kernel": np.ones(2, "f4")}, rules=rules, config=None)
    assert "matches inside net/conv/kernel, but it must match the whole name" in str(error)


def failing(tmp_path, *flags):
    tensors = weights(DATA / "encoder") | {"extra/kernel": np.ones((2, 3), "f4")}
    write_bundle(tmp_path / "source" / "model", tensors)
    shutil.copy(BERT / "bert_config.json", tmp_path / "source")
    arguments = ["--tf_checkpoint", str(tmp_path / "source")]
    arguments += ["--pytorch_dump_output", str(tmp_path / "out"), *flags]
    result = CliRunner().invoke(main, ["convert", *arguments])
    assert result.exit_code == 1
    assert not (tmp_path / "out").exists()
    return result


def test_a_failing_dry_run_prints_what_fits_and_what_does_not(tmp_path):
    output = failing(tmp_path, "--dry-run").stdout
    assert "bert/encoder/layer_{0...1}/attention/self/query/kernel" in output
    assert "problem: variable extra/kernel [2, 3]: no rule knows it" in output


@pytest.mark.parametrize("flags", [(), ("--dry-run",)])
def test_a_failure_is_one_json_document(tmp_path, flags):
    document = json.loads(failing(tmp_path, "--json", *flags).stdout)
    assert document["ok"] is False
    assert document["error_type"] == "PlanError"
    assert document["problems"] == ["variable extra/kernel [2, 3]: no rule knows it"]
    assert document["model_type"] == "bert"
    assert document["tensors"]
    document = json.loads(failing(tmp_path, "--json", "--config", "nowhere.json", *flags).stdout)
    assert document["error_type"] == "ConfigError"


def test_an_index_alone_is_enough_for_a_plan(tmp_path):
    copy = shutil.copytree(BERT, tmp_path / "copy")
    for data in copy.glob("*.data-*"):
        data.unlink()
    report = convert(copy, tmp_path / "out", dry_run=True)
    assert report.plan.architecture == "BertForPreTraining"
    assert any("from the index alone" in note for note in report.notes)
    with pytest.raises(tfreader.CheckpointNotFoundError):
        convert(copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_plan_is_made_of_more_layers_than_any_model_has(tmp_path):
    rules = '[[rule]]\nsource = "w"\ntarget = "{i}.w"\n'
    rules += 'ops = [{ op = "unstack", axis = 0, index = "i" }]\n'
    (tmp_path / "rules.toml").write_text(rules)
    tensors = {"w": np.ones((1 << 20, 1), "f2")}
    error = refusal(tmp_path, tensors, rules=tmp_path / "rules.toml", config=None)
    assert "would make 1048576 tensors" in str(error)


def test_a_config_that_asks_for_other_tensors_is_refused(tmp_path):
    for key, value in (("add_cross_attention", True), ("is_decoder", True)):
        with pytest.raises(tfreader.ConfigError, match=f"{key} = true.*--set {key}=false"):
            convert(BERT, tmp_path / "out", config=CONFIG | {key: value})
        report = convert(
            BERT, tmp_path / key, config=CONFIG | {key: value}, overrides={key: not value}
        )
        assert report.plan.config[key] is False
    hparams = json.loads((DATA / "gpt2" / "hparams.json").read_text())
    with pytest.raises(tfreader.ConfigError, match="add_cross_attention = true"):
        convert(DATA / "gpt2", tmp_path / "out", config=hparams | {"add_cross_attention": True})
    assert not (tmp_path / "out").exists()


def test_embeddings_that_only_the_config_unties_are_tied_and_said(tmp_path):
    untied = CONFIG | {"tie_word_embeddings": False}
    report = convert(BERT, tmp_path / "out", config=untied)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is True
    assert any("no cls.predictions.decoder.weight of its own" in note for note in report.notes)
    with pytest.raises(tfreader.ConfigError, match="--set tie_word_embeddings = false"):
        convert(BERT, tmp_path / "again", overrides={"tie_word_embeddings": False})


def test_averages_stay_within_the_scope(tmp_path):
    raw = weights(DATA / "encoder")
    averages = {f"a/{name}{AVERAGE}": value for name, value in raw.items()}
    others = {f"b/{name}{AVERAGE}": value for name, value in raw.items()}
    found = plan(tmp_path, averages | others, scope="a", moving_averages="use")
    assert by_target(found) == {
        target: tuple(f"a/{name}{AVERAGE}" for name in sources)
        for target, sources in by_target(plan(tmp_path, raw)).items()
    }


def test_of_two_averages_none_is_used(tmp_path):
    tensors = dict.fromkeys(["w", "w" + AVERAGE, "w" + AVERAGE + "_1"], np.ones(2, "f4"))
    rules = rule_file(tmp_path, '[[rule]]\nsource = "w"\ntarget = "w"\n')
    assert by_target(plan(tmp_path, tensors, rules=rules, config=None)) == {"w": ("w",)}
    error = refusal(tmp_path, tensors, rules=rules, moving_averages="use", config=None)
    assert "variable w has two, w/ExponentialMovingAverage" in str(error)


@pytest.mark.parametrize("ops", ['[{ op = "permute", axes = [2, 0, 1] }]', "[]"])
def test_a_tensor_whose_variables_do_not_do_is_not_said_to_have_none(tmp_path, ops):
    sources = "a" if "permute" in ops else ".*"
    text = f"[[rule]]\nsource = '{sources}'\ntarget = 'x'\nops = {ops}\n"
    tensors = dict.fromkeys(["a", "b"], np.ones((2, 2), np.float32))
    error = refusal(tmp_path, tensors, config=None, rules=rule_file(tmp_path, text))
    assert re.search(r"permute \[2, 0, 1\] does not fit|made of 1 variable, found a, b", str(error))
    assert "no variable fills" not in str(error)


@pytest.mark.parametrize("key", ["family", "extends"])
def test_a_rule_file_of_an_unknown_family_is_named(tmp_path, key):
    rules = rule_file(tmp_path, f"{key} = 'brt'\n[[rule]]\nsource = 'a'\ntarget = 'b'\n")
    with pytest.raises(tfreader.RuleError, match="rules.toml: unknown model type 'brt'"):
        plan(tmp_path, {"a": np.ones(2, np.float32)}, rules=rules)
