"""`verify --against` of models as each release of transformers saves them, and of their configs.

A right model is right however its tensors are named, tied or left out; what config.json makes of
the same tensors decides as well.
"""

from __future__ import annotations

import json
import tarfile

import numpy as np
import pytest
import torch
import transformers
from bundle_writer import write_bundle
from click.testing import CliRunner
from conftest import BERT, DATA
from safetensors.torch import load_file, save_file

from tfreader.cli.main import main
from tfreader.mapping import convert, load_state_dict
from tfreader.mapping.records import recorded
from tfreader.mapping.records.audit import compare_output
from tfreader.mapping.records.compare import compare
from tfreader.mapping.records.settings import differences

NAMES = ("bert", "mobilebert", "swin", "t5", "vision_encoder_decoder", "wav2vec2", "xglm")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folders of TensorFlow's classes, and of what was converted from each, by name."""
    folder = tmp_path_factory.mktemp("trained")
    found = {}
    for name in NAMES:
        with tarfile.open(DATA / "hf_tf" / f"{name}.tar.xz") as archive:
            archive.extractall(folder / name, filter="data")
        convert(folder / name, folder / f"{name}-pt")
        (folder / f"{name}-pt" / "conversion.json").unlink()
        found[name] = folder / name, folder / f"{name}-pt"
    return found


def wrong(found):
    return {row.tensor: row.status for row in found.rows if not row.ok}


def copied(model, place, change=lambda tensors, config: None):
    """A copy of a folder with weights, saved by torch, with changes."""
    tensors, config = load_file(model / "model.safetensors"), read(model)
    change(tensors, config)
    place.mkdir(exist_ok=True)
    torch.save(tensors, place / "pytorch_model.bin")
    (place / "config.json").write_text(json.dumps(config))
    return place


def read(folder):
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("name", NAMES)
def test_what_the_newest_transformers_saves_again_is_right(tmp_path, trained, name):
    source, model = trained[name]
    kind = getattr(transformers, read(model)["architectures"][0])
    kind.from_pretrained(model).save_pretrained(tmp_path)
    found = compare(tmp_path, source)
    assert found.problems == ()


@pytest.mark.parametrize("name", ["bert", "swin", "vision_encoder_decoder", "wav2vec2"])
def test_a_state_dict_of_the_newest_transformers_is_right(tmp_path, trained, name):
    """Whose names are those of its classes, tied ones and all."""
    source, model = trained[name]
    kind = getattr(transformers, read(model)["architectures"][0])
    torch.save(kind.from_pretrained(model).state_dict(), tmp_path / "model.bin")
    assert compare(tmp_path / "model.bin", source).problems == ()


def with_old_names(tensors, config):
    for name in [*tensors]:
        old = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        old = old.replace("LayerNorm.bias", "LayerNorm.beta")
        old = old.replace("parametrizations.weight.original0", "weight_g")
        tensors[old.replace("parametrizations.weight.original1", "weight_v")] = tensors.pop(name)


def with_ties(tensors, config):
    tensors["lm_head.weight"] = tensors["shared.weight"].clone()
    tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"].clone()


def with_the_tied_name_alone(tensors, config):
    tensors["lm_head.weight"] = tensors.pop("shared.weight")


def without_index(tensors, config):
    for name in [name for name in tensors if name.endswith("relative_position_index")]:
        del tensors[name]


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("bert", with_old_names, "LayerNorm.gamma, which loading renames"),
        ("wav2vec2", with_old_names, "conv.weight_g, which loading renames"),
        ("t5", with_ties, "tied copy of shared.weight"),
        ("t5", with_the_tied_name_alone, "as lm_head.weight, to which it is tied"),
        ("swin", without_index, "which positions are how far apart"),
    ],
)
def test_names_that_loading_knows_are_right(tmp_path, trained, name, change, said):
    source, model = trained[name]
    found = compare(copied(model, tmp_path, change), source)
    assert found.problems == ()
    assert any(said in row.detail for row in found.rows)


def test_old_names_without_the_base_models_prefix(tmp_path):
    tensors = {name.removeprefix("bert."): t for name, t in load_state_dict(BERT).items()}
    with_old_names(tensors, {})
    torch.save(tensors, tmp_path / "model.bin")
    assert compare(tmp_path / "model.bin", BERT).ok
    tensors["encoder.layer.1.output.LayerNorm.gamma"] += 1
    torch.save(tensors, tmp_path / "model.bin")
    name = "bert.encoder.layer.1.output.LayerNorm.weight"
    assert wrong(compare(tmp_path / "model.bin", BERT)) == {name: "different"}


def test_the_base_models_prefix_of_a_class_that_tensorflow_had(tmp_path, trained):
    source, model = trained["bert"]

    def change(tensors, config):
        for name in [*tensors]:
            tensors[name.removeprefix("bert.")] = tensors.pop(name)

    found = compare(copied(model, tmp_path, change), source)
    assert found.problems == ()
    assert any("without bert.: from_pretrained loads them either way" in n for n in found.notes)


def test_a_tied_copy_that_differs_is_wrong(tmp_path, trained):
    def change(tensors, config):
        tensors["lm_head.weight"] = tensors["shared.weight"] + 1

    source, model = trained["t5"]
    assert wrong(compare(copied(model, tmp_path, change), source)) == {
        "lm_head.weight": "different"
    }


def test_an_index_of_positions_that_is_another_is_wrong(tmp_path, trained):
    source, model = trained["swin"]
    name = next(n for n in load_file(model / "model.safetensors") if n.endswith("_position_index"))
    other = name.replace("relative_position_index", "more.relative_position_index")

    def change(tensors, config):
        tensors[other] = tensors[name].flip(0).contiguous()

    assert wrong(compare(copied(model, tmp_path, change), source)) == {other: "extra"}


@pytest.mark.parametrize(
    ("name", "keys", "is_wrong"),
    [
        ("bert", {"num_attention_heads": 1}, True),
        ("bert", {"hidden_act": "gelu_new"}, True),  # as the original's is known
        ("bert", {"layer_norm_eps": 1e-5}, True),
        ("bert", {"id2label": {"0": "yes", "1": "no"}}, True),
        ("bert", {"hidden_dropout_prob": 0.3, "initializer_range": 1.0, "dtype": "float16"}, False),
        ("bert", {"transformers_version": "3.0", "use_cache": False, "new_key": 3}, False),
        ("xglm", {"scale_embedding": False}, True),
        ("swin", {"window_size": 7}, True),
        ("wav2vec2", {"do_stable_layer_norm": True}, True),
        ("wav2vec2", {"mask_time_prob": 0.5, "ctc_loss_reduction": "mean"}, False),
        ("t5", {"tie_word_embeddings": False}, True),
        ("t5", {"dense_act_fn": "silu"}, True),  # which the class takes before feed_forward_proj
        ("t5", {"scale_decoder_outputs": False, "tie_word_embeddings": True}, True),
    ],
)
def test_keys_that_decide_what_is_computed_are_compared(tmp_path, trained, name, keys, is_wrong):
    source, model = trained[name]
    place = copied(model, tmp_path, lambda tensors, config: config.update(keys))
    problems = compare(place, source).problems
    assert len(problems) == is_wrong
    assert all(next(iter(keys)) in each or "tie_word" in each for each in problems)


def test_a_part_has_a_config_of_its_own(tmp_path, trained):
    source, model = trained["vision_encoder_decoder"]

    def change(tensors, config):
        config["encoder"]["num_attention_heads"] = 1

    (problem,) = compare(copied(model, tmp_path, change), source).problems
    assert "encoder.num_attention_heads = 1; the checkpoint's is" in problem


def test_a_key_without_which_a_class_has_its_default_is_missed(tmp_path, trained):
    source, model = trained["wav2vec2"]
    place = copied(model, tmp_path, lambda tensors, config: config.pop("num_attention_heads"))
    (problem,) = compare(place, source).problems
    assert "no num_attention_heads, which means 12" in problem


def test_names_of_labels_that_got_lost_are_told(tmp_path, trained):
    source, model = trained["bert"]
    place = copied(model, tmp_path, lambda tensors, config: config.pop("id2label"))
    config = {**read(source), "id2label": {"0": "a", "1": "b"}}
    found = compare(place, source, config=config | {"label2id": {"a": 0, "b": 1}})
    assert found.ok
    assert any("no id2label" in note for note in found.notes)


@pytest.mark.parametrize("value", [None, 5, "gelu", [], [1], [["a"]], {}, {"a": []}, [[["x"], -1]]])
def test_whatever_a_config_holds_is_compared(tmp_path, trained, value):
    source, model = trained["bert"]
    keys = [*read(model), "attention_types", "architectures", "scale_decoder_outputs"]
    for key in keys:
        compare(
            copied(model, tmp_path, lambda t, config, key=key: config.update({key: value})), source
        )
    planned = {"model_type": "gpt_neo", "attention_types": [[["global", "local"], 2]]}
    assert not [*differences(planned, {"attention_types": value} | planned)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rounded_frequencies_are_a_buffer_too(tmp_path, dtype):
    tensors = load_state_dict(BERT)
    for step, is_right in ((8, True), (9, False)):
        tensors["rotary.inv_freq"] = (1 / 10000 ** (torch.arange(8) / step)).to(dtype)
        torch.save(tensors, tmp_path / "model.bin")
        assert compare(tmp_path / "model.bin", BERT).ok == is_right


def test_blocks_of_sparse_attention_are_compared():
    planned = {"model_type": "big_bird", "attention_type": "block_sparse", "block_size": 16}
    for found, problems in (
        (planned, 0),
        ({**planned, "block_size": 32}, 1),
        ({"model_type": "big_bird"}, 1),  # 64 by default
        ({**planned, "num_random_blocks": 2}, 1),
    ):
        assert len([*differences(planned, found)]) == problems
    full = {"model_type": "big_bird", "attention_type": "original_full", "block_size": 16}
    assert not [*differences(full, {**full, "block_size": 32})]


def test_of_classes_with_the_same_tensors_it_is_the_one_that_the_config_names(tmp_path):
    source = DATA / "roformer" / "labels"
    for kind in ("RoFormerForTokenClassification", "RoFormerModel"):
        convert(source, tmp_path / kind, architecture=kind)
        (tmp_path / kind / "conversion.json").unlink()
    assert compare(tmp_path / "RoFormerForTokenClassification", source).ok
    source = DATA / "roformer" / "decoder"
    convert(source, tmp_path / "decoder", architecture="RoFormerForCausalLM")
    (tmp_path / "decoder" / "conversion.json").unlink()
    found = compare(tmp_path / "decoder", source)
    assert (found.architecture, found.problems) == ("RoFormerForCausalLM", ())


def test_a_class_of_which_tensors_are_lacking_must_not_be_named(tmp_path):
    """from_pretrained would start them anew, though the others are a class of their own."""
    tensors = {name: t for name, t in load_state_dict(BERT).items() if name.startswith("bert.")}
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    for kind, is_right in (("BertModel", True), ("BertForPreTraining", False)):
        keys = {**json.loads((BERT / "bert_config.json").read_text()), "architectures": [kind]}
        (tmp_path / "config.json").write_text(json.dumps(keys))
        found = compare(tmp_path, BERT)
        assert (found.ok, wrong(found)) == (is_right, {})
    assert "architectures names BertForPreTraining, of which the model lacks" in found.problems[0]


def test_a_base_model_of_a_class_that_tensorflow_had(tmp_path, trained):
    """A fine-tuned head must not get lost, unless that is meant; the error says how."""
    source, model = trained["bert"]
    base = transformers.BertModel.from_pretrained(model)
    base.save_pretrained(tmp_path)
    found = compare(tmp_path, source)
    assert (found.architecture, wrong(found)) == ("BertModel", {})
    (problem,) = found.problems
    assert "head is not in it" in problem
    assert "--architecture BertModel if that is meant" in problem
    assert compare(tmp_path, source, architecture="BertModel").ok
    with torch.no_grad():
        base.pooler.dense.bias += 1
    base.save_pretrained(tmp_path)
    found = compare(tmp_path, source, architecture="BertModel")
    assert wrong(found) == {"bert.pooler.dense.bias": "different"}


def test_the_averages_are_compared_where_the_model_has_them(tmp_path):
    """As the old converter of MobileNet takes them wherever there are any."""
    rules = tmp_path / "rules.toml"
    rules.write_text('[[rule]]\nsource = "a/(?P<n>.)"\ntarget = "{n}"\n')
    weights = {f"a/{n}": np.full((2, 3), n, np.float32) for n in (1, 2)}
    averages = {f"{name}/ExponentialMovingAverage": v + 0.5 for name, v in weights.items()}
    source = write_bundle(tmp_path / "m", {**weights, **averages, "global_step": np.int64(3)})
    model = tmp_path / "model.bin"
    for more, is_right in ((0, True), (0.5, True), (0.25, False)):
        torch.save({str(n): torch.full((2, 3), n + more) for n in (1, 2)}, model)
        values = {}
        found = compare_output(model, source, rules=rules, statistics=values)
        assert found.ok == is_right
        assert [found.count for found in values.values()] == [6, 6]
        assert any("it has the moving averages" in note for note in found.notes) == (more == 0.5)
    asked = compare(model, source, rules=rules, moving_averages="drop")
    assert asked.counts["different"] == 2


def test_what_is_in_the_place_of_the_other_is_told(tmp_path):
    torch.save(load_state_dict(BERT), tmp_path / "model.bin")
    model = str(tmp_path / "model.bin")
    source = str(BERT / "bert_model.ckpt")
    for arguments, said in (
        ([source, "--against", model], f"which comes first: tfreader verify {model} --against"),
        ([model, "--against", model], "where --against takes a TensorFlow checkpoint"),
        ([source, "--against", source], f"compared by tfreader diff {source} {source}"),
        ([model], f"tfreader verify {model} --against CHECKPOINT"),
        ([str(tmp_path / "none"), "--against", source], "not there"),
    ):
        result = CliRunner().invoke(main, ["verify", *arguments])
        assert result.exit_code == 1
        assert said in result.stderr


@pytest.mark.parametrize("name", ["out", "out.bin", "out.safetensors"])
@pytest.mark.parametrize("checksum", ["crc32c", "sha256"])
def test_what_was_converted_here_is_read_once(tmp_path, monkeypatch, name, checksum):
    out = tmp_path / name
    convert(BERT, out, record=True, checksum=checksum, dtype="float16")
    read = []

    def checksum_of(kind, file, start=0, end=None):
        read.append((start, end))
        return taken(kind, file, start, end)

    taken = recorded.checksum_of
    monkeypatch.setattr(recorded, "checksum_of", checksum_of)
    monkeypatch.setattr(recorded, "_digest", None)
    assert compare_output(out, BERT).ok
    assert all(start == 0 for start, _ in read)  # headers, the config, the vocabulary


def test_a_tensor_that_is_not_as_recorded_is_told_by_both(tmp_path):
    """Also where its values are right, as one in another type of the same width is not."""
    out = tmp_path / "out.safetensors"
    convert(BERT, out, record=True)
    tensors = load_file(out)
    name = "bert.pooler.dense.bias"
    tensors[name][0] += 1
    save_file(tensors, out, {"format": "pt"})
    problems = compare_output(out, BERT).problems
    assert any(f"tensor {name!r}: other bytes than those written (crc32c)" in p for p in problems)
    assert any(f"tensor {name!r}: different" in problem for problem in problems)


def test_the_page_has_the_statistics_of_all_tensors_from_the_same_reading(tmp_path):
    tensors = load_state_dict(BERT)
    tensors["more"] = torch.arange(6.0)
    tensors["masked_bias"] = torch.tensor(-1e4)  # a scalar, of which the plan knows no shape
    torch.save(tensors, tmp_path / "model.bin")
    values = {}
    compare_output(tmp_path / "model.bin", BERT, statistics=values)
    assert values.keys() == tensors.keys()
    for name, found in values.items():
        mean = float(np.mean(tensors[name].numpy(), dtype=np.float64))
        assert found.count == tensors[name].numel()
        assert found.mean == pytest.approx(mean, abs=1e-9)
        assert found.histogram is not None
    page = tmp_path / "page.html"
    options = ["--against", str(BERT), "--html", str(page)]
    result = CliRunner().invoke(main, ["verify", str(tmp_path / "model.bin"), *options])
    assert result.exit_code == 1
    assert "1 of 50 tensors not right" in page.read_text()


@pytest.mark.parametrize(
    ("name", "keys", "is_wrong"),
    [
        ("bert", {"num_hidden_layers": None}, True),  # layers that the file has not start anew
        ("mobilebert", {"normalization_type": None}, False),  # by default as it is
        ("swin", {"depths": None}, True),
        ("bert", {"tie_word_embeddings": False}, False),  # of a class without an output layer
        ("bert", {"summary_type": "first"}, False),
        ("wav2vec2", {"codevector_dim": 3, "tdnn_dim": [3], "num_adapter_layers": 9}, False),
        ("swin", {"encoder_stride": 3}, False),
        ("xglm", {"pad_token_id": 2}, True),  # its positions count from there
    ],
)
def test_what_a_key_means_depends_on_the_class(tmp_path, trained, name, keys, is_wrong):
    source, model = trained[name]

    def change(tensors, config):
        for key, value in keys.items():
            if value is None:
                config.pop(key, None)
            else:
                config[key] = value

    assert bool(compare(copied(model, tmp_path, change), source).problems) == is_wrong


def test_other_names_of_keys_are_those_of_transformers():
    planned = {"model_type": "gpt2", "n_layer": 2, "n_head": 3}
    other = {"model_type": "gpt2", "num_hidden_layers": 2, "num_attention_heads": 3}
    assert not [*differences(planned, other)]
    (found,) = differences(planned, {**other, "num_hidden_layers": 3})
    assert found == ("n_layer = 3; the checkpoint's is 2", True)


@pytest.mark.parametrize(
    ("model_type", "ours", "theirs", "is_same"),
    [
        ("deberta-v2", {"share_att_key": True}, {}, False),  # which the model alone reads
        ("data2vec-vision", {"layer_scale_init_value": 0.1}, {"layer_scale_init_value": 0}, False),
        ("data2vec-vision", {"layer_scale_init_value": 0.1}, {"layer_scale_init_value": 1}, True),
        ("mobilenet_v2", {}, {"output_stride": 16}, False),
        ("xlm", {"summary_activation": None}, {"summary_activation": "tanh"}, False),
        ("gpt2", {}, {"n_inner": 3072}, True),  # shapes tell
        ("bert", {}, {"quantization_config": {"load_in_8bit": True}}, False),
        ("bert", {}, {"pruned_heads": {"0": [1]}}, False),
        ("t5", {}, {"tie_encoder_decoder": True}, False),
        ("mistral", {"rope_theta": 1e4}, {"rope_parameters": {"rope_theta": 1e4}}, True),
        (
            "mistral",
            {"rope_theta": 1e4},
            {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 9}},
            False,
        ),
        ("mistral", {}, {"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear"}}, False),
    ],
)
def test_keys_are_compared_as_the_classes_read_them(model_type, ours, theirs, is_same):
    kind = {"model_type": model_type}
    assert (not [*differences({**kind, **ours}, {**kind, **theirs})]) == is_same


@pytest.mark.parametrize(
    ("model_type", "key", "is_wrong"),
    [
        ("clip_text_model", "eos_token_id", True),  # whose place is pooled
        ("esm", "mask_token_id", True),  # which is taken out of the embeddings
        ("layoutlmv3", "pad_token_id", True),
        ("bert", "pad_token_id", False),
        ("gpt2", "pad_token_id", False),  # but of a class for sequences
    ],
)
def test_numbers_of_tokens_count_where_a_class_goes_by_them(model_type, key, is_wrong):
    kind = {"model_type": model_type}
    ((_, found),) = differences({**kind, key: 5}, {**kind, key: 6})
    assert found == is_wrong


def test_the_settings_of_an_adapter_are_told(tmp_path, trained):
    source, model = trained["bert"]
    place = copied(model, tmp_path)
    (place / "adapter_config.json").write_text("{}")
    (problem,) = compare(place, source).problems
    assert "adapter_config.json: from_pretrained, where peft is installed" in problem
