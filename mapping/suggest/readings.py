"""How a layer of a checkpoint may become a layer of a model, by their shapes.

A reading is certain in itself unless `doubt` says what no name and no shape tells.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from .layers import Layer, Tensor

Spelled = str | Mapping[str, object]


class Made(NamedTuple):
    """A tensor of the model: of which variables, by which operations."""

    target: Tensor
    sources: tuple[Tensor, ...]
    ops: tuple[Spelled, ...] = ()
    fill: str | None = None  # the value that it is filled with, where no variable gives it
    each: tuple[tuple[Spelled, ...], ...] = ()  # operations on each source, before a join
    dtype: str | None = None


@dataclass(frozen=True)
class Reading:
    """What becomes of a layer. `layer` are the keys of the [[layer]] that it is, if it is one."""

    made: tuple[Made, ...]
    layer: tuple[tuple[str, object], ...] = ()
    doubt: str = ""
    cost: float = 0.0
    is_square: bool = False  # a kernel that its shape does not tell from its transpose
    is_matrix: bool = False
    is_plain: bool = False  # a matrix that is taken as it is


class Context(NamedTuple):
    """What is known of the rest of the model."""

    channels: int = 0  # of the convolution that a matrix may stand behind, flattened
    is_pooled: bool = False  # whether something else explains the number of its inputs, too
    plain: bool = True  # whether layers with a bias may have their kernels as they are


_Spelling = tuple[tuple[Spelled, ...], str, str]  # operations, the kind of layer, the doubt
_PARTS = {"gamma": "weight", "beta": "bias", "mean": "running_mean", "var": "running_var"}
_KINDS = {"conv": "conv", "dense": "dense", "depthwise": "depthwise"}


def readings(source: Layer, target: Layer, context: Context) -> Iterator[Reading]:
    """All readings that the shapes allow."""
    if target.kind == "kernel" and source.kind in ("kernel", "depthwise"):
        yield from _kernels(source, target, context)
    elif target.kind in ("batch_norm", "norm") and source.kind in ("batch_norm", "norm"):
        yield from _norms(source, target)
    elif target.kind == "recurrent":
        yield from _recurrent(source, target)
    elif target.kind == "attention" and source.kind == "attention":
        yield from _attention(source, target)
    elif target.kind == "value" and len(source.parts) == 1 and len(target.parts) == 1:
        yield from _values(source, target)


def _kernels(source: Layer, target: Layer, context: Context) -> Iterator[Reading]:
    if "bias" in source.parts and "bias" not in target.parts:
        return
    kernel, weight = source.parts["kernel"], target.parts["weight"]
    rest: list[Made] = []
    cost, doubt = 0.0, ""
    if "bias" in target.parts:
        bias = target.parts["bias"]
        if "bias" in source.parts:
            own = source.parts["bias"]
            if prod(own.shape) != prod(bias.shape):
                return
            flat: tuple[Spelled, ...] = () if own.shape == bias.shape else (_reshape(-1),)
            rest.append(Made(bias, (own,), flat))
        else:
            rest.append(Made(bias, (), (), "zeros"))
            cost = 2.0
    if {"weight_u", "weight_v"} & target.parts.keys():
        spectral = _spectral(source, target)
        if spectral is None:
            return
        rest += spectral
        doubt = "the vectors of spectral norm may lie in another order"
    name = weight.name.rpartition(".")[2]
    for ops, kind, own_doubt in _kernel_ops(source.kind, kernel, weight, context):
        if not context.plain and len(source.parts) > 1 and not ops and len(weight.shape) == 2:
            continue
        spelled = not rest or ("bias" in source.parts and not rest[0].ops)
        keys: tuple[tuple[str, object], ...] = ()
        if kind and spelled and name == "weight" and len(rest) < 2:
            keys = (("kind", kind), *_flat(ops))
        yield Reading(
            (Made(weight, (kernel,), ops), *rest),
            keys,
            doubt or own_doubt,
            cost,
            is_square=_is_matrix(weight, kernel) and weight.shape[0] == weight.shape[1],
            is_matrix=_is_matrix(weight, kernel),
            is_plain=_is_matrix(weight, kernel) and ops in ((), (_reshape(*weight.shape),)),
        )


def _is_matrix(weight: Tensor, kernel: Tensor) -> bool:
    """Whether both are matrices, but for axes of size 1 before."""
    return len(weight.shape) == 2 and len(kernel.shape) > 1 and prod(kernel.shape[:-2]) == 1


def _flat(ops: tuple[Spelled, ...]) -> tuple[tuple[str, object], ...]:
    first = ops[0] if ops else ""
    if isinstance(first, str) or "flatten" not in first:
        return ()
    return (("flatten", first["flatten"]),)


def _reshape(*sizes: int) -> Spelled:
    return {"op": "reshape", "to": list(sizes)}


def _kernel_ops(
    kind: str, kernel: Tensor, weight: Tensor, context: Context
) -> Iterator[tuple[tuple[Spelled, ...], str, str]]:
    """Operations, the kind of layer that does the same, and the doubt."""
    have, want = kernel.shape, weight.shape
    if len(have) == len(want) and len(have) in (3, 4, 5):
        if kind == "depthwise" or (have[-1] == 1 and want[1] == 1 and have[-2] == want[0]):
            if want == (have[-2] * have[-1], 1, *have[:-2]):
                yield ("depthwise",), "depthwise", ""
        elif want == (have[-1], have[-2], *have[:-2]):
            yield ("conv",), "conv", ""
        return
    if len(want) == 2 and len(have) >= 2 and prod(have[:-2]) == 1:
        matrix = have[-2:]
        if matrix[::-1] == want:
            found: list[_Spelling] = [(("dense",), "dense", "")]
            if len(have) == 2 and (flattened := _flattened(matrix[0], context)):
                found = [flattened, (("dense",), "dense", flattened[2])]
            yield from reversed(found) if context.is_pooled else found
        if matrix == want:
            yield () if len(have) == 2 else (_reshape(*want),), "", ""
    elif len(want) == 2 and len(have) == 3:
        if want == (have[1] * have[2], have[0]):
            yield ("attention_in",), "", ""
        elif want == (have[2], have[0] * have[1]):
            yield ("attention_out",), "", ""
    elif len(have) == 2 and len(want) > 2 and prod(want[2:]) == 1 and want[:2] == have[::-1]:
        yield ("transpose", _reshape(*want)), "", ""
    elif len(want) == 2 and len(have) > 3 and want == (have[-1], prod(have[:-1])):
        yield ("conv", _reshape(*want)), "", "a convolution over all of its input, seen as dense"


def _flattened(inputs: int, context: Context) -> tuple[tuple[Spelled, ...], str, str] | None:
    area, rest = divmod(inputs, context.channels or inputs)
    if rest or area < 2:
        return None
    side = round(area**0.5)
    sizes = [side, side] if side * side == area else [area]
    sizes.append(context.channels)
    doubt = (
        f"it may stand behind a flatten of {sizes}, [height, width, channels], of which PyTorch "
        "has the channels first: flatten = those sizes, or none where there is no such flatten"
    )
    return ({"op": "dense", "flatten": sizes},), "dense", doubt


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
        ops: tuple[Spelled, ...] = (_reshape(-1),)
        if role == "v" and len(kernel) > 2:
            last = len(kernel) - 2
            turned: Spelled = {"op": "permute", "axes": [last, *range(last)]}
            ops = (_reshape(*kernel[:-1]), turned, _reshape(-1))
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
        yield Reading((Made(want, (have,), (_reshape(*want.shape),)),), cost=0.3)
    elif have.shape == want.shape[::-1]:
        yield Reading((Made(want, (have,), ("transpose",)),), cost=0.3)


def _recurrent(source: Layer, target: Layer) -> Iterator[Reading]:
    want = {role: tensor.shape for role, tensor in target.parts.items()}
    if "weight_ih" not in want or "weight_hh" not in want:
        return
    rows, inputs = want["weight_ih"]
    size = want["weight_hh"][1]
    gates = rows // size
    have = {role: tensor.shape for role, tensor in source.parts.items()}
    end: tuple[tuple[str, object], ...] = (("suffix", target.end),)
    doubt = ""
    if gates == 4 and source.kind == "recurrent" and "recurrent" in have:
        if have["kernel"] != (inputs, rows) or have["recurrent"] != (size, rows):
            return
        if have.get("bias", (rows,)) == (rows,):
            kind = "lstm"
        elif have["bias"] == (2 * rows,):
            kind = "cudnn_lstm"
        else:
            return
    elif gates == 3 and source.kind == "recurrent" and "recurrent" in have:
        if have["kernel"] != (inputs, rows) or have["recurrent"] != (size, rows):
            return
        if have.get("bias") == (2, rows):
            kind = "gru"
        elif have.get("bias") == (2 * rows,):
            kind = "cudnn_gru"
        else:
            return
    elif gates == 4 and {"wx", "wh", "bias"} <= have.keys():
        if have["wx"] != (inputs, rows) or have["wh"] != (size, rows) or have["bias"] != (rows,):
            return
        kind = "baselines_lstm"
        doubt = "the gates are those of openai/baselines, i, f, o, u; other code may have others"
    elif gates == 4 and source.kind == "kernel" and have["kernel"] == (inputs + size, rows):
        if have.get("bias") != (rows,):
            return
        kind = "tf1_lstm"
        end += (("forget_bias", 1.0),)
        doubt = (
            "no checkpoint holds forget_bias, which the code of the model has: 1.0 by default, "
            '0.0 in cells that stand in for cuDNN\'s; the gates are i, j, f, o, but gates = "ijfo" '
            "may be others in cells of one's own"
        )
    else:
        return
    if "bias" not in have and "bias_ih" in want:
        doubt = "the model has biases and the checkpoint none"
    if target.end == "_l0":
        end = end[1:]
    made = tuple(Made(tensor, tuple(source.parts.values())) for tensor in target.parts.values())
    yield Reading(made, (("kind", kind), *end), doubt)


def _attention(source: Layer, target: Layer) -> Iterator[Reading]:
    own, want = source.parts, target.parts
    roles = {f"{n}_{r}" for n in "qkvo" for r in ("kernel", "bias")}
    leaves = {"in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"}
    if own.keys() != roles or want.keys() != leaves:
        return
    rows = sum(prod(own[f"{n}_kernel"].shape[1:]) for n in "qkv")
    if want["in_proj_weight"].shape != (rows, own["q_kernel"].shape[0]):
        return
    made = (
        Made(
            want["in_proj_weight"],
            tuple(own[f"{n}_kernel"] for n in "qkv"),
            ({"op": "concat", "axis": 0},),
            each=(("attention_in",),) * 3,
        ),
        Made(
            want["in_proj_bias"],
            tuple(own[f"{n}_bias"] for n in "qkv"),
            ({"op": "concat", "axis": 0},),
            each=((_reshape(-1),),) * 3,
        ),
        Made(want["out_proj.weight"], (own["o_kernel"],), ("attention_out",)),
        Made(want["out_proj.bias"], (own["o_bias"],)),
    )
    plain = own["q_kernel"].name.endswith("/query/kernel")
    yield Reading(made, (("kind", "attention"),) if plain else ())
