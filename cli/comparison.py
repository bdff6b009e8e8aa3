"""What `tfreader diff` prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

from tfreader.differences import ONLY_IN_A, ONLY_IN_B, Compared
from tfreader.folding import fold_rows, literal
from tfreader.mapping.findings import count

from .show import printable, shape, table, terminal_width

if TYPE_CHECKING:
    from tfreader import TensorInfo


@dataclass
class Comparison:
    """Two checkpoints by their paths, and all variables of both."""

    a: str
    b: str
    compared: Sequence[Compared]
    names_only: bool
    ignore_dtype: bool

    def kinds(self, one: Compared) -> tuple[str, ...]:
        """What differs; a type alone only where it says what the values do not."""
        is_other_said = self.names_only or one.values is not None or one.kinds != ["dtype"]
        is_ignored = self.ignore_dtype and is_other_said
        return tuple(kind for kind in one.kinds if kind != "dtype" or not is_ignored)

    @property
    def different(self) -> list[Compared]:
        return [one for one in self.compared if self.kinds(one)]


def diff_data(comparison: Comparison) -> dict[str, Any]:
    found = comparison.different

    def described(info: TensorInfo | None) -> dict[str, Any] | None:
        return info and {"dtype": info.dtype, "shape": list(info.shape)}

    def values(one: Compared) -> dict[str, Any] | None:
        if one.values is None:
            return None
        largest = one.values.largest
        is_number = largest is not None and isfinite(largest)
        return {**asdict(one.values), "largest": largest if is_number else None}

    return {
        "ok": not found,
        "a": comparison.a,
        "b": comparison.b,
        "variables": len(comparison.compared),
        "names_only": comparison.names_only,
        "differences": [
            {
                "name": one.name,
                "kinds": comparison.kinds(one),
                "a": described(one.a),
                "b": described(one.b),
                "values": values(one),
            }
            for one in found
        ],
    }


def diff_lines(comparison: Comparison) -> Iterator[str]:
    """A line for each variable that differs, on a terminal one for those of all layers."""
    found = comparison.different
    if found:
        header = ["difference", "variable", "A", "B", "values"]
        yield from table([header, *_rows(comparison)], name_at=1)
    counts = Counter(comparison.kinds(one)[:1] for one in found)
    alone = [counts.pop((kind,), 0) for kind in (ONLY_IN_A, ONLY_IN_B)]
    told = [
        f"{count(len(comparison.compared) - len(found), 'variable')} the same",
        *([f"{counts.total()} different"] if counts else []),
        *(f"{n} {kind}" for n, kind in zip(alone, (ONLY_IN_A, ONLY_IN_B), strict=True) if n),
    ]
    unread = sum(one.values is None and bool(one.a and one.b) for one in comparison.compared)
    if unread:
        told.append(f"values of {unread} not compared")
    yield f"A {comparison.a}, B {comparison.b}: {', '.join(told)}"


def _rows(comparison: Comparison) -> Iterator[list[str]]:
    found = comparison.different
    kinds = [(comparison.kinds(one), _said(one.a), _said(one.b)) for one in found]
    names = [printable(one.name) for one in found]
    if terminal_width() is None:
        folded = [(name, [index]) for index, name in enumerate(names)]
    else:
        rows = [(literal(name),) for name in names]
        folded = [(name, members) for (name,), members in fold_rows(rows, kinds)]
    for name, members in folded:
        kind, a, b = kinds[members[0]]
        yield [", ".join(kind), name, a, b, _differing([found[index] for index in members])]


def _said(info: TensorInfo | None) -> str:
    return f"{info.dtype} {shape(info.shape)}" if info else ""


def _differing(members: Sequence[Compared]) -> str:
    """How the values of some variables differ."""
    values = [one.values for one in members if one.values is not None]
    different = sum(each.different for each in values)
    if not different:
        return ""
    said = f"{different} of {sum(each.count for each in values)}"
    largest = max(values, key=lambda each: each.largest or 0)
    if largest.largest is None:
        return said
    place = f" at {shape(largest.at)}" if len(members) == 1 and largest.at else ""
    return f"{said}, by at most {largest.largest:.3g}{place}"
