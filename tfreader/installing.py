"""How to install what is missing, told by where this package was installed from."""

from __future__ import annotations

import json
import re
import shutil
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from .system import quoted

NAME = "tfreader-torch"


def install_extra(extra: str) -> str:
    """The command that adds an extra to this very installation.

    No index has the package by its name. From a folder that is still there the extra is installed
    as the package was; else the libraries that it stands for are.
    """
    folder: Path | None
    try:
        installed = distribution(NAME)
    except PackageNotFoundError:  # it is used as it lies
        folder, flag, libraries = Path(__file__).parents[1], "-e ", [f"{NAME}[{extra}]"]
    else:
        folder, flag = _source(installed)
        libraries = _libraries(installed, extra)
    if find_spec("pip") is None:
        return f"{' '.join(libraries)}, in {sys.prefix}, which has no pip"
    if folder is None or not (folder / "pyproject.toml").is_file():
        return f"{_pip()} install {quoted(*libraries)}"
    where = "." if folder == Path.cwd() else str(folder)
    return f"{_pip()} install {flag}{quoted(f'{where}[{extra}]')}"


def _source(installed: Distribution) -> tuple[Path | None, str]:
    """The local path that was installed, and pip's flag for an editable one.

    https://packaging.python.org/specifications/direct-url/. What Python finds in a clone, having
    been started there, has no such record.
    """
    record = installed.read_text("direct_url.json")
    if record is None:
        return Path(str(installed.locate_file(""))), "-e "
    origin = json.loads(record)
    url = urlsplit(origin["url"])
    is_editable = origin.get("dir_info", {}).get("editable", False)
    path = Path(url2pathname(url.path)) if url.scheme == "file" else None
    return path, "-e " if is_editable else ""


def _libraries(installed: Distribution, extra: str) -> list[str]:
    declared = (requirement.partition(";") for requirement in installed.requires or ())
    return [
        library.strip()
        for library, _, marker in declared
        if re.search(rf"""\bextra == ["']{extra}["']""", marker)
    ]


def _pip() -> str:
    """That of this Python, which the first on the PATH need not be."""
    first = shutil.which("pip")
    if first is not None and Path(first).parent == Path(sys.executable).parent:
        return "pip"
    return f"{quoted(sys.executable)} -m pip"
