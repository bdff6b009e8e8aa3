from __future__ import annotations

import errno
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import weakref
from collections import Counter
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import boto3
import numpy as np
import pytest
import torch
from boto3.s3.transfer import TransferConfig
from bundle_writer import write_bundle
from click.testing import CliRunner
from conftest import BERT, DATA
from hypothesis import given
from hypothesis import strategies as st
from servers import DROP, closed_port, drop, first, hang, refuse, status

import tfreader
from tfreader import files
from tfreader.cli.main import main
from tfreader.files import read_small
from tfreader.mapping import compare, convert, load_rules, load_state_dict
from tfreader.mapping.families import open_source
from tfreader.mapping.places import RECORD
from tfreader.remote import RemoteFile, RemotePath, stores
from tfreader.remote import file as remote_file
from tfreader.remote.file import coalesce

MULTIPART = TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20)
RULES = """
[[rule]]
source = '(?P<name>.*)'
target = "{name}"
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(stores, "BACKOFF", 0.001)
    stores._store.cache_clear()  # of other tests' environment


@pytest.fixture(params=["http", "s3", "gs", "az"])
def upload(request, tmp_path):
    """Puts a folder where a URL leads, and gives that."""
    if request.param == "http":
        server = request.getfixturevalue("web")

        def put(folder):
            shutil.copytree(folder, server.folder / folder.name)
            return f"{server.url}/{folder.name}"

    elif request.param == "s3":
        request.getfixturevalue("buckets")
        key = tmp_path.name

        def put(folder):
            for file in folder.rglob("*"):
                if file.is_file():
                    name = f"{key}/{folder.name}/{file.relative_to(folder)}"
                    boto3.client("s3").upload_file(str(file), "models", name, Config=MULTIPART)
            return f"s3://models/{key}/{folder.name}"

    else:
        server = request.getfixturevalue("blobs")

        def put(folder):
            shutil.copytree(folder, server.folder / "place" / folder.name, dirs_exist_ok=True)
            return f"{request.param}://place/{folder.name}"

    return put


def with_slots(folder: Path, small: int = 40, large: int = 6) -> int:
    """A checkpoint with two slots beside each variable, large ones and small; what it uses."""
    random = np.random.default_rng(0)
    sizes = {f"a{i:03d}": 300 for i in range(small)} | {f"b{i}": 90_000 for i in range(large)}
    names = [(f"{name}{slot}", n) for name, n in sizes.items() for slot in ("", "/Adam", "/Adam_1")]
    write_bundle(folder / "m", {name: random.random(n).astype("f4") for name, n in names})
    (folder / "rules.toml").write_text(RULES)
    return 4 * sum(sizes.values())


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def assert_same(left: Path, right: Path) -> None:
    """All but the records are the same, which tell where the checkpoint came from."""
    assert sorted(os.listdir(left)) == sorted(os.listdir(right))
    for name in set(os.listdir(left)) - {RECORD}:
        assert (left / name).read_bytes() == (right / name).read_bytes()


def test_every_command_takes_a_url(upload, tmp_path):
    prefix = upload(BERT) + "/bert_model.ckpt"
    for path in (prefix, f"{prefix}.index", f"{prefix}.data-00000-of-00001"):
        with tfreader.open(path) as checkpoint:
            assert checkpoint.path == prefix
    with tfreader.open(prefix) as checkpoint, tfreader.open(BERT) as local:
        assert list(checkpoint) == list(local)
        for name in local:
            np.testing.assert_array_equal(checkpoint[name], local[name])
        assert checkpoint.index_sha256() == local.index_sha256()
        for ours, theirs in zip(checkpoint.files(), local.files(), strict=True):
            assert ours[:2] == theirs[:2]
            assert ours.etag or ours.modified
    lines = [run("inspect", path).stdout.splitlines() for path in (prefix, BERT)]
    assert lines[0][:-1] == lines[1][:-1]  # the last one names the checkpoint
    assert "all in order" in run("verify", prefix).stdout
    run("convert", "--tf_checkpoint", prefix, "--pytorch_dump_output", tmp_path / "theirs")
    convert(BERT, tmp_path / "ours")
    assert_same(tmp_path / "theirs", tmp_path / "ours")


@pytest.mark.parametrize("name", ["", "/", "/checkpoint", "/bert_model*"])
@pytest.mark.parametrize("upload", ["s3", "gs", "az"], indirect=True)
def test_folders_state_files_and_patterns(upload, name):
    url = upload(BERT)
    with tfreader.open(url + name) as checkpoint:
        assert checkpoint.path == f"{url}/bert_model.ckpt"


def test_a_folder_that_a_web_server_lists_or_not(web):
    shutil.copytree(BERT, web.folder / "bert")
    with tfreader.open(f"{web.url}/bert/") as checkpoint:
        assert len(checkpoint) == 139
    web.listings = False
    with pytest.raises(FileNotFoundError, match="pass the URL of the .index file"):
        tfreader.open(f"{web.url}/bert/")


@pytest.mark.parametrize("upload", ["s3", "gs", "az"], indirect=True)
def test_a_saved_model_and_a_state_file_of_another_machine(upload, tmp_path):
    write_bundle(tmp_path / "saved" / "variables" / "variables", {"a": np.ones(2)})
    write_bundle(tmp_path / "run" / "model.ckpt-7", {"a": np.ones(2)})
    write_bundle(tmp_path / "run" / "model.ckpt-8", {"a": np.ones(2)})
    (tmp_path / "run" / "checkpoint").write_text('model_checkpoint_path: "/home/me/model.ckpt-7"')
    saved, run = upload(tmp_path / "saved"), upload(tmp_path / "run")
    with tfreader.open(saved) as checkpoint:
        assert checkpoint.path == f"{saved}/variables/variables"
    with tfreader.open(run) as checkpoint:
        assert checkpoint.path == f"{run}/model.ckpt-7"
        assert "beside it" in checkpoint.notes[0]
    with pytest.raises(FileNotFoundError, match="model.ckpt-7, .*model.ckpt-8"):
        tfreader.open(f"{run}/model.ckpt-9")


@pytest.mark.parametrize(
    "source",
    [
        "v1/model.ckpt-00000-of-00002",
        "v1/dtypes",
        "gpt/params_0.npy",
        "xlm/causal/best-valid_en_clm_ppl.pth",
    ],
)
def test_other_formats(upload, source):
    with open_source(DATA / source) as local:
        expected = {name: local[name] for name in local}
        sha256 = local.index_sha256()
    with open_source(upload((DATA / source).parent) + "/" + Path(source).name) as checkpoint:
        checkpoint.prefetch(list(checkpoint))
        for name, values in expected.items():
            np.testing.assert_array_equal(checkpoint[name], values)
        assert checkpoint.verify().tensors == len(expected)
        assert checkpoint.index_sha256() == sha256
        checkpoint.check_unchanged()


@pytest.mark.parametrize(
    ("folder", "name", "options"),
    [
        ("gpt", "params_0.npy", {"overrides": {"n_head": 2}}),
        ("gpt2", "model-7.index", {}),
        ("t5/v11", "model.ckpt-3", {}),
        ("transfo_xl/wt103", "model.ckpt", {}),
        ("xlm/causal", "best-valid_en_clm_ppl.pth", {}),
    ],
)
def test_what_lies_beside_a_checkpoint_is_found(upload, tmp_path, folder, name, options):
    """Configs and vocabularies of every kind, with the same outputs as from local files."""
    convert(f"{upload(DATA / folder)}/{name}", tmp_path / "theirs", **options)
    convert(DATA / folder / name, tmp_path / "ours", **options)
    assert_same(tmp_path / "theirs", tmp_path / "ours")


def test_v1_by_rules(upload, tmp_path):
    (tmp_path / "rules.toml").write_text(RULES)
    given = {"rules": tmp_path / "rules.toml"}
    convert(f"{upload(DATA / 'v1')}/model.ckpt", tmp_path / "theirs", **given)
    convert(DATA / "v1" / "model.ckpt", tmp_path / "ours", **given)
    assert_same(tmp_path / "theirs", tmp_path / "ours")


def test_configs_and_rules_by_url(upload, tmp_path):
    with_slots(tmp_path / "m")
    url = upload(tmp_path / "m")
    convert(f"{url}/m", tmp_path / "theirs", rules=f"{url}/rules.toml")
    convert(tmp_path / "m", tmp_path / "ours", rules=tmp_path / "m" / "rules.toml")
    assert_same(tmp_path / "theirs", tmp_path / "ours")
    with pytest.raises(tfreader.RuleError, match="none.toml: cannot be read"):
        load_rules(f"{url}/none.toml")
    with pytest.raises(tfreader.ConfigError, match="none.json: cannot be read"):
        convert(BERT, tmp_path / "none", "bert", config=f"{url}/none.json")


@pytest.mark.parametrize(("small", "large"), [(0, 8), (600, 0), (300, 3)])
def test_optimizer_slots_never_cross_the_network(web, tmp_path, small, large):
    used = with_slots(web.folder, small, large)
    used += (web.folder / "m.index").stat().st_size
    convert(f"{web.url}/m", tmp_path / "out.safetensors", rules=web.folder / "rules.toml")
    assert used <= web.sent <= 1.05 * used
    convert(web.folder / "m", tmp_path / "local.safetensors", rules=web.folder / "rules.toml")
    outputs = [tmp_path / f"{name}.safetensors" for name in ("out", "local")]
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


def test_a_list_of_variables_is_the_index_alone(web):
    with_slots(web.folder)
    size = (web.folder / "m.index").stat().st_size
    assert "138 variables" in run("inspect", f"{web.url}/m").stdout
    assert size <= web.sent <= 1.05 * size
    assert not any("data" in request for request in web.requests)


def test_large_objects_in_parts(buckets, tmp_path):
    used = with_slots(tmp_path / "m", small=20, large=38)
    s3 = boto3.client("s3")
    for file in (tmp_path / "m").iterdir():
        s3.upload_file(str(file), "models", f"slots/{file.name}", Config=MULTIPART)
    data = s3.head_object(Bucket="models", Key="slots/m.data-00000-of-00001")
    assert data["ContentLength"] > 40e6
    assert data["ETag"].endswith('-8"')  # so many parts
    used += (tmp_path / "m" / "m.index").stat().st_size
    before = buckets.sent
    convert("s3://models/slots/m", tmp_path / "out", rules=tmp_path / "m" / "rules.toml")
    assert used <= buckets.sent - before <= 1.05 * used
    convert(tmp_path / "m", tmp_path / "local", rules=tmp_path / "m" / "rules.toml")
    assert_same(tmp_path / "out", tmp_path / "local")
    with tfreader.open("s3://models/slots/m") as checkpoint:
        assert checkpoint.verify().tensors == 3 * 58


@pytest.mark.parametrize("announced", [True, False])
def test_blocks_come_in_parallel(web, monkeypatch, announced):
    monkeypatch.setattr(remote_file, "BLOCK", 1000)
    data = np.random.default_rng(0).bytes(4 * remote_file.CONNECTIONS * 1000)
    (web.folder / "f").write_bytes(data)
    together = threading.Barrier(remote_file.CONNECTIONS, timeout=20)

    def gather(handler):
        if "Range" in handler.headers:
            together.wait()  # for the others, or this request is dropped
        return False

    web.fault = gather
    with closing(RemoteFile(f"{web.url}/f")) as file:
        if announced:
            file.expect([(0, file.size)])
        assert file.read(0, file.size) == data


def test_each_byte_comes_once_in_whatever_order_it_is_read(web, monkeypatch):
    monkeypatch.setattr(remote_file, "BLOCK", 1000)
    data = np.random.default_rng(0).bytes(30_000)
    (web.folder / "f").write_bytes(data)
    file = RemoteFile(f"{web.url}/f")
    expected = file.expect([(20_000, 5000), (0, 3000), (2000, 2000), (29_000, 9999)])
    file.expect([(1000, 2500)])
    for start in (29_000, 22_000, 0, 2500, 20_000):
        assert file.read(start, 1000) == data[start : start + 1000]
    for start, size in ((20_000, 5000), (0, 4000)):
        assert file.read(start, size) == data[start : start + size]
    file.close()
    assert web.sent == 5000 + 4000 + 1000
    file = RemoteFile(f"{web.url}/f")
    assert file.read(500, 25_000) == data[500:25_500]  # not expected: straight into the buffer
    assert web.sent == 10_000 + 25_000
    expected.forget()


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 10**4)), max_size=50))
def test_joined_ranges_hold_all_that_was_asked_for_and_little_more(ranges):
    ranges = [(start, start + size) for start, size in ranges]
    runs = coalesce(ranges)
    assert all(before[1] < after[0] for before, after in pairwise(runs))
    for start, end in ranges:
        assert any(first <= start and end <= last for first, last in runs)
    used = np.zeros(10**6 + 10**4, bool)
    for start, end in ranges:
        used[start:end] = True
    assert sum(end - start for start, end in runs) <= 1.01 * used.sum()


def test_verify_goes_through_windows(upload, tmp_path, monkeypatch):
    spools = []

    class Counted(remote_file._Spool):
        def __init__(self, url):
            super().__init__(url)
            assert sum(not spool()._file.closed for spool in spools if spool()) <= 2
            spools.append(weakref.ref(self))

    monkeypatch.setattr(remote_file, "_Spool", Counted)
    monkeypatch.setattr(files, "WINDOW", 100_000)
    with_slots(tmp_path / "m")
    url = upload(tmp_path / "m")
    with tfreader.open(f"{url}/m") as checkpoint:
        assert checkpoint.verify().tensors == 3 * 46
    assert len(spools) > 10


@pytest.mark.parametrize("fault", [status(503), status(500), status(429), status(408), drop])
def test_what_passes_is_tried_again(web, tmp_path, fault):
    shutil.copytree(BERT, web.folder / "bert")
    web.fault = first(3, fault)
    convert(f"{web.url}/bert/", tmp_path / "theirs")
    convert(BERT, tmp_path / "ours")
    assert_same(tmp_path / "theirs", tmp_path / "ours")


def test_a_body_that_breaks_off_goes_on_without_versions_too(web, tmp_path):
    shutil.copytree(BERT, web.folder / "bert")
    web.versions = False
    web.fault = first(3, drop)
    convert(f"{web.url}/bert/", tmp_path / "theirs")
    convert(BERT, tmp_path / "ours")
    assert_same(tmp_path / "theirs", tmp_path / "ours")


def test_a_server_that_hangs_for_a_while(web, monkeypatch):
    monkeypatch.setattr(stores, "IDLE_TIMEOUT", 0.2)
    shutil.copytree(BERT, web.folder / "bert")
    web.fault = first(2, hang)
    with tfreader.open(f"{web.url}/bert/bert_model.ckpt") as checkpoint:
        assert len(checkpoint) == 139


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (status(503), "failed 5 times .*503"),
        (drop, "failed .the connection was dropped"),
        (hang, "failed 5 times .no answer in time"),
    ],
)
def test_what_does_not_pass_is_given_up(web, monkeypatch, fault, reason):
    if fault is hang:
        monkeypatch.setattr(stores, "IDLE_TIMEOUT", 0.1)
    shutil.copytree(BERT, web.folder / "bert")
    web.fault = first(10**6, fault)
    url = f"{web.url}/bert/bert_model.ckpt.index"
    with pytest.raises(tfreader.RemoteError, match=f"{url}: {reason}"):
        tfreader.open(url)
    ranges = [request for request in web.requests if "ckpt.index bytes=" in request]
    assert len(ranges) == 5


def test_a_server_that_is_not_there(monkeypatch):
    monkeypatch.setattr(stores, "ATTEMPTS", 2)
    with pytest.raises(tfreader.RemoteError, match="failed 2 times .*check the address"):
        tfreader.open(f"{closed_port()}/m")


AGAIN = "check the address and the network, then try again"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (status(500), f"failed 5 times (500 .*); {AGAIN}"),
        (drop, f"failed (the connection was dropped); {AGAIN}"),
        (hang, f"failed 5 times (no answer in time); {AGAIN}"),
        (status(403), "access denied (.*); check the credentials"),
        (
            status(404),
            "no checkpoint there .*: pass the URL of the .index file, or of the weights|"
            ".* put the file beside .*",
        ),
    ],
)
@pytest.mark.parametrize("of", ["bert_model", "bert_model.ckpt.data"])
def test_a_failure_is_a_line_and_nothing_else(web, monkeypatch, tmp_path, fault, message, of):
    """Of the whole server, or of the values alone, once the plan is made."""
    if fault is hang:
        monkeypatch.setattr(stores, "IDLE_TIMEOUT", 0.2)
    shutil.copytree(BERT, web.folder / "bert")
    web.listings = False
    web.fault = lambda handler: of in handler.path and fault(handler)
    source = ("--tf_checkpoint", f"{web.url}/bert/bert_model.ckpt")
    result = run("convert", *source, "--pytorch_dump_output", tmp_path / "out", code=1)
    message = message.replace("(", r"\(").replace(")", r"\)")
    assert re.fullmatch(rf"tfreader: {web.url}/bert/{of}[^ ]*: ({message})\n", result.stderr)
    assert os.listdir(tmp_path) == ["served"]
    assert all(count <= stores.ATTEMPTS for count in Counter(web.requests).values())


# Where the tests run in the background, interrupts are ignored, and so by what they start.
HEEDING = """
import signal
from tfreader.cli.main import run
signal.signal(signal.SIGINT, signal.default_int_handler)
run()
"""


def test_an_interrupt_does_not_wait_for_a_server(web, tmp_path):
    """Of the values, which the threads that convert wait for."""
    shutil.copytree(BERT, web.folder / "bert")
    asked = threading.Event()
    web.fault = lambda handler: (
        ".data-" in handler.path
        and "Range" in handler.headers
        and not asked.set()
        and hang(handler)
    )
    command = [sys.executable, "-c", HEEDING, "convert", "--tf_checkpoint"]
    command += [f"{web.url}/bert/bert_model.ckpt", "--pytorch_dump_output", tmp_path / "out"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        assert asked.wait(60)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=8)  # less than any time-out
    assert process.returncode == 130
    assert os.listdir(tmp_path) == ["served"]


def test_patience_ends_before_the_attempts_do(web, monkeypatch):
    monkeypatch.setattr(stores, "PATIENCE", 0.0)
    (web.folder / "f").write_bytes(b"data")
    web.fault = first(10, status(503))
    with pytest.raises(tfreader.RemoteError, match="failed 1 times"):
        read_small(RemotePath(f"{web.url}/f"))


@pytest.mark.parametrize("fault", ["503 Slow Down", "500 Internal Server Error", DROP])
def test_a_bucket_is_asked_again_and_given_up(buckets, monkeypatch, fault):
    data = (BERT / "vocab.txt").read_bytes()
    boto3.client("s3").put_object(Bucket="models", Key="busy.txt", Body=data)
    buckets.fault = refuse(fault, "GET /models/busy.txt", count=3)
    assert read_small(RemotePath("s3://models/busy.txt")) == data
    monkeypatch.setattr(stores, "ATTEMPTS", 2)
    stores._store.cache_clear()
    buckets.requests.clear()
    buckets.fault = refuse(fault, "GET /models/busy.txt")
    with pytest.raises(
        tfreader.RemoteError, match=r"s3://models/busy.txt: failed (2 times )?\(.*try again"
    ):
        read_small(RemotePath("s3://models/busy.txt"))
    assert buckets.requests.count("GET /models/busy.txt") <= 4  # botocore asks twice


def test_a_bucket_that_nobody_serves(buckets, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", closed_port())
    monkeypatch.setattr(stores, "ATTEMPTS", 2)
    with pytest.raises(tfreader.RemoteError, match="failed 2 times .*check the address"):
        tfreader.open("s3://models/m")


def test_denied_is_not_absent(web, buckets):
    web.fault = status(403)
    with pytest.raises(tfreader.AccessDeniedError, match="access denied.*check the credentials"):
        tfreader.open(f"{web.url}/m.index")
    with pytest.raises(FileNotFoundError, match="s3://models/none.index does not exist"):
        tfreader.open("s3://models/none")
    with pytest.raises(FileNotFoundError, match="s3://nowhere does not exist"):
        tfreader.open("s3://nowhere/m")


def test_side_files_that_may_not_be_seen_are_not_there(web, tmp_path):
    """As in a bucket whose objects strangers may read, but not list."""
    shutil.copytree(BERT, web.folder / "bert")

    def deny(handler):
        path = web.folder / handler.path.strip("/")
        return not path.is_file() and status(403)(handler)

    web.fault = deny
    convert(f"{web.url}/bert/bert_model.ckpt", tmp_path / "theirs")
    convert(BERT, tmp_path / "ours")
    assert_same(tmp_path / "theirs", tmp_path / "ours")


def test_no_credentials_at_all(buckets, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    with pytest.raises(tfreader.RemoteError, match="credentials"):
        tfreader.open("s3://models/m")


def test_a_file_that_changes_in_the_middle(upload, tmp_path):
    with_slots(tmp_path / "m")
    url = upload(tmp_path / "m")
    with tfreader.open(f"{url}/m") as checkpoint:
        assert checkpoint["a000"].size
        for file in (tmp_path / "m").iterdir():
            file.write_bytes(file.read_bytes()[:-8] + b"changed!")
        again = tmp_path / "again" / "m"
        shutil.copytree(tmp_path / "m", again)
        if url.startswith("http"):
            shutil.rmtree(tmp_path / "served" / "m")
        upload(again)
        with pytest.raises(tfreader.RemoteError, match="changed while it was being read"):
            checkpoint["b5/Adam_1"]  # the checksum does not match
        with pytest.raises(tfreader.RemoteError, match="changed while it was being read"):
            checkpoint.check_unchanged()


def test_a_conversion_of_what_changes_leaves_nothing(web, tmp_path):
    with_slots(web.folder)
    data = web.folder / "m.data-00000-of-00001"
    heads = iter(range(100))

    def change(handler):
        if handler.path.endswith(data.name) and handler.command == "GET" and next(heads) == 3:
            os.utime(data, ns=(1, 1))  # the same bytes, but who knows
        return False

    web.fault = change
    with pytest.raises(tfreader.RemoteError, match='changed while .*it was "[0-9a-f]+"'):
        convert(f"{web.url}/m", tmp_path / "out", rules=web.folder / "rules.toml")
    assert not (tmp_path / "out").exists()


def test_files_that_shrink_or_go(web):
    (web.folder / "f").write_bytes(bytes(10_000))
    file = RemoteFile(f"{web.url}/f")
    (web.folder / "f").write_bytes(bytes(5000))
    for start in (4000, 8000):  # a short answer, and none
        with pytest.raises(tfreader.RemoteError, match="changed while it was being read"):
            file.read(start, 2000)
    (web.folder / "f").unlink()
    with pytest.raises(tfreader.RemoteError, match="removed while it was being read"):
        file.read(0, 2000)


def test_a_truncated_object(upload, tmp_path):
    with_slots(tmp_path / "m")
    data = tmp_path / "m" / "m.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-1000])
    with tfreader.open(f"{upload(tmp_path / 'm')}/m") as checkpoint:
        assert checkpoint["b5"].size == 90_000
        with pytest.raises(tfreader.CorruptCheckpointError, match="truncated"):
            checkpoint["b5/Adam_1"]


def test_a_server_without_ranges(web, tmp_path):
    with_slots(web.folder)
    web.ranges = False
    with pytest.raises(tfreader.UnsupportedError, match="does not serve byte ranges; download"):
        convert(f"{web.url}/m", tmp_path / "out", rules=web.folder / "rules.toml")


def test_a_full_disk(web, monkeypatch):
    with_slots(web.folder)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(tfreader.RemoteError, match="No space left on device.*set TMPDIR"):
        tfreader.open(f"{web.url}/m")


def test_uploads(buckets, blobs, tmp_path):
    (tmp_path / "f").write_bytes(b"contents")
    for place in ("gs://out/new/f.bin", "az://out/new/f.bin", "s3://models/out/new/f.bin"):
        path = RemotePath(place)
        path.put(tmp_path / "f")
        assert read_small(path) == b"contents"
        assert path.is_file() and path.parent.is_dir()
        path.unlink()
        path.unlink(missing_ok=True)
        assert not path.is_file()


def test_a_bucket_is_a_folder(buckets, blobs):
    boto3.client("s3").put_object(Bucket="models", Key="bucket/within", Body=b"contents")
    for url in ("s3://models", "s3://models/", "s3://models/bucket", "s3://models/bucket/"):
        assert RemotePath(url).is_dir() and not RemotePath(url).is_file()
        assert ("bucket", True) in RemotePath("s3://models").entries()
        assert RemotePath(f"{url.rstrip('/')}/**/with*n").matching() == [
            "s3://models/bucket/within"
        ]
    for url in ("gs://empty", "az://empty/folder"):
        assert not RemotePath(url).is_dir() and not RemotePath(url).is_file()


def test_paths():
    path = RemotePath("https://a/b/c.pth")
    assert (path.name, path.suffix, str(path.parent)) == ("c.pth", ".pth", "https://a/b")
    assert path.parent / "c.pth" == path
    assert {path, RemotePath("https://a/b/c.pth")} == {path}
    assert pickle.loads(pickle.dumps(path)) == path
    assert str(RemotePath("https://a/").parent) == "https://a"


def test_a_local_file_by_url():
    with tfreader.open(BERT.as_uri()) as checkpoint:
        assert checkpoint.path == str(BERT / "bert_model.ckpt")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("what://a/b", "what://a/b: what:// is not among s3://, gs://, az://, https://; download"),
        ("hf://a/b/m.index", "use https://huggingface.co/OWNER/NAME/resolve/main/FILE"),
        ("zip://a.index::https://b.zip", "zip:// is not among"),
        ("s3://a//b", "a name between two slashes is empty"),
        ("az://a/b", "Account must be specified"),
    ],
)
def test_urls_that_nothing_reads(url, message):
    with pytest.raises(tfreader.UnsupportedError, match=message):
        tfreader.open(url)


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    for arguments in (
        ("inspect", "s3://a/b"),
        ("convert", "--tf_checkpoint", BERT, "--pytorch_dump_output", "s3://a/b"),
        ("batch", "--glob", "s3://a/*", "--output-root", "out"),
    ):
        message = run(*arguments, code=1).stderr
        assert re.fullmatch(r"tfreader: .*s3://a/[b*] .*pip install .*\[remote\].*\n", message)


def test_threads_share_a_file(web):
    data = np.random.default_rng(0).bytes(200_000)
    (web.folder / "f").write_bytes(data)
    file = RemoteFile(f"{web.url}/f")
    file.expect([(0, 100_000)])
    wrong = []

    def read(seed: int) -> None:
        for start in np.random.default_rng(seed).integers(0, 190_000, 20):
            if file.read(int(start), 10_000) != data[start : start + 10_000]:
                wrong.append(start)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_model_there_is_compared_to_a_checkpoint_there(upload, tmp_path):
    tensors = load_state_dict(BERT)
    (tmp_path / "model").mkdir()
    torch.save(tensors, tmp_path / "model" / "pytorch_model.bin")
    keys = {**json.loads((BERT / "bert_config.json").read_text()), "num_attention_heads": 4}
    (tmp_path / "model" / "config.json").write_text(json.dumps(keys))
    model, source = upload(tmp_path / "model"), upload(BERT)
    found = compare(f"{model}/", f"{source}/bert_model.ckpt")
    assert found.counts["equal"] == len(tensors)
    (problem,) = found.problems
    assert "config.json: num_attention_heads = 4; the checkpoint's is 3" in problem
    assert compare(f"{model}/pytorch_model.bin", f"{source}/bert_model.ckpt").ok
