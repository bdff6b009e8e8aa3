"""Files that hold a model and are no TensorFlow checkpoint: what they are, and where they lie."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Set
from contextlib import closing
from typing import NamedTuple

from .checkpoint import Checkpoint
from .errors import CheckpointNotFoundError, CorruptCheckpointError, RemoteError
from .files import DAMAGED, but_it_is, open_file, read_small
from .keras_archive import is_keras_file
from .paths import as_path, entries, is_file, is_url, join
from .safetensors_file import HEAD, TFSafetensors, is_tf_safetensors
from .sharded import INDEX, ShardedFiles, index_of, read_index

LOOKED_AT = 16  # files and folders of a server's folder that are looked into


class Kind(NamedTuple):
    """`is_one` judges by a file's path and first bytes; `open` takes its path and notes."""

    is_one: Callable[[str, bytes], bool]
    open: Callable[[str, tuple[str, ...]], Checkpoint]


def _keras(path: str, notes: tuple[str, ...] = ()) -> Checkpoint:
    from .keras_h5 import KerasFile  # with h5py, an extra

    return KerasFile(path, notes=notes)


def open_shard(path: str) -> Checkpoint:
    if path.endswith(".safetensors"):
        return TFSafetensors(path)
    if not is_keras_file(path):
        raise CorruptCheckpointError(f"{path}: no HDF5 file{but_it_is(path, DAMAGED)}")
    return _keras(path)


def _sharded(path: str, notes: tuple[str, ...]) -> Checkpoint:
    return ShardedFiles(path, open_shard, notes)


def _is_tf_index(path: str, head: bytes) -> bool:
    """Whether it lists variables of TensorFlow, whose names end in `:0`, or files of Keras."""
    if not path.endswith(INDEX) or not head.lstrip().startswith(b"{"):
        return False
    try:
        shards = read_index(read_small(as_path(path)))
    except RemoteError:
        raise
    except (OSError, ValueError):
        return path.endswith(".h5" + INDEX)
    return any(name.endswith(":0") or file.endswith(".h5") for name, file in shards.items())


KINDS = (
    Kind(lambda path, head: is_tf_safetensors(head), TFSafetensors),
    Kind(lambda path, head: is_keras_file(path), _keras),
    Kind(_is_tf_index, _sharded),
)

# What save_pretrained of transformers' TensorFlow classes writes, in the order in which their
# from_pretrained looks for it (modeling_tf_utils.py).
USUAL = ("model.safetensors", "model.safetensors" + INDEX, "tf_model.h5", "tf_model.h5" + INDEX)
SAVED_MODEL = "saved_model/1/variables/variables"  # save_pretrained(saved_model=True)
MODEL_ENDINGS = (".h5", ".hdf5", ".keras", ".safetensors")
_TORCH = re.compile(
    r"pytorch_model(-\d{5}-of-\d{5})?\.bin(\.index\.json)?|"
    r"model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?"
)


# What JAX's libraries write: Flax' msgpack (transformers: flax_model.msgpack), T5X' zarr arrays in
# folders such as target.encoder.layers_0.mlp.wi.kernel, Orbax' and TensorStore's own files.
_JAX = re.compile(
    r"[^/]+\.msgpack(?:\.index\.json)?|(?:target|state)\.(?:\w*encoder|\w*decoder|token_embedder|step)\b.*|manifest\.ocdbt|"
    r"ocdbt\.process_\d+|_CHECKPOINT_METADATA|\.zarray"
)


class Model(NamedTuple):
    """A model in a folder, by its name there. Without a `kind` it is a TensorFlow checkpoint."""

    name: str
    kind: Kind | None = None

    @property
    def is_usual(self) -> bool:
        return self.kind is None or self.name in USUAL


def kind_of(path: str) -> Kind | None:
    """The kind of a file; None where it is none, or none of these."""
    if not is_file(path):
        return None
    try:
        with closing(open_file(path)) as file:
            head = bytes(file.read(0, min(HEAD, file.size)))
    except (CheckpointNotFoundError, CorruptCheckpointError):
        return None
    return next((kind for kind in KINDS if kind.is_one(path, head)), None)


def names_in(folder: str) -> set[str]:
    """The names in a folder; of a server that does not list them the usual ones that are there."""
    names = {name for name, _ in entries(folder)}
    if names or not is_url(folder):
        return names
    found = {name for name in USUAL if is_file(join(folder, name))}
    saved = is_file(join(folder, SAVED_MODEL + ".index"))
    return found | ({"saved_model"} if saved else set())


def models_in(folder: str, names: Set[str]) -> list[Model]:
    """The models among what lies in a folder: the usual ones in order, and then the others."""
    found = [Model(name, kind_of(join(folder, name))) for name in USUAL if name in names]
    if "saved_model" in names and is_file(join(folder, SAVED_MODEL + ".index")):
        found.append(Model(SAVED_MODEL))
    shards = {index: name for name in names if (index := index_of(name)) is not None}
    others = {name for name in names if name.endswith(MODEL_ENDINGS) and not index_of(name)}
    rest = sorted((others | shards.keys()).difference(USUAL))
    for name in rest[:LOOKED_AT] if is_url(folder) else rest:
        found.append(Model(name, kind_of(join(folder, name))))
    for index in sorted(shards.keys() - names):  # missing, which is an error where all else is too
        found.append(Model(index, kind_of(join(folder, shards[index]))))
    return [model for model in found if model.kind or model.name == SAVED_MODEL]


def torch_files(names: Collection[str], models: Collection[Model]) -> list[str]:
    """The files of PyTorch weights among these names, of those that transformers writes."""
    ours = {model.name for model in models}
    shards = {name for name in names if index_of(name) in ours}
    return sorted(set(filter(_TORCH.fullmatch, names)) - ours - shards)


def jax_files(names: Collection[str]) -> list[str]:
    """The files and folders of JAX's libraries among these names."""
    return sorted(filter(_JAX.fullmatch, names))
