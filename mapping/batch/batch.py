"""Jobs handed out to workers, some of them again, until each has its outcome."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    wait,
)
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from .jobs import DONE, FAILED, Job, Outcome, TemporaryError
from .workers import Workers

MOST_DEATHS = 3  # of workers, the first perhaps by another job that ran beside this one
POLL = 0.2  # seconds after which a stop is noticed


@dataclass(frozen=True)
class _Attempt:
    job: Job
    number: int = 1
    alone: bool = False  # a worker died while it ran among others


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
            attempt.job,
            FAILED,
            0.0,
            error=_why_lost(error),
            error_type=type(error).__name__,
            code="worker-lost",
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
