"""The weights of a PyTorch model, whoever wrote them, opened as a checkpoint is."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from tfreader.checkpoint import Checkpoint
from tfreader.errors import CheckpointNotFoundError, CorruptCheckpointError, RemoteError
from tfreader.files import but_it_is
from tfreader.paths import AnyPath, as_path, check_access
from tfreader.safetensors_file import HEAD, Safetensors
from tfreader.sharded import INDEX, ShardedFiles
from tfreader.sniff import is_safetensors, safetensors_format

from ..places import TORCH_SUFFIXES
from .torch_weights import TorchWeights

USUAL = (
    *("model.safetensors", f"model.safetensors{INDEX}"),
    *("pytorch_model.bin", f"pytorch_model.bin{INDEX}"),
)
"""What from_pretrained looks for, in its order."""
_SHARD = re.compile(r"(.*)-\d{5}-of-\d{5}(\.safetensors|\.bin)", re.DOTALL)
_EXPECTED = (
    f"expected a folder with {', '.join(USUAL[:3:2])} or the index of either in shards, or a "
    ".safetensors, .bin, .pt or .pth file"
)


def open_weights(path: AnyPath) -> Checkpoint:
    """The tensors of a file, of a folder's weights, or of those in shards.

    A folder may be that of the Hub's cache. No code of a torch file is run, nor is torch needed.
    Raises CheckpointNotFoundError, CorruptCheckpointError, UnsupportedError, RemoteError.
    """
    if isinstance(path, Path):
        check_access(str(path))
    file, notes = (_index_of(path), ()) if path.is_file() else _in_folder(path)
    if file.name.endswith(INDEX):
        return ShardedFiles(str(file), _open, notes)
    weights = _open(str(file))
    weights.notes = (*weights.notes, *notes)
    return weights


def _open(path: str) -> Checkpoint:
    try:
        with as_path(path).open("rb") as file:
            head = file.read(HEAD)
    except RemoteError:
        raise
    except OSError as error:
        raise CorruptCheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    if not is_safetensors(head) and not path.endswith(".safetensors"):
        return TorchWeights(path)
    if safetensors_format(head) == "tf":
        raise CorruptCheckpointError(
            f"{path}: holds TensorFlow's tensors (format tf), no PyTorch weights"
            f"{but_it_is(path)}; convert it: tfreader convert --tf_checkpoint {path} "
            "--pytorch_dump_output FOLDER"
        )
    return Safetensors(path)


def _index_of(path: AnyPath) -> AnyPath:
    """The index that lies beside a shard, or else the file itself."""
    shard = _SHARD.fullmatch(path.name)
    index = path.parent / f"{shard[1]}{shard[2]}{INDEX}" if shard else path
    return index if index.is_file() else path


def _in_folder(folder: AnyPath) -> tuple[AnyPath, tuple[str, ...]]:
    """The weights that from_pretrained would load, or the only ones; what else lies there."""
    folder = _snapshot(folder)
    usual = [folder / name for name in USUAL if (folder / name).is_file()]
    is_there = folder.is_dir()  # which a web server may not tell
    found = usual or (sorted(_others(folder), key=str) if is_there else [])
    if not found:
        what = "no PyTorch weights in it" if is_there else "not there"
        raise CheckpointNotFoundError(f"{folder}: {what}; {_EXPECTED}")
    if not usual and len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise CheckpointNotFoundError(f"{folder}: any of {names} could be meant: name the file")
    chosen, *others = found
    if not others:
        return chosen, ()
    which = ", ".join(path.name for path in others)
    return chosen, (f"compared: {chosen.name}; also there, not compared: {which}",)


def _others(folder: AnyPath) -> Iterator[AnyPath]:
    """Weights under other names, shards aside."""
    for suffix in (".safetensors", *TORCH_SUFFIXES):
        yield from (
            path
            for path in folder.glob(f"*{suffix}")
            if path.is_file()
            and not _SHARD.fullmatch(path.name)
            and path.name != "training_args.bin"
        )


def _snapshot(folder: AnyPath) -> AnyPath:
    """The revision in a folder of the Hub's cache: that of `main`, or the only one.

    https://huggingface.co/docs/huggingface_hub/guides/manage-cache
    """
    snapshots = folder / "snapshots"
    if not isinstance(snapshots, Path) or not snapshots.is_dir():
        return folder
    revisions = sorted(os.listdir(snapshots))
    main = folder / "refs" / "main"
    if isinstance(main, Path) and main.is_file() and main.stat().st_size < HEAD:
        revision = main.read_text(errors="replace").strip()
        if revision in revisions:
            return snapshots / revision
    return snapshots / revisions[0] if len(revisions) == 1 else folder
