"""What the commands print: tables, plans, reports and the progress bar."""

from __future__ import annotations

import re
import shlex
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tfreader.errors import PlanError, TFReaderError
from tfreader.training import training_state

if TYPE_CHECKING:
    from tfreader import Checkpoint, ObjectGraph, TensorInfo
    from tfreader.mapping import Plan, Report
    from tfreader.mapping.records.compare import Comparison
    from tfreader.mapping.records.rows import Row

_OWNED = re.compile(
    r"((?:slot variable \S+|moving average|copy)(?= of )|replaced by its moving average) .*"
)


def table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows as aligned columns. Plain text of any width, made for grep as much as for eyes."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()


def size(nbytes: int) -> str:
    """Bytes for people, in decimal units."""
    value = float(nbytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.3g} {unit}" if unit != "B" else f"{nbytes} B"
        value /= 1000
    return f"{value:.3g} TB"


def shape(dimensions: Iterable[int]) -> str:
    return "[" + ", ".join(map(str, dimensions)) + "]"


def printable(text: str) -> str:
    """Text without what would break a line or do something to the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def notes_on(checkpoint: Checkpoint) -> list[str]:
    """What was assumed, and what to do where that is not plain."""
    notes = list(checkpoint.notes)
    if checkpoint.format.endswith("safetensors"):
        path = shlex.quote(checkpoint.path)
        notes.append(
            "safetensors of TensorFlow (format tf): transformers 5 loads it without an error but "
            "with every weight random, and older releases need TensorFlow for it; convert it: "
            f"tfreader convert --tf_checkpoint {path} --pytorch_dump_output FOLDER"
        )
    return notes


def inspect_data(checkpoint: Checkpoint, pattern: re.Pattern[str]) -> dict[str, Any]:
    infos = list(checkpoint.infos)
    graph, notes = _graph(checkpoint)
    training = training_state(infos, graph)

    def described(info: TensorInfo) -> dict[str, Any]:
        value = graph.get(info.name) if graph else None
        return {
            **info._asdict(),
            "slices": [piece._asdict() for piece in info.slices],
            "object_path": value.path if value else None,
            "full_name": value.full_name if value else None,
            "names": checkpoint.names(info.name),
            "training": str(training[info.name]) if info.name in training else None,
        }

    return {
        "path": checkpoint.path,
        "format": checkpoint.format,
        "variables": [described(info) for info in infos if _found(checkpoint, info, pattern)],
        "notes": [*notes_on(checkpoint), *notes],
    }


def _graph(checkpoint: Checkpoint) -> tuple[ObjectGraph | None, tuple[str, ...]]:
    """The object graph; a damaged or missing one does not stop the listing."""
    try:
        return checkpoint.object_graph, ()
    except TFReaderError as error:
        return None, (f"no readable names: {error}",)


def _found(checkpoint: Checkpoint, info: TensorInfo, pattern: re.Pattern[str]) -> bool:
    return any(map(pattern.search, checkpoint.names(info.name)))


def inspect_lines(
    checkpoint: Checkpoint, pattern: re.Pattern[str], show_all: bool
) -> Iterator[str]:
    infos = list(checkpoint.infos)
    graph, notes = _graph(checkpoint)
    training = training_state(infos, graph)
    slots: dict[str, list[str]] = defaultdict(list)
    for state in training.values():
        if state.base and state.slot:
            slots[state.base].append(state.slot)
    rows = [("variable", "dtype", "shape", "shard", "bytes", "notes")]
    for info in infos:
        mine = training.get(info.name)
        folded = mine is not None and mine.slot is not None and not show_all
        if folded or not _found(checkpoint, info, pattern):
            continue
        shard = "" if info.shard is None else str(info.shard)
        own = [] if show_all else sorted(set(slots.get(info.name, ())))
        notes_of = [f"slots: {', '.join(own)}"] if own else []
        if mine and mine.base and graph:
            mine = mine._replace(base=graph.name(mine.base))
        notes_of += [str(mine)] if mine else []
        rows.append(
            (
                printable(graph.name(info.name) if graph else info.name),
                info.dtype,
                shape(info.shape),
                f"{len(info.slices)} slices" if info.slices else shard,
                "" if info.nbytes is None else str(info.nbytes),
                printable("; ".join(notes_of)),
            )
        )
    yield from table(rows)
    yield from (f"note: {note}" for note in notes)
    in_slots = sum(info.nbytes or 0 for info in infos if info.name in training)
    total = sum(info.nbytes or 0 for info in infos)
    yield (
        f"{checkpoint.path}: {checkpoint.format}, {len(infos)} variables, {size(total)}, of them "
        f"{len(training)} of training state, {size(in_slots)}"
    )


def plan_lines(plan: Plan, notes: Sequence[str]) -> Iterator[str]:
    """The whole plan, variables that differ only in numbers folded into one line."""
    kind = plan.family.model_type if plan.family else "rule file"
    yield f"{plan.path} -> {plan.architecture or 'state dict'} ({kind})"
    yield from (f"note: {note}" for note in notes)
    rows = [tuple(map(printable, row)) for row in plan.folded()]
    yield from table([("variable", "tensor", "operation", "shape", "dtype"), *rows])
    for alias, target in plan.ties.items():
        yield f"tied: {alias} = {target}"
    yield from dropped_lines(plan)
    yield f"{len(plan.entries)} tensors, {size(plan.nbytes)}"


def comparison_lines(found: Comparison) -> Iterator[str]:
    """A model against its checkpoint, tensors that differ only in numbers folded into one line."""
    from tfreader.mapping.findings import count

    kind = found.architecture or "state dict"
    yield f"{found.model} against {found.checkpoint}, as {kind}"
    yield from (f"note: {note}" for note in found.notes)
    groups: dict[tuple[object, ...], list[Row]] = defaultdict(list)
    for row in found.rows:
        detail = without_numbers(row.detail)
        groups[row.ok, row.status, without_numbers(row.tensor), detail].append(row)
    rows = [("", "tensor", "largest difference", "")]
    for (ok, status, *_), alike in sorted(groups.items(), key=lambda group: not group[0][0]):
        largest = max(row.largest_difference or 0 for row in alike)
        mark = str(status) if ok else f"{status} !"
        name, detail = (printable(fold(each)) for each in _columns(alike))
        rows.append((mark, name, f"{largest:.3g}" if largest else "", detail))
    yield from table(rows)
    yield from (f"problem: {problem}" for problem in found.others)
    counts = ", ".join(f"{number} {status}" for status, number in found.counts.items() if number)
    verdict = "the model is" if found.ok else f"{count(found.problems, 'problem')}: it is not"
    yield (
        f"{count(found.rows, 'tensor')}, {size(found.nbytes)}: {counts}: {verdict} what the "
        "checkpoint gives"
    )


def _columns(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    return [row.tensor for row in rows], [row.detail for row in rows]


def failure_data(error: Exception, said: str) -> dict[str, Any]:
    """A failure as plain data: all that does not fit, and what of the plan could be made."""
    plan: Any = getattr(error, "plan", None)
    return {
        "ok": False,
        "error": said,
        "error_type": type(error).__name__,
        "code": getattr(error, "code", None),
        "problems": list(getattr(error, "problems", (said,))),
        **(plan.to_data() if plan is not None else {}),
    }


def failure_lines(error: PlanError) -> Iterator[str]:
    """What of a plan could be made, then everything that does not fit."""
    plan: Any = error.plan
    yield from plan_lines(plan, plan.notes)
    yield from (f"problem: {problem}" for problem in error.problems)


def dropped_lines(plan: Plan) -> Iterator[str]:
    """Left-out variables, one line a reason."""
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for key, reason in plan.dropped.items():
        name = plan.shown.get(key, key)
        kind = _OWNED.sub(r"\1", reason)
        first.setdefault(kind, name)
        counts[kind] += 1
    for kind, count in counts.items():
        others = f" and {count - 1} more" if count > 1 else ""
        yield f"left out ({kind}): {printable(first[kind])}{others}"


def report_lines(report: Report) -> Iterator[str]:
    yield from (f"note: {note}" for note in report.notes)
    yield from dropped_lines(report.plan)
    kind = report.plan.architecture or "state dict"
    yield f"{kind}: {len(report.plan.entries)} tensors, {size(report.plan.nbytes)}, written to"
    yield from (f"  {file}" for file in report.files)


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Callable[[Plan], Callable[[int], None]] | None]:
    """A bar with rate and time left on stderr, where that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:

        def start(plan: Plan) -> Callable[[int], None]:
            task = bar.add_task(plan.architecture or "converting", total=plan.nbytes)
            return lambda count: bar.update(task, advance=count)

        yield start
