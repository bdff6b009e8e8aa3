from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent))

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"
BERT = ROOT / "examples" / "bert-tiny"
KERAS = ROOT / "examples" / "keras-regressor"


@pytest.fixture
def copy(tmp_path: Path) -> Callable[[Path], Path]:
    """Copies a checkpoint's folder to where a test may damage it."""

    def copy_folder(folder: Path) -> Path:
        return Path(shutil.copytree(folder, tmp_path / "copy" / folder.name))

    return copy_folder
