"""More files than a process may have open, in and out."""

from __future__ import annotations

import json
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pytest
from bundle_writer import write_bundle
from safetensors.numpy import load_file

import tfreader
from tfreader.mapping import convert
from tfreader.mapping.rules.rule_file import rules_from_data

SHARDS = 300
RULES = rules_from_data({"rule": [{"source": "(?P<n>.+)", "target": "{n}"}]}, "test")


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """No more than 100 beyond what is open now."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = len(os.listdir("/dev/fd")) + 100
    with suppress(ValueError):  # no more are allowed anyway
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.fixture
def tensors():
    return {f"t{i:03d}": np.full(10 + i, i, np.float32) for i in range(SHARDS)}


@pytest.mark.usefixtures("few_descriptors")
def test_more_shards_than_descriptors_are_read_and_written(tmp_path, tensors):
    prefix = write_bundle(tmp_path / "in" / "m", tensors, num_shards=SHARDS)
    report = convert(prefix, tmp_path / "out", rules=RULES, max_shard_size=40)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) == SHARDS
    assert len(report.files) == SHARDS + 2
    for name, values in tensors.items():
        found = load_file(tmp_path / "out" / index["weight_map"][name])[name]
        np.testing.assert_array_equal(found, values)
    with tfreader.open(prefix) as checkpoint:
        assert checkpoint.verify().tensors == SHARDS


@pytest.mark.usefixtures("few_descriptors")
def test_a_shard_that_is_replaced_while_it_is_not_open_is_noticed(tmp_path, tensors):
    prefix = write_bundle(tmp_path / "in" / "m", tensors, num_shards=SHARDS)
    last = f"{prefix}.data-{SHARDS - 1:05d}-of-{SHARDS:05d}"
    with tfreader.open(prefix) as checkpoint:
        checkpoint.check_shards(list(tensors))
        shutil.copyfile(last, f"{last}.new")
        os.utime(f"{last}.new", ns=(0, 1))
        os.replace(f"{last}.new", last)
        with pytest.raises(tfreader.ChangedError, match="changed while it was open"):
            checkpoint[f"t{SHARDS - 1:03d}"]
