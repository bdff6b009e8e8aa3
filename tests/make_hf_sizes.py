"""Make mapping/families/hf_sizes.json.xz: which config key is the size of which axis of a tensor.

Run by hand with the newest transformers and torch, without TensorFlow:

    python tests/make_hf_sizes.py

Builds, on the meta device and with few layers, the classes that hf_templates.json.xz lists, with
their default config and with each whole number in it changed. An axis whose length is a key's value
both times, and which follows no other key, has that key; it is left out where that does not hold
with all the other changes, with a flag turned, or with the SWITCHES of make_hf_templates.py. Takes
some ten minutes.
"""

import copy
import json
import lzma
import re
import sys
from collections import defaultdict
from typing import Any

from make_hf_templates import BASES, PACKED, PARTS, SWITCHES

SIZES = PACKED.with_name("hf_sizes.json.xz")
# Whole numbers that are no lengths, or that transformers works out from others.
OTHERS = re.compile(
    "_id$|_ids$|heads|^n_head$|layers$|^n_layer|depth|beams|top_|_length$|labels|num_.*groups|"
    "stride|dropout|window|seed|token|^num_(?:channels|codevector)|chunk|^num_buckets|max_source"
)
LAYERS = re.compile(r"(?:.*\.)?(?:(?:num_(?:hidden_|decoder_)?|(?:en|de)coder_|n_)layers?)")

Config = dict[str, Any]
Shapes = dict[str, tuple[int, ...]]


def numbers(config: Config, prefix: str = "") -> dict[str, int]:
    """The config's whole numbers by path."""
    flat: dict[str, int] = {}
    for key, value in config.items():
        if type(value) is int:
            flat[prefix + key] = value
        elif isinstance(value, dict) and ("model_type" in value or key.endswith("_config")):
            flat |= numbers(value, f"{prefix}{key}.")
    return flat


def changed(config: Config, path: str, value: Any) -> Config:
    """The overrides with that value at a path."""
    made = copy.deepcopy(config)
    inner = made
    *outer, last = path.split(".")
    for key in outer:
        inner = inner.setdefault(key, {})
    inner[last] = value
    return made


def build(name: str, overrides: Config) -> tuple[Config, Shapes] | None:
    """The config and the shapes of a class; None where it does not take these overrides."""
    import torch
    import transformers

    kind = getattr(transformers, name)
    try:
        with torch.device("meta"):
            model = kind(kind.config_class(**copy.deepcopy(overrides)))
    except Exception:
        return None
    prefix = kind.base_model_prefix + "."
    state = model.state_dict()
    shapes = {key.removeprefix(prefix): tuple(value.shape) for key, value in state.items()}
    return json.loads(model.config.to_json_string(use_diff=False)), shapes


def pattern(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "#", name)


def sizes_of(name: str, model_type: str) -> dict[tuple[str, int], str]:
    """The key of each (pattern, axis)."""
    base = BASES.get(model_type, {})
    first = build(name, base)
    if first is None:
        return {}
    for path, value in numbers(first[0]).items():
        if LAYERS.fullmatch(path) and value > 2:
            fewer = changed(base, path, 2)
            base = fewer if build(name, fewer) else base
    first = build(name, base)
    assert first is not None
    config, shapes = first
    found: dict[tuple[str, int], set[str]] = defaultdict(set)
    others: list[tuple[Config, Shapes]] = []
    for path, value in numbers(config).items():
        tries = (build(name, changed(base, path, n)) for n in (2 * value, value + 1))
        again = next(filter(None, tries), None)
        if again is None:
            continue
        others.append(again)
        new = numbers(again[0])[path]
        if OTHERS.search(path.rpartition(".")[2]) or value < 4 or again[1].keys() != shapes.keys():
            continue
        for tensor, shape in again[1].items():
            for axis, (was, now) in enumerate(zip(shapes[tensor], shape, strict=True)):
                if was != now:
                    exact = (was, now) == (value, new)
                    found[pattern(tensor), axis].add(path if exact else "")
    keys = {place: min(paths) for place, paths in found.items() if len(paths) == 1}
    keys = {place: path for place, path in keys.items() if path}
    flags = [{key: not value} for key, value in config.items() if isinstance(value, bool)]
    for switch in (*flags, *SWITCHES[""], *SWITCHES.get(model_type, ())):
        again = build(name, {**base, **switch})
        others += [again] if again is not None else []
    for told, theirs in others:
        sizes = numbers(told)
        for tensor, shape in theirs.items():
            for axis, size in enumerate(shape):
                place = pattern(tensor), axis
                if place in keys and sizes.get(keys[place]) != size:
                    del keys[place]
    return keys


def main() -> None:
    classes = json.loads(lzma.decompress(PACKED.read_bytes()))["classes"]
    packed: dict[str, dict[str, list[str]]] = {}
    for name, kind in sorted(classes.items()):
        if name in PARTS:
            continue
        model_type = kind.get("type") or kind.get("model_type")
        try:
            keys = sizes_of(name, model_type)
        except AttributeError:
            print(f"{name}: not in this transformers", file=sys.stderr)
            continue
        by_key: dict[str, list[str]] = defaultdict(list)
        for (tensor, axis), key in sorted(keys.items()):
            by_key[key].append(f"{tensor}:{axis}")
        packed[name] = dict(sorted(by_key.items()))
        print(name, {key: len(v) for key, v in packed[name].items()}, file=sys.stderr, flush=True)
    text = json.dumps(packed, separators=(",", ":"), sort_keys=True)
    SIZES.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))


if __name__ == "__main__":
    main()
