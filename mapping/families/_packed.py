"""Facts of Hugging Face's classes that lie beside this file, read when they are first asked for."""

from __future__ import annotations

import json
import lzma
from functools import cache
from pathlib import Path
from typing import Any


@cache
def packed(name: str) -> dict[str, Any]:
    """What a file holds, which is JSON in xz."""
    data: dict[str, Any] = json.loads(lzma.decompress(Path(__file__).with_name(name).read_bytes()))
    return data
