"""Matrices that may stand beside an image: behind a flatten, or in front of a convolution."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from .layers import Layer
from .reading import Context


def contexts(targets: Sequence[Layer], plain: bool) -> dict[str, Context]:
    """Of the matrices that may stand beside an image: its channels.

    Behind a flatten they are those of the convolution before, if its place among the tensors tells;
    in a file of tensors that are sorted by name none may be before.
    """
    layers = [layer for layer in targets if layer.kind in ("kernel", "recurrent")]
    shapes = {
        layer.scope: layer.parts["weight"].shape for layer in layers if "weight" in layer.parts
    }
    channels = [shape[0] for shape in shapes.values() if len(shape) > 2]
    found: dict[str, Context] = {}
    before: list[int] = []
    since: set[int] = set()  # the sizes of what other layers gave since the last convolution
    for layer in layers:
        if layer.scope not in shapes:
            since |= {t.shape[1] for role, t in layer.parts.items() if role == "weight_hh"}
            continue
        outputs, inputs, *rest = shapes[layer.scope]
        if rest:
            before.append(outputs)
            since = set()
            continue
        others = {s[0] for scope, s in shapes.items() if scope != layer.scope and len(s) == 2}
        if inputs not in since:
            likely = [c for c in (before or channels)[::-1] if inputs % c == 0]
            last = next((c for c in likely if c == before[-1]), 0) if before else 0
            if channel := last or (likely[0] if likely and inputs not in channels else 0):
                is_pooled = inputs in others | {*channels}
                found[layer.scope] = Context(channel, 0, is_pooled, plain)
        since.add(outputs)
    for layer, following in pairwise(layers):
        if layer.scope not in found and len(shapes.get(layer.scope, ())) == 2:
            image = _image_of(shapes[layer.scope][0], shapes.get(following.scope, ()))
            found[layer.scope] = Context(0, image, False, plain)
    return found


def _image_of(outputs: int, kernel: Sequence[int]) -> int:
    """The channels that a convolution takes of a matrix's outputs, if it may.

    A transposed one, as which one of an even size is taken, has them first.
    """
    if len(kernel) < 3 or max(kernel[2:]) == 1:
        return 0
    sizes = (kernel[1], kernel[0]) if kernel[2] % 2 else (kernel[0], kernel[1])
    return next((c for c in sizes if c > 1 and outputs % c == 0 and outputs > c), 0)
