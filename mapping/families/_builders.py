"""Rules that many families are made of."""

from __future__ import annotations

from ..rules.ops import Transpose
from ..rules.rule import Rule


def dense(
    part: str, source: str, target: str, inputs: str, outputs: str | int, bias: bool = True
) -> tuple[Rule, ...]:
    """A fully connected layer: TensorFlow's kernel is [in, out], PyTorch's weight [out, in]."""
    kernel = Rule(
        (f"{source}/kernel",),
        (f"{target}.weight",),
        (Transpose(),),
        shape=(inputs, outputs),
        part=part,
    )
    added = Rule((f"{source}/bias",), (f"{target}.bias",), shape=(outputs,), part=part)
    return (kernel, added) if bias else (kernel,)


def layer_norm(part: str, source: str, target: str, size: str) -> tuple[Rule, ...]:
    return (
        Rule((f"{source}/gamma",), (f"{target}.weight",), shape=(size,), part=part),
        Rule((f"{source}/beta",), (f"{target}.bias",), shape=(size,), part=part),
    )


def output_layer(part: str, source: str, target: str, labels: str | int) -> tuple[Rule, ...]:
    """A head of google-research's code, stored as [out, in]: there is nothing to transpose."""
    return (
        Rule(
            (f"{source}output_weights",),
            (f"{target}.weight",),
            shape=(labels, "hidden_size"),
            part=part,
        ),
        Rule((f"{source}output_bias",), (f"{target}.bias",), shape=(labels,), part=part),
    )
