"""Many conversions at once, through any `concurrent.futures.Executor`.

A job is planned and carried out by one worker. What goes back and forth is small: the job's options
there, the outcome back. Since an output appears whole and with its record, a job may be done again
by another worker, or by a later run, wherever the first was stopped.
"""

from .batch import Batch
from .jobs import DONE, FAILED, PASSED_OVER, PLANNED, SKIPPED, Job, Outcome, run_job
from .patterns import LINK, matching, root_of
from .scan import PassedOver, scan
from .workers import Cluster, Pool, Workers, needs_torch, shares

__all__ = [
    "DONE",
    "FAILED",
    "LINK",
    "PASSED_OVER",
    "PLANNED",
    "SKIPPED",
    "Batch",
    "Cluster",
    "Job",
    "Outcome",
    "PassedOver",
    "Pool",
    "Workers",
    "matching",
    "needs_torch",
    "root_of",
    "run_job",
    "scan",
    "shares",
]
