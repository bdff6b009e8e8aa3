"""Install as docker/Dockerfile does and check that this is enough and small: `make package`."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

from servers import serving

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "bert-tiny"
LARGEST = 125_000_000  # bytes installed, in both variants together: one is a layer upon the other
ABSENT = ("torch", "tensorflow", "distributed", "pip", "mapping", "cli")
# The program ends by os._exit, which would skip the record.
RECORDED = """
import os, runpy, sys
os._exit = sys.exit
del sys.argv[0]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    with open("imported", "a") as record:
        for module in list(sys.modules.values()):
            file = getattr(module, "__file__", None)
            print(*[file] if file else getattr(module, "__path__", []), sep="\\n", file=record)
"""


def stages() -> dict[str, str]:
    """The text of each stage of the Dockerfile, by its name; the unnamed last one's is ""."""
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text().replace("\\\n", "")
    _, *found = re.split(r"^FROM ", dockerfile, flags=re.MULTILINE)
    named = {text.partition(" AS ")[2].split("\n")[0]: text for text in found}
    assert [text.split()[0] for text in found] == ["python:${PYTHON}"] * 2 + ["base"] * 2
    assert list(named) == ["build", "base", "remote", ""]
    assert re.findall(r"^(?:COPY|ADD|RUN) .*", named["base"] + named[""], re.MULTILINE) == [
        "COPY --from=build /opt/tfreader /opt/tfreader"
    ]
    assert "\nUSER 10001:10001\n" in named["base"]
    assert named["remote"].endswith("\nUSER 10001:10001\n\n# Where no target is named.\n")
    return named


def run_stage(text: str, environment: Path, context: Path) -> None:
    """Run a stage's own commands on the files that Docker would be given."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    arguments = dict(re.findall(r"^ARG (\w+)=(.*)", text, re.MULTILINE))
    variables = os.environ | arguments | {"PATH": path}
    dist = shlex.quote(f"{context}/dist/")
    places = {"/opt/tfreader": shlex.quote(str(environment)), "(echo /dist/": f"(echo {dist}"}
    for line in re.findall(r"^RUN (.+)", text, re.MULTILINE):
        command = line.removeprefix("--mount=from=build,source=/src/dist,target=/dist ").strip()
        for inside, outside in places.items():
            command = command.replace(inside, outside)
        subprocess.run(["sh", "-c", command], cwd=context, env=variables, check=True)


def check_size(environment: Path) -> None:
    """Print the installed bytes, with byte-code; raise AssertionError if they are too many."""
    sizes: Counter[str] = Counter()
    for file in environment.rglob("*"):
        if file.is_file() and not file.is_symlink():
            _, _, inside = str(file).partition("/site-packages/")
            sizes[inside.split("/")[0]] += file.stat().st_size
    largest = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in sizes.most_common(6))
    print(f"{sizes.total() / 1e6:.1f} MB installed: {largest}")
    assert sizes.total() <= LARGEST


def check(environment: Path, has_remote: bool) -> None:
    """Raise AssertionError unless the environment does its job, and that out of itself alone."""

    def run(code: int, *arguments: str) -> str:
        command = [str(environment / "bin" / "python"), "-c", *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == code, (command, done.stdout, done.stderr)
        return done.stdout + done.stderr

    def tfreader(code: int, *arguments: str) -> str:
        return run(code, RECORDED, str(environment / "bin" / "tfreader"), *arguments)

    with tempfile.TemporaryDirectory() as folder:
        for module in (*ABSENT, *["obstore"] * (not has_remote)):
            assert "ModuleNotFoundError" in run(1, f"import {module}")
        assert "bert/pooler/dense/kernel" in tfreader(0, "inspect", str(EXAMPLE))
        assert "all in order" in tfreader(0, "verify", str(EXAMPLE))
        convert = ("convert", "--tf_checkpoint", str(EXAMPLE), "--pytorch_dump_output")
        tfreader(0, *convert, "out")
        assert (Path(folder) / "out" / "model.safetensors").stat().st_size > 50_000
        assert "as recorded" in tfreader(0, "verify", "out")
        assert "46 equal" in tfreader(0, "verify", "out", "--against", str(EXAMPLE))
        batch = ("batch", "--glob", f"{EXAMPLE}/*.index", "--output-root", "all")
        assert "1 done" in tfreader(0, *batch)
        assert "optional dependency: distributed>=" in tfreader(
            1, *batch, "--dask", "tcp://127.0.0.1:1"
        )
        with serving(EXAMPLE) as server:
            fetch = ("convert", "--tf_checkpoint", f"{server.url}/bert_model.ckpt")
            said = tfreader(1 - has_remote, *fetch, "--pytorch_dump_output", "fetched")
            assert ("optional dependency: obstore>=" in said) != has_remote
        assert "optional dependency: torch>=" in tfreader(1, *convert, "out.bin")
        assert not (Path(folder) / "out.bin").exists()
        imported = [*filter(None, (Path(folder) / "imported").read_text().splitlines())]
        library = run(0, "import sysconfig; print(sysconfig.get_path('stdlib'))").strip()

    def belongs(file: str) -> bool:
        path = Path(file)
        standard = path.is_relative_to(library) and "site-packages" not in path.parts
        return standard or path.is_relative_to(environment)

    assert any(file.endswith("/tfreader/mapping/output.py") for file in imported)
    outside = {file for file in imported if not belongs(file)}
    assert not outside, outside


def main(environment: Path) -> None:
    """Install into `environment` and check; leave the wheel in dist/."""
    stage = stages()
    with tempfile.TemporaryDirectory() as folder:
        context = Path(folder)
        for name in re.findall(r"^!(.+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE):
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, context / name)
        run_stage(stage["build"], environment, context)
        shutil.copytree(context / "dist", ROOT / "dist")
        (wheel,) = (ROOT / "dist").glob("*.whl")
        tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
        assert {top for top in tops if not top.endswith(".dist-info")} == {"tfreader"}, tops
        check(environment, has_remote=False)
        before = {file: file.stat().st_mtime_ns for file in environment.rglob("*.py")}
        run_stage(stage["remote"], environment, context)
    changed = [str(file) for file, time in before.items() if file.stat().st_mtime_ns != time]
    assert not changed, changed  # else the layer would have it once more
    check_size(environment)
    check(environment, has_remote=True)
    # Once more with the oldest protobuf that pyproject.toml allows.
    pip = (sys.executable, "-m", "pip", "--python", environment / "bin" / "python")
    subprocess.run([*pip, "install", "--quiet", "protobuf==4.25.*"], check=True)
    check(environment, has_remote=True)
    print(f"{wheel.name}: all in order in {environment}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
