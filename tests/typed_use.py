"""Scripts that use tfreader, for type checkers: `make types` runs mypy on them, in the clone.

What is wrong says so by its `type: ignore`, of which mypy warns where nothing is wrong any more.
"""

from typing import assert_type

import tfreader
from tfreader.mapping import Report, convert, load_state_dict, make_plan


def use(path: str) -> None:
    with tfreader.open(path) as checkpoint:
        assert_type(checkpoint, tfreader.Checkpoint)
        make_plan(checkpoint, dtype="bfloat16", moving_averages="use")
    assert_type(convert(path, "out"), Report)
    convert(path, "out", dtype="keep", checksum="sha256")


def misuse(path: str) -> None:
    convert(path, "out", dtype="fp16")  # type: ignore[arg-type]
    convert(path, "out", checksum="md5")  # type: ignore[arg-type]
    convert(path, "out", moving_averages="keep")  # type: ignore[arg-type]
    convert(path, "out", dtypes="float16")  # type: ignore[call-arg]
    load_state_dict(path, dtype="half")  # type: ignore[arg-type]
    make_plan(tfreader.open(path), dtype="fp16")  # type: ignore[arg-type]
