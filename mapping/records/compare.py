"""A model's tensors against those that a plan makes of a checkpoint, whoever made the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any, Unpack

from tfreader.errors import TFReaderError
from tfreader.folding import fold_rows, literal
from tfreader.notebook import table
from tfreader.paths import AnyPath, as_path

from ..families import open_source
from ..findings import count, some
from ..plan import Plan
from ..planning.planner import PlanOptions
from ..rules.rule import RuleSet
from ..sources.weights import open_weights
from .candidates import Making, candidates, lost_heads, named_classes
from .pairing import Pairing
from .rows import EQUAL, STATUSES, Row, check_lengths, rows_of
from .seen import Seen
from .settings import CONFIG, differences, read_config

ADAPTER = "adapter_config.json"


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
    others: tuple[str, ...] = ()

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

    def __repr__(self) -> str:
        counts = ", ".join(f"{number} {status}" for status, number in self.counts.items() if number)
        said = "as it should be" if self.ok else count(self.problems, "problem")
        return f"<Comparison {self.model!r} to {self.checkpoint!r}: tensors {counts}: {said}>"

    def _repr_html_(self) -> str:
        """For notebooks: what is not right first, tensors of all layers in one row."""
        rows = sorted(self.rows, key=lambda row: row.ok)
        kinds = [(row.ok, row.status, row.detail) for row in rows]
        folded = fold_rows([(literal(row.tensor),) for row in rows], kinds)
        tensors = [(*kinds[members[0]][1:], name) for (name,), members in folded]
        others = [("problem", said, "") for said in self.others]
        return table(repr(self), ("", "", "tensor"), [*others, *tensors])

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
            "table": [row.to_data() for row in self.rows],
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
    return compare_seen(model, checkpoint, Making(model_type, config, rules, options), Seen())


def compare_seen(
    model: str | PathLike[str], checkpoint: str | PathLike[str], making: Making, seen: Seen
) -> Comparison:
    """As `compare`, with `seen` to take in the model's values.

    The averages that a checkpoint has beside its weights are compared where the model has not
    these, unless it is said which: old converters took the ones or the others.
    """
    found, has_averages = _compared(model, checkpoint, making, seen)
    if found.ok or not has_averages or "moving_averages" in making.options:
        return found
    averages: PlanOptions = {**making.options, "moving_averages": "use"}
    try:
        other, _ = _compared(model, checkpoint, making._replace(options=averages), seen)
    except TFReaderError:
        return found
    if not other.ok:
        return found
    said = (
        "it has the moving averages, not the weights themselves: as --moving-averages use makes it"
    )
    return replace(other, notes=(said, *other.notes))


def _compared(
    model: str | PathLike[str], checkpoint: str | PathLike[str], making: Making, seen: Seen
) -> tuple[Comparison, bool]:
    """A comparison, and whether moving averages were left out of it."""
    seen.clear()
    with (
        open_source(checkpoint, making.model_type) as source,
        open_weights(as_path(model)) as weights,
    ):
        shapes = {info.name: info.shape for info in weights.infos}
        settings = read_config(as_path(model))
        planned = candidates(source, shapes, settings, making)
        named = named_classes(settings)
        plan, made = min(
            planned,
            key=lambda one: (one[1].distance(one[0], shapes), one[0].architecture not in named),
        )
        source.check_shards([name for entry in plan.entries for name in entry.sources])
        rows = check_lengths([*rows_of(plan, made, source, weights, seen)], plan, settings)
        others, notes = _beside(planned, plan, settings, as_path(model))
        found = Comparison(
            model=str(model),
            checkpoint=str(checkpoint),
            model_type=plan.family.model_type if plan.family else None,
            architecture=plan.architecture,
            rows=rows,
            nbytes=sum(info.nbytes or 0 for info in weights.infos if info.name not in made.copies),
            notes=(*plan.notes, *weights.notes, *_told(plan, made, rows), *notes),
            others=others,
        )
        reasons = plan.dropped.values()
        return found, any(reason.startswith("moving average of") for reason in reasons)


def _beside(
    planned: Sequence[tuple[Plan, Pairing]],
    plan: Plan,
    settings: Mapping[str, Any] | None,
    model: AnyPath,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What is wrong but for the tensors, and what the user should know.

    The head that a checkpoint was fine-tuned with must not get lost; those of pre-training may, but
    not where config.json names a class that has them: loading would start them anew.
    """
    problems, notes = [], []
    lost = {one.architecture: _lost(one, made) for one, made in planned}
    for kind in named_classes(settings)[:1]:
        if kind != plan.architecture and lost.get(kind):
            problems.append(
                f"{model / CONFIG}: architectures names {kind}, of which the model lacks "
                f"{some(lost[kind])}"
            )
    if gone := lost_heads(planned[0][0], plan):
        said = (
            f"the checkpoint's {gone.name} is not in it: compared as {plan.architecture}, where "
            f"the checkpoint is a {planned[0][0].architecture}"
        )
        if gone.is_of_pre_training:
            notes.append(said)
        else:
            problems.append(
                f"{model}: {said} (--architecture {plan.architecture} if that is meant)"
            )
    if not model.is_file() and (model / ADAPTER).is_file():
        problems.append(
            f"{model / ADAPTER}: from_pretrained, where peft is installed, loads the model that "
            "this names in place of the folder's, and an adapter: move it away"
        )
    if settings is not None and plan.family is not None and plan.config is not None:
        for said, is_wrong in differences(plan.config, settings, plan):
            where = f"{model / CONFIG}: {said}"
            (problems if is_wrong else notes).append(where)
    return tuple(problems), tuple(notes)


def _lost(plan: Plan, made: Pairing) -> list[str]:
    """The tensors of a class that a model has not, but for those that loading fills in."""
    return [e.target for e in plan.entries if e.fill is None and e.target not in made.names]


def _told(plan: Plan, made: Pairing, rows: Sequence[Row]) -> Iterator[str]:
    """What holds for many tensors at once."""
    for own, other, is_known in made.prefixes:
        what = f"under {other}" if not own else f"without {own}" if not other else ""
        what = what or f"under {other} in place of {own}"
        then = "no class looks for them there: rename them"
        if is_known:
            then = "from_pretrained loads them either way"
            if own and not all(entry.target.startswith(own) for entry in plan.entries):
                then += ", of transformers 5, and refuses them of 4, for the head beside them"
        if not plan.rules.architectures:
            then = "load_state_dict takes them where your module has them there"
        yield f"the model has names {what}: {then}"
    kinds = Counter(
        f"{row.dtype} in the model, {row.expected_dtype} from the checkpoint"
        for row in rows
        if row.status == EQUAL and row.dtype != row.expected_dtype
    )
    for said, number in kinds.items():
        yield f"{said}: in that type the values are the same of {count(number, 'tensor')}"


def _problem(model: str, row: Row) -> str:
    """A row that is not right, as a line."""
    how = row.detail
    if row.largest_difference:
        how = f"the largest difference is {row.largest_difference:.3g}; {how}"
    return f"{model}: tensor {row.tensor!r}: {row.status}{f' ({how})' if how else ''}"
