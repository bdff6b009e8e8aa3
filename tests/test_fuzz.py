"""The inputs that the fuzzer starts from, and those that it once found something with."""

from __future__ import annotations

import fuzz
import pytest
from conftest import DATA

FOUND = sorted((DATA / "fuzz").glob("*"))


@pytest.mark.parametrize("data", [*fuzz.seeds(), *(path.read_bytes() for path in FOUND)])
def test_inputs_are_read_or_refused(data, tmp_path):
    if data[:1] < bytes([fuzz.TARGETS.index(fuzz.fuzz_files.rules)]):  # of a checkpoint
        fuzz.check(data, tmp_path)
    with fuzz.unchecked():
        fuzz.check(data, tmp_path)
