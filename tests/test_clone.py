"""The clone as it lies, beside what is installed from it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

BUILD = "import sys; from setuptools import build_meta; build_meta.build_{}(sys.argv[1])"
IMPORT = """
from tfreader.mapping import convert
import sys, tfreader.cli.main, tfreader.mapping.families.bert
for name in [name for name in sys.modules if name.startswith("tfreader")]:
    print(sys.modules[name].__file__)
"""


def run(folder: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=os.environ | {"PYTHONSAFEPATH": ""} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def build(kind: str, source: Path, output: Path) -> Path:
    """What `pip install .` does, without a network."""
    done = run(source, "-c", BUILD.format(kind), str(output))
    assert done.returncode == 0, done.stderr
    (built,) = output.glob("*.tar.gz" if kind == "sdist" else "*.whl")
    return built


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is packaged, as git would check it out."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("tfreader", "mapping", "cli"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
    for name in ("mapping", "cli"):  # which an sdist has not, and git on some systems makes a file
        link = folder / "tfreader" / name
        link.unlink(missing_ok=True)
        link.symlink_to(Path("..", name))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", clone, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an installation."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_the_clone_is_used_in_its_root_and_what_is_installed_elsewhere(clone, site, tmp_path):
    for folder, used in ((clone, clone), (tmp_path, site)):
        done = run(folder, "-c", IMPORT, PYTHONPATH=str(site))
        assert done.returncode == 0, done.stderr
        files = done.stdout.splitlines()
        assert len(files) > 50
        assert {Path(file).is_relative_to(used) for file in files} == {True}, files


def test_every_way_to_a_wheel_gives_the_same(clone, wheel, tmp_path):
    expected = contents(wheel)
    packaged = {name for name in expected if ".dist-info/" not in name}
    lying = {
        str(Path("" if top == "tfreader" else "tfreader") / file.relative_to(clone))
        for top in ("tfreader", "mapping", "cli")
        for file in (clone / top).rglob("*")
        if file.suffix in {".py", ".pyi", ".typed", ".xz", ".html", ".css", ".js"}
    }
    assert packaged == lying

    sdist = build("sdist", clone, tmp_path / "sdist")
    shutil.unpack_archive(sdist, tmp_path / "unpacked")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert contents(build("wheel", unpacked, tmp_path / "from_sdist")) == expected

    assert contents(build("wheel", without_links(clone, tmp_path), tmp_path / "zip")) == expected


def without_links(clone: Path, folder: Path) -> Path:
    """Git without links, as on Windows, and zip archives have small files in their place."""
    without = Path(shutil.copytree(clone, folder / "without", symlinks=True))
    for name in ("mapping", "cli"):
        (without / "tfreader" / name).unlink()
        (without / "tfreader" / name).write_text(f"../{name}")
    return without


def test_an_editable_installation_needs_no_links(clone, tmp_path):
    without = without_links(clone, tmp_path)
    with zipfile.ZipFile(build("editable", without, tmp_path / "wheel")) as archive:
        archive.extractall(tmp_path / "site")
    # In place of the installation that runs the tests.
    install = (
        "import site, sys\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in f.__module__]\n"
        "for name in [name for name in sys.modules if 'editable' in name]: del sys.modules[name]\n"
        f"sys.path.insert(0, {str(tmp_path / 'site')!r}); site.addsitedir(sys.path[0])\n"
        "sys.meta_path.sort(key=lambda f: 'editable' not in f.__module__)\n"
    )
    for folder in (without, tmp_path):
        done = run(folder, "-c", install + IMPORT)
        assert done.returncode == 0, done.stderr
        files = done.stdout.splitlines()
        assert {Path(file).is_relative_to(without) for file in files} == {True}, files


def test_the_module_is_the_command(clone, site, tmp_path):
    for folder in (clone, tmp_path):
        done = run(folder, "-m", "tfreader", "inspect", PYTHONPATH=str(site))
        assert done.returncode == 2
        assert done.stderr.startswith("Usage: python -m tfreader inspect [OPTIONS] PATH")
