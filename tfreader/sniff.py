"""A look into a file that is not what was expected, for the message about it."""

from __future__ import annotations

from .paths import as_path
from .signatures import clause

DAMAGED = "it is damaged, fetch it again"


def but_it_is(path: str, otherwise: str = "") -> str:
    """A clause for the end of an error message: what the file really is, or else `otherwise`."""
    try:
        with as_path(path).open("rb") as file:
            found = clause(path, file)
    except OSError:
        found = ""
    return found or (f"; {otherwise}" if otherwise else "")
