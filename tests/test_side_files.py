"""Files beside a checkpoint and files that a user names: what is read of them, and what is not."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
from bundle_writer import write_bundle
from click.testing import CliRunner
from conftest import BERT, DATA
from numpy import ones

import tfreader
from tfreader.cli.jobs import from_glob
from tfreader.cli.main import main
from tfreader.errors import ConfigError
from tfreader.files import SMALL, read_small
from tfreader.mapping import convert
from tfreader.mapping.family import Beside

NOT_REGULAR = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "terminal": lambda path: path.symlink_to("/dev/tty"),
    "circle": lambda path: path.symlink_to(path.name),
}


@pytest.fixture(params=NOT_REGULAR.values(), ids=NOT_REGULAR.keys())
def make(request):
    return request.param


def run(*arguments):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert "This is a bug" not in result.stderr, result.stderr
    return result


def bert(folder: Path, *without: str) -> Path:
    """A checkpoint without some of what lies beside it."""
    folder.mkdir()
    for file in BERT.iterdir():
        if file.name not in without:
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_a_small_file_is_read_and_a_large_one_is_not(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert read_small(path) == b"abc"
    assert read_small(path, 3) == b"abc"
    with pytest.raises(OSError, match="more than 2 bytes"):
        read_small(path, 2)
    os.truncate(path, 1 << 40)  # takes no room
    with pytest.raises(OSError, match=f"more than {SMALL} bytes"):
        read_small(path)


@pytest.mark.parametrize("flag", ["--config", "--rules"])
def test_what_is_no_regular_file_is_not_opened(tmp_path, make, flag):
    make(tmp_path / "it")
    result = run(
        "convert", "--tf_checkpoint", BERT, "--pytorch_dump_output", tmp_path / "out",
        flag, tmp_path / "it",
    )  # fmt: skip
    assert result.exit_code == 1
    assert f"tfreader: {tmp_path / 'it'}: cannot be read" in result.stderr
    assert not (tmp_path / "out").exists()


def test_jobs_from_what_is_no_regular_file(tmp_path, make):
    make(tmp_path / "jobs.jsonl")
    result = run("batch", tmp_path / "jobs.jsonl")
    assert result.exit_code == 2
    assert f"{tmp_path / 'jobs.jsonl'}: cannot be read" in result.stderr


@pytest.mark.parametrize("name", ["bert_config.json", "vocab.txt"])
def test_a_config_or_vocabulary_that_is_no_regular_file(tmp_path, make, name):
    source = bert(tmp_path / "in", name)
    make(source / name)
    with pytest.raises(ConfigError, match=f"{source / name}: (not a regular file|a link to /dev)"):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["bert_config.json", "vocab.txt"])
def test_an_endless_config_or_vocabulary(tmp_path, name):
    source = bert(tmp_path / "in")
    os.truncate(source / name, 1 << 40)
    with pytest.raises(ConfigError, match=f"{source / name}: cannot be read .more than"):
        convert(source, tmp_path / "out")


def test_an_endless_list_of_shapes(tmp_path, copy):
    source = copy(DATA / "gpt")
    os.truncate(source / "params_shapes.json", 1 << 40)
    with pytest.raises(tfreader.CorruptCheckpointError, match=r"params_shapes.json: \d+ bytes"):
        convert(source, tmp_path / "out")


def test_a_record_that_is_no_regular_file(tmp_path, make):
    convert(BERT, tmp_path / "out")
    (tmp_path / "out" / "conversion.json").unlink()
    make(tmp_path / "out" / "conversion.json")
    assert run("verify", tmp_path / "out").exit_code == 1
    with suppress(tfreader.OutputError):  # but a link in a circle may be replaced
        assert not convert(BERT, tmp_path / "out", resume=True).skipped


def test_a_state_file_that_is_no_regular_file_or_nested_without_end(tmp_path, make):
    write_bundle(tmp_path / "m", {"a": ones(2)})
    make(tmp_path / "checkpoint")
    assert tfreader.open(tmp_path).path == str(tmp_path / "m")
    (tmp_path / "checkpoint").unlink()
    (tmp_path / "checkpoint").write_text("a{" * 100_000)
    assert tfreader.open(tmp_path).path == str(tmp_path / "m")


SECRET = "machine example.com password hunter2\n"


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "home" / ".netrc"
    path.parent.mkdir()
    path.write_text(SECRET)
    return path


@pytest.mark.parametrize("name", ["bert_config.json", "vocab.txt"])
@pytest.mark.parametrize("how", ["absolute", "relative", "over a folder", "over a link"])
def test_a_link_that_leads_out_of_the_checkpoints_folder(tmp_path, secret, name, how):
    source = bert(tmp_path / "in", name)
    if how == "over a folder":
        (source / "assets").symlink_to(secret.parent)
        (source / name).symlink_to(f"assets/{secret.name}")
    elif how == "over a link":
        (source / "hop").symlink_to(secret)
        (source / name).symlink_to("hop")
    else:
        (source / name).symlink_to("../home/.netrc" if how == "relative" else secret)
    with pytest.raises(ConfigError, match=f"{source / name}: a link to {secret}.*not read"):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_link_out_of_the_configs_own_folder_and_of_a_saved_models(tmp_path, secret):
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "mine.json").write_bytes((BERT / "bert_config.json").read_bytes())
    (tmp_path / "config" / "vocab.txt").symlink_to(secret)
    source = bert(tmp_path / "in", "bert_config.json", "vocab.txt")
    with pytest.raises(ConfigError, match=f"{tmp_path}/config/vocab.txt: a link to {secret}"):
        convert(source, tmp_path / "out", config=tmp_path / "config" / "mine.json")
    (tmp_path / "saved" / "variables").mkdir(parents=True)
    (tmp_path / "saved" / "assets").symlink_to(secret.parent)
    beside = Beside.of(str(tmp_path / "saved" / "variables" / "variables"))
    with pytest.raises(ConfigError, match=f"assets/.netrc: a link to {secret}"):
        beside.find(".netrc")


def test_links_within_the_folder_and_folders_that_are_links(tmp_path):
    source = bert(tmp_path / "in", "vocab.txt")
    (source / "files").mkdir()
    (source / "files" / "words").write_bytes((BERT / "vocab.txt").read_bytes())
    (source / "vocab.txt").symlink_to("files/words")
    (tmp_path / "latest").symlink_to(source)
    convert(tmp_path / "latest", tmp_path / "out")
    assert (tmp_path / "out" / "vocab.txt").read_bytes() == (BERT / "vocab.txt").read_bytes()


def test_a_folder_of_hugging_faces_cache(tmp_path):
    """Where each file is a link to one in blobs: snapshot_download of huggingface_hub."""
    home = tmp_path / "models--me--it"
    blobs, snapshot = home / "blobs", home / "snapshots" / "ab"
    blobs.mkdir(parents=True)
    (snapshot / "tiny").mkdir(parents=True)
    for number, file in enumerate(BERT.iterdir()):
        (blobs / f"{number:040x}").write_bytes(file.read_bytes())
        (snapshot / "tiny" / file.name).symlink_to(f"../../../blobs/{number:040x}")
    convert(snapshot / "tiny", tmp_path / "out")
    assert (tmp_path / "out" / "vocab.txt").read_bytes() == (BERT / "vocab.txt").read_bytes()


@pytest.mark.parametrize("named", ["{home}/private-1", "../home/private-1", "sub/private-1"])
def test_a_state_file_that_names_a_checkpoint_elsewhere(tmp_path, named):
    (tmp_path / "in").mkdir()
    write_bundle(tmp_path / "home" / "private-1", {"a": ones(2)})
    (tmp_path / "in" / "sub").symlink_to(tmp_path / "home")
    named = named.format(home=tmp_path / "home")
    (tmp_path / "in" / "checkpoint").write_text(f'model_checkpoint_path: "{named}"\n')
    with pytest.raises(tfreader.CheckpointNotFoundError, match="outside of its folder") as caught:
        tfreader.open(tmp_path / "in")
    advised = str(caught.value).partition("; pass ")[2].partition(" if that")[0]
    assert list(tfreader.open(advised)) == ["a"]
    (tmp_path / "in" / "sub").unlink()
    write_bundle(tmp_path / "in" / "sub" / "private-1", {"b": ones(2)})
    write_bundle(tmp_path / "in" / "private-1", {"c": ones(2)})
    assert list(tfreader.open(tmp_path / "in")) == (["b"] if named[0] == "s" else ["c"])


def test_links_to_their_own_folder(tmp_path, monkeypatch):
    runs = tmp_path / "runs"
    for folder in (runs / "one", runs / "two" / "deep", runs / ".hidden", tmp_path / "other"):
        write_bundle(folder / "m", {"a": ones(2)})
    for folder in (runs, runs / "one", runs / "two" / "deep"):
        for name in ("a", "b", "z"):
            (folder / name).symlink_to(folder)
    (runs / "circle").symlink_to("circle")
    (runs / "up").symlink_to("..")
    jobs = from_glob([f"{runs}/**/*.index"], "out", {})
    assert [job.tf_checkpoint for job in jobs] == [f"{runs}/one/m", f"{runs}/two/deep/m"]
    monkeypatch.chdir(runs)
    for pattern in ("**/*.index", "./**/m.index", "**/**/*.index", f"{tmp_path}/runs/**/m.ind*"):
        assert len(from_glob([pattern], "out", {})) == 2


def test_what_a_pattern_does_not_follow_is_told(tmp_path):
    write_bundle(tmp_path / "disk" / "m", {"a": ones(2)})
    write_bundle(tmp_path / "runs" / "m", {"a": ones(2)})
    (tmp_path / "runs" / "more").symlink_to(tmp_path / "disk")
    result = run(
        "batch", "--glob", f"{tmp_path}/runs/**/*.index", "--output-root", tmp_path / "out",
        "--dry-run", "--json",
    )  # fmt: skip
    assert f"note: passed over: {tmp_path}/runs/more: a link to a folder" in result.stderr
    assert len(json.loads(result.stdout)["outcomes"]) == 1
    jobs = from_glob([f"{tmp_path}/runs/more/**/*.index"], "out", {})
    assert [job.tf_checkpoint for job in jobs] == [f"{tmp_path}/runs/more/m"]


def test_other_names_of_a_config_and_a_vocabulary_lead_out_of_the_folder_no_more(tmp_path, secret):
    source = bert(tmp_path / "in", "bert_config.json", "vocab.txt")
    (tmp_path / "home" / "theirs.json").write_bytes((BERT / "bert_config.json").read_bytes())
    (source / "bert_config_x.json").symlink_to(tmp_path / "home" / "theirs.json")
    config = {"config": BERT / "bert_config.json"}
    with pytest.raises(ConfigError, match="--config bert_config.json"):
        convert(source, tmp_path / "out")
    (source / "vocab_x.txt").symlink_to(secret)
    with pytest.raises(ConfigError, match=f"{source}/vocab_x.txt: a link to {secret}"):
        convert(source, tmp_path / "out", **config, vocab=source)
    assert not (tmp_path / "out").exists()


def test_a_vocabulary_that_is_named_is_bounded_too(tmp_path, make):
    os.truncate((tmp_path / "words.txt").open("w").name, 1 << 40)
    make(tmp_path / "it.txt")
    for name in ("words.txt", "it.txt"):
        with pytest.raises(ConfigError, match=str(tmp_path / name)):
            convert(BERT, tmp_path / "out", vocab=tmp_path / name)
