"""The names of variables in Keras' HDF5 files.

Keras 2 (`save_weights('x.h5')`, Hugging Face's tf_model.h5): LAYER/VARIABLE, the variable's name
with its `:0` and as many slashes as it has; below model_weights/ in whole models (keras/src/saving/
legacy/hdf5_format.py). Keras 3, and 2's `.weights.h5`: the attributes and containers that lead to a
layer, then vars/NUMBER; the layer's name is an attribute of that group, or in the config
(keras/src/saving/saving_lib.py).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .hdf5.contents import LISTS
from .training import KERAS_METRIC, KERAS_OPTIMIZER

_MODEL = "model_weights/"
_CONTAINERS = ("layers", "_layer_checkpoint_dependencies")
_VARS = re.compile(r"(.+)/vars/(\d+)", re.DOTALL)
_MAX_DEPTH = 32  # models within models


def names_of(
    paths: Sequence[str], marks: set[str], layers: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """The names of each dataset, the one that it goes by first.

    That is the variable's own name, where no other has it, or else the dataset's path. `marks` are
    what the root holds, `layers` the names of layers by their groups.
    """
    own = {path: _own(path, marks, layers) for path in paths}
    whole = {path: path.removesuffix(":0") for path in paths}
    counts = Counter(own.values())
    keys = {path: own[path] if counts[own[path]] == 1 else whole[path] for path in paths}
    if len(set(keys.values())) < len(keys):  # w and w:0, or a layer called like another's variable
        keys = dict(zip(paths, paths, strict=True))
    return {path: tuple(dict.fromkeys((keys[path], own[path], path))) for path in paths}


def _own(path: str, marks: set[str], layers: Mapping[str, str]) -> str:
    name = path.removesuffix(":0")
    if KERAS_OPTIMIZER.fullmatch(name) or KERAS_METRIC.fullmatch(name):
        return name
    if marks.isdisjoint(LISTS) and _MODEL in marks:
        if not name.startswith(_MODEL):
            return name
        name = name.removeprefix(_MODEL)
    elif marks.isdisjoint(LISTS):
        return _by_layers(path, layers)
    return name.partition("/")[2] or name


def _by_layers(path: str, layers: Mapping[str, str]) -> str:
    """A name such as encoder/norm/0: layers by their own names, attributes as they are."""
    match = _VARS.fullmatch(path)
    if match is None:
        return path.removesuffix(":0")
    parts = match[1].split("/")
    name = []
    for i, part in enumerate(parts):
        if part in _CONTAINERS and i + 1 < len(parts):
            continue
        is_layer = i > 0 and parts[i - 1] in _CONTAINERS
        own = layers.get("/".join(parts[: i + 1]), part) if is_layer else part
        name.append(part if "/" in own else own)
    return "/".join([*name, match[2]])


def layers_in(config: Any, group: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """The names of layers by their groups, from a model's config.

    Keras calls the groups after the classes: _save_container_state in saving_lib.py.
    """
    inner = config.get("config") if isinstance(config, dict) else None
    listed = inner.get("layers") if isinstance(inner, dict) else None
    if not isinstance(listed, list) or depth > _MAX_DEPTH:
        return
    used: Counter[str] = Counter()
    for layer in listed:
        if not isinstance(layer, dict) or not isinstance(layer.get("class_name"), str):
            return
        own = _snake_case(layer["class_name"].rpartition(">")[2])
        number = f"_{used[own]}" if used[own] else ""
        used[own] += 1
        place = f"{group}layers/{own}{number}"
        settings = layer.get("config")
        name = settings.get("name") if isinstance(settings, dict) else None
        if isinstance(name, str):
            yield place, name
        yield from layers_in(layer, place + "/", depth + 1)


def _snake_case(name: str) -> str:
    """As keras/src/utils/naming.py spells a class' name."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
