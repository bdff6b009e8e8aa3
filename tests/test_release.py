"""What is published: its files, what package indexes are told of it, and when it may be."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
import tomllib
from email.parser import Parser
from pathlib import Path

import check_release
import pytest
from conftest import ROOT
from test_clone import BUILD, run

import tfreader
import tfreader.mapping

URL = "https://github.com/someone/something"


def tracked() -> list[str]:
    """What git tracks; in an sdist, what it lists."""
    if not (ROOT / ".git").exists():
        return (ROOT / "tfreader_torch.egg-info" / "SOURCES.txt").read_text().splitlines()
    git = ["git", "-c", "safe.directory=*", "-C", ROOT]  # whoever owns the clone
    listed = subprocess.check_output([*git, "ls-files", "-z"], text=True)
    return listed.split("\0")[:-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> tarfile.TarFile:
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("sdist")
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name, follow_symlinks=False)
    done = run(source, "-c", BUILD.format("sdist"), str(output))
    assert done.returncode == 0, done.stderr
    said = (done.stdout + done.stderr).splitlines()
    assert not [line for line in said if "warning" in line.lower()]
    (path,) = output.iterdir()
    return tarfile.open(path)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="only git tells what there is")
def test_the_sdist_has_all_that_git_tracks_but_links(sdist):
    expected = {name for name in tracked() if not (ROOT / name).is_symlink()}
    packed = {member.name.partition("/")[2] for member in sdist if member.isfile()}
    assert expected - packed == set()
    made = {name for name in packed - expected if ".egg-info/" not in name}
    assert made == {"PKG-INFO", "setup.cfg"}
    assert not [member.name for member in sdist if member.issym() or member.islnk()]


def test_what_package_indexes_are_told(sdist):
    (name,) = [name for name in sdist.getnames() if re.fullmatch(r"[^/]+/PKG-INFO", name)]
    told = Parser().parsestr(sdist.extractfile(name).read().decode())
    assert told["Version"] == check_release.version()
    assert told["Author"] == "The tfreader authors"
    assert told["License-Expression"] == "Apache-2.0"
    urls = dict(each.split(", ") for each in told.get_all("Project-URL"))
    assert urls.keys() >= {"Repository", "Documentation", "Changelog", "Issues"}

    # The README's links lead there too, and to what is there.
    readme, shown = (ROOT / "README.md").read_text("utf-8"), told.get_payload()
    links, shown_links = (re.findall(r"\]\(([^)]+)\)", text) for text in (readme, shown))
    assert re.sub(r"\]\([^)]+\)", "", readme).strip() == re.sub(r"\]\([^)]+\)", "", shown).strip()
    there = f"{urls['Repository']}/blob/v{told['Version']}/"
    for link, absolute in zip(links, shown_links, strict=True):
        if not link.startswith("https://"):
            assert absolute == there + link
            assert (ROOT / link.partition("#")[0]).exists(), link
    assert there in shown


def test_the_license_names_who_holds_it():
    assert re.search(
        r"^ +Copyright 20\d\d The tfreader authors$", (ROOT / "LICENSE").read_text(), re.M
    )


@pytest.fixture
def ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository that may publish v1.2.3."""
    (tmp_path / "tfreader").mkdir()
    (tmp_path / "tfreader" / "__init__.py").write_text('__version__ = "1.2.3"\n')
    (tmp_path / "pyproject.toml").write_text(f'[project.urls]\nRepository = "{URL}"\n')
    news = "# Changelog\n\n## 1.2.3 (2027-01-31)\n\n- New.\n\n## 1.2.2 (2026-12-24)\n\n- Old.\n"
    (tmp_path / "CHANGELOG.md").write_text(news)
    monkeypatch.setattr(check_release, "ROOT", tmp_path)
    return tmp_path


def test_a_release_has_its_news(ready):
    assert check_release.main("v1.2.3", URL) == "- New.\n"


def test_what_may_not_be_published(ready):
    with pytest.raises(SystemExit, match=r"tag v1.2.4: .* has version 1.2.3"):
        check_release.main("v1.2.4", URL)
    with pytest.raises(SystemExit, match="this is https://github.com/someone/else"):
        check_release.main("v1.2.3", "https://github.com/someone/else")
    (ready / "CHANGELOG.md").write_text("# Changelog\n\n## 1.2.3 (unreleased)\n\n- New.\n")
    with pytest.raises(SystemExit, match=r"begins with '1.2.3 \(unreleased\)'"):
        check_release.main("v1.2.3", URL)


def test_the_changelog_begins_with_this_version():
    assert next(iter(check_release.sections())).split()[0] == check_release.version()


def test_the_site_has_every_public_name():
    text = (ROOT / "docs" / "api.md").read_text()
    shown = re.findall(r"^::: tfreader\.(mapping\.)?(?:\w+\.)*(\w+)$", text, re.MULTILINE)
    for package, module in (("", tfreader), ("mapping.", tfreader.mapping)):
        names = [name for inside, name in shown if inside == package]
        assert sorted(names) == sorted(module.__all__)


def test_schemas_are_called_by_where_the_site_has_them():
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    for path in (ROOT / "docs" / "schemas").glob("*.json"):
        schema = json.loads(path.read_text())
        assert schema["$id"] == f"{urls['Documentation']}schemas/{path.name}"
