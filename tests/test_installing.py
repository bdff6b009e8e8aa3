"""A hint to install something has to work where it is printed."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

import tfreader

METADATA = """Metadata-Version: 2.4
Name: tfreader-torch
Version: 0.1.0
Provides-Extra: h5
Provides-Extra: torch
Requires-Dist: numpy>=1.26
Requires-Dist: torch>=2.6; extra == "torch"
Requires-Dist: h5py>=3.16; extra == "h5"
Requires-Dist: other>=1; (python_version > "3") and extra == 'h5'
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Makes an installation that comes before all others, as pip records its origin."""

    def make(url=None, **origin):
        info = tmp_path / "site" / "tfreader_torch-0.1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(METADATA)
        if url is not None:
            (info / "direct_url.json").write_text(json.dumps({"url": url, **origin}))
        monkeypatch.syspath_prepend(tmp_path / "site")

    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    return make


def words(extra="h5"):
    """The command that the error names, as a shell takes it, from `install` on."""
    said = str(tfreader.MissingExtraError("reading x", extra))
    _, _, command = said.partition("reading x needs an optional dependency: ")
    pip, _, rest = command.partition(" install ")
    assert pip == "pip" or shlex.split(pip) == [sys.executable, "-m", "pip"]
    return shlex.split(rest)


def test_of_a_clone_that_was_installed_to_be_edited(install, tmp_path, monkeypatch):
    clone = tmp_path / "a clone"
    clone.mkdir()
    (clone / "pyproject.toml").touch()
    install(clone.as_uri(), dir_info={"editable": True})
    assert words() == ["-e", f"{clone}[h5]"]
    monkeypatch.chdir(clone)
    assert words() == ["-e", ".[h5]"]


def test_of_a_clone_in_which_python_was_started(install, tmp_path):
    """There the first that tells of the package is what setuptools has left."""
    install()
    (tmp_path / "site" / "pyproject.toml").touch()
    assert words() == ["-e", f"{tmp_path / 'site'}[h5]"]


def test_of_a_folder(install, tmp_path):
    (tmp_path / "pyproject.toml").touch()
    install(tmp_path.as_uri(), dir_info={})
    assert words("torch") == [f"{tmp_path}[torch]"]


@pytest.mark.parametrize(
    "origin",
    [
        {},
        {"url": "file:///gone/with/the/build", "dir_info": {}},
        {"url": "file:///src/dist/tfreader_torch-0.1.0-py3-none-any.whl", "archive_info": {}},
        {"url": "https://git.example/tfreader", "vcs_info": {"vcs": "git"}},
    ],
    ids=["an index", "a folder that is gone", "a wheel", "a repository"],
)
def test_of_what_is_no_folder_the_libraries(install, origin):
    install(**origin)
    assert words() == ["h5py>=3.16", "other>=1"]
    assert words("torch") == ["torch>=2.6"]


def test_without_pip_it_is_said_where_they_are_to_go(install, monkeypatch):
    install()
    monkeypatch.setattr("tfreader.installing.find_spec", lambda name: None)
    said = str(tfreader.MissingExtraError("reading x", "torch"))
    assert f"torch>=2.6, in {sys.prefix}" in said and "install" not in said


def test_another_pip_that_comes_first_is_not_meant(install, tmp_path, monkeypatch):
    install()
    (tmp_path / "pip").write_text("#!/bin/sh\n")
    (tmp_path / "pip").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    said = str(tfreader.MissingExtraError("reading x", "torch"))
    assert f"{shlex.quote(sys.executable)} -m pip install 'torch>=2.6'" in said
