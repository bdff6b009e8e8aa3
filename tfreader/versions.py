"""Versions of the format, which V1 and V2 count alike."""

from __future__ import annotations

from typing import Any

from .errors import CorruptCheckpointError, UnsupportedError

FORMAT_VERSION = 1


def check_version(path: str, version: Any) -> None:
    """Refuse a VersionDef that asks for a newer reader, in either format."""
    if version.min_consumer > FORMAT_VERSION or FORMAT_VERSION in version.bad_consumers:
        raise UnsupportedError(
            f"{path}: written for readers of format version {version.min_consumer} and later; "
            f"tfreader knows version {FORMAT_VERSION}"
        )
    if version.producer < 0:
        raise CorruptCheckpointError(f"{path}: impossible format version {version.producer}")
