"""Every exception that tfreader raises on purpose.

Each also inherits the builtin that a caller would expect, and its message names the file, the
variable, what was expected, what was found and the next step, as far as they apply.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

# What `sniff` says that a file is, with the cause that this makes it.
_FILES = (
    ("a Git LFS pointer", "git-lfs-pointer"),
    ("an HTML page", "web-page"),
    ("an XML message", "web-page"),
    ("empty", "empty-file"),
    ("nothing but zeros", "corrupt"),
    ("a damaged zip archive", "corrupt"),
    ("a PyTorch file", "pytorch"),
    ("a Python pickle", "pytorch"),
    ("a safetensors file of PyTorch", "pytorch"),
    ("a safetensors file that does not say", "pytorch"),
    ("the index of a model in shards", "pytorch"),
    ("a safetensors file of Flax", "jax"),
    ("a msgpack file of JAX", "jax"),
    *((f"a {other}", "not-a-checkpoint") for other in ("bzip2", "gzip", "xz", "tar", "zip")),
    ("a numpy ar", "not-a-checkpoint"),
    ("a TensorFlow Lite model", "not-a-checkpoint"),
    ("a safetensors file of", "not-a-checkpoint"),
    ("a graph", "not-a-checkpoint"),
    ("a SavedModel's graph", "not-a-checkpoint"),
)


def code_of_file(said: str) -> str | None:
    """The cause that what is said of a file makes it; None where that is plainly nothing else."""
    return next((code for what, code in _FILES if f" is {what}" in said), None)


class TFReaderError(Exception):
    """Base of all errors of this package.

    `code` is a short name of the cause, the same in all releases; docs/batch.md lists them.
    `model_type` is that of the model, where it is known by then.
    """

    cause: ClassVar[str] = "error"  # unless more is known

    def __init__(
        self, *args: object, code: str | None = None, model_type: str | None = None
    ) -> None:
        super().__init__(*args)
        self._code = code
        self.model_type = model_type

    @property
    def code(self) -> str:
        is_of_file = isinstance(self, CheckpointNotFoundError | CorruptCheckpointError)
        return self._code or (is_of_file and code_of_file(str(self))) or self.cause


class CheckpointNotFoundError(TFReaderError, FileNotFoundError):
    """No checkpoint, or no shard of it, lies where it was looked for."""

    cause = "not-found"


class CorruptCheckpointError(TFReaderError, ValueError):
    """A file of the checkpoint is damaged, truncated or not what its name says."""

    cause = "corrupt"


class ChecksumError(CorruptCheckpointError):
    """Stored and computed checksums differ.

    `problems` lists every damaged item when `Checkpoint.verify` raised it.
    """

    cause = "checksum-mismatch"

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

    cause = "changed"


class ClosedError(TFReaderError, ValueError):
    """The checkpoint was closed before it was read."""

    cause = "closed"


class UnsupportedError(TFReaderError, ValueError):
    """The file is well formed but holds something that cannot be read or converted."""

    cause = "unsupported"


class VariableNotFoundError(TFReaderError, KeyError):
    """The checkpoint has no variable of that name."""

    cause = "variable-not-found"

    __str__ = Exception.__str__  # KeyError would print the message's repr


class ConfigError(TFReaderError, ValueError):
    """The model's config file is unreadable or lacks something."""

    cause = "config"


class RuleError(TFReaderError, ValueError):
    """A mapping rule, or the file that holds it, is malformed."""

    cause = "rules"


class UnknownModelTypeError(TFReaderError, ValueError):
    """No family of that name exists, or that family has no such model class."""

    cause = "unknown-model-type"


class PlanError(TFReaderError, ValueError):
    """Checkpoint, rules and config do not fit together.

    `problems` lists everything that is wrong, the likeliest cause first. `plan` is what could be
    planned all the same, a `tfreader.mapping.Plan`, or None where nothing could.
    """

    cause = "does-not-fit"

    def __init__(
        self,
        message: str,
        problems: tuple[str, ...] = (),
        plan: object | None = None,
        code: str | None = None,
        model_type: str | None = None,
    ) -> None:
        super().__init__(message, code=code, model_type=model_type)
        self.problems = problems or (message,)
        self.plan = plan


class OutputError(TFReaderError, OSError):
    """The output cannot be written."""

    cause = "output"


class RemoteError(TFReaderError, OSError):
    """A server did not do its part, or a file changed there while it was being read."""

    cause = "network"


class AccessDeniedError(RemoteError, PermissionError):
    """A server wants other credentials, or none will do; or a local file is not this user's."""

    cause = "access-denied"


class MissingExtraError(TFReaderError, ImportError):
    """An optional dependency is not installed."""

    cause = "missing-extra"

    def __init__(self, purpose: str, extra: str) -> None:
        from .installing import install_extra

        super().__init__(f"{purpose} needs an optional dependency: {install_extra(extra)}")
