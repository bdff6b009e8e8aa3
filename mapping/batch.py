"""Many conversions at once, through any `concurrent.futures.Executor`.

A job is planned and carried out by one worker. What goes back and forth is small: the job's options
there, the outcome back. Since an output appears whole and with its record, a job may be done again
by another worker, or by a later run, wherever the first was stopped.
"""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from multiprocessing import get_context, parent_process
from signal import SIG_IGN, SIGINT, default_int_handler, signal
from threading import Thread
from typing import TYPE_CHECKING, Any, Protocol

from tfreader.errors import (
    AccessDeniedError,
    CheckpointNotFoundError,
    ConfigError,
    MissingExtraError,
    RemoteError,
    TFReaderError,
)

from .convert import convert
from .execute import MEMORY_LIMIT
from .places import is_torch_file

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized

MIN_SHARE = 16 << 20  # a worker with less than this for tensors would do little but wait
BASE_MEMORY = 80 << 20  # what a process with numpy takes before the first tensor
TORCH_MEMORY = 320 << 20  # and one with torch
MOST_DEATHS = 3  # of workers, the first perhaps by another job that ran beside this one
POLL = 0.2  # seconds after which a stop is noticed
CLUSTER_TIMEOUT = 30  # seconds in which a scheduler must answer, and have a worker

DONE, SKIPPED, PLANNED, FAILED = "done", "skipped", "planned", "failed"


@dataclass(frozen=True)
class Job:
    """One conversion. The paths must mean the same to every worker; `options` are `convert`'s.

    `is_folder` says that the output is to be a folder, were its name that of a checkpoint.
    """

    tf_checkpoint: str
    pytorch_dump_output: str
    options: Mapping[str, Any] = field(default_factory=dict)
    is_folder: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    `status` is "done", "skipped" (it was done before), "planned" (a dry run) or "failed". `nbytes`
    are those of its tensors, `seconds` what the last attempt took.
    """

    job: Job
    status: str
    seconds: float
    attempts: int = 1
    nbytes: int = 0
    tensors: int = 0
    model_type: str | None = None
    architecture: str | None = None
    files: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    error: str | None = None
    error_type: str | None = None

    def to_data(self) -> dict[str, Any]:
        """The outcome as plain data, for JSON."""
        data = asdict(self)
        job = data.pop("job")
        del job["is_folder"]
        return {**job, **data}


class TemporaryError(Exception):
    """A job failed as it may not fail the next time; its argument is the Outcome."""


@dataclass(frozen=True)
class _Shared:
    """What the processes of a pool share: bytes of tensors written, and whether to stop."""

    written: Synchronized[int]
    stopped: Synchronized[int]


_shared: _Shared | None = None  # in a worker of a pool


def _advance(count: int) -> None:
    if _shared is None:
        return
    if _shared.stopped.value:
        raise KeyboardInterrupt
    with _shared.written.get_lock():
        _shared.written.value += count


def run_job(job: Job, memory_limit: int, resume: bool = True, dry_run: bool = False) -> Outcome:
    """Do one job. Raises TemporaryError where it failed for the network."""
    start = time.perf_counter()

    def outcome(status: str, **found: Any) -> Outcome:
        return Outcome(job, status, round(time.perf_counter() - start, 3), **found)

    def failed(error: Exception, message: str) -> Outcome:
        return outcome(FAILED, error=message, error_type=type(error).__name__)

    try:
        report = convert(
            job.tf_checkpoint,
            job.pytorch_dump_output + "/" * job.is_folder,
            memory_limit=memory_limit,
            progress=lambda _: _advance,
            record=True,
            resume=resume,
            dry_run=dry_run,
            **job.options,
        )
    except AccessDeniedError as error:
        return failed(error, str(error))
    except RemoteError as error:
        raise TemporaryError(failed(error, str(error))) from None
    except TFReaderError as error:
        return failed(error, str(error))
    except Exception as error:  # a fault of ours must not take the other jobs with it
        return failed(error, f"unexpected {type(error).__name__}: {error}; please report it")
    if report.missing:
        return failed(CheckpointNotFoundError(), report.missing)
    plan = report.plan
    return outcome(
        SKIPPED if report.skipped else PLANNED if dry_run else DONE,
        nbytes=plan.nbytes,
        tensors=len(plan.entries),
        model_type=plan.family.model_type if plan.family else None,
        architecture=plan.architecture,
        files=report.files,
        notes=report.notes,
    )


@dataclass(frozen=True)
class _Attempt:
    job: Job
    number: int = 1
    alone: bool = False  # a worker died while it ran among others


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


def _start_worker(shared: _Shared) -> None:
    def leave_with_parent() -> None:
        parent = parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

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
        return run_job(job, **settings)
    finally:
        signal(SIGINT, SIG_IGN)


class Pool:
    """Processes of this machine."""

    run = staticmethod(_run_in_pool)

    def __init__(self, workers: int) -> None:
        self.count = workers
        self.at_once = 2 * workers  # so that none waits for its next job
        self._context = get_context("spawn")  # a fork would share threads' locks
        self._shared = _Shared(self._context.Value("Q", 0), self._context.Value("B", 0))

    def executor(self) -> ProcessPoolExecutor:
        self._shared.stopped.value = 0
        return ProcessPoolExecutor(
            self.count, self._context, initializer=_start_worker, initargs=(self._shared,)
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


class Batch:
    """Jobs that run on workers, some of them at a time.

    A pool that loses a worker is replaced, and the jobs that were running are done again, one after
    the other: one that takes workers down again and again has failed. A job that failed for the
    network is put behind the others, up to `retries` times.
    """

    def __init__(
        self, jobs: Sequence[Job], workers: Workers, retries: int = 0, **settings: Any
    ) -> None:
        self.total = len(jobs)
        self.is_stopped = False
        self._finished = 0  # bytes of the tensors of finished jobs
        self._waiting = deque(_Attempt(job) for job in jobs)
        self._running: dict[Future[Outcome], _Attempt] = {}
        self._workers = workers
        self._retries = retries
        self._run = partial(workers.run, **settings)

    @property
    def running(self) -> list[Job]:
        """The jobs that are being done."""
        return [attempt.job for attempt in list(self._running.values())[: self._workers.count]]

    @property
    def written(self) -> int:
        """Bytes of tensors written by now."""
        live = self._workers.written()
        return self._finished if live is None else live

    def stop(self) -> None:
        """End `run` soon: jobs that are being done are given up."""
        self.is_stopped = True

    def run(self) -> Iterator[Outcome]:
        """Do all jobs; their outcomes, as they come."""
        executor = self._workers.executor()
        try:
            while (self._waiting or self._running) and not self.is_stopped:
                is_broken = not self._submit(executor)
                done, _ = wait(self._running, POLL, FIRST_COMPLETED)
                is_broken |= any(isinstance(_error(future), BrokenExecutor) for future in done)
                yield from self._outcomes(done)
                if is_broken:
                    self._workers.stop(executor)
                    executor = self._workers.executor()
        finally:
            self._workers.stop(executor)
        yield from self._outcomes({f for f in self._running if f.done() and not _error(f)})

    def _outcomes(self, done: Iterable[Future[Outcome]]) -> Iterator[Outcome]:
        for future in done:
            attempt = self._running.pop(future)
            error = _error(future)
            outcome = self._settle(attempt, error) if error else future.result()
            if outcome is not None:
                self._finished += outcome.nbytes if outcome.status == DONE else 0
                yield replace(outcome, attempts=attempt.number)

    def _submit(self, executor: Executor) -> bool:
        """Hand jobs out; False where the executor takes no more."""
        while self._waiting and len(self._running) < self._workers.at_once:
            attempt = self._waiting[0]
            beside = self._running.values()
            if beside and (attempt.alone or any(other.alone for other in beside)):
                break
            try:
                future = executor.submit(self._run, attempt.job)
            except BrokenExecutor:
                return False
            self._running[future] = self._waiting.popleft()
        return True

    def _settle(self, attempt: _Attempt, error: BaseException) -> Outcome | None:
        """The outcome of an attempt that gave none; None if there will be another."""
        again = replace(attempt, number=attempt.number + 1)
        if isinstance(error, KeyboardInterrupt):
            return None
        if isinstance(error, BrokenExecutor) and attempt.number < MOST_DEATHS:
            self._waiting.appendleft(replace(again, alone=True))
            return None
        if isinstance(error, TemporaryError):
            if attempt.number <= self._retries:
                self._waiting.append(again)
                return None
            outcome: Outcome = error.args[0]
            return outcome
        return Outcome(
            attempt.job, FAILED, 0.0, error=_why_lost(error), error_type=type(error).__name__
        )


def _error(future: Future[Outcome]) -> BaseException | None:
    return CancelledError() if future.cancelled() else future.exception()


def _why_lost(error: BaseException) -> str:
    if isinstance(error, BrokenExecutor):
        return (
            f"its worker died {MOST_DEATHS} times, as where a system runs out of memory: try a "
            "smaller --memory-limit, or fewer --jobs"
        )
    if isinstance(error, CancelledError):
        return "the cluster's scheduler was lost: start again to go on, once there is one"
    return f"its worker was lost or cannot run it ({type(error).__name__}: {error})"


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
