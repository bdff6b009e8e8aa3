"""XLM: conversion of .pth files against the original's arithmetic, and hostile ones."""

from __future__ import annotations

import builtins
import json
import os
import pickle
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DATA
from safetensors.torch import load_file
from transformers import AutoConfig, AutoTokenizer, XLMModel, XLMWithLMHeadModel

from tfreader.errors import (
    ChecksumError,
    ConfigError,
    CorruptCheckpointError,
    MissingExtraError,
    OutputError,
    PlanError,
    TFReaderError,
    UnsupportedError,
)
from tfreader.mapping import convert, load_state_dict
from tfreader.mapping.families import open_source
from tfreader.mapping.families.xlm import FAMILY, _vocabulary
from tfreader.mapping.sources import pth

CAUSAL = DATA / "xlm" / "causal" / "best-valid_en_clm_ppl.pth"
ADAPTIVE = DATA / "xlm" / "adaptive" / "checkpoint.pth"


@pytest.fixture
def resave(tmp_path):
    """Saves CAUSAL again with something changed."""

    def save(change, **options):
        contents = pth.load(pth.TorchFile(CAUSAL))
        contents["params"] = {
            key: value for key, value in contents["params"].items() if key != "mask_scores"
        }
        contents = {key: value for key, value in contents.items() if key != "best_metrics"}
        contents = change(contents) or contents
        path = tmp_path / "changed.pth"
        torch.save(contents, path, **options)
        return path

    return save


def loaded(folder):
    model, info = XLMWithLMHeadModel.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    return model.eval()


@pytest.mark.parametrize("source", [CAUSAL, ADAPTIVE])
def test_the_model_computes_what_the_original_did(tmp_path, source):
    """The old converter left `causal` and `tie_word_embeddings` out, and kept 'module.'."""
    convert(source, tmp_path / "out")
    model = loaded(tmp_path / "out")
    io = {key: torch.from_numpy(value) for key, value in np.load(source.parent / "io.npz").items()}
    inputs = {key: io[key] for key in ("input_ids", "lengths", "langs") if key in io}
    with torch.no_grad():
        hidden = model.transformer(**inputs)[0]
        head = model.pred_layer.proj
        flat = hidden.reshape(-1, hidden.shape[-1])
        scores = (head.log_prob(flat) if source is ADAPTIVE else head(flat)).reshape(2, 7, -1)
    torch.testing.assert_close(hidden, io["hidden"], atol=1e-5, rtol=0)
    torch.testing.assert_close(scores, io["scores"], atol=1e-5, rtol=0)


def test_the_config_describes_the_model_and_not_its_training(tmp_path):
    report = convert(CAUSAL, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config == {
        "architectures": ["XLMWithLMHeadModel"],
        "asm": False,
        "attention_dropout": 0.2,
        "bos_token_id": 0,
        "causal": True,
        "dropout": 0.1,
        "dtype": "float32",
        "emb_dim": 8,
        "eos_token_id": 1,
        "gelu_activation": True,
        "id2lang": {"0": "en", "1": "fr"},
        "is_encoder": True,
        "lang2id": {"en": 0, "fr": 1},
        "layer_norm_eps": 1e-12,
        "mask_index": 5,
        "mask_token_id": 5,
        "max_position_embeddings": 24,
        "model_type": "xlm",
        "n_heads": 2,
        "n_langs": 2,
        "n_layers": 2,
        "pad_token_id": 2,
        "sinusoidal_embeddings": False,
        "tie_word_embeddings": True,
        "unk_index": 3,
        "use_lang_emb": True,
        "vocab_size": 28,
    }
    assert any(note.startswith("causal = true") for note in report.notes)
    assert (AutoConfig.from_pretrained(tmp_path / "out").pad_index) == 2


def test_an_old_file_of_a_gpu_with_training_state_is_read(tmp_path):
    assert b"cuda:0" in ADAPTIVE.read_bytes() and not zipfile.is_zipfile(ADAPTIVE)
    report = convert(ADAPTIVE, tmp_path / "out")
    assert any("model_optimizer" in note for note in report.notes)
    assert any("module." in note for note in report.notes)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["asm_cutoffs"], config["asm_div_value"]) == ([12, 20], 2.0)
    assert config["tie_word_embeddings"] is False and config["causal"] is False
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    model = pth.load(pth.TorchFile(ADAPTIVE))["model"]
    assert len(tensors) == len(model)
    for name, tensor in model.items():
        plain = name.removeprefix("module.")
        target = plain if plain.startswith("pred_layer") else f"transformer.{plain}"
        assert torch.equal(tensors[target], tensor)


def test_a_shared_head_is_written_once_and_a_head_of_its_own_is_kept(tmp_path, resave):
    state = load_state_dict(CAUSAL)
    assert state["pred_layer.proj.weight"] is state["transformer.embeddings.weight"]

    def untie(contents):
        contents["model"]["pred_layer.proj.weight"] = torch.ones(28, 8)
        contents["params"]["share_inout_emb"] = False

    report = convert(resave(untie), tmp_path / "out")
    assert any(note.startswith("tie_word_embeddings = false") for note in report.notes)
    model = loaded(tmp_path / "out")
    assert torch.equal(model.pred_layer.proj.weight, torch.ones(28, 8))
    assert not torch.equal(model.transformer.embeddings.weight, torch.ones(28, 8))

    def contradict(contents):
        contents["model"]["pred_layer.proj.weight"] = torch.ones(28, 8)

    with pytest.raises(PlanError, match="tie_word_embeddings = True"):
        convert(resave(contradict), tmp_path / "no")


def test_the_bare_model_half_precision_and_scattered_tensors(tmp_path, resave):
    def change(contents):
        contents["model"] = {name: value.half() for name, value in contents["model"].items()}
        query = contents["model"]["attentions.0.q_lin.weight"]
        contents["model"]["attentions.0.q_lin.weight"] = query.t().contiguous().t()

    path = resave(change)
    convert(path, tmp_path / "out", architecture="XLMModel")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    query = pth.load(pth.TorchFile(CAUSAL))["model"]["attentions.0.q_lin.weight"].half()
    assert torch.equal(tensors["attentions.0.q_lin.weight"], query)
    XLMModel.from_pretrained(tmp_path / "out")
    with open_source(path) as checkpoint:
        info = checkpoint.info("embeddings.weight")
        assert (info.dtype, info.shape, info.nbytes) == ("float16", (28, 8), 448)
        rows = checkpoint.read("embeddings.weight", slice(2, 5))
        assert np.array_equal(rows, checkpoint["embeddings.weight"][2:5])
        assert checkpoint.verify().tensors == len(checkpoint)


def test_the_vocabulary_is_spelt_by_the_originals_rules(tmp_path):
    convert(CAUSAL, tmp_path / "out")
    words = json.loads((tmp_path / "out" / "vocab.json").read_text())
    assert list(words.items())[:2] == [("<s>", 0), ("</s>", 1)] and words["<special9>"] == 13
    assert words["the</w>"] == 14 and words["ca"] == 15 and words["cat"] == 17
    assert words["ma"] == 22 and words["x"] == 26  # of x@@@@ and x@@ the later one
    assert _vocabulary({"a@@": 20, "a": 14, "@@a@@": 15}) == {"a</w>": 14, "a": 20}
    assert (tmp_path / "out" / "merges.txt").read_bytes() == (
        (CAUSAL.parent / "codes_enfr").read_bytes()
    )


def test_the_tokenizer_loads(tmp_path):
    pytest.importorskip("sacremoses")
    convert(CAUSAL, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.do_lower_case is False and tokenizer.lang2id == {"en": 0, "fr": 1}
    assert tokenizer("the cat", lang="en").input_ids == [0, 14, 18, 1]
    assert tokenizer.mask_token_id == 5


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda c: c["params"].update(n_layers=3), PlanError, "n_layers = 3"),
        (lambda c: c["params"].update(n_words=9), PlanError, "vocab_size = 9"),
        (lambda c: c["params"].update(use_lang_emb=False), PlanError, "use_lang_emb = False"),
        (lambda c: c["params"].update(n_langs=3), PlanError, "n_langs = 3"),
        (lambda c: c["params"].update(asm=True), PlanError, "asm = True"),
        (lambda c: c["params"].update(n_heads=3), ConfigError, "n_heads = 3"),
        (lambda c: c["params"].update(n_heads=float("inf")), ConfigError, "n_heads = Infinity"),
        (lambda c: c["params"].update(dropout=float("nan")), ConfigError, "dropout = NaN"),
        (lambda c: c["params"].update(emb_dim=1e308), ConfigError, "emb_dim = 1e"),
        (lambda c: c["params"].update(use_memory=True), ConfigError, "use_memory"),
        (lambda c: c.pop("params") and None, ConfigError, "n_heads"),
        (lambda c: c["model"].pop("layer_norm_emb.bias") is None, PlanError, "layer_norm_emb"),
        (lambda c: {"encoder": {}, "decoder": {}}, UnsupportedError, "translation model"),
        (lambda c: [1], UnsupportedError, "no XLM language model"),
        (lambda c: c["model"].update(x=3), UnsupportedError, "'x' is a int"),
        (lambda c: c["model"].update(x=torch.zeros(1, device="meta")), UnsupportedError, "meta"),
        (lambda c: c["model"].update(x=torch.zeros(1).expand(9, 9)), CorruptCheckpointError, "324"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(tmp_path, resave, change, error, message):
    path = resave(change)
    with pytest.raises(error, match=message):
        convert(path, tmp_path / "out", "xlm")
    assert not (tmp_path / "out").exists()


def test_an_adaptive_head_must_fit_its_config(tmp_path):
    with pytest.raises(PlanError, match="expected a dimension of"):
        convert(ADAPTIVE, tmp_path / "out", overrides={"asm_div_value": 4.0})
    with pytest.raises(PlanError, match="asm_cutoffs"):
        convert(ADAPTIVE, tmp_path / "out", overrides={"asm_cutoffs": [12, 21]})
    assert FAMILY.translate({"asm": True, "asm_cutoffs": "8,20"})["asm_cutoffs"] == [8, 20]


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


CALLS = {
    "system": Call(os.system, "touch pwned"),
    "open": Call(builtins.open, "pwned", "w"),
    "eval": Call(eval, "open('pwned', 'w')"),
    "numpy": Call(np.save, "pwned", np.zeros(1)),
    "torch": Call(torch.save, 1, "pwned"),
    "getattr": Call(getattr, np.zeros(1), "tofile"),
}


@pytest.mark.parametrize("container", ["zip", "old", "plain"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_hostile_pickle_is_refused_and_nothing_of_it_runs(tmp_path, monkeypatch, container, call):
    """The old converter unpickled whatever the file held."""
    path = tmp_path / "evil.pth"
    contents = {"model": {}, "params": {"n_heads": call}}
    if container == "plain":
        path.write_bytes(pickle.dumps(contents, 2))
    else:
        torch.save(contents, path, _use_new_zipfile_serialization=container == "zip")
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(TFReaderError, match="refused, and nothing of it was run") as error:
        convert(path, folder / "out")
    assert "weights_only" not in str(error.value)
    assert not list(folder.iterdir())


def test_numpys_own_functions_do_not_run_either():
    """What numpy would rebuild from a pickle is nothing that a conversion looks at."""
    assert type(pth.load(pth.TorchFile(CAUSAL))["params"]["mask_scores"]).__mro__[1] is pth.Inert
    assert not any(issubclass(kind, np.ndarray) for kind in pth._STAND_INS.values())


def test_damaged_files_are_refused(tmp_path):
    data = bytearray(CAUSAL.read_bytes())
    path = tmp_path / "damaged.pth"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(CorruptCheckpointError, match="damaged, or no file"):
        convert(path, tmp_path / "out")
    with zipfile.ZipFile(CAUSAL) as archive:
        storages = [entry for entry in archive.infolist() if "/data/" in entry.filename]
        largest = max(storages, key=lambda entry: entry.file_size)
    data[largest.header_offset + 400] ^= 1
    path.write_bytes(data)
    with pytest.raises(ChecksumError, match="checksum"):
        convert(path, tmp_path / "out")
    path.write_bytes(b"")
    with pytest.raises(CorruptCheckpointError, match="damaged, or no file"):
        convert(path, tmp_path / "out")


def test_without_torch_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"pip install .*\[torch\]"):
        convert(CAUSAL, tmp_path / "out")


def test_an_unsafe_torch_is_not_trusted(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.5.1"))
    with pytest.raises(UnsupportedError, match="CVE-2025-32434"):
        convert(CAUSAL, tmp_path / "out")


def test_a_file_of_torch_is_known_without_its_suffix(tmp_path):
    for source in (CAUSAL, ADAPTIVE):
        assert pth.is_pth(Path(shutil.copy(source, tmp_path / source.stem)))
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("metadata.json", "{}")
    assert not pth.is_pth(tmp_path / "model.keras")


def test_compressed_records_are_refused(tmp_path):
    """Mapped as they lie, they would be read as weights."""
    path = tmp_path / "deflated.pth"
    with (
        zipfile.ZipFile(CAUSAL) as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for record in source.namelist():
            target.writestr(record, source.read(record))
    with pytest.raises(UnsupportedError, match="is compressed"):
        convert(path, tmp_path / "out")


@pytest.mark.filterwarnings("ignore:torch.quantize")
def test_quantised_weights_are_refused(tmp_path, resave):
    def quantise(contents):
        name = "ffns.0.lin1.weight"
        weight = contents["model"][name]
        contents["model"][name] = torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8)

    with pytest.raises(UnsupportedError, match="expected a dense tensor"):
        convert(resave(quantise), tmp_path / "out")


def test_params_that_json_cannot_hold_are_no_config():
    nested = [1]
    nested.append(nested)
    assert "dropout" not in FAMILY.translate({"dropout": nested, "n_heads": 2})


def test_a_folder_may_be_named(tmp_path):
    convert(CAUSAL.parent, tmp_path / "out")
    shutil.copytree(CAUSAL.parent, tmp_path / "two")
    shutil.copy(CAUSAL, tmp_path / "two" / "other.pth")
    with pytest.raises(FileNotFoundError, match="which checkpoint"):
        open_source(tmp_path / "two")


def test_the_checkpoint_is_not_overwritten(tmp_path):
    path = shutil.copy(CAUSAL, tmp_path / "model.pth")
    with pytest.raises(OutputError, match="is the checkpoint itself"):
        convert(path, path)


@pytest.mark.parametrize("source", [CAUSAL, ADAPTIVE])
def test_a_state_dict_has_the_models_own_names(source, tmp_path):
    convert(source, tmp_path)
    model = XLMWithLMHeadModel(AutoConfig.from_pretrained(tmp_path))
    assert set(load_state_dict(source)) == set(model.state_dict())
