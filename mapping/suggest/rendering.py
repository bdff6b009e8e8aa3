"""The rules of what was found: a [[layer]] for what is one, else a rule for each tensor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .generalise import General, Item, generalise, merged, single
from .layers import Layer, Tensor
from .matching import Pair
from .readings import Made, Spelled
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


_GATES = {"tf1_lstm": (0, 2, 1, 3), "baselines_lstm": (0, 1, 3, 2), "gru": (1, 0, 2)}


def _spelled_out(pair: Pair) -> tuple[Made, ...]:
    """The tensors of a recurrent layer whose variables are not called as in a [[layer]]."""
    keys = dict(pair.reading.layer)
    kind = str(keys.get("kind", ""))
    if pair.target.kind != "recurrent":
        return pair.reading.made
    own, want = pair.source.parts, pair.target.parts
    order = next((blocks for name, blocks in _GATES.items() if kind.endswith(name)), None)

    def gates(axis: int) -> tuple[Spelled, ...]:
        return () if order is None else ({"op": "reorder", "axis": axis, "blocks": [*order]},)

    made = []
    if kind == "tf1_lstm":
        for of, role in (("input", "weight_ih"), ("state", "weight_hh")):
            rows: Spelled = {"op": "cell_rows", "of": of}
            made.append(Made(want[role], (own["kernel"],), (rows, *gates(1), "transpose")))
        forget: Spelled = {"op": "add", "axis": 0, "blocks": [0, 1.0, 0, 0]}
        made.append(Made(want["bias_ih"], (own["bias"],), (*gates(0), forget)))
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


def written(
    pairs: Sequence[Pair],
    left: Sequence[str],
    lacking: Sequence[Layer],
    variables: Sequence[Tensor],
    tensors: Sequence[Tensor],
    counted: frozenset[str],
    remark: str,
    one_by_one: bool,
) -> tuple[str, tuple[str, ...]]:
    pairs = sorted(pairs, key=lambda pair: pair.target.order)
    items = _items(pairs)
    names = [variable.name for variable in variables]
    found = [*map(single, items)] if one_by_one else _generalised(items, counted, names)
    place = {id(item): i for i, item in enumerate(items)}
    found.sort(key=lambda general: min(place[id(item)] for item in general.items))
    blocks = [_block(general, remark if i == 0 else "") for i, general in enumerate(found)]
    blocks += _fills(pairs, lacking, tensors)
    doubtful = [*(pair.target for pair in pairs if pair.doubts), *lacking]
    uncertain = tuple(t.name for layer in doubtful for t in layer.parts.values())
    if remark:
        uncertain = tuple(tensor.name for tensor in tensors)
    head = [
        f"Suggested by tfreader: {len(tensors)} tensors of {len(variables)} variables, "
        f"{len(uncertain)} of the tensors uncertain.",
    ]
    if uncertain:
        head.append(
            "Look at each rule with `uncertain = true`, correct it or take the mark away; "
            "convert --accept-uncertain takes them as they are."
        )
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
    doubts = bool(remark) or any(item.doubts for item in general.items)
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
    if doubts:
        keys.append(("uncertain", True))
    more = [f"UNCERTAIN: {remark}"] if remark else []
    return table(str(kind), keys, [*evidence(general), *more])


_BUFFER = "num_batches_tracked"


def _fills(pairs: Sequence[Pair], lacking: Sequence[Layer], tensors: Sequence[Tensor]) -> list[str]:
    blocks = []
    names = {tensor.name for tensor in tensors}
    given = {
        made.target.name
        for pair in pairs
        for made in pair.reading.made
        if made.sources and made.target.name.endswith(_BUFFER)
    }
    beside = [n for n in names if n.endswith(f".{_BUFFER}") and n not in given]
    if beside:
        blocks.append(
            table(
                "fill",
                [
                    ("like", r"(?P<norm>.*)\.running_mean"),
                    ("target", f"{{norm}}.{_BUFFER}"),
                    ("shape", []),
                    ("value", "zeros"),
                    ("dtype", "int64"),
                    ("reason", "TensorFlow does not count"),
                ],
            )
        )
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
