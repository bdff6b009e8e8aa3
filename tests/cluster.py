"""A Dask cluster of real processes on loopback: a scheduler and two workers."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

LOOPBACK = ("--host", "127.0.0.1", "--no-dashboard")


class Cluster(NamedTuple):
    address: str
    workers: list[subprocess.Popen[bytes]]


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Two workers with one thread each, and 2 units of the resource MEMORY."""
    with ExitStack() as stack:

        def start(module: str, *arguments: str) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-m", f"distributed.cli.{module}", *LOOPBACK, *arguments]
            with open(folder / f"{module}.log", "ab") as log:
                process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process

        start("dask_scheduler", "--port", "0")
        address = _address(folder / "dask_scheduler.log")
        options = ("--nthreads", "1", "--no-nanny", "--resources", "MEMORY=2")
        yield Cluster(address, [start("dask_worker", address, *options) for _ in range(2)])


def _address(log: Path) -> str:
    """Where the scheduler says that it listens."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for line in log.read_text().splitlines():
            if "Scheduler at:" in line:
                return line.split()[-1]
        time.sleep(0.05)
    raise TimeoutError(log.read_text())
