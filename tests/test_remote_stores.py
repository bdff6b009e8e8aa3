"""Credentials and endpoints: from the environment and from the files that other tools write."""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys

import boto3
import pytest

import tfreader
from tfreader.files import read_small
from tfreader.remote import RemotePath, stores


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    stores._store.cache_clear()  # of other tests' environment
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    yield
    stores._store.cache_clear()


@pytest.fixture
def object_there(buckets, monkeypatch):
    """An object in a bucket, and no credentials in the environment."""
    boto3.client("s3").put_object(
        Bucket="models", Key="stores.txt", Body=b"contents", ACL="public-read"
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    return RemotePathText("s3://models/stores.txt")


class RemotePathText(str):
    def read(self):
        return read_small(RemotePath(self)).decode()


def profile(tmp_path, config="", credentials=""):
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "config").write_text(config)
    (tmp_path / ".aws" / "credentials").write_text(credentials)


KEYS = "aws_access_key_id = someone\naws_secret_access_key = something\n"


def test_keys_of_a_profile(object_there, monkeypatch, tmp_path, buckets):
    profile(
        tmp_path,
        f"[profile work]\nregion = eu-west-1\nendpoint_url = {buckets.url}\n",
        f"[default]\naws_access_key_id = another\n[work]\n{KEYS}",
    )
    monkeypatch.setenv("AWS_PROFILE", "work")
    for name in ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    assert object_there.read() == "contents"
    config = stores.connect(object_there)[0].config
    assert (config["region"], config["access_key_id"]) == ("eu-west-1", "someone")
    monkeypatch.setenv("AWS_PROFILE", "home")
    stores._store.cache_clear()
    with pytest.raises(tfreader.AccessDeniedError, match="there is no profile 'home'"):
        object_there.read()


def test_a_profile_that_names_a_program(object_there, monkeypatch, tmp_path):
    known = {"Version": 1, "AccessKeyId": "someone", "SecretAccessKey": "something"}
    script = tmp_path / "keys.json"
    script.write_text(json.dumps(known))
    profile(tmp_path, f"[default]\ncredential_process = cat {shlex.quote(str(script))}\n")
    assert object_there.read() == "contents"
    stores._store.cache_clear()
    monkeypatch.delitem(sys.modules, "obstore.auth.boto3")
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(tfreader.AccessDeniedError, match="pip install boto3, or set"):
        object_there.read()


def test_no_credentials_and_none_needed(object_there, monkeypatch):
    with pytest.raises(tfreader.AccessDeniedError, match="no credentials.*AWS_SKIP_SIGNATURE=true"):
        object_there.read()
    for name in ("AWS_SKIP_SIGNATURE", "FSSPEC_S3_ANON"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "true")
            assert object_there.read() == "contents"
            stores._store.cache_clear()


def test_google_credentials_of_a_file(monkeypatch, tmp_path):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
    with pytest.raises(tfreader.UnsupportedError, match="gs://place/f: No such file.*environment"):
        RemotePath("gs://place/f")
    account = {"type": "authorized_user", "client_id": "a", "client_secret": "b"}
    (tmp_path / "account.json").write_text(json.dumps(account | {"refresh_token": "c"}))
    store, _ = stores.connect("gs://place/f")
    assert "skip_signature" not in store.config


def test_public_buckets_of_google_need_no_credentials(monkeypatch):
    for name in [name for name in os.environ if name.startswith("GOOGLE_")]:
        monkeypatch.delenv(name)
    asked = []

    def nowhere(host, *_):
        asked.append(host)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    store, key = stores.connect("gs://public/models/m.index")
    assert (store.config["skip_signature"], key) == ("true", "models/m.index")
    assert asked == ["metadata.google.internal"]


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("a%20b/m.index", "GET /a%20b/m.index bytes=0-7"),
        ("m.pth?token=a%2Fb&x=1", "GET /m.pth?token=a%2Fb&x=1 bytes=0-7"),
        ("projects/a%2Fb/raw/m", "GET /projects/a%2Fb/raw/m bytes=0-7"),
    ],
)
def test_the_urls_of_web_servers_stay_as_they_are(web, url, path):
    web.fault = lambda handler: (
        not handler.answer(206, b"contents", **{"Content-Range": "bytes 0-7/8"})
    )
    assert read_small(RemotePath(f"{web.url}/{url}")) == b"contents"
    assert path in web.requests
