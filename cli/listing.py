"""What `tfreader inspect` prints: a checkpoint's variables as lines, as a tree or as JSON."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from math import inf, prod
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from tfreader.errors import CheckpointNotFoundError, CorruptCheckpointError, TFReaderError
from tfreader.folding import fold_rows, literal, natural, spell, without_numbers
from tfreader.mapping.findings import count
from tfreader.training import training_state

from .show import cause_of, notes_on, printable, shape, size, table, terminal_width

if TYPE_CHECKING:
    from tfreader import Checkpoint, ObjectGraph, TensorInfo
    from tfreader.statistics import Statistics

T = TypeVar("T")

STATISTICS = ("min", "max", "mean", "std", "nan", "inf", "zeros")
_DEEPEST = 32  # scopes that a tree shows one below the other
_ASIDE = ("shard", "bytes", "parameters", "notes")  # columns that statistics leave no room for


class Variable(NamedTuple):
    """A variable by its readable name, with what is to be said of it."""

    name: str
    info: TensorInfo
    notes: str


Group = Sequence[Variable]
_Below = tuple[tuple[str, ...], Variable]
"""A variable, and what its name has below a scope."""


def _offset(group: Group) -> tuple[float, float]:
    places = ((v.info.shard, v.info.offset) for v in group)
    return min((inf if s is None else s, inf if o is None else o) for s, o in places)


def _nbytes(group: Group) -> int:
    return sum(variable.info.nbytes or 0 for variable in group)


ORDERS: dict[str, Callable[[Group], Any]] = {
    "name": lambda group: natural(group[0].name),
    "size": lambda group: -_nbytes(group),
    "offset": _offset,
    "dtype": lambda group: group[0].info.dtype,
}


class Listing:
    """What of a checkpoint is listed, and how.

    `problems` says what was found damaged when values were read, and `unread` of how many
    variables none could be.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        pattern: re.Pattern[str] | None = None,
        show_all: bool = False,
        sort: str | None = None,
        fold: bool | None = None,
        tree: bool = False,
        depth: int | None = None,
        stats: bool = False,
        has_histograms: bool = False,
    ) -> None:
        self.checkpoint = checkpoint
        self.pattern = pattern
        self.show_all = show_all
        self.is_tree = tree or depth is not None
        self.depth = _DEEPEST if depth is None else depth
        self.is_folded = fold if fold is not None else self.is_tree or terminal_width() is not None
        self.has_stats = stats
        self.has_histograms = has_histograms
        self.problems: list[str] = []
        self.unread = 0
        self.infos = list(checkpoint.infos)
        self.graph, self.notes = _graph(checkpoint)
        self.training = training_state(self.infos, self.graph)
        self._order = ORDERS[sort] if sort else None

    @cached_property
    def found(self) -> list[Variable]:
        """All that the pattern finds."""
        slots: dict[str, list[str]] = defaultdict(list)
        for state in self.training.values():
            if state.base and state.slot and not self.show_all and terminal_width() is None:
                slots[state.base].append(state.slot)
        found = []
        for info in self.infos:
            names = self.checkpoint.names(info.name)
            if self.pattern is not None and not any(map(self.pattern.search, names)):
                continue
            own = sorted(set(slots.get(info.name, ())))
            notes = [f"slots: {', '.join(own)}"] if own else []
            if mine := self.training.get(info.name):
                base = self.graph.name(mine.base) if mine.base and self.graph else mine.base
                notes.append(str(mine._replace(base=base)))
            name = self.graph.name(info.name) if self.graph else info.name
            found.append(Variable(printable(name), info, printable("; ".join(notes))))
        return self.ordered(found, lambda variable: [variable])

    @property
    def shown(self) -> list[Variable]:
        """Those of them that have lines of their own: all, or those that are no slots of others."""
        if self.show_all:
            return self.found
        there = {None, *(info.name for info in self.infos)}
        states = ((v, self.training.get(v.info.name)) for v in self.found)
        return [v for v, s in states if s is None or s.slot is None or s.base not in there]

    def ordered(self, items: list[T], group: Callable[[T], Group]) -> list[T]:
        order = self._order
        return items if order is None else sorted(items, key=lambda item: order(group(item)))

    def parameters(self, group: Group) -> int:
        """How many numbers the weights among them have."""
        return sum(
            prod(info.shape)
            for _, info, _ in group
            if info.name not in self.training and info.dtype.itemsize is not None
        )

    @cached_property
    def statistics(self) -> dict[str, Statistics]:
        """Of what is listed and has values, which are read in the order on disk.

        A page, with its histograms, lists all.
        """
        if not self.has_stats:
            return {}
        from tfreader.statistics import statistics

        listed = self.found if self.has_histograms else self.shown
        readable = [v for v in listed if v.info.dtype.numpy is not None]
        names = [v.info.name for v in sorted(readable, key=lambda v: _offset([v]))]
        with suppress(CheckpointNotFoundError):  # which is said of each variable in it
            self.checkpoint.prefetch(names)
        found = {}
        lost: dict[int | None, list[str]] = defaultdict(list)  # by the shard that is missing
        for name in names:
            try:
                found[name] = statistics(self.checkpoint, name, self.has_histograms)
            except CheckpointNotFoundError as error:
                lost[self.checkpoint.info(name).shard].append(str(error))
            except CorruptCheckpointError as error:
                self.problems.append(str(error))
        self.unread = len(names) - len(found)
        for first, *others in lost.values():
            self.problems.append(first + (f"; the same of {len(others)} others" if others else ""))
        return found

    def cells(self, group: Group) -> list[str]:
        """The statistics of a group, those of all together."""
        if not self.has_stats:
            return []
        from tfreader.statistics import Statistics

        known = [self.statistics.get(variable.info.name) for variable in group]
        total = Statistics()
        for each in filter(None, known):
            total.merge(each)
        if None in known or len({each.of for each in filter(None, known)}) > 1:
            return [""] * len(STATISTICS)
        digits = 6 if terminal_width() is None else 3
        return [number(getattr(total, key), digits) for key in STATISTICS]


def number(value: float | None, digits: int = 6) -> str:
    """A number in so many digits; a whole one in all of them, unless these are very many."""
    if value is None:
        return ""
    is_short = isinstance(value, int) and len(str(value)) <= 4 * digits
    return str(value) if is_short else f"{value:.{digits}g}"


def _graph(checkpoint: Checkpoint) -> tuple[ObjectGraph | None, tuple[str, ...]]:
    """The object graph; a damaged or missing one does not stop the listing."""
    try:
        return checkpoint.object_graph, ()
    except TFReaderError as error:
        return None, (f"no readable names: {error}",)


def inspect_data(listing: Listing) -> dict[str, Any]:
    graph, training, checkpoint = listing.graph, listing.training, listing.checkpoint

    def described(info: TensorInfo) -> dict[str, Any]:
        value = graph.get(info.name) if graph else None
        stats = listing.statistics.get(info.name)
        return {
            **info._asdict(),
            "slices": [piece._asdict() for piece in info.slices],
            "object_path": value.path if value else None,
            "full_name": value.full_name if value else None,
            "names": checkpoint.names(info.name),
            "training": str(training[info.name]) if info.name in training else None,
            **({"stats": stats and stats.to_data()} if listing.has_stats else {}),
        }

    variables = [described(variable.info) for variable in listing.found]  # may find problems
    return {
        "ok": not listing.problems,
        "path": checkpoint.path,
        "format": checkpoint.format,
        "variables": variables,
        "notes": [*notes_on(checkpoint), *listing.notes],
        "problems": listing.problems,
    }


def inspect_lines(listing: Listing) -> Iterator[str]:
    rows = [*(_tree(listing) if listing.is_tree else _list(listing))]
    yield from table(rows if terminal_width() is None else _compact(rows, listing.has_stats))
    yield from (f"note: {note}" for note in listing.notes)
    if {"lengths", "magnitudes"} & {stats.of for stats in listing.statistics.values()}:
        yield (
            "note: the statistics of strings are those of their lengths, of complex numbers those "
            "of their magnitudes"
        )
    everything = [Variable(info.name, info, "") for info in listing.infos]
    left = [variable for variable in everything if variable.info.name in listing.training]
    found = listing.found
    yield (
        f"{listing.checkpoint.path}: {listing.checkpoint.format}, {count(everything, 'variable')}, "
        f"{size(_nbytes(everything))}, of them {len(left)} of training state, "
        f"{size(_nbytes(left))}; {listing.parameters(everything):,} parameters"
        + (
            f"; found {count(found, 'variable')}, {size(_nbytes(found))}, "
            f"{listing.parameters(found):,} parameters"
            if listing.pattern is not None
            else ""
        )
    )


def _compact(rows: list[list[str]], has_stats: bool) -> list[list[str]]:
    """The columns that are worth a terminal's room."""

    def is_worth(name: str, cells: set[str]) -> bool:
        if has_stats and name in _ASIDE:
            return False
        if name == "shard":
            return len(cells) > 1
        return cells != {{"count": "1", "notes": ""}.get(name)}

    header, *others = rows
    kept = [i for i, name in enumerate(header) if is_worth(name, {row[i] for row in others})]
    return [[row[i] for i in kept] for row in rows]


def _list(listing: Listing) -> Iterator[list[str]]:
    """A line a variable, or for those that differ in numbers alone."""
    number_of = ["count"] if listing.is_folded else []
    stats = STATISTICS if listing.has_stats else ()
    yield ["variable", *number_of, "dtype", "shape", "shard", "bytes", *stats, "notes"]
    for name, notes, group in _folded(listing):
        first = group[0].info
        number_of = [str(len(group))] if listing.is_folded else []
        nbytes = "" if first.nbytes is None else str(_nbytes(group))
        yield [
            *(name, *number_of, first.dtype, shape(first.shape), _shards(group), nbytes),
            *(*listing.cells(group), notes),
        ]


def _folded(listing: Listing) -> list[tuple[str, str, Group]]:
    variables = listing.shown
    if not listing.is_folded:
        return [(variable.name, variable.notes, [variable]) for variable in variables]
    rows = [(literal(name), *notes.split(" ")) for name, _, notes in variables]
    kinds = [(v.info.dtype, v.info.shape, v.info.nbytes, len(v.info.slices)) for v in variables]
    found: list[tuple[str, str, Group]] = [
        (name, " ".join(notes), [variables[member] for member in members])
        for (name, *notes), members in fold_rows(rows, kinds)
    ]
    return listing.ordered(found, lambda folded: folded[2])


def _shards(group: Group) -> str:
    if group[0].info.slices:
        return f"{len(group[0].info.slices)} slices"
    shards = sorted({v.info.shard for v in group if v.info.shard is not None})
    return spell([str(shard) for shard in shards]).strip("{}") if shards else ""


def _tree(listing: Listing) -> Iterator[list[str]]:
    """A line a scope, and what is in it below."""
    stats = STATISTICS if listing.has_stats else ()
    yield ["scope", "count", "dtype", "shape", "parameters", "bytes", *stats, "notes"]
    variables = listing.shown
    separator = "/" if any("/" in variable.name for variable in variables) else "."
    split = (tuple(variable.name.split(separator, _DEEPEST)) for variable in variables)
    yield from _branches(listing, [*zip(split, variables, strict=True)], separator, 0)


def _branches(
    listing: Listing, below: Sequence[_Below], separator: str, level: int
) -> Iterator[list[str]]:
    branches: dict[str, list[_Below]] = defaultdict(list)
    for (head, *rest), variable in below:
        branches[head].append((tuple(rest), variable))
    members = list(branches.values())
    if listing.is_folded:
        kinds = [tuple(map(_kind, branch)) for branch in members]
        folded = fold_rows([(literal(head),) for head in branches], kinds)
        parts = [
            (name, [each for index in indices for each in members[index]])
            for (name,), indices in folded
        ]
    else:
        parts = list(branches.items())
    for name, part in listing.ordered(parts, lambda part: [variable for _, variable in part[1]]):
        indent = "  " * level
        leaves = [variable for rest, variable in part if not rest]
        inner = [each for each in part if each[0]]
        if leaves:
            info = leaves[0].info
            notes = cause_of(leaves[0].notes)
            kind = (info.dtype, shape(info.shape))
            yield [indent + name, *_sums(listing, leaves, kind), *listing.cells(leaves), notes]
        if inner:
            group = [variable for _, variable in inner]
            sums = _sums(listing, group, ("", ""))
            yield [indent + name + separator, *sums, *listing.cells(group), ""]
            if level + 1 < listing.depth:
                yield from _branches(listing, inner, separator, level + 1)


def _sums(listing: Listing, group: Group, kind: tuple[str, str]) -> list[str]:
    parameters = listing.parameters(group)
    return [
        *(str(len(group)), *kind, f"{parameters:,}" if parameters else ""),
        size(_nbytes(group)),
    ]


def _kind(below: _Below) -> tuple[object, ...]:
    """What has to be the same in scopes that are shown as one."""
    rest, (_, info, notes) = below
    return rest, info.dtype, info.shape, info.nbytes, without_numbers(notes)
