"""Whether the files of an output are those that a record tells of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

from tfreader.checksum import HASHES
from tfreader.dtypes import Array, bytes_of
from tfreader.errors import (
    RemoteError,
    TFReaderError,
)
from tfreader.files import checksum_of, open_file
from tfreader.paths import AnyPath

from ..execute import WORKERS
from ..places import OURS, is_torch_file
from ..sources.torch_weights import TorchWeights
from ..writers import safetensors
from .manifest import Manifest, checksum_kind

Described = dict[str, Any]
"""What is compared of a tensor: dtype, shape, one of HASHES and, if they are known, its origins."""


class Recorded:
    """The files of a record; `tensors` are its tensors by file and name.

    `digests` are the checksums of tensors that are known without reading them again.
    """

    def __init__(self, manifest: Manifest, digests: Mapping[str, str] | None = None) -> None:
        self._digests = digests or {}
        self._files: Mapping[str, Mapping[str, Any]] = manifest["files"]
        self._ties: Mapping[str, str] = manifest["ties"]
        self._kind = checksum_kind(manifest)
        self.tensors: dict[str, dict[str, Described]] = {}
        for tensor in manifest["tensors"]:
            known = {key: tensor[key] for key in ("dtype", "shape", self._kind)}
            self.tensors.setdefault(tensor["file"], {})[tensor["target"]] = known

    def problems(self, path: AnyPath) -> list[str]:
        """What is amiss with a file that the record names. Raises RemoteError.

        There is nothing amiss where all its bytes are as they were written.
        """
        if not path.is_file():
            return [f"{path}: missing"]
        return [*self._of_contents(path), *self._of_tensors(path)]

    def proves(self, path: AnyPath) -> bool:
        """Whether a file is one that a conversion wrote, by name, size and checksums."""
        recorded = self._files.get(path.name, {})
        has_checksum = "sha256" in recorded or (
            "header_sha256" in recorded and path.name in self.tensors
        )
        is_link = isinstance(path, Path) and path.is_symlink()
        is_named = OURS.fullmatch(path.name) is not None
        return is_named and has_checksum and not is_link and not self.problems(path)

    def _of_contents(self, path: AnyPath) -> Iterator[str]:
        recorded = self._files[path.name]
        with closing(open_file(str(path))) as file:
            if file.size != recorded["size"]:
                yield f"{path}: {file.size} bytes, {recorded['size']} were written"
            if "sha256" in recorded and checksum_of("sha256", file) != recorded["sha256"]:
                yield f"{path}: not as it was written: its sha256 differs"
            if "header_sha256" in recorded:
                header = checksum_of("sha256", file, 0, safetensors.header_size(file))
                if header != recorded["header_sha256"]:
                    yield f"{path}: its header is not as it was written (sha256)"

    def _of_tensors(self, path: AnyPath) -> list[str]:
        expected = self.tensors.get(path.name)
        if expected is None:
            return []
        problems = []
        try:
            found = _tensors_in(path, self._kind, self._digests)
        except RemoteError:
            raise
        except TFReaderError as error:
            return [str(error)]
        if is_torch_file(path.name):  # has tensors under all their names
            for alias, target in self._ties.items():
                if found.pop(alias, None) != found.get(target):
                    problems.append(f"{path}: tensor {alias!r} is not the same as {target!r}")
        return problems + differences(str(path), expected, found)


def differences(
    where: str, expected: Mapping[str, Described], found: Mapping[str, Described]
) -> list[str]:
    problems = [f"{where}: tensor {name!r} is missing" for name in expected.keys() - found.keys()]
    problems += [
        f"{where}: tensor {name!r} is not of this conversion"
        for name in found.keys() - expected.keys()
    ]
    for name in expected.keys() & found.keys():
        keys = expected[name].keys() | found[name].keys()
        wrong = [key for key in keys if expected[name].get(key) != found[name].get(key)]
        if wrong and wrong[0] in HASHES and len(wrong) == 1:
            problems.append(
                f"{where}: tensor {name!r}: other bytes than those written ({wrong[0]})"
            )
        elif wrong:
            key = min(wrong)
            problems.append(
                f"{where}: tensor {name!r}: {key} {found[name].get(key)}, recorded "
                f"{expected[name].get(key)}"
            )
    return sorted(problems)


def _tensors_in(path: AnyPath, kind: str, digests: Mapping[str, str]) -> dict[str, Described]:
    if path.suffix != ".safetensors":
        return _torch_tensors(path, kind, digests)
    with closing(open_file(str(path))) as file, ThreadPoolExecutor(WORKERS) as pool:
        header = safetensors.read_header(file)

        def digest(name: str) -> str:
            return digests.get(name) or checksum_of(kind, file, *header[name]["data_offsets"])

        return {
            name: {"dtype": header[name]["dtype"], "shape": header[name]["shape"], kind: found}
            for name, found in zip(header, pool.map(digest, header), strict=True)
        }


def _torch_tensors(path: AnyPath, kind: str, digests: Mapping[str, str]) -> dict[str, Described]:
    with TorchWeights(str(path)) as tensors:
        return {
            info.name: {
                "dtype": str(info.dtype),
                "shape": list(info.shape),
                kind: digests.get(info.name) or _digest(tensors[info.name], kind),
            }
            for info in tensors.infos
        }


def _digest(array: Array, kind: str) -> str:
    digest = HASHES[kind]()
    digest.update(bytes_of(array).data)
    return digest.hexdigest()
