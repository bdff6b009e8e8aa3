"""Where the jobs of a batch are done: processes of this machine, or workers of a Dask cluster."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from signal import SIG_IGN, SIGINT, default_int_handler, signal
from threading import Thread
from typing import TYPE_CHECKING, Any, Protocol

from tfreader.errors import ConfigError, MissingExtraError, RemoteError
from tfreader.system import most_processes

from ..execute import MEMORY_LIMIT
from ..places import is_torch_file
from .jobs import Job, Outcome, run_job

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized

MIN_SHARE = 16 << 20  # a worker with less than this for tensors would do little but wait
BASE_MEMORY = 80 << 20  # what a process with numpy takes before the first tensor
TORCH_MEMORY = 320 << 20  # and one with torch
CLUSTER_TIMEOUT = 30  # seconds in which a scheduler must answer, and have a worker


class Workers(Protocol):
    """Where jobs are done: `run` by an `executor` that takes `at_once` of them at a time.

    `count` of them run, the others wait there for the next free worker.
    """

    count: int
    at_once: int
    run: Callable[..., Outcome]

    def executor(self) -> Executor: ...

    def written(self) -> int | None:
        """Bytes of tensors written by now, also by jobs that still run; None if nobody knows."""

    def stop(self, executor: Executor) -> None:
        """End what runs, and wait for it."""


@dataclass(frozen=True)
class _Shared:
    """What the processes of a pool share: bytes of tensors written, and whether to stop."""

    written: Synchronized[int]
    stopped: Synchronized[int]


_shared: _Shared | None = None  # in a worker of a pool


def _advance(count: int) -> None:
    """Count bytes written; end the job once the pool is stopped."""
    assert _shared is not None
    if _shared.stopped.value:
        raise KeyboardInterrupt
    with _shared.written.get_lock():
        _shared.written.value += count


def _start_worker(shared: _Shared, is_silent: bool) -> None:
    def leave_with_parent() -> None:
        parent = parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    if is_silent:  # also what C writes as it crashes
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number in (1, 2):
            os.dup2(nowhere, number)
    global _shared  # noqa: PLW0603 - what an initializer is for
    _shared = shared
    atexit.register(os._exit, 0)  # taking torch down, object by object, takes half a second
    signal(SIGINT, SIG_IGN)  # of a terminal, meant for all: idle workers end with the pool
    Thread(target=leave_with_parent, daemon=True).start()


def _run_in_pool(job: Job, **settings: Any) -> Outcome:
    """A job that an interrupt stops, so that it tidies up."""
    signal(SIGINT, default_int_handler)
    try:
        _advance(0)  # not to begin what was handed out before the stop
        return run_job(job, **settings, advance=_advance)
    finally:
        signal(SIGINT, SIG_IGN)


class Pool:
    """Processes of this machine; `is_silent` where nobody may see what libraries print there."""

    run = staticmethod(_run_in_pool)

    def __init__(self, workers: int, is_silent: bool = False) -> None:
        self.is_silent = is_silent
        self.count = min(workers, most_processes())
        self.at_once = 2 * self.count  # so that none waits for its next job
        self._context = get_context("spawn")  # a fork would share threads' locks
        self._shared = _Shared(self._context.Value("Q", 0), self._context.Value("B", 0))

    def executor(self) -> ProcessPoolExecutor:
        self._shared.stopped.value = 0
        return ProcessPoolExecutor(
            self.count,
            self._context,
            initializer=_start_worker,
            initargs=(self._shared, self.is_silent),
        )

    def written(self) -> int:
        count: int = self._shared.written.value
        return count

    def stop(self, executor: Executor) -> None:
        self._shared.stopped.value = 1
        executor.shutdown(cancel_futures=True)


class Cluster:
    """Workers of a Dask cluster, each job with a claim on so much of their `resources`.

    A job whose worker dies is done by another; one that fails for the network is done again, up to
    `retries` times. Raises MissingExtraError, RemoteError where no worker can be had.
    """

    at_once = sys.maxsize  # the scheduler knows who is free
    run = staticmethod(run_job)

    def __init__(self, address: str, resources: Mapping[str, float], retries: int) -> None:
        try:
            from distributed import Client
        except ImportError:
            raise MissingExtraError(f"--dask {address}", "dask") from None
        try:
            self._client = Client(address, timeout=CLUSTER_TIMEOUT, set_as_default=False)
            self._client.wait_for_workers(1, timeout=CLUSTER_TIMEOUT)
        except (OSError, ValueError) as error:  # its time-outs are OSErrors
            raise RemoteError(f"{address}: no Dask cluster with workers there ({error})") from None
        workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        self.count = sum(worker["nthreads"] for worker in workers)
        for name, amount in resources.items():
            most = max(worker["resources"].get(name, 0) for worker in workers)
            if most < amount:
                raise ConfigError(
                    f"{address}: no worker has {amount:g} of the resource {name!r}, at most "
                    f"{most:g}; start workers with --resources {name}={amount:g}"
                )
        self._options = {"resources": dict(resources), "retries": retries, "pure": False}

    def executor(self) -> Executor:
        executor: Executor = self._client.get_executor(**self._options)
        return executor

    def written(self) -> None:
        return None

    def stop(self, executor: Executor) -> None:
        executor.shutdown(wait=False)
        self._client.close()


def needs_torch(job: Job) -> bool:
    """Whether a job's worker will import torch, as far as the names of local files tell."""
    inside = os.listdir(job.tf_checkpoint) if os.path.isdir(job.tf_checkpoint) else []
    names = job.tf_checkpoint, job.pytorch_dump_output, *inside
    return any(map(is_torch_file, names))


def shares(memory_limit: int, workers: int, with_torch: bool) -> tuple[int, int]:
    """How many of the workers a budget of memory is enough for, and what each has for tensors.

    The budget is for all processes, this one too. Raises ConfigError where it is too small for one.
    """
    base = TORCH_MEMORY if with_torch else BASE_MEMORY
    for count in range(workers, 0, -1):
        share = (memory_limit - BASE_MEMORY) // count - base
        if share >= MIN_SHARE:
            return count, min(share, MEMORY_LIMIT)
    needed = (BASE_MEMORY + base + MIN_SHARE) // 10**6
    raise ConfigError(
        f"a memory limit of {memory_limit} bytes is too small: one worker takes {needed} MB"
    )
