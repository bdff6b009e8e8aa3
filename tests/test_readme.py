"""Every command and program of the README is run, but docker's; `make` lines are CI's."""

from __future__ import annotations

import re
import shlex
import shutil

from click.testing import CliRunner
from conftest import ROOT

from tfreader.cli.main import main

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_readme_runs_from_top_to_bottom(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    ran = 0
    for language, text in BLOCKS:
        if language == "python":
            exec(compile(text, "README.md", "exec"), {})
            ran += 1
        elif language == "sh":
            for line in text.replace("\\\n", "").splitlines():
                program, *arguments = shlex.split(line, comments=True)
                if program == "make":
                    continue
                assert program == "tfreader"
                result = CliRunner().invoke(main, arguments)
                assert result.exit_code == 0, result.output
                ran += 1
    assert ran >= 10


def test_the_rule_file_shown_is_the_one_in_examples():
    (shown,) = (text for language, text in BLOCKS if language == "toml")
    assert shown == (ROOT / "examples" / "keras-regressor" / "rules.toml").read_text()


def test_make_targets_named_in_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"^make (\w+)", README, re.MULTILINE))
    assert named == {"example", "test"}
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
