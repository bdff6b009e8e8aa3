"""A rule file to complete, where no model is at hand: every group of variables once."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..findings import count
from .generalise import Item, generalise, merged
from .layers import Layer, Tensor, source_layers, with_attention
from .names import counted_parts
from .rendering import leaves_fit
from .writing import comment, table

_KINDS = {"batch_norm": "batch_norm", "norm": "layer_norm", "attention": "attention"}


def skeleton(variables: Sequence[Tensor]) -> str:
    """A [[layer]] or [[rule]] for all variables, with the kind that names and shapes suggest.

    The targets are the variables' own names with dots; all are marked as uncertain.
    """
    counted = counted_parts([variable.name for variable in variables])
    items = [item for layer in with_attention(source_layers(variables)) for item in _items(layer)]
    names = [variable.name for variable in variables]
    scopes = sorted({*names, *(name.rpartition("/")[0] for name in names)})
    found = merged(generalise(items, counted, scopes), scopes)
    lines = comment(
        f"A skeleton by tfreader, of {count(variables, 'variable')}. Write the model's names as "
        "targets, see whether the kinds are right, and take the marks away."
    )
    blocks = []
    for general in found:
        kind, *form = general.items[0].form
        keys: list[tuple[str, object]] = [("kind", form[0])] if kind == "layer" else []
        keys += [("source", general.sources[0]), ("target", general.targets[0])]
        if kind == "layer" and form[0] == "tf1_lstm":
            keys.append(("forget_bias", 1.0))
        if kind == "rule" and form[0]:
            keys.append(("ops", [form[0]]))
        blocks.append(table(str(kind), [*keys, ("uncertain", True)], general.items[0].why))
    return "\n".join([*lines, "", *blocks])


def _items(layer: Layer) -> list[Item]:
    shapes = " ".join(str([*tensor.shape]) for tensor in layer.parts.values())
    kind = _kind(layer)
    if kind and leaves_fit(kind, layer):
        note = f"{kind}, such as {shapes}"
        return [Item((layer.scope,), (_dots(layer.scope),), ("layer", kind), why=(note,))]
    return [
        Item((t.name,), (_dots(t.name),), ("rule", _op(role, t))) for role, t in layer.parts.items()
    ]


def _kind(layer: Layer) -> str:
    if layer.kind in _KINDS:
        return _KINDS[layer.kind]
    kernel = layer.parts.get("kernel")
    if layer.kind == "recurrent":
        bias = layer.parts.get("bias")
        if "wx" in layer.parts:
            return "baselines_lstm"
        return "gru" if bias is not None and len(bias.shape) == 2 else "lstm"
    if kernel is None:
        return ""
    if layer.kind == "depthwise":
        return "depthwise"
    if len(kernel.shape) > 2:
        return "conv"
    bias = layer.parts.get("bias")
    is_cell = re.search(r"(?i)lstm", layer.scope) and bias is not None
    if is_cell and bias is not None and bias.shape[0] % 4 == 0:
        return "tf1_lstm"
    return "dense" if len(kernel.shape) == 2 else ""


def _op(role: str, tensor: Tensor) -> str:
    if role in ("depthwise", "pointwise"):
        return "depthwise" if role == "depthwise" else "conv"
    is_table = "embed" in tensor.name.lower()
    return "dense" if role == "kernel" and len(tensor.shape) == 2 and not is_table else ""


def _dots(name: str) -> str:
    return name.replace("/", ".")
