"""Whole layers: each is one [[layer]] table of a rule file, and several rules.

A layer's variables are called what TensorFlow 1, tf_slim, Keras and Sonnet call them. What a layer
becomes is told by the documentation of torch.nn: `weight` and `bias`, `running_mean`, and of
recurrent layers `weight_ih`, `weight_hh`, `bias_ih`, `bias_hh` with the gates i, f, g, o (LSTM) and
r, z, n (GRU).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tfreader.errors import RuleError

from .arithmetic import Add
from .kernels import (
    AttentionIn,
    AttentionOut,
    CellRows,
    ChannelsFirst,
    Conv,
    ConvTranspose,
    Dense,
    Depthwise,
    GRUBias,
)
from .moves import Reorder, Reshape, Transpose
from .op import Each, Op
from .rule import Fill, Rule
from .schema import meant, quoted
from .several import Concat, Split
from .templates import Tables, as_regex

KERNEL, BIAS = "(?:kernel|weights|w)", "(?:bias|biases|b)"
GAMMA, BETA = "(?:gamma|scale)", "(?:beta|offset)"
LSTM_GATES = "ijfo"  # TensorFlow 1's; torch.nn.LSTM has i, f, g, o, where j is g
_INPUT_ORDER = (1, 0, 2)  # Keras' z, r, h as r, z, h
_TF1_GRU = (
    "TensorFlow 1's GRU applies the reset gate before the recurrent kernel, where torch.nn.GRU "
    "applies it behind: no weights make them equal. Write the cell in PyTorch with two "
    'torch.nn.Linear, and [[layer]] kind = "dense" for its gates and its candidate'
)


@dataclass(frozen=True)
class Layer:
    """Where a layer's variables lie, where its tensors shall, and what else is asked for.

    The tensors of recurrent layers end in `suffix`.
    """

    source: str
    target: str
    tables: Tables
    suffix: str = "_l0"
    flatten: tuple[int | str, ...] | None = None
    unflatten: tuple[int | str, ...] | None = None
    forget_bias: float | None = None
    gates: str = LSTM_GATES

    def rule(self, leaf: str, *names: str, ops: tuple[Op, ...] = (), required: bool = True) -> Rule:
        targets = tuple(f"{self.target}.{name}" for name in names)
        return Rule((f"{self.source}/{leaf}",), targets, ops, required=required, tables=self.tables)

    def beside(self, name: str, other: str, value: str, reason: str) -> Fill:
        """A tensor beside each of the layer's that is called `other`."""
        end = self.suffix if other.startswith("bias_") else ""
        layer, last = as_regex(self.target).pattern, as_regex(end).pattern
        like = f"(?P<layer>{layer})\\.{other}(?P<end>{last})"
        return Fill(f"{{layer}}.{name}{{end}}", None, value, reason, like=like, required=False)


Made = Iterator[Rule | Fill]


def _weighted(op: Op) -> Callable[[Layer], Made]:
    def layer(given: Layer) -> Made:
        used = Dense(given.flatten, given.unflatten) if isinstance(op, Dense) else op
        yield given.rule(KERNEL, "weight", ops=(used,))
        turned = (ChannelsFirst(given.unflatten),) if given.unflatten else ()
        yield given.rule(BIAS, "bias", ops=turned, required=False)

    return layer


def _depthwise(given: Layer) -> Made:
    kernel = "(?:depthwise_kernel|depthwise_weights|w_dw|kernel)"
    yield given.rule(kernel, "weight", ops=(Depthwise(),))
    yield given.rule(BIAS, "bias", required=False)


def _separable(given: Layer) -> Made:
    yield given.rule("(?:depthwise_kernel|depthwise_weights|w_dw)", "0.weight", ops=(Depthwise(),))
    yield given.rule("(?:pointwise_kernel|pointwise_weights|w_pw)", "1.weight", ops=(Conv(),))
    yield given.rule(BIAS, "1.bias", required=False)


def _batch_norm(given: Layer) -> Made:
    yield given.rule(GAMMA, "weight", required=False)
    yield given.rule(BETA, "bias", required=False)
    yield given.rule("moving_mean", "running_mean")
    yield given.rule("moving_variance", "running_var")
    yield given.beside("weight", "bias", "ones", "it was trained without a scale")


def _layer_norm(given: Layer) -> Made:
    yield given.rule(GAMMA, "weight")
    yield given.rule(BETA, "bias", required=False)


def _embedding(given: Layer) -> Made:
    yield given.rule("(?:embeddings|embedding|weights|w)", "weight")


def _lstm(given: Layer) -> Made:
    """Keras': its gates are torch's, its bias has the forget bias."""
    end = given.suffix
    yield given.rule("kernel", f"weight_ih{end}", ops=(Transpose(),))
    yield given.rule("recurrent_kernel", f"weight_hh{end}", ops=(Transpose(),))
    yield given.rule("bias", f"bias_ih{end}", required=False)
    yield given.beside("bias_hh", "bias_ih", "zeros", "TensorFlow has one bias")


def _cell(given: Layer) -> Made:
    """TensorFlow 1's: one kernel for input and state, and a forget bias that no checkpoint has."""
    if given.forget_bias is None:
        raise RuleError(
            "forget_bias is missing: TensorFlow 1's cells add it to the forget gate when they "
            "run, and no checkpoint has it. It is 1.0 unless the code says otherwise, 0.0 in the "
            "cells that stand in for cuDNN's; write for example forget_bias = 1.0"
        )
    order, end = _order(given.gates), given.suffix
    kernel, bias = "(?:kernel|weights|w_gates)", "(?:bias|biases|b_gates)"
    for of, name in (("input", "ih"), ("state", "hh")):
        ops = (CellRows(of), Reorder(1, order), Transpose())
        yield given.rule(kernel, f"weight_{name}{end}", ops=ops)
    added = (Add(axis=0, blocks=(0, given.forget_bias, 0, 0)),) if given.forget_bias else ()
    yield given.rule(bias, f"bias_ih{end}", ops=(Reorder(0, order), *added))
    yield given.beside("bias_hh", "bias_ih", "zeros", "TensorFlow has one bias")


def _baselines(given: Layer) -> Made:
    """openai/baselines' own: kernels wx and wh, one bias, the gates i, f, o, u."""
    order, end = _order("ifou"), given.suffix
    for leaf, name in (("wx", "ih"), ("wh", "hh")):
        yield given.rule(leaf, f"weight_{name}{end}", ops=(Reorder(1, order), Transpose()))
    yield given.rule("b", f"bias_ih{end}", ops=(Reorder(0, order),))
    yield given.beside("bias_hh", "bias_ih", "zeros", "baselines has one bias")


def _order(gates: str) -> tuple[int, ...]:
    """Where torch's gates are among these. Raises RuleError for gates of no LSTM."""
    known = gates.replace("j", "g").replace("u", "g").replace("c", "g")
    if sorted(known) != sorted("ifgo"):
        raise RuleError(f"gates = {quoted(gates)}: expected i, f, o and j (or g, u, c) once each")
    return tuple(map(known.index, "ifgo"))


def _gru(given: Layer) -> Made:
    """Keras' with reset_after=True; one without is refused by its bias' shape."""
    end = given.suffix
    for leaf, name in (("kernel", "ih"), ("recurrent_kernel", "hh")):
        ops = (Reorder(1, _INPUT_ORDER), Transpose())
        yield given.rule(leaf, f"weight_{name}{end}", ops=ops)
    both = (Reorder(-1, _INPUT_ORDER), GRUBias(), Split(0))
    yield given.rule("bias", f"bias_ih{end}", f"bias_hh{end}", ops=both)


def _tf1_gru(_: Layer) -> Made:
    raise RuleError(_TF1_GRU)


def _cudnn_lstm(given: Layer) -> Made:
    """Keras' CuDNNLSTM: both biases, one after the other."""
    end = given.suffix
    yield given.rule("kernel", f"weight_ih{end}", ops=(Transpose(),))
    yield given.rule("recurrent_kernel", f"weight_hh{end}", ops=(Transpose(),))
    yield given.rule("bias", f"bias_ih{end}", f"bias_hh{end}", ops=(Split(0),))


def _cudnn_gru(given: Layer) -> Made:
    """Keras' CuDNNGRU: as a GRU with reset_after=True, its biases one after the other."""
    end = given.suffix
    for leaf, name in (("kernel", "ih"), ("recurrent_kernel", "hh")):
        ops = (Reorder(1, _INPUT_ORDER), Transpose())
        yield given.rule(leaf, f"weight_{name}{end}", ops=ops)
    both = (Reshape((2, -1)), Reorder(1, _INPUT_ORDER), GRUBias(), Split(0))
    yield given.rule("bias", f"bias_ih{end}", f"bias_hh{end}", ops=both)


def _attention(given: Layer) -> Made:
    """Keras' MultiHeadAttention as torch.nn.MultiheadAttention, of one size for all."""
    parts = ("query", "key", "value")

    def joined(leaf: str, name: str, op: Op) -> Rule:
        sources = tuple(f"{given.source}/{part}/{leaf}" for part in parts)
        ops = (Each(tuple((1, (op,)) for _ in parts)), Concat(0))
        return Rule(sources, (f"{given.target}.{name}",), ops, tables=given.tables)

    yield joined("kernel", "in_proj_weight", AttentionIn())
    yield joined("bias", "in_proj_bias", Reshape((-1,)))
    output = "attention_output"
    yield given.rule(f"{output}/kernel", "out_proj.weight", ops=(AttentionOut(),))
    yield given.rule(f"{output}/bias", "out_proj.bias")


KINDS: Mapping[str, Callable[[Layer], Made]] = {
    "dense": _weighted(Dense()),
    "conv": _weighted(Conv()),
    "conv_transpose": _weighted(ConvTranspose()),
    "depthwise": _depthwise,
    "separable": _separable,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "embedding": _embedding,
    "lstm": _lstm,
    "tf1_lstm": _cell,
    "baselines_lstm": _baselines,
    "cudnn_lstm": _cudnn_lstm,
    "gru": _gru,
    "tf1_gru": _tf1_gru,
    "cudnn_gru": _cudnn_gru,
    "attention": _attention,
}
# The keys of one kind that others have no use for.
_OF_KINDS = {
    "forget_bias": ("tf1_lstm",),
    "gates": ("tf1_lstm",),
    "flatten": ("dense",),
    "unflatten": ("dense",),
    "suffix": ("lstm", "tf1_lstm", "baselines_lstm", "cudnn_lstm", "gru", "cudnn_gru"),
}


def layer_rules(
    kind: str, tables: Tables, uncertain: bool = False, **keys: Any
) -> list[Rule | Fill]:
    """The rules of a layer. Raises RuleError for a kind that there is not, or cannot be."""
    if kind not in KINDS:
        raise RuleError(f"kind = {quoted(kind)}{meant(kind, KINDS)}")
    for key in keys:
        if key in _OF_KINDS and kind not in _OF_KINDS[key]:
            raise RuleError(f"{key}: only for {', '.join(_OF_KINDS[key])}")
    made = [
        replace(rule, uncertain=uncertain) for rule in KINDS[kind](Layer(tables=tables, **keys))
    ]
    for rule in made:
        if isinstance(rule, Rule):
            _ = rule.patterns  # which are refused here, not when a variable is matched
    return made
