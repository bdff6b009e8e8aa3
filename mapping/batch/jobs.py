"""The jobs of a batch, and one of them done, by whichever worker."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tfreader.errors import (
    AccessDeniedError,
    CheckpointNotFoundError,
    RemoteError,
    TFReaderError,
)

from ..convert import convert

DONE, SKIPPED, PLANNED, FAILED = "done", "skipped", "planned", "failed"
PASSED_OVER = "passed_over"
# Causes that make of a file, which was found by its name alone, none that was to be converted.
NO_CHECKPOINT = ("jax", "not-a-checkpoint", "pytorch", "training-state-alone")


@dataclass(frozen=True)
class Job:
    """One conversion. The paths must mean the same to every worker; `options` are `convert`'s.

    `is_folder` says that the output is to be a folder, were its name that of a checkpoint,
    `is_guess` that the checkpoint was told by its name alone, and may be something else.
    """

    tf_checkpoint: str
    pytorch_dump_output: str
    options: Mapping[str, Any] = field(default_factory=dict)
    is_folder: bool = False
    is_guess: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    `status` is "done", "skipped" (it was done before), "planned" (a dry run), "failed" or
    "passed_over" (there is nothing to convert). `nbytes` are those of its tensors, `seconds` what
    the last attempt took. `code` is that of the error, the same for all of one cause.
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
    code: str | None = None

    def to_data(self) -> dict[str, Any]:
        """The outcome as plain data, for JSON."""
        data = asdict(self)
        job = data.pop("job")
        del job["is_folder"], job["is_guess"]
        return {**job, **data}

    @classmethod
    def passed_over(cls, path: str, code: str, why: str) -> Outcome:
        """That of a file for which there is no job."""
        return cls(Job(path, ""), PASSED_OVER, 0.0, error=why, code=code)


class TemporaryError(Exception):
    """A job failed as it may not fail the next time; its argument is the Outcome."""


def run_job(
    job: Job,
    memory_limit: int,
    resume: bool = True,
    dry_run: bool = False,
    advance: Callable[[int], None] = lambda _: None,
) -> Outcome:
    """Do one job; `advance` is told of bytes written.

    Raises TemporaryError where it failed for the network, and what `advance` raises that is no
    Exception.
    """
    start = time.perf_counter()

    def outcome(status: str, **found: Any) -> Outcome:
        return Outcome(job, status, round(time.perf_counter() - start, 3), **found)

    def failed(error: Exception, message: str) -> Outcome:
        code = error.code if isinstance(error, TFReaderError) else "unexpected"
        return outcome(
            PASSED_OVER if job.is_guess and code in NO_CHECKPOINT else FAILED,
            model_type=getattr(error, "model_type", None),
            error=message,
            error_type=type(error).__name__,
            code=code,
        )

    try:
        report = convert(
            job.tf_checkpoint,
            job.pytorch_dump_output + "/" * job.is_folder,
            memory_limit=memory_limit,
            progress=lambda _: advance,
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
        return failed(CheckpointNotFoundError(code="missing-shard"), report.missing)
    plan = report.plan
    if not job.pytorch_dump_output.isascii():  # it may have been found in Unicode's other form
        job = replace(job, pytorch_dump_output=report.output)
    return outcome(
        SKIPPED if report.skipped else PLANNED if dry_run else DONE,
        nbytes=plan.nbytes,
        tensors=len(plan.entries),
        model_type=plan.family.model_type if plan.family else None,
        architecture=plan.architecture,
        files=report.files,
        notes=report.notes,
    )
