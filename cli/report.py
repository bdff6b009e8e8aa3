"""The report of a batch: what ran where, and what became of each job; a file of it as it goes."""

from __future__ import annotations

import json
import socket
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from typing import Any

from tfreader import __version__
from tfreader.errors import OutputError, TFReaderError
from tfreader.mapping.batch import DONE, FAILED, PASSED_OVER, PLANNED, SKIPPED, Outcome
from tfreader.paths import as_path
from tfreader.system import replace

SHARE = 10  # one part of so many of the time goes into writing
REMOTE_PAUSE = 10.0  # seconds between two uploads at least
STATUSES = (DONE, SKIPPED, PLANNED, FAILED, PASSED_OVER)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass
class BatchReport:
    """A batch that is running, or has `end`ed; paths are shown relative to its `root`.

    `jobs` counts what was passed over too. All times are of UTC, as in ISO 8601.
    """

    command: str
    root: str
    jobs: int
    outcomes: list[Outcome] = field(default_factory=list)
    interrupted: bool = False
    start: str = field(default_factory=now)
    end: str | None = None
    _lines: list[str] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self._lines.append(json.dumps(outcome.to_data()))

    def counts(self) -> dict[str, int]:
        """How many of the outcomes are of each status."""
        counts = Counter(outcome.status for outcome in self.outcomes)
        return {status: counts[status] for status in STATUSES}

    def causes(self) -> dict[str, int]:
        """How many failed by each cause, the most frequent first."""
        failed = (outcome for outcome in self.outcomes if outcome.status == FAILED)
        return dict(Counter(str(outcome.code) for outcome in failed).most_common())

    def to_data(self) -> dict[str, Any]:
        """The report as plain data, for JSON."""
        return {**self._head(), "outcomes": [outcome.to_data() for outcome in self.outcomes]}

    def to_json(self) -> str:
        """The same as a document. An outcome takes a line, and is spelled out once."""
        head = json.dumps(self._head(), indent=2).removesuffix("\n}")
        return f'{head},\n  "outcomes": [\n    ' + ",\n    ".join([*self._lines]) + "\n  ]\n}\n"

    def _head(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "host": socket.gethostname(),
            "command": self.command,
            "start": self.start,
            "end": self.end,
            "interrupted": self.interrupted,
            "root": self.root,
            "jobs": self.jobs,
            **self.counts(),
            "causes": self.causes(),
        }


@contextmanager
def kept(file: str | None, text: Callable[[], str]) -> Iterator[Callable[[], None]]:
    """Keep a file, here or behind a URL, as `text` gives it; yields what to call on a change.

    It is there from the start, and whole at any time. Writing takes a tenth of the time at
    most. What is no regular file, such as a pipe, is written to once, at the end.
    Raises OutputError, RemoteError.
    """
    if file is None:
        yield lambda: None
        return
    changed, ended = Event(), Event()
    path = as_path(file)
    is_remote = not isinstance(path, Path)

    def keep() -> None:
        while changed.wait() and not ended.is_set():
            changed.clear()
            start = monotonic()
            with suppress(OSError):  # it is tried again, and told of at the end
                write(file, text())
            ended.wait(max((monotonic() - start) * SHARE, REMOTE_PAUSE if is_remote else 0))

    thread = Thread(target=keep, daemon=True)
    if not isinstance(path, Path) or path.is_file() or not path.exists():
        write(file, text())
        thread.start()
    try:
        yield changed.set
    finally:
        ended.set()
        changed.set()
        if thread.is_alive():
            thread.join()
        write(file, text())


def write(file: str, text: str) -> None:
    """A file that appears whole; a device or a pipe is written to."""
    path = as_path(file)
    try:
        if not isinstance(path, Path):
            with tempfile.TemporaryDirectory(prefix="tfreader.") as folder:
                copy = Path(folder) / "report"
                copy.write_text(text, "utf-8", newline="\n")
                path.put(copy)
        elif path.exists() and not path.is_file():
            path.write_text(text, "utf-8", newline="\n")
        else:
            part = path.with_name(f".{path.name}.tmp")
            try:
                part.write_text(text, "utf-8", newline="\n")
                replace(part, path)
            except OSError:
                part.unlink(missing_ok=True)
                raise
    except OSError as error:
        if isinstance(error, TFReaderError):
            raise
        raise OutputError(f"{file}: cannot be written ({error.strerror or error})") from None
