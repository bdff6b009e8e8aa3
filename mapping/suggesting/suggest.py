"""A rule file for a model that nobody has seen, of names and shapes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tfreader.checkpoint import Checkpoint, TensorInfo
from tfreader.errors import ConfigError, PlanError, RuleError
from tfreader.meta_graph import read_graph

from ..families import open_source
from ..findings import Findings, count, some
from ..planning.planner import make_plan
from ..planning.variables import choose, look
from ..rules.rule_file import parse_rules
from ..target import Target, read_target
from .judging import Judge
from .layers import MOMENT, Known, Layer, Tensor, source_layers, target_layers, with_attention
from .matching import Matcher, Pair, Read, Signs
from .names import counted_parts
from .operations import Operations
from .order import Order
from .orient import orient
from .reading import Made, Reading
from .readings import sliced
from .rendering import Averages, written
from .skeleton import skeleton
from .writing import table

_PATH = "/.ATTRIBUTES/VARIABLE_VALUE"
_MOST_READ = 1 << 20  # bytes of a variable whose values decide


@dataclass
class Suggestion:
    """A rule file's text, for so many tensors, and which of them are uncertain."""

    text: str
    tensors: int
    uncertain: tuple[str, ...]

    @property
    def summary(self) -> str:
        if not self.tensors:
            return "a skeleton, to be completed"
        return f"{count(self.tensors, 'tensor')}, {len(self.uncertain)} of them uncertain"

    def __repr__(self) -> str:
        return f"<Suggestion: {self.summary}>"

    def write(self, path: str | PathLike[str]) -> None:
        """Write the file. Raises ConfigError where that cannot be."""
        try:
            Path(path).write_text(self.text, encoding="utf-8", newline="\n")
        except OSError as error:
            raise ConfigError(f"{path}: cannot be written ({error.strerror})") from None


def suggest(
    path: str | PathLike[str],
    target: Target | None = None,
) -> Suggestion:
    """A rule file that makes a model's tensors of a checkpoint's variables.

    What names, shapes and order do not tell for certain is marked by `uncertain = true`, which has
    to be taken away, or accepted, before the file converts. Without a `target` it is a skeleton.
    Raises TFReaderError.
    """
    with open_source(path, "auto") as checkpoint:
        if target is None:
            variables, _ = _variables(checkpoint, [], False)
            return Suggestion(skeleton(variables[-1]), 0, ())
        model = read_target(target)
        given = {n: t for n, t in model.items() if t.same_as is None}
        tied = [(n, t.same_as) for n, t in model.items() if t.same_as]
        order = list(given)
        is_ordered = order != sorted(order)
        if not is_ordered:  # as safetensors sorts them, where 10 goes before 2
            order.sort(key=_natural)
        tensors = [
            Tensor(name, tuple(given[name].shape), given[name].dtype, i)
            for i, name in enumerate(order)
        ]
        counters = any(
            t.shape == () and _is_whole(t.dtype) and not t.name.endswith("num_batches_tracked")
            for t in tensors
        )
        operations, graph = Operations(read_graph(checkpoint.path)), checkpoint.object_graph
        created = operations.created or (graph.in_order() if graph else [])
        spellings, averages = _variables(checkpoint, created, counters)
        evidence = Evidence(signs(checkpoint), operations, bool(created), is_ordered)
        ties = [table("tie", [("alias", name), ("target", same)]) for name, same in tied]
        wrong = ""
        for one_by_one in (False, True):
            found = [
                _suggestion(each, tensors, averages, evidence, one_by_one) for each in spellings
            ]
            found.sort(key=lambda each: (len(each.uncertain), each.text.count("\n")))
            for each in found:
                made = replace(each, text="\n".join([each.text, *ties]))
                problem = _problem(checkpoint, made.text, tensors)
                if not problem:
                    return made
                wrong = wrong or problem
        raise RuleError(f"{checkpoint.path}: no rules were found that hold: {wrong}")


def _problem(checkpoint: Checkpoint, text: str, tensors: Sequence[Tensor]) -> str:
    """What is wrong with a rule file: whether it gives each tensor once, in its shape."""
    try:
        rules = parse_rules(text, "the suggestion")
        plan = make_plan(checkpoint, rules=rules, accept_uncertain=True)
    except (PlanError, RuleError) as error:
        return str(error)
    shapes = {entry.target: tuple(entry.shape) for entry in plan.entries}
    wanted = {tensor.name: tensor.shape for tensor in tensors}
    wrong = [name for name in {**wanted, **shapes} if wanted.get(name) != shapes.get(name)]
    return f"{some(wrong)}: not as the model has it" if wrong else ""


class Evidence(NamedTuple):
    """What is known beside names and shapes.

    `is_created` says that the variables are in the order of their making, `is_ordered` that the
    tensors are in that of the state dict.
    """

    is_negative: Signs
    operations: Operations
    is_created: bool
    is_ordered: bool


def _is_whole(dtype: str | None) -> bool:
    return (dtype or "").startswith("int")


def _variables(
    checkpoint: Checkpoint, created: Sequence[str], counters: bool
) -> tuple[list[list[Tensor]], Averages]:
    """The variables but for training state, by their own names, and by their paths if they differ.

    They are in the order of the keys in `created`, or else of their names, where numbers are
    counted. With `counters` whole numbers that look like counters are among them.
    """
    seen = look(checkpoint, "", Findings())
    chosen = choose(seen, "drop", None, Findings())
    infos = dict(chosen.variables)
    kept = [
        key
        for key, state in seen.training.items()
        if (counters and state.kind == "integer scalar") or MOMENT.fullmatch(key)
    ]
    infos |= {key: seen.infos[key] for key in kept if key in seen.infos}
    averages = {
        s.base: k for k, s in seen.training.items() if s.kind == "moving average" and s.base
    }
    averages = {base: key for base, key in averages.items() if base in infos}
    is_training = any(state.kind == "slot" for state in seen.training.values())
    if not infos:
        raise PlanError(f"{checkpoint.path}: no variable in it may be a weight")
    rank = {key: i for i, key in enumerate(created)}
    found: list[list[Tensor]] = []
    for by_path in (False, True):
        named, place = {}, {}
        for key, info in infos.items():
            names = seen.names_of(key)
            own = key.removesuffix(_PATH) if by_path else names[min(1, len(names) - 1)]
            name = own if own in names or own == key else names[0]
            named[name], place[name] = info, rank.get(key, len(rank))
        if len(named) != len(infos):  # several have one name
            continue
        tensors = [
            Tensor(name, tuple(named[name].shape), _dtype(named[name]), i)
            for i, name in enumerate(sorted(named, key=lambda n: (place[n], _natural(n))))
        ]
        if not found or [t.name for t in found[0]] != [t.name for t in tensors]:
            found.append(tensors)
    return found, Averages(len(averages), not is_training)


def _dtype(info: TensorInfo) -> str | None:
    numpy = info.dtype.numpy
    return None if numpy is None else str(np.dtype(numpy))


def _natural(name: str) -> list[object]:
    parts = re.split(r"(\d+)", name)
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts]


def signs(checkpoint: Checkpoint) -> Signs:
    """Whether a variable has values below zero; None where it is too large to be read for that."""

    @cache
    def is_negative(name: str) -> bool | None:
        if (checkpoint.info(name).nbytes or _MOST_READ) >= _MOST_READ:
            return None
        return bool((checkpoint[name] < 0).any())

    return is_negative


def _suggestion(
    variables: Sequence[Tensor],
    tensors: Sequence[Tensor],
    averages: Averages,
    evidence: Evidence,
    one_by_one: bool,
) -> Suggestion:
    counted = counted_parts([variable.name for variable in variables])
    targets = target_layers(tensors)
    sources = source_layers(variables)
    for layer in sources:
        layer.known = _known(layer, evidence.operations)
    if any(layer.kind == "attention" for layer in targets):
        sources = with_attention(sources)
    pairs = _pairs(sources, targets, counted, evidence)
    used = {id(pair.source) for pair in pairs}
    filled = {id(pair.target) for pair in pairs}
    heads = _pairs(
        [s for s in sources if id(s) not in used and s.kind == "kernel"],
        [t for t in targets if id(t) not in filled and t.kind == "kernel"],
        counted,
        evidence,
        read=sliced,
    )
    pairs += heads
    used |= {id(pair.source) for pair in heads}
    filled |= {id(pair.target) for pair in heads}
    rest = _singles([s for s in sources if id(s) not in used])
    missing = _singles([*(t for t in targets if id(t) not in filled), *_without_bias(pairs)])
    more = _pairs(rest, missing, counted, evidence, weak="by its shape alone")
    pairs += more
    used |= {id(pair.source) for pair in more}
    filled |= {id(pair.target) for pair in more}
    left = [s for s in rest if id(s) not in used]
    lacking = [t for t in missing if id(t) not in filled]
    originals = _originals(variables)
    for pair in pairs:
        copied = [t.name for t in pair.source.parts.values() if t.name in originals]
        if copied and not pair.doubts and "name" not in pair.why:
            pair.doubts.append(f"by its name a copy of {originals[copied[0]]}, such as a teacher's")
    again = _tied(lacking, pairs)
    pairs += again
    filled = {id(pair.target) for pair in again}
    lacking = [layer for layer in lacking if id(layer) not in filled]
    names = [layer.scope for layer in left]
    text, uncertain = written(
        pairs, names, lacking, variables, tensors, counted, averages, one_by_one
    )
    return Suggestion(text, len(tensors), uncertain)


def _originals(variables: Sequence[Tensor]) -> dict[str, str]:
    """Of variables that have another's name and shape, in a scope around it, the other's name."""
    known = {(variable.name, variable.shape) for variable in variables}
    found = {}
    for name, shape, *_ in variables:
        parts = name.split("/")
        inner = ("/".join(parts[i:]) for i in range(1, len(parts) - 1))  # in a scope of its own
        if original := next((other for other in inner if (other, shape) in known), None):
            found[name] = original
    return found


def _known(layer: Layer, operations: Operations) -> Known:
    names = [tensor.name for tensor in layer.parts.values()]
    kernel = layer.parts["kernel"].name if "kernel" in layer.parts else ""
    cells = [operations.cells.get(name) for name in names]
    return Known(
        operations.flattened.get(kernel),
        operations.unflattened.get(kernel),
        next((cell for cell in cells if cell), None),
    )


def _without_bias(pairs: Iterable[Pair]) -> Iterator[Layer]:
    """Take biases that the layer's variables do not give out of the readings; as layers."""
    for pair in pairs:
        kept = tuple(m for m in pair.reading.made if m.sources or pair.target.kind != "kernel")
        for made in pair.reading.made:
            if made not in kept:
                yield Layer(made.target.name, "value", {"value": made.target})
        pair.reading = replace(pair.reading, made=kept)


def _tied(lacking: Iterable[Layer], pairs: Sequence[Pair]) -> list[Pair]:
    """Tensors that no variable is left for, as copies of what has their shape: tied weights."""
    found = []
    for layer in lacking:
        (tensor,) = layer.parts.values()
        options = [
            (pair, made)
            for pair in pairs
            for made in pair.reading.made
            if made.sources and made.target.shape == tensor.shape and _may_tie(tensor, made, pair)
        ]
        if not options:
            continue
        pair, made = options[0]
        pair.is_shared = True
        reading = Reading((made._replace(target=tensor),))
        doubt = f"no variable is left for it: is it tied to {made.target.name}?"
        found.append(Pair(pair.source, layer, reading, [doubt], is_shared=True))
    return found


def _may_tie(tensor: Tensor, made: Made, pair: Pair) -> bool:
    """Whether it may be the matrix of an embedding, or a bias of the module that it lies in."""
    if len(tensor.shape) > 1:
        return len(tensor.shape) == 2 and pair.reading.is_plain
    own, other = tensor.name.rpartition("."), made.target.name.rpartition(".")
    return own[2] == other[2] and bool(other[0]) and own[0].startswith(f"{other[0]}.")


def _singles(layers: Iterable[Layer]) -> list[Layer]:
    """Each tensor by itself."""
    found = [
        Layer(tensor.name, "value", {"value": tensor})
        for layer in layers
        for tensor in layer.parts.values()
        if not tensor.name.endswith("num_batches_tracked")
    ]
    return sorted(found, key=lambda layer: layer.order)


def _pairs(
    sources: Sequence[Layer],
    targets: Sequence[Layer],
    counted: frozenset[str],
    evidence: Evidence,
    weak: str = "",
    read: Read | None = None,
) -> list[Pair]:
    if not sources or not targets:
        return []
    matcher = Matcher(sources, targets, counted, evidence.is_negative, read)
    found = matcher.match()
    order = (
        Order(matcher.sources, matcher.owners, evidence.is_created) if evidence.is_ordered else None
    )
    verdicts = Judge(matcher, found, order).verdicts()
    pairs = []
    for (source, target), (own, why) in zip(found, verdicts, strict=True):
        options = matcher.read(source.layer, target.layer)
        pair = Pair(source.layer, target.layer, options[0], why=why)
        if own:
            pair.doubts.append(own)
        elif weak and why == ("shape",) and not source.words & target.words:
            pair.doubts.append(weak)
        pairs.append(pair)
    orient(pairs)
    for pair in pairs:
        if pair.reading.doubt:
            pair.doubts.append(pair.reading.doubt)
    return pairs
