"""The rules of what was found: a [[layer]] for what is one, else a rule for each tensor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ..findings import count
from .generalise import General, Item, generalise, merged, single
from .layers import Layer, Tensor
from .matching import Pair
from .reading import Made, Spelled
from .writing import comment, evidence, table

# What a variable of a [[layer]] may be called.
_LEAVES: dict[str, dict[str, str]] = {
    "dense": {"kernel": "kernel weights w", "bias": "bias biases b"},
    "conv": {"kernel": "kernel weights w", "bias": "bias biases b"},
    "depthwise": {
        "kernel": "depthwise_kernel depthwise_weights w_dw kernel",
        "bias": "bias biases b",
    },
    "batch_norm": {
        "gamma": "gamma scale",
        "beta": "beta offset",
        "mean": "moving_mean",
        "var": "moving_variance",
    },
    "layer_norm": {"gamma": "gamma scale", "beta": "beta offset"},
    "lstm": {"kernel": "kernel", "recurrent": "recurrent_kernel", "bias": "bias"},
    "tf1_lstm": {"kernel": "kernel weights w_gates", "bias": "bias biases b_gates"},
    "baselines_lstm": {"wx": "wx", "wh": "wh", "bias": "b"},
    "attention": {
        f"{n}_{leaf}": f"{scope}/{leaf}"
        for n, scope in {"q": "query", "k": "key", "v": "value", "o": "attention_output"}.items()
        for leaf in ("kernel", "bias")
    },
}
_LEAVES["conv_transpose"] = _LEAVES["conv"]
_LEAVES |= dict.fromkeys(("cudnn_lstm", "gru", "cudnn_gru"), _LEAVES["lstm"])


def _is_layer(pair: Pair) -> bool:
    """Whether a [[layer]] says what becomes of it."""
    keys = dict(pair.reading.layer)
    return bool(
        keys
        and pair.target.scope
        and not pair.is_shared
        and leaves_fit(str(keys["kind"]), pair.source)
    )


def leaves_fit(kind: str, layer: Layer) -> bool:
    """Whether the variables are called as a [[layer]] of that kind has them."""
    leaves = _LEAVES.get(kind, {})
    return all(
        role in leaves and tensor.name in {f"{layer.scope}/{n}" for n in leaves[role].split()}
        for role, tensor in layer.parts.items()
    )


def _frozen(value: object) -> object:
    if isinstance(value, Mapping):
        return ("dict", *((k, _frozen(v)) for k, v in value.items()))
    if isinstance(value, list | tuple):
        return ("list", *map(_frozen, value))
    return value


def _thawed(value: object) -> object:
    if isinstance(value, tuple) and value and value[0] == "dict":
        return {k: _thawed(v) for k, v in value[1:]}
    if isinstance(value, tuple) and value and value[0] == "list":
        return [_thawed(v) for v in value[1:]]
    return value


def _items(pairs: Iterable[Pair]) -> list[Item]:
    items = []
    for pair in pairs:
        doubts = tuple(pair.doubts)
        form: tuple[object, ...]
        if _is_layer(pair):
            form = ("layer", *((k, _frozen(v)) for k, v in pair.reading.layer))
            items.append(Item((pair.source.scope,), (pair.target.scope,), form, doubts, pair.why))
            continue
        for made in _spelled_out(pair):
            if made.fill is not None:
                continue
            form = ("rule", _frozen(made.ops), _frozen(made.each), made.dtype)
            names = tuple(s.name for s in made.sources)
            own = (*form, made.target.name) if pair.is_shared else form
            items.append(Item(names, (made.target.name,), own, doubts, pair.why))
    return items


_GATES = {"baselines_lstm": [0, 1, 3, 2], "gru": [1, 0, 2]}


def _spelled_out(pair: Pair) -> tuple[Made, ...]:
    """The tensors of a recurrent layer whose variables are not called as in a [[layer]]."""
    keys = dict(pair.reading.layer)
    kind = str(keys.get("kind", ""))
    if pair.target.kind != "recurrent":
        return pair.reading.made
    own, want = pair.source.parts, pair.target.parts
    order = next((blocks for name, blocks in _GATES.items() if kind.endswith(name)), None)
    if kind == "tf1_lstm":
        order = [str(keys.get("gates", "ijfo")).index(gate) for gate in "ifjo"]

    def gates(axis: int) -> tuple[Spelled, ...]:
        return () if order is None else ({"op": "reorder", "axis": axis, "blocks": order},)

    made = []
    if kind == "tf1_lstm":
        for of, role in (("input", "weight_ih"), ("state", "weight_hh")):
            rows: Spelled = {"op": "cell_rows", "of": of}
            made.append(Made(want[role], (own["kernel"],), (rows, *gates(1), "transpose")))
        added: Spelled = {"op": "add", "axis": 0, "blocks": [0, keys["forget_bias"], 0, 0]}
        forget = (added,) if keys["forget_bias"] else ()
        made.append(Made(want["bias_ih"], (own["bias"],), (*gates(0), *forget)))
    else:
        names = ("wx", "wh") if "wx" in own else ("kernel", "recurrent")
        for name, role in zip(names, ("weight_ih", "weight_hh"), strict=True):
            made.append(Made(want[role], (own[name],), (*gates(1), "transpose")))
        if "bias" in own and own["bias"].shape == want["bias_ih"].shape:
            made.append(Made(want["bias_ih"], (own["bias"],), gates(0)))
        elif "bias" in own:  # both, one after the other
            (size,) = want["bias_ih"].shape
            for start, role in ((0, "bias_ih"), (size, "bias_hh")):
                half: Spelled = {"op": "slice", "axis": 0, "start": start, "stop": start + size}
                flat: Spelled = {"op": "reshape", "to": [-1]}
                made.append(Made(want[role], (own["bias"],), (flat, half, *gates(0))))
    given = {m.target.name for m in made}
    return (*made, *(Made(t, (), (), "zeros") for t in want.values() if t.name not in given))


class Averages(NamedTuple):
    """Moving averages: how many, and whether it is open which the model is of.

    Where a training is to go on it is that of the raw values.
    """

    number: int
    is_open: bool

    @property
    def remark(self) -> str:
        taken = f"{self.number} variables have moving averages too, which convert "
        taken += "--moving-averages use takes"
        return taken + (": is the model that of these, or of the raw values?" * self.is_open)


def written(
    pairs: Sequence[Pair],
    left: Sequence[str],
    lacking: Sequence[Layer],
    variables: Sequence[Tensor],
    tensors: Sequence[Tensor],
    counted: frozenset[str],
    averages: Averages,
    one_by_one: bool,
) -> tuple[str, tuple[str, ...]]:
    pairs = sorted(pairs, key=lambda pair: pair.target.order)
    items = _items(pairs)
    names = [variable.name for variable in variables]
    found = [*map(single, items)] if one_by_one else _generalised(items, counted, names)
    place = {id(item): i for i, item in enumerate(items)}
    found.sort(key=lambda general: min(place[id(item)] for item in general.items))
    is_open = averages.number > 0 and averages.is_open
    blocks = [
        _block(general, averages.remark if is_open and i == 0 else "")
        for i, general in enumerate(found)
    ]
    blocks += _fills(pairs, lacking, tensors)
    doubtful = [*(pair.target for pair in pairs if pair.doubts), *lacking]
    uncertain = tuple(t.name for layer in doubtful for t in layer.parts.values())
    if is_open:
        uncertain = tuple(tensor.name for tensor in tensors)
    head = [
        f"Suggested by tfreader: {count(tensors, 'tensor')} of {count(variables, 'variable')}, "
        f"{len(uncertain)} of the tensors uncertain.",
    ]
    if uncertain:
        head.append(
            "Look at each rule with `uncertain = true`, correct it or take the mark away; "
            "convert --accept-uncertain takes them as they are."
        )
    if averages.number and not is_open:
        head.append(averages.remark)
    lines = [line for text in head for line in comment(text)]
    if left:
        said = ", ".join(left[:12])
        more = f" and {len(left) - 12} more" if len(left) > 12 else ""
        lines += comment(f"Left out, as no tensor is left for them: {said}{more}")
        lines.append('rest = "no tensor of the model is left for it"')
    return "\n".join([*lines, "", *blocks]), uncertain


def _generalised(
    items: Sequence[Item], counted: frozenset[str], names: Sequence[str]
) -> list[General]:
    rules = [item for item in items if item.form[0] == "rule"]
    layers = [item for item in items if item.form[0] == "layer"]
    scopes = sorted({*names, *(name.rpartition("/")[0] for name in names)})
    found = merged(merged(generalise(rules, counted, names), names), names)
    return found + merged(merged(generalise(layers, counted, scopes), scopes), scopes)


def _block(general: General, remark: str) -> str:
    kind, *form = general.items[0].form
    source: object = general.sources[0]
    keys: list[tuple[str, object]]
    if kind == "layer":
        pairs: list[tuple[str, object]] = [*form]  # type: ignore[list-item]
        values = {key: _thawed(value) for key, value in pairs}
        keys = [("kind", values.pop("kind")), ("source", source), ("target", general.targets[0])]
        keys += values.items()
    else:
        ops, each, dtype = map(_thawed, form[:3])
        if len(general.sources) > 1:
            branches = [*each] if isinstance(each, list) and each else None
            source = (
                [{"source": s, "ops": o} for s, o in zip(general.sources, branches, strict=True)]
                if branches
                else [*general.sources]
            )
        keys = [("source", source), ("target", general.targets[0])]
        keys += [("ops", ops)] if ops else []
        keys += [("dtype", dtype)] if dtype else []
    if remark or any(item.doubts for item in general.items):
        keys.append(("uncertain", True))
    more = [f"UNCERTAIN: {remark}"] if remark else []
    return table(str(kind), keys, [*evidence(general), *more])


_BUFFER = "num_batches_tracked"
_COUNTER: list[tuple[str, object]] = [
    ("shape", []),
    ("value", "zeros"),
    ("dtype", "int64"),
    ("reason", "TensorFlow does not count"),
]


def _fills(pairs: Sequence[Pair], lacking: Sequence[Layer], tensors: Sequence[Tensor]) -> list[str]:
    blocks = []
    names = {tensor.name for tensor in tensors}
    given = {
        made.target.name
        for pair in pairs
        for made in pair.reading.made
        if made.sources and made.target.name.endswith(_BUFFER)
    }
    counters = {n.removesuffix(_BUFFER): n for n in names if n.endswith(f".{_BUFFER}")}
    of_fills = {
        counter
        for layer in lacking
        for tensor in layer.parts.values()
        if (counter := counters.get(tensor.name.removesuffix("running_mean")))
    }
    if {*counters.values()} - given - of_fills:
        blocks.append(
            table(
                "fill",
                [
                    ("like", r"(?P<norm>.*)\.running_mean"),
                    ("target", f"{{norm}}.{_BUFFER}"),
                    *_COUNTER,
                ],
            )
        )
    blocks += [table("fill", [("target", name), *_COUNTER]) for name in sorted(of_fills)]
    for pair in pairs:
        is_layer = _is_layer(pair)
        for made in _spelled_out(pair) if not is_layer else pair.reading.made:
            if made.fill is None or made.target.name.endswith(_BUFFER):
                continue
            filled = pair.source.kind == "batch_norm" or pair.target.kind == "recurrent"
            if is_layer and filled and not made.target.name.endswith(".bias"):
                continue
            keys: list[tuple[str, object]] = [
                ("target", made.target.name),
                ("shape", [*made.target.shape]),
                ("value", made.fill),
                ("reason", "TensorFlow has none"),
            ]
            blocks.append(table("fill", keys + ([("uncertain", True)] if pair.doubts else [])))
    for layer in lacking:
        for tensor in layer.parts.values():
            keys = [
                ("target", tensor.name),
                ("shape", [*tensor.shape]),
                ("value", "zeros"),
                ("reason", "no variable fits"),
                ("uncertain", True),
            ]
            blocks.append(table("fill", keys, ["UNCERTAIN: no variable that is left fits it"]))
    return blocks
