"""Regular expressions of variable names."""

from __future__ import annotations

import re
import warnings

from tfreader.errors import RuleError

from .schema import quoted

# Only these are warned of; what is shown is the whole process's, and takes its time to change.
_SET_OF_SETS = re.compile(r"\[.*(\[|--|&&|~~|\|\|)", re.DOTALL)


def compiled(source: str, what: str) -> re.Pattern[str]:
    """The regular expression of a source. Raises RuleError."""
    try:
        if not _SET_OF_SETS.search(source):
            return re.compile(source)
        with warnings.catch_warnings():  # of what [[ may mean in a Python to come
            warnings.filterwarnings("ignore", "Possible (nested )?set", FutureWarning)
            return re.compile(source)
    except (re.error, OverflowError, RecursionError) as error:
        hint = "; for any text write .*" if "nothing to repeat" in str(error) else ""
        raise RuleError(f"{what} {quoted(source)}: bad regular expression: {error}{hint}") from None


def literal_tail(pattern: str) -> str:
    """Plain text that everything the pattern matches ends with; empty where none is certain.

    >>> literal_tail(r"encoder/layer_(?P<layer>\\d+)/dense/kernel")
    '/dense/kernel'
    """
    depth = 0
    for symbol in re.sub(r"\\.|\[\^?\]?[^]]*\]", "", pattern):
        depth += (symbol == "(") - (symbol == ")")
        if symbol == "|" and depth == 0:
            return ""
    if re.search(r"\(\?[a-zA-Z-]+[:)]", pattern.replace("(?P", "")):  # flags change what text means
        return ""
    match = re.search(r"[\w/-]*\Z", pattern, re.ASCII)
    assert match is not None
    is_escaped = pattern[: match.start()].endswith("\\")
    return match[0][1:] if is_escaped else match[0]
