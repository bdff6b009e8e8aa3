"""A pool whose workers die of some jobs; a module of its own, as workers must import it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from tfreader.mapping.batch import Job, Outcome, Pool


def run_or_die(job: Job, **settings: Any) -> Outcome:
    """Kill the worker in a job named deadly, always; in one named fatal-once, the first time."""
    name = Path(job.pytorch_dump_output).name
    marker = Path(job.pytorch_dump_output).with_suffix(".tried")
    if name == "deadly" or (name == "fatal-once" and not marker.exists()):
        marker.touch()
        os.write(2, b"the last words of a library in C\n")
        os.kill(os.getpid(), signal.SIGKILL)
    return Pool.run(job, **settings)


class DeadlyPool(Pool):
    run = staticmethod(run_or_die)
