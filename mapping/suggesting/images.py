"""Matrices that may stand beside an image: behind a flatten, or in front of a convolution."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from .layers import Layer
from .names import words
from .reading import Context


def contexts(targets: Sequence[Layer], plain: bool) -> dict[str, Context]:
    """Of the layers that may stand beside an image, by their names: its channels.

    Behind a flatten they are those of the convolution before, if its place among the tensors tells;
    in a file of tensors that are sorted by name none may be before.
    """
    layers = [layer for layer in targets if layer.kind in ("kernel", "recurrent")]
    shapes = {layer.name: _shape(layer) for layer in layers}
    channels = [shape[0] for shape in shapes.values() if len(shape) > 2]
    is_sorted = len(layers) > 1 and [*shapes] == sorted(shapes)
    found: dict[str, Context] = {}
    before: list[int] = []
    since: set[int] = set()  # the sizes of what other layers gave since the last convolution
    flat: set[int] = set()  # the inputs of those that may stand behind a flatten since
    for layer in layers:
        outputs, inputs, *rest = shapes[layer.name]
        if rest:
            before.append(outputs)
            since, flat = set(), set()
            continue
        is_cell = layer.kind == "recurrent"
        others = {s[0] for name, s in shapes.items() if name != layer.name and len(s) == 2}
        if not _is_explained(inputs, since) or inputs in flat:
            likely = [c for c in (before or channels)[::-1] if inputs % c == 0]
            last = next((c for c in likely if c == before[-1]), 0) if before else 0
            channel = last or (likely[0] if likely and inputs not in channels else 0)
            if channel and not is_cell:
                is_pooled = inputs in others | {*channels}
                found[layer.name] = Context(channel, 0, is_pooled, plain=plain)
                flat.add(inputs)
            elif inputs not in channels:
                near = before or (channels if is_sorted or channel else [])
                if channel or any(inputs > c for c in near):
                    found[layer.name] = Context(is_beside=True, plain=plain)
        if is_cell:
            since |= {shapes[layer.name][0], 2 * shapes[layer.name][0]}
        else:
            since |= {outputs, inputs} if "embed" in words(layer.name) else {outputs}
    for layer, following in pairwise(layers):
        context = found.get(layer.name, Context(plain=plain))
        if not context.channels and layer.kind == "kernel" and len(shapes[layer.name]) == 2:
            image = _image_of(shapes[layer.name][0], shapes[following.name])
            found[layer.name] = context._replace(image=image)
    return found | _norms(targets, found, shapes, plain)


def _shape(layer: Layer) -> tuple[int, ...]:
    """The outputs of a layer, its inputs, and the sizes of a convolution's kernel."""
    if layer.kind == "kernel":
        return layer.parts["weight"].shape
    inputs = next((t.shape[-1] for role, t in layer.parts.items() if role == "weight_ih"), 0)
    return next((t.shape[-1] for role, t in layer.parts.items() if role == "weight_hh"), 0), inputs


def _is_explained(inputs: int, since: set[int]) -> bool:
    """Whether these are the outputs of something before, or of two, joined."""
    return inputs in since or any(inputs - size in since for size in since)


def _norms(
    targets: Sequence[Layer],
    found: dict[str, Context],
    shapes: dict[str, tuple[int, ...]],
    plain: bool,
) -> dict[str, Context]:
    """The norms of what is flattened, or will be an image: of sizes that no other has."""
    sizes = set()
    for name, context in found.items():
        if context.channels:
            sizes.add(shapes[name][1])
        if context.image:
            sizes.add(shapes[name][0])
    others = {shape[0] for name, shape in shapes.items() if not found.get(name, Context()).image}
    return {
        layer.name: Context(is_beside=True, plain=plain)
        for layer in targets
        if layer.kind in ("batch_norm", "norm")
        and {t.shape[0] for t in layer.parts.values() if t.shape} & sizes - others
    }


def _image_of(outputs: int, kernel: Sequence[int]) -> int:
    """The channels that a convolution takes of a matrix's outputs, if it may.

    A transposed one, as which one of an even size is taken, has them first.
    """
    if len(kernel) < 3 or max(kernel[2:]) == 1:
        return 0
    sizes = (kernel[1], kernel[0]) if kernel[2] % 2 else (kernel[0], kernel[1])
    return next((c for c in sizes if c > 1 and outputs % c == 0 and outputs > c), 0)
