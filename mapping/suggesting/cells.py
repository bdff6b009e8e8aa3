"""How recurrent layers and attention of a checkpoint may become those of a model."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from .layers import Layer
from .operations import Cell
from .reading import Made, Reading, reshape


def recurrent(source: Layer, target: Layer) -> Iterator[Reading]:
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
        known = source.known.cell
        if known is not None and (known.gates != "ifoj" or known.forget_bias):
            return
        doubt = (
            ""
            if known
            else "the gates are those of openai/baselines, i, f, o, u; other code may have others"
        )
    elif gates == 4 and source.kind == "kernel" and have["kernel"] == (inputs + size, rows):
        if have.get("bias") != (rows,):
            return
        kind = "tf1_lstm"
        cell = source.known.cell or Cell("ijfo", 1.0)
        end += (("forget_bias", cell.forget_bias),)
        end += (("gates", cell.gates),) if cell.gates != "ijfo" else ()
        doubt = (
            ""
            if source.known.cell
            else (
                "no checkpoint holds forget_bias, which the code of the model has: 1.0 by default, "
                "0.0 in cells that stand in for cuDNN's; the gates are i, j, f, o, but "
                'gates = "ijfo" may be others in cells of one\'s own'
            )
        )
    else:
        return
    if "bias" not in have and "bias_ih" in want:
        doubt = "the model has biases and the checkpoint none"
    if target.end == "_l0":
        end = end[1:]
    made = tuple(Made(tensor, tuple(source.parts.values())) for tensor in target.parts.values())
    yield Reading(made, (("kind", kind), *end), doubt)


def attention(source: Layer, target: Layer) -> Iterator[Reading]:
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
            each=((reshape(-1),),) * 3,
        ),
        Made(want["out_proj.weight"], (own["o_kernel"],), ("attention_out",)),
        Made(want["out_proj.bias"], (own["o_bias"],)),
    )
    is_torchs = want["in_proj_weight"].name.endswith("in_proj_weight")
    plain = own["q_kernel"].name.endswith("/query/kernel") and is_torchs
    yield Reading(made, (("kind", "attention"),) if plain else ())
