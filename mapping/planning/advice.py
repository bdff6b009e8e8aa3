"""What to tell whoever wrote rules that fit in shape, but seldom are what the model computes.

Each piece of advice is one note for all variables that it is about. A note says what to write
instead, or what to do with the result.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from math import prod
from typing import NamedTuple

import numpy as np

from tfreader.checkpoint import TensorInfo, part_of, whole
from tfreader.training import MOVING_AVERAGE

from ..findings import some
from ..plan import Entry
from ..rules.ops import Add, Concat, Pad, Permute, Reshape, Shape, Slice, Squeeze, Transpose

MAX_TRACED = 1 << 20  # elements of a bias that are followed to where they come to lie


def advise(
    entries: Sequence[Entry],
    infos: Iterable[TensorInfo],
    spellings: Mapping[str, tuple[str, ...]],
) -> list[str]:
    """Notes on tensors made of these variables; `spellings` are all names of each of them."""
    variables = {info.name: info for info in infos}
    return [*_kernels(entries, variables, spellings), *_lstm_cells(entries, variables, spellings)]


# Convolutions: TensorFlow keeps a kernel as [spatial axes, in, out], PyTorch as [out, in, spatial
# axes]; a depthwise one as [spatial axes, in, multiplier] and [in * multiplier, 1, spatial axes].
# Keras attention keeps [in, heads, size] and, for what leaves it, [heads, size, out].
_DEPTHWISE = re.compile("(?i).*depthwise.*")
_ATTENTION = re.compile(r"(?:.*/)?_?(query|key|value|attention_output|output)(?:_dense)?/kernel")


def _kernels(
    entries: Iterable[Entry],
    variables: Mapping[str, TensorInfo],
    spellings: Mapping[str, tuple[str, ...]],
) -> Iterator[str]:
    found: dict[str, list[str]] = defaultdict(list)
    for entry in entries:
        for name in entry.sources[:1]:
            own = spellings.get(name, (name,))
            advice = _on_kernel(own, variables[name].shape, entry)
            if advice and own[-1] not in found[advice]:
                found[advice].append(own[-1])
    yield from (f"{some(names)}: {advice}" for advice, names in found.items())


def _on_kernel(names: Sequence[str], shape: Shape, entry: Entry) -> str | None:
    """What to do in place of reversing all axes of a kernel, where that is not what is usual."""
    rank = len(shape)
    if rank < 3 or not any(isinstance(op, Transpose) for op in entry.ops):
        return None
    axes, rest = _order(rank, entry)
    if rank == 3 and any(map(_ATTENTION.fullmatch, names)):
        if axes != [2, 1, 0] or not (rest and isinstance(rest[0], Reshape)):
            return None
        leaves = any(
            "output" in name.split("/")[-2] for name in names if _ATTENTION.fullmatch(name)
        )
        return (
            "transpose reverses all three axes of an attention's kernel, so that heads and their "
            f'size change places; write ops = ["attention_{"out" if leaves else "in"}"]'
        )
    is_depthwise = any(map(_DEPTHWISE.fullmatch, names))
    spatial = [axis for axis in axes if axis < rank - 2]
    channels = [axis for axis in axes if axis >= rank - 2]
    is_usual = spatial == sorted(spatial) or prod(shape[: rank - 2]) == 1
    if is_usual and not (is_depthwise and channels == [rank - 1, rank - 2]):
        return None
    if not is_depthwise:
        return (
            f"transpose reverses all {rank} axes, so that the spatial ones change places; for a "
            'convolution\'s kernel write "conv"'
        )
    return (
        f"transpose reverses all {rank} axes of a depthwise convolution's kernel; write "
        'ops = ["depthwise"]'
    )


def _order(rank: int, entry: Entry) -> tuple[list[int], list[object]]:
    """Where the axes of a variable are before the first operation that mixes them, and the rest."""
    axes = list(range(rank))
    for i, op in enumerate(entry.ops):
        if isinstance(op, Transpose):
            axes.reverse()
        elif isinstance(op, Permute):
            axes = [axes[axis] for axis in op.axes]
        elif isinstance(op, Squeeze):
            del axes[op.axis]
        elif not isinstance(op, Slice | Pad | Concat):
            return axes, list(entry.ops[i:])
    return axes, []


# The LSTM cells of TensorFlow 1 (tf.nn.rnn_cell, tf.contrib.rnn) and of Sonnet 1 have one kernel
# for input and state, with the gates i, j, f, o (coupled cells: j, f, o), and add forget_bias, by
# default 1.0, to f when they run. Keras and Sonnet 2 have it in the stored bias; they keep two
# kernels, or other names. The cell that stands in for cuDNN's sets forget_bias to 0.
_PAIRS = (
    ("kernel", "bias"),
    ("kernel", "biases"),  # convolutional cells
    ("weights", "biases"),  # TensorFlow 1.0
    ("Matrix", "Bias"),  # before that
    ("W_0", "B"),
    ("w_gates", "b_gates"),  # Sonnet 1
)
_OTHER_CELLS = ("cudnn", "phased")
_TORCH_BIAS = re.compile(r"(?:.*\.)?bias_[ih]h(?:_l\d+)?(?:_reverse)?")


class _Cell(NamedTuple):
    """An LSTM cell: its variables, under their shown and stored names, and its forget gate."""

    shown: str
    kernel: str
    bias: str
    forget: range


def _lstm_cells(
    entries: Sequence[Entry],
    variables: Mapping[str, TensorInfo],
    spellings: Mapping[str, tuple[str, ...]],
) -> Iterator[str]:
    used = {name for entry in entries for name in entry.sources}
    cells = [cell for cell in _cells(variables, spellings) if {cell.kernel, cell.bias} & used]
    if not cells:
        return
    by_bias = {cell.bias: cell for cell in cells}
    places: list[str] = []
    unordered: dict[int, list[str]] = defaultdict(list)
    added: set[str] = set()  # the biases that the rules themselves add to
    for entry in entries:
        for cell in (by_bias[name] for name in set(entry.sources) & by_bias.keys()):
            if any(isinstance(op, Add) for op in entry.ops):
                added.add(cell.bias)
            where, size = _forget_gate(entry, cell, variables), len(cell.forget)
            if where is not None:
                places.append(f"{entry.target}[{where.start}:{where.stop}] += 1.0")
                if _TORCH_BIAS.fullmatch(entry.target) and where != range(size, 2 * size):
                    unordered[size].append(entry.target)
    said = f", or afterwards: {some(places, 12)}" if places and not unordered else ""
    if left := [cell.shown for cell in cells if cell.bias not in added]:
        yield (
            f"{some(left)}: TensorFlow's LSTM cells add forget_bias (1.0 unless the training code "
            "says otherwise) to the forget gate when they run, and no checkpoint holds it. Unless "
            "the PyTorch model does so too, let the rule add it to the converted bias, in the "
            'gates\' order i, f, j, o by ops = [..., { op = "add", axis = 0, blocks = [0, 1, 0, 0] '
            f"}}]{said}"
        )
    for targets in unordered.values():
        yield (
            f"{some(targets)}: TensorFlow's LSTM cells have the gates in the order i, j, f, o, "
            'torch.nn.LSTM has i, f, j, o: { op = "reorder", axis = -1, blocks = [0, 2, 1, 3] } '
            "puts them so, for a kernel before it is transposed"
        )


def _cells(
    variables: Mapping[str, TensorInfo], spellings: Mapping[str, tuple[str, ...]]
) -> Iterator[_Cell]:
    """The LSTM cells with a forget bias that their names and shapes tell."""
    known = {
        own.removesuffix(f"/{MOVING_AVERAGE}"): info
        for name, info in variables.items()
        for own in spellings.get(name, (name,))
    }
    found: set[str] = set()
    for own, bias in known.items():
        owner, _, leaf = own.rpartition("/")
        cell = owner.lower().removesuffix("/linear").rpartition("/")[2]
        if "lstm" not in cell or any(kind in cell for kind in _OTHER_CELLS) or bias.name in found:
            continue
        gates, forget = (3, 1) if "coupled" in cell else (4, 2)
        for kernel_leaf, bias_leaf in _PAIRS:
            kernel = known.get(f"{owner}/{kernel_leaf}")
            if leaf != bias_leaf or kernel is None or f"{owner}/recurrent_kernel" in known:
                continue
            size, rest = divmod(prod(bias.shape), gates)
            if rest or len(bias.shape) != 1 or kernel.shape[-1:] != bias.shape:
                continue
            if prod(kernel.shape[:-1]) > size:  # rows for the state, and some for the input
                found.add(bias.name)
                yield _Cell(
                    owner, kernel.name, bias.name, range(forget * size, (forget + 1) * size)
                )


def _forget_gate(entry: Entry, cell: _Cell, variables: Mapping[str, TensorInfo]) -> range | None:
    """Where a tensor of one axis has the cell's forget gate; None where it has it nowhere so."""
    shapes = [variables[name].shape for name in entry.sources]
    if len(entry.shape) != 1 or sum(map(prod, shapes)) > MAX_TRACED:
        return None
    marks = [np.zeros(shape, bool) for shape in shapes]
    for name, mark in zip(entry.sources, marks, strict=True):
        if name == cell.bias:
            mark[cell.forget.start : cell.forget.stop] = True
    traced = entry.part(whole(entry.shape), shapes, [partial(part_of, mark) for mark in marks])
    (found,) = np.nonzero(traced)
    if not len(found) or found[-1] - found[0] + 1 != len(found):
        return None
    return range(int(found[0]), int(found[-1]) + 1)
