"""What lies at an output's place before a conversion, and what lies there after it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import suppress

import pytest
from bundle_writer import write_bundle
from click.testing import CliRunner
from conftest import BERT, DATA, KERAS
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import ones
from safetensors.numpy import load_file, save_file

import tfreader
from tfreader.cli.main import main
from tfreader.mapping import convert
from tfreader.mapping.places import OURS, RECORD
from tfreader.mapping.planning.planner import PlanOptions
from tfreader.mapping.records.audit import verify_against, verify_output
from tfreader.mapping.records.manifest import OPTIONS

SHARDS = {"max_shard_size": "20KB"}


def tree(folder):
    """All files of a folder, and what is in them."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def verify(output):
    result = CliRunner().invoke(main, ["verify", str(output)])
    assert result.exit_code == 1
    return result.stderr


def recorded(out, **files):
    """An output whose record names these files too, truly."""
    convert(BERT, out)
    record = json.loads((out / RECORD).read_text())
    for name, contents in files.items():
        (out / name).write_bytes(contents)
        record["files"][name] = {
            "size": len(contents),
            "sha256": hashlib.sha256(contents).hexdigest(),
        }
    (out / RECORD).write_text(json.dumps(record))


def test_a_record_takes_no_file_of_a_kind_that_is_never_written(tmp_path):
    recorded(tmp_path / "out", **{"thesis.txt": b"years of work", "vocab.json": b"{}"})
    convert(BERT, tmp_path / "out")
    assert (tmp_path / "out" / "thesis.txt").read_bytes() == b"years of work"
    assert not (tmp_path / "out" / "vocab.json").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda record: record["files"]["vocab.json"].update(sha256="0" * 64),
        lambda record: record["files"]["vocab.json"].pop("sha256"),
        lambda record: record["files"]["vocab.json"].update(size=3),
        lambda record: record["files"].pop("vocab.json"),
        lambda record: record.pop("tensors"),
    ],
)
def test_a_record_that_proves_nothing_takes_nothing(tmp_path, copy, change):
    source, out = copy(BERT), tmp_path / "out"
    recorded(out, **{"vocab.json": b"{}"})
    record = json.loads((out / RECORD).read_text())
    change(record)
    (out / RECORD).write_text(json.dumps(record))
    (source / "vocab.txt").unlink()  # so that no tokenizer is written, for which it would be taken
    convert(source, out)
    assert (out / "vocab.json").read_bytes() == b"{}"


def places(data, where):
    """Every place in nested data, as the keys that lead there."""
    yield where
    keys = data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()
    for key in keys:
        yield from places(data[key], (*where, key))


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    out = tmp_path_factory.mktemp("converted") / "out"
    options = {
        "accept_uncertain": False,
        "architecture": "BertForPreTraining",
        "dtype": "float16",
        "finetuning_task_name": "task",
        "ignore": ["global_step"],
        "ignore_weights": [],
        "moving_averages": "drop",
        "overrides": {"hidden_act": "gelu_new"},
        "scope": "",
    }
    # A target changes nothing of what is written.
    assert options.keys() == PlanOptions.__annotations__.keys() - {"target"} == OPTIONS.keys()
    convert(BERT, out, "bert", **options, **SHARDS)
    (out / "thesis.txt").write_text("years of work")
    return out


NAMES = st.sampled_from(["", "..", "thesis.txt", "model.safetensors"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_a_record_says_it_is_harmless(converted, tmp_path_factory, data):
    record = json.loads((converted / RECORD).read_text())
    key = data.draw(st.sampled_from(sorted(record)))
    *above, last = data.draw(st.sampled_from(list(places(record[key], (key,)))))
    inside = record
    for key in above:
        inside = inside[key]
    inside[last] = data.draw(JSON)
    folder = tmp_path_factory.mktemp("folder")
    shutil.copytree(converted, folder / "out")
    (folder / "out" / RECORD).write_text(json.dumps(record))
    for step in (
        lambda: verify_output(folder / "out"),
        lambda: verify_against(folder / "out", BERT),
        lambda: convert(BERT, folder / "out", resume=True),
        lambda: convert(BERT, folder / "out"),
    ):
        with suppress(tfreader.TFReaderError):
            step()
    assert (folder / "out" / "thesis.txt").read_text() == "years of work"
    shutil.rmtree(folder)


def test_left_over_weights_go_if_they_are_as_they_were_written(tmp_path):
    out = tmp_path / "out"
    convert(BERT, out, **SHARDS)
    convert(BERT, out)
    assert {name for name in os.listdir(out) if "safetensors" in name} == {"model.safetensors"}
    verify_output(out)


def test_weights_that_were_trained_on_are_not_left_over(tmp_path):
    """With the same names, shapes and header: what save_pretrained leaves."""
    out = tmp_path / "out"
    convert(BERT, out, **SHARDS)
    shard = out / "model-00002-of-00003.safetensors"
    save_file({k: v + 1 for k, v in load_file(shard).items()}, shard, {"format": "pt"})
    before = tree(out)
    with pytest.raises(tfreader.OutputError, match=f"has {shard.name}, not as a conversion wrote"):
        convert(BERT, out)
    assert tree(out) == before


STRANGERS = {
    "tokenizer.json": "vocab.txt|tokenizer_config.json",
    "tokenizer.4.0.0.json": "tokenizer_config.json",
    "added_tokens.json": "tokenizer_config.json",
    "special_tokens_map.json": "tokenizer_config.json",
    "spiece.model": "tokenizer_config.json",
    "generation_config.json": "config.json",
    "adapter_config.json": "model.safetensors",
    "model.safetensors.index.json": "model.safetensors",
    "model-00001-of-00009.safetensors": "model.safetensors",
}


@pytest.mark.parametrize("name", STRANGERS)
@pytest.mark.parametrize("before", [True, False], ids=["converted before", "not yet"])
def test_what_would_be_loaded_in_place_of_what_is_written(tmp_path, name, before):
    out = tmp_path / "out"
    out.mkdir()
    if before:
        convert(BERT, out)
    (out / name).write_text("{}")
    if before:
        assert f"{out / name}: not of this conversion, and would be loaded" in verify(out)
    there = tree(out)
    for options in ({}, {"resume": True}, {"dry_run": True}):
        with pytest.raises(tfreader.OutputError, match=f"{out}: has {name}, .*{STRANGERS[name]}"):
            convert(BERT, out, **options)
    assert tree(out) == there
    (out / name).unlink()  # as advised
    convert(BERT, out)
    verify_output(out)


def test_one_file_of_weights_would_be_loaded_in_place_of_shards(tmp_path):
    save_file({"x": ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(tfreader.OutputError, match=r"has model\.safetensors, "):
        convert(BERT, tmp_path, **SHARDS)
    convert(BERT, tmp_path)  # which has that name itself


def test_a_link_to_ones_own_output_is_not_it(tmp_path):
    convert(BERT, tmp_path / "first", **SHARDS)
    shutil.copytree(tmp_path / "first", tmp_path / "out")
    shard = tmp_path / "out" / "model-00001-of-00003.safetensors"
    shard.unlink()
    shard.symlink_to(tmp_path / "first" / shard.name)
    with pytest.raises(tfreader.OutputError, match=shard.name):
        convert(BERT, tmp_path / "out")


def test_a_tokenizer_stays_where_none_is_written(tmp_path, copy):
    source, out = copy(BERT), tmp_path / "out"
    (source / "vocab.txt").unlink()
    out.mkdir()
    for name in ("tokenizer.json", "vocab.txt", "notes.md", "pytorch_model.bin"):
        (out / name).write_text("{}")
    convert(source, out)
    verify_output(out)
    assert (out / "tokenizer.json").exists()


def test_what_is_read_is_not_overwritten(tmp_path):
    """A config in the output folder, under the name that the output's own has."""
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(BERT / "bert_config.json", out / "config.json")
    shutil.copy(BERT / "bert_config.json", out / "mine.json")
    before = tree(out)
    with pytest.raises(tfreader.OutputError, match=f"{out}/config.json: was read for this"):
        convert(BERT, out, config=out / "config.json")
    (tmp_path / "link").symlink_to(out)
    with pytest.raises(tfreader.OutputError, match="config.json: was read for this"):
        convert(BERT, tmp_path / "link", config=out / "config.json")
    assert tree(out) == before
    (tmp_path / "in").mkdir()
    for file in BERT.glob("*.ckpt*"):
        shutil.copy(file, tmp_path / "in")
    shutil.copy(BERT / "vocab.txt", out)
    with pytest.raises(tfreader.OutputError, match=f"{out}/vocab.txt: was read for this"):
        convert(tmp_path / "in", out, config=out / "mine.json")
    (out / "vocab.txt").unlink()
    convert(tmp_path / "in", out, config=out / "mine.json")
    assert (out / "mine.json").read_bytes() == before["mine.json"]


def test_a_config_is_not_overwritten_by_a_file(tmp_path):
    shutil.copy(BERT / "bert_config.json", tmp_path / "odd.bin")
    with pytest.raises(tfreader.OutputError, match="odd.bin: was read"):
        convert(BERT, tmp_path / "odd.bin", config=tmp_path / "odd.bin")


def test_a_saved_models_folder_is_no_output(tmp_path):
    write_bundle(tmp_path / "it" / "variables" / "variables", {"a": ones(2)})
    (tmp_path / "rules.toml").write_text('[[rule]]\nsource = "a"\ntarget = "a"\n')
    for output in (tmp_path / "it", tmp_path / "it" / "variables"):
        with pytest.raises(tfreader.OutputError, match="is the checkpoint itself, or its folder"):
            convert(tmp_path / "it", output, rules=tmp_path / "rules.toml")
    convert(tmp_path / "it", tmp_path / "it" / "out", rules=tmp_path / "rules.toml")


@pytest.mark.parametrize("name", ["config.json", "vocab.txt", "model.safetensors", RECORD])
@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_where_one_is_to_be_written(tmp_path, name, make):
    out = tmp_path / "out"
    out.mkdir()
    make(out / name)
    for options in ({}, {"dry_run": True}):
        with pytest.raises(tfreader.OutputError, match=f"{out / name}: is no regular file"):
            convert(BERT, out, **options)
    assert os.listdir(out) == [name]


@pytest.mark.parametrize("output", ["out", "out.safetensors"])
def test_whatever_fails_while_files_take_their_place_nothing_has_changed(
    tmp_path, monkeypatch, output
):
    home = tmp_path / "home"
    first = {"record": True, "dtype": "float16", **SHARDS}
    convert(BERT, home / output, **first)
    (home / "beside").write_text("mine")
    before = tree(home)
    replace, moves = os.replace, []

    def failing(source, target):
        moves.append(target)
        if len(moves) == fail_at:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    fail_at = 0
    convert(BERT, home / "another" / output, **first)
    convert(BERT, home / "another" / output, record=True)
    shutil.rmtree(home / "another")
    most = len(moves)
    assert most >= 4
    for fail_at in range(1, most):
        moves.clear()
        with suppress(tfreader.OutputError):
            convert(BERT, home / output, record=True)
            assert len(moves) < fail_at
            break
        assert tree(home) == before
    assert fail_at > 3
    verify_output(home / output)


@pytest.mark.parametrize("output", ["out", "out.bin"])
@pytest.mark.parametrize("before", [True, False])
def test_what_a_record_tells_of_is_on_disk_before_it(tmp_path, monkeypatch, output, before):
    if before:
        convert(BERT, tmp_path / output, record=True, **SHARDS)
    synced, fsync, replace = set(), os.fsync, os.replace

    def sync(descriptor):
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def move(source, target):
        if not any(part.startswith(".") for part in target.relative_to(tmp_path).parts):
            inside = source.iterdir() if source.is_dir() else [source]
            assert all(path.stat().st_ino in synced for path in (source, *inside))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", move)
    convert(BERT, tmp_path / output, record=True)
    home = tmp_path / output if output == "out" and before else tmp_path
    assert home.stat().st_ino in synced


def test_the_names_of_all_that_families_write_are_known(tmp_path):
    sources = (BERT, *(DATA / name for name in ("gpt2", "gpt", "t5/v11", "transfo_xl/lm1b")))
    for number, source in enumerate(sources):
        options = {"overrides": {"n_head": 1}} if source.name == "gpt" else {}
        report = convert(source, tmp_path / str(number), **options)
        names = {os.path.basename(file) for file in report.files} - {RECORD}
        assert all(map(OURS.fullmatch, names)), names


def test_options_that_no_json_can_hold(tmp_path):
    for output, options in (("out", {}), ("out.safetensors", {"record": True, "resume": True})):
        with pytest.raises(tfreader.ConfigError, match="no JSON can hold it"):
            convert(
                KERAS,
                tmp_path / output,
                rules=KERAS / "rules.toml",
                overrides={"x": object()},
                **options,
            )
    assert not os.listdir(tmp_path)
