"""A row for each tensor of a plan or a model: what becomes of it, and how far it is off."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tfreader.checkpoint import Checkpoint, VariableReader, part_of, whole
from tfreader.dtypes import Array, name_of

from ..execute import stream
from ..plan import Entry, Plan
from ..rules.ops import Shape
from .extras import LARGEST, can_be_read, constant, harmless, looks
from .pairing import Pairing
from .seen import Seen
from .values import Difference, axes_between, box_at, computed

EQUAL, TRANSPOSED, DIFFERENT, MISSING, EXTRA = STATUSES = (
    *("equal", "transposed", "different", "missing", "extra"),
)


class Row(NamedTuple):
    """A tensor of the plan, the model, or both.

    `tensor` is its name in the plan, or else in the model, `found` that in the model, None where it
    is missing. `status` is one of STATUSES, `ok` says that nothing is wrong with it: of an extra
    one that it is a buffer, for example. `largest_difference` is None where values were not
    compared or are no numbers. `shape` and `dtype` are the model's, `expected_shape` and
    `expected_dtype` the plan's; None where one of both has no such tensor.
    """

    tensor: str
    found: str | None
    status: str
    ok: bool
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    expected_shape: tuple[int, ...] | None = None
    expected_dtype: str | None = None
    largest_difference: float | None = None
    detail: str = ""

    def to_data(self) -> dict[str, Any]:
        """The row as plain data, for JSON."""
        data = self._asdict()
        return {key: list(each) if isinstance(each, tuple) else each for key, each in data.items()}

    def told(self, more: str) -> Row:
        """The row with more to say of it."""
        return self._replace(detail="; ".join(filter(None, (self.detail, more))))


_NEVER_STARTED = ("identity", "timing_signal")  # of no class of transformers
_UNREAD = re.compile(r"(?:.*\.)?mask_emb|column_output_(?:weights|bias)")
"""Tensors that no variable gives where the model does not read them, as the families' rules say."""
LENGTHS = ("vocab_size", "max_position_embeddings", "n_positions")


def rows_of(
    plan: Plan, made: Pairing, source: Checkpoint, weights: Checkpoint, seen: Seen
) -> Iterator[Row]:
    """The tensors of the plan in its order, each copy that the model has of one, and its others."""
    places = {target: [name] for target, name in made.names.items()}
    for alias, target in made.copies.items():
        places[target].append(alias)
    differences = _differences(plan, places, source, weights, seen)
    for entry in plan.entries:
        if entry.target not in places:
            yield _missing(entry, source)
        for name in places.get(entry.target, ()):
            row = _named(entry, name, made, weights)
            difference = differences.get((entry.target, name))
            if row.status == MISSING:
                yield row
            elif difference is not None and difference.is_equal:
                yield _equal(row, difference, entry, plan)
            else:
                yield _unequal(row, difference, entry, source, weights.reader(name))
    model_type = (plan.config or {}).get("model_type")
    for name in made.extra:
        yield _extra(name, weights, model_type)


def check_lengths(
    rows: Sequence[Row], plan: Plan, settings: Mapping[str, Any] | None
) -> tuple[Row, ...]:
    """The rows, those wrong that have more or fewer rows than the model's others or its config.

    A vocabulary without its padding is right where all that goes by it is as long.
    """
    config, settings = plan.config or {}, settings or {}
    filled = {entry.target for entry in plan.entries if entry.fill is not None}
    wrong: dict[Row, str] = {}
    for planned in {config[key] for key in LENGTHS if isinstance(config.get(key), int)}:
        keys = [key for key in LENGTHS if config.get(key) == planned]
        is_alone = [*map(str, config.values())].count(str(planned)) == len(keys)
        by_length: dict[int, list[Row]] = {}
        for row in rows:
            if row.status == EQUAL and row.shape and (row.expected_shape or [0])[0] == planned:
                is_cut = row.shape[0] != planned  # or else of another dimension of that size
                if is_cut or (is_alone and row.tensor not in filled):
                    by_length.setdefault(row.shape[0], []).append(row)
        said = {key: settings[key] for key in keys if isinstance(settings.get(key), int)}
        told = [f"{key} = {length}" for key, length in said.items()]
        right = {*said.values()}
        if not said and len(by_length) > len(keys):
            right, told = {planned}, [f"other tensors have {planned} rows"]
        for length in by_length.keys() - right if right else ():
            for row in by_length[length]:
                where = "config.json: " * bool(said)
                wrong[row] = f"it has {length} rows; {where}{' and '.join(told)}"
    return tuple(
        row._replace(status=DIFFERENT, ok=False).told(wrong[row]) if row in wrong else row
        for row in rows
    )


def _differences(
    plan: Plan,
    places: dict[str, list[str]],
    source: Checkpoint,
    weights: Checkpoint,
    seen: Seen,
) -> dict[tuple[str, str], Difference]:
    """How far the model's tensors are off, by the plan's name and theirs.

    Of those that have other numbers of rows, the rows that both have; none of other shapes.
    """
    entries = {entry.target: entry for entry in plan.entries}
    differences = {
        (target, name): Difference(computed(entries[target]))
        for target, names in places.items()
        for name in names
        if _have_rows(weights.info(name).shape, entries[target].shape)
    }

    def write(entry: Entry, offset: int, data: memoryview) -> None:
        planned = np.frombuffer(data, entry.dtype)
        box = box_at(entry.shape, offset // entry.dtype.itemsize, planned.size)
        planned = planned.reshape(tuple(map(len, box)))
        for name in places.get(entry.target, ()):
            if (difference := differences.get((entry.target, name))) is None:
                continue
            count = len(box[0]) if box else 1
            if box:
                count = min(count, weights.info(name).shape[0] - box[0].start)
            if count > 0:
                there = (box[0][:count], *box[1:]) if box else box
                found = weights.reader(name).read(there)
                seen.add(name, found)
                difference.add(planned[:count] if box else planned, found)

    weights.prefetch([name for _, name in differences])
    stream(plan, source, write)
    weights.check_unchanged()
    seen.finish(weights)
    return differences


def _have_rows(found: Shape, planned: Shape) -> bool:
    return found == planned or (bool(found and planned) and found[1:] == planned[1:])


def _missing(entry: Entry, source: Checkpoint) -> Row:
    """One that the model lacks: nothing is wrong where its class starts with those very values."""

    def read() -> Array:
        shapes = [source.info(name).shape for name in entry.sources]
        reads = [partial(part_of, source[name]) for name in entry.sources]
        return entry.part(whole(entry.shape), shapes, reads).astype(entry.dtype)

    row = Row(entry.target, None, MISSING, True)
    row = row._replace(expected_shape=entry.shape, expected_dtype=name_of(entry.dtype))
    if entry.fill is not None:
        is_started = entry.fill.value not in _NEVER_STARTED
        return row._replace(ok=is_started).told(f"no variable gives it: {entry.fill.reason}")
    what = harmless(entry.target, read if can_be_read(entry.dtype, entry.nbytes) else None)
    return row._replace(ok=what is not None).told(what or "")


def _named(entry: Entry, name: str, made: Pairing, weights: Checkpoint) -> Row:
    """One that the model has, and what there is to say of its name and type."""
    info = weights.info(name)
    sizes = info.shape, str(info.dtype), entry.shape, name_of(entry.dtype)
    row = Row(name if name in made.copies else entry.target, name, EQUAL, True, *sizes)
    prefix = made.moved.get(entry.target)
    if name in made.copies:
        row = row.told(f"tied copy of {entry.target}")
    elif entry.target in made.tied:
        row = row.told(f"as {name}, to which it is tied")
    elif prefix is not None:
        own, other, is_known = prefix
        named = f"without {own}" if not other else f"under {other.removeprefix(own)}"
        if not is_known:
            row = row._replace(status=MISSING, ok=False)
            return row.told(f"{named}, where no class looks for it")
        row = row.told(named)
    if name in made.respelled:
        row = row.told(f"as {name}, which loading renames")
    if row.dtype != row.expected_dtype:
        row = row.told(f"{row.dtype} of {row.expected_dtype}")
    return row


def _equal(row: Row, difference: Difference, entry: Entry, plan: Plan) -> Row:
    """One whose values are the plan's, as far as both have rows."""
    row = row._replace(largest_difference=difference.largest)
    if difference.count:
        row = row.told("but for rounding, as it is computed")
    if row.shape == row.expected_shape:
        return row
    assert row.shape is not None
    rows, planned = row.shape[0], entry.shape[0]
    lengths = {(plan.config or {}).get(key) for key in LENGTHS}
    if rows < planned and planned in lengths:  # of which no model needs more than its ids reach
        return row.told(f"the first {rows} of {planned} rows, as without padding")
    row = row._replace(status=DIFFERENT, ok=False)
    if rows < planned:
        return row.told(f"the first {rows} of {planned} rows")
    return row.told(f"its first {planned} rows are equal, nothing gives the other {rows - planned}")


def _unequal(
    row: Row,
    difference: Difference | None,
    entry: Entry,
    source: Checkpoint,
    found: VariableReader,
) -> Row:
    """One whose values are others, or the same with their axes in another order."""
    row = row._replace(status=DIFFERENT, ok=False)
    if entry.fill is not None:
        is_unread = _UNREAD.fullmatch(entry.target) is not None
        row = row._replace(ok=is_unread).told(f"no variable gives it: {entry.fill.reason}")
    axes = axes_between(entry, source, found)
    if axes is not None:
        order = "" if len(axes) == 2 else f"its axes are {list(axes)} of the plan's"
        return row._replace(status=TRANSPOSED).told(order)
    if row.shape != row.expected_shape:
        row = row.told(f"shape {list(row.shape or ())}, from the checkpoint {list(entry.shape)}")
    if difference is None:
        return row
    row = row.told(f"{difference.count} of {math.prod(entry.shape)} values")
    if difference.rounded:
        row = row.told(f"rounded to {' or '.join(map(name_of, difference.rounded))}")
    if not math.isfinite(difference.largest):
        return row.told("infinite, or no numbers, in one of both")
    if (found.info.nbytes or 0) <= LARGEST:
        row = row.told(constant(found.read(whole(found.info.shape))))
    return row._replace(largest_difference=difference.largest)


def _extra(name: str, weights: Checkpoint, model_type: str | None) -> Row:
    """One that is in the model alone."""

    info = weights.info(name)
    is_small = can_be_read(info.dtype.numpy, info.nbytes)
    read = partial(weights.read, name) if is_small else None
    row = Row(name, name, EXTRA, True, info.shape, str(info.dtype))
    if what := harmless(name, read, model_type):
        return row.told(what)
    return row._replace(ok=False).told("nothing in the checkpoint gives it").told(looks(read))
