"""What the user wants to leave out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tfreader.checkpoint import TensorInfo

from ..findings import Findings
from ..rules.patterns import compiled
from ..rules.schema import quoted
from .variables import Chosen, Seen, matching


@dataclass(frozen=True)
class Ignored:
    """The variables to leave out, by their keys.

    `asked` are those of --ignore, which may not lie inside the model; `weights` those of
    --ignore-weights, which may.
    """

    asked: Mapping[str, TensorInfo]
    weights: Mapping[str, TensorInfo]

    @property
    def dropped(self) -> dict[str, str]:
        """Why each is left out, by its stored name."""
        asked, weights = (
            [info.name for info in found.values()] for found in (self.asked, self.weights)
        )
        return {
            **dict.fromkeys(asked, "ignored as asked (--ignore)"),
            **dict.fromkeys(weights, "ignored though inside the model (--ignore-weights)"),
        }


def ignored(
    ignore: Sequence[str],
    ignore_weights: Sequence[str],
    seen: Seen,
    chosen: Chosen,
    findings: Findings,
) -> Ignored:
    """What the regexes of the two options match. Raises RuleError for what is no regex."""

    def found(patterns: Sequence[str], option: str) -> dict[str, TensorInfo]:
        keys: list[str] = []
        for pattern in patterns:
            own = matching(compiled(pattern, option), seen, chosen)
            if not own:
                findings.problem(f"{option} {quoted(pattern)} matches no variable")
            keys += own
        return {key: chosen.variables[key] for key in keys if key in chosen.variables}

    return Ignored(found(ignore, "--ignore"), found(ignore_weights, "--ignore-weights"))
