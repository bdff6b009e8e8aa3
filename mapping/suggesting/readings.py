"""How a layer of a checkpoint may become a layer of a model, by their shapes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod

from .cells import attention, recurrent
from .layers import Layer, Tensor
from .reading import Context, Made, Reading, Spelled, reshape

_Spelling = tuple[tuple[Spelled, ...], str, str]  # operations, the kind of layer, the doubt
_PARTS = {"gamma": "weight", "beta": "bias", "mean": "running_mean", "var": "running_var"}
_SLIM_LOGITS = re.compile(  # of slim's own models, of whose classes 0 is the background
    r"(?:^|/)(?:Inception|Mobilenet|resnet_v|vgg_|nasnet|pnasnet)\w*/(?:.*/)?(?i:logits)(?:/.*)?/weights$"
)
_CELLS = re.compile(r"(?i)(?:^|[/_])(?:rnn|gru|lstm|gates|candidate)")  # never behind a flatten
_TURNED = re.compile("(?i)transpose|deconv")


def readings(source: Layer, target: Layer, context: Context) -> Iterator[Reading]:
    """All readings that the shapes allow."""
    if target.kind == "kernel" and source.kind in ("kernel", "depthwise"):
        yield from _kernels(source, target, context)
    elif target.kind in ("batch_norm", "norm") and source.kind in ("batch_norm", "norm"):
        yield from _beside_image(_norms(source, target), context)
    elif target.kind == "recurrent":
        yield from _beside_image(recurrent(source, target), context, source.known.flatten)
    elif target.kind == "attention" and source.kind == "attention":
        yield from attention(source, target)
    elif target.kind == "value" and len(source.parts) == 1 and len(target.parts) == 1:
        yield from _values(source, target)


def _beside_image(
    found: Iterator[Reading], context: Context, known: Sequence[int] | None = None
) -> Iterator[Reading]:
    """The same, with the doubt that there is about layers beside a flatten."""
    for reading in found:
        if context.is_beside and known != ():
            yield replace(reading, doubt=reading.doubt or _BESIDE)
        else:
            yield reading


def _kernels(source: Layer, target: Layer, context: Context) -> Iterator[Reading]:
    if "bias" in source.parts and "bias" not in target.parts:
        return
    kernel, weight = source.parts["kernel"], target.parts["weight"]
    bias, own = target.parts.get("bias"), source.parts.get("bias")
    if bias and own and prod(own.shape) != prod(bias.shape):
        return
    more: list[Made] = []
    doubt = ""
    if {"weight_u", "weight_v"} & target.parts.keys():
        spectral = _spectral(source, target)
        if spectral is None:
            return
        more = spectral
        doubt = "the vectors of spectral norm may lie in another order"
    name = weight.name.rpartition(".")[2]
    for ops, kind, own_doubt in _kernel_ops(source, weight, context):
        if not context.plain and len(source.parts) > 1 and not ops and len(weight.shape) == 2:
            continue
        rest, spelled = [*more], True
        if bias and own:
            flat: tuple[Spelled, ...] = () if own.shape == bias.shape else (reshape(-1),)
            spelled = not flat
            rest.insert(0, Made(bias, (own,), (*flat, *_of_bias(ops))))
        elif bias:
            spelled = False
            rest.insert(0, Made(bias, (), (), "zeros"))
        keys: tuple[tuple[str, object], ...] = ()
        if kind and spelled and name == "weight" and len(rest) < 2:
            keys = (("kind", kind), *_flat(ops))
        yield Reading(
            (Made(weight, (kernel,), ops), *rest),
            keys,
            doubt or own_doubt,
            2.0 if bias and not own else 0.0,
            is_square=_is_matrix(weight, kernel) and weight.shape[0] == weight.shape[1],
            is_matrix=_is_matrix(weight, kernel),
            is_plain=_is_matrix(weight, kernel) and ops in ((), (reshape(*weight.shape),)),
        )


def _is_matrix(weight: Tensor, kernel: Tensor) -> bool:
    """Whether both are matrices, but for axes of size 1 before."""
    return len(weight.shape) == 2 and len(kernel.shape) > 1 and prod(kernel.shape[:-2]) == 1


def _flat(ops: tuple[Spelled, ...]) -> tuple[tuple[str, object], ...]:
    first = ops[0] if ops else ""
    if isinstance(first, str):
        return ()
    return tuple((key, first[key]) for key in ("flatten", "unflatten") if key in first)


def _of_bias(ops: tuple[Spelled, ...]) -> tuple[Spelled, ...]:
    """What is to be done with the bias of a layer whose outputs become an image."""
    sizes = dict(_flat(ops)).get("unflatten")
    return ({"op": "channels_first", "sizes": sizes},) if sizes else ()


def _kernel_ops(source: Layer, weight: Tensor, context: Context) -> Iterator[_Spelling]:
    have, want = source.parts["kernel"].shape, weight.shape
    if len(have) == len(want) and len(have) in (3, 4, 5):
        is_thin = have[-1] == 1 and want[1] == 1 and have[-2] == want[0]
        if source.kind == "depthwise" or is_thin:
            if want == (have[-2] * have[-1], 1, *have[:-2]):
                yield ("depthwise",), "depthwise", ""
        elif want == (have[-1], have[-2], *have[:-2]):
            kind = "conv_transpose" if _TURNED.search(f"{source.scope} {weight.name}") else "conv"
            yield (kind,), kind, ""
        return
    if len(want) == 2 and len(have) >= 2 and prod(have[:-2]) == 1:
        matrix = have[-2:]
        if matrix[::-1] == want:
            yield from _dense(source, matrix, context)
        if matrix == want:
            yield () if len(have) == 2 else (reshape(*want),), "", ""
    elif len(want) == 2 and len(have) == 3:
        if want == (have[1] * have[2], have[0]):
            yield ("attention_in",), "", ""
        elif want == (have[2], have[0] * have[1]):
            yield ("attention_out",), "", ""
    elif len(have) == 2 and len(want) > 2 and prod(want[2:]) == 1 and want[:2] == have[::-1]:
        yield ("transpose", reshape(*want)), "", ""
    elif len(have) > len(want) > 2 and prod(have[: len(have) - len(want)]) == 1:
        inner = have[len(have) - len(want) :]  # without the first axes, which are 1
        if want == (inner[-1], inner[-2], *inner[:-2]):
            yield (reshape(*inner), "conv"), "", ""
        elif (
            prod(want[2:]) == 1 and want[:2] == (have[-1], prod(have[:-1])) and _is_line(have[:-1])
        ):
            yield (reshape(*want[1::-1]), "transpose", reshape(*want)), "", ""
    elif len(want) == 2 and len(have) > 3 and want == (have[-1], prod(have[:-1])):
        yield ("conv", reshape(*want)), "", "a convolution over all of its input, seen as dense"


def _is_line(shape: Sequence[int]) -> bool:
    return sum(size > 1 for size in shape) == 1


def _dense(source: Layer, matrix: tuple[int, ...], context: Context) -> Iterator[_Spelling]:
    """A dense layer: as it is, or beside an image that is flattened, or made of its outputs."""
    flattened = None
    if len(source.parts["kernel"].shape) == 2 and not _CELLS.search(source.scope):
        flattened = _image("flatten", matrix[0], context.channels, source.known.flatten)
        flattened = flattened or _image(
            "unflatten", matrix[1], context.image, source.known.unflatten
        )
    if not flattened:
        doubted = context.is_beside and source.known.flatten is None
        yield ("dense",), "dense", _BESIDE if doubted else ""
        return
    found: list[_Spelling] = [flattened, (("dense",), "dense", flattened[2])]
    is_known = bool(source.known.flatten or source.known.unflatten)
    yield from reversed(found) if context.is_pooled and not is_known else found


_BESIDE = (
    "it may stand beside a flatten, where PyTorch has the channels first: its values may "
    "have to be put into that order, by channels_first or by parts"
)
_IMAGE_DOUBTS = {
    "flatten": "it {may} behind a flatten of {sizes}, [height, width, channels], of which PyTorch "
    "has the channels first: flatten = those sizes, or none where the model has no such flatten",
    "unflatten": "its outputs {may} reshaped to {sizes}, [height, width, channels], of which "
    "PyTorch has the channels first: unflatten = those sizes, or none where the model does not",
}


def _image(key: str, size: int, channels: int, known: Sequence[int] | None) -> _Spelling | None:
    """The image that a dense layer's inputs or outputs are, if they may be one."""
    if known is not None and (not known or prod(known) != size):
        return None
    area, rest = divmod(size, channels or size)
    if known is None and (rest or area < 2):
        return None
    side = round(area**0.5)
    guessed = [side, side, channels] if side * side == area else [area, channels]
    sizes = guessed if known is None else [*known]
    may = {"flatten": ("may stand", "stands"), "unflatten": ("may be", "are")}[key][bool(known)]
    doubt = _IMAGE_DOUBTS[key].format(may=may, sizes=sizes)
    return ({"op": "dense", key: sizes},), "dense", doubt


def _spectral(source: Layer, target: Layer) -> list[Made] | None:
    """The vectors of spectral norm: u of the outputs, v of the inputs as they lie in a kernel."""
    kernel = source.parts["kernel"].shape
    made = []
    for role, leaf in (("u", "weight_u"), ("v", "weight_v")):
        if leaf not in target.parts:
            continue
        own, tensor = source.parts.get(role), target.parts[leaf]
        if own is None or prod(own.shape) != prod(tensor.shape):
            return None
        ops: tuple[Spelled, ...] = (reshape(-1),)
        if role == "v" and len(kernel) > 2:
            last = len(kernel) - 2
            turned: Spelled = {"op": "permute", "axes": [last, *range(last)]}
            ops = (reshape(*kernel[:-1]), turned, reshape(-1))
        made.append(Made(tensor, (own,), ops))
    return made


def sliced(source: Layer, target: Layer, context: Context) -> list[Reading]:
    """A head with one class more than the model has: the background, which mostly is the first."""
    kernel, weight = source.parts.get("kernel"), target.parts.get("weight")
    if kernel is None or weight is None or kernel.shape[-1] != weight.shape[0] + 1:
        return []
    smaller = {
        role: tensor._replace(shape=(*tensor.shape[:-1], tensor.shape[-1] - 1))
        for role, tensor in source.parts.items()
        if tensor.shape[-1:] == kernel.shape[-1:]
    }
    if smaller.keys() != source.parts.keys():
        return []
    found = []
    for reading in _kernels(Layer(source.scope, source.kind, smaller), target, context):
        made = tuple(
            m._replace(ops=({"op": "slice", "axis": -1, "start": 1}, *m.ops)) if m.sources else m
            for m in reading.made
        )
        doubt = "one class more than the model has: the first is left out here, stop = -1 the last"
        if _SLIM_LOGITS.search(kernel.name):
            doubt = ""
        found.append(Reading(made, (), doubt, reading.cost))
    return found


def _norms(source: Layer, target: Layer) -> Iterator[Reading]:
    is_batch = target.kind == "batch_norm"
    if is_batch != (source.kind == "batch_norm"):
        return
    made = []
    used = set()
    plain = True
    for role, leaf in _PARTS.items():
        if leaf not in target.parts:
            if role in source.parts:
                return
            continue
        tensor = target.parts[leaf]
        summed = f"sum_{role}"
        if role in source.parts:
            if source.parts[role].shape != tensor.shape:
                return
            made.append(Made(tensor, (source.parts[role],)))
            used.add(role)
        elif summed in source.parts and "counter" in source.parts:
            if source.parts[summed].shape != tensor.shape:
                return
            made.append(Made(tensor, (source.parts[summed], source.parts["counter"]), ("divide",)))
            used |= {summed, "counter"}
            plain = False
        else:
            made.append(
                Made(tensor, (), (), "ones" if leaf in ("weight", "running_var") else "zeros")
            )
            if leaf not in ("weight", "bias"):
                return
    if not used or set(source.parts) - used:
        return
    if buffer := target.parts.get("num_batches_tracked"):
        made.append(Made(buffer, (), (), "zeros", dtype="int64"))
    kind = "batch_norm" if is_batch else "layer_norm"
    is_layer = plain and "beta" in source.parts and (is_batch or "gamma" in source.parts)
    yield Reading(tuple(made), (("kind", kind),) if is_layer else ())


def _values(source: Layer, target: Layer) -> Iterator[Reading]:
    ((_, have),), ((_, want),) = source.parts.items(), target.parts.items()
    if (have.dtype or "").startswith("int") != (want.dtype or "").startswith("int"):
        return
    if have.shape == want.shape:
        sizes = [size for size in have.shape if size > 1]
        yield Reading((Made(want, (have,)),), is_square=len(set(sizes)) < len(sizes))
    elif prod(have.shape) == prod(want.shape) and [n for n in have.shape if n > 1] == [
        n for n in want.shape if n > 1
    ]:
        yield Reading((Made(want, (have,), (reshape(*want.shape),)),), cost=0.3)
    elif have.shape == want.shape[::-1]:
        yield Reading((Made(want, (have,), ("transpose",)),), cost=0.3)
