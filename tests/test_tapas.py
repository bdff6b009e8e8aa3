from __future__ import annotations

import json
import re
from functools import partial

import numpy as np
import pytest
import torch
import transformers
from bundle_writer import write_bundle
from conftest import BERT, DATA

import tfreader
from tfreader.mapping import convert, load_state_dict, make_plan
from tfreader.mapping.families.tapas import FEATURES

TAPAS = DATA / "tapas"
RESET = "reset_position_index_per_cell"
WORDS, CELLS = "TapasForMaskedLM", "TapasForQuestionAnswering"
TEXTS, BARE = "TapasForSequenceClassification", "TapasModel"
RESTARTS = {"overrides": {RESET: True}}
# What the fixture "sqa" was told to do without, which its bert_config.json does not say.
WITHOUT = {"disabled_features": ["column_ranks"], "disable_position_embeddings": True}


def variables(name):
    with tfreader.open(TAPAS / name) as checkpoint:
        return {variable: checkpoint[variable] for variable in checkpoint}


def written(folder, tensors):
    """A checkpoint of these tensors, with no other file beside it."""
    folder.mkdir(exist_ok=True)
    return write_bundle(folder / "model.ckpt", tensors)


def given(name, file="tapas_config.json"):
    return json.loads((TAPAS / name / file).read_text())


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def plan(name, **options):
    with tfreader.open(TAPAS / name) as checkpoint:
        return make_plan(checkpoint, **options)


def check_outputs(output, name, architecture, **more):
    """The model loads without a key too few or too many, and computes what TensorFlow did."""
    model, info = getattr(transformers, architecture).from_pretrained(
        output, output_loading_info=True
    )
    assert not any(info.values())
    expected = np.load(TAPAS / name / "forward.npz")
    inputs = {key: torch.from_numpy(expected[key]) for key in expected if "." not in key}
    with torch.no_grad():
        outputs = model.eval()(**inputs, **more)
    keys = [key for key in expected if key.startswith(f"{architecture}.")]
    assert keys
    for key in keys:
        found, wanted = outputs[key.partition(".")[2]], torch.from_numpy(expected[key])
        is_in = inputs["attention_mask"][: len(found), : found.shape[1]].bool()
        if found.shape[1] == is_in.shape[1]:  # of tokens, of which padding counts for nothing
            found, wanted = found[is_in], wanted[is_in]
        np.testing.assert_allclose(found, wanted, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "architecture", "options"),
    [
        ("pretraining", WORDS, RESTARTS),
        ("sqa", CELLS, {}),
        ("wtq", CELLS, {}),
        ("tabfact", TEXTS, {}),
    ],
)
def test_all_classes_give_tensorflows_outputs(name, architecture, options, tmp_path):
    report = convert(TAPAS / name, tmp_path / "own", **options)
    assert report.plan.family.model_type == "tapas"
    assert report.plan.architecture == architecture
    check_outputs(tmp_path / "own", name, architecture)
    convert(TAPAS / name, tmp_path / "bare", architecture=BARE, **options)
    check_outputs(tmp_path / "bare", name, BARE)


@pytest.mark.parametrize("is_weak", [True, False])
def test_several_columns_with_the_arguments_that_the_note_says(is_weak, tmp_path):
    config = given("wikisql") | {"use_answer_as_supervision": is_weak}
    report = convert(TAPAS / "wikisql", tmp_path, config=config)
    (note,) = (note for note in report.notes if note.startswith("select_one_column = false"))
    ids = torch.from_numpy(np.load(TAPAS / "wikisql" / "forward.npz")["input_ids"])
    said = note.partition("to predict pass it ")[2]
    arguments = eval(f"dict({said})", {"torch": torch, "input_ids": ids})
    assert ("float_answer" in arguments) == is_weak
    check_outputs(tmp_path, "wikisql", CELLS, **arguments)
    with pytest.raises(ValueError, match="Either `probs` or `logits`"):
        check_outputs(tmp_path, "wikisql", CELLS)


@pytest.mark.parametrize("name", ["pretraining", "wtq", "tabfact"])
def test_whether_positions_restart_is_asked_for(name, tmp_path):
    ask = rf"needs {RESET}.*\n.*--set {RESET}=true for a .*_reset, or --set {RESET}=false"
    with pytest.raises(tfreader.ConfigError, match=ask):
        convert(
            TAPAS / name,
            tmp_path / "out",
            config=given(name, "bert_config.json"),
            overrides={"temperature": 1, "allow_empty_column_selection": False},
        )
    assert not (tmp_path / "out").exists()


def test_whether_positions_restart_is_as_said(tmp_path):
    convert(TAPAS / "pretraining", tmp_path, overrides={RESET: False})
    assert config_of(tmp_path)[RESET] is False
    with pytest.raises(AssertionError, match="Mismatched elements"):
        check_outputs(tmp_path, "pretraining", WORDS)


def test_weights_alone_need_no_config():
    assert "cls.predictions.bias" in load_state_dict(TAPAS / "pretraining")


@pytest.mark.parametrize(
    ("name", "tasks"),
    [("wtq", "wtq or wikisql_supervised"), ("wikisql", "wikisql"), ("sqa", "sqa")],
)
def test_how_cells_are_chosen_is_asked_for(name, tasks, tmp_path):
    ask = rf"needs temperature and allow_empty_column_selection.*\n.*_name {tasks} if"
    with pytest.raises(tfreader.ConfigError, match=ask):
        convert(
            TAPAS / name,
            tmp_path / "out",
            config=given(name, "bert_config.json"),
            overrides={RESET: True} | (WITHOUT if name == "sqa" else {}),
        )


@pytest.mark.parametrize(
    ("name", "task", "temperature"),
    [("wtq", "WTQ", 0.0352513), ("wtq", "wikisql-supervised", 0.763141), ("sqa", "sqa", 1.0)],
)
def test_what_a_task_is_trained_with_is_taken_where_it_is_named(name, task, temperature, tmp_path):
    config = given(name, "bert_config.json")
    settings = {RESET: True} | (WITHOUT if name == "sqa" else {})
    report = convert(
        TAPAS / name, tmp_path, config=config, finetuning_task_name=task, overrides=settings
    )
    assert config_of(tmp_path)["temperature"] == temperature
    assert any(f"temperature = {temperature}" in note for note in report.notes)
    if task == "WTQ":
        found = config_of(tmp_path)
        assert found["num_aggregation_labels"] == 4
        assert found["aggregation_labels"]["2"] == "AVERAGE"
        # The fixture counts 5 columns and 6 rows at most, which its bert_config.json cannot say.
        convert(
            TAPAS / name,
            tmp_path / "sized",
            config=config,
            finetuning_task_name=task,
            overrides={RESET: True, "max_num_rows": 6, "max_num_columns": 5},
        )
        check_outputs(tmp_path / "sized", name, CELLS)


def test_the_file_goes_before_the_task():
    made = plan("wtq", finetuning_task_name="wikisql_supervised")
    assert made.config["temperature"] == 0.0352513
    assert any("temperature = 0.0352513" in note and "as given" in note for note in made.notes)
    assert not any("as given" in note for note in plan("sqa", finetuning_task_name="sqa").notes)


def test_a_task_with_other_heads_is_refused():
    with pytest.raises(tfreader.PlanError, match=r"task are .*output_weights, those of the .*_agg"):
        plan("wtq", finetuning_task_name="sqa")


def test_tables_that_are_left_out_are_zeros(tmp_path):
    report = convert(TAPAS / "sqa", tmp_path)
    said = "\n".join(report.notes)
    assert "position_embeddings.weight: filled with zeros" in said
    assert "without column_ranks (disabled_features)" in said
    assert not {"disabled_features", "disable_position_embeddings"} & config_of(tmp_path).keys()


def test_the_size_of_a_table_that_is_left_out_is_asked_for(tmp_path):
    prefix = written(tmp_path / "in", variables("sqa"))
    settings = {RESET: False, "num_attention_heads": 3, "max_position_embeddings": 24}
    settings |= {"temperature": 1.0, "allow_empty_column_selection": False}
    settings |= WITHOUT
    run = partial(convert, prefix, tmp_path / "out")
    with pytest.raises(tfreader.PlanError, match=r"type_vocab_sizes=\[3,6,7,2,N,5,4\]"):
        run(overrides=settings)
    with pytest.raises(tfreader.PlanError, match="--set max_position_embeddings=N"):
        run(overrides=WITHOUT | {"type_vocab_sizes": [3, 6, 7, 2, 5, 5, 4]})
    settings |= {"max_num_rows": 6, "max_num_columns": 5}
    run(overrides=settings | {"type_vocab_sizes": [3, 6, 7, 2, 5, 5, 4]})
    check_outputs(tmp_path / "out", "sqa", CELLS)


def test_a_table_that_no_config_disables_is_missing(tmp_path):
    tensors = variables("wtq")
    del tensors["bert/embeddings/token_type_embeddings_4"]
    del tensors["bert/embeddings/position_embeddings"]
    prefix = written(tmp_path / "in", tensors)
    with pytest.raises(tfreader.PlanError, match="2 tensors .*no variable fills"):
        convert(prefix, tmp_path / "out", config=given("wtq"))


def test_a_table_that_nothing_says_is_disabled_is_not_filled(tmp_path):
    lost = re.compile("bert/embeddings/(?:token_type_embeddings_6|position_embeddings)(?:/.*)?")
    tensors = {k: v for k, v in variables("pretraining").items() if not lost.fullmatch(k)}
    prefix = written(tmp_path / "in", tensors)
    config = given("pretraining", "bert_config.json")
    run = partial(convert, prefix, tmp_path / "out", config=config)
    ask = (
        r"no token_type_embeddings_6, position_embeddings in the checkpoint(?s:.*)"
        r"""--set disabled_features='\["numeric_relations"\]' """
        "--set disable_position_embeddings=true"
    )
    with pytest.raises(tfreader.PlanError, match=ask):
        run(overrides={RESET: True})
    told = {"disabled_features": ["numeric_relations"], "disable_position_embeddings": True}
    report = run(overrides={RESET: True} | told)
    assert sum("filled with zeros" in note for note in report.notes) == 2


def test_a_model_without_any_of_the_tables_is_told_by_its_heads(tmp_path):
    tensors = {k: v for k, v in variables("wtq").items() if "/token_type_embeddings_" not in k}
    prefix = written(tmp_path / "in", tensors)
    with pytest.raises(tfreader.PlanError, match=r"type_vocab_sizes=\[N,N,N,N,N,N,N\]"):
        convert(prefix, tmp_path / "out")
    config = given("wtq") | {"disabled_features": [*FEATURES]}
    report = convert(prefix, tmp_path / "out", config=config)
    assert sum("filled with zeros" in note for note in report.notes) == len(FEATURES)
    assert config_of(tmp_path / "out")["architectures"] == [CELLS]


def test_positions_of_older_code_without_columns_are_said():
    config = given("wtq") | {"disabled_features": ["column_ids"], RESET: True}
    said = "\n".join(plan("wtq", config=config).notes)
    assert "token_type_ids that are 0 in column 1 (column_ids)" in said
    said = "\n".join(plan("wtq", config=config | {RESET: False}).notes)
    assert "token_type_ids that are 0" not in said


def test_of_a_disabled_table_that_is_there_every_token_has_the_first_row():
    config = given("tabfact") | {"disabled_features": ["row_ids"]}
    tensors = load_state_dict(TAPAS / "tabfact", config=config)
    table = variables("tabfact")["bert/embeddings/token_type_embeddings_2"]
    found = tensors["tapas.embeddings.token_type_embeddings_2.weight"].numpy()
    np.testing.assert_array_equal(found, table[:1].repeat(7, 0))
    assert any(
        "_2: all rows are its first" in note for note in plan("tabfact", config=config).notes
    )


def test_null_takes_a_key_out_of_the_originals_config():
    config = given("tabfact") | {"disabled_features": ["row_ids"]}
    found = plan("tabfact", config=config, overrides={"disabled_features": None})
    assert found.config == plan("tabfact", config=given("tabfact")).config
    assert not any("all rows are its first" in note for note in found.notes)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"restrict_attention_mode": "table_attention"}, "TableFormer"),
        ({"restrict_attention_mode": "headwise_efficient"}, "tokens attend to some others"),
        ({"proj_value_length": 8}, "keys and values are projected"),
        ({"span_prediction": "boundary"}, "predicts spans"),
        ({"table_pruning_config_file": "a.textproto"}, "another model prunes"),
        ({"bert_config": {"softmax_temperature": 0.5}}, "softmax_temperature = 0.5"),
        ({"bert_config": {"hidden_act": "mish"}}, "hidden_act = 'mish'"),
        ({"bert_config": 3}, "bert_config = 3, expected an object"),
        ({"bert_config": {"type_vocab_size": 2}}, "type_vocab_sizes = 2, expected a list"),
        ({"disabled_features": 3}, "disabled_features = 3, expected a list of names"),
        ({"disabled_features": ["column_id"]}, "is 'column_ids' meant"),
        ({"disable_position_embeddings": True}, "but the checkpoint has position_embeddings"),
        ({"select_one_column": False}, "variables tell True"),
        ({"num_aggregation_labels": 3}, "num_aggregation_labels = 3 in"),
        ({"max_num_row": 1}, "is 'max_num_rows' meant"),
    ],
)
def test_what_cannot_be_is_refused(keys, said):
    with pytest.raises(tfreader.TFReaderError, match=re.escape(said)):
        plan("wtq", config=given("wtq") | keys)


def test_sizes_that_are_not_the_tables_are_refused():
    for sizes in ([3, 6, 7, 2, 5, 5], [3, 6, 7, 2, 5, 5, 256]):
        with pytest.raises(tfreader.PlanError, match="variables tell"):
            plan("pretraining", config={"type_vocab_size": sizes})


def test_keys_of_the_inner_config_that_nobody_knows_are_named():
    config = given("wtq")
    config["bert_config"]["my_gate"] = 1
    assert any("my_gate" in note for note in plan("wtq", config=config).notes)


@pytest.mark.parametrize("name", ["relative_attention_bias", "value/projection"])
def test_attention_of_another_form_is_refused(name, tmp_path):
    inner = f"bert/encoder/layer_0/attention/self/{name}"
    prefix = written(tmp_path, variables("wtq") | {inner: np.ones((13, 3), "f4")})
    refused = r"TableFormer's biases|value/projection \[13, 3\]"
    with pytest.raises(tfreader.PlanError, match=refused):
        convert(prefix, tmp_path / "out")


def test_the_tokenizer_is_tapas_own(tmp_path):
    words = ["[PAD]", "[EMPTY]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    convert(TAPAS / "pretraining", tmp_path / "out", vocab=tmp_path / "vocab.txt", **RESTARTS)
    found = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert found["tokenizer_class"] == "TapasTokenizer"
    assert found["model_max_length"] == 24


def test_bert_is_none():
    with tfreader.open(BERT) as checkpoint:
        assert make_plan(checkpoint).family.model_type == "bert"
        with pytest.raises(tfreader.PlanError, match="is --model_type tapas right"):
            make_plan(checkpoint, "tapas", config={"type_vocab_sizes": [2] * 7})
