"""README and every page of docs/ are run as the shell sessions that they are: see literal.py.

Each in a copy of what git would check out, in a shell that has nothing but what the page has said
before. The network is left out: the environments that `make` would set up stand there already, and
ports and buckets have names of their own. CI runs the README once more, with nothing prepared.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import venv
from contextlib import suppress

import pytest
from conftest import BERT, ROOT, write_program
from literal import BLOCK, fresh_environment, session
from servers import bucket_server

README = (ROOT / "README.md").read_text()
BATCH = (ROOT / "docs" / "batch.md").read_text()
SECTIONS = dict(re.findall(r"^## (.*?)$(.*?)(?=^## |\Z)", BATCH, re.MULTILINE | re.DOTALL))
# Those with something to run, but for batch.md, whose cluster needs a port that is free.
PAGES = [
    page
    for page in sorted((ROOT / "docs").glob("*.md"))
    if page.name != "batch.md" and session(page.read_text()) != session("")
]
COMMANDS = {
    "tfreader": "from tfreader.cli.main import run",
    "dask": "from dask.__main__ import main as run",
}


@pytest.fixture
def clone(tmp_path):
    """A copy with a .venv that has what `make` installs, out of the environment of this test."""
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()]
    folder = tmp_path / "clone"
    shutil.copytree(ROOT, folder, symlinks=True, ignore=shutil.ignore_patterns(".git", *ignored))
    for name in ("mapping", "cli"):  # which an sdist has not
        (folder / "tfreader" / name).unlink(missing_ok=True)
        (folder / "tfreader" / name).symlink_to(f"../{name}")
    environment = folder / ".venv"
    venv.create(environment, symlinks=True)
    (site,) = environment.glob("lib/python*/site-packages")
    installed = [path for path in sys.path if path.endswith("-packages")]
    added = ascii([str(folder), *installed])  # the file is read in the encoding of the locale
    (site / "clone.pth").write_text(f"import sys; sys.path += {added}\n")
    for name, program in COMMANDS.items():
        code = f"{program}\nif __name__ == '__main__':\n    run()"
        write_program(environment / "bin" / name, code, environment / "bin" / "python")
    for stamp in ("base", "dev"):
        (environment / stamp).touch()
    return folder


def run(text, folder, **variables):
    """What a session prints. What it has left in the background is ended with it."""
    with (folder / "printed").open("w+") as printed:
        process = subprocess.Popen(
            ["bash", "--noprofile", "--norc", "-c", text],
            cwd=folder,
            env=fresh_environment() | variables,
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        code = process.wait()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        printed.seek(0)
        output = printed.read()
    assert code == 0, output
    return output


def activated(text):
    """A session of one who has read the README's first lines."""
    return f". .venv/bin/activate\n{session(text)}"


def test_the_readme(clone):
    # `make test` runs this file of tests in place of all.
    output = run(session(README), clone, PYTEST_ADDOPTS="tests/test_strings.py -p no:cacheprovider")
    assert "BertForPreTraining: 46 tensors" in output and " passed in " in output
    assert (clone / "out" / "tf-classifier" / "model.safetensors").is_file()
    assert (clone / "report.json").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_of_docs(clone, page):
    run(activated(page.read_text()), clone)


def test_one_machine(clone):
    output = run(activated(SECTIONS["One machine"]), clone)
    assert "3 planned" in output and "3 jobs: 3 skipped" in output
    assert (clone / "report.json").exists()
    assert (clone / "out" / "all" / "bert-tiny" / "bert_model.ckpt" / "conversion.json").exists()


def test_a_cluster(clone):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (jobs,) = re.findall(r"^cat > jobs.jsonl .*?^END\n", BATCH, re.MULTILINE | re.DOTALL)
    section = SECTIONS["A cluster"].replace("8786", str(port))
    assert "3 jobs: 3 done" in run(jobs + activated(section), clone)


def test_a_bucket(clone):
    import boto3

    # Other tests' buckets are of the same, simulated world.
    section = SECTIONS["A bucket"].replace("s3://models", "s3://docs-models")
    section = section.replace("```console", "```sh")
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
        output = run(activated(section), clone, **environment)
        keys = [item["Key"] for item in client.list_objects_v2(Bucket="converted")["Contents"]]
    assert "bert/pooler/dense/kernel" in output
    assert "bert/bert_model.ckpt/model.safetensors" in keys
    assert "bert/bert_model.ckpt/conversion.json" in keys


def test_the_rule_file_shown_is_the_one_in_examples():
    (shown,) = (text for language, text in BLOCK.findall(README) if language == "toml")
    assert shown == (ROOT / "examples" / "keras-regressor" / "rules.toml").read_text()


def anchors(page):
    """What headings may be linked to, as GitHub spells them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_pages_and_headings_that_programs_name_are_there():
    files = (file for top in ("tfreader", "mapping", "cli") for file in (ROOT / top).rglob("*.py"))
    named = {
        each
        for file in files
        for each in re.findall(r"docs/[\w-]+\.md(?:#[\w-]+)?", file.read_text("utf-8"))
    }
    assert "docs/families.md#two-gelus" in named
    for each in named:
        page, _, heading = each.partition("#")
        assert not heading or heading in anchors(ROOT / page), each
        assert (ROOT / page).is_file(), each


@pytest.mark.parametrize("target", ["example", "test", "test-lowest", "docs", "dist"])
def test_an_older_python_is_told_in_one_line_before_anything_is_made(tmp_path, target):
    """By make, which asks the Python that it would use what it is."""
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\necho 3.10.13\n")
    old.chmod(0o755)
    forced = ["-W", "pyproject.toml"]  # whatever was made before
    command = ["make", *forced, target, f"VENV=build/{tmp_path.name}", "PYTHON3=python3"]
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    environment = fresh_environment() | {"PATH": path}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "3.11 or later" in line and "3.10.13" in line and f"make {target} PYTHON3=" in line
    assert not (ROOT / "build" / tmp_path.name).exists()


def test_a_clone_may_lie_in_a_folder_of_any_name(tmp_path):
    """Make breaks words at spaces, and knows nothing of quotes."""
    clone = tmp_path / "My Projects" / "tf reader \u00fc (2)"
    clone.mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, clone)
    python = tmp_path / "python3"  # makes an environment of two programs that do nothing
    python.write_text(
        '#!/bin/sh\n[ "$2" = venv ] && mkdir -p "$3/bin" && ln -s /bin/echo "$3/bin/python" '
        '&& ln -s /bin/echo "$3/bin/tfreader"\nexit 0\n'
    )
    python.chmod(0o755)
    command = ["make", "example", "fuzz", "SECONDS=0", "TARGET=", "PYTHON3=python3"]
    done = subprocess.run(
        command,
        cwd=clone,
        env=fresh_environment() | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "convert --model_type bert --tf_checkpoint examples/bert-tiny" in done.stdout
