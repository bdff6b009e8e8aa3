"""Check what was converted: the output against its record, the record against the checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from os import PathLike
from typing import Any

import numpy as np

from tfreader.checkpoint import VerifyReport
from tfreader.dtypes import Array
from tfreader.errors import (
    CheckpointNotFoundError,
    ChecksumError,
    CorruptCheckpointError,
    TFReaderError,
)
from tfreader.files import open_file, sha256_of
from tfreader.paths import AnyPath, size_of

from .execute import WORKERS, stream
from .family import open_source
from .manifest import Hashed, Manifest, load, wrong_sizes
from .output import RECORD, WEIGHTS, find_record, is_torch_file
from .planner import PlanOptions, make_plan
from .rule_file import parse_rules
from .writers import safetensors

Described = dict[str, Any]
"""What is compared of a tensor: dtype, shape, sha256 and, where they are known, its origins."""


def verify_output(output: str | PathLike[str]) -> VerifyReport:
    """Check the files of a conversion against its record.

    Raises ChecksumError, whose `problems` lists every file and tensor that is not as recorded,
    CheckpointNotFoundError without a record, MissingExtraError for a torch file without torch.
    """
    record, manifest = _record(output)
    problems = [*wrong_sizes(record, manifest), *_wrong_files(record, manifest)]
    nbytes = 0
    for name, recorded in _tensors_by_file(manifest).items():
        path = record.parent / name
        if not path.is_file():
            continue  # missing, as the sizes say
        try:
            found = _tensors_in(path)
        except TFReaderError as error:
            problems.append(str(error))
            continue
        if is_torch_file(name):  # has tensors under all their names
            for alias, target in manifest["ties"].items():
                if found.pop(alias, None) != found.get(target):
                    problems.append(f"{path}: tensor {alias!r} is not the same as {target!r}")
        expected = {
            name: {key: tensor[key] for key in ("dtype", "shape", "sha256")}
            for name, tensor in recorded.items()
        }
        problems += _differences(str(path), expected, found)
        nbytes += size_of(path)
    if problems:
        raise ChecksumError.of(str(output), problems)
    return VerifyReport(len(manifest["tensors"]), nbytes)


def verify_against(output: str | PathLike[str], checkpoint: str | PathLike[str]) -> VerifyReport:
    """Make the tensors of a conversion again from its checkpoint, and compare them to its record.

    Raises ChecksumError, whose `problems` lists every tensor that comes out otherwise, and what
    `make_plan` and reading the checkpoint raise.
    """
    _, manifest = _record(output)
    recorded = manifest["options"]
    model_type = recorded["model_type"]
    options: Any = {key: recorded[key] for key in PlanOptions.__annotations__ if key in recorded}
    rules = manifest["rules"]
    with open_source(checkpoint, model_type) as source:
        plan = make_plan(
            source,
            model_type,
            config=manifest["config"]["original"],
            rules=parse_rules(rules["text"], rules["name"]) if "text" in rules else None,
            **options,
        )
        made = Hashed(plan.entries, lambda *_: None)
        stream(plan, source, made)
        digests = made.digests()
        planned = plan.to_data()
        found = {
            tensor["target"]: {**tensor, "sha256": digests[tensor["target"]]}
            for tensor in planned["tensors"]
        }
        expected = {
            tensor["target"]: {key: value for key, value in tensor.items() if key != "file"}
            for tensor in manifest["tensors"]
        }
        problems = _differences(str(checkpoint), expected, found)
        if problems and source.index_sha256() != manifest["source"]["index_sha256"]:
            problems.insert(
                0, f"{checkpoint}: not the checkpoint that was converted: another index"
            )
    if problems:
        raise ChecksumError.of(str(output), problems)
    return VerifyReport(len(found), plan.nbytes)


def _record(output: str | PathLike[str]) -> tuple[AnyPath, Manifest]:
    record = find_record(output)
    if record is None:
        raise CheckpointNotFoundError(
            f"{output}: no record of a conversion there ({RECORD}), so nothing to check it against"
        )
    return record, load(record)


def _wrong_files(record: AnyPath, manifest: Manifest) -> list[str]:
    """What is amiss with the files that hold no tensors, and which files should not be there."""
    folder = record.parent
    problems = []
    for name, file in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            continue  # missing, as the sizes say
        with closing(open_file(str(path))) as opened:
            if "sha256" in file and sha256_of(opened) != file["sha256"]:
                problems.append(f"{path}: not as it was written: its sha256 differs")
            if "header_sha256" in file:
                header = sha256_of(opened, 0, safetensors.header_size(opened))
                if header != file["header_sha256"]:
                    problems.append(f"{path}: its header is not as it was written (sha256)")
    if record.name == RECORD:
        weights = {path.name for path in folder.iterdir() if WEIGHTS.fullmatch(path.name)}
        problems += [
            f"{folder / name}: not of this conversion, and could be loaded in place of its weights"
            for name in sorted(weights - manifest["files"].keys())
        ]
    return problems


def _tensors_by_file(manifest: Manifest) -> dict[str, dict[str, Described]]:
    found: dict[str, dict[str, Described]] = {}
    for tensor in manifest["tensors"]:
        found.setdefault(tensor["file"], {})[tensor["target"]] = tensor
    return found


def _differences(
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
        if wrong == ["sha256"]:
            problems.append(f"{where}: tensor {name!r}: other bytes than those written (sha256)")
        elif wrong:
            key = min(wrong)
            problems.append(
                f"{where}: tensor {name!r}: {key} {found[name].get(key)}, recorded "
                f"{expected[name].get(key)}"
            )
    return sorted(problems)


def _tensors_in(path: AnyPath) -> dict[str, Described]:
    if path.suffix != ".safetensors":
        return _torch_tensors(path)
    with closing(open_file(str(path))) as file, ThreadPoolExecutor(WORKERS) as pool:
        header = safetensors.read_header(file)
        spans = [tensor["data_offsets"] for tensor in header.values()]
        digests = pool.map(lambda span: sha256_of(file, *span), spans)
        return {
            name: {"dtype": t["dtype"], "shape": t["shape"], "sha256": digest}
            for (name, t), digest in zip(header.items(), digests, strict=True)
        }


def _torch_tensors(path: AnyPath) -> dict[str, Described]:
    from .sources import pth

    file = pth.TorchFile(path)
    contents = pth.load(file)
    if not isinstance(contents, dict):
        raise CorruptCheckpointError(f"{path}: damaged: no state dict; convert again")
    with pth.PthCheckpoint(file, contents, {}) as tensors:
        return {name: _described(tensors[name]) for name in tensors}


def _described(array: Array) -> Described:
    data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return {
        "dtype": str(array.dtype),
        "shape": list(array.shape),
        "sha256": hashlib.sha256(data.data).hexdigest(),
    }
