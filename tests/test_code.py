"""What the code itself must be like."""

from __future__ import annotations

import ast

import pytest
from conftest import ROOT

MODULES = [
    path
    for folder in ("tfreader", "mapping", "cli")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path.parent.name != "families" and path.name != "checkpoint_pb2.py"
]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_and_classes_are_short(path):
    text = path.read_text("utf-8")
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            assert node.end_lineno - node.lineno < 200, node.name
