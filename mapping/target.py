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
from tfreader.files import read_small
from tfreader.json_text import parse_json
from tfreader.paths import AnyPath, as_path, is_url
from tfreader.shapes import MAX_RANK
from tfreader.sharded import INDEX

from .sources.torch_weights import TorchWeights
from .sources.weights import open_weights

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
_KINDS = (
    "a .safetensors file, a file of torch.save, a JSON file of names and shapes, a folder that "
    "save_pretrained wrote, or module:callable that gives the torch.nn.Module"
)


def read_target(given: Target) -> Tensors:
    """The tensors that a PyTorch model has, by name.

    They come in the order of the model's state dict; by name where they are from safetensors or
    from shards, which do not keep it. Given is the module, its tensors, or where they are: a
    .safetensors file, a file of torch.save, a folder with weights, a JSON file with
    {name: {"shape": [...], "dtype": ...}} or {name: [...]}, or the module's name and that of what
    gives it, as in "models.resnet:build" (needs the extra `torch`).

    Raises ConfigError, MissingExtraError, and what `open_weights` raises.
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
    if path.suffix == ".json" and not path.name.endswith(INDEX):
        return _of_json(path)
    if not path.is_file() and not path.is_dir() and not is_url(str(path)):
        if ":" in path.name:
            raise ConfigError(
                f"target {path}: neither a file nor module:callable, which is written as it is "
                "imported from the current directory: models.resnet:build of models/resnet.py"
            )
        raise CheckpointNotFoundError(f"target {path}: not there; expected {_KINDS}")
    with open_weights(path) as weights:
        same = weights.same if isinstance(weights, TorchWeights) else {}
        return {
            info.name: TargetTensor(info.shape, str(info.dtype), same.get(info.name))
            for info in weights.infos
        }


def _of_json(path: AnyPath) -> Tensors:
    try:
        listed = parse_json(read_small(path).decode("utf-8-sig"))
    except RemoteError:
        raise
    except OSError as error:
        raise ConfigError(f"target {path}: cannot be read ({error.strerror})") from None
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
