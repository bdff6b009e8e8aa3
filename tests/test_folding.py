"""Names that differ in numbers alone, as one."""

from __future__ import annotations

import re
from itertools import product

import numpy as np
import pytest
from bundle_writer import write_bundle
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import tfreader
from tfreader.cli.main import main
from tfreader.folding import fold, fold_rows, fold_sentences, literal


@pytest.mark.parametrize(
    ("names", "folded"),
    [
        (["l_0/a", "l_5/a", "l_11/a"], "l_{0,5,11}/a"),
        (["l_0", "l_1", "l_2", "l_10", "l_9"], "l_{0...2,9...10}"),
        ([f"block_{i:03}/w" for i in range(12)], "block_{000...011}/w"),
        (["l_1", "l_01"], "l_{01,1}"),
        (["l_0/x_0", "l_1/x_1"], "l_0/x_0, l_1/x_1"),  # not all combinations
        (["l_0/x_0", "l_0/x_1", "l_1/x_0"], "l_0/x_{0...1}, l_1/x_0"),
        (["e_0/k_1", "e_0/k_2", "e_1/k_1", "e_1/k_2"], "e_{0...1}/k_{1...2}"),
        (["a", "a"], "a, a"),
        (["l_" + "1" * 5000, "l_" + "1" * 4999 + "2"], f"l_{{{'1' * 5000},{'1' * 4999}2}}"),
    ],
)
def test_what_is_folded_says_no_more_than_the_names(names, folded):
    assert fold(names) == folded


def expanded(name):
    parts = []
    for plain, listed in re.findall(r"([^{]+)(?:\{(.*?)\})?", name):
        numbers = []
        for run in listed.split(",") if listed else [""]:
            first, _, last = run.partition("...")
            counted = range(int(first), int(last) + 1) if last else ()
            numbers += [str(n).zfill(len(first)) for n in counted] or [first]
        parts.append([plain + number for number in numbers])
    return ["".join(chosen) for chosen in product(*parts)]


NUMBERS = st.tuples(st.integers(0, 12), st.integers(0, 2), st.sampled_from(["1", "2", "03", "04"]))


@given(st.sets(NUMBERS, min_size=1))
def test_the_braces_stand_for_the_names_and_no_others(numbers):
    names = [f"a_{i}/b{j}c/{k}" for i, j, k in sorted(numbers)]
    found = [name for folded in fold_rows([(n,) for n in names]) for name in expanded(*folded.row)]
    assert sorted(found) == sorted(names)


def test_names_of_a_row_go_together_in_the_same_order():
    rows = [(f"l_{i + 1}/h_{j}", f"x.{i}.{j}") for i in range(3) for j in range(2)]
    assert [row for row, _ in fold_rows(rows)] == [("l_{1...3}/h_{0...1}", "x.{0...2}.{0...1}")]
    swapped = [(f"l_{i}/h_{j}", f"x.{j}.{i}") for i in range(2) for j in range(2)]
    assert [row for row, _ in fold_rows(swapped)] == [
        ("l_0/h_{0...1}", "x.{0...1}.0"),
        ("l_1/h_{0...1}", "x.{0...1}.1"),
    ]
    turned = [(f"l_{i}", f"x.{2 - i}") for i in range(3)]
    assert [row for row, _ in fold_rows(turned)] == turned
    told = [f"l_{i}/w of l_{i} is 7" for i in (3, 4)]
    assert fold_sentences(told) == [("l_{3...4}/w of l_{3...4} is 7", 0)]


def test_a_plan_is_not_shown_with_layers_that_it_lacks(tmp_path):
    write_bundle(
        tmp_path / "model",
        {f"net/l_{i}/{name}": np.ones(2, np.float32) for i in (0, 5, 11) for name in "ab"},
    )
    rules = tmp_path / "rules.toml"
    rules.write_text(
        '[[rule]]\nsource = "net/l_(?P<i>\\\\d+)/(?P<n>.)"\ntarget = "net.{i}.{n}"\n', "utf-8"
    )
    arguments = ["convert", "--tf_checkpoint", tmp_path / "model", "--rules", rules, "--dry-run"]
    arguments += ["--pytorch_dump_output", tmp_path / "out.safetensors"]
    output = CliRunner().invoke(main, list(map(str, arguments))).output
    lines = [line.split()[:2] for line in output.splitlines() if line.startswith("net/")]
    assert lines == [
        ["net/l_{0,5,11}/a", "net.{0,5,11}.a"],
        ["net/l_{0,5,11}/b", "net.{0,5,11}.b"],
    ]


def test_braces_of_a_name_are_not_taken_for_those_of_several(tmp_path):
    assert literal("l_{0...1}/{1,2}") == r"l_\{0...1\}/\{1,2\}"
    assert literal("{a}/{0}/{}/{1,}") == "{a}/{0}/{}/{1,}"
    names = ["l_{0...1}/w", "l_0/w", "l_1/w"]
    write_bundle(tmp_path / "model", {name: np.ones(2, np.float32) for name in names})

    def inspect(*arguments):
        return CliRunner().invoke(main, ["inspect", str(tmp_path / "model"), *arguments]).output

    for arguments in ([], ["--tree"]):
        shown = inspect("--fold", *arguments)
        assert "\nl_{0...1}/" in shown and "\nl_\\{0...1\\}/" in shown
    assert r"l_\{0...1\}/w" in tfreader.open(tmp_path / "model")._repr_html_()
    assert "\nl_{0...1}/w " in inspect()  # where each has a line of its own
    assert " found 1 variable," in inspect("--filter", r"l_\{0...1\}/w")
