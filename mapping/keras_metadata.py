"""The Keras objects of a SavedModel, as Keras describes them, without TensorFlow.

Keras 2.5 and later write keras_metadata.pb (keras/protobuf/saved_metadata.proto), earlier ones the
same texts into saved_model.pb (tensorflow/core/protobuf/saved_object_graph.proto). Either holds a
JSON text for each object. Objects that `tf.saved_model.save` wrote are not described.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from tfreader.errors import ConfigError, RemoteError
from tfreader.files import read_small
from tfreader.paths import AnyPath
from tfreader.wire import BYTES, fields
from tfreader.wire import field as last_field

METADATA, SAVED_MODEL = "keras_metadata.pb", "saved_model.pb"
MAX_SIZE = 256 << 20  # bytes; a saved_model.pb holds a graph too, seldom one of more than 20 MB
_ROOT = "root"


@dataclass(frozen=True)
class KerasObject:
    """A layer or model: its class, its config, and where it is from the root.

    `path` joins attributes with slashes and is empty for the root; None where it is not told.
    `input_shape` is that of a single input.
    """

    class_name: str
    config: Mapping[str, Any]
    path: str | None = None
    input_shape: tuple[Any, ...] | None = None
    name: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", str(self.config.get("name", "")))


def keras_objects(path: AnyPath) -> list[KerasObject]:
    """The objects that a keras_metadata.pb or a saved_model.pb describes, in stored order.

    Raises ConfigError where the file is damaged, cannot be read or is larger than MAX_SIZE.
    """
    nodes = _described if path.name == METADATA else _embedded
    try:
        contents = memoryview(read_small(path, MAX_SIZE))
        return [made for where, text in nodes(contents) if (made := _parse(where, text))]
    except RemoteError:
        raise
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: damaged: {error}") from None


def _described(message: memoryview) -> Iterator[tuple[str | None, memoryview]]:
    """Of SavedMetadata.nodes (1): node_path (3) and metadata (5)."""
    for number, kind, node in fields(message):
        if (number, kind) == (1, BYTES):
            path = bytes(last_field(node, 3)).decode("utf-8", "replace")
            yield path.removeprefix(_ROOT).lstrip(".").replace(".", "/"), last_field(node, 5)


def _embedded(message: memoryview) -> Iterator[tuple[str | None, memoryview]]:
    """Of SavedModel.meta_graphs (2), object_graph_def (7), nodes (1), user_object (4): metadata."""
    for number, kind, graph in fields(message):
        if (number, kind) != (2, BYTES):
            continue
        for inner, inner_kind, node in fields(last_field(graph, 7)):
            if (inner, inner_kind) == (1, BYTES):
                yield None, last_field(last_field(node, 4), 3)


def _parse(path: str | None, text: memoryview) -> KerasObject | None:
    if not text:
        return None
    data = json.loads(bytes(text))
    config = data.get("config") if isinstance(data, dict) else None
    if not isinstance(config, dict):
        return None
    shape = data.get("build_input_shape")
    items = shape.get("items") if isinstance(shape, dict) else None
    return KerasObject(
        str(data.get("class_name", "")),
        config,
        path,
        tuple(items) if isinstance(items, list) else None,
    )
