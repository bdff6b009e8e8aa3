"""Which module imports which, held to the list in docs/design.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from importlib.util import resolve_name
from pathlib import Path

from conftest import ROOT

PACKAGES = {"tfreader": "tfreader", "mapping": "tfreader.mapping", "cli": "tfreader.cli"}
FILES = [file for folder in PACKAGES for file in (ROOT / folder).rglob("*.py")]


def listed() -> list[list[str]]:
    """The lines of the list, from the top: paths without `.py`, or patterns of some."""
    (text,) = re.findall(
        r"^```layers\n(.*?)^```", (ROOT / "docs/design.md").read_text(), re.M | re.S
    )
    lines, folder = [], ""
    for line in text.splitlines():
        folder, names = re.fullmatch(r"(\S+/)? +(.+)", line).groups(folder)
        lines.append([folder + name for name in names.split()])
    return lines


def place(file: Path) -> str:
    return str(file.relative_to(ROOT).with_suffix(""))


def module(file: Path) -> str:
    top, _, below = place(file).partition("/")
    return f"{PACKAGES[top]}.{below.replace('/', '.')}".removesuffix(".__init__")


def imported(source: str, name: str, package: str, modules: set[str]) -> Iterator[str]:
    """The `modules` that one imports: anywhere, also in functions and for type checkers alone."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from modules & {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield from modules & {inner if inner in modules else base}
        elif isinstance(node, ast.Attribute) and node.attr == "import_module":
            # By a name that is made up: any module of its own package.
            yield from (each for each in modules - {name} if each.rpartition(".")[0] == package)


def test_every_import_leads_down_the_list():
    lines = listed()
    places = {module(file): place(file) for file in FILES}
    level, wrong = {}, []
    for here in places.values():
        found = [i for i, line in enumerate(lines) if any(fnmatchcase(here, name) for name in line)]
        level[here] = found[0] if len(found) == 1 else None
        if not found:
            wrong.append(f"{here} is missing: it goes above what it imports, below what imports it")
        elif len(found) > 1:
            wrong.append(f"{here} stands in {len(found)} lines")
    for name in (name for line in lines for name in line):
        if not any(fnmatchcase(here, name) for here in places.values()):
            wrong.append(f"{name} is no module any more")
    for file in FILES:
        here = place(file)
        package = module(file) if file.stem == "__init__" else module(file).rpartition(".")[0]
        for other in imported(file.read_text(), module(file), package, set(places)):
            there = places[other]
            if None not in (level[here], level[there]) and level[here] >= level[there]:
                wrong.append(f"{here} imports {there}, which must stand below it")
    assert not wrong, "\n".join(["the list under Arrows in docs/design.md:", *sorted(set(wrong))])


def test_imports_are_seen_wherever_they_stand():
    source = """
from ..top import a_function
if TYPE_CHECKING:
    import p.top.types
def function():
    from . import beside, a_constant
    import os, numpy
"""
    modules = {"p.top", "p.top.types", "p.own", "p.own.beside", "p.own.here", "p.unused"}
    seen = set(imported(source, "p.own.here", "p.own", modules))
    assert seen == modules - {"p.own.here", "p.unused"}
    by_name = "importlib.import_module(f'{__name__}.{found}')"
    assert set(imported(by_name, "p.own", "p.own", modules)) == {"p.own.beside", "p.own.here"}
