"""Every command of docs/batch.md is run as it stands, but for ports and names of buckets."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import BERT, ROOT
from servers import bucket_server

TEXT = (ROOT / "docs" / "batch.md").read_text()
SECTIONS = dict(re.findall(r"^## (.*?)$(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def run(section, folder, environment):
    """Run the section's commands in that folder; those that end in & until the others are done."""
    (jobs,) = [text for language, text in BLOCK.findall(TEXT) if language == "jsonl"]
    (folder / "jobs.jsonl").write_text(jobs)
    commands = [
        line
        for language, text in BLOCK.findall(SECTIONS[section])
        if language == "sh"
        for line in text.splitlines()
    ]
    assert commands
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | environment | {"PATH": path}
    with ExitStack() as stack:
        for command in commands:
            if command.endswith("&"):
                background = subprocess.Popen(
                    f"exec {command[:-1]}", shell=True, cwd=folder, env=environment
                )
                stack.callback(background.wait)
                stack.callback(background.kill)
                continue
            done = subprocess.run(
                command,
                shell=True,
                cwd=folder,
                env=environment,
                check=False,
                capture_output=True,
                text=True,
            )
            assert done.returncode == 0, (command, done.stdout, done.stderr)
            yield command, done.stdout


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    return tmp_path


def test_one_machine(folder):
    outputs = dict(run("One machine", folder, {}))
    assert "3 planned" in outputs["tfreader batch jobs.jsonl --dry-run"]
    assert "3 jobs: 3 skipped" in outputs["tfreader batch jobs.jsonl"]
    assert (folder / "report.json").exists()
    assert (folder / "out" / "all" / "bert-tiny" / "bert_model.ckpt" / "conversion.json").exists()


def test_a_cluster(folder, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setitem(SECTIONS, "A cluster", SECTIONS["A cluster"].replace("8786", str(port)))
    *_, (_, output) = run("A cluster", folder, {})
    assert "3 jobs: 3 done" in output


def test_a_bucket(folder, monkeypatch):
    import boto3

    # Other tests' buckets are of the same, simulated world.
    section = SECTIONS["A bucket"].replace("s3://models", "s3://docs-models")
    monkeypatch.setitem(SECTIONS, "A bucket", section)
    with bucket_server() as url:
        environment = {
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        client = boto3.client(
            "s3",
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id="nobody",
            aws_secret_access_key="secret",
        )
        for bucket in ("docs-models", "converted"):
            client.create_bucket(Bucket=bucket)
        for file in BERT.iterdir():
            client.upload_file(str(file), "docs-models", f"bert/{file.name}")
        outputs = dict(run("A bucket", folder, environment))
        keys = [item["Key"] for item in client.list_objects_v2(Bucket="converted")["Contents"]]
    assert (
        "bert/pooler/dense/kernel"
        in outputs["tfreader inspect s3://docs-models/bert/bert_model.ckpt"]
    )
    assert "bert/bert_model.ckpt/model.safetensors" in keys
    assert "bert/bert_model.ckpt/conversion.json" in keys
