"""`verify --against` of models that others made: every way to be wrong is told, and no other.

The models are put together with torch and safetensors from right tensors, as old converters, other
tools and people's own scripts leave them.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from bundle_writer import write_bundle
from click.testing import CliRunner
from conftest import BERT, DATA, KERAS, ROOT
from safetensors.torch import save_file
from transformers import CONFIG_MAPPING

import tfreader
from tfreader.cli.main import main
from tfreader.mapping import load_state_dict
from tfreader.mapping.families import families
from tfreader.mapping.families._hf_defaults import defaults
from tfreader.mapping.records.compare import compare
from tfreader.mapping.records.settings import differences
from tfreader.mapping.sources.torch_weights import TorchWeights

QUERY = "bert.encoder.layer.1.attention.self.query.weight"
FEED = "bert.encoder.layer.0.intermediate.dense.weight"
WORDS = "bert.embeddings.word_embeddings.weight"
DECODER = "cls.predictions.decoder.weight"
CONVERTED = json.loads((BERT / "bert_config.json").read_text())
BY_VOCABULARY = (WORDS, DECODER, "cls.predictions.bias", "cls.predictions.decoder.bias")


@pytest.fixture
def tensors():
    """A right state dict of BERT, no tensor of which shares its values with another."""
    return {name: tensor.clone() for name, tensor in load_state_dict(BERT).items()}


@pytest.fixture
def against(tmp_path):
    """Compares a state dict, saved as a file, to BERT's checkpoint."""

    def run(tensors, checkpoint=BERT, name="model.bin", **options):
        torch.save(tensors, tmp_path / name)
        return compare(tmp_path / name, checkpoint, **options)

    return run


def rows(found):
    return {row.tensor: row for row in found.rows}


def wrong(found):
    return {row.tensor: row.status for row in found.rows if not row.ok}


def save(tensors, path, is_legacy=False):
    torch.save(tensors, path, _use_new_zipfile_serialization=not is_legacy)
    return path


def in_shards(tensors, folder, write, stem, suffix):
    names = sorted(tensors)
    files = [f"{stem}-0000{i}-of-00002.{suffix}" for i in (1, 2)]
    write({name: tensors[name] for name in names[::2]}, folder / files[0])
    write({name: tensors[name] for name in names[1::2]}, folder / files[1])
    places = {name: files[i % 2] for i, name in enumerate(names)}
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


def in_cache(tensors, folder):
    """As huggingface_hub leaves a repository here: links to blobs."""
    revision = folder / "models--a--b" / "snapshots" / "0123"
    blobs = folder / "models--a--b" / "blobs"
    for each in (revision, blobs, folder / "models--a--b" / "refs"):
        each.mkdir(parents=True)
    (folder / "models--a--b" / "refs" / "main").write_text("0123")
    torch.save(tensors, blobs / "abc")
    (revision / "pytorch_model.bin").symlink_to(blobs / "abc")
    return folder / "models--a--b"


CONTAINERS = {
    "torch": lambda tensors, folder: save(tensors, folder / "a.pt"),
    "torch before 1.6": lambda tensors, folder: save(tensors, folder / "a.bin", True),
    "safetensors": lambda tensors, folder: (
        [save_file(tensors, folder / "a.safetensors")] and folder
    ),
    "with training state": lambda tensors, folder: save(
        {
            "state_dict": tensors,
            "lr": np.float64(1e-4),
            "optimizer": {"state": {}},
            "others": (3, torch.device("cpu"), Counter("ab"), bytearray(b"c")),
        },
        folder / "last.pth",
    ),
    "torch in shards": lambda tensors, folder: in_shards(
        tensors, folder, torch.save, "pytorch_model", "bin"
    ),
    "safetensors in shards": lambda tensors, folder: in_shards(
        tensors, folder, save_file, "model", "safetensors"
    ),
    "the Hub's cache": in_cache,
}


@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS.keys())
@pytest.mark.parametrize("has_torch", [True, False])
def test_a_right_model_is_equal_in_whatever_it_was_saved(
    tmp_path, tensors, container, has_torch, monkeypatch
):
    model = container(tensors, tmp_path)
    if not has_torch:
        monkeypatch.setitem(sys.modules, "torch", None)
    found = compare(model, BERT)
    assert found.ok
    assert found.counts == {"equal": 48, "transposed": 0, "different": 0, "missing": 0, "extra": 0}
    assert rows(found)[DECODER].detail == f"tied copy of {WORDS}"
    assert found.architecture == "BertForPreTraining"


def test_a_shard_stands_for_all_of_them(tmp_path, tensors):
    in_shards(tensors, tmp_path, torch.save, "pytorch_model", "bin")
    assert compare(tmp_path / "pytorch_model-00002-of-00002.bin", BERT).counts["equal"] == 48


def test_tensors_are_read_by_their_strides(tmp_path):
    """Old converters leave their kernels as transposed views, which torch saves as such."""
    values = torch.arange(24.0).reshape(4, 6)
    shared = torch.arange(10.0)
    made = OrderedDict(
        plain=values,
        transposed=values.t(),
        permuted=torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1),
        strided=values[1:, ::2],
        row=shared[2:5],
        repeated=torch.ones(1).expand(3),
        scalar=torch.tensor(2.5),
        empty=torch.zeros(0, 3),
        half=values.half(),
        brain=values.bfloat16(),
        flags=torch.tensor([True, False]),
        parameter=torch.nn.Parameter(values),
    )
    made._metadata = {"": {"version": 1}}
    for is_legacy in (False, True):
        with TorchWeights(str(save(made, tmp_path / f"{is_legacy}.bin", is_legacy))) as weights:
            assert set(weights) == set(made)
            for name, tensor in made.items():
                np.testing.assert_array_equal(
                    weights[name].astype(np.float32), tensor.detach().float().numpy()
                )
            part = weights.reader("transposed").read((range(1, 3), range(2, 4)))
            np.testing.assert_array_equal(part, values.t()[1:3, 2:4].numpy())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_the_same_values_in_another_type_are_equal_and_told(tensors, against, dtype):
    kind = getattr(torch, dtype)
    found = against({name: tensor.to(kind) for name, tensor in tensors.items()})
    assert found.ok
    assert rows(found)[QUERY].detail == f"{dtype} of float32"
    assert any(f"{dtype} in the model, float32 from the checkpoint" in n for n in found.notes)


def test_values_that_lost_precision_in_their_own_type_are_different(tensors, against):
    tensors[QUERY] = tensors[QUERY].half().float()
    found = against(tensors)
    assert wrong(found) == {QUERY: "different"}
    assert "rounded to float16" in rows(found)[QUERY].detail
    assert 0 < rows(found)[QUERY].largest_difference < 1e-3


def without_prefix(tensors):
    return {n.removeprefix("bert."): t for n, t in tensors.items() if n.startswith("bert.")}


def test_names_without_the_base_models_prefix_are_told_for_what_they_are(tensors, against):
    found = against({n.removeprefix("bert."): t for n, t in tensors.items()})
    assert found.ok
    assert rows(found)[QUERY].found == QUERY.removeprefix("bert.")
    assert rows(found)[QUERY].detail == "without bert."
    assert any("without bert.: from_pretrained loads them either way" in n for n in found.notes)


def test_a_base_model_of_a_pre_training_checkpoint_is_one(tensors, against):
    found = against(without_prefix(tensors))
    assert found.ok
    assert found.architecture == "BertModel"
    assert any("mlm and nsp head is not in it" in note for note in found.notes)
    tensors = {name: t for name, t in tensors.items() if not name.startswith("cls")}
    assert rows(against(tensors))["pooler.dense.bias"].detail == "under bert."


def test_a_prefix_that_no_class_knows_is_wrong(tensors, against):
    found = against({f"module.{name}": tensor for name, tensor in tensors.items()})
    assert not found.ok
    assert found.counts["missing"] == 46
    assert "under module., where no class looks for it" in rows(found)[QUERY].detail
    assert found.counts["extra"] == 0


def test_a_lost_head_of_fine_tuning_is_told_with_how_to_accept_it(against):
    kept = load_state_dict(DATA / "squad", architecture="BertModel")
    found = against(kept, DATA / "squad")
    assert not found.ok
    assert "the checkpoint's squad head is not in it" in found.problems[0]
    assert "--architecture BertModel if that is meant" in found.problems[0]
    assert against(kept, DATA / "squad", architecture="BertModel").ok


def transpose_square(tensors):
    tensors[QUERY] = tensors[QUERY].t().contiguous()


def transpose(tensors):
    tensors[FEED] = tensors[FEED].t().contiguous()


def change(tensors):
    tensors[QUERY][3, 2] += 0.5


def forget(tensors):
    del tensors[QUERY]


def untie(tensors):
    tensors[DECODER] = tensors[DECODER] + 0.25


def start_anew(tensors):
    tensors[QUERY] = torch.ones_like(tensors[QUERY])


def lose_numbers(tensors):
    tensors[QUERY][0, 0] = float("nan")


def add_rows(tensors):
    tensors[WORDS] = torch.cat([tensors[WORDS], torch.zeros(2, tensors[WORDS].shape[1])])
    tensors[DECODER] = tensors[WORDS]


def swap(tensors):
    other = QUERY.replace("query", "key")
    tensors[QUERY], tensors[other] = tensors[other], tensors[QUERY]


@pytest.mark.parametrize(
    ("harm", "status", "difference", "said"),
    [
        (transpose_square, {QUERY: "transposed"}, None, ""),
        (transpose, {FEED: "transposed"}, None, ""),
        (change, {QUERY: "different"}, 0.5, "1 of 576 values"),
        (forget, {QUERY: "missing"}, None, ""),
        (untie, {DECODER: "different"}, 0.25, f"tied copy of {WORDS}"),
        (start_anew, {QUERY: "different"}, ..., "all 1"),
        (lose_numbers, {QUERY: "different"}, None, "no numbers"),
        (add_rows, {WORDS: "different", DECODER: "different"}, 0.0, "nothing gives the other 2"),
        (swap, {QUERY: "different", QUERY.replace("query", "key"): "different"}, ..., "576 of 576"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_is_wrong_is_told(tensors, against, harm, status, difference, said, dtype):
    harm(tensors)
    found = against({name: tensor.to(dtype) for name, tensor in tensors.items()})
    assert wrong(found) == status
    row = rows(found)[next(iter(status))]
    assert said in row.detail
    if difference is not ...:
        assert row.largest_difference == pytest.approx(difference, abs=1e-3)
    assert len(found.problems) == len(status)
    json.dumps(found.to_data(), allow_nan=False)


def test_a_scalar_is_compared_too(tmp_path):
    source = write_bundle(tmp_path / "m", {"s": np.float32(2.5), "k": np.ones((2, 3), np.float32)})
    rules = tmp_path / "rules.toml"
    rules.write_text('[[rule]]\nsource = "(?P<n>.)"\ntarget = "{n}"\n')
    for value, status in ((2.5, {}), (2.0, {"s": "different"})):
        save({"s": torch.tensor(value), "k": torch.ones(2, 3)}, tmp_path / "m.pt")
        found = compare(tmp_path / "m.pt", source, rules=rules)
        assert wrong(found) == status
        assert rows(found)["s"].largest_difference == 2.5 - value


def test_a_vocabulary_without_its_padding_is_equal_as_far_as_it_goes(tensors, against):
    for name in BY_VOCABULARY:
        tensors[name] = tensors[name][:-3].clone()
    found = against(tensors)
    assert "the first 61 of 64 rows" in rows(found)[WORDS].detail
    assert wrong(found) == {}
    tensors[WORDS][-1] += 1
    assert wrong(against(tensors)) == {WORDS: "different"}


@pytest.mark.parametrize("config", [None, {"vocab_size": 61}, {"vocab_size": 64}])
def test_what_goes_by_the_vocabulary_is_as_long_everywhere(tmp_path, tensors, config):
    """from_pretrained refuses tensors of which some have lost rows, or that config.json counts."""
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps({**CONVERTED, **config}))
    everywhere = BY_VOCABULARY
    for cut in ((), everywhere[:2], everywhere[2:], everywhere):
        changed = {name: t[:61] if name in cut else t for name, t in tensors.items()}
        torch.save(changed, tmp_path / "pytorch_model.bin")
        found = compare(tmp_path, BERT)
        length = (config or {}).get("vocab_size", 61 if cut == everywhere else 64)
        is_cut = length < 64
        assert {*wrong(found)} >= {name for name in everywhere if (name in cut) != is_cut}
        assert not {*wrong(found)} & {name for name in everywhere if (name in cut) == is_cut}
        assert found.ok == (cut == (everywhere if is_cut else ()))


BUFFERS = {
    "bert.embeddings.position_ids": torch.arange(40).expand(1, 40),
    "bert.embeddings.token_type_ids": torch.zeros(1, 40, dtype=torch.int64),
    "h.0.attn.bias": torch.ones(1, 1, 8, 8).tril().bool(),
    "h.0.attn.masked_bias": torch.tensor(-1e4),
    "norm.num_batches_tracked": torch.tensor(0),
    "pos_emb.inv_freq": 1 / 10000 ** (torch.arange(0.0, 16, 2) / 16),
}
WEIGHTS = {
    "bert.embeddings.position_ids": torch.arange(40).flip(0).expand(1, 40).contiguous(),
    "h.0.attn.bias": torch.ones(1, 1, 8, 8),
    "h.0.attn.masked_bias": torch.tensor(0.5),
    "pos_emb.inv_freq": torch.rand(8),
    "classifier.weight": torch.zeros(2, 16),
    "classifier.bias": torch.rand(2),
}


def test_buffers_are_told_from_weights_by_their_values(tensors, against):
    found = against(tensors | BUFFERS)
    assert found.ok
    assert all(rows(found)[name].detail.startswith("a buffer") for name in BUFFERS)
    assert wrong(against(tensors | WEIGHTS)) == dict.fromkeys(WEIGHTS, "extra")


def test_the_class_is_the_one_whose_tensors_the_model_has(against):
    source = DATA / "electra" / "pretraining"
    for kind in ("ElectraForMaskedLM", "ElectraForPreTraining"):
        found = against(load_state_dict(source, architecture=kind), source)
        assert (found.architecture, found.ok) == (kind, True)


def test_a_config_that_computes_something_else_is_told(tmp_path, tensors):
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    for keys, said in (
        ({"hidden_act": "relu"}, 'hidden_act = "relu"'),
        ({"num_attention_heads": 4}, "num_attention_heads = 4"),
        ({"num_hidden_layers": 1}, "num_hidden_layers = 1"),
        ({"model_type": "roberta"}, 'model_type = "roberta"'),
        ({"position_embedding_type": "relative_key"}, 'position_embedding_type = "relative_key"'),
    ):
        (tmp_path / "config.json").write_text(json.dumps({**CONVERTED, **keys}))
        found = compare(tmp_path, BERT)
        assert not wrong(found)
        (problem,) = found.problems
        assert said in problem
    for key, said in (("num_attention_heads", 12), ("num_hidden_layers", 12), ("hidden_size", 768)):
        config = {name: value for name, value in CONVERTED.items() if name != key}
        (tmp_path / "config.json").write_text(json.dumps(config))
        (problem,) = compare(tmp_path, BERT).problems
        assert f"no {key}, which means {said}; the checkpoint's is" in problem
    (tmp_path / "config.json").write_text(json.dumps({**CONVERTED, "hidden_act": "gelu_new"}))
    found = compare(tmp_path, BERT)
    assert found.ok
    assert any('hidden_act = "gelu_new"' in note for note in found.notes)


@pytest.mark.parametrize("model_type", sorted({*families()} & {*CONFIG_MAPPING}))
def test_the_defaults_are_those_of_transformers(model_type):
    config = CONFIG_MAPPING[model_type]()
    known = defaults(model_type)
    found = {key: value for key, value in config.to_dict().items() if key in known}
    assert len(found) > 9
    assert {key: known[key] for key in found} == json.loads(json.dumps(found))


def test_which_layers_attend_locally_is_compared():
    planned = {"model_type": "gpt_neo", "attention_types": [[["global", "local"], 2]]}
    for layers, found in ((["global", "local"] * 2, 0), (["global"] * 4, 1)):
        assert len([*differences(planned, {"attention_layers": layers})]) == found


@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_model_of_ones_own_by_its_rules(tmp_path, prefix):
    rules = KERAS / "rules.toml"
    tensors = {f"{prefix}{n}": t for n, t in load_state_dict(KERAS, rules=rules).items()}
    save(tensors, tmp_path / "model.pt")
    found = compare(tmp_path / "model.pt", KERAS, rules=rules)
    assert found.ok
    assert found.counts["equal"] == 6
    assert not any("from_pretrained" in note for note in found.notes)
    name = f"{prefix}3.weight"  # behind the flatten
    save(tensors | {name: tensors[name].flip(1)}, tmp_path / "model.pt")
    assert wrong(compare(tmp_path / "model.pt", KERAS, rules=rules)) == {"3.weight": "different"}


class Evil:
    def __reduce__(self):
        return os.mkdir, ("pwned",)


@pytest.mark.parametrize("is_legacy", [False, True])
@pytest.mark.parametrize(
    ("contents", "said"),
    [
        ({"a": torch.ones(2), "b": Evil()}, "nothing of it was run: its pickle asks for"),
        (torch.nn.Linear(2, 2), "nothing of it was run: its pickle asks for 'torch.nn"),
        ({"epoch": 3}, "expected one state dict in it, found none"),
        ({"a": {"x": torch.ones(1)}, "b": {"x": torch.ones(1)}}, "found several: a, b"),
    ],
)
def test_a_torch_file_that_is_no_state_dict_is_refused(
    tmp_path, monkeypatch, contents, said, is_legacy
):
    monkeypatch.chdir(tmp_path)
    save(contents, tmp_path / "m.bin", is_legacy)
    with pytest.raises(tfreader.UnsupportedError, match=said):
        compare("m.bin", BERT)
    assert not os.path.exists("pwned")


@pytest.mark.parametrize("is_legacy", [False, True])
def test_a_few_bytes_do_not_become_any_number_of_values(tmp_path, is_legacy):
    save({"x": torch.ones(1).expand(1 << 30)}, tmp_path / "m.bin", is_legacy)
    with pytest.raises(tfreader.CorruptCheckpointError, match="more values than are stored"):
        compare(tmp_path / "m.bin", BERT)


@pytest.mark.parametrize("is_legacy", [False, True])
def test_whatever_is_lost_of_a_torch_file_the_error_is_one_of_ours(tmp_path, tensors, is_legacy):
    sound = save(tensors, tmp_path / "m.bin", is_legacy).read_bytes()
    for size in range(0, len(sound), 997):
        (tmp_path / "m.bin").write_bytes(sound[:size])
        with pytest.raises(tfreader.TFReaderError):
            compare(tmp_path / "m.bin", BERT)


def test_what_is_no_model_says_what_was_expected(tmp_path):
    with pytest.raises(tfreader.CheckpointNotFoundError, match=r"expected a folder with model\.s"):
        compare(tmp_path, BERT)
    for name in ("a.bin", "b.bin"):
        save({"x": torch.ones(1)}, tmp_path / name)
    with pytest.raises(tfreader.CheckpointNotFoundError, match=r"any of a\.bin, b\.bin"):
        compare(tmp_path, BERT)
    save_file({"x": torch.ones(1)}, tmp_path / "model.safetensors", {"format": "tf"})
    with pytest.raises(tfreader.CorruptCheckpointError, match="TensorFlow's tensors"):
        compare(tmp_path, BERT)


def test_what_else_lies_there_is_told(tmp_path, tensors):
    save(tensors, tmp_path / "pytorch_model.bin")
    save_file(tensors, tmp_path / "model.safetensors")
    note = "compared: model.safetensors; also there, not compared: pytorch_model.bin"
    assert note in compare(tmp_path, BERT).notes


def test_the_page_about_it_runs_from_top_to_bottom(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "verify.md").read_text()
    for language, text in re.findall(r"^```(\w+)\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        if language == "python":
            exec(compile(text, "verify.md", "exec"), {})
            continue
        for line in text.splitlines():
            result = CliRunner().invoke(main, shlex.split(line)[1:])
            assert result.exit_code == 0, result.output


def run(*arguments):
    return CliRunner().invoke(main, ["verify", *map(str, arguments)])


def test_the_command_prints_a_table_and_fails_where_something_differs(tmp_path, tensors):
    path = save(tensors | BUFFERS, tmp_path / "model.bin")
    result = run(path, "--against", BERT)
    assert result.exit_code == 0
    assert "bert.encoder.layer.{0...1}.attention.self.query.weight" in result.stdout
    assert (
        "54 tensors, 51.6 kB: 48 equal, 6 extra: the model is what the checkpoint gives"
        in result.stdout
    )
    change(tensors)
    save(tensors, path)
    result = run(path, "--against", BERT)
    assert result.exit_code == 1
    assert f"different !  {QUERY}" in result.stdout
    data = json.loads(run(path, "--against", BERT, "--json").stdout)
    assert (data["ok"], data["tensors"], data["counts"]["different"]) == (False, 48, 1)
    assert [row["tensor"] for row in data["table"] if not row["ok"]] == [QUERY]
    assert f"tensor '{QUERY}': different (the largest difference is 0.5" in data["problems"][0]


def test_options_say_how_the_tensors_are_made(tmp_path):
    rules = KERAS / "rules.toml"
    path = save(load_state_dict(KERAS, rules=rules), tmp_path / "model.bin")
    assert run(path, "--against", KERAS, "--rules", rules).exit_code == 0
    for option, value in (("--rules", rules), ("--set", "a=1")):
        result = run(path, option, value)
        assert result.exit_code == 2
        assert f"{option} goes with --against" in result.stderr
    result = run(path, "--against", KERAS)
    assert result.exit_code == 1
    assert "no known family" in result.stderr
