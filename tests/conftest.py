from __future__ import annotations

import inspect
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partialmethod
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from servers import Buckets, FileServer

# Of where and how the tests run: proxies, clouds and what a terminal is like.
NOT_OURS = re.compile(
    r".*_proxy|(aws|azure|google)_.*|columns|lines|(no|force)_color|tty_.*|pythonioencoding",
    re.IGNORECASE,
)
for name in filter(NOT_OURS.fullmatch, [*os.environ]):
    del os.environ[name]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
settings.register_profile(  # on a machine that has much else to do
    "any", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any")
sys.path.insert(0, str(Path(__file__).parent))

if "mix_stderr" in inspect.signature(CliRunner).parameters:  # click before 8.2 has one or the other
    CliRunner.__init__ = partialmethod(CliRunner.__init__, mix_stderr=False)  # type: ignore
    Result.output = property(lambda result: result.stdout + result.stderr)  # type: ignore

ROOT = Path(__file__).resolve().parent.parent
# An sdist has no links tfreader/mapping and tfreader/cli: what is installed is tested, not what
# lies here. Spawned processes find `tests` here, so it is not left out.
if not (ROOT / "tfreader" / "mapping").is_dir():
    sys.path[:] = [*(entry for entry in sys.path if Path(entry).resolve() != ROOT), str(ROOT)]
    os.environ["PYTHONSAFEPATH"] = "1"
DATA = ROOT / "tests" / "data"
BERT = ROOT / "examples" / "bert-tiny"
KERAS = ROOT / "examples" / "keras-regressor"
TFREADER = (sys.executable, "-m", "tfreader")


def pytest_configure() -> None:
    if find_spec("torch") is None:
        needed = "what pyproject.toml lists as dev: pip install --group dev (pip 25.1 or later)"
        raise pytest.UsageError(f"the tests need {needed}, or run `make test`")


def write_program(path: Path, code: str, python: str | Path = sys.executable) -> None:
    """A command that runs this code. After #! no path may have spaces, or be a long one.

    So what is behind it is a line of the shell that, to Python, is a text.
    """
    start = f"""'''exec' {shlex.quote(str(python))} "$0" "$@"\n' '''"""
    path.write_text(f"#!/bin/sh\n{start}\n{code}\n", "utf-8")
    path.chmod(0o755)


@pytest.fixture
def copy(tmp_path: Path) -> Callable[[Path], Path]:
    """Copies a checkpoint's folder to where a test may damage it."""

    def copy_folder(folder: Path) -> Path:
        return Path(shutil.copytree(folder, tmp_path / "copy" / folder.name))

    return copy_folder


@pytest.fixture(scope="session")
def bucket_server() -> Iterator[Buckets]:
    import boto3
    from servers import Buckets

    with Buckets().serving() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", server.url)
        patch.setenv("AWS_ACCESS_KEY_ID", "someone")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "something")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        boto3.client("s3").create_bucket(Bucket="models")
        yield server


@pytest.fixture
def buckets(bucket_server: Buckets) -> Iterator[Buckets]:
    """A server with the bucket s3://models, which the environment leads to."""
    bucket_server.requests.clear()
    yield bucket_server
    bucket_server.fault = lambda _: None


@pytest.fixture
def blobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """A server that gs:// and az:// URLs lead to, by the environment."""
    from servers import BlobServer, serving

    (tmp_path / "blobs").mkdir()
    with serving(tmp_path / "blobs", BlobServer) as server:
        monkeypatch.setenv("GOOGLE_BASE_URL", server.url)
        monkeypatch.setenv("GOOGLE_BEARER_TOKEN", "something")
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", server.url)
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "someone")
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "c29tZXRoaW5n")
        yield server


@pytest.fixture
def web(tmp_path: Path) -> Iterator[FileServer]:
    from servers import serving

    (tmp_path / "served").mkdir()
    with serving(tmp_path / "served") as server:
        yield server
