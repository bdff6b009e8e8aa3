"""A look at what a file really is, for messages about files that are not what was expected."""

from __future__ import annotations

import json
import re
import zipfile
from typing import IO

from .wire import BYTES, VARINT, fields

_HEAD = 1 << 16
_WEB_PAGE = "an HTML page: the download returned a web page, fetch the file again"
_PICKLE = "a Python pickle (an old PyTorch file, perhaps), not a TensorFlow checkpoint"
# A map of which the first key is a name: Flax' serialisation of parameters.
_MSGPACK = re.compile(
    rb"(?:[\x81-\x8f]|\xde..|\xdf....)(?:[\xa1-\xbf]|\xd9.)[A-Za-z_]\w*", re.DOTALL
)
_SIGNATURES: tuple[tuple[bytes, str], ...] = (  # in lower case
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself: run `git lfs pull`"),
    (b"<!doctype html", _WEB_PAGE),
    (b"<html", _WEB_PAGE),
    (b"<?xml", "an XML message: the download failed, fetch the file again"),
    (b"\x89hdf\r\n\x1a\n", "an HDF5 file, as Keras writes them: call it .h5 and pass it"),
    (b"\x1f\x8b", "a gzip archive: unpack it and pass what is inside"),
    (b"bzh", "a bzip2 archive: unpack it and pass what is inside"),
    (b"\xfd7zxz\0", "an xz archive: unpack it and pass what is inside"),
    (b"\x93numpy", "a numpy array (.npy), not a TensorFlow checkpoint"),
    *((bytes([0x80, protocol]), _PICKLE) for protocol in range(2, 6)),
)
_METADATA = re.compile(rb'\{\s*"__metadata__"\s*:\s*(\{(?:[^{}"]|"(?:[^"\\]|\\.)*")*\})')
# "format" of the metadata: transformers writes pt, tf and flax, MLX mlx; from_pretrained of
# transformers takes pt and mlx for PyTorch's.
_SAFETENSORS: dict[str | None, str] = {
    "tf": "a safetensors file of TensorFlow (format tf)",
    "pt": "a safetensors file of PyTorch (format pt): it needs no conversion, from_pretrained of "
    "transformers loads it",
    "flax": "a safetensors file of Flax (format flax), no TensorFlow checkpoint: it is not read",
    "mlx": "a safetensors file of MLX (format mlx), no TensorFlow checkpoint: it is not read",
    None: "a safetensors file that does not say whose tensors it has (TensorFlow's say format tf): "
    "if it is PyTorch's, it needs no conversion",
}
_NAME = re.compile(rb"[A-Za-z0-9_.][A-Za-z0-9_.\\/>-]*")  # of an operation in a graph


def sniff(file: IO[bytes]) -> str | None:
    """What an open file is, where that is plainly no checkpoint file; else None."""
    try:
        file.seek(0)
        head = file.read(_HEAD)
    except OSError:
        return None
    if not head:
        return "empty"
    if is_safetensors(head):  # whose first bytes, a length, may be those of anything
        said = safetensors_format(head)
        return _SAFETENSORS.get(said, f"a safetensors file of another library (format {said!r})")
    text = head[:512].lstrip().lower()
    for signature, meaning in _SIGNATURES:
        if text.startswith(signature):
            return meaning
    if head.startswith(b"PK\x03\x04"):
        return _archive(file)
    if head[257:262] == b"ustar":
        return "a tar archive: unpack it and pass what is inside"
    if head[4:8] == b"TFL3":
        return "a TensorFlow Lite model, which holds no checkpoint"
    if head[:1] == b"{" and b'"weight_map"' in head:
        return "the index of a model in shards, which are not TensorFlow's"
    if _MSGPACK.match(head):
        return "a msgpack file of JAX (Flax, T5X), not a TensorFlow checkpoint"
    if not head.strip(b"\0"):
        return "nothing but zeros: the download was interrupted, fetch it again"
    return _graph(head)


def is_safetensors(head: bytes) -> bool:
    return head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < 100_000_000


def safetensors_format(head: bytes) -> str | None:
    """Whose tensors a safetensors file says it has: "tf", "pt", …; None where it does not.

    The safetensors library writes the metadata first.
    """
    found = _METADATA.match(head, 8)
    try:
        said = json.loads(found[1]).get("format") if found else None
    except ValueError:
        return None
    return said[:80] if isinstance(said, str) else None


def _archive(file: IO[bytes]) -> str:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return "a damaged zip archive: fetch it again"
    if any(name.endswith("data.pkl") for name in names):
        return "a PyTorch file: it needs no conversion"
    if "model.weights.h5" in names:
        return "a Keras archive with HDF5 weights: call it .keras and pass it"
    if names and all(name.endswith(".npy") for name in names):
        return "a numpy archive (.npz), not a TensorFlow checkpoint"
    inside = ", ".join(name for name in names if name.endswith((".index", "saved_model.pb")))
    return "a zip archive: unpack it and pass what is inside" + (f" ({inside})" if inside else "")


def _graph(head: bytes) -> str | None:
    """Which of TensorFlow's graph files it is, by the first field of the protobuf message."""
    try:
        number, kind, payload = next(fields(memoryview(head)))
        if (number, kind, bytes(payload), head[2:3]) == (1, VARINT, b"\1", b"\x12"):
            return "a SavedModel's graph: pass its folder, beside it the values are in variables/"
        if (number, kind) != (1, BYTES):
            return None
        first = {inner: bytes(value) for inner, wire, value in fields(payload) if wire == BYTES}
    except (ValueError, StopIteration):
        return None
    # A GraphDef starts with a node: its name, then its operation, such as Const or Placeholder.
    if all(_NAME.fullmatch(first.get(inner, b"")) for inner in (1, 2)):
        return "a graph (frozen, perhaps), which holds no checkpoint: pass the .index beside it"
    return None


def clause(path: str, file: IO[bytes]) -> str:
    """For the end of an error message: what the file really is, where that is plain."""
    meaning = sniff(file)
    return f"; {path.rstrip('/').rpartition('/')[2]} is {meaning}" if meaning else ""
