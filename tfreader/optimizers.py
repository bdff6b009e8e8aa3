"""Optimizers in an object graph: which nodes are optimizers, and what belongs to them alone.

Names that many classes use (`iter`, `learning_rate`) make no optimizer of an object that holds a
model as well: what is not known to be an optimizer's stays a weight.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from .graph_nodes import Node, walk

# The list of the model's own weights that a Keras 3 optimizer keeps.
WEIGHTS_OF_OPTIMIZER = "_trainable_variables"
AVERAGES = "_model_variables_moving_average"  # Keras 2.11 and later, use_ema=True
AVERAGE = "average"  # the slot of these, of TensorFlow Addons' and of the Model Garden's optimizers
# What Keras' and TensorFlow Addons' optimizers call their scalars.
HYPERPARAMETER = re.compile(
    r"_?(?:iter|iterations|(?:current_)?learning_rate|decay|momentum|rho|beta_[123]|epsilon"
    r"|weight_decay(?:_rate)?|learning_rate_power|l[12]_regularization_strength|average_decay"
    r"|initial_accumulator_value|start_averaging|average_period|sync_period|slow_step_size"
    r"|sma_threshold|total_steps|warmup_proportion|min_lr|momentum_cache)"
)
# Lists of an optimizer that hold no slots.
_NO_SLOTS = ("_variables", WEIGHTS_OF_OPTIMIZER, "_trainable_variables_indices")


class Slot(NamedTuple):
    """Whose slot variable a value is: the variable's key, the slot's name, the optimizer's path."""

    base: str
    name: str
    optimizer: str


class Owned(NamedTuple):
    """A variable that belongs to an optimizer: its key and its own name."""

    key: str
    full_name: str
    optimizer: str


Shapes = Callable[[str], tuple[int, ...] | None]
"""The shape of the variable with that key, None where it is not known."""


def find_optimizers(
    nodes: Sequence[Node], reached: Iterable[int], shape: Shapes
) -> dict[int, frozenset[str]]:
    """The optimizers among the nodes, each with the names of those children that are its own."""

    def is_scalar(node: Node) -> bool:
        return not node.children and all(shape(key) in ((), None) for _, _, key in node.attributes)

    found = {}
    for i in reached:
        names = {name: child for child, name in nodes[i].children}
        scalars = {
            name
            for name, child in names.items()
            if HYPERPARAMETER.fullmatch(name) and is_scalar(nodes[child])
        }
        # A Keras optimizer from 2.11 on lists all its variables, the number of steps first.
        listed = nodes[names["_variables"]].children if "_variables" in names else []
        iterations = names.get("_iterations")
        lists_itself = iterations is not None and any(i == iterations for i, _ in listed)
        if nodes[i].slots or lists_itself:
            own = names.keys() - {WEIGHTS_OF_OPTIMIZER}
            # Whoever makes the optimizer the root hangs the model below it too.
            if i == 0:
                mine = {child for child, _ in listed}
                own = {
                    name
                    for name in own
                    if name in scalars or name.startswith("_") or _lists(nodes[names[name]], mine)
                }
            found[i] = frozenset(own)
        elif scalars & {"iter", "_iterations"} and len(scalars) > 1:
            found[i] = frozenset(scalars)
    return found


def _lists(node: Node, variables: Collection[int]) -> bool:
    """Whether a node is a list of some of these variables, as `momentums` of SGD and Lion."""
    return bool(node.children) and all(child in variables for child, _ in node.children)


def owned_nodes(nodes: list[Node], optimizers: Mapping[int, Collection[str]]) -> dict[int, int]:
    """The optimizer of each node that only an optimizer owns; these are as `find_optimizers` tells.

    What can be reached without passing an optimizer is the model's, and so is what has slots.
    """
    others = walk(nodes, [0], optimizers)
    bases = {base for i in optimizers for base, _, _ in nodes[i].slots}
    return {
        i: step.start
        for i, step in walk(nodes, list(optimizers)).items()
        if i not in others and i not in bases
    }


def slots_in_lists(
    nodes: Sequence[Node],
    keys: Mapping[int, str],
    full_names: Mapping[str, str],
    optimizers: Mapping[int, str],
) -> Iterator[tuple[str, Slot]]:
    """Slot variables of Keras 3, by key: its lists of slots go along with its list of weights.

    `keys` are those of the nodes that are variables, `full_names` the variables' own names by key,
    `optimizers` the paths of the optimizers.
    """
    for i, path in optimizers.items():
        lists = {name: nodes[child].children for child, name in nodes[i].children}
        weights = {number: child for child, number in lists.get(WEIGHTS_OF_OPTIMIZER, ())}
        flat = {
            child: full_names[keys[child]].replace("/", "_") + "_"
            for child in set(weights.values()) & keys.keys()
        }
        for attribute, children in lists.items():
            for child, number in () if attribute in _NO_SLOTS else children:
                base = weights.get(number)
                if child in keys and base is not None and base in flat:
                    # adam/dense_kernel_momentum of dense/kernel
                    own = full_names[keys[child]].rpartition("/")[2]
                    is_flat = own.startswith(flat[base])
                    name = own.removeprefix(flat[base]) if is_flat else attribute.strip("_")
                    name = AVERAGE if attribute == AVERAGES else name
                    yield keys[child], Slot(keys[base], name, path)


def slots_by_name(
    values: Iterable[Owned], weights: Iterable[tuple[str, str]], shape: Shapes
) -> dict[str, Slot]:
    """Slots of optimizers that keep their variables in a plain list, by the variables' names.

    Keras 2.11 to 2.15 calls them Adam/m/dense/kernel, or m/dense/kernel. `weights` are the own
    names and keys of the weights; of several of one name the shape must tell.
    """
    of_optimizer: dict[str, list[Owned]] = defaultdict(list)
    for value in values:
        of_optimizer[value.optimizer].append(value)
    if not of_optimizer:
        return {}
    by_shape: dict[tuple[str, tuple[int, ...] | None], set[str]] = defaultdict(set)
    by_part: dict[tuple[str, tuple[int, ...] | None], set[str]] = defaultdict(set)
    for name, key in weights:
        mine = shape(key)
        by_shape[name, mine].add(key)
        for part in reduced(mine or ()):
            by_part[name, part].add(key)

    def resolve(value: Owned, outer: int) -> Slot | None:
        *scopes, base = value.full_name.split("/", outer + 1)
        if len(scopes) <= outer:
            return None
        mine = shape(value.key)
        fitting = by_shape.get((base, mine)) or by_part.get((base, mine)) or ()
        return Slot(next(iter(fitting)), scopes[-1], value.optimizer) if len(fitting) == 1 else None

    slots: dict[str, Slot] = {}
    for owned in of_optimizer.values():
        # All slots of an optimizer are called alike: what more of them can be read as, they are.
        readings = [
            {value.key: slot for value in owned if (slot := resolve(value, outer))}
            for outer in (1, 0)
        ]
        best = max(readings, key=len)
        slots |= best
    return slots


def reduced(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The shapes that Adafactor's slots have: the variable's without one axis, or a stand-in's."""
    yield from (shape[:i] + shape[i + 1 :] for i in range(len(shape)))
    yield from ((), (1,))
