"""A script that uses tfreader, for type checkers: `make types` runs mypy on it, in the clone."""

from typing import assert_type

import tfreader
from tfreader.mapping import Report, convert


def use(path: str) -> None:
    with tfreader.open(path) as checkpoint:
        assert_type(checkpoint, tfreader.Checkpoint)
    assert_type(convert(path, "out"), Report)
