"""Layers on both sides: what belongs together, by its last names."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import NamedTuple

from .operations import Cell

Shape = tuple[int, ...]


class Tensor(NamedTuple):
    """A variable of the checkpoint, or a tensor of the model."""

    name: str
    shape: Shape
    dtype: str | None
    order: int


class Known(NamedTuple):
    """What TensorFlow's graph says of a layer's variables, where it is at hand."""

    flatten: Shape | None = None  # the sizes before a flatten; () where there is none before it
    unflatten: Shape | None = None  # those that its outputs are given; () where none are
    cell: Cell | None = None


@dataclass
class Layer:
    """What belongs together: its tensors by what they are to it. `end` is that of torch's RNNs."""

    scope: str
    kind: str
    parts: dict[str, Tensor] = field(default_factory=dict)
    end: str = ""
    known: Known = field(default_factory=Known)

    @property
    def order(self) -> int:
        return min(tensor.order for tensor in self.parts.values())

    @property
    def name(self) -> str:
        """The name that words and numbers are taken of."""
        return f"{self.scope}{self.end}" if self.end else self.scope

    @cached_property
    def shapes(self) -> tuple[tuple[str, Shape], ...]:
        return tuple(sorted((role, tensor.shape) for role, tensor in self.parts.items()))


# What a variable is to its layer, by its last name.
_ROLES = {
    "kernel": "kernel weights weight w matrix embeddings embedding filters filter kernels "
    "embedding_table embedding_weights table embedding_matrix gating_weights",
    "depthwise": "depthwise_kernel depthwise_weights w_dw",
    "pointwise": "pointwise_kernel pointwise_weights w_pw",
    "recurrent": "recurrent_kernel",
    "wx": "wx",
    "wh": "wh",
    "bias": "bias biases b",
    "gamma": "gamma scale g",
    "beta": "beta offset shift",
    "mean": "moving_mean running_mean moving_avg",
    "var": "moving_variance moving_var running_var running_variance",
    "sum_mean": "accumulated_mean",
    "sum_var": "accumulated_var",
    "counter": "accumulation_counter",
    "u": "u u0",
    "v": "u1",
}
ROLES = {name: role for role, names in _ROLES.items() for name in names.split()}
_SHORT = "weights|weight|kernel|w|biases|bias|b|W|B"
AVERAGE = re.compile(r"/(?:ExponentialMovingAverage|(?i:ema))[^/]*$")
# The averages of a batch norm that was written out: of what tf.nn.moments gives.
MOMENT = re.compile(
    r"(?P<scope>.+?)/(?:(?P=scope)/)?moments/(?:.*/)?(?P<which>mean|variance|Squeeze|Squeeze_1)"
    r"/ExponentialMovingAverage"
)
_INNER = re.compile(r"(?P<before>.+)_(?P<role>weights?|bias(?:es)?|kernel)_(?P<after>\w+)")
_SUFFIXED = re.compile(rf"(?P<scope>.+)_(?P<role>{_SHORT})")
_PREFIXED = re.compile(
    r"(?P<role>weights|weight|kernel|[wW]|biases|bias|[bB])_?(?P<scope>.*\d|_\w+)"
)
_NAMELESS = re.compile(r"(?P<before>(?:.*/)?)Variable(?:_(?P<number>\d+))?")
_NORMS = {"gamma", "beta", "mean", "var", "sum_mean", "sum_var", "counter"}
_ATTENTION = {
    "query": "q",
    "_query_dense": "q",
    "key": "k",
    "_key_dense": "k",
    "value": "v",
    "_value_dense": "v",
    "attention_output": "o",
    "_output_dense": "o",
}


def role_of(name: str) -> tuple[str, str]:
    """The scope of a variable's layer, and what it is to it; "" for what nothing is known of."""
    if moment := MOMENT.fullmatch(name):
        return moment["scope"], "mean" if moment["which"] in ("mean", "Squeeze") else "var"
    scope, _, last = AVERAGE.sub("", name).rpartition("/")
    if role := ROLES.get(last.lower()):
        return scope or last, role
    for pattern in (_SUFFIXED, _PREFIXED):
        if found := pattern.fullmatch(last):
            inner = found["scope"].strip("_")
            return f"{scope}/{inner}" if scope else inner, ROLES[found["role"].lower()]
    if found := _INNER.fullmatch(last):
        inner = f"{found['before']}_{found['after']}"
        return f"{scope}/{inner}" if scope else inner, ROLES[found["role"]]
    return name, ""


def source_layers(variables: Iterable[Tensor]) -> list[Layer]:
    """The layers of a checkpoint's variables."""
    scopes: dict[str, dict[str, Tensor]] = defaultdict(dict)
    layers = []
    variables = [*variables]
    joined = _joined(variables)
    for tensor in variables:
        scope, role = joined.get(tensor.name) or role_of(tensor.name)
        if role and role not in scopes[scope]:
            scopes[scope][role] = tensor
        else:
            layers.append(_alone(tensor))
    for scope, parts in scopes.items():
        layers += _of_scope(scope, parts)
    return sorted(layers, key=lambda layer: layer.order)


def _joined(variables: Sequence[Tensor]) -> dict[str, tuple[str, str]]:
    """The scope and role of variables whose own names do not tell them.

    Kernels that are called as their layer is, beside `filter_bias`, or `h1` beside `b1`; and what
    nobody named: `Variable`, and `Variable_1` of its size, which is its bias.
    """
    found: dict[str, tuple[str, str]] = {}
    kernels: dict[str, tuple[Tensor, str]] = {}
    for tensor in variables:
        scope, role = role_of(tensor.name)
        if role == "bias":
            inner = scope.rpartition("/")[2]
            before = tensor.name.rpartition("/")[0]
            numbered = f"{before}/#{inner}".lstrip("/") if inner.isdigit() else scope
            kernels[numbered] = tensor, scope
    for tensor in variables:
        numbered = re.sub(r"[A-Za-z](\d+)$", r"#\1", tensor.name)
        bias, scope = kernels.get(tensor.name) or kernels.get(numbered) or (None, "")
        if bias is not None and _fit(tensor, bias):
            found[tensor.name] = scope, "kernel"
    for kernel, bias in _nameless(variables):
        found |= {kernel.name: (kernel.name, "kernel"), bias.name: (kernel.name, "bias")}
    return found


def _nameless(variables: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Of `Variable`, `Variable_1`, … the kernels that are followed by their bias.

    Not where another one of these has that size too: all kernels may come first, or biases before
    their kernels.
    """
    named = {t.name: t for t in variables if _NAMELESS.fullmatch(t.name)}
    pairs = []
    for kernel in named.values():
        match = _NAMELESS.fullmatch(kernel.name)
        number = int(match["number"] or 0) + 1 if match else 0
        following = named.get(f"{match['before']}Variable_{number}") if match else None
        if following is not None and _fit(kernel, following):
            pairs.append((kernel, following))
    paired = {tensor.name for pair in pairs for tensor in pair}
    alone = {(1, *t.shape)[-1] for t in named.values() if t.name not in paired}
    return [(kernel, bias) for kernel, bias in pairs if (1, *bias.shape)[-1] not in alone]


def _fit(kernel: Tensor, bias: Tensor) -> bool:
    return len(kernel.shape) > 1 and kernel.shape[-1] == prod(bias.shape) == max((1, *bias.shape))


def _alone(tensor: Tensor) -> Layer:
    """A variable of which nothing is known; with two axes or more it may be a kernel."""
    if len(tensor.shape) > 1:
        return Layer(tensor.name, "kernel", {"kernel": tensor})
    return Layer(tensor.name, "value", {"value": tensor})


def _of_scope(scope: str, parts: Mapping[str, Tensor]) -> Iterable[Layer]:
    norm = {role: tensor for role, tensor in parts.items() if role in _NORMS}
    rest = {role: tensor for role, tensor in parts.items() if role not in _NORMS}
    if "gamma" in norm and "beta" not in norm and rest.keys() == {"bias"}:
        norm["beta"] = rest.pop("bias")
    if norm:
        has_statistics = {"mean", "sum_mean"} & norm.keys()
        yield Layer(scope, "batch_norm" if has_statistics else "norm", norm)
    if {"wx", "wh"} <= rest.keys() or {"kernel", "recurrent"} <= rest.keys():
        yield Layer(scope, "recurrent", rest)
        return
    if {"depthwise", "pointwise"} <= rest.keys():
        yield Layer(scope, "separable", rest)
        return
    if {"kernel", "depthwise", "pointwise"} & rest.keys():
        (main, *others) = [r for r in rest if r in ("kernel", "depthwise", "pointwise")]
        kernel = {"kernel" if r == main else r: t for r, t in rest.items() if r not in others}
        yield Layer(scope, "depthwise" if main == "depthwise" else "kernel", kernel)
        rest = {role: rest[role] for role in others}
    yield from map(_alone, rest.values())


def with_attention(layers: list[Layer]) -> list[Layer]:
    """The same, the four layers of each of Keras' attentions as one."""
    found: dict[str, dict[str, Layer]] = defaultdict(dict)
    for layer in layers:
        scope, _, last = layer.scope.rpartition("/")
        if layer.kind == "kernel" and last in _ATTENTION and len(layer.parts["kernel"].shape) == 3:
            found[scope][_ATTENTION[last]] = layer
    whole = {scope: of for scope, of in found.items() if len(of) == 4}
    inner = {id(layer) for of in whole.values() for layer in of.values()}
    joined = [
        Layer(
            scope,
            "attention",
            {f"{n}_{role}": t for n, layer in of.items() for role, t in layer.parts.items()},
        )
        for scope, of in whole.items()
    ]
    layers = [layer for layer in layers if id(layer) not in inner] + joined
    return sorted(layers, key=lambda layer: layer.order)


_RECURRENT = re.compile(r"(?P<part>(?:weight|bias)_[ih]h)(?P<end>_l\d+(?:_reverse)?)?")
_BUFFER = "num_batches_tracked"


def target_layers(tensors: Iterable[Tensor]) -> list[Layer]:
    """The layers of a model's tensors."""
    scopes: dict[str, dict[str, Tensor]] = defaultdict(dict)
    layers: list[Layer] = []
    for tensor in tensors:
        scope, _, last = tensor.name.rpartition(".")
        scopes[scope][last] = tensor
    for scope in [s for s, p in scopes.items() if "in_proj_weight" in p]:
        layers.append(_attention(scope, scopes.pop(scope), scopes.pop(f"{scope}.out_proj", {})))
    for scope in [s.removesuffix(".qkv") for s in scopes if s.endswith(".qkv")]:
        if f"{scope}.proj" in scopes:
            fused = {f"in_proj_{last}": t for last, t in scopes.pop(f"{scope}.qkv").items()}
            layers.append(_attention(scope, fused, scopes.pop(f"{scope}.proj")))
    for scope, parts in scopes.items():
        layers += _of_module(scope, dict(parts))
    return sorted(layers, key=lambda layer: layer.order)


def _attention(scope: str, fused: dict[str, Tensor], output: dict[str, Tensor]) -> Layer:
    """That of torch.nn.MultiheadAttention, or what has its tensors under other names."""
    return Layer(scope, "attention", fused | {f"out_proj.{last}": t for last, t in output.items()})


def _of_module(scope: str, parts: dict[str, Tensor]) -> Iterable[Layer]:
    cells: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for last in [*parts]:
        if found := _RECURRENT.fullmatch(last):
            cells[found["end"] or ""][found["part"]] = parts.pop(last)
    for end, own in cells.items():
        yield Layer(scope, "recurrent", own, end)
    if "running_mean" in parts and "running_var" in parts:
        own = {
            r: parts.pop(r)
            for r in ("weight", "bias", "running_mean", "running_var", _BUFFER)
            if r in parts
        }
        yield Layer(scope, "batch_norm", own)
    weight = next((w for w in ("weight", "weight_orig", "kernel") if w in parts), None)
    if weight:
        rank = len(parts[weight].shape)
        own = {"weight": parts.pop(weight)}
        for role in ("bias", "weight_u", "weight_v") if rank > 1 else ("bias",):
            if role in parts:
                own[role] = parts.pop(role)
        yield Layer(scope, "kernel" if rank > 1 else "norm" if "bias" in own else "value", own)
    for tensor in parts.values():
        yield Layer(tensor.name, "value", {"value": tensor})
