"""Heads that people put on BERT and its kin under names of their own.

One fully connected layer on what the encoder or its pooler gives: `dense/kernel` of
`tf.layers.dense`, `classifier/kernel` of Keras, `TASK/output_weights` after google-research's
examples. Names, shape and place have to leave one reading: the layer's are the only weights that no
rule knows, they lie outside the encoder, and one of the sizes, but not both, is the hidden size.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from tfreader.checkpoint import TensorInfo
from tfreader.system import quoted

from ..family import Config, Family, Variables
from ..plan import CASTABLE
from ..rules.dump import dump_rules
from ..rules.ops import Op, Transpose
from ..rules.patterns import literal_tail
from ..rules.rule import Architecture, Fill, Rule, RuleSet

PART = "classifier"
_NAMES = "dense|classifier|classification|logits?|outputs?|output_layer|predictions?|fc|softmax"
# With up to two scopes around it, such as a model's and a task's.
_COMMON = re.compile(
    rf"(?:[^/]+/){{0,2}}(?:(?:{_NAMES})(?:_\d+)?/(?:kernel|weights)|output_weights)"
)
_WEIGHT = re.compile(r"(?P<scope>(?:.*/)?)(?P<kind>kernel|weights?|[wW]|output_weights)")
_BIASES = {
    "kernel": ("bias",),
    "weights": ("biases", "bias"),
    "weight": ("bias",),
    "w": ("b",),
    "W": ("b",),
    "output_weights": ("output_bias",),
}
_ENCODER = re.compile("(?:module/)?bert/.*")


class Head(NamedTuple):
    """A fully connected layer; `is_transposed` says that its weight is stored [inputs, outputs].

    Of one that is square nothing but the name tells.
    """

    weight: str
    bias: str | None
    is_transposed: bool
    outputs: int
    is_square: bool

    @property
    def names(self) -> list[str]:
        return [name for name in (self.weight, self.bias) if name is not None]

    def rules(self, target: str, part: str, outputs: int | str) -> RuleSet:
        shape: tuple[int | str, ...] = (outputs, "hidden_size")
        ops: tuple[Op, ...] = ()
        if self.is_transposed:
            shape, ops = shape[::-1], (Transpose(),)
        weight = Rule((re.escape(self.weight),), (f"{target}.weight",), ops, shape, part)
        if self.bias is None:
            reason = f"{self.weight} has no bias"
            fill = Fill(f"{target}.bias", (outputs,), "zeros", reason, part)
            return RuleSet((weight,), fills=(fill,))
        bias = Rule((re.escape(self.bias),), (f"{target}.bias",), shape=(outputs,), part=part)
        return RuleSet((weight, bias))


class _Place(NamedTuple):
    """Where a model class has such a layer: `outputs` as the rules say it, `labels` the number."""

    target: str
    part: str
    outputs: int | str
    labels: int | str


_CLASSIFIER = _Place(PART, PART, "num_labels", "num_labels")


def with_head(rules: RuleSet, config: Config, variables: Variables) -> RuleSet:
    """The rules and, where the variables leave one reading, those of a head of a common name."""
    if not any(map(_COMMON.fullmatch, variables)):
        return rules
    unknown = _unknown(rules, variables)
    heads = _heads(unknown, _hidden_size(rules, config, variables))
    names = {name for head in heads for name in head.names}
    if len(heads) != 1 or {info.name for info in unknown.values()} != {
        unknown[name].name for name in names
    }:
        return rules
    (head,) = heads
    is_common = _COMMON.fullmatch(head.weight) and not _ENCODER.fullmatch(head.weight)
    if not is_common or head.is_square or head.bias is None or _has_part(PART, rules, variables):
        return rules
    said = f"{head.weight}: taken for a classifier's output, as its name, place and shape tell"
    return replace(
        rules,
        rules=(*rules.rules, *head.rules(PART, PART, "num_labels").rules),
        remarks=(*rules.remarks, said),
    )


def advice(
    family: Family,
    pooler: str,
    rules: RuleSet,
    config: Config,
    variables: Variables,
    unknown: Variables,
    asked: Architecture | None,
) -> str:
    """What to do about those weights outside the encoder that no rule knows.

    A file of rules where they may be a head, a warning where they may be more than that. `pooler`
    is the tensor's name without its end. Where a class is `asked` for, the head is one it lacks.
    """
    size = _hidden_size(rules, config, variables)
    found = _heads(unknown, size)
    places = _places(family, asked, rules, variables)
    heads = [head for head in found if any(_fits(head, place) for place in places)]
    others = [head for head in found if not head.is_square and head not in heads[:1]]
    squares = [head for head in found if head.is_square]
    place = next((place for place in places if heads and _fits(heads[0], place)), _CLASSIFIER)
    parts = [head.rules(place.target, place.part, place.outputs) for head in heads[:1]]
    said = f"If {heads[0].weight} is the model's head" if heads else ""
    if len(squares) == 1 and squares[0].bias and not _has_part("pooler", rules, variables):
        (square,) = squares
        if parts or "pool" in square.weight:
            parts.insert(0, square.rules(pooler, "pooler", "hidden_size"))
            own = f"{squares.pop().weight} with tanh"
            said = f"{said}, and {own} its pooler" if said else f"If {own} is the model's pooler"
    sizes = {head.outputs for head in heads}
    known = {unknown[head.weight].name for head in found}
    inner = any(
        len(info.shape) == 2 and sizes & {*info.shape} and info.name not in known
        for name, info in unknown.items()
        if _WEIGHT.fullmatch(name)
    )
    biases = {unknown[head.bias].name for head in found if head.bias is not None}
    norms: dict[str, str] = {}
    for name, info in unknown.items():
        is_first = norms.get(info.name, info.name) == info.name  # but for the key
        if info.shape == (size,) and info.name not in biases and is_first:
            norms[info.name] = name
    between = [head.weight for head in squares + (heads if inner else [])]
    between += norms.values()
    if between:
        return (
            f"{' and '.join(between[:3])} may stand between the encoder and the head, where no "
            "class of transformers has a layer: without it the output would be another"
        )
    if not parts:
        return ""
    extension = RuleSet(
        tuple(rule for part in parts for rule in part.rules),
        fills=tuple(fill for part in parts for fill in part.fills),
    )
    rest = "|".join(re.escape(name) for head in others for name in head.names)
    ignored = f" and --ignore {quoted(rest)}" if rest else ""
    text = f'extends = "{family.model_type}"\n{dump_rules(extension)}'
    return f"{said}, pass --rules FILE{ignored}, with this in the file:\n{text}"


def _places(
    family: Family, asked: Architecture | None, rules: RuleSet, variables: Variables
) -> list[_Place]:
    """Where the class asked for, without one a classifier, has fully connected layers to fill."""
    if asked is None:
        return [_CLASSIFIER]
    found = []
    for rule in family.layouts[0].usual().rules:
        outputs, inputs = rule.shape if rule.shape and len(rule.shape) == 2 else ("*", "*")
        is_head = rule.part in asked.heads and inputs == "hidden_size" != outputs
        if is_head and not _has_part(rule.part, rules, variables):
            target = rule.targets[0].removesuffix(".weight")
            labels = family.labels.get(asked.name, outputs)
            found.append(_Place(target, rule.part, outputs, labels))
    return found


def _fits(head: Head, place: _Place) -> bool:
    return not head.is_square and place.labels in (head.outputs, "num_labels")


def _heads(unknown: Mapping[str, TensorInfo], hidden: int | None) -> list[Head]:
    """The fully connected layers on the hidden size, each by the likeliest of its names."""
    found: dict[str, Head] = {}
    for name, info in unknown.items():
        head = _head(name, unknown, hidden)
        if head and (info.name not in found or _COMMON.fullmatch(name)):
            found[info.name] = head
    return list(found.values())


def _head(name: str, variables: Mapping[str, TensorInfo], hidden: int | None) -> Head | None:
    match, shape = _WEIGHT.fullmatch(name), variables[name].shape
    if match is None or len(shape) != 2 or hidden not in shape:
        return None
    # google-research's output_weights are [labels, hidden_size]; so is a kernel that was exported
    # from PyTorch as it is.
    is_transposed = match["kind"] != "output_weights" and shape[0] == hidden
    outputs, inputs = shape[::-1] if is_transposed else shape
    biases = [match["scope"] + bias for bias in _BIASES[match["kind"]]]
    bias = next((own for own in biases if own in variables), None)
    if inputs != hidden or (bias is not None and variables[bias].shape != (outputs,)):
        return None
    return Head(name, bias, is_transposed, outputs, outputs == hidden)


def _unknown(rules: RuleSet, variables: Variables) -> dict[str, TensorInfo]:
    """The weights that no rule knows by any of their names, under all of them."""
    tails = defaultdict(list)  # most sources end in plain text
    for rule in rules.rules:
        for number, source in enumerate(rule.sources):
            tails[literal_tail(source)].append((rule, number))
    lengths = {len(tail) for tail in tails}
    known = {
        info.name
        for name, info in variables.items()
        for length in lengths
        if any(
            rule.patterns[number].fullmatch(name)
            for rule, number in tails.get(name[len(name) - length :], ())
        )
    }
    known |= {info.name for info in variables.values() if info.dtype.numpy not in CASTABLE}
    return {name: info for name, info in variables.items() if info.name not in known}


def _hidden_size(rules: RuleSet, config: Config, variables: Variables) -> int | None:
    """By the config, else of the first variable whose only dimension the rules call so."""
    if isinstance(size := config.get("hidden_size"), int):
        return size
    patterns = [p for r in rules.rules if r.shape == ("hidden_size",) for p in r.patterns]
    sizes = (
        info.shape[0]
        for name, info in variables.items()
        if len(info.shape) == 1 and any(pattern.fullmatch(name) for pattern in patterns)
    )
    return next(sizes, None)


def _has_part(part: str, rules: RuleSet, variables: Variables) -> bool:
    own = [pattern for rule in rules.rules if rule.part == part for pattern in rule.patterns]
    return any(pattern.fullmatch(name) for pattern in own for name in variables)
