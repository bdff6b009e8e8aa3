"""Files of `torch.save`: a pickle with tensors, loaded without running what it may hold.

Only torch's restricted unpickler reads it. Beyond torch's own list it meets numpy's names, in the
training state beside the weights; those get stand-ins, so that no code of numpy runs either.
"""

from __future__ import annotations

import errno
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from io import BytesIO
from itertools import takewhile
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from tfreader.checkpoint import Checkpoint, TensorInfo, VerifyReport
from tfreader.dtypes import DTYPES, Array
from tfreader.errors import (
    CheckpointNotFoundError,
    ChecksumError,
    CorruptCheckpointError,
    MissingExtraError,
    RemoteError,
    TFReaderError,
    UnsupportedError,
)
from tfreader.files import DAMAGED, LocalFile, but_it_is, sha256_of
from tfreader.paths import AnyPath
from tfreader.protocols import SourceFile
from tfreader.sniff import is_safetensors
from tfreader.system import TemporaryFile

if TYPE_CHECKING:
    import torch

SUFFIXES = (".pth", ".pt")
MAX_PICKLE_SIZE = 1 << 28  # the dictionary of 200,000 words takes some 10 MB
# Before torch 1.6: a magic number, a version, the system, the contents, the storages' keys.
LEGACY_PICKLES = 5
SAFE_SINCE = (2, 6)  # the restricted unpickler of older releases can be got round: CVE-2025-32434
_PICKLE = re.compile(rb"\x80[\x02-\x05]")  # how pickles of protocol 2 and later begin
_DTYPES = {str(dtype): dtype for dtype in DTYPES.values()}


class Inert:
    """What the pickle believes to build with numpy: takes any values, keeps none."""

    def __new__(cls, *_: Any) -> Inert:
        return super().__new__(cls)

    def __setstate__(self, _: Any) -> None:
        pass


# Arrays and scalars of numpy are pickled as calls of these, whose module numpy 2 has renamed.
# torch knows a class on its list by the module and the name that the class gives itself.
_STAND_INS = {
    f"{module} {name}": type(name, (Inert,), {"__module__": module})
    for module, name in (
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "scalar"),
    )
}
_LOADING = Lock()


class TorchFile:
    """A file of torch.save: here, as `local`, or in a temporary copy of what a URL names.

    The copy goes when the last reference does. Raises CheckpointNotFoundError, RemoteError.
    """

    def __init__(self, path: AnyPath) -> None:
        self._name = str(path)
        if isinstance(path, Path):
            self.local = path
            with closing(LocalFile(self._name)) as file:
                self.source = file.source
        else:
            self._copy = TemporaryFile(path.suffix)
            self.local = self._copy.path
            with self.local.open("wb") as copy:
                self.source = path.download(copy)

    def __str__(self) -> str:
        return self._name


def is_pth(path: AnyPath) -> bool:
    """Whether this is a file of torch.save, in a container of any age, or means to be one."""
    if not path.is_file():
        return False
    if path.suffix in SUFFIXES:
        return True
    try:
        with path.open("rb") as file:
            head = file.read(16)
            if not head.startswith(b"PK"):  # a safetensors file begins with a length, of any bytes
                return _PICKLE.match(head) is not None and not is_safetensors(head)
            with zipfile.ZipFile(file) as archive:
                return any(name.rpartition("/")[2] == "data.pkl" for name in archive.namelist())
    except RemoteError:
        raise
    except (OSError, zipfile.BadZipFile):
        return False  # not ours: who opens it next says what is wrong with it


def load(path: TorchFile) -> Any:
    """What the file holds.

    Raises UnsupportedError for a pickle that asks for more than tensors and plain data,
    CorruptCheckpointError, MissingExtraError without torch.
    """
    try:
        import torch
    except ImportError:
        raise MissingExtraError(f"reading {path}, a file of torch.save,", "torch") from None
    if tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < SAFE_SINCE:
        raise UnsupportedError(
            f"{path}: torch {torch.__version__} cannot load it safely (CVE-2025-32434); "
            "pip install 'torch>=2.6'"
        )
    names = _check_contents(path)
    stand_ins: list[Any] = [stand_in for name, stand_in in _STAND_INS.items() if name in names]
    # What torch allows, and which warnings are shown, holds for all threads.
    with _LOADING, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a refusal that is reported below
        try:
            with torch.serialization.safe_globals(stand_ins):
                return torch.load(path.local, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise _refusal(path, str(error)) from None
        except Exception as error:  # torch lets whatever a damaged pickle causes through
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise _damaged(path, reason[:200]) from None


def _check_contents(path: TorchFile) -> set[str]:
    """The names that its pickles ask for.

    Raises what `load` raises for those that would take much more time or memory than their size.
    """
    from .pickle_cost import TooCostlyError, names_in

    try:
        if zipfile.is_zipfile(path.local):
            with zipfile.ZipFile(path.local) as archive:
                return _names_in_archive(path, archive)
        with path.local.open("rb") as file:
            pickles = takewhile(lambda _: file.peek(1), range(LEGACY_PICKLES))
            return {name for _ in pickles for name in names_in(file)}
    except TooCostlyError as error:
        raise UnsupportedError(
            f"{path}: refused, and nothing of it was run: {error}, which no checkpoint's does"
        ) from None
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise CorruptCheckpointError(f"{path}: a damaged zip container ({error})") from None
    except pickle.UnpicklingError as error:
        raise _damaged(path, str(error)) from None
    except OSError as error:
        if error.errno == errno.EINVAL:  # zipfile's, of a place before the file's first byte
            raise _damaged(path, "its beginning is cut off") from None
        raise CheckpointNotFoundError(f"{path}: cannot be read ({error})") from None


def _damaged(path: TorchFile, reason: str) -> CorruptCheckpointError:
    """The error for what means to be a file of torch.save: what it is instead, if that is plain."""
    it_is = but_it_is(str(path.local), DAMAGED)
    if " is a Python pickle" in it_is or " is a PyTorch file" in it_is:  # so it begins, no more
        it_is = f"; {DAMAGED}"
    return CorruptCheckpointError(f"{path}: damaged, or no file of torch.save ({reason}){it_is}")


def _names_in_archive(path: TorchFile, archive: zipfile.ZipFile) -> set[str]:
    """The same of a zip container, which must not be compressed."""
    from .pickle_cost import names_in

    names: set[str] = set()
    for record in archive.infolist():
        if record.compress_type != zipfile.ZIP_STORED:
            raise UnsupportedError(
                f"{path}: its record {record.filename!r} is compressed, which torch.save never "
                "does; load it with torch where you trust it and save it again"
            )
        if not record.filename.endswith(".pkl"):
            continue
        if record.file_size > MAX_PICKLE_SIZE:
            raise UnsupportedError(
                f"{path}: a pickle of {record.file_size} bytes beside the tensors, at most "
                f"{MAX_PICKLE_SIZE} are read"
            )
        with archive.open(record) as file:
            names |= names_in(BytesIO(file.read()))
    return names


def refused(path: str, name: str) -> UnsupportedError:
    """The error of a pickle that asks for something else than tensors and plain data."""
    return UnsupportedError(
        f"{path}: refused, and nothing of it was run: its pickle asks for {name!r}, where "
        "a checkpoint has tensors, numbers, strings and their containers alone\n"
        "Do not load this file unless you know who made it. If it is your own, load it where "
        "you trust it and save it again without that object",
        code="unsafe-pickle",
    )


def _refusal(path: TorchFile, message: str) -> TFReaderError:
    """Why torch refused, without its advice to load the file unrestricted."""
    name = re.search(r"GLOBAL (\S+)", message)
    if name is not None:
        return refused(str(path), name[1])
    reason = message.partition("WeightsUnpickler error: ")[2] or message
    return CorruptCheckpointError(
        f"{path}: refused, and nothing of it was run: torch's restricted loader cannot read its "
        f"pickle ({reason.strip().partition(chr(10))[0][:200]})"
    )


class PthCheckpoint(Checkpoint):
    """Tensors of a file of torch.save, and as `contents` all else that it holds."""

    format = "pth"

    def __init__(
        self,
        file: TorchFile,
        tensors: Mapping[str, Any],
        contents: Mapping[str, Any],
        config: Mapping[str, Any] | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.path = str(file)
        self._local = file.local
        self._source = file.source
        self.contents = contents
        self.config = config
        self.notes = notes
        infos = {name: self._describe(name, tensors[name]) for name in sorted(tensors, key=str)}
        self._variables: Mapping[str, TensorInfo] = infos
        self._tensors: Mapping[str, torch.Tensor] = tensors
        self._file: TorchFile | None = file  # goes last: it may be mapped to memory

    def _describe(self, name: Any, tensor: Any) -> TensorInfo:
        import torch

        where = f"{self.path}: variable {name!r}"
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise UnsupportedError(f"{where} is a {type(tensor).__name__}, expected a tensor")
        if tensor.is_nested:
            raise UnsupportedError(f"{where} is a nested tensor, expected one with a shape")
        dtype = _DTYPES.get(str(tensor.dtype).removeprefix("torch."))
        if (
            dtype is None
            or tensor.is_quantized
            or tensor.layout != torch.strided
            or tensor.device.type != "cpu"
        ):
            kind = f"{tensor.layout} {tensor.dtype} on {tensor.device}"
            raise UnsupportedError(f"{where} is {kind}, expected a dense tensor with values")
        nbytes = tensor.numel() * tensor.element_size()
        stored = tensor.untyped_storage().nbytes()
        if nbytes > stored:
            # By strides of zero a few bytes can claim to be any number of values.
            raise CorruptCheckpointError(
                f"{where} has shape {list(tensor.shape)}, {nbytes} bytes, but {stored} are stored"
            )
        return TensorInfo(name, dtype, tuple(tensor.shape), nbytes)

    def info(self, name: str) -> TensorInfo:
        info: TensorInfo = self._variables[self._key(name)]
        return info

    def check_shards(self, names: Sequence[str]) -> None:
        self.verify()

    def verify(self) -> VerifyReport:
        """Check the checksums of a zip container; older ones have none."""
        if zipfile.is_zipfile(self._local):
            with zipfile.ZipFile(self._local) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise ChecksumError(
                    f"{self.path}: the checksum of {damaged!r} in it does not match: the file is "
                    "damaged; get it anew"
                )
        return VerifyReport(len(self), sum(info.nbytes or 0 for info in self.infos))

    def files(self) -> tuple[SourceFile, ...]:
        return (self._source,)

    def index_sha256(self) -> str:
        """Of the zip container's directory, which has each record's CRC-32; older ones: of all."""
        start = 0
        if zipfile.is_zipfile(self._local):
            with zipfile.ZipFile(self._local) as archive:
                start = archive.start_dir
        with closing(LocalFile(str(self._local))) as file:
            return sha256_of(file, start)

    def close(self) -> None:
        self._tensors = {}
        self.contents = {}
        self._file = None

    def _load(self, info: TensorInfo, rows: range | None) -> Array:
        assert info.dtype.numpy is not None
        shape = info.shape if rows is None else (len(rows), *info.shape[1:])
        return self._bytes(info, rows).copy().view(info.dtype.numpy).reshape(shape)

    def _bytes(self, info: TensorInfo, rows: range | None) -> Array:
        """The values as bytes; of a tensor that lies in one piece, where it lies."""
        import torch

        tensor = self._tensors[info.name].detach().resolve_neg().resolve_conj()
        part = tensor if rows is None else tensor[rows.start : rows.stop]
        if not part.numel():
            return np.empty(0, np.uint8)
        data: Array = part.contiguous().reshape(-1).view(torch.uint8).numpy()
        return data
