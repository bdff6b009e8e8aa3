"""What the PyTorch model at hand has: the names and shapes of its state dict.

It is read from a file with weights of the model, from a list of names and shapes, or from the model
itself. No values are read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from tfreader.errors import (
    CheckpointNotFoundError,
    ConfigError,
    MissingExtraError,
    RemoteError,
    TFReaderError,
)
from tfreader.files import SMALL, read_small
from tfreader.json_text import parse_json
from tfreader.paths import AnyPath, as_path, is_url
from tfreader.safetensors_file import DTYPE_NAMES, LARGEST_HEADER
from tfreader.shapes import MAX_RANK
from tfreader.sharded import INDEX, read_index

from .sources import pth
from .sources.state_dict import only_state_dict

if TYPE_CHECKING:
    import torch


class TargetTensor(NamedTuple):
    """A tensor of a state dict.

    `dtype` is torch's name of it without `torch.`, None where nothing tells. `same_as` is the
    first name of this very tensor where the model knows it under several.
    """

    shape: tuple[int, ...]
    dtype: str | None = None
    same_as: str | None = None


Tensors: TypeAlias = Mapping[str, TargetTensor]
Target: TypeAlias = "str | PathLike[str] | Tensors | torch.nn.Module"

_CALLABLE = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*(?:\.[^\W\d]\w*)*")
_USUAL = (
    *("model.safetensors", f"model.safetensors{INDEX}"),
    *("pytorch_model.bin", f"pytorch_model.bin{INDEX}"),
)
_DTYPES = {stored: name for name, stored in DTYPE_NAMES.items()}
_KINDS = (
    "a .safetensors file, a file of torch.save, a JSON file of names and shapes, a folder that "
    "save_pretrained wrote, or module:callable that gives the torch.nn.Module"
)


def read_target(given: Target) -> Tensors:
    """The tensors that a PyTorch model has, by name.

    They come in the order of the model's state dict; in that of the file where it is one of
    safetensors, which sorts them by their names. Given is the module, its tensors, or where they
    are: a .safetensors file, a file of torch.save or the module's name and that of what gives it,
    as in "models.resnet:build" (both need the extra `torch`), a JSON file with
    {name: {"shape": [...], "dtype": ...}} or {name: [...]}, or a folder with weights.

    Raises ConfigError, CheckpointNotFoundError, MissingExtraError, and what `pth.load` raises.
    """
    if isinstance(given, Mapping):
        if given and all(hasattr(tensor, "data_ptr") for tensor in given.values()):
            return _of_state_dict("the target", given)
        return {name: _given(tensor) for name, tensor in given.items()}
    if not isinstance(given, str | PathLike):
        return _of_module("the target", given)
    named = str(given)
    if is_callable(named):
        return _of_module(f"target {named}", _called(named))
    path = as_path(given)
    found = _of_file(path)
    if not found:
        raise ConfigError(f"target {path}: it has no tensors; expected {_KINDS}")
    return found


def is_callable(named: str) -> bool:
    """Whether a target is module:callable, and no file of such a name."""
    return _CALLABLE.fullmatch(named) is not None and not os.path.exists(named)


def _given(tensor: Any) -> TargetTensor:
    """What was given as a tensor, or its shape alone."""
    return tensor if isinstance(tensor, TargetTensor) else TargetTensor(tuple(tensor))


def _of_file(path: AnyPath) -> Tensors:
    if path.is_dir():
        path = _in_folder(path)
    if path.name.endswith(INDEX):
        return _of_shards(path)
    if path.suffix == ".json":
        return _of_json(path)
    if not path.is_file():
        if ":" in path.name and not is_url(str(path)):
            raise ConfigError(
                f"target {path}: neither a file nor module:callable, which is written as it is "
                "imported from the current directory: models.resnet:build of models/resnet.py"
            )
        raise CheckpointNotFoundError(f"target {path}: not there; expected {_KINDS}")
    return _of_torch_file(path) if pth.is_pth(path) else _of_safetensors(path)


def _in_folder(folder: AnyPath) -> AnyPath:
    found = next((folder / name for name in _USUAL if (folder / name).is_file()), None)
    if found is None:
        raise CheckpointNotFoundError(
            f"target {folder}: none of {', '.join(_USUAL)} is in it; name the file"
        )
    return found


def _of_shards(path: AnyPath) -> Tensors:
    try:
        places = read_index(_contents(path, SMALL))
    except ValueError as error:
        raise ConfigError(f"target {path}: {error}") from None
    tensors: dict[str, TargetTensor] = {}
    for file in dict.fromkeys(places.values()):
        tensors |= _of_file(path.parent / file)
    if lacking := next((name for name in places if name not in tensors), None):
        raise ConfigError(f"target {path}: none of its shards has {lacking!r}, which it lists")
    return {name: tensors[name] for name in places}


def _contents(path: AnyPath, limit: int) -> bytes:
    try:
        return read_small(path, limit)
    except RemoteError:
        raise
    except OSError as error:
        raise ConfigError(f"target {path}: cannot be read ({error.strerror})") from None


def _of_json(path: AnyPath) -> Tensors:
    try:
        listed = parse_json(_contents(path, SMALL).decode("utf-8-sig"))
    except ValueError as error:
        raise ConfigError(f"target {path}: cannot be read as JSON ({error})") from None
    if not isinstance(listed, dict):
        raise ConfigError(
            f'target {path}: expected names and shapes, as in {{"fc.weight": {{"shape": [10, 64], '
            '"dtype": "float32"}}'
        )
    return {name: _listed(path, name, entry) for name, entry in listed.items()}


def _listed(path: AnyPath, name: str, entry: Any) -> TargetTensor:
    """A tensor as JSON has it: a table with `shape` and maybe `dtype`, or the shape alone."""
    table = entry if isinstance(entry, dict) else {"shape": entry}
    shape, dtype = table.get("shape"), table.get("dtype")
    if (
        not isinstance(shape, list)
        or len(shape) > MAX_RANK
        or not all(type(size) is int and size >= 0 for size in shape)
        or not isinstance(dtype, str | None)
    ):
        raise ConfigError(
            f"target {path}: {name[:80]!r} has no shape that can be read: write it as "
            '{"shape": [10, 64], "dtype": "float32"}, or [10, 64]'
        )
    return TargetTensor(tuple(shape), dtype and dtype.removeprefix("torch."))


def _of_safetensors(path: AnyPath) -> Tensors:
    """Of the file's header alone."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            text = file.read(size) if 2 <= size <= LARGEST_HEADER else b""
        if len(text) != size or text[:1] != b"{":
            raise ValueError("no header of safetensors")
        header = parse_json(text.decode("utf-8"))
        header.pop("__metadata__", None)
    except RemoteError:
        raise
    except OSError as error:
        raise ConfigError(f"target {path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ConfigError(f"target {path}: {str(error)[:200]}; expected {_KINDS}") from None
    tensors = {name: _listed(path, name, entry) for name, entry in header.items()}
    return {
        name: tensor._replace(dtype=_DTYPES.get(tensor.dtype or ""))
        for name, tensor in tensors.items()
    }


def _of_torch_file(path: AnyPath) -> Tensors:
    found = _state_dict(str(path), pth.load(pth.TorchFile(path), mapped=True))
    return _of_state_dict(f"target {path}", found)


def _of_state_dict(named: str, found: Mapping[str, Any]) -> Tensors:
    def place(tensor: torch.Tensor) -> tuple[Any, ...] | None:
        """Where the values lie, if there are any: two tensors at one place are one."""
        if tensor.is_meta or not tensor.numel():
            return None
        return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype

    try:
        return _tensors((name, tensor, place(tensor)) for name, tensor in found.items())
    except (RuntimeError, ValueError) as error:  # of one without values, and without a shape
        raise ConfigError(f"{named}: {_line(error)}") from None


def _state_dict(named: str, contents: Any) -> Mapping[str, torch.Tensor]:
    """The only state dict in what a file of torch.save holds, whether or not beside other things.

    Raises ConfigError for none and for several.
    """
    import torch

    def tensors(value: Any) -> dict[str, torch.Tensor]:
        if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
            return {}
        found = {name: each for name, each in value.items() if isinstance(each, torch.Tensor)}
        others = [name for name in value if name not in found]
        return found if all(name.endswith("_extra_state") for name in others) else {}

    try:
        return only_state_dict(contents, tensors)
    except ValueError as error:
        raise ConfigError(f"target {named}: {error}") from None


def _called(named: str) -> Any:
    """What the callable gives, with tensors on the meta device where that can be."""
    torch = _torch(f"building {named}")
    callable_ = _imported(named)
    if isinstance(callable_, torch.nn.Module):
        return callable_
    if not callable(callable_):
        raise ConfigError(
            f"target {named}: a {type(callable_).__name__}, expected a function or class that is "
            "called without arguments and gives the torch.nn.Module"
        )
    try:
        try:
            with torch.device("meta"):
                return callable_()
        except (NotImplementedError, RuntimeError):  # it looks at values of its own
            return callable_()
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"target {named}: calling it without arguments raised {_line(error)}"
        ) from error


def _torch(purpose: str) -> Any:
    try:
        import torch
    except ImportError:
        raise MissingExtraError(purpose, "torch") from None
    return torch


def _imported(named: str) -> Any:
    """What lies under such a name, imported as from a program in the current directory."""
    import sys
    from importlib import import_module

    module, _, path = named.partition(":")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        found = import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"target {named}: importing it from {here} raised {_line(error)}; expected {_KINDS}"
        ) from error
    finally:
        sys.path.remove(here)
    return found


def _of_module(named: str, module: Any) -> Tensors:
    """The tensors of a module's state dict, which leaves buffers out that are not persistent."""
    torch = _torch(f"reading {named}")
    if not isinstance(module, torch.nn.Module):
        raise ConfigError(f"{named} is a {type(module).__name__}, expected a torch.nn.Module")
    try:
        state = module.state_dict(keep_vars=True)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{named}: its state_dict() raised {_line(error)}") from error
    tensors = {name: each for name, each in state.items() if isinstance(each, torch.Tensor)}
    lazy = [name for name, each in tensors.items() if torch.nn.parameter.is_lazy(each)]
    if lazy:
        raise ConfigError(
            f"{named}: {lazy[0]!r} has no shape before the first input; call the module once "
            "where it is made"
        )
    return _tensors((name, tensor, id(tensor)) for name, tensor in tensors.items())


def _tensors(found: Iterator[tuple[str, torch.Tensor, object]]) -> Tensors:
    """The tensors; of those with one place that is not None, all but the first are the same."""
    first: dict[object, str] = {}
    tensors = {}
    for name, tensor, place in found:
        same = name if place is None else first.setdefault(place, name)
        dtype = str(tensor.dtype).removeprefix("torch.")
        tensors[name] = TargetTensor(tuple(tensor.shape), dtype, None if same == name else same)
    return tensors


def _line(error: BaseException) -> str:
    if isinstance(error, TFReaderError):
        return str(error)
    return f"{type(error).__name__}: {error}".partition("\n")[0][:300]
