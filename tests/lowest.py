"""Make an environment with the lowest release of each library that pyproject.toml allows.

    python tests/lowest.py build/lowest

What the tests need beside them is the newest that goes with it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOT_FOR_TESTS = {"torch", "ruff", "mypy", "types-protobuf", "atheris", "grpcio-tools"}


def main(environment: Path) -> None:
    venv.create(environment, clear=True, with_pip=True)
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"

    def install(*arguments: str) -> None:
        command = [python, "-m", "pip", "install", "--quiet", "--no-compile", *arguments]
        subprocess.run(command, check=True, cwd=ROOT)

    lowest, tools = requirements()
    torch = lowest.pop("torch")
    install("jinja2", "networkx", "sympy", *lowest.values(), *tools)
    # PyPI's torch for Linux wants CUDA, which is gigabytes; torch alone is less than one.
    install("--no-deps", torch)
    install("--no-deps", "--editable", ".")
    if sys.platform == "linux":
        for folder in environment.glob("lib/python*/site-packages/torch/lib"):
            stand_in_for_cuda(folder)
    subprocess.run([python, "-m", "pip", "list"], check=True)


def requirements() -> tuple[dict[str, str], list[str]]:
    """What each declared lower bound stands for, by name, and what the tests need."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = settings["project"]
    extras = project["optional-dependencies"]
    tools = {name_of(each): each for each in settings["dependency-groups"]["dev"]}
    declared = [*project["dependencies"], *(each for extra in extras.values() for each in extra)]
    lowest = {name_of(each): each.replace(">=", "==") for each in declared}
    unneeded = NOT_FOR_TESTS | lowest.keys()
    return lowest, [tool for name, tool in tools.items() if name not in unneeded]


def name_of(requirement: str) -> str:
    return re.split(r"[^\w-]", requirement, maxsplit=1)[0]


def stand_in_for_cuda(folder: Path) -> None:
    """Make a torch built for CUDA importable without: by libraries whose functions do nothing.

    They say that all went well, and leave the number of devices at 0.
    """
    libraries = [str(path) for path in folder.glob("lib*.so")]
    needed = subprocess.check_output(["readelf", "-d", *libraries], text=True)
    names = set(re.findall(r"\[(lib(?:cu|nccl|nv)[^\]]*)\]", needed))
    symbols = subprocess.check_output(["nm", "-D", "--undefined-only", *libraries], text=True)
    functions = sorted(set(re.findall(r" U (_*(?:cu|nccl|nv)\w+)", symbols)))
    source = "".join(f"long {name}(void) {{ return 0; }}\n" for name in functions)
    versions = folder / "versions.txt"
    for name in names:
        versions.write_text(f"{name} {{ global: *; }};")  # torch asks for symbols as of a library
        flags = f"-Wl,-soname,{name},--version-script,{versions}"
        command = ["gcc", "-shared", "-fPIC", "-w", flags, "-o", str(folder / name)]
        subprocess.run([*command, "-x", "c", "-"], input=source, text=True, check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
