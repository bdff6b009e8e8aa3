"""Outputs behind URLs: the same as local ones, and whole or not at all; batches of them."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import tempfile
import threading

import boto3
import numpy as np
import pytest
from bundle_writer import write_bundle
from click.testing import CliRunner
from conftest import BERT, DATA, TFREADER
from servers import refuse, status

import tfreader
from tfreader.cli.main import main
from tfreader.files import read_small
from tfreader.mapping import convert
from tfreader.mapping.places import RECORD, find_record
from tfreader.remote import RemotePath, stores
from tfreader.remote import path as remote_path

FAILS = "500 Internal Server Error"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(stores, "BACKOFF", 0.001)
    stores._store.cache_clear()  # of other tests' environment


@pytest.fixture(autouse=True)
def scratch(monkeypatch, tmp_path):
    """Where outputs wait for their upload: empty again at the end, whatever happens."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield
    assert not os.listdir(folder)


@pytest.fixture(params=["s3", "gs", "az"])
def place(request, tmp_path):
    """The URL of a folder that is not there yet."""
    request.getfixturevalue("buckets" if request.param == "s3" else "blobs")
    return f"{request.param}://models/{tmp_path.name}"


@pytest.fixture
def bucket(buckets, tmp_path):
    return f"s3://models/{tmp_path.name}"


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


def local(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def there(url):
    """What a server has below a URL, or there."""
    paths = [RemotePath(url), *map(RemotePath, RemotePath(f"{url}/**").matching())]
    files = [path for path in paths if path.is_file()]
    return {str(path).removeprefix(url).strip("/"): read_small(path) for path in files}


def put(folder, url):
    for file in folder.iterdir():
        (RemotePath(url) / file.name).put(file)


def test_a_folder(place, tmp_path):
    for output in (tmp_path / "out", f"{place}/out"):
        run("convert", "--tf_checkpoint", BERT, "--pytorch_dump_output", output)
    assert there(f"{place}/out") == local(tmp_path / "out")
    assert "as recorded" in run("verify", f"{place}/out").stdout
    said = run("verify", f"{place}/out", "--against", BERT).stdout
    assert "46 equal: the model is what the checkpoint gives" in said
    path = RemotePath(f"{place}/out/config.json")
    path.unlink()
    assert f"{path}: missing" in run("verify", f"{place}/out", code=1).stderr


@pytest.mark.parametrize("name", ["model.safetensors", "model.bin"])
def test_a_file(place, tmp_path, name):
    (tmp_path / "out").mkdir()
    convert(BERT, tmp_path / "out" / name, record=True)
    convert(BERT, f"{place}/out/{name}", record=True)
    assert there(f"{place}/out") == local(tmp_path / "out")
    assert "as recorded" in run("verify", f"{place}/out/{name}").stdout
    convert(BERT, f"{place}/alone/{name}")
    assert list(there(f"{place}/alone")) == [name]


def test_from_url_to_url(place, tmp_path):
    url = f"{place}/in/{BERT.name}"
    put(BERT, url)
    convert(url, f"{place}/out")
    convert(BERT, tmp_path / "out")
    theirs, ours = there(f"{place}/out"), local(tmp_path / "out")
    record = json.loads(theirs.pop(RECORD))
    assert ours.pop(RECORD)
    assert theirs == ours
    assert record["source"]["checkpoint"] == f"{url}/bert_model.ckpt"
    run("verify", f"{place}/out", "--against", url)


def test_the_record_comes_last_and_goes_first(buckets, bucket):
    home = bucket.removeprefix("s3:/")
    for changed in ({}, {"dtype": "float16"}):
        buckets.requests.clear()
        convert(BERT, f"{bucket}/out", **changed)
        writes = [
            request for request in buckets.requests if not request.startswith(("GET", "HEAD"))
        ]
        assert writes[0] == f"DELETE {home}/out/{RECORD}"
        assert writes[-2:] == [f"PUT {home}/out/config.json", f"PUT {home}/out/{RECORD}"]


def test_another_conversion_takes_the_place_of_the_first_as_a_whole(place, tmp_path):
    for size in ("20KB", "50GB", "30KB"):
        convert(BERT, f"{place}/out", max_shard_size=size)
        convert(BERT, tmp_path / size, max_shard_size=size)
        assert there(f"{place}/out") == local(tmp_path / size)


def test_what_is_there_already_is_left_alone(buckets, bucket):
    assert not convert(BERT, f"{bucket}/out", resume=True).skipped
    buckets.requests.clear()
    assert convert(BERT, f"{bucket}/out", resume=True).skipped
    assert not any(request.startswith(("PUT", "DELETE", "POST")) for request in buckets.requests)


@pytest.mark.parametrize(("done", "earlier"), [(0, True), (1, True), (1, False), (4, False)])
def test_an_upload_that_fails_leaves_nothing_that_could_be_used(
    buckets, bucket, monkeypatch, done, earlier
):
    monkeypatch.setattr(stores, "ATTEMPTS", 2)
    if earlier:
        convert(BERT, f"{bucket}/out", dtype="float16")
    buckets.requests.clear()
    buckets.fault = refuse(FAILS, "PUT", skip=done)
    source = ("--tf_checkpoint", BERT)
    result = run("convert", *source, "--pytorch_dump_output", f"{bucket}/out", code=1)
    assert result.stderr.startswith(f"tfreader: {bucket}/out/")
    assert "failed 2 times" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    puts = [request for request in buckets.requests if request.startswith("PUT")]
    assert len(puts) - done <= 2 * stores.ATTEMPTS  # botocore asks twice
    assert find_record(f"{bucket}/out") is None
    left = there(f"{bucket}/out")
    assert "config.json" not in left or done < 3  # the old one, or none
    if not earlier:
        assert not left
    buckets.fault = lambda _: None
    convert(BERT, f"{bucket}/out")
    run("verify", f"{bucket}/out")


@pytest.fixture(scope="session")
def large(tmp_path_factory):
    """A checkpoint whose output goes to S3 in three parts, with rules."""
    folder = tmp_path_factory.mktemp("large")
    random = np.random.default_rng(0)
    write_bundle(folder / "m", {f"v{i}": random.random(600_000, "f4") for i in range(5)})
    rules = folder / "rules.toml"
    rules.write_text('[[rule]]\nsource = "(?P<name>.*)"\ntarget = "{name}"\n')
    return folder / "m", rules


def test_a_large_file_goes_in_parts(buckets, bucket, monkeypatch, tmp_path, large):
    monkeypatch.setattr(remote_path, "PART", 5 << 20)
    checkpoint, rules = large
    for name in (bucket, tmp_path):
        convert(checkpoint, f"{name}/out.safetensors", rules=rules)
    assert there(f"{bucket}/out.safetensors")[""] == (tmp_path / "out.safetensors").read_bytes()
    home = bucket.removeprefix("s3:/")
    assert buckets.requests.count(f"PUT {home}/out.safetensors") == 3


def test_parts_of_a_large_file_do_not_stay(buckets, bucket, monkeypatch, large):
    monkeypatch.setattr(remote_path, "PART", 5 << 20)
    monkeypatch.setattr(stores, "ATTEMPTS", 2)
    checkpoint, rules = large
    buckets.fault = refuse(FAILS, "PUT", skip=1)
    with pytest.raises(tfreader.RemoteError, match=f"{bucket}/out.safetensors: failed 2 times"):
        convert(checkpoint, f"{bucket}/out.safetensors", rules=rules)
    buckets.fault = lambda _: None
    assert not there(bucket)
    assert not boto3.client("s3").list_multipart_uploads(Bucket="models").get("Uploads")


def test_an_upload_that_hangs_is_given_up(buckets, bucket, monkeypatch):
    monkeypatch.setattr(stores, "PART_TIMEOUT", 1.0)
    monkeypatch.setattr(stores, "ATTEMPTS", 2)
    end = threading.Event()
    buckets.fault = lambda request: FAILS if request.startswith("PUT") and end.wait(60) else None
    with pytest.raises(
        tfreader.RemoteError, match=f"{bucket}/out/.*: failed 2 times .*no answer in time"
    ):
        convert(BERT, f"{bucket}/out")
    assert not there(bucket)
    end.set()


def test_an_upload_goes_on_when_a_failure_passes(buckets, bucket, tmp_path):
    buckets.fault = refuse("503 Slow Down", "PUT", skip=1, count=4)
    convert(BERT, f"{bucket}/out")
    buckets.fault = lambda _: None
    convert(BERT, tmp_path / "out")
    assert there(f"{bucket}/out") == local(tmp_path / "out")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("s3://nowhere/out", "s3://nowhere/out: cannot be written (The specified bucket does not"),
        ("s3://models/what/is", "s3://models/what/is: is a file; name a folder"),
        ("s3://models/what.bin", "s3://models/what.bin: is a folder; name a file"),
    ],
)
def test_outputs_that_cannot_be(buckets, output, message):
    s3 = boto3.client("s3")
    for key in ("what/is", "what.bin/inside"):
        s3.put_object(Bucket="models", Key=key, Body=b"something")
    source = ("--tf_checkpoint", BERT)
    result = run("convert", *source, "--pytorch_dump_output", output, code=1)
    assert f"tfreader: {message}" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_checkpoint_is_no_output(place):
    url = f"{place}/in/{BERT.name}"
    put(BERT, url)
    before = there(url)
    for output in (url, f"{url}/"):
        with pytest.raises(tfreader.OutputError, match="is the checkpoint itself, or its folder"):
            convert(url, output)
    assert there(url) == before


def test_a_bucket_that_may_not_be_written_to(buckets, bucket):
    buckets.fault = refuse("403 Forbidden", "PUT")
    with pytest.raises(tfreader.AccessDeniedError, match=f"{bucket}/out/model.safetensors: access"):
        convert(BERT, f"{bucket}/out")
    buckets.fault = lambda _: None
    assert not there(f"{bucket}/out")


def test_a_disk_too_small_for_what_will_be_uploaded(place, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(tfreader.OutputError, match=r"No space left on device\); set TMPDIR"):
        convert(BERT, f"{place}/out")
    assert not there(place)


def test_a_web_server_takes_no_outputs(web):
    web.fault = status(500)  # is not even asked
    for output in (f"{web.url}/out", f"{web.url}/out.safetensors"):
        with pytest.raises(tfreader.OutputError, match=f"{output}: cannot be written to; name a"):
            convert(f"{web.url}/m", output)
    assert not web.requests


def test_an_object_replaced_in_the_middle(buckets, bucket):
    s3 = boto3.client("s3")
    key = f"{bucket.removeprefix('s3://models/')}/in/bert_model.ckpt.data-00000-of-00001"
    for file in BERT.iterdir():
        s3.upload_file(str(file), "models", f"{os.path.dirname(key)}/{file.name}")
    replaced = []

    def replace(request):
        if request == f"GET /models/{key}" and not replaced:  # its first bytes
            replaced.append(key)
            data = (BERT / os.path.basename(key)).read_bytes()
            s3.put_object(Bucket="models", Key=key, Body=data[:-4] + b"\0\1\2\3")

    buckets.fault = replace
    source = ("--tf_checkpoint", f"{bucket}/in")
    result = run("convert", *source, "--pytorch_dump_output", f"{bucket}/out", code=1)
    assert replaced
    assert f"tfreader: s3://models/{key}: changed while it was being read" in result.stderr
    assert not there(f"{bucket}/out")


def test_a_batch_from_bucket_to_bucket(buckets, bucket):
    """In a process of its own, which the environment alone leads to the server."""
    s3 = boto3.client("s3")
    inside = bucket.removeprefix("s3://models/")
    for folder in (BERT, DATA / "classifier", DATA / "encoder"):
        for file in folder.iterdir():
            s3.upload_file(str(file), "models", f"{inside}/runs/a/{folder.name}/{file.name}")
    pattern, root = f"{bucket}/runs/**/*.index", f"{bucket}/out"

    def batch():
        options = ["--output-root", root, "--json", "-j", "1"]
        command = [*TFREADER, "batch", "--glob", pattern, *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
        assert done.returncode == 0, done.stderr
        jobs = json.loads(done.stdout)["outcomes"]
        return {job["pytorch_dump_output"].removeprefix(root): job["status"] for job in jobs}

    first = batch()
    assert set(first) == {
        "/a/bert-tiny/bert_model.ckpt",
        "/a/classifier/model.ckpt-3",
        "/a/encoder/bert_model.ckpt",
    }
    assert set(first.values()) == {"done"}
    for output in first:
        run("verify", root + output)
    made = there(root)
    assert set(batch().values()) == {"skipped"}
    damaged = "/a/classifier/model.ckpt-3"
    s3.put_object(
        Bucket="models", Key=f"{inside}/out{damaged}/model.safetensors", Body=b"half of it"
    )
    again = batch()
    assert [output for output, status in again.items() if status == "done"] == [damaged]
    assert there(root) == made


def test_a_batch_of_a_bucket_reports_into_it(buckets, tmp_path, monkeypatch):
    """A folder of a bucket is searched, and the report lies there from the start."""
    home = f"s3://models/{tmp_path.name}"
    client = boto3.client("s3")
    for name in ("a/bert", "b"):
        for file in BERT.iterdir():
            client.upload_file(str(file), "models", f"{tmp_path.name}/in/{name}/{file.name}")
    for key in ("c/lost.data-00000-of-00001", "d/m_temp_01ab/part.index"):
        client.put_object(Bucket="models", Key=f"{tmp_path.name}/in/{key}", Body=b"x")
    arguments = [f"{home}/in", "--output-root", f"{home}/out", "--report", f"{home}/report.json"]
    for status_now in ("done", "skipped"):
        result = CliRunner().invoke(main, ["batch", *arguments])
        assert result.exit_code == 0, result.output
        report = json.loads(read_small(RemotePath(f"{home}/report.json")))
        assert (report[status_now], report["passed_over"], report["root"]) == (2, 2, f"{home}/in")
        assert report["end"] is not None
    assert RemotePath(f"{home}/out/a/bert/bert_model.ckpt/{RECORD}").is_file()
