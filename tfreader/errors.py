"""Every exception that tfreader raises on purpose.

Each also inherits the builtin that a caller would expect, and its message names the file, the
variable, what was expected, what was found and the next step, as far as they apply.
"""

from __future__ import annotations

from collections.abc import Sequence


class TFReaderError(Exception):
    """Base of all errors of this package."""


class CheckpointNotFoundError(TFReaderError, FileNotFoundError):
    """No checkpoint, or no shard of it, lies where it was looked for."""


class CorruptCheckpointError(TFReaderError, ValueError):
    """A file of the checkpoint is damaged, truncated or not what its name says."""


class ChecksumError(CorruptCheckpointError):
    """Stored and computed checksums differ.

    `problems` lists every damaged item when `Checkpoint.verify` raised it.
    """

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems or (message,)

    @classmethod
    def of(cls, path: str, problems: Sequence[TFReaderError | str]) -> ChecksumError:
        """One error for all that was found damaged."""
        first, *others = map(str, problems)
        more = f"{path}: damaged in {len(problems)} places; the first: " if others else ""
        return cls(more + first, (first, *others))


class ChangedError(TFReaderError, OSError):
    """A file was replaced or rewritten while it was open, or since a copy of it was made."""


class ClosedError(TFReaderError, ValueError):
    """The checkpoint was closed before it was read."""


class UnsupportedError(TFReaderError, ValueError):
    """The file is well formed but holds something that cannot be read or converted."""


class VariableNotFoundError(TFReaderError, KeyError):
    """The checkpoint has no variable of that name."""

    __str__ = Exception.__str__  # KeyError would print the message's repr


class ConfigError(TFReaderError, ValueError):
    """The model's config file is unreadable or lacks something."""


class RuleError(TFReaderError, ValueError):
    """A mapping rule, or the file that holds it, is malformed."""


class UnknownModelTypeError(TFReaderError, ValueError):
    """No family of that name exists, or that family has no such model class."""


class PlanError(TFReaderError, ValueError):
    """Checkpoint, rules and config do not fit together.

    `problems` lists everything that is wrong, the likeliest cause first. `plan` is what could be
    planned all the same, a `tfreader.mapping.Plan`, or None where nothing could.
    """

    def __init__(
        self, message: str, problems: tuple[str, ...] = (), plan: object | None = None
    ) -> None:
        super().__init__(message)
        self.problems = problems or (message,)
        self.plan = plan


class OutputError(TFReaderError, OSError):
    """The output cannot be written."""


class RemoteError(TFReaderError, OSError):
    """A server did not do its part, or a file changed there while it was being read."""


class AccessDeniedError(RemoteError, PermissionError):
    """A server wants other credentials, or none will do; or a local file is not this user's."""


class MissingExtraError(TFReaderError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, purpose: str, extra: str) -> None:
        super().__init__(
            f"{purpose} needs an optional dependency: pip install 'tfreader-torch[{extra}]'"
        )
