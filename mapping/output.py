"""Outputs appear whole or not at all: written under a temporary name, then renamed."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tfreader.errors import OutputError, TFReaderError

_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json")


@contextmanager
def staged(output: Path, is_folder: bool) -> Iterator[Path]:
    """A temporary folder beside (or in) `output` to write into; its files take their place at exit.

    For a file output the temporary folder must hold one file of the output's name. On any error
    the temporary folder is removed, and so are parent folders that were made for it and are empty.
    Raises OutputError when the output cannot be written.
    """
    if is_folder and output.exists() and not output.is_dir():
        raise OutputError(f"{output}: is a file; name a folder, or a file ending in .safetensors")
    if not is_folder and output.is_dir():
        raise OutputError(f"{output}: is a folder; name a file, or a folder without that ending")
    home = output if is_folder and output.is_dir() else output.parent
    made = [path for path in (home, *home.parents) if not path.exists()]
    stage: Path | None = None
    done = False
    try:
        home.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".tmp", dir=home))
        yield stage
        _publish(stage, output, is_folder)
        done = True
    except TFReaderError:
        raise
    except OSError as error:
        raise OutputError(f"{output}: cannot be written ({error.strerror or error})") from error
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)
        if not done:
            with suppress(OSError):  # another conversion may be using them by now
                for folder in made:
                    folder.rmdir()


def _publish(stage: Path, output: Path, is_folder: bool) -> None:
    names = sorted(path.name for path in stage.iterdir())
    mode = 0o666 & ~_umask()
    for name in names:
        os.chmod(stage / name, mode)
    if not is_folder:
        os.replace(stage / output.name, output)
        return
    if not output.exists():
        os.chmod(stage, 0o777 & ~_umask())
        os.replace(stage, output)
        return
    for name in sorted(names, key=lambda name: name == "config.json"):
        os.replace(stage / name, output / name)
    # Weights of an earlier conversion could be loaded in place of the new ones.
    for old in output.iterdir():
        if _WEIGHTS.fullmatch(old.name) and old.name not in names:
            old.unlink()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
