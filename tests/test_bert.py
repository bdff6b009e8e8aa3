"""BERT end to end, on checkpoints and forward passes that TensorFlow made."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers
from bundle_writer import write_bundle
from conftest import BERT, DATA

import tfreader
from tfreader.mapping import convert, load_state_dict, make_plan

CASES = {
    "BertForPreTraining": BERT,
    "BertForSequenceClassification": DATA / "classifier",
    "BertForQuestionAnswering": DATA / "squad",
    "BertModel": DATA / "encoder",
}
TASKS = [pytest.param(name, folder, id=name) for name, folder in CASES.items()]


def load(folder, architecture):
    """The model, as a user of the newest transformers loads it; every key must fit."""
    kind = getattr(transformers, architecture)
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    assert {key: set(value) for key, value in info.items() if value} == {}
    return model.eval()


def forward(model, folder):
    """The largest difference between the model's outputs and TensorFlow's."""
    stored = np.load(folder / "forward.npz")
    inputs = ("input_ids", "attention_mask", "token_type_ids")
    with torch.no_grad():
        outputs = model(**{name: torch.from_numpy(stored[name]) for name in inputs})
    return max(
        np.abs(outputs[name.removeprefix("output_")].numpy() - stored[name]).max()
        for name in stored.files
        if name.startswith("output_")
    )


def expected_tensors(folder):
    """What each tensor must be, by the original names: renamed, and kernels transposed."""
    expected = {}
    with tfreader.open(folder) as checkpoint:
        for name in checkpoint:
            if re.search(r"adam_|/Adam|global_step|beta\d_power|ExponentialMovingAverage", name):
                continue
            value = checkpoint[name]
            target = name.replace("cls/squad/output", "qa_outputs/output")
            if target.startswith("output_"):
                target = "classifier/" + target
            target = re.sub(r"layer_(\d+)", r"layer/\1", target)
            target = re.sub(r"(kernel|gamma|output_weights)$", "weight", target)
            target = re.sub(r"(beta|output_bias)$", "bias", target)
            target = re.sub(r"_embeddings$", "_embeddings/weight", target)
            kernel = name.endswith("kernel")
            expected[target.replace("/", ".")] = value.T if kernel else value
    return expected


@pytest.mark.parametrize(("architecture", "folder"), TASKS)
def test_the_head_found_decides_and_the_model_computes_what_tensorflow_did(
    tmp_path, architecture, folder
):
    report = convert(folder, tmp_path / "out")
    assert report.plan.architecture == architecture
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["architectures"] == [architecture]
    assert forward(load(tmp_path / "out", architecture), folder) < 1e-5
    auto = transformers.AutoModel.from_pretrained(tmp_path / "out")
    assert type(auto).__name__ == "BertModel"


@pytest.mark.parametrize(("architecture", "folder"), TASKS)
def test_tensors_are_the_variables_bit_for_bit_whatever_the_output(tmp_path, architecture, folder):
    expected = expected_tensors(folder)
    if architecture == "BertModel":
        expected = {name.removeprefix("bert."): value for name, value in expected.items()}
    if architecture == "BertForQuestionAnswering":
        expected = {name: value for name, value in expected.items() if "pooler" not in name}

    convert(folder, tmp_path / "folder")
    convert(folder, tmp_path / "sharded", max_shard_size="20KB")
    convert(folder, tmp_path / "one.safetensors")
    convert(folder, tmp_path / "torch.bin")
    sharded = {}
    for file in (tmp_path / "sharded").glob("model-*.safetensors"):
        sharded |= safetensors.numpy.load_file(file)
    index = json.loads((tmp_path / "sharded" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(expected)
    results = {
        "folder": safetensors.numpy.load_file(tmp_path / "folder" / "model.safetensors"),
        "sharded": sharded,
        "one file": safetensors.numpy.load_file(tmp_path / "one.safetensors"),
    }
    for tensors in results.values():
        assert set(tensors) == set(expected)
    ties = {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }
    if architecture != "BertForPreTraining":
        ties = {}
    for name, state_dict in {
        "torch": torch.load(tmp_path / "torch.bin", weights_only=True),
        "memory": load_state_dict(folder),
    }.items():
        assert set(state_dict) == {*expected, *ties}
        for alias, target in ties.items():
            assert state_dict[alias].data_ptr() == state_dict[target].data_ptr()
        results[name] = {key: state_dict[key].numpy() for key in expected}
    for tensors in results.values():
        for name, value in expected.items():
            assert tensors[name].dtype == value.dtype
            np.testing.assert_array_equal(tensors[name], value)
    assert load(tmp_path / "sharded", architecture)


def test_a_state_dict_loads_strictly_into_the_model():
    config = transformers.BertConfig(**json.loads((BERT / "bert_config.json").read_text()))
    model = transformers.BertForPreTraining(config)
    model.load_state_dict(load_state_dict(BERT, "bert"))
    assert forward(model.eval(), BERT) < 1e-5


@pytest.mark.parametrize(
    ("architecture", "dropped"),
    [
        ("BertForMaskedLM", "nsp"),
        ("BertForNextSentencePrediction", "mlm"),
        ("BertModel", "mlm"),
    ],
)
def test_the_architecture_can_be_chosen(tmp_path, architecture, dropped):
    report = convert(BERT, tmp_path / "out", architecture=architecture)
    load(tmp_path / "out", architecture)
    assert f"{dropped}: not in {architecture}" in report.plan.dropped.values()


def test_an_architecture_that_lacks_its_head_is_refused(tmp_path):
    with pytest.raises(tfreader.PlanError, match=r"qa_outputs.weight \(from cls/squad/output_w"):
        convert(BERT, tmp_path / "out", architecture="BertForQuestionAnswering")
    with pytest.raises(tfreader.PlanError, match="By its heads it is BertForQuestionAnswering"):
        convert(DATA / "squad", tmp_path / "out", architecture="BertForMaskedLM")
    with pytest.raises(tfreader.UnknownModelTypeError, match="BertForMaskedLM"):
        convert(BERT, tmp_path / "out", architecture="BertForEverything")
    assert not (tmp_path / "out").exists()


def test_what_is_of_another_family_is_advised_nothing_of_the_one_that_was_named():
    with pytest.raises(tfreader.PlanError, match="variables are bert: is --model_type t5") as e:
        convert(BERT, dry_run=True, model_type="t5")
    assert "--scope" not in str(e.value)


@pytest.mark.parametrize(("folder", "lower"), [(BERT, True), (DATA / "classifier", False)])
def test_the_tokenizer_loads_and_knows_its_case(tmp_path, folder, lower):
    convert(folder, tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    tokens = tokenizer.tokenize("The model reads a B")
    assert tokens == (
        ["the", "model", "reads", "a", "b"] if lower else ["[UNK]", "model", "reads", "a", "B"]
    )
    assert tokenizer("a")["input_ids"] == [2, 5, 3]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_dtype_casts_every_float(tmp_path, dtype):
    convert(BERT, tmp_path / "out", dtype=dtype)
    model = transformers.BertForPreTraining.from_pretrained(tmp_path / "out")
    exact = load_state_dict(BERT)
    for name, tensor in load_state_dict(BERT, dtype=dtype).items():
        assert tensor.dtype == getattr(torch, dtype)
        assert torch.equal(tensor, exact[name].to(tensor.dtype))
        assert torch.equal(model.state_dict()[name], tensor)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == dtype


def test_moving_averages_are_left_out_or_used_but_never_mixed_in_unsaid():
    folder = DATA / "classifier"
    name = "bert/embeddings/word_embeddings"
    with tfreader.open(folder) as checkpoint:
        raw, average = checkpoint[name], checkpoint[f"{name}/ExponentialMovingAverage"]
    assert not np.array_equal(raw, average)
    key = "bert.embeddings.word_embeddings.weight"
    np.testing.assert_array_equal(load_state_dict(folder)[key], raw)
    used = load_state_dict(folder, moving_averages="use")
    np.testing.assert_array_equal(used[key], average)


def variables(folder=BERT):
    with tfreader.open(folder) as checkpoint:
        return {name: checkpoint[name] for name in checkpoint if "adam" not in name}


def write_source(tmp_path, tensors):
    shutil.rmtree(tmp_path / "source", ignore_errors=True)
    prefix = write_bundle(tmp_path / "source" / "model.ckpt", tensors)
    shutil.copy(BERT / "bert_config.json", tmp_path / "source")
    return prefix


def refused(tmp_path, tensors, config=None, **options):
    """Write such a checkpoint and convert it: the message with which that is refused."""
    prefix = write_source(tmp_path, tensors)
    if config:
        options["config"] = json.loads((BERT / "bert_config.json").read_text()) | config
    with pytest.raises(tfreader.PlanError) as caught:
        convert(prefix, tmp_path / "out", "bert", **options)
    assert not (tmp_path / "out").exists()
    return str(caught.value)


def test_an_unknown_variable_is_named_with_its_shape(tmp_path):
    tensors = variables() | {"bert/embeddings/relation_embedding": np.ones((3, 5), "f4")}
    message = refused(tmp_path, tensors)
    assert "bert/embeddings/relation_embedding [3, 5]" in message
    assert "inside the model" in message


def test_what_lies_inside_the_model_is_ignored_only_by_its_own_option(tmp_path):
    inner, outer = "bert/embeddings/relation_embedding", "ranking/kernel"
    write_source(tmp_path, variables() | dict.fromkeys([inner, outer], np.ones((3, 5), "f4")))
    with pytest.raises(tfreader.PlanError, match=f"inside the model cannot be ignored.*{inner}"):
        convert(tmp_path / "source", tmp_path / "out", ignore=[".*embedding", "ranking/.*"])
    with pytest.raises(tfreader.PlanError, match="--ignore 'nothing' matches no variable"):
        convert(tmp_path / "source", tmp_path / "out", ignore=["nothing"])
    assert not (tmp_path / "out").exists()
    report = convert(
        tmp_path / "source", tmp_path / "out", ignore=["ranking/.*"], ignore_weights=[inner]
    )
    assert "--ignore-weights" in report.plan.dropped[inner]
    assert "(--ignore)" in report.plan.dropped[outer]
    assert any("does not compute what the original does" in note for note in report.notes)
    record = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert record["options"]["ignore_weights"] == [inner]


def test_what_the_class_needs_is_not_ignored(tmp_path):
    write_source(tmp_path, variables())
    pattern = "bert/encoder/layer_1/.*"
    with pytest.raises(tfreader.PlanError, match="16 variables inside the model cannot be ignored"):
        convert(tmp_path / "source", tmp_path / "out", ignore=[pattern])


def test_a_missing_variable_is_named_with_its_tensor(tmp_path):
    tensors = variables()
    del tensors["bert/encoder/layer_1/attention/self/key/bias"]
    message = refused(tmp_path, tensors)
    assert "bert.encoder.layer.1.attention.self.key.bias" in message
    assert "bert/encoder/layer_1/attention/self/key/bias" in message


def test_a_missing_layer_is_named(tmp_path):
    last = {n: v for n, v in variables().items() if "layer_1/" not in n}
    assert "num_hidden_layers = 2" in refused(tmp_path, last)
    first = {n: v for n, v in variables().items() if "layer_0/" not in n}
    assert "layer 0 of 2 is missing" in refused(tmp_path, first)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", 48),
        ("vocab_size", 100),
        ("num_hidden_layers", 3),
        ("num_hidden_layers", 1),
        ("intermediate_size", 41),
        ("max_position_embeddings", 512),
        ("type_vocab_size", 1),
    ],
)
def test_a_wrong_config_is_refused_by_the_name_of_its_key(tmp_path, key, value):
    assert f"{key} = {value}" in refused(tmp_path, variables(), {key: value})


def test_without_a_config_shapes_tell_all_but_the_heads(tmp_path):
    prefix = write_bundle(tmp_path / "model.ckpt", variables())
    with pytest.raises(tfreader.ConfigError, match="num_attention_heads"):
        convert(prefix, tmp_path / "out")
    convert(prefix, tmp_path / "out", overrides={"num_attention_heads": 3})
    assert forward(load(tmp_path / "out", "BertForPreTraining"), BERT) < 1e-5


@pytest.mark.parametrize("layers", [1, 11])
def test_any_number_of_layers(tmp_path, layers):
    tensors = {name: value for name, value in variables().items() if "/layer_" not in name}
    for name, value in variables().items():
        if "/layer_0/" in name:
            for layer in range(layers):
                tensors[name.replace("layer_0", f"layer_{layer}")] = value + layer
    prefix = write_bundle(tmp_path / "model.ckpt", tensors, num_shards=3)
    config = json.loads((BERT / "bert_config.json").read_text()) | {"num_hidden_layers": layers}
    convert(prefix, tmp_path / "out", config=config)
    state_dict = load(tmp_path / "out", "BertForPreTraining").state_dict()
    for layer in range(layers):
        np.testing.assert_array_equal(
            state_dict[f"bert.encoder.layer.{layer}.output.dense.bias"],
            tensors["bert/encoder/layer_0/output/dense/bias"] + layer,
        )


def test_options_that_do_not_exist_are_refused(tmp_path):
    for options in ({"dtype": "float12"}, {"moving_averages": "maybe"}):
        with pytest.raises(tfreader.ConfigError, match=r"float12|maybe"):
            convert(BERT, tmp_path / "out", **options)


def test_a_size_that_two_variables_disagree_on_names_both(tmp_path):
    tensors = variables() | {"bert/pooler/dense/bias": np.ones(7, "f4")}
    message = refused(tmp_path, tensors)
    assert "hidden_size = 24" in message
    assert "7 (bert/pooler/dense/bias)" in message
    prefix = write_bundle(tmp_path / "bare {odd}" / "model.ckpt", tensors)
    with pytest.raises(tfreader.PlanError, match=r"hidden_size is 24 in .*, but 7 in bert/pooler"):
        convert(prefix, tmp_path / "out", "bert")


def test_another_familys_checkpoint_is_called_by_its_name(tmp_path):
    for model_type, folder, likely in (
        ("bert", DATA / "t5" / "v11", "t5"),
        ("t5", BERT, "bert"),
        ("gpt2", DATA / "albert" / "pretraining", "albert"),
        ("bert", DATA / "convbert" / "pretraining", "convbert"),
    ):
        with pytest.raises(tfreader.PlanError, match=f"variables are {likely}: is --model_type"):
            convert(folder, tmp_path / "out", model_type)
    write_bundle(tmp_path / "model", {"mobile_bert_embedding/norm/beta": np.ones(2, "f4")})
    with pytest.raises(tfreader.PlanError, match="are those of MobileBERT of the Model Garden"):
        convert(tmp_path / "model", tmp_path / "out", "bert")


@pytest.mark.parametrize(
    ("pattern", "spelling"),
    [
        ("^(?=bert|cls)", "module/"),  # of a TF-Hub module
        ("LayerNorm", "layer_normalization"),
        ("(layer_1.*)LayerNorm", r"\1layer_normalization_7"),
    ],
)
def test_other_spellings_give_the_same_model(tmp_path, pattern, spelling):
    changed = {re.sub(pattern, spelling, name): value for name, value in variables().items()}
    prefix = write_bundle(tmp_path / "model.ckpt", changed)
    state_dict = load_state_dict(prefix, config=BERT / "bert_config.json")
    for name, tensor in load_state_dict(BERT).items():
        torch.testing.assert_close(state_dict[name], tensor, rtol=0, atol=0)


def test_heads_of_pretraining_give_way_to_a_task(tmp_path):
    """Fine-tuning from a TF-Hub module leaves them in the checkpoint."""
    head = {"output_weights": np.ones((3, 24), np.float32), "output_bias": np.ones(3, np.float32)}
    prefix = write_bundle(tmp_path / "model.ckpt", variables() | head)
    report = convert(prefix, tmp_path / "out", config=BERT / "bert_config.json")
    assert report.plan.architecture == "BertForSequenceClassification"
    assert report.plan.dropped["cls/predictions/output_bias"].startswith("mlm: not in")
    assert any("mlm, nsp left out" in note for note in report.notes)
    load(tmp_path / "out", "BertForSequenceClassification")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overrides": {"num_attention_heads": 5}}, "not a multiple of num_attention_heads = 5"),
        ({"overrides": {"num_attention_heads": "2"}}, 'num_attention_heads = "2", expected'),
        ({"overrides": {"num_attention_heads": None}}, "--set num_attention_heads: null, expected"),
        ({"overrides": {"hidden_act": "swishy"}}, "hidden_act = 'swishy'"),
        ({"overrides": {"id2label": {"0": "x"}}}, "names 1 labels, the checkpoint's head has 4"),
        ({"overrides": {"hidden_dropout_prob": float("nan")}}, "= NaN, expected a number"),
        ({"architecture": "BertForMultipleChoice"}, "scores each choice with one row"),
        ({"config": {"model_type": "t5"}}, "a config of another family than bert"),
    ],
)
def test_no_config_is_written_that_makes_no_model(tmp_path, options, message):
    with pytest.raises(tfreader.ConfigError, match=message):
        convert(DATA / "classifier", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_the_files_of_a_module_are_found_where_it_keeps_them(tmp_path):
    module = tmp_path / "module"
    (module / "assets").mkdir(parents=True)
    write_bundle(module / "variables" / "variables", variables())
    for name in ("vocab.txt", "bert_config.json"):
        shutil.copy(BERT / name, module / "assets")
    report = convert(module, tmp_path / "out")
    assert report.plan.config_path == str(module / "assets" / "bert_config.json")
    assert (tmp_path / "out" / "vocab.txt").is_file()


def test_what_told_the_family_is_said():
    with tfreader.open(BERT) as checkpoint:
        notes = make_plan(checkpoint).notes
    assert notes[0].startswith(
        "model type bert (original), told by bert/embeddings/word_embeddings and "
    )


@pytest.mark.parametrize(
    ("words", "lower"),
    [
        ("[UNK] <S> <T> 的 a b", True),  # as Google's Chinese vocabulary
        ("[UNK] The The2 cat Sat", False),
        ("[UNK] " + " ".join(f"w{i}" for i in range(200)) + " NASA", True),
    ],
)
def test_the_letters_of_a_vocabulary_tell_its_case(copy, tmp_path, words, lower):
    folder = copy(BERT)
    (folder / "vocab.txt").write_text("\n".join(words.split()) + "\n", "utf-8")
    for overrides, expected in (({}, lower), ({"do_lower_case": not lower}, not lower)):
        convert(folder, tmp_path / "out", overrides=overrides)
        settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
        assert settings["do_lower_case"] is expected


def test_other_classes_that_fit_are_named_and_can_be_chosen(tmp_path):
    with tfreader.open(DATA / "encoder") as checkpoint:
        encoder = {name: checkpoint[name] for name in checkpoint}
    labels, bias = np.ones((5, 24), np.float32), np.ones(5, np.float32)
    config = {"num_attention_heads": 3}
    tensors = {**encoder, "output_weights": labels, "output_bias": bias}
    prefix = write_bundle(tmp_path / "model.ckpt", tensors)
    with tfreader.open(prefix) as checkpoint:
        (note,) = (n for n in make_plan(checkpoint, config=config).notes if "--architecture" in n)
        assert "fit BertForTokenClassification;" in note  # five labels are no choices
        plan = make_plan(checkpoint, config=config, architecture="BertForTokenClassification")
    assert plan.architecture == "BertForTokenClassification"
    tensors |= {"output_weights": labels[:1], "output_bias": bias[:1]}
    prefix = write_bundle(tmp_path / "choices.ckpt", tensors)
    with tfreader.open(prefix) as checkpoint:
        (note,) = (n for n in make_plan(checkpoint, config=config).notes if "--architecture" in n)
    assert "fit BertForTokenClassification and BertForMultipleChoice" in note
    assert load_state_dict(prefix, config=config, architecture="BertForMultipleChoice")
