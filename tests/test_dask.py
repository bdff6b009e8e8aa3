"""`tfreader batch --dask`: a real scheduler, real workers, and the death of one."""

from __future__ import annotations

import json
import subprocess

import numpy as np
import pytest
from bundle_writer import write_bundle
from cluster import cluster
from conftest import TFREADER

from tfreader.mapping.records.audit import verify_output


def batch(*arguments, code=0):
    command = [*TFREADER, "batch", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture
def thirty(tmp_path):
    """A file of thirty jobs that take a moment each."""
    tensors = {f"x/{i}": np.full((1000, 1000), i, np.float32) for i in range(8)}
    prefix = write_bundle(tmp_path / "model", tensors)
    rules = '[[rule]]\nsource = "x/(?P<n>.*)"\ntarget = "{n}"\nops = ["transpose"]\n'
    (tmp_path / "rules.toml").write_text(rules)
    jobs = tmp_path / "jobs.jsonl"
    row = {"tf_checkpoint": str(prefix), "rules": "rules.toml"}
    rows = [row | {"pytorch_dump_output": f"out/{i}.safetensors"} for i in range(30)]
    jobs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return jobs


def test_every_job_is_done_though_a_worker_dies(tmp_path, thirty):
    with cluster(tmp_path) as running:
        command = [*TFREADER, "batch", thirty, "--dask", running.address, "--resource", "MEMORY=1"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            log = [process.stderr.readline() for _ in range(4)]
            running.workers[0].kill()
            log += process.stderr.readlines()
        assert process.returncode == 0, "".join(log)
        assert running.workers[1].poll() is None
        # What was whole before its worker could say so is found there by the next one.
        finished = [line for line in log if "/30] done " in line or "/30] skipped " in line]
        assert len(finished) == 30
        # Again: all is recognised, by whichever worker it was made.
        assert "30 skipped" in batch(thirty, "--dask", running.address).stdout
    outputs = sorted((tmp_path / "out").iterdir())
    weights = [path for path in outputs if path.suffix == ".safetensors"]
    assert len(outputs) == 2 * len(weights) == 60  # a record each, and nothing half-written
    assert len({path.read_bytes() for path in weights}) == 1
    for path in weights:
        verify_output(path)


def test_what_a_cluster_cannot_do_is_said_at_once(tmp_path, thirty, monkeypatch):
    done = batch(thirty, "--dask", "nonsense://there", code=1)
    assert "nonsense://there: no Dask cluster" in done.stderr
    with cluster(tmp_path) as running:
        done = batch(thirty, "--dask", running.address, "--resource", "MEMORY=3", code=2)
        assert "no worker has 3 of the resource 'MEMORY', at most 2" in done.stderr
        done = batch(thirty, "--dask", running.address, "--resource", "GPU=1", code=2)
        assert "no worker has 1 of the resource 'GPU'" in done.stderr
    assert not (tmp_path / "out").exists()
