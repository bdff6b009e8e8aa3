"""Check a wheel in a bare environment that has neither torch nor TensorFlow: `make package`."""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "bert-tiny"


def main(environment: Path, wheel: Path) -> None:
    """Raise AssertionError unless the installed wheel does its job and holds nothing else."""
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"tfreader"}, tops

    def run(code: int, program: str, *arguments: str) -> str:
        command = [str(environment / "bin" / program), *arguments]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == code, (command, done.stdout, done.stderr)
        return done.stdout + done.stderr

    with tempfile.TemporaryDirectory() as folder:
        for module in ("torch", "tensorflow", "mapping", "cli"):
            run(1, "python", "-c", f"import {module}")
        assert "bert/pooler/dense/kernel" in run(0, "tfreader", "inspect", str(EXAMPLE))
        assert "all in order" in run(0, "tfreader", "verify", str(EXAMPLE))
        convert = ("convert", "--tf_checkpoint", str(EXAMPLE), "--pytorch_dump_output")
        run(0, "tfreader", *convert, "out")
        assert (Path(folder) / "out" / "model.safetensors").stat().st_size > 50_000
        assert "tfreader-torch[torch]" in run(1, "tfreader", *convert, "out.bin")
        assert not (Path(folder) / "out.bin").exists()
    print(f"{wheel.name}: all in order in {environment}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), Path(sys.argv[2]))
