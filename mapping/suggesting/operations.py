"""What TensorFlow's own graph says of a checkpoint's variables, where it lies beside it.

It holds what no variable does: which part of an LSTM's kernel is which gate, the forget bias, and
what is flattened before a dense layer.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from math import isfinite, prod
from typing import NamedTuple

from tfreader.meta_graph import Operation

_VARIABLES = {"VariableV2", "Variable", "VarHandleOp", "AutoReloadVariable"}
_READS = {"Identity", "Enter", "RefEnter", "ReadVariableOp", "Cast"}
_SUMS = {"BiasAdd", "Add", "AddV2", "MatMul"}
_ADDS = {"Add", "AddV2"}
_FUSED = {"LSTMBlockCell", "BlockLSTM"}  # whose gates are i, c, f, o
_MATRICES = {"MatMul", "Mean", "Placeholder", "GatherV2", "Conv2D"}  # that flatten nothing
_KEEPING = {
    *("Identity", "BiasAdd", "Relu", "Relu6", "Elu", "Selu", "Tanh", "Sigmoid", "Softplus"),
    *("LeakyRelu", "Mul", "RealDiv", "Maximum", "Merge", "Add", "AddV2", "FusedBatchNormV3"),
}
_DEPTH = 8  # of operations between a variable and its use
_MOST_USES = 64  # of an output of which is known what they are
_MOST_CELLS = 5_000  # steps of cells that are looked at
_WAY = 100  # operations at most between a layer and what is flattened before it
_PART = re.compile(r"/part_\d+$")  # of a partitioned variable


class Cell(NamedTuple):
    """An LSTM: its gates in the order of the kernel's, j for the candidate; its forget bias."""

    gates: str
    forget_bias: float


class Operations:
    """A graph, by what is asked of it. All of it is optional: without operations it knows nothing.

    `created` are the variables' names in the order of their making, `cells` the LSTMs by the names
    of their variables, `flattened` the sizes before the flatten that a kernel's inputs come from,
    () where they come from none, None where that is not told; `unflattened` those that its outputs
    are given.
    """

    def __init__(self, operations: Sequence[Operation]) -> None:
        self._by_name = {each.name: each for each in operations}
        uses: dict[str, list[Operation]] = defaultdict(list)
        for each in operations:
            for name in each.inputs:
                uses[name.removesuffix(":0")].append(each)
        self._uses = {name: used for name, used in uses.items() if len(used) <= _MOST_USES}
        names = [_PART.sub("", each.name) for each in operations if each.op in _VARIABLES]
        self.created = list(dict.fromkeys(names))
        self.cells = dict(self._cells(operations))
        self.flattened: dict[str, tuple[int, ...] | None] = {}
        self.unflattened: dict[str, tuple[int, ...] | None] = {}
        for each in operations:
            kernel = self._variable(self._input(each, 1)) if each.op == "MatMul" else None
            if kernel and kernel not in self.flattened:  # later ones are of its gradient
                self.flattened[kernel] = self._sizes_before(self._input(each))
                self.unflattened[kernel] = self._sizes_behind(each)

    def _input(self, operation: Operation, index: int = 0) -> Operation | None:
        name = operation.inputs[index] if index < len(operation.inputs) else ""
        return self._by_name.get(re.sub(r":\d+$", "", name))

    def _variable(self, operation: Operation | None) -> str | None:
        """The variable that is read here, if only that is done."""
        for _ in range(_DEPTH):
            if operation is not None and operation.op in _READS:
                operation = self._input(operation)
        return operation.name if operation and operation.op in _VARIABLES else None

    def _cells(self, operations: Sequence[Operation]) -> Iterator[tuple[str, Cell]]:
        steps = [each for each in operations if each.op == "Split" or each.op in _FUSED]
        for each in steps[:_MOST_CELLS]:
            cell = None
            if each.op == "Split" and each.outputs == 4:
                cell = self._gates(each)
            elif each.op in _FUSED and each.number is not None and isfinite(each.number):
                cell = Cell("ijfo", each.number)
            if cell:
                for name in self._summed(each):
                    yield name, cell

    def _summed(self, operation: Operation, depth: int = _DEPTH) -> Iterator[str]:
        """The variables whose products and sums are the inputs of an operation."""
        most = 2 if operation.op in _SUMS else 16
        for i in range(min(len(operation.inputs), most) if depth else 0):
            before = self._input(operation, i)
            if name := self._variable(before):
                yield name
            elif before is not None and before.op in _SUMS:
                yield from self._summed(before, depth - 1)

    def _gates(self, split: Operation) -> Cell | None:
        """Which part is which gate, by what is done with each."""
        found = [self._activated(f"{split.name}:{i}" if i else split.name) for i in range(4)]
        candidates = [each for each, _ in found if each is not None and each.op == "Tanh"]
        if len(candidates) != 1:
            return None
        letters = ""
        for activation, _ in found:
            if activation is None:
                return None
            letters += "j" if activation.op == "Tanh" else self._gate(activation, candidates[0])
        if sorted(letters) != ["f", "i", "j", "o"]:
            return None
        added = {letter: number for letter, (_, number) in zip(letters, found, strict=True)}
        forget_bias = added.pop("f")
        return None if any(added.values()) else Cell(letters, forget_bias)

    def _activated(self, output: str, is_added: bool = False) -> tuple[Operation | None, float]:
        """The activation of a part, and the constant that is added before."""
        for each in self._uses.get(output, ()):
            if each.op in ("Sigmoid", "Tanh"):
                return each, 0.0
            numbers = [self._number(each, i) for i in range(2)]
            if (
                each.op in _ADDS
                and not is_added
                and None in numbers
                and any(number is not None for number in numbers)
            ):
                activation, _ = self._activated(each.name, is_added=True)
                return activation, next(number for number in numbers if number is not None)
        return None, 0.0

    def _number(self, operation: Operation, index: int) -> float | None:
        given = self._input(operation, index)
        if given is None or given.op != "Const" or not isfinite(given.number or 0.0):
            return None
        return given.number

    def _gate(self, sigmoid: Operation, candidate: Operation) -> str:
        """i is multiplied with the candidate, o with the state's tanh, f with the state."""
        others = [
            other
            for each in self._uses.get(sigmoid.name, ())
            if each.op == "Mul"
            for i in range(2)
            if (other := self._input(each, i)) is not None and other != sigmoid
        ]
        if candidate in others:
            return "i"
        return "o" if any(other.op == "Tanh" for other in others) else "f"

    def _sizes_before(self, operation: Operation | None) -> tuple[int, ...] | None:
        """The sizes that are flattened, () where nothing is, None where that is not known."""
        for _ in range(_WAY):
            if operation is None:
                return None
            if operation.op == "Reshape":
                before = self._input(operation)
                have, want = before.shape if before else None, operation.shape
                if not have or not want:
                    return None
                if len(have) > 2 and -1 not in have[1:] and prod(have[1:]) == want[-1]:
                    return have[1:] if prod(have[1:-1]) > 1 else ()
                if have[-1] != want[-1]:
                    return None
                operation = before  # only rows are joined
                continue
            if operation.op in _MATRICES:
                return ()
            if operation.op == "SelectV2":
                operation = self._input(operation, 1)
            elif operation.op in _KEEPING:
                operation = self._input(operation)
            else:
                return None
        return None

    def _sizes_behind(self, product: Operation) -> tuple[int, ...] | None:
        """The sizes that a layer's outputs are given, as `_sizes_before`."""
        outputs = product.shape[-1] if product.shape else 0
        for _ in range(_WAY):
            following = self._uses.get(product.name, ())
            for each in following:
                if each.op == "Reshape" and each.shape and len(each.shape) > 3:
                    sizes = each.shape[1:]
                    return sizes if -1 not in sizes and prod(sizes) == outputs else None
            if any(each.op == "MatMul" for each in following):
                return ()
            kept = [each for each in following if each.op in _KEEPING]
            if not kept:
                return None
            product = kept[0]
        return None
