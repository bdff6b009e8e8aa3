from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import ROOT

from tfreader import checkpoint_pb2


def test_the_generated_module_is_current(tmp_path):
    pytest.importorskip("grpc_tools")  # it needs a newer protobuf than tfreader does
    command = [sys.executable, str(ROOT / "proto" / "generate.py"), str(tmp_path)]
    subprocess.run(command, check=True)
    for name in ("checkpoint_pb2.py", "checkpoint_pb2.pyi"):
        assert (tmp_path / name).read_text() == (ROOT / "tfreader" / name).read_text()


def test_names_cannot_clash_with_tensorflow():
    assert checkpoint_pb2.DESCRIPTOR.package == "tfreader.checkpoint"
    assert checkpoint_pb2.DESCRIPTOR.name.startswith("tfreader/")
