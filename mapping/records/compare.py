"""A model's tensors against those that a plan makes of a checkpoint, whoever made the model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, NamedTuple, Unpack

import numpy as np

from tfreader.checkpoint import Checkpoint
from tfreader.dtypes import name_of
from tfreader.errors import ConfigError, PlanError, TFReaderError, UnknownModelTypeError
from tfreader.files import SMALL, read_small
from tfreader.json_text import parse_json
from tfreader.paths import AnyPath, as_path

from ..execute import stream
from ..families import open_source
from ..plan import Entry, Plan
from ..planning.planner import PlanOptions, make_plan
from ..rules.ops import Shape
from ..rules.rule import RuleSet
from ..sources.weights import open_weights
from .extras import harmless, looks
from .pairing import Pairing, pair
from .values import Difference, allowed, axes_between, box_at

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


@dataclass(frozen=True)
class Comparison:
    """What `compare` found: the tensors, in the plan's order, and what the user should know.

    `problems` are in one line each, none where `ok`.
    """

    model: str
    checkpoint: str
    model_type: str | None
    architecture: str | None
    rows: tuple[Row, ...]
    nbytes: int
    notes: tuple[str, ...] = ()
    others: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def problems(self) -> tuple[str, ...]:
        return (*self.others, *(_problem(self.model, row) for row in self.rows if not row.ok))

    @property
    def counts(self) -> dict[str, int]:
        found = Counter(row.status for row in self.rows)
        return {status: found[status] for status in STATUSES}

    def to_data(self) -> dict[str, Any]:
        """The comparison as plain data, for JSON."""
        return {
            "ok": self.ok,
            "model": self.model,
            "checkpoint": self.checkpoint,
            "model_type": self.model_type,
            "architecture": self.architecture,
            "tensors": len(self.rows),
            "nbytes": self.nbytes,
            "counts": self.counts,
            "table": [row._asdict() for row in self.rows],
            "problems": list(self.problems),
            "notes": list(self.notes),
        }


def compare(
    model: str | PathLike[str],
    checkpoint: str | PathLike[str],
    model_type: str = "auto",
    *,
    config: str | PathLike[str] | Mapping[str, Any] | None = None,
    rules: str | PathLike[str] | RuleSet | None = None,
    **options: Unpack[PlanOptions],
) -> Comparison:
    """Make the tensors of a PyTorch model from its checkpoint, and compare them to those it has.

    The model may be anyone's: a folder or a repository of the Hub with weights in one file or in
    shards, or a file of safetensors or torch. Its class is the one asked for, or that of the
    family whose tensors are the nearest to the model's. The other arguments are those of
    `make_plan`. Values are read in parts, and no code of a torch file is run.

    Raises what `make_plan` and reading raise; a difference is no error.
    """
    with (
        open_source(checkpoint, model_type) as source,
        open_weights(as_path(model)) as weights,
    ):
        shapes = {info.name: info.shape for info in weights.infos}
        options.setdefault("dtype", "keep")
        kinds = _classes_of(as_path(model)) if options.get("architecture") is None else []
        plan, made = _nearest(source, shapes, kinds, model_type, config, rules, options)
        source.check_shards([name for entry in plan.entries for name in entry.sources])
        rows = [*_compared(plan, made, source, weights), *_extra(made, weights)]
        return Comparison(
            model=str(model),
            checkpoint=str(checkpoint),
            model_type=plan.family.model_type if plan.family else None,
            architecture=plan.architecture,
            rows=tuple(rows),
            nbytes=sum(info.nbytes or 0 for info in weights.infos if info.name not in made.copies),
            notes=(*plan.notes, *weights.notes, *_told(made, rows)),
        )


def _classes_of(model: AnyPath) -> list[str]:
    """The classes that the config beside the weights names."""
    folder = model if model.is_dir() else model.parent
    with suppress(OSError, ValueError, TFReaderError):
        config = parse_json(read_small(folder / "config.json", SMALL).decode("utf-8"))
        named = config.get("architectures") if isinstance(config, dict) else None
        return [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
    return []


def _nearest(
    source: Checkpoint,
    shapes: Mapping[str, Shape],
    kinds: Sequence[str],
    model_type: str,
    config: Any,
    rules: Any,
    options: PlanOptions,
) -> tuple[Plan, Pairing]:
    """The plan whose tensors are the nearest to the model's.

    First comes the class that the checkpoint's heads tell, then those of the model's config, then
    the others of the family. Raises what `make_plan` raises where no class can be planned.
    """
    found: list[tuple[Plan, Pairing]] = []
    failed: TFReaderError | None = None
    own = options.get("architecture")
    tried: set[str | None] = set()
    wanted: list[str | None] = [own, *kinds]
    while wanted:
        kind = wanted.pop(0)
        if kind in tried:
            continue
        tried.add(kind)
        try:
            options["architecture"] = kind
            plan = make_plan(source, model_type, config=config, rules=rules, **options)
        except (PlanError, ConfigError, UnknownModelTypeError) as error:
            failed = failed or error
            continue
        made = pair(plan, shapes)
        if not made.distance(plan, shapes):
            return plan, made
        found.append((plan, made))
        if own is None:
            wanted += [kind.name for kind in plan.rules.architectures if kind.name not in wanted]
            tried.add(plan.architecture)
    if not found:
        assert failed is not None
        raise failed
    return min(found, key=lambda one: one[1].distance(one[0], shapes))


def _compared(plan: Plan, made: Pairing, source: Checkpoint, weights: Checkpoint) -> Iterator[Row]:
    """A row for each tensor of the plan, and for each copy that the model has of one."""
    entries = {entry.target: entry for entry in plan.entries}
    places = {target: [name] for target, name in made.names.items()}
    for alias, target in made.copies.items():
        places[target].append(alias)
    differences = {
        (target, name): Difference(allowed(entries[target]))
        for target, names in places.items()
        for name in names
        if weights.info(name).shape == entries[target].shape
    }

    def write(entry: Entry, offset: int, data: memoryview) -> None:
        planned = np.frombuffer(data, entry.dtype)
        box = box_at(entry.shape, offset // entry.dtype.itemsize, planned.size)
        for name in places.get(entry.target, ()):
            if (difference := differences.get((entry.target, name))) is not None:
                found = weights.reader(name).read(box)
                difference.add(planned.reshape(found.shape), found)

    stream(plan, source, write)
    weights.check_unchanged()
    for entry in plan.entries:
        if entry.target not in places:
            yield _missing(entry)
        for name in places.get(entry.target, ()):
            yield _row(entry, name, differences.get((entry.target, name)), made, source, weights)


def _missing(entry: Entry) -> Row:
    is_computed = entry.fill is not None and isinstance(entry.fill.value, str)
    detail = "computed: the class makes it by itself" if is_computed else ""
    row = Row(entry.target, None, MISSING, is_computed, detail=detail)
    return row._replace(expected_shape=entry.shape, expected_dtype=name_of(entry.dtype))


def _row(
    entry: Entry,
    name: str,
    difference: Difference | None,
    made: Pairing,
    source: Checkpoint,
    weights: Checkpoint,
) -> Row:
    """What became of a tensor that both have."""
    info = weights.info(name)
    sizes = info.shape, str(info.dtype), entry.shape, name_of(entry.dtype)
    row = Row(name if name in made.copies else entry.target, name, EQUAL, True, *sizes)
    details = []
    if name in made.copies:
        details.append(f"tied copy of {entry.target}")
    elif entry.target in made.tied:
        details.append("under the name that it is tied to")
    elif prefix := made.prefix_of(entry.target):
        own, other, is_known = prefix
        named = f"without {own}" if not other else f"under {other.removeprefix(own)}"
        details.append(named if is_known else f"{named}, where no class looks for it")
        if not is_known:
            return row._replace(status=MISSING, ok=False, detail="; ".join(details))
    if row.dtype != row.expected_dtype:
        details.append(f"{row.dtype} of {row.expected_dtype}")
    if difference is not None and difference.is_equal:
        if difference.count:
            details.append("but for rounding, as it is computed")
        return row._replace(largest_difference=difference.largest, detail="; ".join(details))
    if entry.fill is not None:
        details.append(f"no variable gives it: {entry.fill.reason}")
    axes = axes_between(entry, source, weights.reader(name))
    if axes is not None:
        details.append(f"the values are those of axes {list(axes)} of {list(entry.shape)}")
        return row._replace(status=TRANSPOSED, ok=False, detail="; ".join(details))
    row = row._replace(status=DIFFERENT, ok=False)
    if difference is None:
        details.append(f"shape {list(info.shape)}, from the checkpoint {list(entry.shape)}")
        return row._replace(detail="; ".join(details))
    total = math.prod(entry.shape)
    details.append(f"{difference.count} of {total} values")
    if difference.rounded:
        details.append(f"rounded to {' or '.join(map(name_of, difference.rounded))}")
    if not math.isfinite(difference.largest):
        details.append("some are not finite in one of both")
        return row._replace(detail="; ".join(details))
    if seen := _constant(info, weights, name):
        details.append(seen)
    return row._replace(largest_difference=difference.largest, detail="; ".join(details))


def _constant(info: Any, weights: Checkpoint, name: str) -> str:
    seen = looks(info, lambda: weights.read(name))
    return seen if seen.startswith("all ") else ""


def _extra(made: Pairing, weights: Checkpoint) -> Iterator[Row]:
    """A row for each tensor that is in the model alone."""
    for name in made.extra:
        info = weights.info(name)

        def read(name: str = name) -> Any:
            return weights.read(name)

        row = Row(name, name, EXTRA, True, info.shape, str(info.dtype))
        if what := harmless(info, read):
            yield row._replace(detail=what)
            continue
        seen = looks(info, read)
        detail = "nothing in the checkpoint gives it" + (f"; {seen}" if seen else "")
        yield row._replace(ok=False, detail=detail)


def _told(made: Pairing, rows: Iterable[Row]) -> Iterator[str]:
    """What holds for many tensors at once."""
    rows = list(rows)
    for own, other, is_known in made.prefixes:
        what = f"under {other}" if not own else f"without {own}" if not other else ""
        what = what or f"under {other} in place of {own}"
        then = (
            "from_pretrained loads them either way"
            if is_known
            else "no class looks for them there: rename them"
        )
        yield f"the model has names {what}: {then}"
    kinds = Counter(
        f"{row.dtype} in the model, {row.expected_dtype} from the checkpoint"
        for row in rows
        if row.status == EQUAL and row.dtype != row.expected_dtype
    )
    for said, number in kinds.items():
        yield f"{said}: {number} tensors have the same values in that type"


def _problem(model: str, row: Row) -> str:
    """A row that is not right, as a line."""
    how = row.detail
    if row.largest_difference:
        how = f"the largest difference is {row.largest_difference:.3g}; {how}"
    return f"{model}: tensor {row.tensor!r}: {row.status}{f' ({how})' if how else ''}"
